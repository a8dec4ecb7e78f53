"""Interiors of the building's rooms and corridors: surfaces, obstacles and lights of each look."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.random import Generator

from demo_room.building.fittings import (
    FITTINGS,
    MIDDLE,
    a_colour,
    a_picture,
    hang_pictures,
    hue_rotation,
)
from demo_room.building.floor_plan import END_M, HEIGHT_M, SECTION_M, Look, Opening
from demo_room.building.walls import (
    WINDOW_M,
    ceiling_panel,
    floor_and_ceiling,
    sides_of,
    wall,
    window,
)
from demo_room.furniture import frame, plant
from demo_room.light import Lamp, Lighting
from demo_room.objects import label, pinned
from demo_room.palette import BLACK, BRASS, CREAM, OAK, STEEL, VIVID, WHITE, Colour
from demo_room.shapes import Block, Builder, Rectangle
from demo_room.textures import (
    COARSE,
    Material,
    bricks,
    cloth,
    panelled,
    plain,
    planks,
    plaster,
    stone,
    tiles,
)

CORNER_M = 0.95  # free left end of each wall, for furniture at the end of the next wall
DOOR_FREE_M = 0.5  # free wall beside doorways

_PAINTS: tuple[Colour, ...] = (
    (222, 206, 176),
    (164, 182, 172),
    (226, 216, 200),
    (176, 190, 206),
    (214, 182, 164),
    (196, 204, 160),
    (206, 190, 206),
    (150, 168, 176),
    (232, 214, 150),
    (190, 150, 132),
)


@dataclass(frozen=True)
class Interior:
    """What a look consists of, in its own axes."""

    rectangles: list[Rectangle]
    blocks: list[Block]  # for light: walls, floor, ceiling and furniture
    obstacles: list[Block]  # for robots: furniture
    lighting: Lighting
    tint_33: np.ndarray  # of all colours


@lru_cache(maxsize=32)
def interior(look: Look) -> Interior:
    """Return the interior of a look, the same each time."""
    rng = np.random.default_rng((7, look.seed))
    space = Builder()
    in_corridor = not look.pieces
    sides = sides_of(space, look)
    (corridor_shell if in_corridor else room_shell)(space, sides, look, rng)
    shell = len(space.blocks)
    tint_33 = np.eye(3)
    if in_corridor:
        lamps = furnish_corridor(space, sides, look, rng)
    else:
        lamps = furnish_room(space, sides, look, rng)
        tint_33 = hue_rotation(rng.uniform(-25.0, 25.0))
    lighting = Lighting((0.62, 0.6, 0.57), tuple(lamps))
    return Interior(space.rectangles, space.blocks, space.blocks[shell:], lighting, tint_33)


def _openings(look: Look, side: int) -> list[Opening]:
    return [opening for opening in look.openings if opening.side == side]


def _length(look: Look, side: int) -> float:
    return look.size[side % 2]


def room_shell(space: Builder, sides: list[Builder], look: Look, rng: Generator) -> None:
    """Add floor, ceiling and walls of a room; one wall differs from the others."""
    tones = [a_colour(rng) for _ in range(4)]
    warm = [(176, 128, 84), (164, 116, 74), (190, 144, 98), (148, 104, 68)]
    floors: tuple[Material, ...] = (
        planks(warm),
        tiles((tones[0], CREAM), 0.4),
        planks([(120, 92, 70), (104, 80, 60), (132, 100, 78)]),
        cloth(tones[1], tones[2:]),
        stone((206, 200, 190), tones),
    )
    paint = _PAINTS[int(rng.integers(len(_PAINTS)))]
    special = (
        bricks(((168, 92, 66), (150, 78, 58), (186, 116, 84), (120, 70, 58))),
        tiles((CREAM, tones[3], (214, 224, 220)), 0.15, 0.15),
        plaster(tones[2], 0.04),
        panelled(tones[1], 2, 7, 0.06),
    )
    floor_and_ceiling(
        space, look, floors[look.seed % len(floors)], plaster((234, 230, 220), 0.014, COARSE)
    )
    odd = int(rng.integers(4))
    for side, place in enumerate(sides):
        paper = special[look.seed % len(special)] if side == odd else plaster(paint)
        wall(place, _length(look, side), _openings(look, side), paper, WHITE)


def furnish_room(space: Builder, sides: list[Builder], look: Look, rng: Generator) -> list[Lamp]:
    """Add windows, lamps, furniture and pictures; return the lights.

    Each piece stands at the wall with the most free space.
    """
    lamps = []
    free: list[list[float]] = []  # side, start, end of free stretches
    hung: list[tuple[int, float, float]] = []  # stretches for pictures
    for side, place in enumerate(sides):
        length = _length(look, side)
        taken = [
            (o.centre - o.width / 2 - DOOR_FREE_M, o.centre + o.width / 2 + DOOR_FREE_M)
            for o in _openings(look, side)
        ]
        if side in look.windows:
            x = (length - WINDOW_M[0]) / 2.0
            window(place, x, (a_colour(rng), a_colour(rng)))
            lamps.append(_window_light(place, x))
            taken.append((x - 0.45, x + WINDOW_M[0] + 0.45))
        start = 0.0
        for left, right in [*sorted(taken), (length, length)]:
            if left > start:
                hung.append((side, start + 0.1, left))
                free.append([side, max(start, CORNER_M), min(left, length - 0.12)])
            start = right
    for name in look.pieces:
        if name in MIDDLE:
            x, y = look.size
            MIDDLE[name](space.at(x / 2, y / 2, degrees=rng.normal(0.0, 6.0)), rng)
            continue
        fitting = FITTINGS[name]
        stretch = max(free, key=lambda s: s[2] - s[1])
        side, start, end = int(stretch[0]), stretch[1], stretch[2]
        if end - start < fitting.width:
            raise ValueError(f"{look.name}: no wall for the {name}: {end - start:.2f} m are free")
        start += rng.uniform(0.0, min(0.3, end - start - fitting.width))
        fitting.add(sides[side].at(start, 0.0), rng)
        stretch[1] = start + fitting.width + 0.12
        if fitting.height > 1.25:
            hung = _without(hung, side, start - 0.05, start + fitting.width + 0.05)
    for side, left, right in hung:
        hang_pictures(sides[side], rng, left, right)
    return [*lamps, *_ceiling_lights(space, look, rng)]


def _without(
    stretches: list[tuple[int, float, float]], side: int, left: float, right: float
) -> list[tuple[int, float, float]]:
    """Return the stretches of walls without the part of one wall."""
    rest = []
    for wall_side, start, end in stretches:
        if wall_side != side:
            rest.append((wall_side, start, end))
            continue
        rest += [(side, start, min(end, left)), (side, max(start, right), end)]
    return [piece for piece in rest if piece[2] - piece[1] > 0.4]


def _window_light(place: Builder, x: float) -> Lamp:
    w, z0, z1 = WINDOW_M
    points = [
        place.at(x + w * k, -0.12, z)
        for k in (0.25, 0.75)
        for z in (z0 + 0.25 * (z1 - z0), z0 + 0.75 * (z1 - z0))
    ]
    inwards = place.at(0.0, -1.0)
    facing_3 = (inwards.x - place.x, inwards.y - place.y, 0.0)
    return Lamp(np.array([[p.x, p.y, p.z] for p in points]), (2.4, 2.5, 2.7), facing_3)


def _ceiling_lights(space: Builder, look: Look, rng: Generator) -> list[Lamp]:
    """Add lamps on the ceiling, one per 12 m2 or so, in a row along the longer side."""
    (x, y), warmth = look.size, rng.uniform(0.75, 1.0)
    count = max(1, round(x * y / 12.0))
    points = []
    for k in range(count):
        along = (k + 0.5) / count
        at = (x * along, y / 2) if x >= y else (x / 2, y * along)
        ceiling_panel(space, *at, (0.6, 0.6))
        points.append((*at, HEIGHT_M - 0.2))
    power = 1.7 * count
    return [Lamp(np.array(points), (power, 0.95 * power, (0.55 + 0.35 * warmth) * power))]


def corridor_shell(space: Builder, sides: list[Builder], look: Look, rng: Generator) -> None:
    """Add floor, ceiling and walls of a corridor's section or end."""
    paint, tones = _PAINTS[look.seed % len(_PAINTS)], (a_colour(rng), (176, 170, 158))
    if look.name.startswith("A"):  # its ends match its sections
        paint, tones = (214, 210, 196), ((170, 160, 146), (160, 150, 138))
    floor = tiles(tones, 0.5)
    floor_and_ceiling(space, look, floor, plaster((234, 230, 220), 0.014, COARSE))
    for side, place in enumerate(sides):
        wall(place, _length(look, side), _openings(look, side), plaster(paint), STEEL)
    # The walls of the next sections, for the light.
    for place, length in ((sides[0], look.size[0]), (sides[2], look.size[0])):
        for x in (-1.2, length):
            centre = place.at(x + 0.6, 0.1)
            half_3 = np.array([0.6, 0.1, HEIGHT_M / 2.0])
            space.blocks.append(Block(np.array([centre.x, centre.y, HEIGHT_M / 2.0]), half_3))


