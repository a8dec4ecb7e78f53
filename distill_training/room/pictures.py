"""What hangs, stands and lies in the demo room: paintings, a view, books, dials (procedural).

Like `textures.py`, each function gives a `Material`.
"""

from collections.abc import Sequence

import cv2
import numpy as np

from distill_training.room.textures import (
    COMMON,
    FINE,
    Colour,
    Material,
    canvas,
    clouds,
    grain,
    pick,
    shaded,
    vary,
)

VIVID: tuple[Colour, ...] = (
    (178, 44, 38),
    (222, 150, 44),
    (34, 92, 148),
    (30, 112, 92),
    (232, 214, 170),
    (92, 52, 110),
    (206, 92, 60),
    (66, 140, 168),
    (40, 46, 58),
    (146, 160, 74),
)
MUTED: tuple[Colour, ...] = (
    (122, 46, 42),
    (58, 78, 102),
    (74, 96, 74),
    (212, 196, 160),
    (176, 132, 72),
    (92, 66, 52),
    (228, 220, 204),
    (52, 56, 66),
    (150, 92, 66),
    (112, 128, 132),
    (160, 62, 52),
    (196, 164, 104),
    (84, 62, 88),
    (40, 82, 88),
)
_WORDS = (
    "atlas", "mote", "kitchen", "garden", "stars", "algebra", "sea", "dust", "light", "maps",
    "winter", "bread", "clay", "robots", "rivers", "birds", "optics", "wool", "tea", "north",
)  # fmt: skip
_FONTS = (
    cv2.FONT_HERSHEY_SIMPLEX,
    cv2.FONT_HERSHEY_DUPLEX,
    cv2.FONT_HERSHEY_TRIPLEX,
    cv2.FONT_HERSHEY_COMPLEX,
)


def _text(image: np.ndarray, text: str, box: tuple[int, int, int, int], ink: Colour, font: int = 2):
    """Writes a line of text as large as fits the box (left, top, width, height)."""
    left, top, width, height = box
    (unit_width, unit_height), _ = cv2.getTextSize(text, font, 1.0, 1)
    scale = min(width / unit_width, height / unit_height)
    thick = max(1, round(scale * 1.6))
    spot = (round(left + (width - unit_width * scale) / 2), round(top + height))
    cv2.putText(image, text, spot, font, scale, ink, thick, cv2.LINE_AA)


def _gradient(image: np.ndarray, top: Colour, bottom: Colour) -> None:
    """Fills the image from the top colour to the bottom colour."""
    blend = np.linspace(0.0, 1.0, len(image))[:, None, None]
    image[:] = np.asarray(top) * (1.0 - blend) + np.asarray(bottom) * blend


def _ridge(rng: np.random.Generator, image: np.ndarray, level: float, rough: float, ink: Colour):
    """Fills everything below a rolling skyline at the relative height `level` from the top."""
    height, width = image.shape[:2]
    line = clouds(rng, (1, width), (width / 3.0, 1.0), 4)[0]
    line = (level + rough * line) * height
    points = np.stack([np.arange(width), line], 1).astype(np.int32)
    corners = np.array([[width, height], [0, height]], np.int32)
    cv2.fillPoly(image, [np.vstack([points, corners])], ink, cv2.LINE_AA)


def _brushed(rng: np.random.Generator, image: np.ndarray, amount: float = 0.05) -> np.ndarray:
    """Gives a picture the strokes of a brush."""
    strokes = clouds(rng, image.shape, (16.0, 3.0), 2)
    return shaded(image, amount * strokes + grain(rng, image.shape, 0.015))


def landscape(sky: tuple[Colour, Colour], hills: Sequence[Colour], sun: Colour) -> Material:
    """A painting: sky, sun, ridges, a lake and trees."""

    def paint(rng: np.random.Generator, width_m: float, height_m: float) -> np.ndarray:
        image = canvas(width_m, height_m, sky[0], FINE)
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

    return paint


def abstract(ground: Colour, palette: Sequence[Colour], pieces: int = 34) -> Material:
    """A painting of circles, bars and triangles."""

    def paint(rng: np.random.Generator, width_m: float, height_m: float) -> np.ndarray:
        image = canvas(width_m, height_m, ground, FINE)
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

    return paint


