"""The demo room, 6 x 5 x 2.7 m: where everything stands.

            north                        x east, y north, z up, origin in the south-west
  +---------------------------+ 5        corner of the floor.
  | books   sofa, three  lamp |
  |         paintings   plant |          Each wall is a place of its own (see `carpentry.py`):
w |                           | e        stand before it, x runs along it to the right and
e | dining   low table      w | a        y = 0 is its face. So north starts in the west,
s | table    on a rug       i | s        east in the north, south in the east, west in
t |                         n | t        the south.
  |               armchair    |
  | kitchen   fridge     door |
  +---------------------------+ 0
  0         south             6
"""

from dataclasses import dataclass
from functools import cache

import numpy as np

from distill_training.room.carpentry import Block, Rectangle, Workshop
from distill_training.room.light import Lamp, Lighting, Sun, expose, light_up
from distill_training.room.pictures import (
    MUTED,
    VIVID,
    abstract,
    bouquet,
    chart,
    city,
    clock,
    hob,
    label,
    landscape,
    oven,
    pinned,
    poster,
    screen,
    spine,
    view,
)
from distill_training.room.textures import (
    COARSE,
    Colour,
    Material,
    bricks,
    cloth,
    curtain,
    leaf,
    panelled,
    plain,
    planks,
    plaster,
    rug,
    stone,
    tiles,
    wood,
)

SIZE_M = (6.0, 5.0, 2.7)
SEED = 20

OAK, WALNUT, PINE, TEAK = (186, 142, 94), (116, 80, 56), (214, 178, 128), (160, 104, 64)
CREAM, SAGE, NAVY, RUST = (232, 222, 202), (146, 162, 138), (52, 70, 98), (178, 92, 58)
WHITE, BLACK, STEEL, BRASS = (236, 234, 228), (40, 38, 40), (168, 170, 172), (188, 150, 82)
SKY = ((96, 146, 196), (246, 214, 168))
DUSK = ((40, 52, 96), (232, 142, 96))

# The window's panes on the east wall: y0, z0, y1, z1 in the map frame.
PANES = ((1.22, 0.98, 1.98, 2.22), (2.06, 0.98, 2.82, 2.22))


def build() -> Workshop:
    """Puts up the room: all rectangles, and the blocks that light and robots cannot pass."""
    room = Workshop()
    rng = np.random.default_rng(SEED)
    length, depth, height = SIZE_M
    north = room.at(0.0, depth)
    east = room.at(length, depth, degrees=-90)
    south = room.at(length, 0.0, degrees=180)
    west = room.at(0.0, 0.0, degrees=90)

    floor_and_ceiling(room)
    wall(north, length, plaster((222, 206, 176)), skirting=WHITE)
    wall(east, depth, plaster((164, 182, 172)), skirting=WHITE)
    wall(south, length, plaster((226, 216, 200)), skirting=WHITE)
    wall(west, depth, bricks(((168, 92, 66), (150, 78, 58), (186, 116, 84), (120, 70, 58))), OAK)

    bookcase(north.at(0.35, 0.0), rng, width=2.0)
    paintings(north)
    sofa(north.at(2.75, -0.06), width=2.05)
    floor_lamp(room.at(5.1, 4.62))
    plant(room.at(5.62, 4.6), rng, leaves=22, tall=1.05)

    window(east)
    cabinet(east.at(0.75, 0.0), rng)

    door(south.at(0.55, 0.0))
    coats(south.at(1.62, 0.0))
    fridge(south.at(2.62, 0.0))
    kitchen(south.at(3.4, 0.0), rng)

    sideboard(west.at(3.35, 0.0), rng)
    west_wall(west)

    dining_table(room.at(0.95, 2.2, degrees=84), rng)
    chair(room.at(1.62, 2.52, degrees=-82), RUST)
    chair(room.at(1.66, 1.86, degrees=-104), NAVY)
    chair(room.at(0.95, 1.28, degrees=172), SAGE)
    low_table(room.at(3.72, 2.72, degrees=-7), rng)
    rugs(room)
    armchair(room.at(4.62, 1.12, degrees=152))
    pouf(room.at(5.35, 1.85, degrees=25))
    ceiling_lights(room)
    return room


