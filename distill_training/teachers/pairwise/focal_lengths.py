"""Focal lengths from pointmaps.

In the camera frame of its own image, each point lies on the ray of its cell.
"""

import numpy as np

from distill_training.common.robust import NORMAL, cauchy_weight, row_medians
from distill_training.teachers.pairwise.observations import Observations

_STEPS = 10
_MIN_SIGMA = 0.005  # of the log focal ratio; pointmaps alone do not determine it better


def estimate_log_focal_ratios(
    observations: Observations, lens_i: np.ndarray
) -> tuple[np.ndarray, float]:
    """Estimate the log of assumed over true focal length of every lens.

    A cell at p (on the plane z = 1, by the assumed focal length) has x / z = ratio * p. The ratio
    is the least-squares solution with Cauchy weights, and the result is the median over all
    pointmaps of a lens. DUSt3R (CVPR 2024, section 3.3) solves for the focal length instead; here
    the error is in x / z, since p is exact.

    Args:
        observations: Pair predictions.
        lens_i: Lens of each image.

    Returns:
        log_focal_ratio_l, and the standard deviation of the estimate from one pointmap.
    """
    o = observations
    ray_en2 = o.rays_in3[o.first_e, :, :2]
    point_en2 = o.own_en3[..., :2] / np.maximum(o.own_en3[..., 2:], 1e-6)
    weight_en = o.own_weight_en
    for _ in range(_STEPS):
        moment = (weight_en * (point_en2 * ray_en2).sum(axis=-1)).sum(axis=1)
        ratio_e = moment / (weight_en * (ray_en2**2).sum(axis=-1)).sum(axis=1).clip(1e-12)
        error_en = np.linalg.norm(point_en2 - ratio_e[:, None, None] * ray_en2, axis=-1)
        scale_e = row_medians(np.where(o.own_weight_en > 0, error_en, np.nan))
        weight_en = o.own_weight_en * cauchy_weight(error_en, np.maximum(scale_e, 1e-9)[:, None])
    log_e = np.log(np.maximum(ratio_e, 1e-3))
    lens_e = lens_i[o.first_e]
    log_ratio_l = np.array(
        [np.median(log_e[lens_e == lens]) for lens in range(lens_i.max(initial=-1) + 1)]
    )
    deviation = NORMAL * float(np.median(np.abs(log_e - log_ratio_l[lens_e])))
    return log_ratio_l, max(deviation, _MIN_SIGMA)
