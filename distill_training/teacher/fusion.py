"""Fuses what all pairs say of an image into one pointmap along its cells' rays."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from distill_training.teacher.observations import depth_along
from distill_training.teacher.robust import robust_mean
from mote_localization.geometry import transform


@dataclass(frozen=True)
class Said:
    """What one directed pair says of an image's cells, in the frame of the pair's first image."""

    points_n3: np.ndarray  # (..., 3), pair units, NaN = none
    confidence_n: np.ndarray  # (...)
    unit: float  # map units per pair unit
    T_cam_first: np.ndarray  # (4, 4) from the pair's first image to this one, map units


def fuse(said: Sequence[Said], rays_n3: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the depth (...) of an image's cells and how far their points are off, in map units.

    Args:
        said: What the image's pairs say of it.
        rays_n3: The cells' rays (..., 3), z = 1.

    Returns:
        Depth, NaN where no pair sees the cell, and the standard deviation of the point along its
        ray, by the spread between the pairs.
    """
    depths, weights = [], []
    for one in said:
        points = transform(one.T_cam_first, one.unit * one.points_n3)
        depths.append(depth_along(rays_n3, points))
        weights.append(np.where(np.isfinite(depths[-1]), one.confidence_n, 0))
    depth, deviation = robust_mean(np.stack(depths), np.stack(weights))
    return depth, deviation * np.linalg.norm(rays_n3, axis=-1)
