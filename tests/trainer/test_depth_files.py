"""The teacher `files`: its folder, scales, fusion, and the examples that write such folders."""

import importlib.util
import json
import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import ROOT
from make_depth_files import NAMES, SMALL, depth_of, pose, read_files, write_folder
from make_map import room_points
from make_scene import View, write_scene

pytest.importorskip("torch", reason="torch is not installed")
from distill_training.poses.features import FeatureFinder  # noqa: E402
from distill_training.poses.frame_points import FramePoints  # noqa: E402
from distill_training.poses.poses_config import PosesConfig  # noqa: E402
from distill_training.poses.scene_poses import ScenePoses, find_poses  # noqa: E402
from distill_training.reconstruction import Reconstruction, open_reconstruction  # noqa: E402
from distill_training.teachers.depth_files.depth_folder import DepthFolder  # noqa: E402
from distill_training.teachers.depth_files.depth_fusion import fuse_depth  # noqa: E402
from distill_training.teachers.depth_files.depth_scales import DepthScales  # noqa: E402
from distill_training.teachers.depth_files.from_files import (  # noqa: E402
    poses_of_files,
    reconstruct,
)
from distill_training.teachers.pairwise.depth_map import DepthMap  # noqa: E402
from distill_training.teachers.teacher_config import CellsConfig, FilesConfig  # noqa: E402
from distill_training.teachers.teacher_options import Found, Teacher  # noqa: E402
from mote_localization.errors import MoteError, ReconstructionError  # noqa: E402
from mote_localization.geometry import invert, rigid, transform  # noqa: E402
from mote_localization.scenes import Frame, Scene, Split  # noqa: E402
from mote_localization.scenes.folder import FolderScene  # noqa: E402

pytestmark = pytest.mark.train

CELLS = CellsConfig(width=160)


@pytest.fixture
def room(tmp_path: Path) -> Path:
    """Six views of the box room, without depth."""
    grey_hw3 = np.full((SMALL.height, SMALL.width, 3), 90, np.uint8)
    views = {name: View(grey_hw3, pose(i)) for i, name in enumerate(NAMES)}
    return write_scene(tmp_path / "room", SMALL, views)


def scale_of(i: int) -> float:
    return float(np.exp(0.4 * np.sin(3 * i)))


def write_noisy(folder: Path, scales: list[float], scale: str, **more: object) -> Path:
    """Write the room's depth over scales, with noise, holes and values that are not finite."""
    write_folder(folder, scale, **more)
    rng = np.random.default_rng(4)
    for i, name in enumerate(NAMES):
        depth_hw = depth_of(pose(i)) * (1 + 0.02 * rng.standard_normal((120, 160))) / scales[i]
        x, y = rng.integers(20, 100, 2)
        depth_hw[y : y + 16, x : x + 40] = (np.nan, np.inf, 0)[i % 3]
        np.savez(folder / f"{name}.npz", depth_hw=depth_hw.astype(np.float32), T_map_cam_44=pose(i))
    return folder


def points_of(i: int) -> FramePoints:
    """Return points such as structure from motion triangulates, map units."""
    rng = np.random.default_rng(i)
    columns, rows = rng.integers(0, 160, 60), rng.integers(0, 120, 60)
    rays_k3 = SMALL.rays(np.stack([columns, rows], axis=-1).astype(float))
    depth_k = depth_of(pose(i))[rows, columns] * (1 + 0.01 * rng.standard_normal(60))
    return FramePoints(rays_k3[:, :2], depth_k, 0.01 * depth_k)


def true_poses() -> dict[str, np.ndarray]:
    return {name: pose(i) for i, name in enumerate(NAMES)}


def poses_with_points(names: list[str] = NAMES) -> ScenePoses:
    return ScenePoses(
        true_poses(),
        points={name: points_of(NAMES.index(name)) for name in names},
    )


def run(
    room: Path, folder: Path, poses: ScenePoses, metric: bool = True, **options: bool
) -> Reconstruction:
    depth, scene = DepthFolder(folder), FolderScene(room)
    scene.metric = metric
    return reconstruct(scene, poses, folder / "r", depth, {}, CELLS, **options)


