"""Input images of the published networks, and the cameras of these images.

A network of 512 px takes an image with a long side of 512 px. The short side is cropped to a
multiple of the patch size, and a square image is cropped to 4:3. A network of 224 px takes the
central square, resized to 224 px.
"""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mote_localization.camera import Camera
from mote_localization.errors import CameraError

_SQUARE_SIZE = 224  # px, input of the network that was trained on squares only


class _Plan(NamedTuple):
    """Size to resize to, then the rectangle to crop, px."""

    width: int
    height: int
    left: int
    top: int
    crop_width: int
    crop_height: int


def prepared_camera(live: Camera, size: int, patch: int = 16) -> Camera:
    """Return the camera of the prepared image for an undistorted camera.

    Args:
        live: Camera of the images.
        size: Input size of the network, px.
        patch: Side of a patch, px.

    Raises:
        CameraError: The image is too long and narrow: its short side is less than one patch.
    """
    plan = _plan(live.width, live.height, size, patch)
    resized = live.resized(plan.width, plan.height)
    return replace(
        resized,
        width=plan.crop_width,
        height=plan.crop_height,
        cx=resized.cx - plan.left,
        cy=resized.cy - plan.top,
    )


def prepare(image_hw3: np.ndarray, size: int, patch: int = 16) -> Tensor:
    """Return the prepared image (3, H, W), float32 in [-1, 1], from an image (h, w, 3) RGB uint8.

    Downsampled with Lanczos or upsampled bicubically, both antialiased.

    Raises:
        CameraError: As `prepared_camera`.
    """
    height, width = image_hw3.shape[:2]
    plan = _plan(width, height, size, patch)
    image_13hw = torch.from_numpy(np.array(image_hw3, order="C")).permute(2, 0, 1)[None]
    if (plan.width, plan.height) != (width, height):
        image_13hw = F.interpolate(
            image_13hw,
            (plan.height, plan.width),
            mode="lanczos" if plan.width < width else "bicubic",
            antialias=True,
        )
    rows = slice(plan.top, plan.top + plan.crop_height)
    columns = slice(plan.left, plan.left + plan.crop_width)
    return image_13hw[0, :, rows, columns].float() / 127.5 - 1


def _plan(width: int, height: int, size: int, patch: int) -> _Plan:
    """Return how an image is resized and cropped."""
    short_side, long_side = sorted((width, height))
    if long_side * patch > short_side * size:
        raise CameraError(
            f"found an image of {width}x{height} px, expected a long side of at most "
            f"{size / patch:g} times the short one; crop it"
        )
    scale = size / (short_side if size == _SQUARE_SIZE else long_side)
    width, height = round(width * scale), round(height * scale)
    center_x, center_y = width // 2, height // 2
    if size == _SQUARE_SIZE:
        crop_width = crop_height = size
    else:
        # A square is cropped to 4:3: the published networks were not trained on squares.
        max_height = 3 * width // 4 if width == height else height
        crop_width, crop_height = (2 * (s // 2) // patch * patch for s in (width, max_height))
    return _Plan(
        width,
        height,
        center_x - crop_width // 2,
        center_y - crop_height // 2,
        crop_width,
        crop_height,
    )
