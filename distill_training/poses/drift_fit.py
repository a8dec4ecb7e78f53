"""Fits the drift between given and adjusted poses, which the map stores."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product

import numpy as np

from distill_training.common.sampling import thinned
from mote_localization.drift import (
    DIGITS,
    MAX_SAMPLES,
    Drift,
    drift_sample,
    kernel_inputs,
    matern_kernel,
)
from mote_localization.geometry import local_coordinates

# Candidates for the parameters of the kernel.
_LENGTH_SCALES_M = (0.4, 0.8, 1.6, 3.2, 6.4, 12.8)
_LENGTH_SCALES_DEG = (20.0, 40.0, 80.0, 160.0)
_NOISES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
_BLOCKS = 12  # of the cross validation: contiguous parts of the recording


@dataclass(frozen=True)
class FittedDrift:
    """The drift, its median size, and the median error of its cross validation."""

    drift: Drift
    drift_cm: float  # median distance between adjusted and given positions
    drift_deg: float  # median angle between adjusted and given rotations
    # median error when each part of the recording is predicted from the rest
    residual_cm: float
    residual_deg: float


def fit_drift(given: Mapping[str, np.ndarray], adjusted: Mapping[str, np.ndarray]) -> FittedDrift:
    """Fit the drift between given and adjusted poses of the same frames, in recording order.

    Length scales and noise of the kernel maximize the likelihood of contiguous parts of the
    recording, each predicted from the rest (cross validation: Rasmussen and Williams 2006, section
    5.4.2). Frames beside a part are left out too, as neighbours in time have correlated errors.
    """
    names = thinned(list(adjusted), MAX_SAMPLES)
    motions_n6 = np.array([local_coordinates(adjusted[name], given[name]) for name in names])
    samples = tuple(
        drift_sample(adjusted[name], m) for name, m in zip(names, motions_n6, strict=True)
    )
    inputs_nk = kernel_inputs(samples)
    best, residual_n6 = -math.inf, motions_n6
    chosen = (_LENGTH_SCALES_M[0], _LENGTH_SCALES_DEG[0], _NOISES[-1])
    for length_scale_m, length_scale_deg in product(_LENGTH_SCALES_M, _LENGTH_SCALES_DEG):
        correlation_nn = matern_kernel(inputs_nk, inputs_nk, length_scale_m, length_scale_deg)
        for noise in _NOISES:
            inverse_nn = np.linalg.inv(correlation_nn + noise * np.eye(len(names)))
            likelihood, error_n6 = _cross_validate(inverse_nn, motions_n6)
            if likelihood > best:
                best, residual_n6 = likelihood, error_n6
                chosen = (length_scale_m, length_scale_deg, noise)
    return FittedDrift(
        Drift(samples, *chosen), *_median_norms(motions_n6), *_median_norms(residual_n6)
    )


def _cross_validate(inverse_nn: np.ndarray, motions_n6: np.ndarray) -> tuple[float, np.ndarray]:
    """Return the log likelihood of samples, each predicted from other parts, and errors (n, 6).

    The likelihood lacks a constant. It uses the most likely covariance of the six numbers.
    """
    coefficients_n6 = inverse_nn @ motions_n6
    errors, variances, count = [], [], len(motions_n6)
    for block in np.array_split(np.arange(count), min(_BLOCKS, count)):
        beside = len(block) // 2  # samples left out on either side
        first = max(0, block[0] - beside)
        without = slice(first, block[-1] + 1 + beside)
        covariance_ww = np.linalg.inv(inverse_nn[without, without])
        errors.append((covariance_ww @ coefficients_n6[without])[block - first])
        variances.append(np.diag(covariance_ww)[block - first])
    error_n6, variance_n = np.concatenate(errors), np.concatenate(variances)
    # Without drift only rounding remains; its covariance keeps the determinant above 0.
    rounding_66 = 10.0 ** (-2 * DIGITS) * np.eye(6)
    covariance_66 = error_n6.T @ (error_n6 / variance_n[:, None]) / len(error_n6) + rounding_66
    volume = len(error_n6) * np.linalg.slogdet(covariance_66)[1] + 6 * np.log(variance_n).sum()
    return -volume / 2, error_n6


def _median_norms(motions_n6: np.ndarray) -> tuple[float, float]:
    """Return the median distance in cm and the median angle in degrees of motions."""
    metres_n, radians_n = (np.linalg.norm(part, axis=1) for part in np.split(motions_n6, 2, axis=1))
    return 100 * float(np.median(metres_n)), math.degrees(float(np.median(radians_n)))
