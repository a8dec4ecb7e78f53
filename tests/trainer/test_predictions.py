"""Stored pair predictions, and resuming after an interrupted run."""

import os
import signal
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed")

import torch  # noqa: E402
from conftest import python_path

from distill_training.teachers.pairwise.cells import reduce_to_cells  # noqa: E402
from distill_training.teachers.pairwise.pair_predictor import Encoded, PairPointmaps, Pointmap  # noqa: E402
from distill_training.teachers.pairwise.photo import Photo  # noqa: E402
from distill_training.teachers.pairwise.predictions import Predictions  # noqa: E402
from distill_training.teachers.simulated import Simulated, SimulatedConfig  # noqa: E402
from distill_training.teachers.teacher_config import PhotographsConfig  # noqa: E402
from mote_localization.camera import Camera, CanonicalView, canonical_camera  # noqa: E402
from mote_localization.errors import ReconstructionError, SceneError  # noqa: E402
from mote_localization.geometry import pose_from  # noqa: E402
from mote_localization.scenes import Frame  # noqa: E402

pytestmark = pytest.mark.train

LANDSCAPE = Camera(64, 48, 60.0, 60.0, 31.5, 23.5)
PORTRAIT = Camera(48, 64, 60.0, 60.0, 23.5, 31.5)
ZOOMED = replace(LANDSCAPE, fx=70.0, fy=70.0)
STRIDE = 8


@dataclass
class MemoryFrame(Frame):
    """Frame in memory."""

    name: str
    camera: Camera
    T_map_cam: np.ndarray | None = None
    stamp_s: float = 0.0
    readable: bool = True

    def image(self) -> np.ndarray:
        if not self.readable:
            raise SceneError(f"{self.name}.jpg: is damaged or no image (3 bytes)")
        size = (self.camera.height, self.camera.width, 3)
        return np.random.default_rng(0).integers(0, 255, size, np.uint8)

    def depth(self) -> np.ndarray:
        return np.full((self.camera.height, self.camera.width), 2.0, np.float32)


def photos(cameras: Sequence[Camera]) -> list[MemoryFrame]:
    """Return photos of a wall at 2 m, taken 0.1 m apart."""
    straight = np.array([0.0, 0, 0, 1])
    return [
        MemoryFrame(f"photo{k}", camera, pose_from(np.array([0.1 * k, 0, 0]), straight))
        for k, camera in enumerate(cameras)
    ]


class Counting(Simulated):
    """Simulated network that records its calls and has limited memory."""

    def __init__(self, max_batch: int = 99) -> None:
        super().__init__(SimulatedConfig(width=32))
        self.max_batch, self.encoded, self.batches = max_batch, [], []

    def encode(self, frame: Frame, image_hw3: np.ndarray, live: Camera) -> Encoded:
        self.encoded.append(frame.name)
        return super().encode(frame, image_hw3, live)

    def decode(
        self, ones: Sequence[Encoded], others: Sequence[Encoded]
    ) -> tuple[PairPointmaps, PairPointmaps]:
        self.batches.append(len(ones))
        if len(ones) > self.max_batch:
            raise torch.cuda.OutOfMemoryError
        for some in (ones, others):
            assert len({(one.camera.width, one.camera.height) for one in some}) == 1
        return super().decode(ones, others)


def taken(frame: MemoryFrame, live: Camera) -> Photo:
    return Photo(frame, live, canonical_camera(live, live.width, STRIDE), 0, True)


def predictions(
    folder: Path, frames: list[MemoryFrame], predictor=None, batch: int = 4
) -> Predictions:
    taken_photos = [taken(frame, frame.camera) for frame in frames]
    return Predictions(folder, predictor or Counting(), taken_photos, STRIDE, batch)


