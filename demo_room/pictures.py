"""Procedural pictures of the demo room: paintings, prints, a map, the view from the window."""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.random import Generator

from demo_room.palette import Colour, Palette
from demo_room.textures import (
    COMMON,
    FINE,
    Size,
    canvas,
    clouds,
    grain,
    material,
    pick,
    shaded,
    vary,
)

WORDS = (
    "atlas mote kitchen garden stars algebra sea "
    "dust light maps winter bread clay robots rivers birds optics wool tea north"
).split()
FONTS = (
    cv2.FONT_HERSHEY_SIMPLEX,
    cv2.FONT_HERSHEY_DUPLEX,
    cv2.FONT_HERSHEY_TRIPLEX,
    cv2.FONT_HERSHEY_COMPLEX,
)


def draw_text(
    image: np.ndarray, text: str, box: tuple[int, int, int, int], ink: Colour, font: int = 2
) -> None:
    """Draw a line of text as large as fits the box (left, top, width, height), px."""
    left, top, width, height = box
    (unit_width, unit_height), _ = cv2.getTextSize(text, font, 1.0, 1)
    scale = min(width / unit_width, height / unit_height)
    thick = max(1, round(scale * 1.6))
    spot = (round(left + (width - unit_width * scale) / 2), round(top + height))
    cv2.putText(image, text, spot, font, scale, ink, thick, cv2.LINE_AA)


def _gradient(image: np.ndarray, top: Colour, bottom: Colour) -> None:
    """Fill an image with a vertical colour gradient."""
    blend = np.linspace(0.0, 1.0, len(image))[:, None, None]
    image[:] = np.asarray(top) * (1.0 - blend) + np.asarray(bottom) * blend


def _ridge(rng: Generator, image: np.ndarray, level: float, rough: float, ink: Colour) -> None:
    """Fill the area below a wavy line at height `level`, from 0 at the top to 1."""
    height, width = image.shape[:2]
    line = clouds(rng, (1, width), (width / 3.0, 1.0), 4)[0]
    line = (level + rough * line) * height
    points = np.stack([np.arange(width), line], 1).astype(np.int32)
    corners = np.array([[width, height], [0, height]], np.int32)
    cv2.fillPoly(image, [np.vstack([points, corners])], ink, cv2.LINE_AA)


def _brushed(rng: Generator, image: np.ndarray, amount: float = 0.05) -> np.ndarray:
    """Return a picture with brush strokes."""
    strokes = clouds(rng, image.shape, (16.0, 3.0), 2)
    return shaded(image, amount * strokes + grain(rng, image.shape, 0.015))


@material
def landscape(
    rng: Generator, size_m: Size, sky: tuple[Colour, Colour], hills: Palette, sun: Colour
) -> np.ndarray:
    """Paint a picture of sky, sun, hills and trees."""
    image = canvas(size_m, sky[0], FINE)
    height, width = image.shape[:2]
    _gradient(image, *sky)
    spot = (round(width * rng.uniform(0.15, 0.85)), round(height * rng.uniform(0.15, 0.3)))
    cv2.circle(image, spot, round(height * 0.09), sun, -1, cv2.LINE_AA)
    for index, hill in enumerate(hills):
        level = 0.38 + 0.5 * index / len(hills)
        _ridge(rng, image, level, 0.05, vary(rng, hill, 0.05))
        for _ in range(3 + 3 * index):
            foot = np.array([rng.uniform(0, width), height * (level + 0.06)])
            size = height * rng.uniform(0.04, 0.07) * (1 + index)
            tree = foot + size * np.array([[-0.28, 0.0], [0.28, 0.0], [0.0, -1.0]])
            cv2.fillConvexPoly(
                image, tree.astype(np.int32), vary(rng, hills[-1], 0.25), cv2.LINE_AA
            )
    return _brushed(rng, image, 0.06)


@material
def abstract(
    rng: Generator, size_m: Size, ground: Colour, palette: Palette, pieces: int = 34
) -> np.ndarray:
    """Paint a picture of circles, bars and triangles."""
    image = canvas(size_m, ground, FINE)
    height, width = image.shape[:2]
    for index in range(pieces):
        size = min(height, width) * 0.34 * (1.0 - 0.8 * index / pieces)
        spot = np.array([rng.uniform(0, width), rng.uniform(0, height)])
        ink, kind = pick(rng, palette, 0.1), rng.integers(4)
        centre = (round(spot[0]), round(spot[1]))
        if kind == 0:
            cv2.circle(image, centre, round(size * 0.6) + 2, ink, -1, cv2.LINE_AA)
        elif kind == 1:
            cv2.circle(image, centre, round(size * 0.6) + 2, ink, 5, cv2.LINE_AA)
        elif kind == 2:
            points = spot + size * rng.uniform(-1.0, 1.0, (3, 2))
            cv2.fillConvexPoly(image, points.astype(np.int32), ink, cv2.LINE_AA)
        else:
            end = spot + 2.0 * size * rng.uniform(-1.0, 1.0, 2)
            cv2.line(image, centre, (round(end[0]), round(end[1])), ink, 6, cv2.LINE_AA)
    return _brushed(rng, image)