def bouquet(ground: tuple[Colour, Colour], flowers: Sequence[Colour], vase: Colour) -> Material:
    """A still life: flowers in a vase on a table."""

    def paint(rng: np.random.Generator, width_m: float, height_m: float) -> np.ndarray:
        image = canvas(width_m, height_m, ground[0], FINE)
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
        cv2.ellipse(
            image, belly, (round(width * 0.12), round(height * 0.15)), 0, 0, 360, vase, -1,
            cv2.LINE_AA,
        )  # fmt: skip
        return _brushed(rng, image, 0.05)

    return paint


def city(sky: tuple[Colour, Colour], walls: Sequence[Colour]) -> Material:
    """A photograph of a town at dusk: houses with lit windows over the water."""

    def paint(rng: np.random.Generator, width_m: float, height_m: float) -> np.ndarray:
        image = canvas(width_m, height_m, sky[0], FINE)
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

    return paint


def poster(ground: Colour, ink: Colour, accent: Colour, lines: Sequence[str]) -> Material:
    """A printed poster: rings and a diagonal, a headline, small print."""

    def paint(rng: np.random.Generator, width_m: float, height_m: float) -> np.ndarray:
        image = canvas(width_m, height_m, ground, FINE)
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
            _text(image, line, box, ink if index else accent, _FONTS[index % len(_FONTS)])
            row += round(tall * 1.5)
        return shaded(image, grain(rng, image.shape, 0.012))

    return paint


def chart() -> Material:
    """A printed map of an unknown archipelago, with a graticule, names and a route."""

    def paint(rng: np.random.Generator, width_m: float, height_m: float) -> np.ndarray:
        image = canvas(width_m, height_m, (150, 188, 204), FINE)
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
            name = _WORDS[rng.integers(len(_WORDS))].title()
            _text(image, name, (int(stop[0]), int(stop[1]) - 16, 46, 11), (30, 34, 40), 3)
        cv2.rectangle(image, (3, 3), (width - 4, height - 4), (44, 52, 60), 4)
        return shaded(image, grain(rng, image.shape, 0.015))

    return paint


def view() -> Material:
    """What the window shows: sky with clouds, hills, a village, a meadow and trees."""

    def paint(rng: np.random.Generator, width_m: float, height_m: float) -> np.ndarray:
        image = canvas(width_m, height_m, (120, 170, 222), COMMON)
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
        for trunk, foot, size in ((0.16, 0.9, 0.2), (0.33, 0.82, 0.11), (0.78, 0.86, 0.14)):
            _tree(rng, image, np.array([trunk * width, foot * height]), size * height)
        for _ in range(24):
            spot = np.array([rng.uniform(0.0, width), height * rng.uniform(0.93, 1.05)])
            _tree(rng, image, spot, 0.04 * height)
        return shaded(image, grain(rng, image.shape, 0.01))

    return paint


def _tree(rng: np.random.Generator, image: np.ndarray, foot_2: np.ndarray, size_px: float) -> None:
    """Draws a broad-leaved tree, lit from above."""
    crown_2 = foot_2 - (0.0, 1.5 * size_px)
    ends = [(round(x), round(y)) for x, y in (foot_2, crown_2)]
    cv2.line(image, ends[0], ends[1], (84, 66, 50), max(2, round(size_px / 9.0)), cv2.LINE_AA)
    leaves = rng.normal(0.0, 0.42, (130, 2)) * size_px
    for leaf_2 in leaves[np.argsort(-leaves[:, 1])]:
        light = 0.85 - 0.3 * leaf_2[1] / size_px + rng.normal(0.0, 0.09)
        ink = tuple(float(c) for c in np.clip(np.array((84, 124, 54)) * light, 20, 220))
        spot = (round(crown_2[0] + leaf_2[0]), round(crown_2[1] + leaf_2[1]))
        cv2.circle(image, spot, max(2, round(size_px / 9.0)), ink, -1, cv2.LINE_AA)


