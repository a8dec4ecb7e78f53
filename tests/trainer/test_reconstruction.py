"""Reconstruction folders and the RGB-D teacher."""

import json
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import pytest
from make_scene import PLANE_CAMERA, write_plane_scene

from distill_training.poses import refinement
from distill_training.poses.poses_config import PosesConfig, SfmConfig
from distill_training.poses.scene_poses import find_poses
from distill_training.reconstruction import (
    ReconstructedFrame,
    Reconstruction,
    open_reconstruction,
)
from distill_training.teachers import rgbd, teacher_options
from distill_training.teachers.teacher_config import USUAL_CELLS, CellsConfig, RgbdConfig
from distill_training.teachers.teacher_options import Teacher
from mote_localization.camera import Camera, cell_pixels
from mote_localization.errors import ReconstructionError, SceneError
from mote_localization.geometry import invert, local_coordinates, retract, transform
from mote_localization.scenes import Frame, Scene, Split
from mote_localization.scenes.folder import FolderScene

CONFIG, CELLS = RgbdConfig(), CellsConfig(width=64)


def reconstruct(
    scene: Scene, folder: Path, config: RgbdConfig, cells: CellsConfig = USUAL_CELLS
) -> Reconstruction:
    return rgbd.reconstruct(scene, find_poses(scene), folder, config, cells)


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    write_plane_scene(tmp_path / "scene")
    return tmp_path / "scene"


def test_rgbd_points_are_on_the_plane_and_on_the_rays_of_their_cells(scene: Path, tmp_path: Path):
    reconstruction = reconstruct(FolderScene(scene), tmp_path / "r", CONFIG, CELLS)
    camera = reconstruction.camera
    assert (camera.width, camera.height) == (64, 48)
    for name, T_map_cam in reconstruction.poses.items():
        points = transform(invert(T_map_cam), reconstruction.read_frame(name).points_hw3)
        x, _, z = np.moveaxis(points, -1, 0)
        np.testing.assert_allclose(z, 2 + 0.2 * x, atol=0.002)
        np.testing.assert_allclose(camera.project(points), cell_pixels(64, 48, 8), atol=1e-3)


class Few(Scene):
    """The first frames of a scene, every `step`-th of them."""

    def __init__(self, scene: Scene, count: int, step: int = 1) -> None:
        self.name, self._frames = scene.name, list(islice(scene.frames("train"), 0, count, step))

    def frames(self, split: Split) -> Iterator[Frame]:
        return iter(self._frames)

    def count(self, split: Split) -> int:
        return len(self._frames)


@pytest.mark.parametrize("name", ["kitchen", "lounge"])
def test_points_of_neighbouring_frames_agree(
    name: str, request: pytest.FixtureRequest, tmp_path: Path
):
    """Points of one frame, seen from the next, are at the depth that the next one measures."""
    scene = Few(FolderScene(request.getfixturevalue(name)), 2)
    reconstruction = reconstruct(scene, tmp_path / "r", RgbdConfig())
    camera, stride = reconstruction.camera, reconstruction.stride
    one, other = (reconstruction.read_frame(frame).points_hw3 for frame in reconstruction.poses)
    T_cam_map = invert(list(reconstruction.poses.values())[1])
    seen = transform(T_cam_map, one[np.isfinite(one).all(axis=-1)])
    depth_hw = transform(T_cam_map, other)[..., 2]
    cells = ((camera.project(seen) - (stride - 1) / 2) / stride).round().astype(int)
    inside = ((cells >= 0) & (cells < depth_hw.shape[::-1])).all(axis=-1)
    j, i = cells[inside].T
    differences = np.abs(depth_hw[i, j] - seen[inside, 2])
    assert np.isfinite(differences).sum() > 200
    assert np.nanmedian(differences) < 0.02


def test_poses_of_a_scene_are_those_given(scene: Path):
    folder = FolderScene(scene)
    poses = find_poses(folder)
    assert list(poses.T_map_cam) == ["a", "b"] and poses.complete and not poses.given
    for frame in folder.frames("train"):
        assert np.array_equal(poses.T_map_cam[frame.name], frame.known_pose())
    assert find_poses(folder, PosesConfig()).complete
    anchors = find_poses(folder, PosesConfig("dust3r"))
    assert list(anchors.T_map_cam) == ["a", "b"] and not anchors.complete


