"""Values of depth images between their samples, for batches of positions.

Positions are in samples: an integer is the centre of a sample.
"""

import torch
from torch import Tensor

from mote_localization.geometry import on_same_surface

_SURFACE_TOLERANCE = 0.1  # fraction of the depth by which neighbouring samples of a surface differ


def same_surface(nearest: Tensor, farthest: Tensor) -> Tensor:
    """Return where samples are on one surface, by their extreme depths; 0: unknown."""
    return (nearest > 0) & on_same_surface(farthest, nearest, _SURFACE_TOLERANCE)


def within(at: Tensor, size: int) -> Tensor:
    """Return where coordinates are within an image of this width or height."""
    return (at > -0.5) & (at < size - 0.5)


def nearest_sample(values_bhw: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Return the values of the samples nearest to positions (B, ...); outside, of the outermost."""
    rows, columns = values_bhw.shape[1:]
    j, i = (x + 0.5).clamp(0, columns - 1).long(), (y + 0.5).clamp(0, rows - 1).long()
    return _take(values_bhw, i * columns + j)


def depth_at(depth_bhw: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Return the depths at positions (B, ...); 0 where unknown.

    Where the four samples around a position are on one surface, 1/depth is interpolated linearly,
    which is exact on planes; it is extrapolated beyond the outermost samples. Elsewhere the depth
    of the nearest sample is returned.
    """
    rows, columns = depth_bhw.shape[1:]
    j, i = x.clamp(0, columns - 2).long(), y.clamp(0, rows - 2).long()
    first = i * columns + j
    corners = torch.stack(
        [_take(depth_bhw, first + offset) for offset in (0, 1, columns, columns + 1)]
    )
    one_surface = same_surface(corners.amin(0), corners.amax(0))
    a, b, c, d = corners.reciprocal()
    u, v = x - j, y - i
    upper, lower = a + (b - a) * u, c + (d - c) * u
    interpolated = (upper + (lower - upper) * v).reciprocal()
    return torch.where(one_surface, interpolated, nearest_sample(depth_bhw, x, y))


def _take(values_bhw: Tensor, index: Tensor) -> Tensor:
    """Return values by their index (B, ...) in the flattened image."""
    return values_bhw.flatten(1).gather(1, index.flatten(1)).view_as(index)
