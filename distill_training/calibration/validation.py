"""The error on frames kept from training, by the robot's own Localizer: models are chosen by it."""

import math
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr
from torch import nn

from distill_training.reconstruction import Reconstruction
from distill_training.students.torch_backend import TorchBackend
from distill_training.training.augmentation import View
from distill_training.training.batches import FrameStore
from distill_training.training.train_config import TrainConfig
from mote_localization.errors import MoteError
from mote_localization.geometry import local_coordinates
from mote_localization.localizer import Localizer
from mote_localization.map_file import MapFile, MapInfo

_CHI2_6_MEDIAN = 5.348  # median of a chi-square variable of 6 degrees of freedom
_LAPLACE_IN_2_SIGMA = 1 - math.exp(-2)  # share of errors, where sigma is the expected one
_LEAST_TRAINED = 0.25  # share of the frames; with fewer there is little to train with


@dataclass(frozen=True)
class HeldOutError:
    """How well a student localizes frames it was not trained on; lost is infinitely wrong."""

    frames: int
    median_cm: float  # of the camera position
    median_deg: float
    within_5cm_5deg: float  # share of all frames
    within_10cm_5deg: float  # likewise
    cell_cm: float  # median error of the points, against the teacher's
    # share of the points that are within two expected errors, the student's and the teacher's
    cells_within_2_sigma: float
    spearman: float  # rank correlation of the points' sigma with their error
    # by how much the student's sigma is too small: multiplied by it, the share of the points that
    # the Laplace law expects is within two
    sigma_scale: float
    # median of e^T C^-1 e over its expectation: how much too small the poses' covariances are
    covariance_scale: float

    def figures(self) -> dict[str, float]:
        """Return what is finite of it, by name."""
        return {name: round(v, 4) for name, v in asdict(self).items() if math.isfinite(v)}

    def __str__(self) -> str:
        """Return the short form shown while training."""
        if not self.frames:
            return "-"
        return (
            f"{self.median_cm:.1f} cm {self.median_deg:.2f}°, {self.within_5cm_5deg:.0%} in 5 cm/5°"
        )


def split_frames(
    reconstruction: Reconstruction, config: TrainConfig
) -> tuple[list[str], list[str]]:
    """Return the frames to train with, and those held out; see `split_held_out`."""
    return split_held_out(
        list(reconstruction.poses), config.held_out, config.margin, config.held_out_blocks
    )


def split_held_out(
    names: list[str], share: float, margin: int = 0, blocks: int = 4
) -> tuple[list[str], list[str]]:
    """Split off contiguous blocks of frames.

    Args:
        names: The frames, in recording order.
        share: Of the frames that the blocks hold in all; more where that is less than one each.
        margin: Frames on either side of each block that are in neither part: what is near in time
            looks alike, and would make the held-out frames easier than a robot's.
        blocks: Contiguous pieces of the recording; fewer are longer, and farther from the rest.

    Returns:
        The frames to train with, and those held out.

    Raises:
        MoteError: Fewer than a quarter of the frames are left to train with.
    """
    length = math.ceil(round(share * len(names)) / blocks)
    held_out: set[str] = set()
    near: set[str] = set()
    for block in range(blocks if length else 0):
        first = round((block + 0.5) * len(names) / blocks) - length // 2
        held_out.update(names[first : first + length])
        near.update(names[max(0, first - margin) : first + length + margin])
    training = [name for name in names if name not in held_out | near]
    if len(training) < _LEAST_TRAINED * len(names):
        raise MoteError(
            f"found {len(training)} of {len(names)} frames left to train with, expected a quarter "
            f"or more: lower --held-out {share:g} or --margin {margin}"
        )
    return training, [name for name in names if name in held_out]


def measure_held_out(
    network: nn.Module,
    info: MapInfo,
    reconstruction: Reconstruction,
    store: FrameStore,
    names: list[str],
) -> HeldOutError:
    """Localize held-out frames with a student in training; it is left in evaluation mode."""
    backend = TorchBackend(network)
    localizer = Localizer(MapFile(Path("training"), info, b""), backend)
    centimetres, degrees, surprise = [], [], []
    cells_m, sigmas_m, teacher_m = [np.zeros(0)], [np.zeros(0)], [np.zeros(0)]
    for name in names:
        frame = store.frame(name)
        found = localizer.localize(frame.image_hw3, reconstruction.camera)
        truth = frame.plain()
        # as the student says it: what is told of the drift is another error than its own
        points_hw3, sigma_hw = backend.predict(frame.image_hw3)
        cells_m.append(_distances(points_hw3, truth))
        sigmas_m.append(sigma_hw[truth.valid_hw])
        teacher_m.append(truth.sigma_hw[truth.valid_hw])
        if found.T_map_cam is None or found.covariance_66 is None:
            centimetres.append(math.inf)
            degrees.append(180.0)
            continue
        error_6 = local_coordinates(reconstruction.given_pose(name), found.T_map_cam)
        centimetres.append(100 * float(np.linalg.norm(error_6[:3])))
        degrees.append(math.degrees(np.linalg.norm(error_6[3:])))
        information_66 = np.linalg.pinv(found.covariance_66, hermitian=True)
        surprise.append(float(error_6 @ information_66 @ error_6))
    if not names:
        return HeldOutError(0, *[math.nan] * 9)
    position, turn = np.array(centimetres), np.array(degrees)
    error_m, sigma_m, noise_m = map(np.concatenate, (cells_m, sigmas_m, teacher_m))
    # A point is within two expected errors, hypot(s sigma, noise), where s is larger than this.
    needed_n = np.sqrt(np.maximum((error_m / 2) ** 2 - noise_m**2, 0)) / sigma_m
    return HeldOutError(
        frames=len(names),
        median_cm=float(np.median(position)),
        median_deg=float(np.median(turn)),
        within_5cm_5deg=float(((position < 5) & (turn < 5)).mean()),
        within_10cm_5deg=float(((position < 10) & (turn < 5)).mean()),
        cell_cm=_median(100 * error_m),
        cells_within_2_sigma=float((needed_n < 1).mean()) if len(needed_n) else math.nan,
        spearman=_rank_correlation(sigma_m, error_m),
        sigma_scale=_quantile(needed_n, _LAPLACE_IN_2_SIGMA),
        covariance_scale=_median(np.array(surprise)) / _CHI2_6_MEDIAN,
    )


def measure_cells(network: nn.Module, store: FrameStore, names: list[str]) -> float:
    """Return the median error of the points in frames as they are, cm; of no frames NaN.

    The student is left in evaluation mode.
    """
    backend, cells_m = TorchBackend(network), [np.zeros(0)]
    for name in names:
        frame = store.frame(name)
        cells_m.append(_distances(backend.predict(frame.image_hw3)[0], frame.plain()))
    return _median(100 * np.concatenate(cells_m))


def _distances(points_hw3: np.ndarray, truth: View) -> np.ndarray:
    """Return how far the points are from those that the teacher knows, metres."""
    return np.linalg.norm(points_hw3 - truth.points_hw3, axis=-1)[truth.valid_hw]


def _median(values: np.ndarray) -> float:
    return _quantile(values, 0.5)


def _quantile(values: np.ndarray, share: float) -> float:
    return float(np.quantile(values, share)) if len(values) else math.nan


def _rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Return Spearman's rank correlation; NaN where either is all alike, or not known."""
    if len(a) < 2 or not (np.ptp(a) > 0 and np.ptp(b) > 0):
        return math.nan
    return float(spearmanr(a, b).statistic)