def lighting() -> Lighting:
    """Sky light and sun through the window, a lamp over the table, one by the sofa."""
    y, z = np.meshgrid((1.3, 1.75, 2.3, 2.75), (1.15, 2.0))
    window_points = np.stack([np.full(y.size, 5.88), y.ravel(), z.ravel()], axis=1)
    sun_3 = np.array([0.80, -0.16, 0.58])
    return Lighting(
        ambient_3=(0.74, 0.71, 0.68),
        lamps=(
            Lamp(window_points, (3.3, 3.5, 3.8), facing_3=(-1.0, 0.0, 0.0)),
            Lamp(np.array([[3.3, 2.5, 2.45], [2.9, 2.7, 2.45]]), (1.9, 1.75, 1.5)),
            Lamp(np.array([[0.95, 2.2, 1.5]]), (0.55, 0.44, 0.28)),
            Lamp(np.array([[5.1, 4.62, 1.75]]), (0.42, 0.32, 0.2)),
        ),
        sun=Sun(tuple(sun_3 / np.linalg.norm(sun_3)), 5.86, PANES, (7.0, 6.1, 4.7)),
    )


def floor_and_ceiling(room: Workshop) -> None:
    """Oak planks below, plaster and three uneven beams above, solid all around."""
    x, y, z = SIZE_M
    floor = planks(((176, 128, 84), (164, 116, 74), (190, 144, 98), (148, 104, 68)))
    room.rectangle((0, y, 0), (x, 0, 0), (0, -y, 0), floor)
    room.rectangle((0, 0, z), (x, 0, 0), (0, y, 0), plaster((234, 230, 220), 0.014, COARSE))
    for beam, wide in ((0.9, 0.16), (2.35, 0.19), (4.05, 0.15), (5.3, 0.17)):
        room.box((beam, 0, z - 0.14), (wide, y, 0.14), wood(WALNUT, 0.16), skip="top front back")
    for corner, size in (
        ((-0.2, -0.2, -0.2), (x + 0.4, y + 0.4, 0.2)),
        ((-0.2, -0.2, z), (x + 0.4, y + 0.4, 0.2)),
        ((-0.2, -0.2, 0), (0.2, y + 0.4, z)),
        ((x, -0.2, 0), (0.2, y + 0.4, z)),
        ((0, -0.2, 0), (x, 0.2, z)),
        ((0, y, 0), (x, 0.2, z)),
    ):
        centre = np.add(corner, np.divide(size, 2.0))
        room.blocks.append(Block(centre, np.divide(size, 2.0), 0.0))


def wall(place: Workshop, length: float, material: Material, skirting: Colour) -> None:
    """A wall and its skirting board."""
    height = SIZE_M[2]
    place.rectangle((0, 0, height), (length, 0, 0), (0, 0, -height), material)
    place.box((0, -0.018, 0), (length, 0.018, 0.1), wood(skirting, 0.03), skip="back bottom")


def frame(
    place: Workshop, x: float, z: float, w: float, h: float, picture: Material, colour: Colour
) -> None:
    """A framed picture, its lower left corner at (x, z) on the wall."""
    rim, deep = wood(colour, 0.1), 0.022
    for corner, size, inner in (
        ((x - 0.035, -deep, z - 0.035), (w + 0.07, deep, 0.035), "top"),
        ((x - 0.035, -deep, z + h), (w + 0.07, deep, 0.035), "bottom"),
        ((x - 0.035, -deep, z), (0.035, deep, h), "right"),
        ((x + w, -deep, z), (0.035, deep, h), "left"),
    ):
        place.box(corner, size, rim, skip=f"back {inner}")
    place.rectangle((x, 0.0005 - deep, z + h), (w, 0, 0), (0, 0, -h), picture)


def paintings(north: Workshop) -> None:
    """Three pictures over the sofa and one beside the lamp."""
    hills = ((146, 164, 186), (104, 136, 136), (92, 124, 82), (58, 88, 54))
    frame(north, 2.72, 1.35, 0.55, 0.75, poster(CREAM, NAVY, RUST, ("MOTE", "finds itself",
          "museum of small things")), BLACK)  # fmt: skip
    frame(north, 3.5, 1.28, 0.95, 0.66, landscape(SKY, hills, (252, 240, 190)), BRASS)
    frame(north, 4.66, 1.42, 0.4, 0.5, bouquet(((70, 92, 98), (128, 132, 112)), VIVID, RUST), OAK)
    frame(north, 4.66, 2.03, 0.42, 0.3, abstract((226, 214, 190), VIVID, 16), WHITE)
    frame(north, 5.35, 1.5, 0.42, 0.62, city(DUSK, ((52, 54, 74), (94, 70, 78))), BLACK)