def test_poses_of_some_frames_are_not_complete(scene: Path):
    (scene / "data/b.pose.txt").unlink()
    poses = find_poses(FolderScene(scene), PosesConfig())
    assert list(poses.T_map_cam) == ["a"] and not poses.complete
    with pytest.raises(SceneError, match="frame b: has no pose"):
        find_poses(FolderScene(scene))


def test_refined_poses_of_an_interrupted_run_are_used_again(scene: Path, tmp_path: Path):
    folder = FolderScene(scene)
    given = find_poses(folder).T_map_cam
    refined = {name: retract(T, np.full(6, 0.01)) for name, T in given.items()}
    made = tmp_path / "r", "s", "rgbd", "", PLANE_CAMERA, 8, {}
    begun = Reconstruction(*made, refined, True, given)
    for source in ("refine", "auto"):
        poses = find_poses(folder, PosesConfig(source), depths_m=(0.1, 20.0), begun=begun)
        for name, T in given.items():
            assert np.array_equal(poses.T_map_cam[name], refined[name])
            assert np.array_equal(poses.given[name], T)
    kept = find_poses(
        folder, PosesConfig(), depths_m=(0.1, 20.0), begun=Reconstruction(*made, given)
    )
    changed = {name: retract(T, np.full(6, 0.1)) for name, T in given.items()}
    other = Reconstruction(*made, changed)
    assert np.array_equal(
        find_poses(folder, PosesConfig(), depths_m=(0.1, 20.0), begun=other).T_map_cam["b"],
        given["b"],  # the folder is then refused: its poses are others
    )
    assert not kept.given and all(np.array_equal(kept.T_map_cam[n], T) for n, T in given.items())


@pytest.mark.parametrize(("name", "refined"), [("kitchen", True), ("lounge", False)])
def test_poses_are_refined_only_where_they_drift(
    name: str, refined: bool, request: pytest.FixtureRequest, capsys
):
    """Features are 5.4 px apart at the kitchen's poses (KinectFusion), 1.2 px at the lounge's."""
    scene = FolderScene(request.getfixturevalue(name))
    some = Few(scene, scene.count("train"), 8)
    poses = find_poses(some, PosesConfig(), depths_m=(0.1, 20.0))
    printed = capsys.readouterr().err
    assert poses.complete and bool(poses.given) == refined
    assert ("the poses are refined (--poses given keeps them)" in printed) == refined