def furnish_corridor(
    space: Builder, sides: list[Builder], look: Look, rng: Generator
) -> list[Lamp]:
    """Add closed doors, posters and a lamp; return the lights of this section and of the next."""
    (x, y), is_end = look.size, look.size[0] == END_M
    if not is_end:
        ceiling_panel(space, x / 2, y / 2, (1.2, 0.3))
    for side, place in enumerate(sides):
        length = _length(look, side)
        full = any(opening.width == length for opening in _openings(look, side))
        if is_end or full:
            if is_end and not full and length == y:
                frame(place, 0.5, 1.15, 1.0, 0.85, a_picture(rng), BLACK)
                plant(place.at(0.3, -0.32), rng, 16, rng.uniform(0.6, 0.9), a_colour(rng))
            continue
        start = 0.1
        for opening in sorted(_openings(look, side), key=lambda o: o.centre):
            _fill_wall(place, rng, start, opening.centre - opening.width / 2 - 0.12)
            start = opening.centre + opening.width / 2 + 0.12
        _fill_wall(place, rng, start, length - 0.1)
    middle = np.array([[x / 2, y / 2, HEIGHT_M - 0.2]])
    between = (END_M + SECTION_M[0]) / 2.0 if is_end else SECTION_M[0]
    steps = (-between, between) if is_end else (-between, 0.0, between)
    return [Lamp(middle + (step, 0.0, 0.0), (1.9, 1.85, 1.65)) for step in steps]


