"""Furniture of the demo room; each function adds one piece at a builder's pose."""

import numpy as np
from numpy.random import Generator

from demo_room.days import Day
from demo_room.objects import hob, label, oven, pinned, screen, spine
from demo_room.palette import (
    BLACK,
    BRASS,
    CREAM,
    DUSK,
    MUTED,
    NAVY,
    OAK,
    PINE,
    RUST,
    SAGE,
    STEEL,
    TEAK,
    VIVID,
    WALNUT,
    WHITE,
    Colour,
)
from demo_room.pictures import chart, city, landscape, poster
from demo_room.shapes import Builder
from demo_room.textures import (
    Material,
    cloth,
    curtain,
    leaf,
    panelled,
    plain,
    rug,
    stone,
    tiles,
    wood,
)


def frame(
    place: Builder, x: float, z: float, w: float, h: float, picture: Material, colour: Colour
) -> None:
    """Add a framed picture whose lower left corner is at (x, z) on the wall."""
    rim, deep = wood(colour, 0.1), 0.022
    for corner, size, inner in (
        ((x - 0.035, -deep, z - 0.035), (w + 0.07, deep, 0.035), "top"),
        ((x - 0.035, -deep, z + h), (w + 0.07, deep, 0.035), "bottom"),
        ((x - 0.035, -deep, z), (0.035, deep, h), "right"),
        ((x + w, -deep, z), (0.035, deep, h), "left"),
    ):
        place.box(corner, size, rim, skip=f"back {inner}")
    place.rectangle((x, 0.0005 - deep, z + h), (w, 0, 0), (0, 0, -h), picture)


def books(place: Builder, rng: Generator, width: float, shelf_m: float) -> None:
    """Add a row of books from x = 0, some of them in lying stacks."""
    x, pages = 0.0, plain((226, 216, 190))
    while x < width - 0.05:
        if rng.random() < 0.07 and width - x > 0.25:
            z = 0.0
            for _ in range(int(rng.integers(2, 4))):
                thick = rng.uniform(0.025, 0.05)
                cover = plain(MUTED[rng.integers(len(MUTED))])
                place.box((x, 0, z), (0.2, 0.16, thick), spine(), skip="back bottom", top=cover)
                z += thick
            x += 0.22
            continue
        if rng.random() < 0.06:
            x += rng.uniform(0.04, 0.12)
            continue
        thick = min(rng.uniform(0.018, 0.055), width - x)
        tall, deep = rng.uniform(0.55, 0.92) * shelf_m, rng.uniform(0.15, 0.22)
        corner, size = (x, 0.22 - deep, 0), (thick, deep, tall)
        left, right = (plain(MUTED[rng.integers(len(MUTED))]) for _ in range(2))
        place.box(corner, size, spine(), skip="back bottom", left=left, right=right, top=pages)
        x += thick


def bookcase(place: Builder, rng: Generator, day: Day, width: float) -> None:
    """Add a bookcase: five shelves of books and jars on a low plinth."""
    deep, height = 0.32, 2.12
    board = wood(OAK)
    levels = (0.08, 0.50, 0.88, 1.24, 1.58, 1.88)
    place.rectangle((0, -0.02, height), (width, 0, 0), (0, 0, -height), wood(WALNUT))
    for x, thick in ((0, 0.03), (width - 0.03, 0.03), (0.98, 0.025)):
        place.box((x, -deep, 0), (thick, deep, height), board, skip="back bottom")
    place.box((0.0, -deep, height), (width, deep, 0.03), board, skip="back")
    place.box((0.0, -deep, 0), (width, deep, 0.08), board, skip="back bottom")
    for level, above in zip(levels, (*levels[1:], height), strict=True):
        corner = (0.03, -deep + 0.005, level - 0.025)
        place.box(corner, (width - 0.06, deep, 0.025), board, skip="back left right")
        free = above - level - 0.04
        shelf = place.at(0.035, -0.27, level)
        books(shelf, rng, 0.93 if level != 1.24 else 0.55, free)
        books(shelf.at(0.98, 0), rng, 0.95 if level != 0.50 else 0.35, free)
    jar(place.at(0.75, -0.17, 1.24), (92, 132, 148), 0.07, 0.2)
    jar(place.at(1.5, -0.17, 0.5), (196, 146, 62), 0.09, 0.26)
    jar(place.at(1.75, -0.16, 0.5), (164, 72, 56), 0.08, 0.17)
    tree = day.at(place, "bookcase plant", 0.45, -0.16, height + 0.03)
    plant(tree, rng, leaves=12, tall=0.3, pot=RUST)
    basket = day.at(place, "bookcase box", 0.0, 0.0)
    basket.box((1.1, -0.3, height + 0.03), (0.42, 0.28, 0.2), cloth((196, 174, 136)), skip="back")
    place.box((1.56, -0.28, height + 0.03), (0.3, 0.24, 0.13), label((120, 150, 168)), skip="back")


