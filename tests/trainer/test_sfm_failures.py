"""Structure from motion of difficult photographs, and after interruptions and failures."""

import multiprocessing
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
import zlib
from collections import namedtuple
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from threading import Thread

import cv2
import numpy as np
import pytest

pycolmap = pytest.importorskip("pycolmap", reason="pycolmap is not installed")
from conftest import python_path  # noqa: E402
from make_photographs import CAMERA, room_image, room_poses, write_photographs  # noqa: E402
from PIL import Image  # noqa: E402

from distill_training.poses import sfm_poses  # noqa: E402
from distill_training.poses.gauge import Gauge  # noqa: E402
from distill_training.poses.poses_config import PosesConfig, SfmConfig  # noqa: E402
from distill_training.poses.scene_poses import ScenePoses, find_poses  # noqa: E402
from distill_training.poses.sfm import feature_database, structure_from_motion  # noqa: E402
from distill_training.poses.sfm.feature_database import FeatureDatabase, is_damaged  # noqa: E402
from distill_training.poses.sfm.mapper import Mapping, run_mapper  # noqa: E402
from distill_training.poses.sfm.placed_images import place_images  # noqa: E402
from distill_training.poses.sfm.sfm_images import WorkingView, take_images  # noqa: E402
from distill_training.poses.sfm.sfm_model import Model  # noqa: E402
from distill_training.reconstruction import open_reconstruction  # noqa: E402
from mote_localization.errors import ReconstructionError  # noqa: E402
from mote_localization.geometry import exp_rotation, rigid, transform  # noqa: E402
from mote_localization.scenes import open_scene  # noqa: E402
from mote_localization.similarity import similarity  # noqa: E402