def books(place: Workshop, rng: np.random.Generator, width: float, room_m: float) -> None:
    """A row of books from x = 0, some leaning stacks between them."""
    x = 0.0
    while x < width - 0.05:
        if rng.random() < 0.07 and width - x > 0.25:
            z = 0.0
            for _ in range(int(rng.integers(2, 4))):
                thick = rng.uniform(0.025, 0.05)
                place.box((x, 0, z), (0.2, 0.16, thick), spine(), skip="back bottom",
                          top=plain(MUTED[rng.integers(len(MUTED))]))  # fmt: skip
                z += thick
            x += 0.22
            continue
        if rng.random() < 0.06:
            x += rng.uniform(0.04, 0.12)
            continue
        thick = min(rng.uniform(0.018, 0.055), width - x)
        tall, deep = rng.uniform(0.55, 0.92) * room_m, rng.uniform(0.15, 0.22)
        place.box((x, 0.22 - deep, 0), (thick, deep, tall), spine(), skip="back bottom",
                  left=plain(MUTED[rng.integers(len(MUTED))]),
                  right=plain(MUTED[rng.integers(len(MUTED))]),
                  top=plain((226, 216, 190)))  # fmt: skip
        x += thick


def bookcase(place: Workshop, rng: np.random.Generator, width: float) -> None:
    """Five shelves of books and things, on a low plinth."""
    deep, height = 0.32, 2.12
    board = wood(OAK)
    levels = (0.08, 0.50, 0.88, 1.24, 1.58, 1.88)
    place.rectangle((0, -0.02, height), (width, 0, 0), (0, 0, -height), wood(WALNUT))
    place.box((0, -deep, 0), (0.03, deep, height), board, skip="back bottom")
    place.box((width - 0.03, -deep, 0), (0.03, deep, height), board, skip="back bottom")
    place.box((0.98, -deep, 0), (0.025, deep, height), board, skip="back bottom")
    place.box((0.0, -deep, height), (width, deep, 0.03), board, skip="back")
    place.box((0.0, -deep, 0), (width, deep, 0.08), board, skip="back bottom")
    for level, above in zip(levels, (*levels[1:], height), strict=True):
        place.box((0.03, -deep + 0.005, level - 0.025), (width - 0.06, deep, 0.025), board,
                  skip="back left right")  # fmt: skip
        free = above - level - 0.04
        shelf = place.at(0.035, -0.27, level)
        books(shelf, rng, 0.93 if level != 1.24 else 0.55, free)
        books(shelf.at(0.98, 0), rng, 0.95 if level != 0.50 else 0.35, free)
    jar(place.at(0.75, -0.17, 1.24), (92, 132, 148), 0.07, 0.2)
    jar(place.at(1.5, -0.17, 0.5), (196, 146, 62), 0.09, 0.26)
    jar(place.at(1.75, -0.16, 0.5), (164, 72, 56), 0.08, 0.17)
    plant(place.at(0.45, -0.16, height + 0.03), rng, leaves=12, tall=0.3, pot=RUST)
    place.box((1.1, -0.3, height + 0.03), (0.42, 0.28, 0.2), cloth((196, 174, 136)), skip="back")
    place.box((1.56, -0.28, height + 0.03), (0.3, 0.24, 0.13), label((120, 150, 168)), skip="back")


def jar(place: Workshop, colour: Colour, radius: float, height: float) -> None:
    """A painted pot."""
    place.round((0, 0, 0), radius, height, label(colour), top=plain((60, 48, 42)))


def plant(
    place: Workshop,
    rng: np.random.Generator,
    leaves: int,
    tall: float,
    pot: Colour = (206, 196, 178),
) -> None:
    """A mother-in-law's tongue: long leaves in a pot, the outer ones leaning."""
    size = 0.05 + 0.1 * tall
    place.round((0, 0, 0), size, 1.6 * size, label(pot), top=plain((70, 52, 40)))
    for index in range(leaves):
        turn, away = 137.5 * index, 0.6 * size * np.sqrt(index / leaves)
        blade = place.at(0.0, 0.0, 1.5 * size, turn + rng.normal(0.0, 12.0))
        height, width = tall * rng.uniform(0.5, 1.0), 0.02 + 0.035 * tall
        lean = tall * rng.uniform(0.1, 0.6) * (index + 2) / leaves
        green = leaf((70, 116, 66), (178, 186, 98))
        blade.blade((0, away, 0), (rng.normal(0, 0.06) * tall, lean), width, height, green)


