"""The lit textures of a building, in one file that all rendering processes map into memory.

Each look is painted and lit once, by its own lamps: no light passes doorways, so that spaces of one
look have the same light.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType

import cv2
import numpy as np

from demo_room.building.floor_plan import FloorPlan, Look, three_rooms, whole_building
from demo_room.building.interiors import interior
from demo_room.light import compute_light, expose
from demo_room.record import map_in_order
from demo_room.renderer import Atlas, Surfaces, pack
from mote_localization.progress import track_if_slow

PLANS: Mapping[int, Callable[[], FloorPlan]] = MappingProxyType(
    {3: three_rooms, 12: whole_building}
)
ATLAS_WIDTH_PX = 8192  # cv2.remap takes images of less than 32768 rows
CELL_M = 0.2  # grid of the soft light
_LARGE_M2 = 2.0  # larger surfaces have three quarters of the texels per metre, to save memory


@dataclass(frozen=True)
class LitBuilding:
    """A floor plan with the lit surfaces of its looks."""

    plan: FloorPlan
    atlas: Atlas
    surfaces: Mapping[Look, Surfaces]  # in the axes of the look


@cache
def plan_of(rooms: int) -> FloorPlan:
    """Return the floor plan with this number of rooms, a key of `PLANS`."""
    return PLANS[rooms]()


def looks_of(plan: FloorPlan) -> list[Look]:
    """Return the different looks of a plan, in the order of its spaces."""
    return list(dict.fromkeys(space.look for space in plan.spaces))


def lit_atlas(look: Look) -> Atlas:
    """Return the textures of a look's rectangles with their light; takes seconds."""
    inside = interior(look)
    light = compute_light(inside.rectangles, inside.blocks, inside.lighting, CELL_M)
    textures = []
    for index, (rectangle, (soft, _)) in enumerate(zip(inside.rectangles, light, strict=True)):
        rng = np.random.default_rng((look.seed, index))
        width_m, height_m = np.linalg.norm([rectangle.right_3, rectangle.down_3], axis=1).tolist()
        albedo = rectangle.material(rng, (width_m, height_m)).astype(np.float32)
        albedo = np.clip(cv2.transform(albedo, inside.tint_33), 4.0, 250.0)
        soft = np.maximum(soft, np.float32(rectangle.glow))
        texture = expose(albedo, soft, None, inside.lighting.sun_power_3)
        if width_m * height_m > _LARGE_M2:
            texture = cv2.resize(texture, None, fx=0.75, fy=0.75, interpolation=cv2.INTER_AREA)
        textures.append(texture)
    return pack(textures, ATLAS_WIDTH_PX)


def write_lit_building(folder: Path, rooms: int, workers: int = 1) -> None:
    """Paint and light a building; write its textures to a folder, which `open_lit_building` opens.

    Args:
        folder: An existing folder.
        rooms: A key of `PLANS`.
        workers: Processes that paint and light.
    """
    looks = looks_of(plan_of(rooms))
    slots, firsts, levels, rows, count = [], [], [], 0, 0
    with (folder / "atlas.raw").open("wb") as file:
        atlases = map_in_order(lit_atlas, looks, workers, chunk=1)
        for atlas in track_if_slow(atlases, "lighting the building", len(looks)):
            slots.append(atlas.slots_n4 + np.array([0, rows, 0, 0], np.float32))
            firsts.append(atlas.first_n + count)
            levels.append(atlas.levels_n)
            rows += len(atlas.image_hw3)
            count += len(atlas.slots_n4)
            atlas.image_hw3.tofile(file)
    np.savez(
        folder / "slots.npz",
        slots=np.concatenate(slots),
        first=np.concatenate(firsts),
        levels=np.concatenate(levels),
    )


@cache
def open_lit_building(folder: Path, rooms: int) -> LitBuilding:
    """Open what `write_lit_building` wrote; the textures are read when they are first rendered."""
    plan = plan_of(rooms)
    with np.load(folder / "slots.npz") as arrays:
        slots_n4, first_n, levels_n = (arrays[name] for name in ("slots", "first", "levels"))
    # copy on write: nothing is written, and OpenCV takes no read-only arrays
    pixels = np.memmap(folder / "atlas.raw", np.uint8, "c").reshape(-1, ATLAS_WIDTH_PX, 3)
    atlas = Atlas(np.asarray(pixels), slots_n4, first_n, levels_n)
    surfaces, first = {}, 0
    for look in looks_of(plan):
        rectangles = interior(look).rectangles
        surfaces[look] = Surfaces.of(rectangles, atlas, first)
        first += len(rectangles)
    return LitBuilding(plan, atlas, surfaces)
