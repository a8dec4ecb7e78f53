"""Decoding of JPEG and PNG images to arrays; each fault is one clear error."""

from contextlib import suppress
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
_MAX_PIXELS = 200_000_000  # the size of the largest phone sensors
_ORIENTATION = 0x0112  # EXIF tag
_TRANSPOSED = 5  # orientation from which on width and height are swapped


def read_image(path: Path | str, upright: bool = False) -> np.ndarray:
    """Read an image file as RGB uint8 (H, W, 3).

    Grey becomes RGB, 16 bits become 8, an alpha channel is ignored.

    Args:
        path: JPEG or PNG.
        upright: Rotate and mirror the image by its EXIF orientation; otherwise the EXIF data is
            ignored.

    Raises:
        SceneError: The file is missing, damaged, not an image, or too large.
    """
    as_sensed = 0 if upright else cv2.IMREAD_IGNORE_ORIENTATION
    return cv2.cvtColor(decode_file(path, cv2.IMREAD_COLOR | as_sensed), cv2.COLOR_BGR2RGB)


def image_size(path: Path | str, upright: bool = False) -> tuple[int, int] | None:
    """Return width and height that `read_image` would give, from the file's header alone.

    None where the header cannot be read or the image is too large; `read_image` raises then.
    """
    try:
        with open(path, "rb") as file:
            size = _stored_size(file, upright)
    except OSError:
        return None
    return None if size is None or _is_too_large(*size) else size


def decode_file(path: Path | str, flags: int) -> np.ndarray:
    """Decode an image file with flags of `cv2.imdecode`; the channels are in OpenCV's order.

    Raises:
        SceneError: The file is missing, damaged, not an image, or too large.
    """
    path = Path(path)
    try:
        if path.stat().st_size > _MAX_IMAGE_BYTES:
            raise SceneError(f"{path}: found over {_MAX_IMAGE_BYTES >> 20} MiB, expected an image")
        content = path.read_bytes()
    except OSError as error:
        raise SceneError(f"{path}: cannot be read ({error.strerror})") from error
    try:
        return decode_image(content, flags)
    except ImageError as error:
        raise SceneError(f"{path}: {error}") from error


def decode_image(content: bytes, flags: int) -> np.ndarray:
    """Decode JPEG or PNG with flags of `cv2.imdecode`; the channels are in OpenCV's order.

    Raises:
        ImageError: The content is damaged, not an image, or too large.
    """
    size, image = encoded_size(content), None
    if size is not None and _is_too_large(*size):  # a few KB can hold that many pixels
        raise ImageError(
            f"is {size[0]}x{size[1]} px, expected at most {MAX_SIDE_PX} px per side and "
            f"{_MAX_PIXELS / 1e6:g} million px in total"
        )
    if size is not None:
        with suppress(cv2.error):
            image = cv2.imdecode(np.frombuffer(content, np.uint8), flags)
    if image is None:
        raise ImageError(f"is damaged or no image ({len(content)} bytes)")
    return image


def encode_jpeg(image: np.ndarray, quality: int) -> bytes:
    """Return a JPEG of an image, uint8, grey or with its channels in OpenCV's order."""
    return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()


def encoded_size(content: bytes) -> tuple[int, int] | None:
    """Return width and height from the header of a JPEG or PNG; None where there is no header."""
    return _stored_size(BytesIO(content), upright=False)


def _stored_size(file: BinaryIO, upright: bool) -> tuple[int, int] | None:
    """Return width and height from the header of an open file; None where there is no header."""
    # Image.open would warn about large images and read other formats.
    for kind in (JpegImageFile, PngImageFile):
        file.seek(0)
        try:
            with kind(file) as image:
                width, height = image.size
                transposed = upright and image.getexif().get(_ORIENTATION, 1) >= _TRANSPOSED
        except Exception:  # Pillow's errors on damaged headers have no common base class
            continue
        return (height, width) if transposed else (width, height)
    return None


def _is_too_large(width: int, height: int) -> bool:
    return max(width, height) > MAX_SIDE_PX or width * height > _MAX_PIXELS