def sofa(place: Workshop, width: float) -> None:
    """A sofa with three cushions, all of different cloth."""
    body = cloth((84, 108, 124))
    place.box((0, -0.88, 0.12), (width, 0.88, 0.2), body, skip="back")
    place.box((0, -0.24, 0.32), (width, 0.24, 0.5), body, skip="back bottom")
    place.box((0, -0.88, 0.32), (0.2, 0.64, 0.26), body, skip="bottom back")
    place.box((width - 0.2, -0.88, 0.32), (0.2, 0.64, 0.26), body, skip="bottom back")
    seat = (width - 0.4) / 2.0
    for x in (0.2, 0.2 + seat):
        place.box((x, -0.9, 0.32), (seat, 0.66, 0.14), cloth((96, 120, 134)), skip="bottom back")
    for x, turn, colour, inks in (
        (0.28, 14, (214, 168, 66), (CREAM, RUST)),
        (0.86, -6, (226, 216, 196), (NAVY, SAGE, RUST)),
        (1.36, -17, (150, 62, 52), ((226, 186, 120), (60, 50, 70))),
    ):
        place.at(x, -0.4, 0.47, turn).box((0, 0, 0), (0.42, 0.13, 0.38), cloth(colour, inks))
    for x in (0.06, width - 0.12):
        place.box((x, -0.84, 0), (0.06, 0.06, 0.12), wood(WALNUT), skip="top bottom")
    place.box((width - 0.21, -0.8, 0.58), (0.22, 0.5, 0.012), cloth(CREAM, (RUST, NAVY)))


def floor_lamp(place: Workshop) -> None:
    """A brass lamp with a linen shade."""
    place.round((0, 0, 0), 0.15, 0.03, plain(BLACK), top=plain(BLACK))
    place.round((0, 0, 0.03), 0.014, 1.5, plain(BRASS), facets=5)
    shade = curtain((244, 222, 176), ((230, 200, 148), (250, 236, 202)))
    place.round((0, 0, 1.45), 0.22, 0.3, shade, glow=1.4, top=plain(CREAM))


def window(east: Workshop) -> None:
    """A window with two panes, a sill, curtains, and a radiator under it."""
    x0, x1 = 5.0 - PANES[1][2], 5.0 - PANES[0][0]  # along the wall, from the north
    z0, z1 = PANES[0][1], PANES[0][3]
    outer = wood(WHITE, 0.03)
    east.rectangle((x0, -0.01, z1), (x1 - x0, 0, 0), (0, 0, z0 - z1), view(), glow=1.25)
    for x, wide in ((x0 - 0.07, 0.07), (5.0 - PANES[1][0], 0.08), (x1, 0.07)):
        east.box((x, -0.06, z0 - 0.07), (wide, 0.06, z1 - z0 + 0.14), outer, skip="back")
    for z in (z0 - 0.07, z1):
        east.box((x0, -0.06, z), (x1 - x0, 0.055, 0.07), outer, skip="back")
    east.box((x0, -0.04, 1.78), (x1 - x0, 0.03, 0.035), outer, skip="back")
    east.box((x0 - 0.15, -0.2, z0 - 0.1), (x1 - x0 + 0.3, 0.2, 0.03), wood(OAK), skip="back")
    east.box((x0 - 0.5, -0.1, 2.37), (x1 - x0 + 1.0, 0.025, 0.025), plain(BRASS))
    cloths = ((196, 128, 76), (224, 198, 156), (150, 84, 60))
    for x, wide in ((x0 - 0.44, 0.36), (x1 + 0.06, 0.40)):
        for fold in range(4):
            sheet = curtain((212, 166, 116), cloths)
            east.box((x + fold * wide / 4, -0.13 + 0.025 * (fold % 2), 0.2), (wide / 4, 0.05, 2.17),
                     sheet, skip="back")  # fmt: skip
    for fin in range(13):
        east.box((x0 + 0.12 + fin * 0.105, -0.13, 0.17), (0.075, 0.1, 0.56), plain(WHITE, 0.02),
                 skip="back bottom")  # fmt: skip
    for x, colour in ((x0 + 0.1, RUST), (x0 + 0.6, (66, 96, 122)), (x1 - 0.2, (206, 180, 90))):
        plant(east.at(x, -0.11, z0 - 0.07), np.random.default_rng(int(1e3 * x)), 10, 0.22, colour)


