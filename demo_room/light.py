"""Soft light of the demo room, computed once and baked into the textures.

Each rectangle is lit on a coarse grid: ambient light from the rays that are not stopped nearby, the
window and the lamps with their shadows; and on a finer grid by the sun that comes in at the window.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from demo_room.carpentry import Block, Rectangle

SOFT_CELL_M = 0.11  # grid of the soft light
SUN_CELL_M = 0.03  # grid of the sun patch
AMBIENT_REACH_M = 1.1  # an obstacle farther than this darkens nothing
SHADOW_AREA_M2 = 0.1  # blocks with a smaller side cast no shadow
RAYS_A_CHUNK = 20_000


@dataclass(frozen=True)
class Lamp:
    """A light of a small area, seen as a few points (m, map frame)."""

    points_n3: np.ndarray
    power_3: tuple[float, float, float]  # irradiance at 1 m, RGB
    facing_3: tuple[float, float, float] | None = None  # a window shines to one side only


@dataclass(frozen=True)
class Sun:
    """Parallel light through panes (low and high corners) in the wall at x = `wall_x`."""

    towards_3: np.ndarray  # unit vector to the sun
    wall_x: float
    panes: tuple[tuple[float, float, float, float], ...]  # y0, z0, y1, z1
    power_3: tuple[float, float, float]


@dataclass(frozen=True)
class Lighting:
    """All the lights of a room."""

    ambient_3: tuple[float, float, float]
    lamps: tuple[Lamp, ...]
    sun: Sun


def first_hit(
    blocks: Sequence[Block], origins_n3: np.ndarray, directions_n3: np.ndarray
) -> np.ndarray:
    """Distance (n,) in units of the direction to the first block; 0 inside one, inf where none is.

    Slab test (Kay and Kajiya 1986) in the axes of each block; float32 rays.
    """
    nearest_n = np.full(len(origins_n3), np.inf, np.float32)
    inverses = [_inverse(directions_n3[:, k]) for k in range(3)]
    for block in blocks:
        starts = [origins_n3[:, k] - np.float32(block.centre_3[k]) for k in range(3)]
        steps = inverses
        if block.turn:
            starts = [*block.unturned(starts[0], starts[1]), starts[2]]
            turned = block.unturned(directions_n3[:, 0], directions_n3[:, 1])
            steps = [*map(_inverse, turned), inverses[2]]
        enter_n, leave_n = np.float32(0.0), nearest_n
        for start_n, inverse_n, half in zip(starts, steps, block.half_3, strict=True):
            reach_n = np.float32(half) * np.abs(inverse_n)
            middle_n = start_n * inverse_n
            enter_n = np.maximum(enter_n, -middle_n - reach_n)
            leave_n = np.minimum(leave_n, reach_n - middle_n)
        nearest_n = np.where(enter_n < leave_n, enter_n, nearest_n)
    return nearest_n


def _inverse(step_n: np.ndarray) -> np.ndarray:
    """1 / step, finite also where the ray runs along a slab."""
    return 1.0 / np.where(np.abs(step_n) < 1e-7, np.float32(1e-7), step_n)


def _chunked_hit(blocks: Sequence[Block], origins: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """`first_hit` in pieces that stay in the cache."""
    distances_n = np.empty(len(origins), np.float32)
    for start in range(0, len(origins), RAYS_A_CHUNK):
        piece = slice(start, start + RAYS_A_CHUNK)
        distances_n[piece] = first_hit(blocks, origins[piece], steps[piece])
    return distances_n


def _hemisphere(count: int) -> np.ndarray:
    """Unit directions (count, 3) over the upper half sphere, cosine-weighted, spiral-ordered."""
    index = np.arange(count) + 0.5
    radius, angle = np.sqrt(index / count), index * np.pi * (3.0 - np.sqrt(5.0))
    x, y = radius * np.cos(angle), radius * np.sin(angle)
    return np.stack([x, y, np.sqrt(1.0 - radius**2)], 1).astype(np.float32)


def _grid(rectangle: Rectangle, cell_m: float) -> tuple[np.ndarray, tuple[int, int]]:
    """Points (n, 3) just above a rectangle, and the (rows, columns) of their grid."""
    sides = [float(np.linalg.norm(edge)) for edge in (rectangle.down_3, rectangle.right_3)]
    rows, columns = (max(1, int(np.ceil(side / cell_m))) for side in sides)
    down = ((np.arange(rows) + 0.5) / rows)[:, None, None]
    right = ((np.arange(columns) + 0.5) / columns)[None, :, None]
    points = rectangle.corner_3 + down * rectangle.down_3 + right * rectangle.right_3
    points = points + 0.004 * rectangle.normal_3
    return points.reshape(-1, 3).astype(np.float32), (rows, columns)


def _soft(
    points: np.ndarray, normals: np.ndarray, blocks: Sequence[Block], lighting: Lighting
) -> np.ndarray:
    """Irradiance (n, 3) of ambient light and lamps; NaN inside a block."""
    helper = np.where(np.abs(normals[:, 2:]) < 0.9, (0.0, 0.0, 1.0), (1.0, 0.0, 0.0))
    tangents = np.cross(helper, normals)
    tangents /= np.linalg.norm(tangents, axis=1, keepdims=True)
    bitangents = np.cross(normals, tangents)
    frames = np.stack([tangents, bitangents, normals], 1).astype(np.float32)
    total = np.zeros_like(points)
    rays = _hemisphere(24)
    buried = np.zeros(len(points), bool)
    for ray in rays:
        hit = _chunked_hit(blocks, points, np.einsum("k,nkj->nj", ray, frames))
        buried |= hit <= 0.0
        open_n = np.minimum(hit / AMBIENT_REACH_M, 1.0) ** 0.8
        total += (open_n / len(rays))[:, None] * np.array(lighting.ambient_3, np.float32)
    for lamp in lighting.lamps:
        for light_3 in lamp.points_n3.astype(np.float32):
            away = light_3 - points
            distance = np.linalg.norm(away, axis=1) + 1e-3
            falloff = np.maximum((away * normals).sum(1), 0.0) / distance / (distance**2 + 0.15)
            if lamp.facing_3 is not None:
                falloff *= np.maximum(-(away @ np.array(lamp.facing_3, np.float32)), 0.0) / distance
            bright = falloff > 1e-3
            hit = _chunked_hit(blocks, points[bright], away[bright])
            falloff[bright] *= hit > 0.97
            share = falloff / len(lamp.points_n3)
            total += share[:, None] * np.array(lamp.power_3, np.float32)
    total[buried] = np.nan
    return total


def _filled(light_hw3: np.ndarray) -> np.ndarray:
    """Light with the nodes inside furniture (NaN) taken from their neighbours: no dark rims."""
    while (known_hw := ~np.isnan(light_hw3[..., 0])).any() and not known_hw.all():
        weight_hw = cv2.blur(known_hw.astype(np.float32), (3, 3), borderType=cv2.BORDER_CONSTANT)
        sum_hw3 = cv2.blur(np.nan_to_num(light_hw3), (3, 3), borderType=cv2.BORDER_CONSTANT)
        with np.errstate(invalid="ignore"):
            spread_hw3 = sum_hw3 / weight_hw[..., None]
        light_hw3 = np.where(known_hw[..., None], light_hw3, spread_hw3)
    return np.nan_to_num(light_hw3)


def _sunlit(points: np.ndarray, blocks: Sequence[Block], sun: Sun) -> np.ndarray:
    """Share of sun (n,) at each point: 1 where the ray to the sun leaves through a pane."""
    towards = sun.towards_3.astype(np.float32)
    way = (np.float32(sun.wall_x) - points[:, 0]) / towards[0]
    crossing = points + way[:, None] * towards
    inside = np.zeros(len(points), bool)
    for y0, z0, y1, z1 in sun.panes:
        y, z = crossing[:, 1], crossing[:, 2]
        inside |= (y > y0) & (y < y1) & (z > z0) & (z < z1)
    inside &= way > 0
    free = np.zeros(len(points), np.float32)
    steps = np.broadcast_to(towards, (int(inside.sum()), 3))
    free[inside] = _chunked_hit(blocks, points[inside], steps) > way[inside]
    return free


def light_up(
    rectangles: Sequence[Rectangle], blocks: Sequence[Block], lighting: Lighting
) -> list[tuple[np.ndarray, np.ndarray | None]]:
    """Light of each rectangle on its grids: soft irradiance (h, w, 3), and sun (h, w) or None."""
    blocks = [b for b in blocks if 4.0 * np.prod(np.sort(b.half_3)[1:]) > SHADOW_AREA_M2]
    grids = [_grid(rectangle, SOFT_CELL_M) for rectangle in rectangles]
    counts = [len(points) for points, _ in grids]
    normals = np.repeat([r.normal_3 for r in rectangles], counts, axis=0).astype(np.float32)
    soft = _soft(np.concatenate([points for points, _ in grids]), normals, blocks, lighting)
    pieces = np.split(soft, np.cumsum(counts)[:-1])
    result: list[tuple[np.ndarray, np.ndarray | None]] = []
    for rectangle, (_, shape), piece in zip(rectangles, grids, pieces, strict=True):
        facing = float(rectangle.normal_3 @ lighting.sun.towards_3)
        sun = None
        if facing > 0.05:
            points, fine = _grid(rectangle, SUN_CELL_M)
            lit = _sunlit(points, blocks, lighting.sun) * np.float32(facing)
            sun = lit.reshape(fine) if lit.any() else None
        result.append((_filled(piece.reshape(*shape, 3)), sun))
    return result


def expose(
    albedo_hw3: np.ndarray,
    soft_hw3: np.ndarray,
    sun_hw: np.ndarray | None,
    sun_power_3: Sequence[float],
) -> np.ndarray:
    """The image (uint8 sRGB) of an albedo (sRGB) under its light; bright parts roll off softly."""
    size = (albedo_hw3.shape[1], albedo_hw3.shape[0])
    if sun_hw is None:
        # The curve is applied on the small grid: the same image, a tenth of the time.
        gain = cv2.resize(_tone(soft_hw3), size, interpolation=cv2.INTER_LINEAR)
    else:
        light = cv2.resize(soft_hw3, size, interpolation=cv2.INTER_LINEAR)
        smooth = cv2.GaussianBlur(sun_hw, (0, 0), 0.8)
        smooth = cv2.resize(smooth, size, interpolation=cv2.INTER_LINEAR)
        gain = _tone(light + smooth[..., None] * np.array(sun_power_3, np.float32))
    image = albedo_hw3 * gain
    return np.clip(image + 0.5, 0, 255, out=image).astype(np.uint8)


def _tone(light: np.ndarray) -> np.ndarray:
    """Gain (sRGB) of a linear light, with a shoulder that keeps whites below clipping."""
    return (light / (1.0 + 0.22 * light)) ** np.float32(1.0 / 2.2)