def test_adjusted_poses_are_near_the_given_ones_and_adjusted_only_once(
    kitchen: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    scene = Few(FolderScene(kitchen), 14)
    monkeypatch.setattr(teacher_options, "open_scene", lambda path, recording: scene)
    quick = SfmConfig(max_px=400, max_features=800)
    teacher = Teacher(poses=PosesConfig("refine", sfm=quick))
    made = teacher.reconstruct(kitchen, tmp_path / "r")
    index = (tmp_path / "r/reconstruction.json").stat().st_mtime_ns
    lost = tmp_path / f"r/frames/{list(made.poses)[3]}.npz"
    before = lost.read_bytes()
    lost.unlink()
    again = teacher.reconstruct(kitchen, tmp_path / "r")
    assert (tmp_path / "r/reconstruction.json").stat().st_mtime_ns == index
    assert lost.read_bytes() == before
    opened = open_reconstruction(tmp_path / "r")
    for frame in scene.frames("train"):
        assert np.array_equal(opened.given_pose(frame.name), frame.known_pose())
        assert np.array_equal(opened.poses[frame.name], again.poses[frame.name])
        moved = invert(opened.poses[frame.name]) @ frame.known_pose()
        assert 0 < np.linalg.norm(moved[:3, 3]) < 0.05
    with pytest.raises(ReconstructionError, match="other frames or settings"):
        reconstruct(scene, tmp_path / "r", CONFIG)


def test_frames_without_matches_follow_their_neighbours(
    kitchen: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(refinement, "_MAX_FRAMES", 27)
    scene = Few(FolderScene(kitchen), 28)
    given = {frame.name: frame.known_pose() for frame in scene.frames("train")}
    drifting = {
        name: retract(T, np.array([0.04 * np.sin(10 * T[0, 3]), 0.02, 0, 0, 0, 0.01]))
        for name, T in given.items()
    }
    found = refinement.refine_poses(scene, drifting, 0.1, 20.0)
    assert list(found.T_map_cam) == list(given)
    poses = list(found.T_map_cam.values())
    motions = [local_coordinates(*pair) for pair in zip(drifting.values(), poses, strict=True)]
    for before, between, after in zip(motions[:-2:2], motions[1:-1:2], motions[2::2], strict=True):
        assert np.linalg.norm(between[:3]) > 0
        assert np.linalg.norm(between - (before + after) / 2) < 0.01


def test_poses_of_images_without_matches_are_not_adjusted(scene: Path):
    with pytest.raises(ReconstructionError, match="0 of 2 frames have.*use other --poses"):
        find_poses(FolderScene(scene), PosesConfig("refine"))


def test_cells_without_depth_have_no_point(scene: Path, tmp_path: Path):
    path = scene / "data/a.depth.png"
    depth = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    depth[:, : PLANE_CAMERA.width // 2] = 0
    cv2.imwrite(str(path), depth)
    frame = reconstruct(FolderScene(scene), tmp_path / "r", CONFIG, CELLS).read_frame("a")
    known = np.isfinite(frame.points_hw3).all(axis=-1)
    assert not known[:, :3].any() and known[:, 5:].all()


def test_a_scene_without_depth_is_refused(tmp_path: Path):
    write_plane_scene(tmp_path / "scene", depth=False)
    with pytest.raises(SceneError, match="frame a: has no depth"):
        reconstruct(FolderScene(tmp_path / "scene"), tmp_path / "r", CONFIG, CELLS)


def test_a_scene_without_poses_or_intrinsics_is_refused(scene: Path, tmp_path: Path):
    pose = (scene / "data/b.pose.txt").read_text()
    (scene / "data/b.pose.txt").unlink()
    with pytest.raises(SceneError, match="frame b: has no pose"):
        reconstruct(FolderScene(scene), tmp_path / "r", CONFIG, CELLS)
    (scene / "data/b.pose.txt").write_text(pose)
    (scene / "camera-intrinsics.txt").unlink()
    with pytest.raises(SceneError, match="frame a: its camera's intrinsics are not known"):
        reconstruct(FolderScene(scene), tmp_path / "r", CONFIG, CELLS)
    assert not (tmp_path / "r").exists()


def test_an_interrupted_reconstruction_resumes_without_repeating_frames(
    scene: Path, tmp_path: Path
):
    reconstruct(FolderScene(scene), tmp_path / "r", CONFIG, CELLS)
    kept, lost = (tmp_path / f"r/frames/{name}.npz" for name in "ab")
    lost.unlink()
    before = kept.stat().st_mtime_ns
    with pytest.raises(ReconstructionError, match="1 of 2 frames are missing"):
        open_reconstruction(tmp_path / "r")
    reconstruct(FolderScene(scene), tmp_path / "r", CONFIG, CELLS)
    assert lost.exists() and kept.stat().st_mtime_ns == before
    assert list(open_reconstruction(tmp_path / "r").poses) == ["a", "b"]


@pytest.mark.parametrize(
    ("config", "cells"),
    [
        ({}, {"width": 32}),
        ({}, {"stride": 4}),
        ({"max_depth_m": 3.0}, {}),
        ({"window_px": 2}, {}),
    ],
)
def test_a_folder_of_other_settings_is_refused(
    scene: Path, tmp_path: Path, config: dict, cells: dict
):
    reconstruct(FolderScene(scene), tmp_path / "r", CONFIG, CELLS)
    others = replace(CONFIG, **config), replace(CELLS, **cells)
    with pytest.raises(ReconstructionError, match="other frames or settings"):
        reconstruct(FolderScene(scene), tmp_path / "r", *others)


def test_stored_settings_are_those_of_earlier_versions(scene: Path, tmp_path: Path):
    """Reconstructions that earlier versions began are resumed."""
    made = reconstruct(FolderScene(scene), tmp_path / "r", CONFIG, CELLS)
    assert made.settings == {
        "width": 64, "stride": 8, "window_px": 4, "min_depth_m": 0.1, "max_depth_m": 20.0
    }  # fmt: skip


@pytest.mark.parametrize("wrong", [{"window_px": 0}, {"max_depth_m": 0.1}])
def test_invalid_settings_are_refused(wrong: dict):
    with pytest.raises(ReconstructionError, match="expected"):
        replace(CONFIG, **wrong)


@pytest.mark.parametrize("wrong", [{"stride": 0}, {"width": -8}, {"width": 63}])
def test_invalid_cells_are_refused(wrong: dict):
    with pytest.raises(
        ReconstructionError, match="expected 1 or more, and a width that is a multiple"
    ):
        replace(CELLS, **wrong)


def test_a_reopened_reconstruction_equals_the_written_one(scene: Path, tmp_path: Path):
    written = reconstruct(FolderScene(scene), tmp_path / "r", CONFIG, CELLS)
    read = open_reconstruction(tmp_path / "r")
    assert (read.scene, read.teacher, read.camera) == ("scene", "rgbd", written.camera)
    np.testing.assert_allclose(read.poses["b"], written.poses["b"], atol=1e-12)


FRAME = {"name": "a", "T_map_cam": np.eye(4).tolist()}
CAMERA = {"width": 32, "height": 16, "fx": 30.0, "fy": 30.0, "cx": 15.5, "cy": 7.5}


@pytest.fixture
def small(tmp_path: Path) -> Reconstruction:
    camera = Camera(32, 16, 30.0, 30.0, 15.5, 7.5)
    reconstruction = Reconstruction(
        tmp_path / "r", "s", "rgbd", "", camera, 8, {}, {"a": np.eye(4)}
    )
    reconstruction.begin()
    frame = ReconstructedFrame(
        np.zeros((16, 32, 3), np.uint8),
        np.ones((2, 4, 3), np.float32),
        np.ones((2, 4), np.float32),
    )
    reconstruction.write_frame("a", frame)
    return reconstruction


@pytest.mark.parametrize("metric", [True, False])
def test_whether_the_scale_is_metric_is_stored(small: Reconstruction, tmp_path: Path, metric: bool):
    written = replace(small, folder=tmp_path / "new", metric=metric)
    written.begin()
    written.write_frame("a", small.read_frame("a"))
    assert open_reconstruction(written.folder).metric == metric
    with pytest.raises(ReconstructionError, match="other frames or settings"):
        replace(written, metric=not metric).begin()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 3}, "format version 3"),
        ({"frames": [{"name": "../a", "T_map_cam": np.eye(4).tolist()}]}, "plain name"),
        ({"frames": [{"name": "a", "T_map_cam": np.ones((4, 4)).tolist()}]}, "not a rotation"),
        ({"camera": {"width": 1}}, "damaged"),
        ({"frames": []}, "frames are missing"),
        ({"metric": "no"}, "Expected `bool`, got `str` - at `.*metric`"),
        ({"frames": [{**FRAME, "T_map_cam_given": [1]}]}, "length 4.* at `.*T_map_cam_given`"),
        (
            {"frames": [FRAME, {**FRAME, "name": "b", "T_map_cam_given": FRAME["T_map_cam"]}]},
            "for all or none",
        ),
        ({"format_version": 10**400}, "format version 10000"),
        ({"format_version": "1"}, "Expected `int`, got `str`"),
        ({"stride": 0}, ">= 1"),
        ({"teacher": 5}, "Expected `str`, got `int`"),
        ({"settings": {"x" * 4000: [1]}}, "at `.*settings"),
        ({"frames": [{**FRAME, "name": "x/" * 100}]}, "plain name"),
        ({"frames": [{**FRAME, "name": "x" * 4000}]}, "length <= 250"),
        ({"frames": [{**FRAME, "T_map_cam": None}]}, "Expected `array`, got `null`"),
        ({"frames": [{"name": "a", "T_map_cam": np.full((4, 4), np.nan).tolist()}]}, "NaN"),
        ({"camera": CAMERA | {"distortion_model": "x" * 4000, "distortion": [0.1]}}, "model 'xx"),
    ],
)
def test_a_damaged_index_is_refused(small: Reconstruction, change: dict, message: str):
    path = small.folder / "reconstruction.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ReconstructionError, match=message) as caught:
        open_reconstruction(small.folder)
    assert len(str(caught.value)) - len(str(path)) <= 300