def cabinet(place: Workshop, rng: np.random.Generator) -> None:
    """A chest of drawers with things on it and a map above, north of the window."""
    drawers = panelled((124, 146, 152), 3, 2, 0.03)
    place.box((-0.62, -0.42, 0.06), (1.16, 0.42, 0.74), wood(PINE), skip="back bottom",
              front=drawers)  # fmt: skip
    place.box((-0.58, -0.38, 0), (1.08, 0.36, 0.06), plain(BLACK), skip="top bottom back")
    for column in (-0.33, 0.25):
        for row in (0.18, 0.43, 0.67):
            place.box((column - 0.05, -0.445, row), (0.1, 0.025, 0.018), plain(BRASS), skip="back")
    frame(place, -0.55, 1.3, 0.9, 0.62, chart(), WALNUT)
    books(place.at(-0.5, -0.3, 0.8), rng, 0.42, 0.28)
    jar(place.at(0.12, -0.2, 0.8), (92, 118, 96), 0.08, 0.22)
    place.at(0.36, -0.22, 0.8, -20).box((-0.1, 0, 0), (0.2, 0.03, 0.24), wood(WALNUT),
                                        front=landscape(DUSK, (NAVY, BLACK), RUST))  # fmt: skip


def door(place: Workshop) -> None:
    """A panelled door with its case, a handle and a mat."""
    case = wood(WHITE, 0.03)
    place.box((0, -0.03, 0), (0.86, 0.03, 2.05), panelled((112, 136, 128), 3, 2, 0.06), skip="back")
    for x in (-0.09, 0.86):
        place.box((x, -0.05, 0), (0.09, 0.05, 2.14), case, skip="back bottom")
    place.box((-0.09, -0.05, 2.05), (1.04, 0.05, 0.09), case, skip="back")
    place.box((0.05, -0.09, 1.02), (0.14, 0.02, 0.025), plain(BRASS))
    place.box((0.06, -0.07, 0.96), (0.03, 0.04, 0.16), plain(BRASS), skip="back")
    frame(place, 0.2, 2.24, 0.5, 0.24, abstract((60, 66, 86), VIVID, 20), BRASS)


def coats(place: Workshop) -> None:
    """A rail with coats and a bag, a poster above, shoes below."""
    place.box((-0.02, -0.03, 1.62), (0.84, 0.03, 0.09), wood(TEAK), skip="back")
    for x, wide, tall, colour in (
        (0.02, 0.26, 0.95, (196, 156, 60)),
        (0.31, 0.22, 0.78, (64, 92, 112)),
        (0.58, 0.2, 0.5, (150, 64, 60)),
    ):
        inks = ((230, 220, 196),) if tall < 0.6 else ()
        place.box((x, -0.13, 1.64 - tall), (wide, 0.1, tall), cloth(colour, inks), skip="back")
    place.box((0.0, -0.3, 0.0), (0.84, 0.28, 0.32), wood(PINE), skip="back bottom",
              top=cloth(SAGE, (CREAM, NAVY)), front=panelled(PINE, 1, 3, 0.03))  # fmt: skip
    frame(place, 0.1, 1.84, 0.62, 0.44, poster(NAVY, CREAM, (226, 176, 70), ("NORTH", "by light",
          "a map of one room")), BRASS)  # fmt: skip


def fridge(place: Workshop) -> None:
    """A fridge in mint with notes on its doors."""
    mint = plain((164, 196, 180), 0.02)
    place.box((0, -0.64, 0.04), (0.66, 0.64, 1.1), mint, skip="back", front=pinned(mint, 5),
              left=pinned(mint, 2))  # fmt: skip
    place.box((0, -0.64, 1.155), (0.66, 0.64, 0.55), mint, skip="back", front=pinned(mint, 4))
    place.box((0.02, -0.6, 0), (0.62, 0.58, 0.04), plain(BLACK), skip="back bottom top")
    for z, tall in ((0.7, 0.38), (1.2, 0.3)):
        place.box((0.06, -0.69, z), (0.03, 0.05, tall), plain(STEEL), skip="back")
    place.box((0.1, -0.5, 1.705), (0.4, 0.34, 0.22), cloth((172, 132, 84)), skip="bottom")