@material
def bouquet(
    rng: Generator, size_m: Size, ground: tuple[Colour, Colour], flowers: Palette, vase: Colour
) -> np.ndarray:
    """Paint a still life: flowers in a vase on a table."""
    image = canvas(size_m, ground[0], FINE)
    height, width = image.shape[:2]
    _gradient(image, *ground)
    cv2.rectangle(image, (0, round(height * 0.82)), (width, height), (112, 76, 50), -1)
    middle = np.array([width * rng.uniform(0.42, 0.58), height * 0.6])
    for _ in range(26):
        spot = middle + rng.normal(0.0, 1.0, 2) * (width * 0.17, height * 0.12)
        spot[1] -= height * 0.2
        blossom, stem = (round(spot[0]), round(spot[1])), (round(middle[0]), round(middle[1]))
        cv2.line(image, blossom, stem, vary(rng, (62, 96, 52), 0.2), 2, cv2.LINE_AA)
        ink, size = pick(rng, flowers, 0.12), height * rng.uniform(0.025, 0.055)
        for petal in range(6):
            angle = petal * np.pi / 3.0
            away = spot + size * np.array([np.cos(angle), np.sin(angle)])
            where = (round(away[0]), round(away[1]))
            cv2.circle(image, where, round(size * 0.62), ink, -1, cv2.LINE_AA)
        cv2.circle(image, blossom, round(size * 0.45), (228, 186, 74), -1, cv2.LINE_AA)
    belly = (round(middle[0]), round(height * 0.73))
    radii = (round(width * 0.12), round(height * 0.15))
    cv2.ellipse(image, belly, radii, 0, 0, 360, vase, -1, cv2.LINE_AA)
    return _brushed(rng, image, 0.05)


@material
def city(rng: Generator, size_m: Size, sky: tuple[Colour, Colour], walls: Palette) -> np.ndarray:
    """Paint a picture of a town at dusk: houses with lit windows, reflected in water."""
    image = canvas(size_m, sky[0], FINE)
    height, width = image.shape[:2]
    _gradient(image, *sky)
    quay = round(height * 0.74)
    for layer in range(3):
        left = -int(rng.integers(0, 20))
        while left < width:
            right = left + int(width * rng.uniform(0.05, 0.13))
            top = int(height * rng.uniform(0.18 + 0.14 * layer, 0.45 + 0.1 * layer))
            ink = pick(rng, walls, 0.15)
            cv2.rectangle(image, (left, top), (right, quay), ink, -1)
            for row in range(top + 6, quay - 8, 13):
                for column in range(left + 4, right - 6, 10):
                    if rng.random() < 0.55:
                        lit = vary(rng, (246, 206, 120), 0.15)
                        cv2.rectangle(image, (column, row), (column + 4, row + 7), lit, -1)
            left = right + int(rng.integers(0, 4))
    mirrored = image[2 * quay - height : quay][::-1].astype(np.float32) * 0.62
    image[quay:] = cv2.blur(mirrored, (3, 9))[: height - quay]
    return shaded(image, grain(rng, image.shape, 0.02))


@material
def poster(
    rng: Generator, size_m: Size, ground: Colour, ink: Colour, accent: Colour, lines: Sequence[str]
) -> np.ndarray:
    """Paint a printed poster: rings or rays, a diagonal line, a headline and small print."""
    image = canvas(size_m, ground, FINE)
    height, width = image.shape[:2]
    spot = (round(width * rng.uniform(0.35, 0.65)), round(height * rng.uniform(0.3, 0.4)))
    if rng.random() < 0.5:
        for ring in range(7, 0, -1):
            colour = (ink, ground, accent)[ring % 3]
            cv2.circle(image, spot, round(width * 0.055 * ring), colour, -1, cv2.LINE_AA)
    else:
        for ray in range(14):
            angle = ray * 2.0 * np.pi / 14 + np.array([0.0, rng.uniform(0.1, 0.4)])
            tips = spot + height * 0.32 * np.stack([np.cos(angle), np.sin(angle)], 1)
            wedge = np.vstack([tips, np.array(spot)]).astype(np.int32)
            cv2.fillConvexPoly(image, wedge, (ink, accent)[ray % 2], cv2.LINE_AA)
        cv2.circle(image, spot, round(width * 0.12), ground, -1, cv2.LINE_AA)
    start = (round(width * 0.1), round(height * rng.uniform(0.5, 0.64)))
    end = (round(width * 0.9), round(height * rng.uniform(0.08, 0.3)))
    cv2.line(image, start, end, ink, 4, cv2.LINE_AA)
    row = round(height * 0.68)
    for index, line in enumerate(lines):
        tall = round(height * (0.11 if index == 0 else 0.042))
        box = (round(width * 0.08), row, round(width * 0.84), tall)
        draw_text(image, line, box, ink if index else accent, FONTS[index % len(FONTS)])
        row += round(tall * 1.5)
    return shaded(image, grain(rng, image.shape, 0.012))


