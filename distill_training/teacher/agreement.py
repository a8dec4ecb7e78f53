"""How well the fused pointmaps of overlapping images agree: what the teacher is off by."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from distill_training.teacher.depth_map import SAME_SURFACE, DepthMap
from distill_training.teacher.observations import sampled_cells
from mote_localization.geometry import invert, transform

_NORMAL_MEDIAN = 0.6745  # median absolute value of normal errors over their standard deviation
_ENOUGH = 100  # comparisons


@dataclass(frozen=True)
class Agreement:
    """How far pointmaps are apart where they show the same surface."""

    distance: float  # median, along the ray, units of the map; NaN where nothing overlaps
    sigma_factor: float  # by which the sigmas must grow to explain it, 1 or more


def measure_agreement(maps: dict[int, DepthMap], pairs: Iterable[tuple[int, int]]) -> Agreement:
    """Compare sampled cells of images with what their partners show there.

    Errors that all pairs of an image share do not show in their spread, but they show here, and so
    do those of the poses.

    Args:
        maps: Image -> pointmap.
        pairs: Ordered pairs of images to compare.
    """
    compared = [np.zeros((2, 0)), *(_differences(maps[i], maps[j]) for i, j in pairs)]
    differences, sigmas = np.concatenate(compared, axis=1)
    if len(differences) < _ENOUGH:
        return Agreement(float("nan"), 1.0)
    normalized = float(np.median(differences / sigmas))
    return Agreement(float(np.median(differences)), max(1.0, normalized / _NORMAL_MEDIAN))


def _differences(one: DepthMap, other: DepthMap) -> np.ndarray:
    """Return distances along the other image's rays, where smooth, and their sigmas: (2, n)."""
    at = sampled_cells(*one.depth_hw.shape)
    rays = one.rays_hw3()[at]
    points = transform(invert(other.T_map_cam) @ one.T_map_cam, rays * one.depth_hw[at][:, None])
    z, sigma = points[:, 2], one.sigma_hw[at]
    with np.errstate(invalid="ignore"):
        depth, other_sigma = other.along(np.where(z[:, None] > 0, points, 1))
        same = np.abs(z - depth) < SAME_SURFACE * depth
    distance = np.abs(1 - depth / z) * np.linalg.norm(points, axis=1)
    return np.stack([distance, np.hypot(sigma, other_sigma)])[:, same]
