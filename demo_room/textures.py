"""Procedural surfaces of the demo room: plaster, wood, bricks, tiles, cloth.

A `Material` is a function of a random generator and a size that returns the albedo of a rectangle,
an sRGB image. Each rectangle has its own generator, so no two are the same. A function with the
decorator `material` paints one rectangle; called with its other arguments it returns a `Material`.
"""

import math
from collections.abc import Callable
from functools import partial, wraps
from typing import Concatenate, ParamSpec

import cv2
import numpy as np
from numpy.random import Generator

from demo_room.palette import Colour, Palette

Size = tuple[float, float]  # width and height, m
Material = Callable[[Generator, Size], np.ndarray]
_Options = ParamSpec("_Options")

# Texels per metre.
FINE = 480.0  # pictures and books
COMMON = 270.0  # walls, floor and furniture
COARSE = 130.0  # ceiling


def material(
    paint: Callable[Concatenate[Generator, Size, _Options], np.ndarray],
) -> Callable[_Options, Material]:
    """Return a function that takes the options of a painting function and returns a material."""

    @wraps(paint)
    def with_options(*args: _Options.args, **options: _Options.kwargs) -> Material:
        return lambda rng, size_m: paint(rng, size_m, *args, **options)

    return with_options


def canvas(size_m: Size, colour: Colour, texels_per_m: float) -> np.ndarray:
    """Return a uint8 image of one colour, at least 4 texels on each side."""
    shape = [max(4, round(side * texels_per_m)) for side in reversed(size_m)]
    return np.full((*shape, 3), colour, np.uint8)


def wrapped_strips(surface: Material, strips: int) -> list[Material]:
    """Return strips of equal width of one material, which fit together side by side."""
    whole: list[np.ndarray] = []

    def paint(index: int, rng: Generator, size_m: Size) -> np.ndarray:
        if not whole:
            whole.append(surface(rng, (size_m[0] * strips, size_m[1])))
        return np.array_split(whole[0], strips, axis=1)[index]

    return [partial(paint, index) for index in range(strips)]


def cut_from(surface: Material, size_m: Size) -> Callable[[float, float], Material]:
    """Return a function of x and y, m from the top left corner, that cuts pieces from a surface."""
    whole: list[np.ndarray] = []

    def paint(x_m: float, y_m: float, rng: Generator, piece_m: Size) -> np.ndarray:
        if not whole:
            whole.append(surface(rng, size_m))
        height, width = whole[0].shape[:2]
        columns, rows = (
            slice(
                round(start * scale), max(round(start * scale) + 4, round((start + side) * scale))
            )
            for start, side, scale in (
                (x_m, piece_m[0], width / size_m[0]),
                (y_m, piece_m[1], height / size_m[1]),
            )
        )
        return whole[0][rows, columns]

    return lambda x_m, y_m: partial(paint, x_m, y_m)


def clouds(
    rng: Generator, shape: tuple[int, ...], cell_px: float | tuple[float, float], octaves: int = 2
) -> np.ndarray:
    """Return smooth value noise (h, w) float32 of about unit variance, with cells of `cell_px`."""
    height, width = shape[:2]
    cell_x, cell_y = cell_px if isinstance(cell_px, tuple) else (cell_px, cell_px)
    total = np.zeros((height, width), np.float32)
    for octave in range(octaves):
        rows, columns = int(height / cell_y) + 3, int(width / cell_x) + 3
        grid = rng.standard_normal((rows, columns), dtype=np.float32)
        smooth = cv2.resize(grid, (width, height), interpolation=cv2.INTER_LINEAR)
        total += smooth * np.float32(1.4 * 0.6**octave)
        cell_x, cell_y = max(1.0, cell_x / 2.7), max(1.0, cell_y / 2.7)
    return total


def grain(rng: Generator, shape: tuple[int, ...], amount: float) -> np.ndarray:
    """Return white noise (h, w) float32 with standard deviation `amount`."""
    return rng.standard_normal(shape[:2], dtype=np.float32) * np.float32(amount)