def spine(palette: Sequence[Colour] = MUTED + VIVID[:4]) -> Material:
    """The back of a book: colour, bands, a title along it."""

    def paint(rng: np.random.Generator, width_m: float, height_m: float) -> np.ndarray:
        lying = width_m > height_m
        if lying:
            width_m, height_m = height_m, width_m
        ink = pick(rng, palette, 0.12)
        image = canvas(width_m, height_m, ink, FINE)
        height, width = image.shape[:2]
        pale = (238, 226, 196) if sum(ink) < 380 else (44, 38, 40)
        for _ in range(int(rng.integers(0, 4))):
            row, thick = int(rng.uniform(0.03, 0.97) * height), int(rng.integers(1, 6))
            cv2.rectangle(image, (0, row), (width, row + thick), pick(rng, palette), -1)
        if width >= 8:
            title = np.full((width, height, 3), ink, np.uint8)
            words = " ".join(rng.choice(_WORDS, int(rng.integers(1, 3)), replace=False))
            words = words.upper() if rng.random() < 0.5 else words.title()
            left, wide = rng.uniform(0.1, 0.25) * height, rng.uniform(0.45, 0.65) * height
            box = (round(left), round(width * 0.3), round(wide), round(width * 0.42))
            _text(title, words, box, pale, _FONTS[rng.integers(len(_FONTS))])
            printed = np.rot90(title, -1)
            letters = np.abs(printed.astype(int) - np.asarray(ink).astype(int)).sum(2) > 40
            image[letters] = printed[letters]
        across = np.linspace(-1.0, 1.0, width, dtype=np.float32)[None, :]
        rounded = 0.08 - 0.3 * across**4 + grain(rng, image.shape, 0.02)
        result = shaded(image, rounded)
        return np.ascontiguousarray(np.rot90(result)) if lying else result

    return paint


