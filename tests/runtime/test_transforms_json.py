"""transforms.json of nerfstudio, instant-ngp, Polycam and of the NeRF synthetic scenes."""

import json

import numpy as np
import pytest
from make_map import T_MAP_CAM, write_constant_map
from make_room_views import (
    CAMERA,
    camera_poses,
    median_errors_m,
    room_view,
    write_depth,
    write_image,
)

import mote_localization.cli
from mote_localization.camera import Camera
from mote_localization.errors import SceneError
from mote_localization.scenes import RecordingOptions, open_scene

POSES = camera_poses(3)
INTRINSICS = {"w": 256, "h": 192.0, "fl_x": 200, "fl_y": 208, "cx": 125.75, "cy": 99}
OPENGL = np.diag([1.0, -1, -1, 1])


def frame(path, i, **more):
    """Write the image and depth of a pose; return the frame's entry."""
    return {"file_path": path, "transform_matrix": (POSES[i] @ OPENGL).tolist(), **more}


@pytest.fixture
def folder(tmp_path):
    """A folder with three images, and depths of half their size in units of 0.1 mm."""
    for i, T_map_cam in enumerate(POSES):
        write_image(tmp_path / f"images/{i + 9}.png", room_view(T_map_cam).image_hw3)
        half = room_view(T_map_cam, CAMERA.resized(128, 96)).depth_hw
        write_depth(tmp_path / f"depth/{i + 9}.png", half, 10_000)
    return tmp_path


def write(folder, content, name="transforms.json"):
    (folder / name).write_text(json.dumps(content))


def content(**more):
    frames = [
        frame(f"./images/{i + 9}.png", i, depth_file_path=f"depth/{i + 9}.png") for i in range(3)
    ]
    return {**INTRINSICS, "depth_unit_scale_factor": 1e-4, "frames": frames[::-1], **more}


def test_the_file_gives_the_points_in_natural_order(folder):
    write(folder, content(applied_transform=[[1, 0, 0, 0]], aabb_scale=16))
    scene = open_scene(folder)
    frames = list(scene.frames("train"))
    assert [f.name for f in frames] == ["images_9", "images_10", "images_11"]
    assert scene.count("test") == 0 and not scene.sequential
    assert frames[0].camera == CAMERA
    assert np.array_equal(frames[0].T_map_cam, POSES[0])
    assert max(median_errors_m(frames, POSES)) < 0.02


def test_only_poses_with_measured_depth_are_in_metres(folder):
    write(folder, content())
    assert open_scene(folder).metric
    write(folder, content(frames=[frame("images/9.png", 0)]))
    assert not open_scene(folder).metric


def test_a_known_unit_gives_positions_in_metres(folder):
    frames = [frame(f"images/{i + 9}.png", i) for i in range(3)]
    write(folder, content(frames=frames, test_filenames=["images/9.png"]))
    scene = open_scene(folder, RecordingOptions(unit_m=1.0))
    assert scene.metric and (scene.count("train"), scene.count("test")) == (2, 1)
    assert np.array_equal([f.T_map_cam for f in scene.frames("all")], POSES)
    (test,) = open_scene(folder, RecordingOptions(unit_m=4.0)).frames("test")
    assert np.array_equal(test.T_map_cam[:3, 3], 4 * POSES[0][:3, 3])
    assert np.array_equal(test.T_map_cam[:3, :3], POSES[0][:3, :3])


def test_depth_is_in_metres_whatever_the_unit_of_the_poses(folder):
    frames = content()["frames"]
    for one in frames:
        one["transform_matrix"] = np.array(one["transform_matrix"])
        one["transform_matrix"][:3, 3] *= 128
        one["transform_matrix"] = one["transform_matrix"].tolist()
    write(folder, content(frames=frames))
    scene = open_scene(folder, RecordingOptions(unit_m=1 / 128))
    assert max(median_errors_m(scene.frames("all"), POSES)) < 0.02


@pytest.fixture
def in_centimetres(folder):
    """A scene of one image, which the constant map localizes; its pose is in centimetres."""
    T_map_cam = T_MAP_CAM.copy()
    T_map_cam[:3, 3] *= 100
    one = {"file_path": "images/9.png", "transform_matrix": (T_map_cam @ OPENGL).tolist()}
    write(folder, {**INTRINSICS, "frames": [one]})
    return folder


def test_inspect_prints_that_poses_of_a_known_unit_are_in_metres(in_centimetres, run_command):
    for option, unknown in (("", True), ("--unit-m 0.01", False)):
        command = f"inspect {in_centimetres} {option}"
        status, printed, _ = run_command("mote", mote_localization.cli.main, command)
        assert status == 0 and ("not in metres" in printed) == unknown


def test_evaluate_compares_with_poses_in_metres(in_centimetres, run_command, tmp_path):
    box, figures = write_constant_map(tmp_path / "box.onnx"), tmp_path / "figures.json"
    command = f"evaluate {in_centimetres} --map {box} --split train --json {figures}"
    for option, within in (("", False), ("--unit-m 0.01", True)):
        run_command("mote", mote_localization.cli.main, f"{command} {option}")
        (one,) = json.loads(figures.read_text())["frames"]
        assert (one["error_cm"] < 1) == within


def test_lists_of_files_divide_the_frames(folder):
    splits = {
        "train_filenames": ["images/11.png"],
        "val_filenames": [],
        "test_filenames": ["./images/9.png"],
    }
    write(folder, content(**splits))
    scene = open_scene(folder)
    assert [f.name for f in scene.frames("train")] == ["images_11"]
    assert [f.name for f in scene.frames("test")] == ["images_9"]
    assert scene.metric  # with depth