def _fill_wall(place: Builder, rng: Generator, start: float, end: float) -> None:
    """Add a closed door where there is space for it, then notes or an extinguisher, and posters."""
    if end - start > 1.5 and rng.random() < 0.75:
        _closed_door(place.at(start + 0.15, 0.0), rng)
        start += 1.15
    if end - start > 0.9 and rng.random() < 0.4:
        board = (start + 0.1, -0.03, 1.1), (0.65, 0.03, 0.85)
        notes = pinned(cloth(a_colour(rng)), int(rng.integers(4, 8)))
        place.box(*board, plain(OAK), skip="back", front=notes)
        start += 0.85
    elif end - start > 0.9 and rng.random() < 0.6:
        place.round((start + 0.25, -0.1, 0.35), 0.08, 0.5, label(VIVID[0]), top=plain(BLACK))
        start += 0.4
    hang_pictures(place, rng, start, end, 0.15)


def _closed_door(place: Builder, rng: Generator) -> None:
    """Add a closed door with its number."""
    case, front = plain(WHITE, 0.02), panelled(a_colour(rng), 3, 2, 0.08)
    place.box((0, -0.02, 0), (0.86, 0.02, 2.05), front, skip="back bottom")
    for x in (-0.08, 0.86):
        place.box((x, -0.05, 0), (0.08, 0.05, 2.13), case, skip="back bottom")
    place.box((0, -0.05, 2.05), (0.86, 0.05, 0.08), case, skip="back left right")
    place.box((0.06, -0.07, 1.02), (0.14, 0.02, 0.025), plain(BRASS))
    frame(place, 0.3, 1.55, 0.24, 0.14, a_picture(rng), STEEL)
