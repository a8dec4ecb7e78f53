"""From dense pointmaps to the student's cells."""

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from distill_training.teachers.pairwise.pair_predictor import Pointmap
from mote_localization.camera import Camera, cell_pixels

_SIDE = 4  # samples along each side of a cell
_SAME_SURFACE = 0.05  # samples nearer than this share of the cell's depth lie on its surface


def reduce_to_cells(
    pointmap: Pointmap, network: Camera, grid: Camera, stride: int
) -> tuple[Tensor, Tensor]:
    """Return the point and confidence of every cell: confidence-weighted, of one surface.

    The surface is the one at the weighted median depth of the cell's samples: a plain mean over a
    depth edge would stand in the air.

    Args:
        pointmap: What a predictor said of a batch of images.
        network: The camera of its pixels.
        grid: The camera whose cells are asked for; it sees the same, at another size or crop.
        stride: Pixels of `grid` per cell side.

    Returns:
        Points (b, h, w, 3), NaN where no pixel was seen, and confidence (b, h, w), 0 there.
    """
    pixels_hwk2 = _sample_pixels(network, grid, stride)
    size = np.array([network.width, network.height])
    seen_hwk = torch.from_numpy(((pixels_hwk2 >= 0) & (pixels_hwk2 < size)).all(axis=-1))
    columns, rows = torch.from_numpy(pixels_hwk2.clip(0, size - 1)).unbind(-1)
    points_bhwk3 = pointmap.points_bhw3[:, rows, columns]
    seen_bhwk = seen_hwk.to(points_bhwk3.device) & points_bhwk3.isfinite().all(dim=-1)
    weight_bhwk = torch.where(seen_bhwk, pointmap.confidence_bhw[:, rows, columns], 0)
    distance_bhwk = torch.where(seen_bhwk, points_bhwk3.norm(dim=-1), torch.inf)
    middle_bhw1 = _weighted_median(distance_bhwk, weight_bhwk)
    weight_bhwk = torch.where(
        (distance_bhwk - middle_bhw1).abs() <= _SAME_SURFACE * middle_bhw1, weight_bhwk, 0
    )
    total_bhw = weight_bhwk.sum(dim=-1)
    points_bhwk3 = torch.where(weight_bhwk[..., None] > 0, points_bhwk3, 0)
    points_bhw3 = (weight_bhwk[..., None] * points_bhwk3).sum(dim=-2) / total_bhw[..., None]
    return points_bhw3, total_bhw / _SIDE**2


@lru_cache(maxsize=64)
def _sample_pixels(network: Camera, grid: Camera, stride: int) -> np.ndarray:
    """Return the network's pixels (h, w, samples, 2) that lie in each cell."""
    offsets = (np.arange(_SIDE) + 0.5) / _SIDE * stride - stride / 2
    window_k2 = np.stack(np.meshgrid(offsets, offsets), axis=-1).reshape(-1, 2)
    pixels_hwk2 = cell_pixels(grid.width, grid.height, stride)[..., None, :] + window_k2
    return np.floor(network.project(grid.rays(pixels_hwk2)) + 0.5).astype(np.int64)


def _weighted_median(values: Tensor, weights: Tensor) -> Tensor:
    """Return the weighted median along the last axis, kept with length 1."""
    ordered, order = values.sort(dim=-1)
    share = weights.gather(-1, order).cumsum(dim=-1)
    position = (share < share[..., -1:] / 2).sum(dim=-1, keepdim=True)
    return ordered.gather(-1, position.clamp(max=values.shape[-1] - 1))
