"""Fusion of several predictions of one image into one depth per cell."""

from collections.abc import Sequence

import numpy as np

from distill_training.common.robust import robust_mean
from distill_training.teachers.pairwise.depth_map import DepthMap
from distill_training.teachers.pairwise.observations import depth_along
from mote_localization.camera import Camera

_MIN_CONFIDENCE = 0.2  # mean of a cell's predictions; below it are sky and plain walls
_MAX_SIGMA = 0.15  # fraction of the distance; cells with a larger sigma have no point


def fused_depth_map(
    grid: Camera,
    stride: int,
    T_map_cam: np.ndarray,
    points: Sequence[np.ndarray],
    confidence: Sequence[np.ndarray],
    unit_sigma: float,
    single_sigma: float = np.inf,
) -> DepthMap:
    """Return the depth map of an image from several predictions of it.

    Cells with an uncertain depth have none.

    Args:
        grid: Undistorted camera of the cells.
        stride: Side of a cell, px.
        T_map_cam: Pose of the image.
        points: As for `fuse`, (h, w, 3) each.
        confidence: As for `fuse`, (h, w) each.
        unit_sigma: Expected error of the image's scale, relative.
        single_sigma: Expected error, relative to the distance, of cells with a single prediction.
    """
    rays_hw3 = grid.cell_rays(stride)
    depth_hw, sigma_hw = fuse(points, confidence, rays_hw3)
    distance_hw = depth_hw * np.linalg.norm(rays_hw3, axis=-1)
    sigma_hw = np.where(np.isposinf(sigma_hw), single_sigma * distance_hw, sigma_hw)
    sigma_hw = np.hypot(sigma_hw, unit_sigma * distance_hw)
    with np.errstate(invalid="ignore"):
        depth_hw = np.where(sigma_hw <= _MAX_SIGMA * distance_hw, depth_hw, np.nan)
    return DepthMap(
        grid,
        stride,
        T_map_cam,
        depth_hw.astype(np.float32),
        np.where(np.isfinite(depth_hw), sigma_hw, np.inf).astype(np.float32),
    )


def fuse(
    points: Sequence[np.ndarray], confidence: Sequence[np.ndarray], rays_n3: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the depth (...) of the cells of an image and its standard deviation, map units.

    Depths are averaged in the logarithm, since their errors are proportional to them.

    Args:
        points: Predicted points (..., 3) of each source, camera frame, map units; NaN = none.
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
