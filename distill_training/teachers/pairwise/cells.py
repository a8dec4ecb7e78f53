"""Reduction of dense pointmaps to cells."""

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from distill_training.teachers.pairwise.pair_predictor import Pointmap
from mote_localization.camera import Camera, cell_pixels
from mote_localization.geometry import on_same_surface

_SIDE = 4  # samples along each side of a cell
_SAME_SURFACE = 0.05  # fraction of the cell's distance: samples this near are on its surface


def reduce_to_cells(
    pointmap: Pointmap, network: Camera, grid: Camera, stride: int
) -> tuple[Tensor, Tensor]:
    """Return the confidence-weighted mean point and the confidence of every cell.

    Only samples near the weighted median distance of the cell count. A mean of all samples would
    lie between two surfaces where a cell covers a depth edge.

    Args:
        pointmap: Predicted for a batch of images.
        network: Camera of the pointmap's pixels.
        grid: Camera of the cells; it has the same view with another size or crop.
        stride: Side of a cell, px of `grid`.

    Returns:
        Points (b, h, w, 3), NaN in cells without a valid pixel, and confidence (b, h, w), 0 there.
    """
    pixels_hwk2 = _sample_pixels(network, grid, stride)
    size = np.array([network.width, network.height])
    inside_hwk = torch.from_numpy(((pixels_hwk2 >= 0) & (pixels_hwk2 < size)).all(axis=-1))
    columns, rows = torch.from_numpy(pixels_hwk2.clip(0, size - 1)).unbind(-1)
    points_bhwk3 = pointmap.points_bhw3[:, rows, columns]
    valid_bhwk = inside_hwk.to(points_bhwk3.device) & points_bhwk3.isfinite().all(dim=-1)
    weight_bhwk = torch.where(valid_bhwk, pointmap.confidence_bhw[:, rows, columns], 0)
    distance_bhwk = torch.where(valid_bhwk, points_bhwk3.norm(dim=-1), torch.inf)
    median_bhw1 = _weighted_median(distance_bhwk, weight_bhwk)
    on_surface_bhwk = on_same_surface(distance_bhwk, median_bhw1, _SAME_SURFACE)
    weight_bhwk = torch.where(on_surface_bhwk, weight_bhwk, 0)
    total_bhw = weight_bhwk.sum(dim=-1)
    points_bhwk3 = torch.where(weight_bhwk[..., None] > 0, points_bhwk3, 0)
    points_bhw3 = (weight_bhwk[..., None] * points_bhwk3).sum(dim=-2) / total_bhw[..., None]
    return points_bhw3, total_bhw / _SIDE**2


@lru_cache(maxsize=64)
def _sample_pixels(network: Camera, grid: Camera, stride: int) -> np.ndarray:
    """Return the network's pixels (x, y) at the samples of each cell, (h, w, samples, 2)."""
    offsets = (np.arange(_SIDE) + 0.5) / _SIDE * stride - stride / 2
    window_k2 = np.stack(np.meshgrid(offsets, offsets), axis=-1).reshape(-1, 2)
    pixels_hwk2 = cell_pixels(grid.width, grid.height, stride)[..., None, :] + window_k2
    return np.floor(network.project(grid.rays(pixels_hwk2)) + 0.5).astype(np.int64)


def _weighted_median(values: Tensor, weights: Tensor) -> Tensor:
    """Return the weighted median along the last axis, which is kept with length 1."""
    ordered, order = values.sort(dim=-1)
    cumulative = weights.gather(-1, order).cumsum(dim=-1)
    position = (cumulative < cumulative[..., -1:] / 2).sum(dim=-1, keepdim=True)
    return ordered.gather(-1, position.clamp(max=values.shape[-1] - 1))
