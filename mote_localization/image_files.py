"""Encoded images, JPEG and PNG, to arrays, with one clear error for each that is none."""

from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import cv2
import numpy as np
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile

from mote_localization.errors import ImageError, SceneError
from mote_localization.images import MAX_SIDE_PX

_MAX_IMAGE_BYTES = 256 << 20
_MAX_PIXELS = 200_000_000  # as the largest sensors of telephones have
_ORIENTATION = 0x0112  # EXIF tag; from 5 on, width and height change places
_TRANSPOSED = 5


def read_image(path: Path, upright: bool = False) -> np.ndarray:
    """Read an image file as RGB uint8 (H, W, 3).

    Grey becomes RGB, 16 bits become 8, alpha is ignored: what it hides is seen.

    Args:
        path: JPEG or PNG.
        upright: Turn and mirror it as its EXIF says; otherwise it is as the sensor had it.

    Raises:
        SceneError: The file is missing, damaged, no image, or vast.
    """
    as_sensed = 0 if upright else cv2.IMREAD_IGNORE_ORIENTATION
    return cv2.cvtColor(decode_file(path, cv2.IMREAD_COLOR | as_sensed), cv2.COLOR_BGR2RGB)


def image_size(path: Path, upright: bool = False) -> tuple[int, int] | None:
    """Return the width and height of an image as `read_image` reads it, from its header alone.

    None where the header cannot be read or the image is vast: reading the image will say so.
    """
    try:
        with open(path, "rb") as file:
            size = _stored_size(file, upright)
    except OSError:
        return None
    return None if size is None or _vast(*size) else size


def decode_file(path: Path, flags: int) -> np.ndarray:
    """Decode an image file, by OpenCV's flags and in its order of channels.

    Raises:
        SceneError: The file is missing, damaged, no image, or vast.
    """
    try:
        if path.stat().st_size > _MAX_IMAGE_BYTES:
            raise SceneError(f"{path}: over {_MAX_IMAGE_BYTES >> 20} MiB, expected an image")
        content = path.read_bytes()
    except OSError as error:
        raise SceneError(f"{path}: cannot be read ({error.strerror})") from error
    try:
        return decode_image(content, flags)
    except ImageError as error:
        raise SceneError(f"{path}: {error}") from error


def decode_image(content: bytes, flags: int) -> np.ndarray:
    """Decode an image, by OpenCV's flags and in its order of channels.

    Raises:
        ImageError: It is damaged, no image, or vast.
    """
    size = encoded_size(content)
    if size is not None and _vast(*size):  # a few KB can hold them
        raise ImageError(
            f"is {size[0]}x{size[1]} px, expected at most {MAX_SIDE_PX} a side and "
            f"{_MAX_PIXELS / 1e6:g} million in all"
        )
    image = None
    if size is not None:
        try:
            image = cv2.imdecode(np.frombuffer(content, np.uint8), flags)
        except cv2.error:
            pass
    if image is None:
        raise ImageError(f"is damaged or no image ({len(content)} bytes)")
    return image


def encoded_size(content: bytes) -> tuple[int, int] | None:
    """Return the width and height that an encoded image says it has; None where it says none."""
    return _stored_size(BytesIO(content), upright=False)


def _stored_size(file: BinaryIO, upright: bool) -> tuple[int, int] | None:
    """Return width and height by the header of a JPEG or PNG, None where there is none."""
    # Not Image.open: it warns of large images, and reads formats that are not asked for.
    for kind in (JpegImageFile, PngImageFile):
        file.seek(0)
        try:
            with kind(file) as image:
                width, height = image.size
                transposed = upright and image.getexif().get(_ORIENTATION, 1) >= _TRANSPOSED
        except Exception:  # what Pillow raises on damaged headers has no common base
            continue
        return (height, width) if transposed else (width, height)
    return None


def _vast(width: int, height: int) -> bool:
    return max(width, height) > MAX_SIDE_PX or width * height > _MAX_PIXELS
