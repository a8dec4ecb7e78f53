"""Fusion of the pairwise predictions of one image into one depth per cell."""

from collections.abc import Sequence

import numpy as np

from distill_training.common.robust import robust_mean
from distill_training.teachers.pairwise.observations import depth_along

_MIN_CONFIDENCE = 0.2  # mean of a cell's predictions; below it are sky and plain walls


def fuse(
    points: Sequence[np.ndarray], confidence: Sequence[np.ndarray], rays_n3: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the depth (...) of the cells of an image and its standard deviation, map units.

    Depths are averaged in the logarithm, since their errors are proportional to them.

    Args:
        points: Points (..., 3) that each pair predicts, camera frame, map units; NaN = none.
        confidence: Confidence (...) of these points, 0 = no information.
        rays_n3: Rays of the cells (..., 3), z = 1.

    Returns:
        Depth, NaN in cells without a point or with too little confidence, and the standard
        deviation of the point along its ray, from the spread of the predictions.
    """
    points_kn3 = np.stack(points)
    with np.errstate(invalid="ignore"):
        in_front = (points_kn3 * rays_n3).sum(axis=-1) > 0
    log_depths = np.log(depth_along(rays_n3, np.where(in_front[..., None], points_kn3, 1)))
    weight = np.where(in_front, np.stack(confidence), 0)
    known = weight.sum(axis=0) >= _MIN_CONFIDENCE * np.maximum((weight > 0).sum(axis=0), 1)
    log_depth, deviation = robust_mean(log_depths, np.where(known, weight, 0))
    depth = np.exp(log_depth)
    return depth, deviation * depth * np.linalg.norm(rays_n3, axis=-1)