def errors_m(made: Reconstruction, unit_m: float = 1.0) -> np.ndarray:
    """Return the distance of each point to the true point of its cell, metres."""
    errors = []
    for name in made.poses:
        true_hw3 = room_points(pose(NAMES.index(name)), made.camera, made.stride)
        points_hw3 = made.read_frame(name).points_hw3 * unit_m
        errors.append(np.linalg.norm(points_hw3 - true_hw3, axis=-1))
    return np.concatenate(errors, axis=None)


def check_errors(errors: np.ndarray) -> None:
    assert np.nanmedian(errors) < 0.03 and np.nanpercentile(errors, 90) < 0.1
    assert np.isfinite(errors).mean() > 0.9


# Scale and fusion


@pytest.mark.parametrize("scale", ["per_image", "global", "metric"])
def test_points_are_right_at_any_scale_of_the_depth(room: Path, tmp_path: Path, scale: str):
    scales = [scale_of(i) if scale == "per_image" else 0.4 for i in range(6)]
    made = run(room, write_noisy(tmp_path / "d", scales, scale), poses_with_points())
    assert list(made.poses) == NAMES and made.metric
    check_errors(errors_m(made))


def test_images_without_points_take_their_scale_from_overlapping_ones(room: Path, tmp_path: Path):
    folder = write_noisy(tmp_path / "d", [scale_of(i) for i in range(6)], "per_image")
    made = run(room, folder, poses_with_points(["view1", "view4"]))
    assert list(made.poses) == NAMES
    check_errors(errors_m(made))


def test_metric_depth_gives_the_scale_of_poses_without_one(room: Path, tmp_path: Path):
    known = poses_with_points()
    halved = {name: T.copy() for name, T in known.T_map_cam.items()}
    for T in halved.values():
        T[:3, 3] /= 2
    points = {name: one.scaled(0.5) for name, one in known.points.items()}
    poses = ScenePoses(halved, points=points, metric=False)
    made = run(room, write_noisy(tmp_path / "d", [1.0] * 6, "metric"), poses)
    assert made.metric
    check_errors(errors_m(made))
    other = write_noisy(tmp_path / "e", [1.0] * 6, "global")
    made = run(room, other, poses)
    assert not made.metric
    check_errors(errors_m(made, unit_m=2.0))
    given = run(room, write_noisy(tmp_path / "f", [1.0] * 6, "metric"), poses, metric=False)
    assert not given.metric and np.allclose(given.poses["view1"], halved["view1"])


def test_a_hole_takes_the_depth_of_neighbours(room: Path, tmp_path: Path):
    write_folder(tmp_path / "d", "global")
    for i, name in enumerate(NAMES):
        depth_hw = depth_of(pose(i)).astype(np.float32)
        if name == "view2":
            depth_hw[32:88, 40:120] = np.nan
        np.savez(tmp_path / "d" / f"{name}.npz", depth_hw=depth_hw)
    made = run(room, tmp_path / "d", poses_with_points())
    true_hw3 = room_points(pose(2), made.camera, made.stride)
    error_hw = np.linalg.norm(made.read_frame("view2").points_hw3 - true_hw3, axis=-1)[4:11, 5:15]
    assert np.isfinite(error_hw).mean() > 0.8 and np.nanpercentile(error_hw, 90) < 0.03


@pytest.mark.parametrize("own", [np.nan, 1.0])
def test_a_single_neighbour_fills_no_hole(own: float):
    grid, hole_hw = SMALL.resized(80, 64), np.zeros((8, 10), bool)
    hole_hw[2:6, 3:7] = True
    maps, confidence = {}, {}
    for i, (depth, sure) in enumerate([(own, 0.0), (1.0, 1.0), (np.nan, 0.0)]):
        depth_hw = np.where(hole_hw, depth, 2.0)
        maps[i] = DepthMap(grid, 8, pose(0), depth_hw, 0.02 * depth_hw)
        confidence[i] = np.where(hole_hw, sure, 1.0)
    scales = DepthScales(dict.fromkeys(maps, 1.0), dict.fromkeys(maps, 0.0), 0.02, {})
    fused = fuse_depth(maps, confidence, scales, [(0, 1), (0, 2), (1, 2)])
    np.testing.assert_array_equal(np.isnan(fused[0].depth_hw), hole_hw)
    assert np.isfinite(fused[1].depth_hw).all()  # its own depth needs no other


