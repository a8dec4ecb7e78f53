"""Decoding of image files to arrays; each fault is one clear error."""

import errno
import re
from collections.abc import Callable, Collection
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np

from mote_localization.errors import ImageError, SceneError
from mote_localization.image_headers import (
    MAX_PIXELS,
    TRANSPOSED,
    ImageHeader,
    Lens,
    heic_is_readable,
    image_format,
    read_header,
)
from mote_localization.images import MAX_SIDE_PX
from mote_localization.input_files import open_input, read_input

PHOTO_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".heic", ".heif")
HEIC_SUFFIXES = (".heic", ".heif")
INSTALL_HEIC = "pip install pi-heif"
_COMPRESSED_FORMATS = ("jpeg", "jpg", "png")  # named by a sensor_msgs/CompressedImage
_JPEG_OR_PNG = ("JPEG", "PNG")  # of compressed images of ROS, and of depth images
_MAX_IMAGE_BYTES = 144 << 20  # 25 million px of 48 bits
_MAX_DECODING_BYTES = 430_000_000  # of a TIFF's file, block and image
# A marker of a JPEG file begins a segment, which states its length. In the data of a scan there are
# only the others: zero, fill bytes, restarts.
_MARKER = re.compile(rb"\xff([^\x00\x01\xff\xd0-\xd8])", re.DOTALL)
_START_OF_SCAN = b"\xda"  # one or three, in progressive images about ten
_END_OF_IMAGE = b"\xd9"
_MAX_SEGMENTS = 10_000
_MAX_SCANNED_PIXELS = 510_000_000  # of all scans, each of which decodes all pixels
_MIN_SCANNED_PIXELS = 1 << 16  # time of a scan of a small image, in pixels

_Decoded = TypeVar("_Decoded")


def read_image(path: Path | str, upright: bool = False) -> np.ndarray:
    """Read an image file as RGB uint8 (H, W, 3).

    Grey becomes RGB, 16 bits become 8, an alpha channel is ignored.

    Args:
        path: JPEG, PNG, WebP, TIFF (its first page) or HEIC; its content decides, not its name.
        upright: Rotate and mirror the image by its EXIF orientation; otherwise the EXIF data is
            ignored. TIFF and HEIC are always upright.

    Raises:
        SceneError: The file is missing, damaged, not an image, or too large; or it is HEIC and
            pi-heif is not installed.
    """
    bgr_hw3, orientation = _decode_file(path, _decode_photo)  # without the file: up to 100s of MB
    if upright:  # versions of OpenCV differ in which formats they rotate
        bgr_hw3 = _rotated(bgr_hw3, orientation)
    return cv2.cvtColor(bgr_hw3, cv2.COLOR_BGR2RGB)


def image_size(path: Path | str, upright: bool = False) -> tuple[int, int] | None:
    """Return width and height that `read_image` would give, from the file's header alone.

    None where the header cannot be read or the image is too large; `read_image` raises then.
    """
    header = _header_of(path)
    return None if header is None or header.is_too_large() else header.size(upright)


def read_lens(path: Path | str) -> Lens | None:
    """Return camera and focal length in a file's EXIF data; None where it has none."""
    header = _header_of(path)
    return None if header is None else header.lens


def decode_file(path: Path | str, flags: int) -> np.ndarray:
    """Decode a JPEG or PNG file with flags of `cv2.imdecode`; channels are in OpenCV's order.

    Raises:
        SceneError: The file is missing, damaged, not an image, or too large.
    """
    return _decode_file(path, lambda content: decode_image(content, flags))


def decode_image(content: bytes, flags: int, formats: Collection[str] = _JPEG_OR_PNG) -> np.ndarray:
    """Decode an image with flags of `cv2.imdecode`; the channels are in OpenCV's order.

    Raises:
        ImageError: The content is damaged, of no such format, or too large.
    """
    return _decode(content, read_header(BytesIO(content), formats), flags)