def test_a_truncated_frame_is_refused(small: Reconstruction):
    path = small.folder / "frames/a.npz"
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(ReconstructionError, match="missing or damaged"):
        small.read_frame("a")


@pytest.mark.parametrize(
    "header", [b"{'descr': '<f4', 'shape': (((((((,\n", b"{[]: 2}\n", b"{1: 2}\n", b"'\n", b"\0\n"]
)
def test_a_damaged_header_of_an_array_is_refused(small: Reconstruction, header: bytes):
    with zipfile.ZipFile(small.folder / "frames/a.npz", "w") as archive:
        for name in ("image_hw3", "points_hw3", "sigma_hw"):
            length = len(header).to_bytes(2, "little")
            archive.writestr(f"{name}.npy", b"\x93NUMPY\x01\x00" + length + header)
    with pytest.raises(ReconstructionError, match="missing or damaged") as caught:
        small.read_frame("a")
    assert "\n" not in str(caught.value)


def test_a_frame_larger_than_expected_is_refused_before_it_is_read(small: Reconstruction):
    zeros = np.zeros((1000, 1000), np.float32)
    np.savez_compressed(
        small.folder / "frames/a.npz", image_hw3=zeros, points_hw3=zeros, sigma_hw=zeros
    )
    with pytest.raises(ReconstructionError, match="larger than a frame"):
        small.read_frame("a")


