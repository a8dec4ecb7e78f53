"""Fuses the depth of an image with that of its neighbours."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from distill_training.poses.image_pairs import Pair
from distill_training.teachers.depth_files.depth_scales import DepthScales
from distill_training.teachers.pairwise.depth_map import SAME_SURFACE, DepthMap
from distill_training.teachers.pairwise.fusion import fused_depth_map
from mote_localization.geometry import invert, on_same_surface, transform
from mote_localization.progress import track

_MIN_AGREEING = 2  # neighbours that fill a cell without a depth


def fuse_depth(
    maps: Mapping[int, DepthMap],
    confidence: Mapping[int, np.ndarray],
    scales: DepthScales,
    pairs: Sequence[Pair],
) -> dict[int, DepthMap]:
    """Return the fused depth map of each image whose scale is known.

    A cell's depth is the robust mean of its own depth and of that of its neighbours, where these
    show the same surface. A cell without a depth takes that of its neighbours where two or more
    agree: a single one may be wrong.

    Args:
        maps: Depth map of each image, unit of its depth, with its pose.
        confidence: Confidence (h, w) of each image's depth.
        scales: Scale of each image, and error of a depth.
        pairs: Images that overlap.
    """
    scaled = {i: _scaled(maps[i], scale) for i, scale in scales.scale.items()}
    neighbours: dict[int, list[int]] = {i: [] for i in scaled}
    for i, j in pairs:
        if i in scaled and j in scaled:
            neighbours[i].append(j)
            neighbours[j].append(i)
    fused = {}
    for i, one in track(scaled.items(), "fuse depth", len(scaled)):
        rays_hw3 = one.rays_hw3()
        points = [rays_hw3 * one.depth_hw[..., None]]
        weights = [np.where(np.isfinite(one.depth_hw), confidence[i], 0)]
        expected_hw = _expected_depth(one, [scaled[j] for j in neighbours[i]])
        for j in neighbours[i]:
            seen_hw3, cell_hw2 = _seen_by(scaled[j], one, expected_hw)
            row, column = np.moveaxis(cell_hw2, -1, 0)
            points.append(seen_hw3)
            weights.append(np.where(np.isfinite(seen_hw3[..., 2]), confidence[j][row, column], 0))
        weights_khw = np.stack(weights)
        own_hw, count_hw = weights_khw[0] > 0, (weights_khw > 0).sum(axis=0)
        fused[i] = fused_depth_map(
            one.grid,
            one.stride,
            one.T_map_cam,
            points,
            weights_khw * (own_hw | (count_hw >= _MIN_AGREEING)),
            scales.sigma[i],
            scales.error,
        )
    return fused


def _scaled(one: DepthMap, scale: float) -> DepthMap:
    return replace(one, depth_hw=scale * one.depth_hw, sigma_hw=scale * one.sigma_hw)


def _expected_depth(one: DepthMap, others: Sequence[DepthMap]) -> np.ndarray:
    """Return the depth (h, w) of an image; in its holes, the nearest of its neighbours' cells."""
    nearest_hw = np.full(one.depth_hw.shape, np.inf)
    for other in others:
        points_n3 = (other.rays_hw3() * other.depth_hw[..., None]).reshape(-1, 3)
        points_n3 = transform(invert(one.T_map_cam) @ other.T_map_cam, points_n3)
        points_n3 = points_n3[points_n3[:, 2] > 0]
        row_n, column_n, inside_n = _cells(one, points_n3)
        np.minimum.at(nearest_hw, (row_n[inside_n], column_n[inside_n]), points_n3[inside_n, 2])
    filled_hw = np.where(np.isfinite(nearest_hw), nearest_hw, np.nan)
    return np.where(np.isfinite(one.depth_hw), one.depth_hw, filled_hw)


def _seen_by(
    other: DepthMap, one: DepthMap, expected_hw: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the points (h, w, 3) of an image's cells as another image's depth has them.

    They are in the camera frame of the first image; NaN where the other one shows another surface,
    or nothing. Also the cells (h, w, 2) of the other image, row and column.
    """
    T_other_one = invert(other.T_map_cam) @ one.T_map_cam
    points_hw3 = transform(T_other_one, one.rays_hw3() * expected_hw[..., None])
    in_front_hw = points_hw3[..., 2] > 0
    points_hw3 = np.where(in_front_hw[..., None], points_hw3, 1)
    depth_hw, _ = other.sample(points_hw3)
    row, column, inside_hw = _cells(other, points_hw3)
    with np.errstate(invalid="ignore"):
        same_hw = on_same_surface(depth_hw, points_hw3[..., 2], SAME_SURFACE)
    depth_hw = np.where(in_front_hw & inside_hw & same_hw, depth_hw, np.nan)
    seen_hw3 = points_hw3 * (depth_hw / points_hw3[..., 2])[..., None]
    return transform(invert(T_other_one), seen_hw3), np.stack([row, column], axis=-1)


def _cells(one: DepthMap, points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return row and column (...) of the cell at points (..., 3), z above 0, and whether it exists.

    Rows and columns of points outside of the image are 0.
    """
    pixels = one.grid.project(points)
    cells = np.floor((np.nan_to_num(pixels, nan=-1e6) + 0.5) / one.stride)
    inside = ((cells >= 0) & (cells < one.depth_hw.shape[::-1])).all(axis=-1)
    column, row = np.moveaxis(np.where(inside[..., None], cells, 0).astype(int), -1, 0)
    return row, column, inside
