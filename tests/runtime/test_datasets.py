"""Datasets of RGB-D images: 12Scenes, 7-Scenes, ScanNet, TUM RGB-D in their own layouts."""

import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from make_datasets import write_seven_scenes, write_twelve_scenes
from make_room_views import (
    CAMERA,
    camera_poses,
    median_errors_m,
    room_view,
    write_depth,
    write_image,
    write_pose,
)
from make_scene import View

from mote_localization.camera import Camera
from mote_localization.errors import SceneError
from mote_localization.geometry import exp_rotation, quaternion_xyzw, rigid
from mote_localization.scenes import open_scene
from mote_localization.scenes.datasets.seven_scenes import (
    COLOUR_CAMERA,
    DEPTH_CAMERA,
    T_COLOUR_DEPTH,
)

POSES = camera_poses(3)
LOST = np.full((4, 4), -np.inf)


def names(scene, split="all"):
    return [frame.name for frame in scene.frames(split)]


@pytest.fixture
def twelve(tmp_path):
    """A scene of 12Scenes: frame 0 is the test sequence, depth has half the size of colour."""
    half = CAMERA.resized(128, 96)
    test, *train = (View(room_view(T).image_hw3, T, room_view(T, half).depth_hw) for T in POSES)
    return write_twelve_scenes(tmp_path / "apt1", CAMERA, train, [test])


@pytest.fixture(scope="module")
def written_seven(tmp_path_factory):
    """A scene of 7-Scenes: sequence 2 is for tests; poses and depths are the depth camera's."""
    views = []
    for T_map_colour in POSES:
        T_map_depth = T_map_colour @ T_COLOUR_DEPTH
        depth_hw = room_view(T_map_depth, DEPTH_CAMERA).depth_hw
        depth_hw[:40, :40] = 0
        image_hw3 = room_view(T_map_colour, COLOUR_CAMERA).image_hw3
        views.append(View(image_hw3, T_map_depth, depth_hw))
    return write_seven_scenes(tmp_path_factory.mktemp("seven") / "chess", views[:2], views[2:])


@pytest.fixture
def seven(written_seven, tmp_path):
    return Path(shutil.copytree(written_seven, tmp_path / "chess"))


@pytest.fixture
def scannet(tmp_path):
    """A scan with frames 0, 12 and 108; the depth camera has another focal length."""
    folder = tmp_path / "scene0000_00"
    depth_camera = Camera(128, 96, 96.0, 97.0, 60.0, 50.5)
    for name, T_map_cam in zip(("108", "0", "12"), [POSES[2], *POSES[:2]], strict=True):
        write_image(folder / f"color/{name}.jpg", room_view(T_map_cam).image_hw3)
        write_depth(folder / f"depth/{name}.png", room_view(T_map_cam, depth_camera).depth_hw)
        write_pose(folder / f"pose/{name}.txt", T_map_cam)
    for name, camera in (("color", CAMERA), ("depth", depth_camera)):
        K_44 = np.eye(4)
        K_44[:3, :3] = camera.K_33
        write_pose(folder / f"intrinsic/intrinsic_{name}.txt", K_44)
    return folder


def tum_line(stamp_s, T_44):
    return " ".join(f"{v:.9f}" for v in (stamp_s, *T_44[:3, 3], *quaternion_xyzw(T_44[:3, :3])))


@pytest.fixture
def tum(tmp_path):
    """A recording: image 1 lies between two true poses, the depth of image 2 is 50 ms late."""
    folder = tmp_path / "rgbd_dataset"
    stamps = (1305031102.175304, 1305031102.211214, 1305031102.243211)
    rgb, depth, truth = ["# timestamp filename"], ["# depth maps"], ["# ground truth trajectory"]
    for i, (stamp_s, T_map_cam) in enumerate(zip(stamps, POSES, strict=True)):
        depth_s = stamp_s + (0.05 if i == 2 else 0.008)
        view = room_view(T_map_cam)
        write_image(folder / f"rgb/{stamp_s:.6f}.png", view.image_hw3)
        write_depth(folder / f"depth/{depth_s:.6f}.png", view.depth_hw, 5000)
        rgb.append(f"{stamp_s:.6f} rgb/{stamp_s:.6f}.png")
        depth.append(f"{depth_s:.6f} depth/{depth_s:.6f}.png")
    for side in (-1, 1):  # image 1 is half-way in time, in angle and in distance
        motion = rigid(exp_rotation(side * np.array([0.1, 0.2, 0.1])), side * np.array([0.3, 0, 0]))
        truth.append(tum_line(stamps[1] + side * 0.02, POSES[1] @ motion))
    for name, lines in (("rgb", rgb), ("depth", depth), ("groundtruth", truth)):
        (folder / f"{name}.txt").write_text("\n".join(lines) + "\n")
    np.savetxt(folder / "camera-intrinsics.txt", CAMERA.K_33)
    return folder


