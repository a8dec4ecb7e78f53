"""Light of the demo room, computed once and stored in the textures.

Soft light is computed on a coarse grid of each rectangle: ambient occlusion, and window and lamps
with their shadows. Sunlight through the window is computed on a finer grid.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from demo_room.shapes import Block, Rectangle

SOFT_CELL_M = 0.11  # grid of the soft light
SUN_CELL_M = 0.03  # grid of the sun patch
AMBIENT_RADIUS_M = 1.1  # obstacles farther away do not occlude ambient light
SHADOW_AREA_M2 = 0.1  # blocks with a smaller side cast no shadow
CHUNK_RAYS = 20_000  # rays that are cast at once


@dataclass(frozen=True)
class Lamp:
    """A light of a small area, approximated by a few points."""

    points_n3: np.ndarray  # m, map frame
    power_3: tuple[float, float, float]  # irradiance at 1 m, RGB
    facing_3: tuple[float, float, float] | None = None  # direction of the lit side; None: all


@dataclass(frozen=True)
class Sun:
    """Parallel light through panes in the wall at x = `wall_x`."""

    towards_3: np.ndarray  # unit vector to the sun
    wall_x: float  # m
    panes: tuple[tuple[float, float, float, float], ...]  # y0, z0, y1, z1 of each, m
    power_3: tuple[float, float, float]  # irradiance, RGB


@dataclass(frozen=True)
class Lighting:
    """All lights of a room."""

    ambient_3: tuple[float, float, float]  # irradiance, RGB
    lamps: tuple[Lamp, ...]
    sun: Sun | None = None

    @property
    def sun_power_3(self) -> tuple[float, float, float]:
        """Irradiance of the sun, RGB."""
        return self.sun.power_3 if self.sun else (0.0, 0.0, 0.0)


def first_hit(
    blocks: Sequence[Block], origins_n3: np.ndarray, directions_n3: np.ndarray
) -> np.ndarray:
    """Return the distance (n,) to the first block, in units of the direction.

    It is 0 inside a block and infinite where there is none. Slab test (Kay and Kajiya 1986) in the
    axes of each block, with float32 rays.
    """
    nearest_n = np.full(len(origins_n3), np.inf, np.float32)
    inverses = [_inverse(directions_n3[:, k]) for k in range(3)]
    for block in blocks:
        starts = [origins_n3[:, k] - np.float32(block.centre_3[k]) for k in range(3)]
        steps = inverses
        if block.yaw:
            starts = [*block.in_block_axes(starts[0], starts[1]), starts[2]]
            rotated = block.in_block_axes(directions_n3[:, 0], directions_n3[:, 1])
            steps = [*map(_inverse, rotated), inverses[2]]
        enter_n, leave_n = np.float32(0.0), nearest_n
        for start_n, inverse_n, half in zip(starts, steps, block.half_3, strict=True):
            half_n = np.float32(half) * np.abs(inverse_n)
            middle_n = start_n * inverse_n
            enter_n = np.maximum(enter_n, -middle_n - half_n)
            leave_n = np.minimum(leave_n, half_n - middle_n)
        nearest_n = np.where(enter_n < leave_n, enter_n, nearest_n)
    return nearest_n


def _inverse(step_n: np.ndarray) -> np.ndarray:
    """Return 1 / step, finite also for rays parallel to a slab."""
    return 1.0 / np.where(np.abs(step_n) < 1e-7, np.float32(1e-7), step_n)


def _chunked_hit(blocks: Sequence[Block], origins: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """Return `first_hit` of the rays, cast in chunks that fit the processor's cache."""
    distances_n = np.empty(len(origins), np.float32)
    for start in range(0, len(origins), CHUNK_RAYS):
        piece = slice(start, start + CHUNK_RAYS)
        distances_n[piece] = first_hit(blocks, origins[piece], steps[piece])
    return distances_n


def _hemisphere(count: int) -> np.ndarray:
    """Return unit directions (count, 3) of the upper hemisphere: a cosine-weighted spiral."""
    index = np.arange(count) + 0.5
    radius, angle = np.sqrt(index / count), index * np.pi * (3.0 - np.sqrt(5.0))
    x, y = radius * np.cos(angle), radius * np.sin(angle)
    return np.stack([x, y, np.sqrt(1.0 - radius**2)], 1).astype(np.float32)


def _grid(rectangle: Rectangle, cell_m: float) -> tuple[np.ndarray, tuple[int, int]]:
    """Return grid points (n, 3) just above a rectangle, and the grid's (rows, columns)."""
    sides = [float(np.linalg.norm(edge)) for edge in (rectangle.down_3, rectangle.right_3)]
    rows, columns = (max(1, int(np.ceil(side / cell_m))) for side in sides)
    down = ((np.arange(rows) + 0.5) / rows)[:, None, None]
    right = ((np.arange(columns) + 0.5) / columns)[None, :, None]
    points = rectangle.corner_3 + down * rectangle.down_3 + right * rectangle.right_3
    points = points + 0.004 * rectangle.normal_3
    return points.reshape(-1, 3).astype(np.float32), (rows, columns)


