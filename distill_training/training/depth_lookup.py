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


def nearest_sample(values_bhw: Tensor, x_bn: Tensor, y_bn: Tensor) -> Tensor:
    """Return the values (B, n) of the samples nearest to positions, the outermost beyond them."""
    rows, columns = values_bhw.shape[1:]
    j, i = (x_bn + 0.5).clamp(0, columns - 1).long(), (y_bn + 0.5).clamp(0, rows - 1).long()
    return values_bhw.flatten(1).gather(1, i * columns + j)


def depth_at(depth_bhw: Tensor, x_bn: Tensor, y_bn: Tensor) -> Tensor:
    """Return the depths (B, n) at positions; 0 where unknown.

    Where the four samples around a position are on one surface, 1/depth is interpolated linearly,
    which is exact on planes; it is extrapolated beyond the outermost samples. Elsewhere the depth
    of the nearest sample is returned.
    """
    rows, columns = depth_bhw.shape[1:]
    j, i = x_bn.clamp(0, columns - 2).long(), y_bn.clamp(0, rows - 2).long()
    first, depth_bk = i * columns + j, depth_bhw.flatten(1)
    corners_4bn = torch.stack(
        [depth_bk.gather(1, first + offset) for offset in (0, 1, columns, columns + 1)]
    )
    one_surface = same_surface(corners_4bn.amin(0), corners_4bn.amax(0))
    a, b, c, d = corners_4bn.reciprocal()
    u, v = x_bn - j, y_bn - i
    upper, lower = a + (b - a) * u, c + (d - c) * u
    interpolated = (upper + (lower - upper) * v).reciprocal()
    return torch.where(one_surface, interpolated, nearest_sample(depth_bhw, x_bn, y_bn))