def test_two_files_with_a_field_of_view_divide_the_frames(folder):
    angle = 2 * np.arctan(128 / 200)
    for split, i in (("train", 0), ("test", 2)):
        one = frame(f"./images/{i + 9}", i, rotation=0.01)  # without suffix
        write(folder, {"camera_angle_x": angle, "frames": [one]}, f"transforms_{split}.json")
    scene = open_scene(folder)
    (train,), (test,) = (scene.frames(split) for split in ("train", "test"))
    assert (train.name, test.name) == ("images_9", "images_11") and not scene.metric
    assert np.allclose(train.camera.K_33, Camera(256, 192, 200, 200, 127.5, 95.5).K_33)
    assert np.array_equal(test.T_map_cam, POSES[2])
    assert train.image().shape == (192, 256, 3)


def test_a_frame_overrides_the_intrinsics_of_all(folder):
    frames = [frame(f"images/{i + 9}.png", i) for i in range(2)]
    frames[1] |= {"fl_x": 300.0, "k1": 0.1}
    write(folder, {**INTRINSICS, "frames": frames})
    first, second = (f.camera for f in open_scene(folder).frames("all"))
    assert first == CAMERA
    assert (second.fx, second.fy, second.distortion) == (300, 208, (0.1, 0, 0, 0, 0))


@pytest.mark.parametrize(
    ("keys", "model", "distortion"),
    [
        ({"camera_model": "PINHOLE"}, "plumb_bob", ()),
        (
            {
                "camera_model": "OPENCV",
                "k1": 0.1,
                "k2": 0.2,
                "p1": 0.3,
                "p2": 0.4,
                "k3": 0.5,
                "k4": 0,
            },
            "plumb_bob",
            (0.1, 0.2, 0.3, 0.4, 0.5),
        ),
        (
            {"camera_model": "OPENCV_FISHEYE", "k1": 0.1, "k2": 0.2, "k3": 0.3, "k4": 0.4},
            "equidistant",
            (0.1, 0.2, 0.3, 0.4),
        ),
        ({"is_fisheye": True}, "equidistant", (0, 0, 0, 0)),
    ],
)
def test_distortion_has_the_order_of_ros(folder, keys, model, distortion):
    write(folder, content(**keys))
    camera = next(open_scene(folder).frames("all")).camera
    assert (camera.distortion_model, camera.distortion) == (model, distortion)


def test_frames_whose_image_does_not_exist_are_left_out_with_a_warning(folder, caplog):
    write(folder, content())
    (folder / "images/10.png").unlink()
    assert [f.name for f in open_scene(folder).frames("all")] == ["images_9", "images_11"]
    assert "1 of 3 images do not exist, as images/10.png" in caplog.text


@pytest.mark.parametrize("keys", [{}, {"camera_angle_x": 0}, {"fl_x": 0, "camera_angle_x": 3.2}])
def test_without_focal_length_the_camera_is_not_known(folder, keys):
    write(folder, {"frames": [frame("images/9.png", 0)], **keys})
    (one,) = open_scene(folder).frames("all")
    assert one.camera is None and one.size() == (256, 192)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"frames": []}, "holds no frame"),
        ({"frames": "none"}, r"Expected `array`.*frames"),
        ({"frames": [{"file_path": "images/9.png"}]}, "transform_matrix"),
        ({"frames": [frame("../9.png", 0)]}, r"found the path '\.\./9.png', expected one inside"),
        ({"frames": [frame("/etc/9.png", 0)]}, "found the path '/etc/9.png'"),
        ({"frames": [frame("images/\0.png", 0)]}, "found the path"),
        ({"frames": [frame("images/9.png", 0, depth_file_path="../d.png")]}, r"'\.\./d.png'"),
        ({"frames": [frame("images/9.png", 0)] * 2}, "describes an image twice"),
        ({"frames": [frame(f"images/{i}.png", 0) for i in (1, 2, 3)]}, "3 of 3 frames cannot be"),
        (
            {
                "frames": [
                    {"file_path": "images/9.png", "transform_matrix": np.eye(4)[:, :3].tolist()}
                ]
            },
            "length >= 4 - at .*transform_matrix",
        ),
        (
            {
                "frames": [
                    {"file_path": "images/9.png", "transform_matrix": (2 * np.eye(4)).tolist()}
                ]
            },
            "images/9.png: the pose's 3x3 part is not a rotation",
        ),
        ({"camera_model": "EQUIRECTANGULAR"}, "found camera model EQUIRECTANGULAR"),
        ({"k4": 0.1}, "with k4 0.1"),
        ({"camera_model": "OPENCV_FISHEYE", "p1": 0.1}, "OPENCV_FISHEYE with k4 0, p1 0.1"),
        ({"fl_x": -5.0}, "focal lengths -5"),
        ({"w": 1e300}, "expected 1 to"),
        ({"depth_unit_scale_factor": 0}, "depth_unit_scale_factor"),
    ],
)
def test_a_bad_file_is_one_error(folder, keys, message):
    write(folder, content(**keys))
    with pytest.raises(SceneError, match=message) as caught:
        open_scene(folder)
    text = str(caught.value)
    assert str(folder) in text and "\n" not in text
    assert len(text.replace(str(folder), "")) < 300


def test_a_file_that_is_no_json_is_one_error(folder):
    (folder / "transforms.json").write_text("{" * 100_000)
    with pytest.raises(SceneError, match="transforms.json: .*expected the format of nerfstudio"):
        open_scene(folder)