def jar(place: Builder, colour: Colour, radius: float, height: float) -> None:
    """Add a painted pot."""
    place.round((0, 0, 0), radius, height, label(colour), top=plain((60, 48, 42)))


def plant(
    place: Builder, rng: Generator, leaves: int, tall: float, pot: Colour = (206, 196, 178)
) -> None:
    """Add a snake plant: long leaves in a pot, the outer ones leaning."""
    size = 0.05 + 0.1 * tall
    place.round((0, 0, 0), size, 1.6 * size, label(pot), top=plain((70, 52, 40)))
    for index in range(leaves):
        angle, offset = 137.5 * index, 0.6 * size * np.sqrt(index / leaves)
        blade = place.at(0.0, 0.0, 1.5 * size, angle + rng.normal(0.0, 12.0))
        height, width = tall * rng.uniform(0.5, 1.0), 0.02 + 0.035 * tall
        lean = tall * rng.uniform(0.1, 0.6) * (index + 2) / leaves
        green = leaf((70, 116, 66), (178, 186, 98))
        blade.blade((0, offset, 0), (rng.normal(0, 0.06) * tall, lean), width, height, green)


def sofa(place: Builder, width: float) -> None:
    """Add a sofa with three cushions of different cloth."""
    body = cloth((84, 108, 124))
    place.box((0, -0.88, 0.12), (width, 0.88, 0.2), body, skip="back")
    place.box((0, -0.24, 0.32), (width, 0.24, 0.5), body, skip="back bottom")
    place.box((0, -0.88, 0.32), (0.2, 0.64, 0.26), body, skip="bottom back")
    place.box((width - 0.2, -0.88, 0.32), (0.2, 0.64, 0.26), body, skip="bottom back")
    seat = (width - 0.4) / 2.0
    for x in (0.2, 0.2 + seat):
        place.box((x, -0.9, 0.32), (seat, 0.66, 0.14), cloth((96, 120, 134)), skip="bottom back")
    for x, degrees, colour, inks in (
        (0.28, 14, (214, 168, 66), (CREAM, RUST)),
        (0.86, -6, (226, 216, 196), (NAVY, SAGE, RUST)),
        (1.36, -17, (150, 62, 52), ((226, 186, 120), (60, 50, 70))),
    ):
        place.at(x, -0.4, 0.47, degrees).box((0, 0, 0), (0.42, 0.13, 0.38), cloth(colour, inks))
    for x in (0.06, width - 0.12):
        place.box((x, -0.84, 0), (0.06, 0.06, 0.12), wood(WALNUT), skip="top bottom")
    place.box((width - 0.21, -0.8, 0.58), (0.22, 0.5, 0.012), cloth(CREAM, (RUST, NAVY)))


def floor_lamp(place: Builder, brightness: float) -> None:
    """Add a brass lamp with a linen shade."""
    place.round((0, 0, 0), 0.15, 0.03, plain(BLACK), top=plain(BLACK))
    place.round((0, 0, 0.03), 0.014, 1.5, plain(BRASS), facets=5)
    shade = curtain((244, 222, 176), ((230, 200, 148), (250, 236, 202)))
    place.round((0, 0, 1.45), 0.22, 0.3, shade, glow=1.4 * brightness, top=plain(CREAM))


