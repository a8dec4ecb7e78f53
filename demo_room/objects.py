"""Procedural surfaces of objects in the demo room: books, jars, notes, appliances."""

import cv2
import numpy as np
from numpy.random import Generator

from demo_room.palette import MUTED, VIVID, Colour
from demo_room.pictures import FONTS, WORDS, abstract, city, draw_text, landscape
from demo_room.textures import (
    COMMON,
    FINE,
    Material,
    Size,
    canvas,
    clouds,
    grain,
    material,
    pick,
    shaded,
    vary,
)


@material
def spine(rng: Generator, size_m: Size) -> np.ndarray:
    """Paint the spine of a book: a colour, bands, and a title along it."""
    lying, palette = size_m[0] > size_m[1], MUTED + VIVID[:4]
    if lying:
        size_m = size_m[::-1]
    ink = pick(rng, palette, 0.12)
    image = canvas(size_m, ink, FINE)
    height, width = image.shape[:2]
    pale = (238, 226, 196) if sum(ink) < 380 else (44, 38, 40)
    for _ in range(int(rng.integers(0, 4))):
        row, thick = int(rng.uniform(0.03, 0.97) * height), int(rng.integers(1, 6))
        cv2.rectangle(image, (0, row), (width, row + thick), pick(rng, palette), -1)
    if width >= 8:
        title = np.full((width, height, 3), ink, np.uint8)
        words = " ".join(rng.choice(WORDS, int(rng.integers(1, 3)), replace=False))
        words = words.upper() if rng.random() < 0.5 else words.title()
        left, wide = rng.uniform(0.1, 0.25) * height, rng.uniform(0.45, 0.65) * height
        box = (round(left), round(width * 0.3), round(wide), round(width * 0.42))
        draw_text(title, words, box, pale, FONTS[rng.integers(len(FONTS))])
        printed = np.rot90(title, -1)
        letters = np.abs(printed.astype(int) - np.asarray(ink).astype(int)).sum(2) > 40
        image[letters] = printed[letters]
    across = np.linspace(-1.0, 1.0, width, dtype=np.float32)[None, :]
    rounded = 0.08 - 0.3 * across**4 + grain(rng, image.shape, 0.02)
    result = shaded(image, rounded)
    return np.ascontiguousarray(np.rot90(result)) if lying else result


