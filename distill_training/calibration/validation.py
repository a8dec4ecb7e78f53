"""Measures a student on held-out frames with the robot's own Localizer."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr
from torch import nn

from distill_training.common.sampling import thinned
from distill_training.reconstruction import Reconstruction
from distill_training.students.head import LOG_SIGMA_RANGE
from distill_training.students.torch_backend import TorchBackend
from distill_training.training.frame_split import FrameSplit
from distill_training.training.frame_store import Frame, FrameStore
from mote_localization.geometry import local_coordinates
from mote_localization.localizer import Localization, Localizer
from mote_localization.map_file import MapFile, MapInfo

_CHI2_6_MEDIAN = 5.348  # median of a chi-square variable with 6 degrees of freedom
_LAPLACE_WITHIN_2 = 1 - math.exp(-2)  # fraction of Laplace errors below twice their expectation
_TRAINING_SAMPLE = 16  # training frames, about, on which the points' error is measured too


@dataclass(frozen=True)
class Prediction:
    """What a student predicts for one frame, before anything is calibrated."""

    name: str
    points_hw3: np.ndarray  # float32, m, map frame
    sigma_hw: np.ndarray  # float32, m

    def with_scaled_sigma(self, scale: float) -> "Prediction":
        """Return the prediction of the same student after its head's `scale_sigma`.

        A sigma at a bound of the head's range is scaled from the bound.
        """
        low, high = np.exp(np.array(LOG_SIGMA_RANGE, np.float32))
        return replace(self, sigma_hw=(self.sigma_hw * np.float32(scale)).clip(low, high))


@dataclass(frozen=True)
class HeldOutFigures:
    """How well a student localizes the held-out frames; a lost frame counts as infinitely wrong.

    NaN where there is no frame to measure on.
    """

    frames: int
    median_cm: float = math.nan  # position error of the camera
    median_deg: float = math.nan
    within_5cm_5deg: float = math.nan  # fraction of all held-out frames
    within_10cm_5deg: float = math.nan  # fraction of all held-out frames
    cell_cm: float = math.nan  # median distance of the points to the teacher's
    # fraction of the points within two expected errors, the student's and the teacher's combined
    cells_within_2_sigma: float = math.nan
    spearman: float = math.nan  # rank correlation of sigma with the distance to the teacher's point
    # factor for sigma under which the fraction within two expected errors is that of a Laplace law
    sigma_scale: float = math.nan
    # median of the normalized estimation error squared (NEES) of the poses over its expectation
    covariance_scale: float = math.nan

    def finite(self) -> dict[str, float]:
        """Return the finite figures by name, rounded."""
        return {name: round(v, 4) for name, v in asdict(self).items() if math.isfinite(v)}


@dataclass(frozen=True)
class Measurement:
    """The outcome of one measurement of a student in training."""

    held_out: HeldOutFigures
    train_cell_cm: float  # median distance of a sample of training frames' points to the teacher's
    predictions: tuple[Prediction, ...]  # of the held-out frames

    def history_row(self) -> dict[str, float]:
        """Return the columns of a training's history."""
        held_out = {f"held_out_{name}": v for name, v in asdict(self.held_out).items()}
        return {"train_cell_cm": self.train_cell_cm, **held_out}

    def curves(self) -> dict[str, float]:
        """Return the values of the TensorBoard curves, by name."""
        return {f"held_out/{name}": value for name, value in self.held_out.finite().items()}

    def __str__(self) -> str:
        """Return the text of the progress bar."""
        figures = self.held_out
        if not figures.frames:
            return "-"
        if math.isinf(figures.median_cm):
            return "lost (more than half of the frames)"
        return (
            f"{figures.median_cm:.1f} cm {figures.median_deg:.2f}°, "
            f"{figures.within_5cm_5deg:.0%} in 5 cm/5°"
        )