def test_pickled_frames_are_not_executed(small: Reconstruction):
    objects = np.array([print], dtype=object)
    np.savez(small.folder / "frames/a.npz", image_hw3=objects, points_hw3=objects, sigma_hw=objects)
    with pytest.raises(ReconstructionError, match="missing or damaged"):
        small.read_frame("a")


def test_a_folder_without_a_reconstruction_is_refused(tmp_path: Path):
    with pytest.raises(ReconstructionError, match="expected a folder made by"):
        open_reconstruction(tmp_path / "nothing")


@pytest.mark.parametrize(("missing", "left", "poses"), [(1, 9, "given"), (5, 10, "structure")])
def test_a_few_frames_without_a_pose_are_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, missing: int, left: int, poses: str
):
    names = tuple("abcdefghij")
    write_plane_scene(tmp_path / "plane", names)
    for name in names[:missing]:
        (tmp_path / f"plane/data/{name}.pose.txt").unlink()
    plan = Teacher().plan(tmp_path / "plane")
    assert plan.scene.count("train") == left and plan.described["poses"].startswith(poses)
    assert ("1 of 10 training frames have no pose and are left out" in caplog.text) == (
        missing == 1
    )


def test_a_few_frames_without_depth_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    write_plane_scene(tmp_path / "plane", tuple("abcdefghij"))
    for name in "cd":
        (tmp_path / f"plane/data/{name}.depth.png").unlink()
    plan = Teacher().plan(tmp_path / "plane")
    assert plan.teacher.teacher == "rgbd"
    assert [frame.name for frame in plan.scene.frames("train")] == list("abefghij")
    assert "2 of 10 training frames have no depth and are left out" in caplog.text
    assert Teacher("sfm").plan(tmp_path / "plane").scene.count("train") == 10


def test_poses_of_unknown_unit_give_a_reconstruction_of_unknown_scale(tmp_path: Path):
    write_plane_scene(tmp_path / "plane")
    scene = FolderScene(tmp_path / "plane")
    assert find_poses(scene).metric
    scene.metric = False
    assert not find_poses(scene).metric
    assert scene.described()["poses"] == "all, not in metres"


@pytest.mark.parametrize(
    ("teacher", "missing", "message"),
    [
        (Teacher("sfm", PosesConfig("given")), "pose.txt", "frame a: has no pose"),
        (Teacher("rgbd"), "depth.png", "frame a: has no depth"),
        (Teacher("sfm", PosesConfig("sfm", "given")), "", "frame a: its camera's intrinsics"),
    ],
)
def test_a_plan_for_which_frames_lack_something_is_refused(
    tmp_path: Path, teacher: Teacher, missing: str, message: str
):
    write_plane_scene(tmp_path / "plane")
    for name in "ab":
        (tmp_path / f"plane/data/{name}.{missing}").unlink() if missing else None
    if not missing:
        (tmp_path / "plane/camera-intrinsics.txt").unlink()
    with pytest.raises(SceneError, match=message):
        teacher.plan(tmp_path / "plane")