@material
def chart(rng: Generator, size_m: Size) -> np.ndarray:
    """Paint a printed map of islands, with a grid, names and a route."""
    image = canvas(size_m, (150, 188, 204), FINE)
    height, width = image.shape[:2]
    land = clouds(rng, image.shape, 0.28 * width, 4)
    for level, colour in (
        (0.35, (198, 214, 206)),
        (0.6, (214, 206, 150)),
        (1.0, (176, 188, 112)),
        (1.6, (172, 132, 84)),
        (2.2, (226, 214, 196)),
    ):
        image[land > level] = colour
    for index in range(1, 9):
        column, row = width * index // 9, height * index // 9
        cv2.line(image, (column, 0), (column, height), (92, 116, 132), 1)
        cv2.line(image, (0, row), (width, row), (92, 116, 132), 1)
    stops = rng.uniform((0.1, 0.15), (0.9, 0.85), (7, 2)) * (width, height)
    cv2.polylines(image, [stops.astype(np.int32)], False, (180, 40, 36), 2, cv2.LINE_AA)
    for stop in stops.astype(int):
        cv2.circle(image, (int(stop[0]), int(stop[1])), 5, (180, 40, 36), -1, cv2.LINE_AA)
        name = WORDS[rng.integers(len(WORDS))].title()
        draw_text(image, name, (int(stop[0]), int(stop[1]) - 16, 46, 11), (30, 34, 40), 3)
    cv2.rectangle(image, (3, 3), (width - 4, height - 4), (44, 52, 60), 4)
    return shaded(image, grain(rng, image.shape, 0.015))


@material
def view(rng: Generator, size_m: Size) -> np.ndarray:
    """Paint the view from the window: clouds, hills, a village, a meadow and trees."""
    image = canvas(size_m, (120, 170, 222), COMMON)
    height, width = image.shape[:2]
    _gradient(image, (112, 164, 222), (214, 230, 240))
    drift = clouds(rng, image.shape, (0.4 * width, 0.14 * height), 4) - 0.2
    cover = np.clip(drift, 0.0, 1.0)[..., None]
    image[:] = image * (1.0 - cover) + 250.0 * cover
    for level, colour in (
        (0.52, (128, 158, 178)),
        (0.6, (104, 140, 120)),
        (0.7, (118, 152, 74)),
    ):
        _ridge(rng, image, level, 0.025, colour)
    for _ in range(9):
        left, foot = int(rng.integers(0, width)), int(height * rng.uniform(0.66, 0.76))
        wide, tall = int(rng.integers(16, 34)), int(rng.integers(12, 22))
        wall = vary(rng, (232, 218, 196), 0.08)
        cv2.rectangle(image, (left, foot - tall), (left + wide, foot), wall, -1)
        roof = [[left - 3, foot - tall], [left + wide + 3, foot - tall]]
        roof = [*roof, [left + wide // 2, foot - tall - 13]]
        cv2.fillConvexPoly(image, np.array(roof), vary(rng, (172, 76, 50), 0.1), cv2.LINE_AA)
        cv2.rectangle(image, (left + 5, foot - 12), (left + 9, foot - 6), (70, 84, 100), -1)
    _ridge(rng, image, 0.82, 0.02, (92, 132, 58))
    for x, ground, size in ((0.16, 0.9, 0.2), (0.33, 0.82, 0.11), (0.78, 0.86, 0.14)):
        _tree(rng, image, np.array([x * width, ground * height]), size * height)
    for _ in range(24):
        spot = np.array([rng.uniform(0.0, width), height * rng.uniform(0.93, 1.05)])
        _tree(rng, image, spot, 0.04 * height)
    return shaded(image, grain(rng, image.shape, 0.01))


def _tree(rng: Generator, image: np.ndarray, foot_2: np.ndarray, size_px: float) -> None:
    """Draw a broad-leaved tree, lit from above."""
    crown_2 = foot_2 - (0.0, 1.5 * size_px)
    ends = [(round(x), round(y)) for x, y in (foot_2, crown_2)]
    cv2.line(image, ends[0], ends[1], (84, 66, 50), max(2, round(size_px / 9.0)), cv2.LINE_AA)
    leaves = rng.normal(0.0, 0.42, (130, 2)) * size_px
    for leaf_2 in leaves[np.argsort(-leaves[:, 1])]:
        light = 0.85 - 0.3 * leaf_2[1] / size_px + rng.normal(0.0, 0.09)
        ink = tuple(float(c) for c in np.clip(np.array((84, 124, 54)) * light, 20, 220))
        spot = (round(crown_2[0] + leaf_2[0]), round(crown_2[1] + leaf_2[1]))
        cv2.circle(image, spot, max(2, round(size_px / 9.0)), ink, -1, cv2.LINE_AA)