def kitchen(place: Workshop, rng: np.random.Generator) -> None:
    """Counter, oven, sink, tiled splash back, wall cupboards and an open shelf with jars."""
    width = 2.58
    glazes: tuple[Colour, ...] = (
        (232, 228, 212),
        (214, 224, 220),
        (150, 184, 190),
        (226, 206, 160),
    )
    place.rectangle(
        (0, -0.008, 1.5), (width, 0, 0), (0, 0, -0.6), tiles(glazes, 0.125, ornate=0.45)
    )
    front = panelled((226, 214, 184), 1, 1)
    place.box((0, -0.54, 0), (width, 0.5, 0.09), plain(BLACK), skip="back top bottom")
    for x, wide, kind in (
        (0.0, 0.5, panelled((196, 96, 66), 4, 1, 0.03)),
        (0.5, 0.6, oven()),
        (1.1, 0.44, front),
        (1.54, 0.44, front),
        (1.98, 0.6, panelled((92, 122, 126), 2, 1, 0.05)),
    ):
        place.box((x, -0.58, 0.09), (wide - 0.004, 0.58, 0.77), wood(OAK), skip="back top bottom",
                  front=kind)  # fmt: skip
        place.box((x + wide / 2 - 0.08, -0.61, 0.78), (0.16, 0.03, 0.02), plain(BRASS), skip="back")
    slab = stone((206, 200, 190), ((150, 140, 130), (178, 120, 92), (92, 96, 100), (236, 230, 220)))
    place.box((-0.01, -0.61, 0.86), (width + 0.01, 0.61, 0.045), slab, skip="back")
    place.rectangle((0.53, -0.06, 0.907), (0.54, 0, 0), (0, -0.48, 0), hob())
    place.rectangle((1.3, -0.1, 0.907), (0.5, 0, 0), (0, -0.4, 0), plain((112, 116, 120), 0.2))
    place.box((1.53, -0.1, 0.9), (0.03, 0.03, 0.3), plain(STEEL))
    place.box((1.53, -0.28, 1.18), (0.03, 0.2, 0.025), plain(STEEL))
    jar(place.at(0.62, -0.38, 0.907), (176, 62, 50), 0.1, 0.13)
    jar(place.at(0.16, -0.2, 0.905), (226, 200, 120), 0.07, 0.24)
    jar(place.at(0.34, -0.16, 0.905), (88, 116, 140), 0.06, 0.17)
    place.at(2.02, -0.12, 0.905, 6).box((0, 0, 0), (0.36, 0.025, 0.3), wood(TEAK))
    place.box((2.3, -0.4, 0.905), (0.22, 0.3, 0.2), plain(RUST), front=label(RUST), skip="back")

    place.box((0.0, -0.33, 1.58), (0.62, 0.33, 0.68), wood(OAK), skip="back",
              front=panelled((92, 122, 126), 1, 2, 0.05))  # fmt: skip
    place.box((1.86, -0.33, 1.58), (0.72, 0.33, 0.68), wood(OAK), skip="back",
              front=panelled((226, 214, 184), 1, 2, 0.06))  # fmt: skip
    place.box((0.62, -0.3, 1.74), (1.24, 0.3, 0.03), wood(WALNUT), skip="back")
    place.box((0.62, -0.26, 2.08), (1.24, 0.26, 0.03), wood(WALNUT), skip="back")
    for z, top in ((1.77, 0.26), (2.11, 0.22)):
        for x in np.arange(0.72, 1.82, 0.145):
            tall, size = rng.uniform(0.45, 1.0) * top, rng.uniform(0.042, 0.066)
            shade = MUTED[rng.integers(len(MUTED))]
            jar(place.at(x + rng.normal(0.0, 0.012), -0.15, z), shade, size, tall)


def sideboard(place: Workshop, rng: np.random.Generator) -> None:
    """A walnut sideboard with a lamp, records and a vase."""
    place.box((-0.1, -0.42, 0.16), (1.5, 0.42, 0.56), wood(WALNUT), skip="back",
              front=panelled(TEAK, 1, 3, 0.05))  # fmt: skip
    for x in (-0.06, 1.3):
        place.box((x, -0.4, 0), (0.05, 0.05, 0.16), plain(BRASS), skip="top bottom")
    place.round((0.1, -0.22, 0.72), 0.07, 0.26, label(NAVY))
    shade = curtain((226, 196, 150), ((206, 160, 104), (240, 220, 180)))
    place.round((0.1, -0.22, 0.98), 0.17, 0.2, shade, top=plain(CREAM), glow=1.1)
    books(place.at(0.42, -0.32, 0.72), rng, 0.48, 0.3)
    jar(place.at(1.05, -0.2, 0.72), (70, 120, 116), 0.09, 0.32)
    jar(place.at(1.26, -0.24, 0.72), (214, 140, 70), 0.06, 0.14)


