"""Robust statistics: weighted median, Cauchy weights, M-estimate of a mean, error of a median."""

import math

import numpy as np

_TUNING = 2.0  # robust standard deviations at which a Cauchy weight is one half
_STEPS = 5
NORMAL = 1.4826  # standard deviation of normal errors over their median absolute value
_MEDIAN_ERROR = 1.2533  # standard error of a median of normal values over that of their mean
_MIN_SLOPE = 0.3  # mean slope of the influence over the mean weight; keeps the deviation finite
_MIN_SPREAD = 1e-6


def weighted_median(values: np.ndarray, weights: np.ndarray, axis: int) -> np.ndarray:
    """Return the weighted median along an axis; values of weight 0 may be NaN.

    NaN where all weights are 0.
    """
    return _quantile(values, weights, axis, 0.5)


def _quantile(
    values: np.ndarray, weights: np.ndarray, axis: int, fraction: float | np.ndarray
) -> np.ndarray:
    """Return the value below which a fraction of the weight lies."""
    values = np.where(weights > 0, values, np.inf)
    order = np.argsort(values, axis=axis)
    ordered = np.take_along_axis(values, order, axis)
    below = np.cumsum(np.take_along_axis(weights, order, axis), axis=axis)
    bound = fraction * np.take(below, [-1], axis=axis)
    position = (below < bound).sum(axis=axis, keepdims=True)
    middle = np.take_along_axis(ordered, position.clip(max=values.shape[axis] - 1), axis)
    return np.where(np.isfinite(middle), middle, np.nan).squeeze(axis)


def cauchy_weight(residual: np.ndarray, scale: float | np.ndarray) -> np.ndarray:
    """Return the weights of a Cauchy M-estimator: 1 at residual 0, 1/2 at the scale."""
    return 1 / (1 + (residual / scale) ** 2)


def residual_scale(residuals: np.ndarray) -> float:
    """Return a scale for `cauchy_weight`: three times the median residual, above 0."""
    return max(3 * float(np.median(residuals)), 1e-12)


def robust_mean(values: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the robust weighted mean along the first axis and its standard deviation.

    The mean is an M-estimate with Cauchy weights that starts at the weighted median. Its deviation
    follows from the spread of the values (Huber 1981, eq. 6.6), with a correction for few values.
    The scale of the weights is at least the median spread of all means: a few values may be close
    together by chance.

    Args:
        values: (k, ...); ignored where the weight is 0.
        weights: (k, ...), 0 or more.

    Returns:
        Means and standard deviations, NaN where all weights are 0. The deviation of a single value
        is infinite.
    """
    values = np.where(weights > 0, values, 0)
    mean = weighted_median(values, weights, axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        count = weights.sum(axis=0) ** 2 / (weights**2).sum(axis=0)
        # One of n values is the median itself; this quantile is the median of the others.
        middle = np.nan_to_num(0.5 + 0.5 / count, nan=0.5)
        spread = NORMAL * _quantile(np.abs(values - mean), weights, 0, middle)
        usual = weighted_median(spread.ravel(), (count > 1 + 1e-6).ravel().astype(float), axis=0)
        scale = _TUNING * np.fmax(np.fmax(spread, usual), _MIN_SPREAD)
        for _ in range(_STEPS):
            robust = weights * cauchy_weight(values - mean, scale)
            mean = (robust * values).sum(axis=0) / robust.sum(axis=0)
        relative = (values - mean) / scale
        cauchy = cauchy_weight(values - mean, scale)
        robust = weights * cauchy
        slope = (weights * (1 - relative**2) * cauchy**2).sum(axis=0)
        slope = np.maximum(slope, _MIN_SLOPE * robust.sum(axis=0))
        small = np.where(count > 1 + 1e-6, count / (count - 1), np.inf)
        variance = (robust**2 * (values - mean) ** 2).sum(axis=0) / slope**2
        deviation = np.where(np.isinf(small), np.inf, np.sqrt(variance * small))
    return mean, np.where(np.isnan(mean), np.nan, deviation)


def row_medians(values_bn: np.ndarray) -> np.ndarray:
    """Return the (lower) median of each row, ignoring NaN; NaN for a row of NaN."""
    ordered = np.sort(values_bn, axis=1)  # NaN last
    count = np.isfinite(values_bn).sum(axis=1)
    return ordered[np.arange(len(ordered)), np.maximum(count - 1, 0) // 2]


def median_error(deviations: np.ndarray) -> float:
    """Return the standard error of a median, from the absolute deviations from it."""
    spread = NORMAL * float(np.median(deviations))
    return _MEDIAN_ERROR * spread / math.sqrt(len(deviations))