def label(ground: Colour, palette: Sequence[Colour] = VIVID) -> Material:
    """A jar or a packet: bands of colour and a word."""

    def paint(rng: np.random.Generator, width_m: float, height_m: float) -> np.ndarray:
        image = canvas(width_m, height_m, vary(rng, ground, 0.1), FINE)
        height, width = image.shape[:2]
        top, bottom = sorted(rng.uniform(0.1, 0.9, 2))
        box = (0, round(top * height)), (width, round(bottom * height))
        cv2.rectangle(image, box[0], box[1], pick(rng, palette, 0.1), -1)
        word = _WORDS[rng.integers(len(_WORDS))]
        paper = (round(0.12 * width), round(0.32 * height))
        size = (round(0.76 * width), round(0.3 * height))
        cv2.rectangle(image, paper, (paper[0] + size[0], paper[1] + size[1]), (238, 232, 214), -1)
        inner = (paper[0] + 2, paper[1] + size[1] // 4, size[0] - 4, size[1] // 2)
        _text(image, word, inner, (50, 40, 38), 2)
        return shaded(image, 0.03 * clouds(rng, image.shape, 0.4 * width, 1))

    return paint


def pinned(ground: Material, count: int) -> Material:
    """A surface with notes, postcards and magnets on it."""

    def paint(rng: np.random.Generator, width_m: float, height_m: float) -> np.ndarray:
        image = np.clip(ground(rng, width_m, height_m), 0, 255).astype(np.uint8)
        height, width = image.shape[:2]
        scale = height / height_m
        for index in range(count):
            inks = [pick(rng, MUTED, 0.15) for _ in range(5)]
            cards = (
                landscape((inks[0], inks[1]), inks[1:], inks[4]),
                abstract(inks[0], VIVID, 12),
                label(inks[3]),
                city((inks[0], inks[1]), inks[2:4]),
            )
            wide, tall = rng.uniform(0.08, 0.17), rng.uniform(0.08, 0.17)
            card = cards[index % len(cards)](rng, wide, tall)
            size = (max(4, round(wide * scale)), max(4, round(tall * scale)))
            card = cv2.resize(np.clip(card, 0, 255).astype(np.uint8), size, interpolation=3)
            card = cv2.copyMakeBorder(card, 2, 2, 2, 2, cv2.BORDER_CONSTANT, value=(240, 236, 226))
            spot = rng.uniform((0.06, 0.05), (0.94, 0.6)) * (width, height)
            turn = cv2.getRotationMatrix2D(
                (card.shape[1] / 2, card.shape[0] / 2), rng.normal(0, 7), 1
            )
            turn[:, 2] += spot - (card.shape[1] / 2, 0.0)
            cv2.warpAffine(
                card, turn, (width, height), dst=image, borderMode=cv2.BORDER_TRANSPARENT
            )
            pin = (round(spot[0]), round(spot[1]) + 5)
            cv2.circle(image, pin, 4, pick(rng, VIVID), -1, cv2.LINE_AA)
        return image

    return paint


def clock() -> Material:
    """A clock face at ten past ten."""

    def paint(rng: np.random.Generator, width_m: float, height_m: float) -> np.ndarray:
        image = canvas(width_m, height_m, (38, 62, 70), FINE)
        half = len(image) / 2.0
        centre = (round(half), round(half))
        cv2.circle(image, centre, round(half * 0.94), (236, 230, 214), -1, cv2.LINE_AA)
        for hour in range(1, 13):
            angle = hour * np.pi / 6.0
            spot = half + 0.76 * half * np.array([np.sin(angle), -np.cos(angle)])
            box = (round(spot[0] - half * 0.12), round(spot[1] - half * 0.09))
            _text(image, str(hour), (*box, round(half * 0.24), round(half * 0.18)), (40, 40, 44), 1)
        for angle, length, thick in ((5.3, 0.45, 6), (1.05, 0.65, 4)):
            tip = half + length * half * np.array([np.sin(angle), -np.cos(angle)])
            cv2.line(
                image, centre, (round(tip[0]), round(tip[1])), (30, 30, 34), thick, cv2.LINE_AA
            )
        return shaded(image, grain(rng, image.shape, 0.008))

    return paint


def hob() -> Material:
    """A glass hob with four rings and its knobs."""

    def paint(rng: np.random.Generator, width_m: float, height_m: float) -> np.ndarray:
        image = canvas(width_m, height_m, (34, 36, 40), FINE)
        height, width = image.shape[:2]
        for x, y, size in (
            (0.27, 0.3, 0.2),
            (0.7, 0.28, 0.15),
            (0.29, 0.74, 0.15),
            (0.7, 0.7, 0.2),
        ):
            spot = (round(x * width), round(y * height))
            for ring in (1.0, 0.8, 0.45):
                cv2.circle(image, spot, round(size * ring * height), (150, 84, 70), 2, cv2.LINE_AA)
        return shaded(image, 0.05 * clouds(rng, image.shape, 60.0, 2))

    return paint


def oven() -> Material:
    """An oven door: dark glass, a handle, dials and a display."""

    def paint(rng: np.random.Generator, width_m: float, height_m: float) -> np.ndarray:
        image = canvas(width_m, height_m, (168, 170, 172), COMMON)
        height, width = image.shape[:2]
        glass = (round(0.1 * width), round(0.32 * height))
        cv2.rectangle(image, glass, (round(0.9 * width), round(0.88 * height)), (46, 42, 44), -1)
        for row in (0.5, 0.66, 0.8):
            line = round(row * height)
            cv2.line(image, (glass[0], line), (round(0.9 * width), line), (104, 92, 84), 1)
        for dial in range(5):
            spot = (round((0.14 + 0.18 * dial) * width), round(0.13 * height))
            if dial == 2:
                box = (spot[0] - 18, spot[1] - 8), (spot[0] + 18, spot[1] + 8)
                cv2.rectangle(image, box[0], box[1], (24, 34, 32), -1)
                _text(image, "10:09", (box[0][0] + 4, box[0][1] + 4, 28, 8), (98, 226, 160), 1)
                continue
            cv2.circle(image, spot, 10, (60, 60, 64), -1, cv2.LINE_AA)
            angle = rng.uniform(0.0, 6.0)
            tip = (round(spot[0] + 9 * np.cos(angle)), round(spot[1] + 9 * np.sin(angle)))
            cv2.line(image, spot, tip, (236, 236, 236), 2, cv2.LINE_AA)
        return shaded(image, 0.02 * clouds(rng, image.shape, (4.0, 80.0), 2))

    return paint


def screen() -> Material:
    """A laptop's screen with a plot, text and windows."""

    def paint(rng: np.random.Generator, width_m: float, height_m: float) -> np.ndarray:
        image = canvas(width_m, height_m, (30, 40, 56), FINE)
        height, width = image.shape[:2]
        cv2.rectangle(image, (6, 6), (width // 2, height - 8), (226, 230, 234), -1)
        for row in range(14, height - 14, 7):
            end = int(rng.uniform(0.2, 0.46) * width)
            cv2.line(image, (12, row), (end, row), pick(rng, VIVID[2:4]), 2)
        curve = clouds(rng, (1, width // 2), (18.0, 1.0), 2)[0] * 0.12 * height + height * 0.5
        points = np.stack([np.arange(width // 2) + width // 2, curve], 1).astype(np.int32)
        cv2.polylines(image, [points], False, (120, 230, 150), 2, cv2.LINE_AA)
        return image

    return paint