def _soft_light(
    points: np.ndarray, normals: np.ndarray, blocks: Sequence[Block], lighting: Lighting
) -> np.ndarray:
    """Return the irradiance (n, 3) of ambient light and lamps; NaN inside a block."""
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
        open_n = np.minimum(hit / AMBIENT_RADIUS_M, 1.0) ** 0.8
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
            point_light = falloff / len(lamp.points_n3)
            total += point_light[:, None] * np.array(lamp.power_3, np.float32)
    total[buried] = np.nan
    return total


def _filled(light_hw3: np.ndarray) -> np.ndarray:
    """Return the light (h, w, 3) with NaN, inside furniture, replaced by the neighbours' mean."""
    while (known_hw := ~np.isnan(light_hw3[..., 0])).any() and not known_hw.all():
        weight_hw = cv2.blur(known_hw.astype(np.float32), (3, 3), borderType=cv2.BORDER_CONSTANT)
        sum_hw3 = cv2.blur(np.nan_to_num(light_hw3), (3, 3), borderType=cv2.BORDER_CONSTANT)
        with np.errstate(invalid="ignore"):
            spread_hw3 = sum_hw3 / weight_hw[..., None]
        light_hw3 = np.where(known_hw[..., None], light_hw3, spread_hw3)
    return np.nan_to_num(light_hw3)


def _sunlit(points: np.ndarray, blocks: Sequence[Block], sun: Sun) -> np.ndarray:
    """Return the sunlight (n,) at each point: 1 where the ray to the sun passes a pane, else 0."""
    towards = sun.towards_3.astype(np.float32)
    distance = (np.float32(sun.wall_x) - points[:, 0]) / towards[0]
    crossing = points + distance[:, None] * towards
    inside = np.zeros(len(points), bool)
    for y0, z0, y1, z1 in sun.panes:
        y, z = crossing[:, 1], crossing[:, 2]
        inside |= (y > y0) & (y < y1) & (z > z0) & (z < z1)
    inside &= distance > 0
    free = np.zeros(len(points), np.float32)
    steps = np.broadcast_to(towards, (int(inside.sum()), 3))
    free[inside] = _chunked_hit(blocks, points[inside], steps) > distance[inside]
    return free


def compute_light(
    rectangles: Sequence[Rectangle],
    blocks: Sequence[Block],
    lighting: Lighting,
    cell_m: float = SOFT_CELL_M,
) -> list[tuple[np.ndarray, np.ndarray | None]]:
    """Return the light of each rectangle: soft irradiance (h, w, 3), and sun (h, w) or None."""
    blocks = [b for b in blocks if 4.0 * np.prod(np.sort(b.half_3)[1:]) > SHADOW_AREA_M2]
    grids = [_grid(rectangle, cell_m) for rectangle in rectangles]
    counts = [len(points) for points, _ in grids]
    normals = np.repeat([r.normal_3 for r in rectangles], counts, axis=0).astype(np.float32)
    soft = _soft_light(np.concatenate([points for points, _ in grids]), normals, blocks, lighting)
    pieces = np.split(soft, np.cumsum(counts)[:-1])
    result: list[tuple[np.ndarray, np.ndarray | None]] = []
    for rectangle, (_, shape), piece in zip(rectangles, grids, pieces, strict=True):
        sun = None
        facing = float(rectangle.normal_3 @ lighting.sun.towards_3) if lighting.sun else 0.0
        if lighting.sun and facing > 0.05:
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
    """Return the image (uint8 sRGB) of an albedo (sRGB) under its light, with tone mapping."""
    size = (albedo_hw3.shape[1], albedo_hw3.shape[0])
    if sun_hw is None:
        # The tone curve on the coarse grid gives the same image in a tenth of the time.
        gain = cv2.resize(_tone(soft_hw3), size, interpolation=cv2.INTER_LINEAR)
    else:
        light = cv2.resize(soft_hw3, size, interpolation=cv2.INTER_LINEAR)
        smooth = cv2.GaussianBlur(sun_hw, (0, 0), 0.8)
        smooth = cv2.resize(smooth, size, interpolation=cv2.INTER_LINEAR)
        gain = _tone(light + smooth[..., None] * np.array(sun_power_3, np.float32))
    image = albedo_hw3 * gain
    return np.clip(image + 0.5, 0, 255, out=image).astype(np.uint8)


def _tone(light: np.ndarray) -> np.ndarray:
    """Return the sRGB gain of a linear light; the curve flattens so that whites are not clipped."""
    return (light / (1.0 + 0.22 * light)) ** np.float32(1.0 / 2.2)