def test_an_image_whose_depth_is_another_images_is_left_out(room: Path, tmp_path: Path, caplog):
    folder = write_noisy(tmp_path / "d", [1.0] * 6, "per_image")
    rng = np.random.default_rng(0)
    wrong_hw = np.exp(cv2.resize(rng.normal(0, 1.5, (12, 16)), (160, 120))).astype(np.float32)
    np.savez(folder / "view3.npz", depth_hw=wrong_hw)
    with caplog.at_level(logging.WARNING):
        made = run(room, folder, poses_with_points())
    assert list(made.poses) == [name for name in NAMES if name != "view3"]
    assert "1 of 6 images are left out: view3: " in caplog.text


def test_depth_that_fits_no_point_is_an_error(room: Path, tmp_path: Path):
    write_folder(tmp_path / "d")
    for i, name in enumerate(NAMES):
        rng = np.random.default_rng(i)
        wrong_hw = np.exp(cv2.resize(rng.normal(0, 1.5, (12, 16)), (160, 120)))
        np.savez(tmp_path / "d" / f"{name}.npz", depth_hw=wrong_hw.astype(np.float32))
    with pytest.raises(ReconstructionError, match="none of 6 images has 15 triangulated points"):
        run(room, tmp_path / "d", poses_with_points())


def test_images_without_a_triangulated_point_are_an_error(room: Path, tmp_path: Path):
    folder = write_noisy(tmp_path / "d", [1.0] * 6, "per_image")
    poses = replace(poses_with_points(), points={})  # the images are grey
    with pytest.raises(ReconstructionError, match="none of 6 images has 15 triangulated points"):
        run(room, folder, poses)


