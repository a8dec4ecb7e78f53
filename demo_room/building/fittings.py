"""Furniture of the building's rooms: what stands along a wall, and how much of it that takes."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from demo_room import furniture, model
from demo_room.days import RECORDED
from demo_room.objects import label, pinned, screen
from demo_room.palette import (
    BLACK,
    CREAM,
    MUTED,
    OAK,
    PINE,
    STEEL,
    TEAK,
    VIVID,
    WALNUT,
    WHITE,
    Colour,
)
from demo_room.pictures import abstract, bouquet, chart, city, landscape, poster
from demo_room.shapes import Builder
from demo_room.textures import Material, cloth, panelled, plain, rug, wood

_TITLES = "OPEN DAY,NORTH WING,LIGHT,TEA AT FOUR,ROBOTS,CHOIR,BIRDS,WINTER,CLAY,OPTICS".split(",")


@dataclass(frozen=True)
class Fitting:
    """A piece of furniture along a wall."""

    width: float  # m along the wall
    height: float  # m; pictures hang above low ones
    add: Callable[[Builder, Generator], None]  # at the left end of its part of the wall


def a_colour(rng: Generator) -> Colour:
    """Return one of the muted or vivid colours."""
    palette = MUTED + VIVID
    return palette[int(rng.integers(len(palette)))]


def a_picture(rng: Generator) -> Material:
    """Return a picture or poster in random colours."""
    colours = [a_colour(rng) for _ in range(6)]
    sky = (colours[0], CREAM)
    title = _TITLES[int(rng.integers(len(_TITLES)))]
    pictures = (
        landscape(sky, colours[1:4], colours[4]),
        abstract(colours[0], VIVID, int(rng.integers(14, 40))),
        bouquet(sky, VIVID, colours[1]),
        city((colours[0], colours[1]), colours[2:4]),
        poster(colours[0], CREAM, colours[1], (title, f"room {rng.integers(100, 999)}")),
        chart(),
    )
    return pictures[int(rng.integers(len(pictures)))]


def desk(place: Builder, rng: Generator) -> None:
    """Add a desk with drawers, a monitor, a mug and a chair."""
    top, colour = (wood(OAK), wood(PINE), wood(WALNUT))[int(rng.integers(3))], a_colour(rng)
    place.box((0, -0.7, 0.71), (1.4, 0.7, 0.03), top)
    place.box((0.02, -0.66, 0), (0.03, 0.62, 0.71), wood(TEAK), skip="top bottom")
    front = panelled(colour, 3, 1, 0.03)
    place.box((0.96, -0.64, 0.05), (0.42, 0.6, 0.66), plain(colour), skip="bottom top", front=front)
    x = rng.uniform(0.2, 0.5)
    place.box((x, -0.3, 0.86), (0.56, 0.04, 0.34), plain(BLACK), front=screen())
    place.box((x + 0.26, -0.28, 0.74), (0.04, 0.03, 0.14), plain(STEEL), skip="top bottom")
    place.box((x + 0.08, -0.56, 0.74), (0.4, 0.14, 0.015), plain(BLACK, 0.2), skip="bottom")
    furniture.jar(place.at(1.0, -0.5, 0.74), a_colour(rng), 0.045, 0.1)
    furniture.books(place.at(1.05, -0.26, 0.74), rng, 0.3, 0.28)
    furniture.chair(place.at(0.5, -0.62, degrees=180 + rng.normal(0.0, 8.0)), a_colour(rng))


def shelf(place: Builder, rng: Generator) -> None:
    """Add an open shelf with boxes and jars."""
    board, w, d, h = wood((OAK, TEAK, PINE)[int(rng.integers(3))]), 1.2, 0.36, 1.85
    for x in (0.0, w - 0.03):
        place.box((x, -d, 0), (0.03, d, h), board, skip="bottom back")
    place.rectangle((0, -0.01, h), (w, 0, 0), (0, 0, -h), cloth(a_colour(rng)))
    for z in (0.1, 0.52, 0.94, 1.36, h - 0.03):
        place.box((0.03, -d, z), (w - 0.06, d, 0.03), board, skip="back left right")
        x = 0.06
        while z < 1.5 and x < w - 0.25:
            wide, tall = min(rng.uniform(0.16, 0.42), w - 0.06 - x), rng.uniform(0.16, 0.33)
            if rng.random() < 0.75:
                colour = a_colour(rng)
                corner, size = (x, -d + 0.03, z + 0.03), (wide, d - 0.06, tall)
                place.box(corner, size, plain(colour), skip="back bottom", front=label(colour))
            else:
                jar = place.at(x + 0.08, -0.18, z + 0.03)
                furniture.jar(jar, a_colour(rng), rng.uniform(0.05, 0.08), tall)
            x += wide + rng.uniform(0.02, 0.08)


def lockers(place: Builder, rng: Generator) -> None:
    """Add three lockers."""
    colour = a_colour(rng)
    doors = pinned(panelled(colour, 1, 3, 0.05), 3)
    place.box((0, -0.45, 0.06), (1.2, 0.45, 1.75), plain(colour), skip="back bottom", front=doors)
    place.box((0.03, -0.42, 0), (1.14, 0.4, 0.06), plain(BLACK), skip="back bottom top")


def whiteboard(place: Builder, rng: Generator) -> None:
    """Add a board with notes."""
    notes = pinned(plain(WHITE, 0.01), int(rng.integers(6, 12)))
    place.box((0, -0.03, 0.95), (1.6, 0.03, 1.0), plain(STEEL), skip="back", front=notes)
    place.box((0.1, -0.1, 0.92), (1.4, 0.1, 0.02), plain(STEEL), skip="back")


def bench(place: Builder, rng: Generator) -> None:
    """Add a workbench with tools on a board above it."""
    place.box((0, -0.65, 0.84), (1.8, 0.65, 0.05), wood(PINE, 0.15))
    for x in (0.02, 1.7):
        place.box((x, -0.62, 0), (0.08, 0.08, 0.84), wood(PINE), skip="top bottom")
    drawers = panelled(a_colour(rng), 3, 2, 0.03)
    place.box((0.5, -0.6, 0.05), (0.9, 0.55, 0.79), wood(TEAK), skip="top bottom", front=drawers)
    tools = pinned(cloth(a_colour(rng)), 8)
    place.box((0.05, -0.03, 1.15), (1.7, 0.03, 0.75), wood(PINE), skip="back", front=tools)
    for x in (0.15, 0.7, 1.35):
        colour, tall = a_colour(rng), rng.uniform(0.1, 0.26)
        corner, size = (x, -0.35, 0.89), (rng.uniform(0.2, 0.36), 0.25, tall)
        place.box(corner, size, plain(colour), skip="bottom", front=label(colour))


def boxes(place: Builder, rng: Generator) -> None:
    """Add a stack of boxes."""
    for x, z, w in ((0.0, 0.0, 0.5), (0.52, 0.0, 0.4), (0.1, 0.4, 0.44), (0.14, 0.75, 0.36)):
        front, tall = label(a_colour(rng)), 0.4 if z == 0.0 else 0.35
        side = cloth((184, 142, 96))
        corner, size = (x, -0.5 + rng.uniform(0.0, 0.05), z), (w, 0.4, tall - 0.005)
        place.box(corner, size, side, skip="bottom", front=front)


def _bookcase(place: Builder, rng: Generator) -> None:
    furniture.bookcase(place, rng, RECORDED, width=2.0)


def _plant(place: Builder, rng: Generator) -> None:
    tall = rng.uniform(0.7, 1.05)
    furniture.plant(place.at(0.4, -0.45), rng, leaves=18, tall=tall, pot=a_colour(rng))


FITTINGS = {
    "sofa": Fitting(2.1, 0.9, lambda place, rng: furniture.sofa(place.at(0.0, -0.03), 2.05)),
    "bookcase": Fitting(2.0, 2.6, _bookcase),
    "cabinet": Fitting(1.2, 2.0, lambda place, rng: furniture.cabinet(place.at(0.64, 0.0), rng)),
    "fridge": Fitting(0.7, 2.0, lambda place, rng: furniture.fridge(place, RECORDED)),
    "kitchen": Fitting(2.6, 2.4, furniture.kitchen),
    "sideboard": Fitting(
        1.5, 1.25, lambda place, rng: furniture.sideboard(place.at(0.1, 0.0), rng, 0.8)
    ),
    "coats": Fitting(0.9, 2.4, lambda place, rng: model.coats(place)),
    "armchair": Fitting(
        0.9,
        0.95,
        lambda place, rng: furniture.armchair(place.at(0.45, -0.45, degrees=rng.normal(0.0, 5.0))),
    ),
    "lamp": Fitting(0.5, 1.8, lambda place, rng: furniture.floor_lamp(place.at(0.25, -0.28), 0.9)),
    "plant": Fitting(0.8, 1.3, _plant),
    "desk": Fitting(1.4, 1.25, desk),
    "shelf": Fitting(1.2, 1.9, shelf),
    "lockers": Fitting(1.2, 1.9, lockers),
    "whiteboard": Fitting(1.6, 2.0, whiteboard),
    "bench": Fitting(1.8, 2.0, bench),
    "boxes": Fitting(1.0, 1.2, boxes),
}


def table_group(place: Builder, rng: Generator) -> None:
    """Add a table with two chairs on a rug, centred at the builder's position."""
    rug_on_floor(place, rng)
    furniture.dining_table(place)
    for x, y, degrees in ((-0.3, 0.5, 0.0), (0.25, -0.5, 180.0)):
        turned = degrees + rng.normal(0.0, 10.0)
        furniture.chair(place.at(x, y, degrees=turned), a_colour(rng))


