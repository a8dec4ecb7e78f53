"""Fusion of the pairwise predictions of one image into one depth per cell."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from distill_training.common.robust import robust_mean
from distill_training.teachers.pairwise.observations import depth_along
from mote_localization.geometry import transform

_MIN_CONFIDENCE = 0.2  # mean of a cell's predictions; below it are sky and plain walls


@dataclass(frozen=True)
class PairEstimate:
    """Prediction of one directed pair for the cells of an image."""

    points_n3: np.ndarray  # (..., 3), first camera of the pair, pair units, NaN = none
    confidence_n: np.ndarray  # (...), 0 = no information
    unit: float  # map units per pair unit
    T_cam_first: np.ndarray  # (4, 4), from the first camera to that of the image, map units


def fuse(estimates: Sequence[PairEstimate], rays_n3: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the depth (...) of the cells of an image and its standard deviation, map units.

    The estimates are averaged in the logarithm, since errors are proportional to the depth.

    Args:
        estimates: All pair estimates for the image.
        rays_n3: Rays of the cells (..., 3), z = 1.

    Returns:
        Depth, NaN in cells without an estimate or with too little confidence, and the standard
        deviation of the point along its ray, from the spread of the estimates.
    """
    logs, weights = [], []
    for one in estimates:
        points = transform(one.T_cam_first, one.unit * one.points_n3)
        with np.errstate(invalid="ignore"):
            in_front = (points * rays_n3).sum(axis=-1) > 0
        logs.append(np.log(depth_along(rays_n3, np.where(in_front[..., None], points, 1))))
        weights.append(np.where(in_front, one.confidence_n, 0))
    weight = np.stack(weights)
    known = weight.sum(axis=0) >= _MIN_CONFIDENCE * np.maximum((weight > 0).sum(axis=0), 1)
    log_depth, deviation = robust_mean(np.stack(logs), np.where(known, weight, 0))
    depth = np.exp(log_depth)
    return depth, deviation * depth * np.linalg.norm(rays_n3, axis=-1)
