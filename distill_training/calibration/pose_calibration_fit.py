"""Fits the calibration of a map's poses to measured errors.

Estimated covariances times a factor are a poor fit: accurate poses have errors that the estimate
does not contain. So a floor and a part that grows with the distance to the keyframes are added to
it. Among all such models under which the 95 % ellipsoids hold 95 % of the errors, the one of the
smallest ellipsoids is chosen.
"""

import math
from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

import numpy as np

from mote_localization.pose_calibration import CHI2_95, ErrorModel, PoseCalibration, nees

_COVERED = 0.95  # fraction of the errors inside the ellipsoids
_MIN_POSES = 20  # with fewer, the largest error is below the 95 % quantile too often
_FLOORS = (0.0, *np.geomspace(0.1, 3, 12).tolist())  # tried, over the median estimated deviation
_SLOPES = (0.0, *np.geomspace(0.1, 3, 8).tolist())  # tried, over that at the median distance


class PoseError(NamedTuple):
    """The error of one pose, and what the localizer knew of it."""

    error_6: np.ndarray  # x y z rotX rotY rotZ of the pose against the truth, m and rad
    covariance_66: np.ndarray  # estimated, not calibrated
    distance: float  # to the nearest keyframe, m; 0: none


def fit_pose_calibration(errors: Sequence[PoseError]) -> PoseCalibration | None:
    """Return the calibration under which the 95 % ellipsoids hold 95 % of the errors.

    Positions and rotations are fitted apart. Where the ellipsoids of the whole poses still hold
    less, both scales are enlarged by the same factor.

    Returns:
        The calibration, or None where there are too few errors.
    """
    if len(errors) < _MIN_POSES:
        return None
    errors_n6 = np.array([error.error_6 for error in errors])
    covariances_n66 = np.array([error.covariance_66 for error in errors])
    distance_n = np.array([error.distance for error in errors])
    position, rotation = (
        _fit(errors_n6[:, block], covariances_n66[:, block, block], distance_n)
        for block in (slice(0, 3), slice(3, 6))
    )
    apart = PoseCalibration(position, rotation, len(errors))
    calibrated_n66 = np.array([apart.calibrated(e.covariance_66, e.distance) for e in errors])
    factor = max(1.0, _needed_factor(errors_n6, calibrated_n66))
    return PoseCalibration(_enlarged(position, factor), _enlarged(rotation, factor), len(errors))


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


def _fit(errors_n3: np.ndarray, covariances_n33: np.ndarray, distance_n: np.ndarray) -> ErrorModel:
    """Return the model of the smallest ellipsoids that hold 95 % of the errors."""
    deviation = math.sqrt(float(np.median(np.trace(covariances_n33, axis1=1, axis2=2))) / 3)
    distance = float(np.median(distance_n))
    best, smallest = ErrorModel(), math.inf
    for floor, slope in product(_FLOORS, _SLOPES if distance else (0.0,)):
        per_m = slope / distance if distance else 0.0
        tried = ErrorModel(1.0, floor * deviation, per_m * deviation)
        added_n33 = np.array([tried.added(d) for d in distance_n])[:, None, None] * np.eye(3)
        factor = _needed_factor(errors_n3, covariances_n33 + added_n33)
        _, log_determinant_n = np.linalg.slogdet(covariances_n33 + added_n33)
        log_volume = log_determinant_n.mean() / 2 + 3 * math.log(max(factor, 1e-9))
        if log_volume < smallest:
            best, smallest = _enlarged(tried, factor), log_volume
    return best


def _needed_factor(errors_nk: np.ndarray, covariances_nkk: np.ndarray) -> float:
    """Return the factor of the standard deviations under which 95 % of the errors are inside.

    The quantile is that of conformal prediction, which holds for the next error, too.
    """
    nees_n = np.sort(nees(errors_nk, covariances_nkk))
    rank = min(math.ceil(_COVERED * (len(nees_n) + 1)), len(nees_n))
    return math.sqrt(nees_n[rank - 1] / CHI2_95[errors_nk.shape[1]])


def _enlarged(model: ErrorModel, factor: float) -> ErrorModel:
    return ErrorModel(factor * model.scale, factor * model.floor, factor * model.slope)