def cabinet(place: Builder, rng: Generator) -> None:
    """Add a chest of drawers with objects on it and a map above it."""
    drawers = panelled((124, 146, 152), 3, 2, 0.03)
    place.box(
        (-0.62, -0.42, 0.06), (1.16, 0.42, 0.74), wood(PINE), skip="back bottom", front=drawers
    )
    place.box((-0.58, -0.38, 0), (1.08, 0.36, 0.06), plain(BLACK), skip="top bottom back")
    for column in (-0.33, 0.25):
        for row in (0.18, 0.43, 0.67):
            place.box((column - 0.05, -0.445, row), (0.1, 0.025, 0.018), plain(BRASS), skip="back")
    frame(place, -0.55, 1.3, 0.9, 0.62, chart(), WALNUT)
    books(place.at(-0.5, -0.3, 0.8), rng, 0.42, 0.28)
    jar(place.at(0.12, -0.2, 0.8), (92, 118, 96), 0.08, 0.22)
    place.at(0.36, -0.22, 0.8, -20).box(
        (-0.1, 0, 0), (0.2, 0.03, 0.24), wood(WALNUT), front=landscape(DUSK, (NAVY, BLACK), RUST)
    )


def fridge(place: Builder, day: Day) -> None:
    """Add a mint-coloured fridge with notes on its doors."""
    mint = plain((164, 196, 180), 0.02)
    front, left = pinned(mint, 5), pinned(mint, 2)
    place.box((0, -0.64, 0.04), (0.66, 0.64, 1.1), mint, skip="back", front=front, left=left)
    place.box((0, -0.64, 1.155), (0.66, 0.64, 0.55), mint, skip="back", front=pinned(mint, 4))
    place.box((0.02, -0.6, 0), (0.62, 0.58, 0.04), plain(BLACK), skip="back bottom top")
    for z, tall in ((0.7, 0.38), (1.2, 0.3)):
        place.box((0.06, -0.69, z), (0.03, 0.05, tall), plain(STEEL), skip="back")
    basket = day.at(place, "fridge box", 0.0, 0.0)
    basket.box((0.1, -0.5, 1.705), (0.4, 0.34, 0.22), cloth((172, 132, 84)), skip="bottom")


def kitchen(place: Builder, rng: Generator) -> None:
    """Add counter, oven, sink, tiled backsplash, wall cupboards and an open shelf with jars."""
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
        corner, size = (x, -0.58, 0.09), (wide - 0.004, 0.58, 0.77)
        place.box(corner, size, wood(OAK), skip="back top bottom", front=kind)
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

    for x, wide, kind in (
        (0.0, 0.62, panelled((92, 122, 126), 1, 2, 0.05)),
        (1.86, 0.72, panelled((226, 214, 184), 1, 2, 0.06)),
    ):
        place.box((x, -0.33, 1.58), (wide, 0.33, 0.68), wood(OAK), skip="back", front=kind)
    place.box((0.62, -0.3, 1.74), (1.24, 0.3, 0.03), wood(WALNUT), skip="back")
    place.box((0.62, -0.26, 2.08), (1.24, 0.26, 0.03), wood(WALNUT), skip="back")
    for z, top in ((1.77, 0.26), (2.11, 0.22)):
        for x in np.arange(0.72, 1.82, 0.145):
            tall, radius = rng.uniform(0.45, 1.0) * top, rng.uniform(0.042, 0.066)
            shade = MUTED[rng.integers(len(MUTED))]
            jar(place.at(x + rng.normal(0.0, 0.012), -0.15, z), shade, radius, tall)


def sideboard(place: Builder, rng: Generator, lamp: float) -> None:
    """Add a walnut sideboard with a lamp, records and a vase."""
    doors = panelled(TEAK, 1, 3, 0.05)
    place.box((-0.1, -0.42, 0.16), (1.5, 0.42, 0.56), wood(WALNUT), skip="back", front=doors)
    for x in (-0.06, 1.3):
        place.box((x, -0.4, 0), (0.05, 0.05, 0.16), plain(BRASS), skip="top bottom")
    place.round((0.1, -0.22, 0.72), 0.07, 0.26, label(NAVY))
    shade = curtain((226, 196, 150), ((206, 160, 104), (240, 220, 180)))
    place.round((0.1, -0.22, 0.98), 0.17, 0.2, shade, top=plain(CREAM), glow=1.1 * lamp)
    books(place.at(0.42, -0.32, 0.72), rng, 0.48, 0.3)
    jar(place.at(1.05, -0.2, 0.72), (70, 120, 116), 0.09, 0.32)
    jar(place.at(1.26, -0.24, 0.72), (214, 140, 70), 0.06, 0.14)