def shaded(image_hw3: np.ndarray, change_hw: np.ndarray) -> np.ndarray:
    """Return the image (float32) with its brightness multiplied by 1 + `change_hw`."""
    return image_hw3 * (1.0 + change_hw)[..., None]


def relief(mask_hw: np.ndarray, strength: float, blur_px: float = 1.0) -> np.ndarray:
    """Return the relative brightness of a relief of height `mask_hw` (0-1), lit from above."""
    height = cv2.GaussianBlur(mask_hw.astype(np.float32), (0, 0), blur_px)
    return cv2.Sobel(height, cv2.CV_32F, 0, 1, ksize=3) * strength


def vary(rng: Generator, colour: Colour, amount: float) -> Colour:
    """Return a random colour near the given one, which differs mostly in brightness."""
    light = 1.0 + rng.normal(0.0, amount)
    hue = 1.0 + rng.normal(0.0, amount * 0.25, 3)
    r, g, b = np.clip(np.asarray(colour) * light * hue, 4.0, 250.0)
    return float(r), float(g), float(b)


def pick(rng: Generator, palette: Palette, amount: float = 0.06) -> Colour:
    """Return a random colour of a palette, varied."""
    return vary(rng, palette[int(rng.integers(len(palette)))], amount)


@material
def plaster(
    rng: Generator, size_m: Size, colour: Colour, mottling: float = 0.022, density: float = COMMON
) -> np.ndarray:
    """Paint plaster: broad mottling, trowel marks, fine grain."""
    image = canvas(size_m, colour, density)
    broad = clouds(rng, image.shape, 0.45 * density, 3)
    trowel = clouds(rng, image.shape, (0.10 * density, 0.025 * density), 1)
    tone = mottling * (broad + 0.45 * trowel) + grain(rng, image.shape, 0.012)
    warm = clouds(rng, image.shape, 0.8 * density, 1) * mottling * 0.6
    result = shaded(image, tone)
    result[..., 2] *= 1.0 - warm
    return result


@material
def wood(rng: Generator, size_m: Size, colour: Colour, contrast: float = 0.11) -> np.ndarray:
    """Paint a wooden board with its grain along the longer side."""
    if size_m[1] > size_m[0]:
        lying_hw3 = wood(colour, contrast)(rng, size_m[::-1])
        return np.ascontiguousarray(lying_hw3.transpose(1, 0, 2))
    image = canvas(size_m, vary(rng, colour, 0.05), COMMON)
    bend = clouds(rng, image.shape, (0.55 * COMMON, 0.07 * COMMON), 1)
    across = np.arange(len(image), dtype=np.float32)[:, None] / np.float32(COMMON)
    rings = np.sin(across * 190.0 + bend * 3.2 + rng.uniform(0.0, 6.0))
    fibres = clouds(rng, image.shape, (0.12 * COMMON, 0.008 * COMMON), 2)
    return shaded(image, contrast * (0.45 * rings + 0.6 * fibres + 0.5 * bend))


@material
def planks(rng: Generator, size_m: Size, palette: Palette) -> np.ndarray:
    """Paint a floor of boards along x, each with its own tone, with dark seams."""
    image = canvas(size_m, palette[0], COMMON)
    height, width = image.shape[:2]
    board_px = 0.15 * COMMON
    shift = np.zeros((height, width), np.float32)
    seams = np.ones((height, width), np.float32)
    for row in range(int(height / board_px) + 1):
        top, bottom = round(row * board_px), round((row + 1) * board_px)
        left = -round(rng.uniform(0.0, 1.2) * COMMON)
        while left < width:
            right = left + round(rng.uniform(0.7, 1.9) * COMMON)
            cv2.rectangle(image, (left, top), (right, bottom), pick(rng, palette, 0.09), -1)
            cv2.rectangle(shift, (left, top), (right, bottom), rng.uniform(0.0, 30.0), -1)
            cv2.rectangle(seams, (left, top), (right, bottom), 0.42, 1)
            left = right
    bend = clouds(rng, image.shape, (0.5 * COMMON, 0.06 * COMMON), 1)
    across = np.arange(height, dtype=np.float32)[:, None] / np.float32(COMMON)
    rings = np.sin(across * 150.0 + bend * 2.6 + shift)
    fibres = clouds(rng, image.shape, (0.11 * COMMON, 0.009 * COMMON), 2)
    wear = clouds(rng, image.shape, 0.5 * COMMON, 2)
    return shaded(image, 0.045 * rings + 0.055 * fibres + 0.04 * wear) * seams[..., None]