class Validation:
    """Measures students of one reconstruction."""

    def __init__(
        self, reconstruction: Reconstruction, frames: FrameStore, split: FrameSplit, info: MapInfo
    ) -> None:
        """Create a localizer for the frames.

        Args:
            reconstruction: Poses and camera of the frames.
            frames: The frames, cached.
            split: Held-out frames, and training frames to sample from.
            info: Description of the map under training, uncalibrated.
        """
        self.info = info
        self._reconstruction, self._frames, self._held_out = reconstruction, frames, split.held_out
        self._training_sample = thinned(split.training, _TRAINING_SAMPLE)

    def measure(self, network: nn.Module) -> Measurement:
        """Run a student once on every frame and localize; it is left in evaluation mode."""
        predictions = predict(network, self._frames, self._held_out)
        sampled = predict(network, self._frames, self._training_sample)
        cells_m = [_distances(p, self._frames.frame(p.name)) for p in sampled]
        return Measurement(
            self.held_out_figures(predictions, self.info),
            _median(100 * np.concatenate([np.zeros(0), *cells_m])),
            predictions,
        )

    def held_out_figures(self, predictions: Sequence[Prediction], info: MapInfo) -> HeldOutFigures:
        """Localize with recorded predictions and this metadata; return the figures."""
        if not predictions:
            return HeldOutFigures(frames=0)
        recorded = _RecordedBackend()
        localizer = Localizer(MapFile(Path("training"), info, b""), recorded)
        position_cm, rotation_deg, nees = [], [], []
        cells_m, sigmas_m, teacher_m = [], [], []
        for prediction in predictions:
            truth = self._frames.frame(prediction.name)
            recorded.prediction = prediction
            found = localizer.localize(truth.image_hw3, self._reconstruction.camera)
            # Points are compared before the drift correction: that has an error of its own.
            cells_m.append(_distances(prediction, truth))
            sigmas_m.append(prediction.sigma_hw[truth.valid_hw])
            teacher_m.append(truth.sigma_hw[truth.valid_hw])
            error_6 = self._pose_error(prediction.name, found)
            position_cm.append(100 * float(np.linalg.norm(error_6[:3])))
            rotation_deg.append(math.degrees(np.linalg.norm(error_6[3:])))
            if found.covariance_66 is not None:
                information_66 = np.linalg.pinv(found.covariance_66, hermitian=True)
                nees.append(float(error_6 @ information_66 @ error_6))
        position, rotation = np.array(position_cm), np.array(rotation_deg)
        error_m, sigma_m, noise_m = map(np.concatenate, (cells_m, sigmas_m, teacher_m))
        # A point is within two expected errors, hypot(s sigma, noise), if s is at least this.
        needed_n = np.sqrt(np.maximum((error_m / 2) ** 2 - noise_m**2, 0)) / sigma_m
        return HeldOutFigures(
            frames=len(predictions),
            median_cm=float(np.median(position)),
            median_deg=float(np.median(rotation)),
            within_5cm_5deg=float(((position < 5) & (rotation < 5)).mean()),
            within_10cm_5deg=float(((position < 10) & (rotation < 5)).mean()),
            cell_cm=_median(100 * error_m),
            cells_within_2_sigma=float((needed_n < 1).mean()) if len(needed_n) else math.nan,
            spearman=_rank_correlation(sigma_m, error_m),
            sigma_scale=_quantile(needed_n, _LAPLACE_WITHIN_2),
            covariance_scale=_median(np.array(nees)) / _CHI2_6_MEDIAN,
        )

    def _pose_error(self, name: str, found: Localization) -> np.ndarray:
        """Return the error (6,) in m and rad against the given pose; of a lost frame inf and pi."""
        if found.T_map_cam is None:
            return np.array([np.inf, 0, 0, np.pi, 0, 0])
        return local_coordinates(self._reconstruction.given_pose(name), found.T_map_cam)


def predict(network: nn.Module, frames: FrameStore, names: Sequence[str]) -> tuple[Prediction, ...]:
    """Run a student once on every named frame; it is left in evaluation mode."""
    backend = TorchBackend(network)
    return tuple(Prediction(name, *backend.predict(frames.frame(name).image_hw3)) for name in names)


class _RecordedBackend:
    """Returns a recorded prediction, whatever the image."""

    prediction: Prediction

    def predict(self, image_hw3: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self.prediction.points_hw3, self.prediction.sigma_hw


def _distances(prediction: Prediction, truth: Frame) -> np.ndarray:
    """Return the distances (n,) of the points to the teacher's, m, where the teacher has one."""
    return np.linalg.norm(prediction.points_hw3 - truth.points_hw3, axis=-1)[truth.valid_hw]


def _median(values: np.ndarray) -> float:
    return _quantile(values, 0.5)


def _quantile(values: np.ndarray, fraction: float) -> float:
    return float(np.quantile(values, fraction)) if len(values) else math.nan


def _rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Return Spearman's rank correlation; NaN where either is constant or shorter than two."""
    if len(a) < 2 or not (np.ptp(a) > 0 and np.ptp(b) > 0):
        return math.nan
    return float(spearmanr(a, b).statistic)