def test_nothing_is_triangulated_where_points_exist(
    room: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delattr(FeatureFinder, "find")
    made = run(room, write_noisy(tmp_path / "d", [1.0] * 6, "global"), poses_with_points())
    assert list(made.poses) == NAMES


def test_the_given_poses_of_refined_ones_are_stored(room: Path, tmp_path: Path):
    folder = write_noisy(tmp_path / "d", [1.0] * 6, "global")
    (folder / "view3.npz").unlink()
    given = {name: T @ rigid(np.eye(3), (0.02, 0, 0)) for name, T in true_poses().items()}
    run(room, folder, replace(poses_with_points(), given=given))
    made = open_reconstruction(folder / "r")
    assert list(made.given_poses) == [name for name in NAMES if name != "view3"]
    assert all(np.allclose(made.given_poses[name], given[name]) for name in made.poses)
    assert all(np.allclose(T, pose(NAMES.index(name))) for name, T in made.poses.items())


class Few(Scene):
    """Every `step`-th of the first frames of a scene."""

    def __init__(self, scene: Scene, count: int, step: int) -> None:
        self.name, self._frames = scene.name, list(scene.frames("train"))[:count:step]

    def frames(self, split: Split) -> Iterator[Frame]:
        return iter(self._frames)

    def count(self, split: Split) -> int:
        return len(self._frames)


def test_points_of_a_kitchen_with_given_poses(kitchen: Path, tmp_path: Path):
    """Features that match give the scale, at poses that drift by centimetres."""
    scene, rng = Few(FolderScene(kitchen), 40, 8), np.random.default_rng(1)
    folder, depths = write_folder(tmp_path / "d"), {}
    for i, frame in enumerate(scene.frames("train")):
        depth_hw = frame.known_depth()[::2, ::2]
        depths[frame.name] = depth_hw
        noisy_hw = depth_hw * (1 + 0.02 * rng.standard_normal(depth_hw.shape)) / scale_of(i)
        np.savez(folder / f"{frame.name}.npz", depth_hw=noisy_hw.astype(np.float32))
    poses = find_poses(scene, PosesConfig("given"))
    made = reconstruct(scene, poses, tmp_path / "r", DepthFolder(folder), {})
    ratios = []
    for name, T_map_cam in made.poses.items():
        z_hw = transform(invert(T_map_cam), made.read_frame(name).points_hw3)[..., 2]
        measured_hw = depths[name][4::8, 4::8]  # about the centres of cells
        ratios.append(np.nanmedian(z_hw[measured_hw > 0] / measured_hw[measured_hw > 0]))
    assert len(ratios) == 5
    assert np.abs(np.array(ratios) - 1).max() < 0.05


# Files


def write_all(folder: Path, **arrays: np.ndarray) -> Path:
    """Write the depth of each view as it is, and further arrays."""
    for i, name in enumerate(NAMES):
        np.savez(folder / f"{name}.npz", depth_hw=depth_of(pose(i)).astype(np.float32), **arrays)
    return folder


def test_depth_of_a_window_of_the_image_is_at_its_pixels(room: Path, tmp_path: Path):
    whole = run(room, write_all(write_folder(tmp_path / "d")), poses_with_points())
    folder = write_folder(tmp_path / "e")
    for i, name in enumerate(NAMES):
        cut_hw = depth_of(pose(i)).astype(np.float32)[12:108, 20:140]
        np.savez(folder / f"{name}.npz", depth_hw=cut_hw, window_4=np.array([20.0, 12, 140, 108]))
    cut = run(room, folder, poses_with_points())
    one, other = (made.read_frame("view1").points_hw3[3:12, 4:16] for made in (whole, cut))
    assert np.median(np.abs(one - other)) < 0.01


def test_a_window_outside_of_the_image_is_an_error(room: Path, tmp_path: Path):
    folder = write_all(write_folder(tmp_path / "d"), window_4=np.array([0.0, 0, 161, 120]))
    with pytest.raises(ReconstructionError, match="within the image of 160x120 px"):
        run(room, folder, poses_with_points())


def test_poses_and_intrinsics_of_the_files_are_used(room: Path, tmp_path: Path):
    (room / "camera-intrinsics.txt").unlink()
    folder = write_folder(tmp_path / "d", "metric", poses=True)
    for i, name in enumerate(NAMES):
        half_hw = cv2.resize(depth_of(pose(i)), (80, 60), interpolation=cv2.INTER_AREA)
        K_33 = SMALL.resized(80, 60).K_33
        arrays = {"intrinsics_33": K_33, "T_map_cam_44": pose(i)}
        np.savez(folder / f"{name}.npz", depth_hw=half_hw.astype(np.float32), **arrays)
    poses = poses_of_files(FolderScene(room), DepthFolder(folder))
    assert poses.metric and poses.cameras["view3"] == replace(SMALL, distortion=())
    check_errors(errors_m(run(room, folder, poses, poses_from_files=True)))


def test_images_without_a_file_or_without_depth_are_left_out(room: Path, tmp_path: Path, caplog):
    folder = write_all(write_folder(tmp_path / "d"))
    (folder / "view0.npz").unlink()
    np.savez(folder / "view5.npz", depth_hw=np.full((120, 160), np.inf))
    with caplog.at_level(logging.WARNING):
        made = run(room, folder, poses_with_points())
    assert list(made.poses) == NAMES[1:5]
    assert "view0: has no file" in caplog.text and "view5: its file has no depth" in caplog.text


def test_a_damaged_image_is_left_out(room: Path, tmp_path: Path, caplog):
    folder = write_folder(tmp_path / "d", "global", poses=True)
    for i, name in enumerate(NAMES):
        arrays = {"depth_hw": depth_of(pose(i)).astype(np.float32), "T_map_cam_44": pose(i)}
        np.savez(folder / f"{name}.npz", **arrays)
    image = room / f"data/{NAMES[2]}.color.png"
    image.write_bytes(image.read_bytes()[:-100])
    teacher = Teacher("files", PosesConfig("files"), files=FilesConfig(folder), cells=CELLS)
    made = teacher.reconstruct(room, tmp_path / "r")
    assert list(made.poses) == [*NAMES[:2], *NAMES[3:]]
    assert "1 of 6 training frames cannot be read and are left out (view2)" in caplog.text


# Options


def test_the_command_resumes_and_refuses_other_depth(room: Path, tmp_path: Path):
    folder = write_all(write_folder(tmp_path / "d", "global", poses=True), T_map_cam_44=np.eye(4))
    for i, name in enumerate(NAMES):
        (room / f"data/{name}.pose.txt").unlink()
        arrays = {"depth_hw": depth_of(pose(i)).astype(np.float32), "T_map_cam_44": pose(i)}
        np.savez(folder / f"{name}.npz", **arrays)
    teacher = Teacher(files=FilesConfig(folder), cells=CELLS)
    assert teacher.plan(room).described["poses"] == "those of the depth files, in their own frame"
    made = teacher.reconstruct(room, tmp_path / "r")
    assert (made.teacher, made.teacher_licence, made.metric) == ("files", "Apache-2.0 (Net)", False)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "r").rglob("*")}
    (tmp_path / "r/frames/view3.npz").unlink()
    teacher.reconstruct(room, tmp_path / "r")
    after = {path: path.stat().st_mtime_ns for path in (tmp_path / "r").rglob("*")}
    changed = {path.name for path in after if after[path] != before[path]}
    assert changed == {"view3.npz", "frames"}
    teacher.reconstruct(room, tmp_path / "r")
    assert after == {path: path.stat().st_mtime_ns for path in (tmp_path / "r").rglob("*")}
    write_folder(folder, "metric", poses=True)
    with pytest.raises(MoteError, match="other frames or settings"):
        teacher.reconstruct(room, tmp_path / "r")