@material
def bricks(rng: Generator, size_m: Size, palette: Palette) -> np.ndarray:
    """Paint a brick wall: each brick has its own length, colour and wear."""
    image = canvas(size_m, (188, 178, 164), COMMON)  # mortar
    height, width = image.shape[:2]
    raised = np.zeros((height, width), np.float32)
    course, joint = 0.076 * COMMON, 0.011 * COMMON
    for row in range(int(height / course) + 1):
        left = -rng.uniform(0.0, 0.22) * COMMON
        while left < width:
            length = rng.choice((0.22, 0.21, 0.20, 0.105), p=(0.5, 0.2, 0.15, 0.15)) * COMMON
            slack = rng.normal(0.0, 0.5, 4)
            corner = (round(left + slack[0]), round(row * course + slack[1]))
            right, bottom = left + length - joint, (row + 1) * course - joint
            opposite = (round(right + slack[2]), round(bottom + slack[3]))
            cv2.rectangle(image, corner, opposite, pick(rng, palette, 0.12), -1)
            cv2.rectangle(raised, corner, opposite, 1.0, -1)
            left += length
    rough = 0.05 * clouds(rng, image.shape, 0.03 * COMMON, 2) + grain(rng, image.shape, 0.03)
    broad = 0.05 * clouds(rng, image.shape, 0.6 * COMMON, 2)
    return shaded(image, rough + broad + relief(raised, 0.05))


@material
def tiles(
    rng: Generator, size_m: Size, palette: Palette, tile_m: float, ornate: float = 0.0
) -> np.ndarray:
    """Paint glazed tiles with grout; a fraction `ornate` of them has a painted motif."""
    density = FINE if ornate else COMMON
    image = canvas(size_m, (196, 190, 180), density)
    raised = np.zeros(image.shape[:2], np.float32)
    size = tile_m * density
    for row in range(int(np.ceil(image.shape[0] / size))):
        for column in range(int(np.ceil(image.shape[1] / size))):
            top, left = round(row * size) + 1, round(column * size) + 1
            bottom, right = round((row + 1) * size) - 2, round((column + 1) * size) - 2
            cv2.rectangle(image, (left, top), (right, bottom), pick(rng, palette, 0.05), -1)
            cv2.rectangle(raised, (left, top), (right, bottom), 1.0, -1)
            if rng.random() < ornate:
                _motif(rng, image[max(top, 0) : bottom, max(left, 0) : right])
    glaze = 0.025 * clouds(rng, image.shape, 0.5 * size, 2) + grain(rng, image.shape, 0.008)
    return shaded(image, glaze + relief(raised, 0.035))


_GLAZES: tuple[Colour, ...] = ((38, 84, 140), (196, 112, 40), (36, 110, 96), (150, 46, 44))


