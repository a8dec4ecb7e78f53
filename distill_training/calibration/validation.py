"""Measures a student on held-out frames, and with keyframes left out, by the robot's Localizer."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.stats import spearmanr
from torch import nn

from distill_training.calibration.changed_views import HARD, USUAL, changed_views
from distill_training.calibration.pose_calibration_fit import PoseError
from distill_training.common.sampling import thinned
from distill_training.reconstruction import Reconstruction
from distill_training.students.head import LOG_SIGMA_RANGE
from distill_training.students.torch_backend import TorchBackend
from distill_training.training.frame_split import FrameSplit
from distill_training.training.frame_store import Frame, FrameStore
from mote_localization.geometry import exp_rotation, local_coordinates
from mote_localization.localizer import Localization, Localizer
from mote_localization.map_file import MapFile, MapInfo
from mote_localization.pose_gates import LocalizerConfig
from mote_localization.progress import track_if_slow
from mote_localization.wrong_poses import pose_features

_LAPLACE_WITHIN_2 = 1 - math.exp(-2)  # fraction of Laplace errors below twice their expectation
_TESTED_FRAMES = 100  # training frames, about, whose poses are found without near keyframes
_KEPT = 3  # keyframes that are not left out, at least; besides those of the tested frame itself
_OWN_M = 1e-4  # distance below which a keyframe is the tested frame itself
_ROTATED_DEG = 1.0  # standard deviation of the rotation of the student's points about each axis
_SHIFTED = 0.03  # standard deviation of their shift along each axis, fraction of their extent
_USUAL_VIEWS, _HARD_VIEWS = 240, 240  # changed views on which a student alone is tested
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


class TestedPose(NamedTuple):
    """The true pose of a frame, and the error of the pose that was found."""

    T_map_cam: np.ndarray  # (4, 4), in the frame of the given poses
    found: PoseError | None  # None: lost
    left_out: int = 0  # number of near keyframes that the map was tested without


class ChangedPose(NamedTuple):
    """The error of a pose that a student alone found for a changed view."""

    found: PoseError
    features_4: np.ndarray  # `pose_features`
    is_hard: bool  # the view is one of `HARD`


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
            return f"points {self.train_cell_cm:.1f} cm"
        if math.isinf(figures.median_cm):
            return "held-out lost (more than half of the frames)"
        return (
            f"held-out {figures.median_cm:.1f} cm {figures.median_deg:.2f}°, "
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
        self._reconstruction, self._frames, self._split = reconstruction, frames, split

    def measure(self, network: nn.Module) -> Measurement:
        """Run a student once on every frame and localize; it is left in evaluation mode."""
        predictions = predict(network, self._frames, self._split.held_out)
        sample = thinned(self._split.training, _TRAINING_SAMPLE)
        sampled = predict(network, self._frames, sample)
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
        position_cm, rotation_deg = [], []
        cells_m, sigmas_m, teacher_m = [], [], []
        for prediction, found in self._localized(predictions, info):
            truth = self._frames.frame(prediction.name)
            # Points are compared before the drift correction: that has an error of its own.
            cells_m.append(_distances(prediction, truth))
            sigmas_m.append(prediction.sigma_hw[truth.valid_hw])
            teacher_m.append(truth.sigma_hw[truth.valid_hw])
            error_6 = self._pose_error(prediction.name, found)
            position_cm.append(100 * float(np.linalg.norm(error_6[:3])))
            rotation_deg.append(math.degrees(np.linalg.norm(error_6[3:])))
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
        )

    def held_out_poses(self, predictions: Sequence[Prediction], info: MapInfo) -> list[TestedPose]:
        """Return the poses of the held-out frames, found with recorded predictions."""
        localized = self._localized(predictions, info)
        return [self._tested(prediction.name, found) for prediction, found in localized]

    def poses_without_near_keyframes(self, network: nn.Module, info: MapInfo) -> list[TestedPose]:
        """Return the poses of training frames, found without the keyframes that are nearest.

        The student has seen these frames, and so its predictions are made as wrong as those of
        other frames: they are moved by a random rigid motion. Each frame is localized several
        times: without its nearest 0, 2, 8, ... keyframes, or without its nearest 1, 4, 16, ..., so
        that the poses are near and far from the others. A frame that is a keyframe itself is never
        found by its own.

        Args:
            network: The trained student; it is left in evaluation mode.
            info: The map, with keyframes, not calibrated.
        """
        rng = np.random.default_rng(0)
        backend, recorded = TorchBackend(network), _RecordedBackend()
        localizer = _localizer(info, recorded)
        most = max(0, len(info.keyframes) - _KEPT)
        left_out = [0, *(2**i for i in range(most.bit_length()))]
        names = thinned(self._split.tested, _TESTED_FRAMES)
        tested = []
        for i, name in enumerate(track_if_slow(names, "validation", len(names))):
            image_hw3 = self._frames.frame(name).image_hw3
            points_hw3, sigma_hw = backend.predict(image_hw3)
            distance_k = localizer.keyframe_distances(self._reconstruction.poses[name])
            order_k = np.argsort(distance_k)
            own = int(distance_k[order_k[0]] < _OWN_M)
            for count in left_out[i % 2 :: 2]:
                recorded.prediction = Prediction(name, _moved(points_hw3, rng), sigma_hw)
                without = localizer.without_keyframes(order_k[: max(own, count)].tolist())
                found = without.localize(image_hw3, self._reconstruction.camera)
                tested.append(self._tested(name, found)._replace(left_out=count))
        return tested

    def changed_poses(self, network: nn.Module, info: MapInfo) -> list[ChangedPose]:
        """Return the poses that a student alone finds for changed views of the held-out frames.

        Args:
            network: The trained student; it is left in evaluation mode.
            info: The map, without keyframes, not calibrated.
        """
        place = self._reconstruction
        if not self._split.held_out:
            return []
        every_pose = LocalizerConfig(max_student_deviation_m=math.inf)
        # Without the drift's correction, which has an error of its own.
        map_file = MapFile(Path("training"), replace(info, drift=None), b"")
        localizer = Localizer(map_file, TorchBackend(network), every_pose)
        poses = []
        for config, count in ((USUAL, _USUAL_VIEWS), (HARD, _HARD_VIEWS)):
            names = thinned(self._split.held_out, count)
            views = changed_views(self._frames, names, place.camera, place.stride, config, count)
            for view in views:
                found = localizer.localize(view.image_hw3, place.camera)
                if found.T_map_cam is None or found.covariance_66 is None:
                    continue
                error_6 = local_coordinates(view.T_map_cam, found.T_map_cam)
                covariance_66 = found.covariance_66
                features_4 = pose_features(covariance_66, found.match_sigma_n, found.inliers)
                error = PoseError(error_6, covariance_66, 0.0)
                poses.append(ChangedPose(error, features_4, config is HARD))
        return poses

    def _localized(
        self, predictions: Sequence[Prediction], info: MapInfo
    ) -> Iterator[tuple[Prediction, Localization]]:
        """Yield recorded predictions, and what is found with each of them."""
        recorded = _RecordedBackend()
        localizer = _localizer(info, recorded)
        for prediction in predictions:
            recorded.prediction = prediction
            image_hw3 = self._frames.frame(prediction.name).image_hw3
            yield prediction, localizer.localize(image_hw3, self._reconstruction.camera)

    def _tested(self, name: str, found: Localization) -> TestedPose:
        T_map_cam = self._reconstruction.given_pose(name)
        if found.covariance_66 is None:
            return TestedPose(T_map_cam, None)
        error_6, distance = self._pose_error(name, found), found.keyframe_distance
        return TestedPose(T_map_cam, PoseError(error_6, found.covariance_66, distance))

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


def _localizer(info: MapInfo, backend: _RecordedBackend) -> Localizer:
    return Localizer(MapFile(Path("training"), info, b""), backend)


def _moved(points_hw3: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return points after a random rigid motion about their centre, float32."""
    centre = np.median(points_hw3.reshape(-1, 3), axis=0)
    size = np.median(np.linalg.norm(points_hw3 - centre, axis=-1))
    R_33 = exp_rotation(np.radians(_ROTATED_DEG) * rng.standard_normal(3))
    shift = _SHIFTED * size * rng.standard_normal(3)
    return ((points_hw3 - centre) @ R_33.T + centre + shift).astype(np.float32)


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
