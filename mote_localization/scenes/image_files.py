"""Image files: JPEG and PNG to arrays, with one clear error for each that is none."""

from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from mote_localization.errors import SceneError

_MAX_IMAGE_BYTES = 256 << 20
_ORIENTATION = 0x0112  # EXIF tag; from 5 on, width and height change places
_TRANSPOSED = 5


def read_image(path: Path, upright: bool = False) -> np.ndarray:
    """Read an image file as RGB uint8 (H, W, 3).

    Grey becomes RGB, 16 bits become 8, alpha is ignored: what it hides is seen.

    Args:
        path: JPEG or PNG.
        upright: Turn and mirror it as its EXIF says; otherwise it is as the sensor had it.

    Raises:
        SceneError: The file is missing, damaged, or no image.
    """
    as_sensed = 0 if upright else cv2.IMREAD_IGNORE_ORIENTATION
    return cv2.cvtColor(decode_file(path, cv2.IMREAD_COLOR | as_sensed), cv2.COLOR_BGR2RGB)


def upright_size(path: Path) -> tuple[int, int] | None:
    """Return the width and height of an image read upright, in px, from its header alone.

    None where the header cannot be read: reading the image will say why.
    """
    try:
        with Image.open(path) as image:
            transposed = image.getexif().get(_ORIENTATION, 1) >= _TRANSPOSED
            width, height = image.size
    except Exception:  # what Pillow raises on damaged headers has no common base
        return None
    return (height, width) if transposed else (width, height)


def decode_file(path: Path, flags: int) -> np.ndarray:
    """Decode an image file, by OpenCV's flags and in its order of channels.

    Raises:
        SceneError: The file is missing, damaged, or no image.
    """
    try:
        if path.stat().st_size > _MAX_IMAGE_BYTES:
            raise SceneError(f"{path}: over {_MAX_IMAGE_BYTES >> 20} MiB, expected an image")
        content = np.frombuffer(path.read_bytes(), np.uint8)
    except OSError as error:
        raise SceneError(f"{path}: cannot be read ({error.strerror})") from error
    try:
        image = cv2.imdecode(content, flags)
    except cv2.error:  # empty, or of more pixels than OpenCV takes
        image = None
    if image is None:
        raise SceneError(f"{path}: is damaged or no image ({content.size} bytes)")
    return image