def west_wall(west: Workshop) -> None:
    """On the bricks: a large painting, a clock, a notice board and small frames."""
    dawn = ((214, 172, 150), (248, 226, 186))
    frame(west, 3.5, 1.32, 1.1, 0.8, abstract((228, 218, 196), VIVID, 44), BLACK)
    frame(west, 1.82, 1.22, 0.75, 0.55, landscape(dawn, (SAGE, (84, 104, 96), (54, 66, 52)), RUST),
          OAK)  # fmt: skip
    west.box((0.86, -0.03, 1.15), (0.66, 0.03, 0.85), wood(PINE), skip="back",
             front=pinned(cloth((190, 146, 96)), 9))  # fmt: skip
    west.box((2.78, -0.04, 1.72), (0.36, 0.04, 0.36), plain(BLACK), skip="back", front=clock())
    frame(west, 2.78, 1.2, 0.32, 0.4, bouquet((DUSK[0], (96, 72, 84)), VIVID, CREAM), BRASS)
    frame(west, 1.96, 1.98, 0.46, 0.3, city(SKY, ((150, 120, 96), (104, 96, 96))), WHITE)
    frame(west, 4.7, 1.3, 0.2, 0.28, poster((196, 84, 58), CREAM, CREAM, ("22", "may")), WHITE)


def dining_table(place: Workshop, rng: np.random.Generator) -> None:
    """A pine table with a runner, a laptop, a bowl and papers."""
    place.box((-0.64, -0.38, 0.71), (1.28, 0.76, 0.035), wood(PINE, 0.08))
    for x in (-0.58, 0.52):
        for y in (-0.33, 0.27):
            place.box((x, y, 0), (0.06, 0.06, 0.71), wood(PINE), skip="top bottom")
    place.box((-0.55, -0.33, 0.62), (1.1, 0.66, 0.09), wood(PINE), skip="top bottom")
    place.rectangle((-0.2, 0.36, 0.748), (0.34, 0, 0), (0, -0.72, 0),
                    rug(RUST, (CREAM, NAVY), VIVID, 1))  # fmt: skip
    place.round((-0.04, 0.02, 0.748), 0.1, 0.07, label((74, 112, 120)))
    for x, y, colour in ((-0.08, 0.0, (206, 66, 40)), (0.01, 0.05, (224, 170, 50)),
                         (0.0, -0.05, (128, 150, 54))):  # fmt: skip
        place.round((x, y, 0.79), 0.042, 0.06, plain(colour, 0.1), facets=7, top=plain(colour))
    laptop = place.at(0.38, 0.02, 0.746, -78)
    laptop.box((-0.16, -0.2, 0), (0.32, 0.22, 0.014), plain(STEEL), skip="bottom")
    laptop.box((-0.16, 0.02, 0.01), (0.32, 0.012, 0.21), plain(STEEL), front=screen())
    for x, y, turn in ((-0.5, -0.2, 12), (-0.44, 0.12, -24)):
        place.at(x, y, 0.746, turn).box((0, 0, 0), (0.15, 0.2, 0.012), plain(CREAM),
                                        top=poster(WHITE, NAVY, RUST, ("notes", "on light")))  # fmt: skip


def chair(place: Workshop, colour: Colour) -> None:
    """A wooden chair, its back at y = 0.2."""
    place.box((-0.2, -0.2, 0.43), (0.4, 0.4, 0.035), wood(TEAK), top=cloth(colour, (CREAM,)))
    for x in (-0.19, 0.15):
        place.box((x, -0.19, 0), (0.035, 0.035, 0.43), wood(TEAK), skip="top bottom")
        place.box((x, 0.17, 0), (0.035, 0.035, 0.92), wood(TEAK), skip="bottom")
    for z in (0.58, 0.72, 0.84):
        place.box((-0.16, 0.175, z), (0.32, 0.025, 0.075), wood(TEAK))


def low_table(place: Workshop, rng: np.random.Generator) -> None:
    """A low table with a shelf, books, a tray and a plant."""
    place.box((-0.5, -0.28, 0.37), (1.0, 0.56, 0.035), wood(WALNUT, 0.15))
    place.box((-0.46, -0.24, 0.12), (0.92, 0.48, 0.025), wood(OAK))
    for x in (-0.48, 0.43):
        for y in (-0.26, 0.21):
            place.box((x, y, 0), (0.05, 0.05, 0.37), wood(WALNUT), skip="top bottom")
    z = 0.405
    for index, cover in enumerate((label(CREAM), city(DUSK, ((70, 60, 80),)), chart())):
        place.at(-0.3, 0.02, z, 9.0 * index - 8.0).box(
            (-0.12, -0.15, 0), (0.24, 0.3, 0.028), spine(), skip="bottom", top=cover
        )
        z += 0.028
    place.box((0.02, -0.14, 0.405), (0.36, 0.26, 0.02), tiles(((62, 110, 118), CREAM), 0.06, 0.7))
    jar(place.at(0.11, 0.0, 0.425), (226, 214, 190), 0.035, 0.09)
    jar(place.at(0.24, -0.05, 0.425), (66, 88, 120), 0.035, 0.09)
    plant(place.at(0.02, 0.2, 0.405), rng, leaves=14, tall=0.3, pot=(84, 124, 120))
    books(place.at(-0.4, -0.2, 0.145), rng, 0.5, 0.2)