def contents(folder: Path) -> dict[str, bytes]:
    """Return all files except hidden ones, which a killed run leaves."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith(".")
    }


@pytest.fixture
def finished(tmp_path: Path) -> Predictions:
    frames = photos([LANDSCAPE, PORTRAIT, ZOOMED, LANDSCAPE])
    made = predictions(tmp_path / "work", frames)
    made.encode()
    made.decode(combinations(range(4), 2))
    return made


def test_stored_predictions_are_those_of_the_predictor_reduced_to_cells(finished: Predictions):
    """For all pairs of landscape, portrait and another lens, in both orders."""
    frames = photos([LANDSCAPE, PORTRAIT, ZOOMED, LANDSCAPE])
    predictor = Counting()
    encoded = [predictor.encode(f, f.image(), f.camera) for f in frames]
    for i, j in combinations(range(4), 2):
        direct = predictor.decode([encoded[i]], [encoded[j]])
        read = finished.read(i, j)
        assert [(pair.i, pair.j) for pair in read] == [(i, j), (j, i)]
        for pair, maps in zip(read, direct, strict=True):
            for k, pointmap, points_hw3, confidence_hw in (
                (pair.i, maps.first, pair.own_hw3, pair.own_confidence_hw),
                (pair.j, maps.second, pair.other_hw3, pair.other_confidence_hw),
            ):
                grid = canonical_camera(frames[k].camera, frames[k].camera.width, STRIDE)
                cells = reduce_to_cells(pointmap, encoded[k].camera, grid, STRIDE)
                np.testing.assert_allclose(points_hw3, cells[0][0], rtol=1e-3, atol=1e-4)
                np.testing.assert_allclose(confidence_hw, cells[1][0], rtol=1e-3)
                assert points_hw3.dtype == confidence_hw.dtype == np.float32


def test_a_pair_is_read_in_the_requested_order(finished: Predictions):
    one, other = finished.read(3, 1)
    assert (one.i, one.j, other.i, other.j) == (3, 1, 1, 3)
    np.testing.assert_array_equal(one.own_hw3, finished.read(1, 3)[1].own_hw3)


def test_each_image_and_each_pair_is_predicted_once(tmp_path: Path):
    frames = photos([LANDSCAPE] * 5)
    for pairs, encoded, batches in (
        ([(0, 1), (1, 2), (2, 3), (3, 4), (0, 4)], 5, [4, 1]),
        ([(0, 1), (1, 2), (2, 3), (3, 4), (0, 4)], 0, []),
        ([(0, 2), (2, 4)], 0, [2]),
    ):
        predictor = Counting()
        made = predictions(tmp_path / "work", frames, predictor)
        assert not made.encode()
        made.decode(pairs)
        assert (len(predictor.encoded), predictor.batches) == (encoded, batches)


def test_descriptors_are_stored(finished: Predictions):
    predictor = Counting()
    frames = photos([LANDSCAPE, PORTRAIT, ZOOMED, LANDSCAPE])
    expected = [predictor.descriptor(predictor.encode(f, f.image(), f.camera)) for f in frames]
    np.testing.assert_array_equal(finished.descriptors([2, 0]), [expected[2], expected[0]])


def test_out_of_memory_halves_the_batch(tmp_path: Path):
    frames = photos([LANDSCAPE] * 6)
    tight, ample = Counting(max_batch=2), Counting()
    for name, predictor in (("tight", tight), ("ample", ample)):
        made = predictions(tmp_path / name, frames, predictor, batch=8)
        made.encode()
        made.decode(combinations(range(6), 2))
    assert ample.batches == [8, 7]
    assert tight.batches == [8, 4, *[2] * 7, 1]
    assert contents(tmp_path / "tight") == contents(tmp_path / "ample")


def test_a_pair_that_does_not_fit_into_memory_is_an_error(tmp_path: Path):
    frames = photos([LANDSCAPE] * 3)
    made = predictions(tmp_path / "work", frames, Counting(max_batch=0))
    made.encode()
    with pytest.raises(ReconstructionError, match="a pair of images does not fit into the memory"):
        made.decode(combinations(range(3), 2))


def test_an_unreadable_image_is_named_and_left_out(tmp_path: Path, caplog):
    frames = photos([LANDSCAPE] * 4)
    frames[1].readable = False
    frames[2].T_map_cam = None  # required by the simulated network
    made = predictions(tmp_path / "work", frames)
    assert list(made.encode()) == [1, 2]
    assert "frame photo1 is left out: photo1.jpg: is damaged" in caplog.text
    made.decode([(0, 3)])
    assert np.isfinite(made.read(0, 3)[0].own_hw3).any()
    with pytest.raises(ReconstructionError, match="000001.npz: missing"):
        made.decode([(0, 1)])


def test_an_image_of_another_size_than_its_camera_is_left_out(tmp_path: Path, caplog):
    frames = photos([PORTRAIT, LANDSCAPE])
    shown = [taken(frame, LANDSCAPE) for frame in frames]
    assert list(Predictions(tmp_path / "work", Counting(), shown, STRIDE).encode()) == [0]
    assert "is 48x64 px, expected 64x48 px" in caplog.text


def test_without_a_usable_image_there_is_an_error(tmp_path: Path):
    frames = photos([LANDSCAPE] * 2)
    frames[0].readable = frames[1].readable = False
    with pytest.raises(SceneError, match="none of 2 images can be used.*photo1.jpg: is damaged"):
        predictions(tmp_path / "work", frames).encode()


def test_the_predictor_gets_undistorted_images(tmp_path: Path):
    images = {}

    class Recording(Counting):
        def encode(self, frame: Frame, image_hw3: np.ndarray, live: Camera) -> Encoded:
            images[live] = image_hw3
            return super().encode(replace(frame, camera=live), image_hw3, live)

    distorted = replace(LANDSCAPE, distortion=(-0.3, 0.1, 0.0, 0.0, 0.0))
    frames = photos([distorted])
    predictions(tmp_path / "work", frames, Recording()).encode()
    expected = CanonicalView(distorted, LANDSCAPE, STRIDE).warp(frames[0].image())
    np.testing.assert_array_equal(images[LANDSCAPE], expected)


@dataclass
class ConstantPredictor:
    """Predicts a plane at a constant depth with a constant confidence."""

    depth: float = 1.0
    confidence: float = 1.0
    values: int = 8  # number of features
    name: str = "constant"
    licence: str = ""
    settings: dict = field(default_factory=dict)

    def camera(self, live: Camera) -> Camera:
        return live

    def encode(self, frame: Frame, image_hw3: np.ndarray, live: Camera) -> Encoded:
        return Encoded(np.zeros(self.values, np.float16), live)

    def descriptor(self, encoded: Encoded) -> np.ndarray:
        return np.ones(1, np.float32)

    def decode(
        self, ones: Sequence[Encoded], others: Sequence[Encoded]
    ) -> tuple[PairPointmaps, PairPointmaps]:
        shape = (len(ones), ones[0].camera.height, ones[0].camera.width)
        points_bhw3 = torch.full((*shape, 3), 0.5)
        points_bhw3[..., 2] = self.depth
        points_bhw3[:, :, :STRIDE] = 1.0
        pointmap = Pointmap(points_bhw3, torch.full(shape, self.confidence))
        return (PairPointmaps(pointmap, pointmap),) * 2


@pytest.mark.parametrize("depth", [7e4, np.inf, np.nan])
def test_points_beyond_half_precision_become_none(tmp_path: Path, depth: float):
    frames = photos([LANDSCAPE] * 2)
    made = predictions(tmp_path / "work", frames, ConstantPredictor(depth, confidence=1e9))
    made.encode()
    made.decode([(0, 1)])
    for pair in made.read(0, 1):
        assert (pair.own_hw3[:, 0] == 1).all() and np.isnan(pair.own_hw3[:, 1:]).all()
        assert (pair.own_confidence_hw[:, 0] == 65504).all()
        assert (pair.own_confidence_hw[:, 1:] == 0).all()


def test_memory_does_not_grow_with_the_number_of_images(tmp_path: Path):
    def peak(n: int) -> int:
        frames = photos([LANDSCAPE] * n)
        made = predictions(tmp_path / str(n), frames, ConstantPredictor(values=50_000))
        tracemalloc.reset_peak()
        made.encode()
        made.decode((i, i + 1) for i in range(n - 1))
        return tracemalloc.get_traced_memory()[1]

    tracemalloc.start()
    few, many = peak(70), peak(140)
    tracemalloc.stop()
    assert few > 64 * 100_000  # cached features, 100 kB per image
    assert many - few < 70 * 10_000


@pytest.mark.parametrize(
    "change",
    [
        {"frame": MemoryFrame("a", LANDSCAPE)},
        {"live": ZOOMED},
        {"grid": ZOOMED},
        {"stride": 16},
        {"predictor": Simulated(SimulatedConfig(width=16))},
        {"predictor": ConstantPredictor()},
    ],
)
def test_a_folder_with_other_predictions_is_rejected(tmp_path: Path, change: dict):
    shown = [taken(frame, LANDSCAPE) for frame in photos([LANDSCAPE] * 2)]
    same = {
        "predictor": Simulated(SimulatedConfig(width=32)),
        "photos": shown,
        "stride": STRIDE,
    }
    Predictions(tmp_path / "work", **same)
    Predictions(tmp_path / "work", **same, batch=2)
    if not change.keys() <= same.keys():
        change = {"photos": [shown[0], replace(shown[1], **change)]}
    with pytest.raises(ReconstructionError, match="delete the folder or choose another"):
        Predictions(tmp_path / "work", **same | change)


def test_an_empty_batch_is_rejected():
    with pytest.raises(ReconstructionError, match="batch of 0"):
        PhotographsConfig(pair_batch=0)


def pair_arrays(rows: int = 6, columns: int = 8, kind: type = np.float16) -> dict:
    names = ("own_ij", "other_ij", "own_ji", "other_ji")
    return {name: np.ones((rows, columns, 4), kind) for name in names}


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (pair_arrays(8, 6), r"expected \(6, 8, 4\) float16"),
        (pair_arrays(kind=np.float32), r"found own_ij of shape \(6, 8, 4\) float32"),
        (pair_arrays(500, 500), "larger than a pair"),
        (pair_arrays(kind=object), "missing or damaged"),
        ({"own_ij": np.ones((6, 8, 4), np.float16)}, "missing or damaged"),
        ({**pair_arrays(), "own_ji": np.zeros((6, 8, 4), np.float16)}, "points without confidence"),
    ],
)
def test_a_foreign_file_is_rejected(finished: Predictions, arrays: dict, message: str):
    np.savez_compressed(finished.folder / "pairs/000000-000003.npz", **arrays)
    with pytest.raises(ReconstructionError, match=message):
        finished.read(0, 3)


@pytest.mark.parametrize("damage", [lambda b: b[:300], lambda b: b[:500] + b"xx" + b[502:]])
def test_a_damaged_file_is_rejected(finished: Predictions, damage):
    path = finished.folder / "pairs/000000-000003.npz"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ReconstructionError, match="missing or damaged"):
        finished.read(0, 3)


def test_only_stored_predictions_are_removed(finished: Predictions):
    foreign = finished.folder / "notes.txt"
    foreign.touch()
    finished.remove()
    assert list(finished.folder.iterdir()) == [foreign]
    foreign.unlink()
    finished.remove()
    assert not finished.folder.exists()


def run_whole(folder: Path) -> None:
    frames = photos([LANDSCAPE] * 8)
    made = predictions(folder, frames)
    made.encode()
    made.decode(combinations(range(8), 2))


def run_killed(folder: Path) -> None:
    """Run in child processes that are killed while writing, before renaming, and at any time."""
    rng = np.random.default_rng(0)
    for call, count in (("fsync", 1), ("fsync", 5), ("replace", 6), ("fsync", 9), *[("", 0)] * 3):
        child = os.fork()
        if not child:
            if call:
                real, left = getattr(os, call), iter(range(count))
                setattr(
                    os,
                    call,
                    lambda *args, real=real, left=left: (
                        os.kill(os.getpid(), signal.SIGKILL)
                        if next(left, None) is None
                        else real(*args)
                    ),
                )
            run_whole(folder)
            os._exit(0)
        if not call:
            time.sleep(rng.uniform(0, 0.05))
            os.kill(child, signal.SIGKILL)
        assert os.waitpid(child, 0)[1] == signal.SIGKILL or not call


def test_a_killed_and_resumed_run_has_the_same_result(tmp_path: Path):
    """In a separate process, because forking needs a process without threads."""
    subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys, pathlib, test_predictions as t; t.run_killed(pathlib.Path(sys.argv[1]))",
            str(tmp_path / "killed"),
        ],
        check=True,
        env={**os.environ, "PYTHONPATH": python_path()},
    )
    partial = contents(tmp_path / "killed")
    run_whole(tmp_path / "killed")
    run_whole(tmp_path / "whole")
    whole = contents(tmp_path / "whole")
    assert 10 < len(partial) and len(whole) == 1 + 8 + 28
    assert partial.items() <= whole.items()
    assert contents(tmp_path / "killed") == whole