def rug_on_floor(place: Builder, rng: Generator) -> None:
    """Add a rug, centred at the builder's position."""
    w, d = 2.4, 1.7
    edge = [a_colour(rng) for _ in range(3)]
    carpet = rug(a_colour(rng), edge, (*MUTED, CREAM), int(rng.integers(1, 5)))
    corner = (-w / 2, -d / 2, 0.0)
    place.box(corner, (w, d, 0.008), cloth(edge[0]), top=carpet, skip="bottom")


MIDDLE: dict[str, Callable[[Builder, Generator], None]] = {
    "table": table_group,
    "rug": rug_on_floor,
}


def hang_pictures(
    place: Builder, rng: Generator, start: float, end: float, spacing: float = 0.5
) -> None:
    """Hang framed pictures on a free stretch of a wall, from x = start to end."""
    x = start + rng.uniform(0.1, spacing)
    while True:
        w, h = min(rng.uniform(0.35, 0.95), end - 0.1 - x), rng.uniform(0.4, 0.75)
        if w < 0.3:
            return
        z = rng.uniform(1.28, 1.45)
        rim = (BLACK, OAK, WHITE, WALNUT)[int(rng.integers(4))]
        furniture.frame(place, x, z, w, h, a_picture(rng), rim)
        x += w + 0.12 + rng.uniform(0.0, spacing)


def hue_rotation(degrees: float) -> np.ndarray:
    """Return the matrix (3, 3) that rotates RGB colours about the grey axis."""
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees)) / np.sqrt(3.0)
    third = (1.0 - cos) / 3.0
    cross_33 = np.array([[0.0, -sin, sin], [sin, 0.0, -sin], [-sin, sin, 0.0]])
    return cos * np.eye(3) + third + cross_33