def decode_compressed(message: Any) -> np.ndarray:
    """Decode a sensor_msgs/CompressedImage, as rclpy or rosbags read it.

    Returns:
        image_hw3, RGB uint8. EXIF orientation is ignored: calibrations are of the stored pixels.

    Raises:
        ImageError: It is damaged, too large, or neither JPEG nor PNG.
    """
    content = bytes(message.data)
    known = any(name in message.format.lower() for name in _COMPRESSED_FORMATS)
    if not known and encoded_size(content) is None:
        raise ImageError(
            f"has the format '{message.format[:40]}', expected jpeg or png; republish the images "
            "raw with image_transport"
        )
    image_hw3 = decode_image(content, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    return cv2.cvtColor(image_hw3, cv2.COLOR_BGR2RGB)


def encode_jpeg(image: np.ndarray, quality: int) -> bytes:
    """Return a JPEG of an image, uint8, grey or with its channels in OpenCV's order."""
    return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()


def encode_webp(image: np.ndarray, quality: int) -> bytes:
    """Return a lossy WebP of an image, uint8, grey or with its channels in OpenCV's order."""
    return cv2.imencode(".webp", image, [cv2.IMWRITE_WEBP_QUALITY, quality])[1].tobytes()


def encode_png(image: np.ndarray) -> bytes:
    """Return the smallest PNG of an image, 8 or 16 bits, grey or with OpenCV's channels."""
    return cv2.imencode(".png", image, [cv2.IMWRITE_PNG_COMPRESSION, 9])[1].tobytes()


def encoded_size(content: bytes, formats: Collection[str] = _JPEG_OR_PNG) -> tuple[int, int] | None:
    """Return width and height from the header of an image; None where there is none."""
    header = read_header(BytesIO(content), formats)
    return None if header is None else header.size(upright=False)


def _header_of(path: Path | str) -> ImageHeader | None:
    """Return the header of an image file; None where it cannot be read."""
    try:
        with open_input(path) as file:
            return read_header(file)
    except OSError:
        return None


def _decode_file(path: Path | str, decode: Callable[[bytes], _Decoded]) -> _Decoded:
    """Return the decoded content of a file; an error names the file."""
    path = Path(path)
    try:
        content = read_input(path, _MAX_IMAGE_BYTES)
    except OSError as error:
        advice = "; save it as JPEG or PNG" if error.errno == errno.EFBIG else ""
        raise SceneError(f"{path}: cannot be read ({error.strerror}){advice}") from error
    try:
        return decode(content)
    except ImageError as error:
        raise SceneError(f"{path}: {error}") from error


def _decode_photo(content: bytes) -> tuple[np.ndarray, int]:
    """Return the image of a file's content, BGR uint8 (H, W, 3), and its EXIF orientation."""
    if image_format(content) == "HEIC" and not heic_is_readable():
        raise ImageError(f"is HEIC, which needs another package: {INSTALL_HEIC}")
    header = read_header(BytesIO(content))
    bgr_hw3 = _decode(content, header, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    return bgr_hw3, header.orientation if header else 1


def _decode(content: bytes, header: ImageHeader | None, flags: int) -> np.ndarray:
    """Decode an image with flags of `cv2.imdecode`; the channels are in OpenCV's order."""
    image = None
    if header is not None:
        if header.is_too_large():  # a few KB can hold that many pixels
            raise ImageError(
                f"is {header.width}x{header.height} px, expected at most {MAX_SIDE_PX} px per side "
                f"and {MAX_PIXELS / 1e6:g} million px in total"
            )
        pixels = header.width * header.height
        block_bytes = header.block_bytes + 2 * min(header.block_bytes, len(content))
        if block_bytes + 3 * pixels > _MAX_DECODING_BYTES:  # libtiff also copies the file's block
            raise ImageError(
                f"is {header.width}x{header.height} px in strips of {header.block_bytes >> 20} "
                "MiB, which take too much memory; save it with smaller strips, or as PNG"
            )
        scans = _scans(content) if header.format == "JPEG" else 1
        if scans * max(pixels, _MIN_SCANNED_PIXELS) > _MAX_SCANNED_PIXELS:
            raise ImageError(
                f"is a progressive JPEG of {header.width}x{header.height} px with {scans} scans, "
                "which takes too long; save it as an ordinary JPEG"
            )
        if header.format == "HEIC":
            image = _decode_heic(content)
        else:
            with suppress(cv2.error):
                image = cv2.imdecode(np.frombuffer(content, np.uint8), flags)
    # the decoder reads the size again, perhaps elsewhere in the file
    if image is None or header is None or sorted(image.shape[:2]) != sorted(header.size(False)):
        raise ImageError(f"is damaged or no image ({len(content)} bytes)")
    return image


def _scans(content: bytes) -> int:
    """Return the number of scans of the first image in a JPEG file; others may follow it."""
    at, scans = 2, 0
    for _ in range(_MAX_SEGMENTS):
        found = _MARKER.search(content, at)
        if found is None or found[1] == _END_OF_IMAGE:
            return scans
        scans += found[1] == _START_OF_SCAN
        at = found.end() + int.from_bytes(content[found.end() : found.end() + 2], "big")
    return _MAX_SEGMENTS


def _decode_heic(content: bytes) -> np.ndarray | None:
    """Return the image of HEIC, 8 bits, channels in OpenCV's order; None where it is damaged."""
    from pi_heif.as_plugin import HeifImageFile

    try:
        with HeifImageFile(BytesIO(content)) as image:
            return np.asarray(image.convert("RGB"))[..., ::-1]
    except Exception:  # the errors of pi-heif have no common base class
        return None


def _rotated(image: np.ndarray, orientation: int) -> np.ndarray:
    """Return an image (H, W, 3) upright, by its EXIF orientation (EXIF 2.3, table 6)."""
    if orientation >= TRANSPOSED:
        image = image.swapaxes(0, 1)
    rows = -1 if orientation in (3, 4, 7, 8) else 1
    columns = -1 if orientation in (2, 3, 6, 7) else 1
    return np.ascontiguousarray(image[::rows, ::columns])