@material
def label(rng: Generator, size_m: Size, ground: Colour) -> np.ndarray:
    """Paint the surface of a jar or packet: a band of colour and a word."""
    image = canvas(size_m, vary(rng, ground, 0.1), FINE)
    height, width = image.shape[:2]
    top, bottom = sorted(rng.uniform(0.1, 0.9, 2))
    band = (0, round(top * height)), (width, round(bottom * height))
    cv2.rectangle(image, *band, pick(rng, VIVID, 0.1), -1)
    word = WORDS[rng.integers(len(WORDS))]
    paper = (round(0.12 * width), round(0.32 * height))
    size = (round(0.76 * width), round(0.3 * height))
    cv2.rectangle(image, paper, (paper[0] + size[0], paper[1] + size[1]), (238, 232, 214), -1)
    inner = (paper[0] + 2, paper[1] + size[1] // 4, size[0] - 4, size[1] // 2)
    draw_text(image, word, inner, (50, 40, 38), 2)
    return shaded(image, 0.03 * clouds(rng, image.shape, 0.4 * width, 1))


@material
def pinned(rng: Generator, size_m: Size, ground: Material, count: int) -> np.ndarray:
    """Paint a material with notes, postcards and magnets on it."""
    image = np.clip(ground(rng, size_m), 0, 255).astype(np.uint8)
    height, width = image.shape[:2]
    scale = height / size_m[1]
    for index in range(count):
        inks = [pick(rng, MUTED, 0.15) for _ in range(5)]
        cards = (
            landscape((inks[0], inks[1]), inks[1:], inks[4]),
            abstract(inks[0], VIVID, 12),
            label(inks[3]),
            city((inks[0], inks[1]), inks[2:4]),
        )
        wide, tall = rng.uniform(0.08, 0.17), rng.uniform(0.08, 0.17)
        card = cards[index % len(cards)](rng, (wide, tall))
        size = (max(4, round(wide * scale)), max(4, round(tall * scale)))
        card = cv2.resize(np.clip(card, 0, 255).astype(np.uint8), size, interpolation=3)
        card = cv2.copyMakeBorder(card, 2, 2, 2, 2, cv2.BORDER_CONSTANT, value=(240, 236, 226))
        spot = rng.uniform((0.06, 0.05), (0.94, 0.6)) * (width, height)
        affine_23 = cv2.getRotationMatrix2D(
            (card.shape[1] / 2, card.shape[0] / 2), rng.normal(0, 7), 1
        )
        affine_23[:, 2] += spot - (card.shape[1] / 2, 0.0)
        cv2.warpAffine(
            card, affine_23, (width, height), dst=image, borderMode=cv2.BORDER_TRANSPARENT
        )
        pin = (round(spot[0]), round(spot[1]) + 5)
        cv2.circle(image, pin, 4, pick(rng, VIVID), -1, cv2.LINE_AA)
    return image


@material
def clock(rng: Generator, size_m: Size) -> np.ndarray:
    """Paint a clock face at ten past ten."""
    image = canvas(size_m, (38, 62, 70), FINE)
    half = len(image) / 2.0
    centre = (round(half), round(half))
    cv2.circle(image, centre, round(half * 0.94), (236, 230, 214), -1, cv2.LINE_AA)
    for hour in range(1, 13):
        angle = hour * np.pi / 6.0
        spot = half + 0.76 * half * np.array([np.sin(angle), -np.cos(angle)])
        box = (round(spot[0] - half * 0.12), round(spot[1] - half * 0.09))
        draw_text(image, str(hour), (*box, round(half * 0.24), round(half * 0.18)), (40, 40, 44), 1)
    for angle, length, thick in ((5.3, 0.45, 6), (1.05, 0.65, 4)):
        tip = half + length * half * np.array([np.sin(angle), -np.cos(angle)])
        cv2.line(image, centre, (round(tip[0]), round(tip[1])), (30, 30, 34), thick, cv2.LINE_AA)
    return shaded(image, grain(rng, image.shape, 0.008))


@material
def hob(rng: Generator, size_m: Size) -> np.ndarray:
    """Paint a glass hob with four rings."""
    image = canvas(size_m, (34, 36, 40), FINE)
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


@material
def oven(rng: Generator, size_m: Size) -> np.ndarray:
    """Paint an oven door: dark glass, dials and a display."""
    image = canvas(size_m, (168, 170, 172), COMMON)
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
            draw_text(image, "10:09", (box[0][0] + 4, box[0][1] + 4, 28, 8), (98, 226, 160), 1)
            continue
        cv2.circle(image, spot, 10, (60, 60, 64), -1, cv2.LINE_AA)
        angle = rng.uniform(0.0, 6.0)
        tip = (round(spot[0] + 9 * np.cos(angle)), round(spot[1] + 9 * np.sin(angle)))
        cv2.line(image, spot, tip, (236, 236, 236), 2, cv2.LINE_AA)
    return shaded(image, 0.02 * clouds(rng, image.shape, (4.0, 80.0), 2))


@material
def screen(rng: Generator, size_m: Size) -> np.ndarray:
    """Paint a laptop's screen with text and a plot."""
    image = canvas(size_m, (30, 40, 56), FINE)
    height, width = image.shape[:2]
    cv2.rectangle(image, (6, 6), (width // 2, height - 8), (226, 230, 234), -1)
    for row in range(14, height - 14, 7):
        end = int(rng.uniform(0.2, 0.46) * width)
        cv2.line(image, (12, row), (end, row), pick(rng, VIVID[2:4]), 2)
    curve = clouds(rng, (1, width // 2), (18.0, 1.0), 2)[0] * 0.12 * height + height * 0.5
    points = np.stack([np.arange(width // 2) + width // 2, curve], 1).astype(np.int32)
    cv2.polylines(image, [points], False, (120, 230, 150), 2, cv2.LINE_AA)
    return image
