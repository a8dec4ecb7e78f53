"""Fuses what all pairs say of an image into one pointmap along its cells' rays."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from distill_training.common.robust import robust_mean
from distill_training.teachers.pairwise.observations import depth_along
from mote_localization.geometry import transform

# Mean confidence of a cell's points below which nobody knows where it is: sky, plain walls.
_LEAST_CONFIDENCE = 0.2


@dataclass(frozen=True)
class PairEstimate:
    """What one directed pair says of an image's cells, in the frame of the pair's first image."""

    points_n3: np.ndarray  # (..., 3), pair units, NaN = none
    confidence_n: np.ndarray  # (...), 0: nothing is known
    unit: float  # map units per pair unit
    T_cam_first: np.ndarray  # (4, 4) from the pair's first image to this one, map units


def fuse(said: Sequence[PairEstimate], rays_n3: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the depth (...) of an image's cells and how far their points are off, in map units.

    Averaged in the logarithm: errors grow with the depth, near cells and far ones are judged alike.

    Args:
        said: What the image's pairs say of it.
        rays_n3: The cells' rays (..., 3), z = 1.

    Returns:
        Depth, NaN where no pair sees the cell or none knows much of it, and the standard deviation
        of the point along its ray, by the spread between the pairs.
    """
    logs, weights = [], []
    for one in said:
        points = transform(one.T_cam_first, one.unit * one.points_n3)
        with np.errstate(invalid="ignore"):
            seen = (points * rays_n3).sum(axis=-1) > 0
        logs.append(np.log(depth_along(rays_n3, np.where(seen[..., None], points, 1))))
        weights.append(np.where(seen, one.confidence_n, 0))
    weight = np.stack(weights)
    known = weight.sum(axis=0) >= _LEAST_CONFIDENCE * np.maximum((weight > 0).sum(axis=0), 1)
    log_depth, deviation = robust_mean(np.stack(logs), np.where(known, weight, 0))
    depth = np.exp(log_depth)
    return depth, deviation * depth * np.linalg.norm(rays_n3, axis=-1)