POSES = room_poses(10)
QUICK = PosesConfig("sfm", intrinsics="estimate", sfm=SfmConfig(max_features=500))
TALL = replace(CAMERA, width=240, height=320, cx=119.5, cy=159.5)
LARGE = replace(CAMERA, width=400, height=300, fx=340.0, fy=340.0, cx=199.5, cy=149.5)
CALIBRATION = """image_width: 320
image_height: 240
camera_matrix: {{rows: 3, cols: 3, data: [{focal}, 0, 159.5, 0, {focal}, 119.5, 0, 0, 1]}}
distortion_model: plumb_bob
distortion_coefficients: {{rows: 1, cols: 5, data: [{radial}, 0, 0, 0, 0]}}
"""


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten photographs of a room, beside a calibration whose focal length is 15 % too large."""
    folder = write_photographs(tmp_path_factory.mktemp("sfm") / "photographs", POSES)
    (folder / "camera.yaml").write_text(CALIBRATION.format(focal=310, radial=0))
    return folder


@pytest.fixture(scope="module")
def work(photographs: Path) -> Path:
    """The finished work folder of these photographs."""
    folder = photographs.with_name("work")
    find_poses(open_scene(photographs), QUICK, folder)
    return folder


@pytest.fixture(scope="module")
def poses(photographs: Path, work: Path) -> ScenePoses:
    """The poses of these photographs."""
    return find_poses(open_scene(photographs), QUICK, work)


def largest_error_m(found: ScenePoses, expected: dict[str, np.ndarray]) -> float:
    """Return the largest distance of a position from the expected one, after alignment."""
    positions, targets = (
        np.array([some[name][:3, 3] for name in found.T_map_cam])
        for some in (found.T_map_cam, expected)
    )
    scale, T = similarity(positions, targets)
    return np.linalg.norm(transform(T, scale * positions) - targets, axis=1).max()


def test_wrong_intrinsics_are_estimated(poses: ScenePoses):
    assert len(poses.T_map_cam) == 10
    assert largest_error_m(poses, {f"{k:02}": T for k, T in enumerate(POSES)}) < 0.005
    for camera in poses.cameras.values():
        assert camera.fx == pytest.approx(CAMERA.fx, rel=0.01)


# Photographs of several kinds in one folder.


def write_png(path: Path, image_hw3: np.ndarray, turned: bool = False) -> None:
    """Write an upright image; turned: stored sideways, with the orientation in its EXIF data."""
    exif = Image.Exif()
    if turned:
        image_hw3, exif[0x0112] = np.rot90(image_hw3), 6  # rotate by 90 deg clockwise
    Image.fromarray(np.ascontiguousarray(image_hw3)).save(path, exif=exif)


def with_size(png: bytes, width: int, height: int) -> bytes:
    """Return a PNG with another size in its header."""
    header = b"IHDR" + struct.pack(">II", width, height) + png[24:29]
    return png[:12] + header + struct.pack(">I", zlib.crc32(header)) + png[33:]


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> tuple[ScenePoses, str, dict]:
    """Poses of photographs of all kinds, what is printed, and the true poses by name."""
    folder = tmp_path_factory.mktemp("mixed") / "photographs"
    write_photographs(folder, POSES[:8], prefix="a")
    write_photographs(folder, POSES[:5], room=1, prefix="other")
    for k, camera in {1: LARGE, 2: LARGE, 5: LARGE, 3: TALL, 6: TALL}.items():
        write_png(folder / f"a{k:02}.png", room_image(POSES[k], camera), turned=k == 3)
    png = (folder / "a00.png").read_bytes()
    (folder / "cut.png").write_bytes(png[: len(png) // 2])
    (folder / "empty.png").write_bytes(b"")
    (folder / "huge.png").write_bytes(with_size(png, 200_000, 200_000))
    config = replace(QUICK, intrinsics="auto")
    with pytest.MonkeyPatch.context() as patch:
        printed: dict[str, str] = {}
        patch.setattr(
            "distill_training.poses.scene_poses.print_table",
            lambda described, *_, **__: printed.update(described),
        )
        found = find_poses(open_scene(folder), config, folder.with_name("work"))
    return found, printed["not used"], {f"a{k:02}": T for k, T in enumerate(POSES[:8])}


def test_of_two_rooms_the_larger_part_is_used_and_the_other_is_named(mixed):
    found, unused, truth = mixed
    assert sorted(found.T_map_cam) == sorted(truth)
    assert "other00, other01, other02, other03, other04: in another part" in unused


def test_cameras_of_several_sizes_have_a_focal_length_each(mixed):
    found, _, truth = mixed
    assert largest_error_m(found, truth) < 0.005
    for name, expected in (("a00", CAMERA), ("a02", LARGE), ("a05", LARGE)):
        camera = found.cameras[name]
        assert (camera.width, camera.height) == (expected.width, expected.height)
        assert camera.fx == pytest.approx(expected.fx, rel=0.02)


def test_portraits_are_used_upright_as_pixels_or_by_their_exif_orientation(mixed):
    found, _, _ = mixed
    for name in ("a03", "a06"):
        camera = found.cameras[name]
        assert (camera.width, camera.height) == (TALL.width, TALL.height)
        assert camera.fx == pytest.approx(TALL.fx, rel=0.02)


def test_photographs_that_cannot_be_read_are_left_out_and_named(mixed):
    _, unused, _ = mixed
    for text in ("cut.png: is damaged", "empty.png: is damaged", "huge.png: is 200000x200000 px"):
        assert text in unused


def test_where_nothing_agrees_the_message_names_zoom_and_is_short(photographs: Path):
    images, _ = take_images(open_scene(photographs), "estimate", 1600)
    reasons = dict.fromkeys(range(5), structure_from_motion._CONTRADICTED)
    reasons |= dict.fromkeys(range(5, 10), "only one of two solutions could place it")
    message = structure_from_motion._why_no_part_is_accepted(images * 100, reasons)
    assert "one focal length" in message and len(message) < 300


def test_features_are_inside_the_field_of_view_of_a_distorted_lens(tmp_path: Path):
    folder = write_photographs(tmp_path / "photographs", POSES[:1])
    (folder / "camera.yaml").write_text(CALIBRATION.format(focal=270, radial=0.3))
    images, _ = take_images(open_scene(folder), "given", 1600)
    database = FeatureDatabase(tmp_path / "features.db", images, QUICK.sfm)
    assert not database.extract()
    with pycolmap.Database.open(database.path) as opened:
        columns, rows = opened.read_keypoints(1)[:, :2].astype(int).T
    covered_hw = WorkingView(images[0].live, images[0].working, True).covered_hw
    assert not covered_hw.all() and covered_hw[rows, columns].all()
    margin_hw = cv2.erode(covered_hw.astype(np.uint8), np.ones((9, 9)), borderValue=1)
    assert margin_hw[rows, columns].all()


# Interruptions and failures.


@contextmanager
def ended_at_first_mapping() -> Iterator[None]:
    """End the first mapper's process that is started in the block, as for lack of memory."""

    def end() -> None:
        while not (mappers := multiprocessing.active_children()):
            time.sleep(0.01)
        mappers[0].kill()

    thread = Thread(target=end)
    thread.start()
    yield
    thread.join()


