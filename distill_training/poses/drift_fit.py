"""Measures how given poses drift against adjusted ones, for the map to know."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product

import numpy as np

from mote_localization.drift import DIGITS, MAX_STATIONS, Drift, kernel, station, viewpoints
from mote_localization.geometry import local_coordinates

_REACHES_M = (0.4, 0.8, 1.6, 3.2, 6.4, 12.8)
_REACHES_DEG = (20.0, 40.0, 80.0, 160.0)
_NOISES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
_BLOCKS = 12  # contiguous pieces of the recording that are predicted from the rest


@dataclass(frozen=True)
class FittedDrift:
    """The drift, and how well pieces of the recording are predicted from the rest of it."""

    drift: Drift
    moved_cm: float  # by how much adjusted and given positions differ, median
    moved_deg: float
    unpredicted_cm: float  # how much of it is left after prediction, median
    unpredicted_deg: float


def fit_drift(given: Mapping[str, np.ndarray], adjusted: Mapping[str, np.ndarray]) -> FittedDrift:
    """Fit the drift between given and adjusted poses of the same frames, in recording order.

    Reach and noise of the kernel are those under which contiguous pieces of the recording are most
    likely, predicted from the rest (cross validation: Rasmussen and Williams 2006, section 5.4.2;
    without the whole block that it is in and what is beside it, since neighbours in time share
    their errors).
    """
    names = list(adjusted)
    names = names[:: math.ceil(len(names) / MAX_STATIONS)]
    motions_n6 = np.array([local_coordinates(adjusted[name], given[name]) for name in names])
    stations = tuple(station(adjusted[name], m) for name, m in zip(names, motions_n6, strict=True))
    viewpoints_nk = viewpoints(stations)
    best, left_n6, chosen = -math.inf, motions_n6, (_REACHES_M[0], _REACHES_DEG[0], _NOISES[-1])
    for length_scale_m, length_scale_deg in product(_REACHES_M, _REACHES_DEG):
        correlation_nn = kernel(viewpoints_nk, viewpoints_nk, length_scale_m, length_scale_deg)
        for noise in _NOISES:
            inverse_nn = np.linalg.inv(correlation_nn + noise * np.eye(len(names)))
            likelihood, residual_n6 = _cross_validate(inverse_nn, motions_n6)
            if likelihood > best:
                best, left_n6, chosen = (
                    likelihood,
                    residual_n6,
                    (length_scale_m, length_scale_deg, noise),
                )
    return FittedDrift(
        Drift(stations, *chosen),
        *_medians(motions_n6),
        *_medians(left_n6),
    )


def _cross_validate(inverse_nn: np.ndarray, motions_n6: np.ndarray) -> tuple[float, np.ndarray]:
    """Return how likely stations are, each predicted from afar, and what is left (n, 6).

    The logarithm of the likelihood, but for a constant, with the most likely covariance of the six
    numbers.
    """
    shares_n6 = inverse_nn @ motions_n6
    left, unknown, count = [], [], len(motions_n6)
    for block in np.array_split(np.arange(count), min(_BLOCKS, count)):
        beside = len(block) // 2  # on either side
        first = max(0, block[0] - beside)
        without = slice(first, block[-1] + 1 + beside)
        covariance_ww = np.linalg.inv(inverse_nn[without, without])
        left.append((covariance_ww @ shares_n6[without])[block - first])
        unknown.append(np.diag(covariance_ww)[block - first])
    left_n6, unknown_n = np.concatenate(left), np.concatenate(unknown)
    # Where nothing drifts, rounding alone is left: it has a volume too.
    floor_66 = 10.0 ** (-2 * DIGITS) * np.eye(6)
    spread_66 = left_n6.T @ (left_n6 / unknown_n[:, None]) / len(left_n6) + floor_66
    volume = len(left_n6) * np.linalg.slogdet(spread_66)[1] + 6 * np.log(unknown_n).sum()
    return -volume / 2, left_n6


def _medians(motions_n6: np.ndarray) -> tuple[float, float]:
    """Return how long motions are, median: cm, degrees."""
    metres_n, radians_n = (np.linalg.norm(part, axis=1) for part in np.split(motions_n6, 2, axis=1))
    return 100 * float(np.median(metres_n)), math.degrees(float(np.median(radians_n)))
