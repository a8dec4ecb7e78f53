"""Agreement between the fused depth maps of overlapping images."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from distill_training.teachers.pairwise.depth_map import SAME_SURFACE, DepthMap
from distill_training.teachers.pairwise.observations import sampled_cells
from mote_localization.geometry import invert, transform

_log = logging.getLogger(__name__)
_MIN_AGREEMENT = 0.7  # fraction of comparable cells that agree in a good reconstruction
_NORMAL_MEDIAN = 0.6745  # median absolute error over standard deviation, normal distribution
_MIN_COMPARISONS = 100


@dataclass(frozen=True)
class Agreement:
    """How far overlapping depth maps are apart where they show the same surface."""

    distance: float  # median along the ray, map units; NaN without enough overlap
    fraction: float  # of comparable cells that agree within a tenth of the depth; NaN likewise
    sigma_factor: float  # factor for the sigmas that explains the distances, 1 or more


def check_agreement(maps: dict[int, DepthMap], pairs: Iterable[tuple[int, int]]) -> Agreement:
    """Return the agreement, see `measure_agreement`; warn where it is poor."""
    agreement = measure_agreement(maps, pairs)
    if agreement.fraction < _MIN_AGREEMENT:
        _log.warning(
            "only %.0f %% of the cells that overlapping images show agree within a tenth of their "
            "depth, expected %.0f %% or more; a map of this reconstruction will be inaccurate",
            100 * agreement.fraction,
            100 * _MIN_AGREEMENT,
        )
    return agreement


def measure_agreement(maps: dict[int, DepthMap], pairs: Iterable[tuple[int, int]]) -> Agreement:
    """Compare sampled cells of images with the depth maps of their partners.

    Errors that all pairs of an image have in common do not show in the spread between these pairs,
    but they show here, and so do errors of the poses. A point behind the surface of the partner may
    be occluded and does not count; a point in front of that surface always counts.

    Args:
        maps: Depth map of each image.
        pairs: Ordered pairs of images to compare.
    """
    compared = [np.zeros((3, 0)), *(_differences(maps[i], maps[j]) for i, j in pairs)]
    differences, sigmas, relative = np.concatenate(compared, axis=1)
    if len(differences) < _MIN_COMPARISONS:
        return Agreement(float("nan"), float("nan"), 1.0)
    normalized = float(np.median(differences / sigmas))
    fraction = float((relative < SAME_SURFACE).mean())
    sigma_factor = max(1.0, normalized / _NORMAL_MEDIAN)
    return Agreement(float(np.median(differences)), fraction, sigma_factor)


def _differences(one: DepthMap, other: DepthMap) -> np.ndarray:
    """Return differences between comparable cells of two depth maps, (3, n).

    Distances along the other camera's rays, their sigmas, and distances over the depth.
    """
    at = sampled_cells(*one.depth_hw.shape)
    rays = one.rays_hw3()[at]
    points = transform(invert(other.T_map_cam) @ one.T_map_cam, rays * one.depth_hw[at][:, None])
    z, sigma = points[:, 2], one.sigma_hw[at]
    with np.errstate(invalid="ignore"):
        depth, other_sigma = other.sample(np.where(z[:, None] > 0, points, 1))
        comparable = (z > 0) & (z < (1 + SAME_SURFACE) * depth)
        relative = np.abs(1 - depth / z)
    distance = relative * np.linalg.norm(points, axis=1)
    return np.stack([distance, np.hypot(sigma, other_sigma), relative])[:, comparable]
