"""Focal lengths from pointmaps: in its own frame an image's points lie on the rays of its cells."""

import numpy as np

from distill_training.common.robust import cauchy_weight, row_medians
from distill_training.teachers.pairwise.observations import Observations

_STEPS = 10
_LEAST_SIGMA = 0.005  # log: no lens is known better from pointmaps alone


def estimate_spreads(observations: Observations, lens_i: np.ndarray) -> tuple[np.ndarray, float]:
    """Estimate the logarithm of assumed over true focal length of every lens.

    A cell at p (of z = 1 by the assumed focal length) has x / z = p times that factor; solved for
    the factor by least squares with Cauchy weights, since p is exact and x / z is not (the direct
    fit of DUSt3R, CVPR 2024, section 3.3, turned round); then the median over all pointmaps.

    Args:
        observations: What pairs say.
        lens_i: Which lens each image was taken with.

    Returns:
        log_spread_l, and the standard deviation (log) of what a single pointmap says of it.
    """
    o = observations
    across_en2 = o.rays_in3[o.first_e, :, :2]
    tangent_en2 = o.own_en3[..., :2] / np.maximum(o.own_en3[..., 2:], 1e-6)
    weight_en = o.own_weight_en
    for _ in range(_STEPS):
        moment = (weight_en * (tangent_en2 * across_en2).sum(axis=-1)).sum(axis=1)
        factor_e = moment / (weight_en * (across_en2**2).sum(axis=-1)).sum(axis=1).clip(1e-12)
        error_en = np.linalg.norm(tangent_en2 - factor_e[:, None, None] * across_en2, axis=-1)
        scale_e = row_medians(np.where(o.own_weight_en > 0, error_en, np.nan))
        weight_en = o.own_weight_en * cauchy_weight(error_en, np.maximum(scale_e, 1e-9)[:, None])
    log_e = np.log(np.maximum(factor_e, 1e-3))
    lens_e = lens_i[o.first_e]
    log_spread_l = np.array(
        [np.median(log_e[lens_e == lens]) for lens in range(lens_i.max(initial=-1) + 1)]
    )
    deviation = 1.4826 * float(np.median(np.abs(log_e - log_spread_l[lens_e])))
    return log_spread_l, max(deviation, _LEAST_SIGMA)
