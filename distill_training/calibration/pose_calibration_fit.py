"""Fits the calibration of a map's poses to measured errors.

Estimated standard deviations are multiplied by a factor that grows with the distance to the
keyframes. Among the factors under which the 95 % ellipsoids hold 95 % of the errors near the
keyframes, and far from them, those of the smallest ellipsoids are chosen.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from mote_localization.pose_calibration import CHI2_95, ErrorModel, PoseCalibration, nees

_COVERED = 0.95  # fraction of the errors inside the ellipsoids
_MIN_POSES = 20  # with fewer, the largest error is below the 95 % quantile too often
_GROUPS = 3  # of errors, by the distance to the keyframes; each of them is covered
_CORRELATIONS = (1.0, 0.99, 0.98, 0.96, 0.93, 0.9, 0.8, 0.6, 0.3, 0.0)  # factors tried
# tried: relative growth of the factor at the median distance
_GROWTHS = (0.0, *np.geomspace(0.02, 5, 20).tolist())


class PoseError(NamedTuple):
    """The error of one pose, and what the localizer knew of it."""

    error_6: np.ndarray  # x y z rotX rotY rotZ of the pose against the truth, m and rad
    covariance_66: np.ndarray  # estimated, not calibrated
    distance: float  # to the nearest keyframe, m; 0: none


def fit_pose_calibration(errors: Sequence[PoseError]) -> PoseCalibration | None:
    """Return the calibration under which the 95 % ellipsoids hold 95 % of the errors.

    Positions and rotations are fitted apart. Where the ellipsoids of the whole poses still hold
    less, their correlation is reduced, which leaves the other two as they are. Where that does not
    suffice, both are enlarged by the same factor.

    Returns:
        The calibration, or None where there are too few errors.
    """
    if len(errors) < _MIN_POSES:
        return None
    errors_n6 = np.array([error.error_6 for error in errors])
    covariances_n66 = np.array([error.covariance_66 for error in errors])
    distance_n = np.array([error.distance for error in errors])
    groups = _groups(distance_n)
    position, rotation = (
        _fit(errors_n6[:, block], covariances_n66[:, block, block], distance_n, groups)
        for block in (slice(0, 3), slice(3, 6))
    )
    for correlation in _CORRELATIONS:
        fitted = PoseCalibration(position, rotation, len(errors), correlation)
        calibrated_n66 = np.array([fitted.calibrated(e.covariance_66, e.distance) for e in errors])
        factor = _needed_factor(errors_n6, calibrated_n66, groups)
        if factor <= 1:
            return fitted
    return replace(
        fitted, position=_enlarged(position, factor), rotation=_enlarged(rotation, factor)
    )


def unmeasured_calibration(size: float) -> PoseCalibration:
    """Return a calibration that is safe where no errors are measured.

    It is larger than the calibrations that were measured in rooms.

    Args:
        size: Half the diagonal of the place, m.
    """
    return PoseCalibration(
        ErrorModel(scale=3.0, floor=0.005 * size, slope=0.05),
        ErrorModel(scale=3.0, floor=math.radians(0.5), slope=math.radians(2.0) / max(size, 1e-9)),
    )


def _groups(distance_n: np.ndarray) -> list[np.ndarray]:
    """Return the indices of the errors near the keyframes, far from them, and between the two."""
    count = min(_GROUPS, len(distance_n) // _MIN_POSES) if distance_n.any() else 1
    return np.array_split(np.argsort(distance_n, kind="stable"), count)


def _fit(
    errors_n3: np.ndarray,
    covariances_n33: np.ndarray,
    distance_n: np.ndarray,
    groups: Sequence[np.ndarray],
) -> ErrorModel:
    """Return the model of the smallest ellipsoids that hold 95 % of the errors of each group."""
    median = float(np.median(distance_n))
    best, smallest = ErrorModel(), math.inf
    for growth in _GROWTHS if median else (0.0,):
        tried = ErrorModel(growth=growth / median if median else 0.0)
        factor_n = np.array([tried.factor(d) for d in distance_n])
        scaled_n33 = covariances_n33 * factor_n[:, None, None] ** 2
        factor = _needed_factor(errors_n3, scaled_n33, groups)
        log_size = math.log(max(factor, 1e-9)) + float(np.log(factor_n).mean())
        if log_size < smallest:
            best, smallest = _enlarged(tried, factor), log_size
    return best


def _needed_factor(
    errors_nk: np.ndarray, covariances_nkk: np.ndarray, groups: Sequence[np.ndarray]
) -> float:
    """Return the factor of the standard deviations under which 95 % of each group are inside.

    The quantile is that of conformal prediction, which holds for the next error, too.
    """
    squared_n, largest = nees(errors_nk, covariances_nkk), 0.0
    for group in groups:
        rank = min(math.ceil(_COVERED * (len(group) + 1)), len(group))
        largest = max(largest, float(np.sort(squared_n[group])[rank - 1]))
    return math.sqrt(largest / CHI2_95[errors_nk.shape[1]])


def _enlarged(model: ErrorModel, factor: float) -> ErrorModel:
    return replace(model, scale=factor * model.scale)