def resumable(work: Path, folder: Path, *unfinished: str) -> Path:
    """Return a copy of a finished work folder, without some of what it holds."""
    shutil.copytree(work, folder / "work")
    for name in ("result", *unfinished):
        shutil.rmtree(folder / "work" / name)
    return folder / "work"


def test_a_mapper_that_is_killed_is_an_error_and_nothing_is_stored_as_finished(
    photographs: Path, work: Path, poses: ScenePoses, tmp_path: Path
):
    folder = resumable(work, tmp_path, "chosen/incremental")
    with (
        ended_at_first_mapping(),
        pytest.raises(ReconstructionError, match="incremental mapping was ended by SIGKILL"),
    ):
        find_poses(open_scene(photographs), QUICK, folder)
    assert not (folder / "result").exists() and not (folder / "chosen/incremental").exists()
    again = find_poses(open_scene(photographs), QUICK, folder)
    assert list(again.T_map_cam) == list(poses.T_map_cam)
    for name, T in poses.T_map_cam.items():
        np.testing.assert_allclose(again.T_map_cam[name], T, atol=1e-4)


def test_an_error_of_colmap_in_a_mapper_is_one_line(tmp_path: Path, capfd):
    (tmp_path / "global.db").write_bytes(b"no database" * 1000)
    mapping = Mapping("global", tmp_path / "global.db", tmp_path / "global", True)
    with pytest.raises(ReconstructionError, match="^global mapping failed .*resumes$") as error:
        run_mapper(mapping, 10)
    assert "\n" not in str(error.value) and len(str(error.value)) < 300
    assert "Traceback" not in capfd.readouterr().err and not mapping.folder.exists()


