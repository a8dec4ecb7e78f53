"""How well the fused pointmaps of overlapping images agree: what the teacher is off by."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from distill_training.teachers.pairwise.depth_map import SAME_SURFACE, DepthMap
from distill_training.teachers.pairwise.observations import sampled_cells
from mote_localization.geometry import invert, transform

_NORMAL_MEDIAN = 0.6745  # median absolute value of normal errors over their standard deviation
_ENOUGH = 100  # comparisons


@dataclass(frozen=True)
class Agreement:
    """How far pointmaps are apart where they show the same surface."""

    distance: float  # median, along the ray, units of the map; NaN where nothing overlaps
    share: float  # of what can be compared that agrees to a tenth of the depth; NaN likewise
    sigma_factor: float  # by which the sigmas must grow to explain it, 1 or more


def measure_agreement(maps: dict[int, DepthMap], pairs: Iterable[tuple[int, int]]) -> Agreement:
    """Compare sampled cells of images with what their partners show there.

    Errors that all pairs of an image share do not show in their spread, but they show here, and so
    do those of the poses. What lies behind the partner's surface may be hidden by it, and does not
    count; what lies before it has no excuse.

    Args:
        maps: Image -> pointmap.
        pairs: Ordered pairs of images to compare.
    """
    compared = [np.zeros((3, 0)), *(_differences(maps[i], maps[j]) for i, j in pairs)]
    differences, sigmas, relative = np.concatenate(compared, axis=1)
    if len(differences) < _ENOUGH:
        return Agreement(float("nan"), float("nan"), 1.0)
    normalized = float(np.median(differences / sigmas))
    share = float((relative < SAME_SURFACE).mean())
    return Agreement(float(np.median(differences)), share, max(1.0, normalized / _NORMAL_MEDIAN))


def _differences(one: DepthMap, other: DepthMap) -> np.ndarray:
    """Return distances along the other image's rays, where smooth, with what is expected of them.

    Returns:
        Distances, their sigmas, and the distances over the depth: (3, n).
    """
    at = sampled_cells(*one.depth_hw.shape)
    rays = one.rays_hw3()[at]
    points = transform(invert(other.T_map_cam) @ one.T_map_cam, rays * one.depth_hw[at][:, None])
    z, sigma = points[:, 2], one.sigma_hw[at]
    with np.errstate(invalid="ignore"):
        depth, other_sigma = other.along(np.where(z[:, None] > 0, points, 1))
        comparable = (z > 0) & (z < (1 + SAME_SURFACE) * depth)
        relative = np.abs(1 - depth / z)
    distance = relative * np.linalg.norm(points, axis=1)
    return np.stack([distance, np.hypot(sigma, other_sigma), relative])[:, comparable]
