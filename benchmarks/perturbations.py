"""Changes of images that a robot's camera may see: light, colours, dirt, motion, wrong calibration.

A perturbation changes an image, RGB uint8, and may change the calibration that is given with
it. The random numbers of an image are always the same. Lengths in pixels are those of an image that
is 640 px wide.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import NamedTuple, TypeAlias

import cv2
import numpy as np

from mote_localization.camera import Camera
from mote_localization.image_files import encode_jpeg

_WIDTH = 640  # px

Change: TypeAlias = Callable[[np.ndarray, np.random.Generator], np.ndarray]


class Perturbation(NamedTuple):
    """One row of the table."""

    image: Change
    camera: Callable[[Camera], Camera] = lambda camera: camera
    has_pose: bool = True  # False: no pose explains the image, each published one is wrong


def _kept(image: np.ndarray, _: np.random.Generator) -> np.ndarray:
    return image


def _grey(image: np.ndarray, _: np.random.Generator) -> np.ndarray:
    return np.repeat(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2)


def _swapped(image: np.ndarray, _: np.random.Generator) -> np.ndarray:
    return np.ascontiguousarray(image[..., ::-1])


def _gamma(gamma: float) -> Change:
    table = (255 * (np.arange(256) / 255) ** gamma).round().astype(np.uint8)
    return lambda image, _: table[image]


def _exposure(stops: float) -> Change:
    """Change the light, before the display gamma of the image."""
    table = (255 * (np.arange(256) / 255 * 2 ** (stops / 2.2)).clip(0, 1)).round().astype(np.uint8)
    return lambda image, _: table[image]


def _blurred(px: int) -> Change:
    """Blur by a motion across the image, of a random direction."""

    def change(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        length = _scaled(px, image)
        angle = rng.uniform(0, np.pi)
        end_2 = length / 2 * np.array([np.cos(angle), np.sin(angle)])
        middle = length // 2 + 1
        kernel = np.zeros((2 * middle + 1, 2 * middle + 1), np.uint8)
        ends = (tuple((middle + sign * end_2).round().astype(int).tolist()) for sign in (-1, 1))
        cv2.line(kernel, *ends, 1)
        return cv2.filter2D(image, -1, kernel / kernel.sum(), borderType=cv2.BORDER_REPLICATE)

    return change


def _defocused(px: int) -> Change:
    return lambda image, _: cv2.GaussianBlur(image, (0, 0), _scaled(px, image))


def _covered(fraction: float) -> Change:
    """Cover a fraction of the image by a rectangle of random texture at a random border."""

    def change(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        height, width = image.shape[:2]
        side = np.sqrt(fraction * rng.uniform(0.8, 1.25)).clip(fraction, 1)
        columns, rows = round(width * side), round(height * fraction / side)
        left = rng.choice([0, width - columns, (width - columns) // 2])
        top = rng.choice([0, height - rows, (height - rows) // 2])
        changed = image.copy()
        changed[top : top + rows, left : left + columns] = _texture(rows, columns, rng)
        return changed

    return change


def _person(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Cover the image by somebody who stands close to the camera: body, head and arms."""
    height, width = image.shape[:2]
    mask = np.zeros((height, width), np.uint8)
    x, size = rng.uniform(0.25, 0.75) * width, rng.uniform(0.28, 0.4) * width
    for dx, y, half_width, half_height, angle in (
        (0, 1.0, 0.45, 0.75, 0), (0, 0.28, 0.2, 0.16, 0), (0.5, 0.8, 0.12, 0.5, 30),
        (-0.5, 0.8, 0.12, 0.5, -30),
    ):  # fmt: skip
        centre = (round(x + dx * size), round(y * height))
        axes = (round(half_width * size), round(half_height * height))
        cv2.ellipse(mask, centre, axes, angle, 0, 360, 1, -1)
    return np.where(mask[..., None] > 0, _texture(height, width, rng), image)


def _texture(rows: int, columns: int, rng: np.random.Generator) -> np.ndarray:
    """Return a random texture with structure of all sizes."""
    texture = np.zeros((rows, columns, 3))
    for cells in (2, 6, 20, 60):
        coarse = rng.uniform(-1, 1, (cells, cells, 3)).astype(np.float32)
        texture += cv2.resize(coarse, (columns, rows), interpolation=cv2.INTER_CUBIC)
    return (rng.uniform(60, 190, 3) + 45 * texture).clip(0, 255).astype(np.uint8)


def _vignetted(image: np.ndarray, _: np.random.Generator) -> np.ndarray:
    height, width = image.shape[:2]
    x_w, y_h = np.linspace(-1, 1, width), np.linspace(-1, 1, height)[:, None]
    return _lit(image, 1 - 0.6 * (x_w**2 + y_h**2) / 2)