def _motif(rng: Generator, tile_hw3: np.ndarray) -> None:
    """Draw an ornament with rotational symmetry on one tile, in place."""
    height, width = tile_hw3.shape[:2]
    if min(height, width) < 12:
        return
    centre, half = (width // 2, height // 2), min(height, width) / 2.0
    ink, second = pick(rng, _GLAZES), pick(rng, _GLAZES)
    petals, start = int(rng.integers(3, 9)), rng.uniform(0.0, 360.0)
    axes = (max(1, round(half * rng.uniform(0.25, 0.42))), max(1, round(half * 0.13)))
    for petal in range(petals):
        angle = start + 360.0 * petal / petals
        away = 0.45 * half * np.array([np.cos(np.radians(angle)), np.sin(np.radians(angle))])
        spot = (round(centre[0] + away[0]), round(centre[1] + away[1]))
        cv2.ellipse(tile_hw3, spot, axes, angle, 0, 360, ink, -1, cv2.LINE_AA)
    cv2.circle(tile_hw3, centre, max(1, round(half * 0.2)), second, -1, cv2.LINE_AA)
    if rng.random() < 0.6:
        cv2.circle(tile_hw3, centre, round(half * 0.88), second, 2, cv2.LINE_AA)
    for corner in ((0, 0), (width, 0), (0, height), (width, height)):
        cv2.circle(tile_hw3, corner, round(half * 0.3), ink, 2, cv2.LINE_AA)


@material
def cloth(rng: Generator, size_m: Size, colour: Colour, print_colours: Palette = ()) -> np.ndarray:
    """Paint woven cloth with soft folds; `print_colours` are those of printed leaves and dots."""
    image = canvas(size_m, vary(rng, colour, 0.04), COMMON)
    height, width = image.shape[:2]
    if print_colours:
        for _ in range(int(140 * math.prod(size_m)) + 5):
            spot = (int(rng.integers(width)), int(rng.integers(height)))
            axes = (int(rng.integers(3, 13)), int(rng.integers(2, 6)))
            ink = pick(rng, print_colours)
            cv2.ellipse(image, spot, axes, rng.uniform(0, 360), 0, 360, ink, -1, cv2.LINE_AA)
    weave = grain(rng, image.shape, 0.045) + 0.03 * clouds(rng, image.shape, (2.0, 7.0), 1)
    return shaded(image, weave + 0.04 * clouds(rng, image.shape, 0.2 * COMMON, 2))


@material
def curtain(rng: Generator, size_m: Size, colour: Colour, stripes: Palette) -> np.ndarray:
    """Paint hanging cloth: vertical folds, uneven vertical stripes."""
    image = canvas(size_m, colour, COMMON)
    height, width = image.shape[:2]
    for _ in range(int(size_m[0] * 18) + 1):
        left = int(rng.integers(width))
        right = left + int(rng.integers(2, 9))
        cv2.rectangle(image, (left, 0), (right, height), pick(rng, stripes), -1)
    folds = clouds(rng, image.shape, (0.07 * COMMON, 0.9 * COMMON), 1)
    return shaded(image, 0.13 * folds + grain(rng, image.shape, 0.02))


@material
def panelled(
    rng: Generator, size_m: Size, colour: Colour, rows: int, columns: int, margin_m: float = 0.07
) -> np.ndarray:
    """Paint wood with recessed panels, for doors, cabinet fronts and drawers."""
    image = canvas(size_m, vary(rng, colour, 0.03), COMMON)
    height, width = image.shape[:2]
    raised = np.ones((height, width), np.float32)
    edge = np.zeros((height, width), np.float32)
    margin = margin_m * COMMON
    for row in range(rows):
        for column in range(columns):
            left, right = column * width / columns, (column + 1) * width / columns
            top, bottom = row * height / rows, (row + 1) * height / rows
            x0, y0 = round(left + margin), round(top + margin)
            x1, y1 = round(right - margin), round(bottom - margin)
            cv2.rectangle(raised, (x0, y0), (x1, y1), 0.0, -1)
            cv2.rectangle(raised, (x0 + 5, y0 + 5), (x1 - 5, y1 - 5), 0.55, -1)
            cv2.rectangle(edge, (round(left), round(top)), (round(right), round(bottom)), -0.35, 2)
    brush = 0.018 * clouds(rng, image.shape, (0.02 * COMMON, 0.4 * COMMON), 2)
    return shaded(image, brush + edge + relief(raised, 0.10) + grain(rng, image.shape, 0.01))


@material
def stone(rng: Generator, size_m: Size, colour: Colour, speckles: Palette) -> np.ndarray:
    """Paint terrazzo: a base with stone chips of many sizes."""
    image = canvas(size_m, colour, COMMON)
    height, width = image.shape[:2]
    for _ in range(int(1800 * math.prod(size_m)) + 2):
        spot = rng.integers((width, height)) + rng.normal(0.0, 2.5, (4, 2))
        cv2.fillConvexPoly(image, cv2.convexHull(spot.astype(np.int32)), pick(rng, speckles))
    return shaded(image, 0.025 * clouds(rng, image.shape, 0.15 * COMMON, 3))


@material
def rug(
    rng: Generator, size_m: Size, ground: Colour, border: Palette, figures: Palette, medallions: int
) -> np.ndarray:
    """Paint a rug: bands along the edge, medallions along the middle, scattered figures."""
    image = canvas(size_m, border[0], COMMON)
    height, width = image.shape[:2]
    inset, widest = 0, min(height, width) // (2 * len(border) + 5)
    for colour in (*border, ground):
        cv2.rectangle(image, (inset, inset), (width - inset, height - inset), colour, -1)
        step = min(int(rng.integers(12, 26)), widest)
        for along in range(inset + 4, max(width, height) - inset - 4, step):
            size = int(rng.integers(3, 7))
            for spot in (
                (along, inset + step // 2),
                (along, height - inset - step // 2),
                (inset + step // 2, along),
                (width - inset - step // 2, along),
            ):
                cv2.circle(image, spot, size, pick(rng, figures, 0.1), -1, cv2.LINE_AA)
        inset += step
    for _ in range(int(60 * math.prod(size_m))):
        middle = rng.integers((inset, inset), (width - inset, height - inset))
        points = middle + rng.normal(0.0, 0.03 * COMMON, (4, 2))
        cv2.fillPoly(image, [points.astype(np.int32)], pick(rng, figures, 0.1))
    for index in range(medallions):
        centre = (round(width * (index + 0.5) / medallions), height // 2)
        for ring in range(5, 0, -1):
            corners = int(rng.integers(5, 11))
            angle = np.arange(corners) * 2.0 * np.pi / corners + rng.uniform(0.0, 6.0)
            radius = 0.062 * ring * height * rng.uniform(0.9, 1.15)
            points = np.stack([np.cos(angle), np.sin(angle)], 1) * radius + centre
            cv2.fillPoly(image, [points.astype(np.int32)], pick(rng, figures, 0.12))
    knots = grain(rng, image.shape, 0.07) + 0.05 * clouds(rng, image.shape, 0.25 * COMMON, 2)
    return shaded(image, knots)


@material
def leaf(rng: Generator, size_m: Size, colour: Colour, edge: Colour) -> np.ndarray:
    """Paint a long leaf with pale edges and dark cross bands."""
    image = canvas(size_m, vary(rng, edge, 0.08), COMMON)
    height, width = image.shape[:2]
    rim = max(1, width // 7)
    cv2.rectangle(image, (rim, 0), (width - 1 - rim, height), vary(rng, colour, 0.12), -1)
    bands = clouds(rng, image.shape, (0.1 * COMMON, 0.02 * COMMON), 2)
    return shaded(image, 0.16 * bands)


@material
def plain(rng: Generator, size_m: Size, colour: Colour, wear: float = 0.03) -> np.ndarray:
    """Paint metal, plastic or pottery: one colour, a little uneven."""
    image = canvas(size_m, vary(rng, colour, 0.03), COMMON)
    return shaded(image, wear * clouds(rng, image.shape, 0.05 * COMMON, 2))