def test_options_that_do_not_fit_are_errors(room: Path, tmp_path: Path):
    with pytest.raises(MoteError, match="--teacher files needs --files FOLDER"):
        Teacher(teacher="files")
    with pytest.raises(
        MoteError, match="found --files with --teacher sfm, expected --teacher files"
    ):
        Teacher(teacher="sfm", files=FilesConfig(tmp_path))
    files = FilesConfig(write_folder(tmp_path / "d"))
    decided = Teacher(files=files).decided(Found.of(FolderScene(room)))
    assert (decided.teacher, decided.poses.poses) == ("files", "given")
    with pytest.raises(MoteError, match="found --poses files, but the index of"):
        Teacher(poses=PosesConfig("files"), files=files).decided(Found.of(FolderScene(room)))
    (room / "data/view0.pose.txt").unlink()
    assert Teacher(files=files).decided(Found.of(FolderScene(room))).poses.poses == "sfm"


# Examples


def example(name: str):
    spec = importlib.util.spec_from_file_location(name, ROOT / f"examples/{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_moge_to_files_writes_depth_that_is_read(tmp_path: Path):
    moge = example("moge_to_files")
    write_folder(tmp_path)
    (tmp_path / "index.json").write_text(json.dumps({**moge.INDEX, "scale": "per_image"}))
    depth_hw = np.where(np.arange(160) < 9, np.inf, depth_of(pose(0)))
    moge.write_depth(tmp_path, Path("room/view0.color.png"), depth_hw)
    found_hw = read_files(tmp_path, ["view0"])["view0"].depth_hw
    assert np.isnan(found_hw[:, :9]).all()
    np.testing.assert_allclose(found_hw[:, 9:], depth_hw[:, 9:], rtol=1e-6)


def test_mapanything_to_files_writes_the_window_that_the_depth_shows(tmp_path: Path):
    example("mapanything_to_files").write_depth(
        write_folder(tmp_path, "metric", poses=True),
        "a",
        (640, 480),
        {
            "depth_z": np.ones((1, 392, 518, 1), np.float32),
            "conf": np.ones((1, 392, 518), np.float32),
            "intrinsics": np.eye(3)[None],
            "camera_poses": pose(0)[None],
        },
    )
    one = read_files(tmp_path, ["a"])["a"]
    assert one.depth_hw.shape == (392, 518) and np.allclose(one.T_map_cam_44, pose(0))
    left, top, right, bottom = one.window_4
    assert (top, bottom) == pytest.approx((0, 480)) and left == pytest.approx(640 - right)
    assert right - left == pytest.approx(518 * 480 / 392)