def _banded(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Add the bands of flickering lamps in a rolling shutter."""
    phase_h1 = np.linspace(0, 2 * np.pi * 4, len(image))[:, None] + rng.uniform(0, 2 * np.pi)
    return _lit(image, 1 + 0.25 * np.sin(phase_h1))


def _sunlit(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Add a bright patch of sunlight with sharp edges, a third of the image wide."""
    height, width = image.shape[:2]
    light_hw = np.ones((height, width))
    centre_2 = rng.uniform(0.2, 0.8, 2) * (width, height)
    corners_42 = np.array([[-1, -0.6], [0.6, -1], [1, 0.6], [-0.6, 1]]) * width / 6 + centre_2
    cv2.fillPoly(light_hw, [corners_42.astype(np.int32)], 2.2)
    return _lit(image, light_hw)


def _hazy(image: np.ndarray, _: np.random.Generator) -> np.ndarray:
    return (0.5 * image + 100).astype(np.uint8)


def _dirty(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Add blurred dark spots on the lens."""
    height, width = image.shape[:2]
    light_hw = np.ones((height, width), np.float32)
    for _ in range(25):
        centre = tuple((rng.uniform(0, 1, 2) * (width, height)).astype(int).tolist())
        cv2.circle(light_hw, centre, int(width * rng.uniform(0.01, 0.05)), rng.uniform(0, 0.6), -1)
    return _lit(image, cv2.GaussianBlur(light_hw, (0, 0), width / 150))


def _noisy(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Add the noise of a dark room to an image of normal brightness."""
    return (image + 20 * rng.standard_normal(image.shape)).clip(0, 255).astype(np.uint8)


def _compressed(image: np.ndarray, _: np.random.Generator) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(encode_jpeg(image, 10), np.uint8), cv2.IMREAD_COLOR)


def _posterized(image: np.ndarray, _: np.random.Generator) -> np.ndarray:
    return (image // 52 * 52 + 23).astype(np.uint8)


def _warm(image: np.ndarray, _: np.random.Generator) -> np.ndarray:
    """Change the white balance from daylight to candles."""
    return (image * np.array([1.25, 0.95, 0.55])).clip(0, 255).astype(np.uint8)


def _skewed(image: np.ndarray, _: np.random.Generator) -> np.ndarray:
    """Shift the lower rows: a rolling shutter in a fast turn."""
    height, width = image.shape[:2]
    shear = np.array([[1, _scaled(24, image) / height, -_scaled(12, image)], [0, 1, 0]], float)
    return cv2.warpAffine(image, shear, (width, height), borderMode=cv2.BORDER_REPLICATE)


def _scaled(px: float, image: np.ndarray) -> int:
    return max(1, round(px * image.shape[1] / _WIDTH))


def _lit(image: np.ndarray, light_hw: np.ndarray) -> np.ndarray:
    """Return an image under another light, a factor of each pixel."""
    return (image * light_hw[..., None]).clip(0, 255).astype(np.uint8)


def _focal(factor: float) -> Callable[[Camera], Camera]:
    return lambda camera: replace(camera, fx=factor * camera.fx, fy=factor * camera.fy)


def _shifted_centre(px: float) -> Callable[[Camera], Camera]:
    return lambda camera: replace(camera, cx=camera.cx + px * camera.width / _WIDTH)


CLEAN = "clean"
# Those that the training of a map imitates. Those of `UNSEEN` it does not.
SEEN: Mapping[str, Perturbation] = {
    "grey": Perturbation(_grey),
    "red and blue swapped": Perturbation(_swapped),
    "gamma 0.4": Perturbation(_gamma(0.4)),
    "gamma 0.6": Perturbation(_gamma(0.6)),
    "gamma 1.7": Perturbation(_gamma(1.7)),
    "exposure -1": Perturbation(_exposure(-1)),
    "exposure +1": Perturbation(_exposure(1)),
    "vignette": Perturbation(_vignetted),
    "rolling bands": Perturbation(_banded),
    "covered 30 %": Perturbation(_covered(0.3)),
    "covered 50 %": Perturbation(_covered(0.5)),
    "covered 70 %": Perturbation(_covered(0.7)),
    "motion 21 px": Perturbation(_blurred(21)),
    "motion 41 px": Perturbation(_blurred(41)),
}
UNSEEN: Mapping[str, Perturbation] = {
    "person": Perturbation(_person),
    "warm light": Perturbation(_warm),
    "sun patch": Perturbation(_sunlit),
    "haze": Perturbation(_hazy),
    "dirty lens": Perturbation(_dirty),
    "noise 20": Perturbation(_noisy),
    "JPEG 10": Perturbation(_compressed),
    "5 grey levels": Perturbation(_posterized),
    "defocus 6 px": Perturbation(_defocused(6)),
    "rolling shutter 24 px": Perturbation(_skewed),
    "rows flipped": Perturbation(lambda image, _: image[::-1].copy(), has_pose=False),
    "columns flipped": Perturbation(lambda image, _: image[:, ::-1].copy(), has_pose=False),
}
WRONG_CAMERAS: Mapping[str, Perturbation] = {
    "focal length +3 %": Perturbation(_kept, _focal(1.03)),
    "focal length +5 %": Perturbation(_kept, _focal(1.05)),
    "focal length -5 %": Perturbation(_kept, _focal(0.95)),
    "focal length +15 %": Perturbation(_kept, _focal(1.15)),
    "principal point +30 px": Perturbation(_kept, _shifted_centre(30)),
}
PERTURBATIONS: Mapping[str, Perturbation] = {
    CLEAN: Perturbation(_kept),
    **SEEN,
    **UNSEEN,
    **WRONG_CAMERAS,
}


def perturbed(name: str, image: np.ndarray, camera: Camera, seed: int) -> tuple[np.ndarray, Camera]:
    """Return an image and its camera after a perturbation of `PERTURBATIONS`."""
    rng = np.random.default_rng((seed, sorted(PERTURBATIONS).index(name)))
    one = PERTURBATIONS[name]
    return one.image(image, rng), one.camera(camera)