@pytest.mark.parametrize("damage", ["truncated", "overwritten", "no database"])
def test_a_damaged_database_is_made_again(
    photographs: Path, work: Path, tmp_path: Path, monkeypatch, caplog, damage: str
):
    folder = resumable(work, tmp_path)
    content = (folder / "features.db").read_bytes()
    noise = np.random.default_rng(0).bytes(len(content))
    kept = {"truncated": content[: len(content) // 2], "no database": noise}
    kept["overwritten"] = content[:4096] + noise[4096:]
    (folder / "features.db").write_bytes(kept[damage])
    monkeypatch.setattr(FeatureDatabase, "match", lambda *_: pytest.fail("features are there"))
    monkeypatch.setattr(FeatureDatabase, "extract", lambda _: dict.fromkeys(range(10), "new"))
    with pytest.raises(ReconstructionError, match="10: new"):
        find_poses(open_scene(photographs), QUICK, folder)
    assert "features.db is damaged, structure from motion starts again" in caplog.text
    assert not is_damaged(folder / "features.db")
    assert [path.name for path in tmp_path.iterdir()] == ["work"]


@pytest.mark.parametrize("done", [(), ("chosen/global",), ("chosen/global", "chosen/incremental")])
def test_a_full_disk_is_one_error_and_nothing_is_stored_as_finished(
    photographs: Path, work: Path, tmp_path: Path, monkeypatch, done: tuple[str, ...]
):
    """Before features are written, before a mapper runs, and before the result is stored."""
    folder = tmp_path / "work"
    if done:
        folder = resumable(
            work, tmp_path, *{"chosen/global", "chosen/incremental"}.difference(done)
        )
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(1 << 30, 1 << 30, 1 << 20))
    with pytest.raises(ReconstructionError, match="found 1 MiB of free disk space, expected"):
        find_poses(open_scene(photographs), QUICK, folder)
    assert not (folder / "result").exists()


def command(photographs: Path, output: Path) -> subprocess.Popen:
    """Start the command that reconstructs the photographs."""
    code = "from distill_training.cli import main; main()"
    options = "--intrinsics estimate --sfm.max-features 500"
    return subprocess.Popen(
        [sys.executable, "-c", code, "reconstruct", photographs, "-o", output, *options.split()],
        env={**os.environ, "PYTHONPATH": python_path()},
        stderr=subprocess.DEVNULL,
    )


def is_running(process: int) -> bool:
    """Return whether a process runs; one that has ended may wait for its parent."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until(condition, limit_s: float = 300.0) -> None:
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end, "it takes too long"
        time.sleep(0.005)


@pytest.mark.skipif(sys.platform != "linux", reason="processes are watched in /proc")
def test_a_run_that_is_killed_and_started_again_gives_the_same_result(
    photographs: Path, poses: ScenePoses, tmp_path: Path
):
    made = tmp_path / "made"
    for moment in (
        "work/features.db",
        "work/chosen/incremental.*.partial",
        "frames/*.npz",
    ):
        running = command(photographs, made)
        wait_until(lambda: any(made.glob(moment)) or running.poll() is not None)  # noqa: B023
        mappers = [int(path.name.split(".")[1]) for path in made.glob("work/chosen/*.*.partial")]
        assert running.poll() is None
        running.send_signal(signal.SIGKILL)
        running.wait()
        # A mapper ends with the command that has started it, before it has written its models.
        wait_until(lambda: not any(map(is_running, mappers)))  # noqa: B023
        finished = (made / "work/chosen/incremental").exists()
        assert finished == (moment == "frames/*.npz")
    assert command(photographs, made).wait() == 0
    found = open_reconstruction(made)
    assert sorted(path.name for path in made.iterdir()) == ["frames", "reconstruction.json"]
    assert list(found.poses) == list(poses.T_map_cam)
    for name, T in poses.T_map_cam.items():
        np.testing.assert_allclose(found.poses[name], T, atol=1e-4)
        points_hw3 = found.read_frame(name).points_hw3
        assert np.isfinite(points_hw3).all(axis=-1).mean() > 0.1


# Parts: joined where they agree, and completed by given poses.


def parts_of(work: Path) -> tuple[Model, Model, Model]:
    """Return the whole model, and two parts that have six images in common."""
    whole = Model.of(pycolmap.Reconstruction(work / "result/0"))
    return whole, whole.part(np.arange(8)), whole.part(np.arange(2, 10))


def joined(parts: list[Model], photographs: Path, work: Path, refused: set) -> list[Model]:
    images, _ = take_images(open_scene(photographs), "estimate", 1600)
    database = FeatureDatabase(work / "features.db", images, QUICK.sfm)
    matches = structure_from_motion._Matches(
        database, work / "chosen/matches.db", database.two_view_geometries()
    )
    return structure_from_motion._joined(parts, matches, QUICK.sfm, refused)


def moved(part: Model, T: np.ndarray, scale: float = 1.0) -> Model:
    """Return a part in another frame and unit."""
    part.reconstruction.transform(pycolmap.Sim3d(np.hstack([scale * T[:3, :3], T[:3, 3:]])))
    return Model.of(part.reconstruction)


def test_parts_in_different_frames_are_joined_where_they_agree(photographs: Path, work: Path):
    whole, first, second = parts_of(work)
    second = moved(second, rigid(exp_rotation(np.array([0.2, 0.5, 1.0])), np.ones(3)), 2.5)
    (both,) = joined([first, second], photographs, work, set())
    assert both.images.tolist() == list(range(10))
    depth = np.nanmedian(whole.median_depth_n())
    positions, expected = (one.T_model_cam_n44[:, :3, 3] for one in (both, whole))
    scale, T = similarity(positions, expected)
    assert np.abs(transform(T, scale * positions) - expected).max() < 0.01 * depth


def test_parts_that_disagree_stay_apart_and_are_compared_once(
    photographs: Path, work: Path, monkeypatch
):
    _, first, second = parts_of(work)
    for frame_id in second.reconstruction.reg_frame_ids():
        frame = second.reconstruction.frame(frame_id)
        tilt = rigid(exp_rotation(np.array([0, 0, 0.1 * frame_id])), np.zeros(3))
        frame.rig_from_world = pycolmap.Rigid3d(tilt[:3]) * frame.rig_from_world
    parts, refused = [first, Model.of(second.reconstruction)], set()
    assert len(joined(parts, photographs, work, refused)) == 2
    monkeypatch.setattr(structure_from_motion, "_join", lambda *_: pytest.fail("compared again"))
    assert len(joined(parts, photographs, work, refused)) == 2


@pytest.mark.parametrize(("error_m", "kept"), [(0.0, True), (0.5, False)])
def test_an_image_that_was_left_out_is_placed_by_its_given_pose_if_it_fits(
    photographs: Path, work: Path, tmp_path: Path, error_m: float, kept: bool
):
    shutil.copy(work / "features.db", tmp_path)
    images, _ = take_images(open_scene(photographs), "estimate", 1600)
    whole, _, _ = parts_of(work)
    scale, T = similarity(whole.T_model_cam_n44[:, :3, 3], np.array(POSES)[:, :3, 3])
    given = [pose.copy() for pose in POSES]
    given[9][2, 3] += error_m
    images = [
        replace(one, frame=replace(one.frame, T_map_cam=pose))
        for one, pose in zip(images, given, strict=True)
    ]
    part = whole.part(np.arange(9))
    placed = place_images(part, Gauge(scale, T), images)
    found = sfm_poses._with_given_positions(placed, images, [part], tmp_path)
    assert (9 in found) == kept and set(range(9)) <= set(found)
    errors_m = [np.linalg.norm(one.T_map_cam[:3, 3] - POSES[i][:3, 3]) for i, one in found.items()]
    assert max(errors_m) < 0.01
    assert len(found[0].points.depth_k) > 30


# Attempts: which pairs are matched.


@pytest.fixture
def small_vocabulary(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_database, "_TRAINING_FEATURES", 1000)


def attempts(photographs: Path, work: Path, sequential: bool, **settings):
    images, _ = take_images(open_scene(photographs), "estimate", 1600)
    config = replace(QUICK.sfm, **settings)
    database = FeatureDatabase(work / "features.db", images, config)
    return structure_from_motion._Attempts(database, config, sequential)


def test_first_all_pairs_of_few_images_are_matched_and_else_about_the_wanted_number(
    photographs: Path, work: Path, small_vocabulary
):
    assert len(attempts(photographs, work, False).pairs("chosen", range(10))) == 45
    few = attempts(photographs, work, False, per_image=4).pairs("chosen", range(10))
    assert 10 <= len(few) <= 25 and {i for pair in few for i in pair} == set(range(10))


def test_then_images_left_out_are_matched_with_neighbours_or_similar_images(
    photographs: Path, work: Path, small_vocabulary, monkeypatch
):
    monkeypatch.setattr(structure_from_motion, "_DENSE", 2)
    recording = attempts(photographs, work, True).pairs("dense", [0, 6])
    assert recording == [(0, 1), (0, 2), (4, 6), (5, 6), (6, 7), (6, 8)]
    similar = attempts(photographs, work, False).pairs("dense", [0])
    assert len(similar) == 2 and {j for _, j in similar} <= {1, 2, 3, 4}


def test_at_last_images_left_out_are_matched_with_all_unless_they_are_many(
    photographs: Path, work: Path
):
    one = attempts(photographs, work, False)
    assert one.pairs("exhaustive", [4]) == sorted(
        {(min(4, j), max(4, j)) for j in range(10)} - {(4, 4)}
    )
    many = attempts(photographs, work, False, exhaustive_images=9)
    assert many.pairs("exhaustive", [4]) == []