def dining_table(place: Builder) -> None:
    """Add a pine table with a runner, a laptop, a bowl and papers."""
    place.box((-0.64, -0.38, 0.71), (1.28, 0.76, 0.035), wood(PINE, 0.08))
    for x in (-0.58, 0.52):
        for y in (-0.33, 0.27):
            place.box((x, y, 0), (0.06, 0.06, 0.71), wood(PINE), skip="top bottom")
    place.box((-0.55, -0.33, 0.62), (1.1, 0.66, 0.09), wood(PINE), skip="top bottom")
    place.rectangle(
        (-0.2, 0.36, 0.748), (0.34, 0, 0), (0, -0.72, 0), rug(RUST, (CREAM, NAVY), VIVID, 1)
    )
    place.round((-0.04, 0.02, 0.748), 0.1, 0.07, label((74, 112, 120)))
    for x, y, colour in (
        (-0.08, 0.0, (206, 66, 40)),
        (0.01, 0.05, (224, 170, 50)),
        (0.0, -0.05, (128, 150, 54)),
    ):
        place.round((x, y, 0.79), 0.042, 0.06, plain(colour, 0.1), facets=7, top=plain(colour))
    laptop = place.at(0.38, 0.02, 0.746, -78)
    laptop.box((-0.16, -0.2, 0), (0.32, 0.22, 0.014), plain(STEEL), skip="bottom")
    laptop.box((-0.16, 0.02, 0.01), (0.32, 0.012, 0.21), plain(STEEL), front=screen())
    notes = poster(WHITE, NAVY, RUST, ("notes", "on light"))
    for x, y, degrees in ((-0.5, -0.2, 12), (-0.44, 0.12, -24)):
        paper = place.at(x, y, 0.746, degrees)
        paper.box((0, 0, 0), (0.15, 0.2, 0.012), plain(CREAM), top=notes)


def chair(place: Builder, colour: Colour) -> None:
    """Add a wooden chair, its back at y = 0.2."""
    place.box((-0.2, -0.2, 0.43), (0.4, 0.4, 0.035), wood(TEAK), top=cloth(colour, (CREAM,)))
    for x in (-0.19, 0.15):
        place.box((x, -0.19, 0), (0.035, 0.035, 0.43), wood(TEAK), skip="top bottom")
        place.box((x, 0.17, 0), (0.035, 0.035, 0.92), wood(TEAK), skip="bottom")
    for z in (0.58, 0.72, 0.84):
        place.box((-0.16, 0.175, z), (0.32, 0.025, 0.075), wood(TEAK))


def low_table(place: Builder, rng: Generator, day: Day) -> None:
    """Add a low table with a shelf, books, a tray and a plant."""
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
    pot = day.at(place, "low table plant", 0.02, 0.2, 0.405)
    plant(pot, rng, leaves=14, tall=0.3, pot=(84, 124, 120))
    books(place.at(-0.4, -0.2, 0.145), rng, 0.5, 0.2)


def armchair(place: Builder) -> None:
    """Add an armchair with a patterned cushion."""
    body = cloth((186, 136, 58))
    place.box((-0.38, -0.38, 0.1), (0.76, 0.74, 0.28), body)
    place.box((-0.38, 0.18, 0.38), (0.76, 0.2, 0.5), body, skip="bottom")
    for x in (-0.38, 0.24):
        place.box((x, -0.38, 0.38), (0.14, 0.56, 0.2), body, skip="bottom back")
    place.box((-0.235, -0.39, 0.38), (0.47, 0.57, 0.08), cloth((202, 154, 76)), skip="bottom back")
    place.at(0.0, 0.06, 0.46, 8).box((-0.2, 0, 0), (0.4, 0.12, 0.36), cloth(NAVY, (CREAM, SAGE)))
    for x, y in ((-0.34, -0.34), (0.28, -0.34), (-0.34, 0.28), (0.28, 0.28)):
        place.box((x, y, 0), (0.06, 0.06, 0.1), wood(WALNUT), skip="top bottom")


def pouf(place: Builder) -> None:
    """Add a knitted pouf."""
    sides, top = cloth((170, 92, 70), (CREAM, NAVY)), rug(CREAM, (RUST, NAVY), VIVID, 1)
    place.box((-0.2, -0.2, 0), (0.4, 0.4, 0.36), sides, top=top, skip="bottom")
