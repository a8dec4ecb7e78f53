"""Images as the published networks were trained on them, and what that does to their camera.

A network of 512 px takes the long side at 512 and the middle of the short side, both multiples of
the patch size; a square image is cut to 4:3. A network of 224 px takes the middle square, 224 px
wide.
"""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mote_localization.camera import Camera
from mote_localization.errors import CameraError

_SQUARE_SIZE = 224  # px, of the network that was trained on squares alone


class _Plan(NamedTuple):
    """Resize to (width, height), then cut; all in px."""

    width: int
    height: int
    left: int
    top: int
    cut_width: int
    cut_height: int


def prepared_camera(live: Camera, size: int, patch: int = 16) -> Camera:
    """Return the camera of the prepared images of an undistorted camera.

    Args:
        live: Camera of the images.
        size: Side of the network's images, px.
        patch: Side of the network's patches, px.

    Raises:
        CameraError: The image is so long and narrow that nothing of it would be left.
    """
    plan = _plan(live.width, live.height, size, patch)
    resized = live.resized(plan.width, plan.height)
    return replace(
        resized,
        width=plan.cut_width,
        height=plan.cut_height,
        cx=resized.cx - plan.left,
        cy=resized.cy - plan.top,
    )


def prepare(image_hw3: np.ndarray, size: int, patch: int = 16) -> Tensor:
    """Return the prepared image (3, H, W), float32 in [-1, 1], of an image RGB uint8.

    Lanczos where it shrinks and bicubic where it grows, both antialiased.

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
    rows = slice(plan.top, plan.top + plan.cut_height)
    columns = slice(plan.left, plan.left + plan.cut_width)
    return image_13hw[0, :, rows, columns].float() / 127.5 - 1


def _plan(width: int, height: int, size: int, patch: int) -> _Plan:
    short, long = sorted((width, height))
    if long * patch > short * size:
        raise CameraError(
            f"found an image of {width}x{height} px, expected a long side of at most "
            f"{size / patch:g} times the short one; crop it"
        )
    scale = size / (short if size == _SQUARE_SIZE else long)
    width, height = round(width * scale), round(height * scale)
    x, y = width // 2, height // 2
    if size == _SQUARE_SIZE:
        cut_width = cut_height = size
    else:
        # A square is cut to 4:3; the published networks never saw one.
        most_height = 3 * width // 4 if width == height else height
        cut_width, cut_height = (2 * (s // 2) // patch * patch for s in (width, most_height))
    return _Plan(width, height, x - cut_width // 2, y - cut_height // 2, cut_width, cut_height)