def test_12scenes_gives_the_points_intrinsics_and_sequences(twelve):
    scene = open_scene(twelve)
    assert names(scene, "test") == ["frame-000000"]
    assert names(scene, "train") == ["frame-000001", "frame-000002"]
    assert next(scene.frames("all")).camera == CAMERA
    assert max(median_errors_m(scene.frames("all"), POSES)) < 0.02


def test_12scenes_without_split_has_training_frames_only(twelve):
    (twelve / "split.txt").unlink()
    assert len(names(open_scene(twelve), "train")) == 3


def test_lost_poses_are_missing_ones_in_the_words_of_two_compilers(twelve):
    write_pose(twelve / "data/frame-000001.pose.txt", LOST)
    (twelve / "data/frame-000002.pose.txt").write_text("-1.#INF -1.#INF00 -1.#INF -1.#INF\n" * 4)
    known = [frame.T_map_cam is not None for frame in open_scene(twelve).frames("all")]
    assert known == [True, False, False]


def test_7scenes_gives_the_points_of_the_colour_camera(seven):
    scene = open_scene(seven)
    assert names(scene, "train") == ["seq-01_frame-000000", "seq-01_frame-000001"]
    assert names(scene, "test") == ["seq-02_frame-000000"]
    frames = list(scene.frames("all"))
    assert frames[0].camera == Camera(640, 480, 525.0, 525.0, 320.0, 240.0)
    assert np.allclose([f.T_map_cam for f in frames], POSES, atol=1e-9)
    assert max(median_errors_m(frames, POSES)) < 0.02
    assert frames[0].depth().max() < 8  # 65535 is no depth


def test_7scenes_depth_of_the_nearest_surface_hides_others(seven):
    path = seven / "seq-01/frame-000000.depth.png"
    millimetres = np.full((480, 640), 4000, np.uint16)
    millimetres[200:280, 300:340] = 1000
    cv2.imwrite(str(path), millimetres)
    depth_hw = next(open_scene(seven).frames("all")).depth()
    near_hw = depth_hw < 2
    # 25.6 mm in front of a surface at 1 m is 13 px to the left
    columns = np.nonzero((near_hw & (depth_hw > 0)).any(axis=0))[0]
    expected = 320 + 525 * ((np.array([300, 339]) - 320) / 585 - 0.0256 - 0.0079)
    assert np.abs(columns[[0, -1]] - expected).max() < 2
    rows, inner = slice(190, 260), slice(columns[0] + 1, columns[-1])
    assert (depth_hw[rows, inner] < 2).sum() > 0.7 * depth_hw[rows, inner].size


def test_scannet_gives_the_points_in_the_order_of_numbers(scannet):
    scene = open_scene(scannet)
    assert names(scene, "train") == ["0", "12", "108"]
    assert next(scene.frames("all")).camera == CAMERA
    assert max(median_errors_m(scene.frames("all"), POSES)) < 0.02


def test_tum_gives_points_stamps_and_interpolated_poses(tum):
    frames = list(open_scene(tum).frames("train"))
    assert [f.stamp_s for f in frames] == [1305031102.175304, 1305031102.211214, 1305031102.243211]
    assert [f.name for f in frames] == [f"{f.stamp_s:.6f}" for f in frames]
    assert frames[0].camera == CAMERA
    assert [f.T_map_cam is not None for f in frames] == [False, True, False]
    assert [f.depth() is not None for f in frames] == [True, True, False]
    assert np.allclose(frames[1].T_map_cam[:3, :3], POSES[1][:3, :3], atol=1e-6)
    assert median_errors_m(frames[1:2], POSES[1:2])[0] < 0.02


def test_tum_poses_are_not_interpolated_over_gaps(tum):
    lines = (tum / "groundtruth.txt").read_text().splitlines()
    late = re.sub(r"^\S+", "1305031102.320000", lines[-1])
    (tum / "groundtruth.txt").write_text("\n".join([*lines[:-1], late]))
    assert all(f.T_map_cam is None for f in open_scene(tum).frames("all"))


@pytest.mark.parametrize(
    ("name", "fx", "distorted"),
    [("freiburg1_desk", 517.3, 5), ("Freiburg3_office", 535.4, 0)],
)
def test_tum_without_calibration_has_the_published_one(tum, name, fx, distorted):
    (tum / "camera-intrinsics.txt").unlink()
    camera = next(open_scene(tum.rename(tum.with_name(name))).frames("all")).camera
    assert (camera.fx, len(camera.distortion)) == (fx, distorted)


def test_tum_without_calibration_of_another_camera_is_not_calibrated(tum):
    (tum / "camera-intrinsics.txt").unlink()
    (one, *_) = open_scene(tum.rename(tum.with_name("rgbd_bonn_balloon"))).frames("all")
    assert one.camera is None and one.size() == (CAMERA.width, CAMERA.height)


def test_tum_intrinsics_are_read_before_other_calibrations(tum):
    (tum / "calibration.txt").write_text("1 2")
    assert next(open_scene(tum).frames("all")).camera == CAMERA


def test_tum_calibration_of_four_numbers(tum):
    (tum / "camera-intrinsics.txt").unlink()
    (tum / "calibration.txt").write_text("200 208 125.25 98.5\n")
    assert next(open_scene(tum).frames("all")).camera == CAMERA


