"""Held-out frames: the split, the figures measured on them, the calibration."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed")

import torch  # noqa: E402
from make_wall import CAMERA, QUICK, SMALL  # noqa: E402

from distill_training.calibration.validation import (  # noqa: E402
    Measurement,
    Validation,
    predict,
)
from distill_training.pipeline import train_student  # noqa: E402
from distill_training.reconstruction import ReconstructedFrame, Reconstruction  # noqa: E402
from distill_training.students import (  # noqa: E402
    CellGrid,
    SceneNormalization,
    create_student,
)
from distill_training.students.torch_backend import TorchBackend  # noqa: E402
from distill_training.training.frame_split import FrameSplit, split_held_out  # noqa: E402
from distill_training.training.frame_store import FrameStore  # noqa: E402
from mote_localization.errors import MoteError  # noqa: E402
from mote_localization.geometry import retract  # noqa: E402
from mote_localization.map_file import MapInfo  # noqa: E402

pytestmark = pytest.mark.train


def test_held_out_frames_are_contiguous_blocks():
    names = [f"{i:03}" for i in range(100)]
    training, held_out = split_held_out(names, 0.2)
    assert sorted(training + held_out) == names and len(held_out) == 20
    jumps = np.diff([int(n) for n in held_out])
    assert (jumps > 1).sum() == 3
    assert split_held_out(names, 0.0) == (names, [])
    _, together = split_held_out(names, 0.2, blocks=1)
    first = names.index(together[0])
    assert together == names[first : first + len(held_out)]


def test_frames_in_the_margin_of_a_block_are_in_neither_part():
    names = [f"{i:03}" for i in range(100)]
    _, held_out = split_held_out(names, 0.2)
    training, same = split_held_out(names, 0.2, margin=3)
    assert same == held_out and len(training) == 100 - 20 - 4 * 2 * 3
    distances = np.abs(np.subtract.outer([int(n) for n in training], [int(n) for n in held_out]))
    assert distances.min() == 4


@pytest.mark.parametrize(("frames", "fraction", "margin"), [(100, 0.2, 10), (3, 0.5, 0)])
def test_too_few_training_frames_are_refused(frames: int, fraction: float, margin: int):
    names = [f"{i:03}" for i in range(frames)]
    with pytest.raises(MoteError, match=f"of {frames} frames left .* lower --held-out"):
        split_held_out(names, fraction, margin)


class BiasedStudent(torch.nn.Module):
    """Predicts the points of one frame with errors of half its sigma, which grows by column."""

    def __init__(self, frame: ReconstructedFrame) -> None:
        super().__init__()
        self.points = torch.nn.Parameter(torch.from_numpy(frame.points_hw3))

    def forward(self, image):
        sigma = torch.linspace(0.002, 0.02, 48).reshape(1, 6, 8)
        direction = torch.randn(1, 6, 8, 3, generator=torch.Generator().manual_seed(0))
        return self.points + 0.5 * sigma[..., None] * torch.nn.functional.normalize(
            direction, dim=-1
        ), sigma


def measure(network: torch.nn.Module, info: MapInfo, place: Reconstruction) -> Measurement:
    """Measure a network on frame f1, as a held-out and as a training frame."""
    split = FrameSplit(["f1"], ["f1"])
    return Validation(place, FrameStore(place), split, info).measure(network)


def test_held_out_figures_are_those_of_the_student(reconstruction: Reconstruction):
    network = BiasedStudent(reconstruction.read_frame("f1"))
    info = MapInfo("wall", CAMERA, 8, (-9, -9, -9), (9, 9, 9), "rgbd", "", "cnn")
    measured = measure(network, info, reconstruction)
    error = measured.held_out
    assert error.frames == 1 and 0 < error.median_cm < 2 and error.within_5cm_5deg == 1
    assert error.cell_cm == pytest.approx(0.55, abs=0.02)
    assert error.cells_within_2_sigma == 1 and error.spearman > 0.999
    assert measured.train_cell_cm == pytest.approx(error.cell_cm, abs=1e-4)
    network.points.data += torch.tensor([0.07, 0.0, 0.0])
    error = measure(network, info, reconstruction).held_out
    assert error.within_5cm_5deg == 0 and error.within_10cm_5deg == 1
    assert error.cells_within_2_sigma == 0


def test_held_out_errors_are_measured_in_the_frame_of_the_given_poses(
    reconstruction: Reconstruction, tmp_path: Path
):
    motion = np.array([0.08, -0.02, 0.05, 0.01, -0.02, 0.005])
    given = {name: retract(T, motion) for name, T in reconstruction.poses.items()}
    drifting = replace(reconstruction, folder=tmp_path / "drifting", given_poses=given)
    drifting.begin()
    for name in drifting.poses:
        drifting.write_frame(name, reconstruction.read_frame(name))
    network = BiasedStudent(drifting.read_frame("f1"))
    _, info = train_student(drifting, tmp_path / "t", "cnn", SMALL, QUICK)
    assert info.drift is not None and len(info.drift.samples) == 4
    info = replace(info, bounds_min=(-9, -9, -9), bounds_max=(9, 9, 9))
    corrected = measure(network, info, drifting).held_out
    uncorrected = measure(network, replace(info, drift=None), drifting).held_out
    assert corrected.median_cm < 2 and uncorrected.median_cm > 8
    # points are measured before the correction
    assert corrected.cell_cm == uncorrected.cell_cm == pytest.approx(0.55, abs=0.02)


def test_sigma_is_scaled_by_the_errors_on_held_out_frames(
    reconstruction: Reconstruction, tmp_path: Path
):
    """86 % of the errors of a Laplace distribution are within two expected errors."""
    config = replace(QUICK, steps=40, held_out=0.5)
    _, info = train_student(reconstruction, tmp_path, "cnn", SMALL, config)
    assert info.training["sigma_scale"] != 1
    assert info.training["held_out_cells_within_2_sigma"] == pytest.approx(0.865, abs=0.02)
    assert info.training["held_out_sigma_scale"] == pytest.approx(1, abs=0.01)


def test_after_the_last_step_the_network_runs_once_per_held_out_frame(
    reconstruction: Reconstruction, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    config = replace(QUICK, steps=3, held_out=0.5, held_out_blocks=1, keyframes=1)
    train_student(reconstruction, tmp_path, "cnn", SMALL, config)
    split = split_held_out(list(reconstruction.poses), 0.5, blocks=1)
    seen: list[bytes] = []
    run = TorchBackend.predict

    def counted(backend: TorchBackend, image_hw3: np.ndarray):
        seen.append(image_hw3.tobytes())
        return run(backend, image_hw3)

    monkeypatch.setattr(TorchBackend, "predict", counted)
    # a finished training that is resumed: what is left is what follows the last step
    train_student(reconstruction, tmp_path, "cnn", SMALL, config)
    for name in split.held_out:
        assert seen.count(reconstruction.read_frame(name).image_hw3.tobytes()) == 1
    assert len(seen) == len(split.held_out) + len(split.training)


def test_scaled_predictions_are_those_of_the_scaled_student(reconstruction: Reconstruction):
    network = create_student(
        "cnn", SceneNormalization((0, 0, 0), 1.0), CellGrid(8, 64, 48), **SMALL
    )
    frames = FrameStore(reconstruction)
    (before,) = predict(network, frames, ["f1"])
    network.head.scale_sigma(3.0)
    (after,) = predict(network, frames, ["f1"])
    scaled = before.with_scaled_sigma(3.0)
    np.testing.assert_array_equal(after.points_hw3, scaled.points_hw3)
    np.testing.assert_allclose(after.sigma_hw, scaled.sigma_hw, rtol=1e-6)