def rugs(room: Workshop) -> None:
    """A large rug under the low table, a runner before the kitchen, a door mat."""
    for place, w, d, ground, edge, count in (
        (room.at(3.75, 2.75, degrees=-3), 2.5, 1.75, (150, 54, 48), (NAVY, CREAM, RUST), 3),
        (room.at(1.45, 0.98, degrees=1.5), 1.5, 0.55, SAGE, ((86, 62, 54), (222, 190, 130)), 4),
        (room.at(5.02, 0.42, degrees=-2), 0.8, 0.5, (150, 122, 82), (BLACK, (180, 150, 100)), 1),
    ):
        carpet = rug(ground, edge, (*MUTED, CREAM), count)
        place.box((-w / 2, -d / 2, 0), (w, d, 0.008), cloth(edge[0]), top=carpet, skip="bottom")


def armchair(place: Workshop) -> None:
    """An armchair in the corner by the door, with a patterned cushion."""
    body = cloth((186, 136, 58))
    place.box((-0.38, -0.38, 0.1), (0.76, 0.74, 0.28), body)
    place.box((-0.38, 0.18, 0.38), (0.76, 0.2, 0.5), body, skip="bottom")
    for x in (-0.38, 0.24):
        place.box((x, -0.38, 0.38), (0.14, 0.56, 0.2), body, skip="bottom back")
    place.box((-0.235, -0.39, 0.38), (0.47, 0.57, 0.08), cloth((202, 154, 76)), skip="bottom back")
    place.at(0.0, 0.06, 0.46, 8).box((-0.2, 0, 0), (0.4, 0.12, 0.36), cloth(NAVY, (CREAM, SAGE)))
    for x, y in ((-0.34, -0.34), (0.28, -0.34), (-0.34, 0.28), (0.28, 0.28)):
        place.box((x, y, 0), (0.06, 0.06, 0.1), wood(WALNUT), skip="top bottom")


def pouf(place: Workshop) -> None:
    """A knitted pouf under the window."""
    top = rug(CREAM, (RUST, NAVY), VIVID, 1)
    place.box((-0.2, -0.2, 0), (0.4, 0.4, 0.36), cloth((170, 92, 70), (CREAM, NAVY)), top=top,
              skip="bottom")  # fmt: skip


def ceiling_lights(room: Workshop) -> None:
    """A pendant over the dining table and a paper drum in the middle of the room."""
    room.round((0.95, 2.2, 1.9), 0.008, 0.8, plain(BLACK), facets=4)
    room.round((0.95, 2.2, 1.62), 0.2, 0.28, plain(RUST, 0.06), top=plain(RUST), glow=0.5)
    room.round((3.15, 2.6, 2.45), 0.24, 0.14, curtain(CREAM, ((236, 226, 200),)), glow=1.6)
    square = ((3.15 - 0.2, 2.6 - 0.2, 2.455), (0.4, 0, 0), (0, 0.4, 0))
    room.rectangle(*square, plain((250, 244, 226)), glow=1.8)


@dataclass(frozen=True)
class FinishedRoom:
    """A room to be rendered."""

    rectangles: list[Rectangle]
    textures: list[np.ndarray]  # lit, uint8 RGB, one a rectangle


@cache
def _built() -> Workshop:
    return build()


def demo_blocks() -> list[Block]:
    """The volumes of walls, furniture and things."""
    return _built().blocks


@cache
def demo_room() -> FinishedRoom:
    """The demo room, painted and lit."""
    room, lights = _built(), lighting()
    light = light_up(room.rectangles, room.blocks, lights)
    textures = []
    for index, (rectangle, (soft, sun)) in enumerate(zip(room.rectangles, light, strict=True)):
        rng = np.random.default_rng((SEED, index))
        sides = [float(np.linalg.norm(edge)) for edge in (rectangle.right_3, rectangle.down_3)]
        albedo = rectangle.material(rng, *sides).astype(np.float32)
        soft = np.maximum(soft, np.float32(rectangle.glow))
        textures.append(expose(albedo, soft, sun, lights.sun.power_3))
    return FinishedRoom(room.rectangles, textures)