def damage(path, text):
    return lambda folder: (folder / path).write_text(text)


def remove(path):
    return lambda folder: (folder / path).unlink()


def with_depth_of_another_size(folder):
    write_depth(folder / "seq-01/frame-000000.depth.png", np.ones((24, 32)))


FAULTS = [
    ("twelve", damage("info.txt", "m_colorWidth = 64"), "m_calibrationColorIntrinsic"),
    ("twelve", damage("split.txt", "sequence0: 0 to 5"), "split.txt, line 1: found 'sequence0"),
    (
        "twelve",
        damage("split.txt", "sequence0 [frames=9] [start=9 ; end=0]"),
        "split.txt, line 1: found",
    ),
    (
        "twelve",
        damage(
            "split.txt",
            "sequence0 [frames=1] [start=0 ; end=0]\nsequence1 [frames=1] [start=0 ; end=0]",
        ),
        "line 2: frame frame-000000 is in another",
    ),
    (
        "twelve",
        damage("split.txt", "sequence1 [frames=2] [start=1 ; end=2]\n" * 2),
        "line 2: frame frame-000001 is in another",
    ),
    (
        "twelve",
        damage("split.txt", "sequence1 [frames=9] [start=0 ; end=8]"),
        r"6 of 9 frames cannot be used \(frame-000003, .*\.\.\.\); the first: .*is missing",
    ),
    ("seven", damage("TestSplit.txt", "part1"), "'part1', expected lines as 'sequence1'"),
    ("seven", damage("TestSplit.txt", "sequence1"), "sequence 1 is in TrainSplit.txt and in"),
    ("seven", damage("TestSplit.txt", "sequence7"), "seq-07: cannot be read"),
    ("seven", damage("seq-01/frame-000000.pose.txt", "nan " * 16), "found a matrix of shape"),
    ("seven", with_depth_of_another_size, "32x24 px, expected 640x480 px as its depth camera"),
    ("scannet", damage("intrinsic/intrinsic_color.txt", "1 0 0\n"), r"expected \(3, 3\) or \(4"),
    (
        "scannet",
        damage("intrinsic/intrinsic_color.txt", "1170 0 647\n0 1170 483\n0 0 1"),
        "principal point of 647, 483 px for images of 256x192 px",
    ),
    ("tum", damage("rgb.txt", "# none\n"), "names no image"),
    ("tum", damage("rgb.txt", "1.0\n"), "rgb.txt, line 1: found '1.0', expected 'stamp path'"),
    ("tum", damage("rgb.txt", "nan rgb/a.png\n"), "expected 'stamp path'"),
    ("tum", damage("rgb.txt", "1e300 rgb/a.png\n"), "expected 'stamp path'"),
    ("tum", damage("rgb.txt", "1.0 ../a.png\n"), r"found the path '\.\./a.png', expected one insi"),
    ("tum", damage("rgb.txt", "1.0 /etc/a.png\n"), "found the path '/etc/a.png'"),
    ("tum", damage("depth.txt", "1305031102.17 ../a.png\n"), r"found the path '\.\./a.png'"),
    ("tum", damage("groundtruth.txt", "1 2 3\n"), "expected 'stamp tx ty tz qx qy qz qw'"),
    ("tum", damage("groundtruth.txt", "1 0 0 0 0 0 0 0"), "line 1: .*a quaternion of length 1"),
    ("tum", damage("groundtruth.txt", "timestamp\n1 0 0 nan 0 0 0 1"), "line 2: .*finite numbers"),
    ("tum", damage("camera.yaml", "fx: 1"), "camera.yaml: holds no camera matrix"),
]


@pytest.mark.parametrize(("layout", "change", "message"), FAULTS)
def test_a_damaged_dataset_is_one_error(layout, change, message, request):
    folder = request.getfixturevalue(layout)
    change(folder)
    with pytest.raises(SceneError, match=message) as caught:
        for frame in open_scene(folder).frames("all"):
            frame.depth()
    text = str(caught.value)
    assert str(folder) in text and "\n" not in text
    assert len(text.replace(str(folder), "")) < 300


def test_all_frames_that_cannot_be_used_are_one_error(seven):
    for i in range(2):
        (seven / f"seq-01/frame-{i:06d}.pose.txt").write_text("lost")
    with pytest.raises(
        SceneError, match="2 of 3 frames cannot be used.*first: seq-01/frame-000000"
    ):
        open_scene(seven)


@pytest.mark.parametrize(
    ("layout", "names"),
    [
        ("twelve", ["info.txt", "data"]),
        ("seven", ["TrainSplit.txt"]),
        ("scannet", ["color", "pose"]),
        ("tum", ["rgb.txt"]),
    ],
)
def test_a_layout_that_is_marked_but_empty_is_one_error(layout, names, tmp_path):
    for name in names:
        path = tmp_path / name
        path.write_text("") if path.suffix else path.mkdir()
    with pytest.raises(SceneError, match=str(tmp_path)):
        open_scene(tmp_path)
