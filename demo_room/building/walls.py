"""Walls, doorways, floors, ceilings and windows of the building's rooms and corridors.

Functions of a wall take a builder with the wall's axes: x along the wall to the right, seen from
inside, and y = 0 on its surface.
"""

from collections.abc import Callable, Iterable

import numpy as np

from demo_room.building.floor_plan import HEIGHT_M, WALL_M, Look, Opening
from demo_room.palette import BRASS, CREAM, OAK, STEEL, WHITE, Colour
from demo_room.pictures import view
from demo_room.shapes import Block, Builder
from demo_room.textures import Material, curtain, cut_from, plain, wood

WINDOW_M = (1.5, 1.0, 2.2)  # width, lower and upper edge
_BEYOND_M = 1.5  # length by which floor, ceiling and walls of light go on behind open ends
_CASE_M = (0.09, 0.04)  # width and depth of the case of a doorway


def sides_of(room: Builder, look: Look) -> list[Builder]:
    """Return the axes of the walls: north, east, south, west."""
    width, depth = look.size
    return [
        room.at(0.0, depth),
        room.at(width, depth, degrees=-90),
        room.at(width, 0.0, degrees=180),
        room.at(0.0, 0.0, degrees=90),
    ]


def floor_and_ceiling(room: Builder, look: Look, floor: Material, ceiling: Material) -> None:
    """Add both, and blocks below and above."""
    x, y = look.size
    room.rectangle((0, y, 0), (x, 0, 0), (0, -y, 0), floor)
    room.rectangle((0, 0, HEIGHT_M), (x, 0, 0), (0, y, 0), ceiling)
    for z in (-WALL_M, HEIGHT_M):
        _solid(room, (-_BEYOND_M, -_BEYOND_M, z), (x + 2 * _BEYOND_M, y + 2 * _BEYOND_M, WALL_M))


def wall(
    place: Builder, length: float, openings: Iterable[Opening], paper: Material, skirting: Colour
) -> None:
    """Add a wall with its openings, their cases, and a skirting board."""
    cut = cut_from(paper, (length, HEIGHT_M))
    board = wood(skirting, 0.03)
    end = 0.0
    for opening in sorted(openings, key=lambda opening: opening.centre):
        left = opening.centre - opening.width / 2.0
        right = left + opening.width
        _wall_piece(place, cut, end, left, board)
        if opening.height < HEIGHT_M:
            over = HEIGHT_M - opening.height
            corner = (left, 0.0, HEIGHT_M)
            place.rectangle(corner, (opening.width, 0, 0), (0, 0, -over), cut(left, 0.0))
            _solid(place, (left, 0.0, opening.height), (opening.width, WALL_M, over))
            _case(place, opening, left)
        end = right
    _wall_piece(place, cut, end, length, board)


def _wall_piece(
    place: Builder,
    cut: Callable[[float, float], Material],
    start: float,
    end: float,
    board: Material,
) -> None:
    width = end - start
    if width < 1e-6:
        return
    place.rectangle((start, 0, HEIGHT_M), (width, 0, 0), (0, 0, -HEIGHT_M), cut(start, 0.0))
    place.box((start, -0.018, 0), (width, 0.018, 0.1), board, skip="back bottom")
    _solid(place, (start, 0.0, 0.0), (width, WALL_M, HEIGHT_M))


def _case(place: Builder, opening: Opening, left: float) -> None:
    """Add the case of a doorway; and its inner surfaces, where the wall belongs to this space."""
    case, (wide, deep), (w, h) = wood(WHITE, 0.03), _CASE_M, (opening.width, opening.height)
    for x in (left - wide, left + w):
        place.box((x, -deep, 0), (wide, deep, h + wide), case, skip="back bottom")
    place.box((left, -deep, h), (w, deep, wide), case, skip="back left right")
    if opening.depth:
        d = opening.depth
        place.rectangle((left, 0, h), (0, d, 0), (0, 0, -h), case)
        place.rectangle((left + w, d, h), (0, -d, 0), (0, 0, -h), case)
        place.rectangle((left, 0, h), (w, 0, 0), (0, d, 0), case)
        place.rectangle((left, d, 0), (w, 0, 0), (0, -d, 0), wood(OAK))


def window(place: Builder, x: float, cloths: tuple[Colour, Colour]) -> None:
    """Add a window from x on, with sill, curtains and a radiator."""
    w, z0, z1 = WINDOW_M
    frame = wood(WHITE, 0.03)
    place.rectangle((x, -0.01, z1), (w, 0, 0), (0, 0, z0 - z1), view(), glow=1.25)
    for left, wide in ((x - 0.07, 0.07), (x + w / 2 - 0.03, 0.06), (x + w, 0.07)):
        place.box((left, -0.05, z0 - 0.07), (wide, 0.05, z1 - z0 + 0.14), frame, skip="back")
    for z in (z0 - 0.07, z1):
        place.box((x, -0.045, z), (w, 0.045, 0.07), frame, skip="back left right")
    place.box((x - 0.1, -0.18, z0 - 0.1), (w + 0.2, 0.18, 0.03), wood(OAK), skip="back")
    place.box((x - 0.35, -0.1, 2.37), (w + 0.7, 0.025, 0.025), plain(BRASS))
    for left in (x - 0.33, x + w + 0.07):
        for fold in range(3):
            corner = (left + 0.09 * fold, -0.12 + 0.025 * (fold % 2), 0.3)
            place.box(corner, (0.09, 0.05, 2.07), curtain(cloths[0], cloths), skip="back")
    place.box((x + 0.1, -0.11, 0.17), (w - 0.2, 0.08, 0.55), plain(CREAM, 0.02), skip="back")


def ceiling_panel(room: Builder, x: float, y: float, size: tuple[float, float]) -> None:
    """Add a lamp on the ceiling, centred at x and y."""
    (w, d), z = size, HEIGHT_M - 0.06
    shade = plain((250, 246, 232), 0.01)
    room.box((x - w / 2, y - d / 2, z), (w, d, 0.06), plain(STEEL), skip="top bottom")
    room.rectangle((x - w / 2, y - d / 2, z), (w, 0, 0), (0, d, 0), shade, glow=2.2)


def _solid(
    place: Builder, corner: tuple[float, float, float], size: tuple[float, float, float]
) -> None:
    """Add a block without surfaces."""
    half_3 = np.array(size) / 2.0
    centre_3 = place.at(*(np.array(corner) + half_3))
    place.blocks.append(
        Block.rotated(np.array([centre_3.x, centre_3.y, centre_3.z]), half_3, place.yaw)
    )
