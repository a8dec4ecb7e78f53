"""Headers of image files: format, size, EXIF orientation, camera and focal length."""

import math
import os
import re
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, BinaryIO

from PIL.Image import Exif, Image
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile

from mote_localization.images import MAX_SIDE_PX

# Formats and their first bytes. Pillow's Image.open would also read others, and warn about sizes.
FORMATS = {
    "JPEG": rb"\xff\xd8\xff",
    "PNG": rb"\x89PNG\r\n\x1a\n",
    "WebP": rb"RIFF....WEBP",
    "TIFF": rb"II[*+]\0|MM\0[*+]",
    "HEIC": rb"....ftyp(hei|hev|mif1|msf1)",
}
_HEAD_BYTES = 32  # hold what identifies a format, and the size of a WebP image
MAX_PIXELS = 51_000_000  # decoding takes 6 bytes each; most phones have 12 or 48 million
_MAX_EXIF_BYTES = 64 << 10
_MAX_CHUNKS = 10_000  # of a WebP file; each frame of an animation has one
_MAX_NAME = 80  # characters of a camera's make and of its model

# tags of TIFF and EXIF
_BITS, _CHANNELS, _ROWS_PER_STRIP, _TILE_WIDTH, _TILE_HEIGHT = 0x102, 0x115, 0x116, 0x142, 0x143
_WIDTH, _HEIGHT, _MAKE, _MODEL, _ORIENTATION, _EXIF = 0x100, 0x101, 0x10F, 0x110, 0x112, 0x8769
_FOCAL_LENGTH, _FOCAL_LENGTH_35MM = 0x920A, 0xA405
TRANSPOSED = 5  # orientation from which on width and height are swapped
_FILM_DIAGONAL_MM = math.hypot(36, 24)
_FOCAL_RANGE_35MM = (4.0, 2000.0)  # mm, of a plausible lens


@dataclass(frozen=True)
class Lens:
    """Camera and focal length of a photograph, as its EXIF data states them."""

    camera: str  # make and model
    focal_mm: float  # 0: not stated
    focal_35mm: float  # of the same view on film of 36x24 mm, mm; 0: not stated

    def focal_px(self, width: int, height: int) -> float | None:
        """Return the focal length of an image of this size, within some percent; None: unknown."""
        low, high = _FOCAL_RANGE_35MM
        if not low <= self.focal_35mm <= high:
            return None
        return self.focal_35mm * math.hypot(width, height) / _FILM_DIAGONAL_MM


@dataclass(frozen=True)
class ImageHeader:
    """What a file states about its image."""

    format: str  # one of `FORMATS`
    width: int  # px, as decoded: before the EXIF rotation, but TIFF and HEIC after it
    height: int  # px
    orientation: int = 1  # of EXIF, 1 to 8, as far as the decoder has not applied it
    lens: Lens | None = None
    block_bytes: int = 0  # of a TIFF: bytes that are decompressed at once, a strip or a tile

    def size(self, upright: bool) -> tuple[int, int]:
        """Return width and height of the image, rotated by its orientation or not."""
        transposed = upright and self.orientation >= TRANSPOSED
        return (self.height, self.width) if transposed else (self.width, self.height)

    def is_too_large(self) -> bool:
        """Return whether the decoded image takes too much memory."""
        return max(self.width, self.height) > MAX_SIDE_PX or self.width * self.height > MAX_PIXELS


def image_format(head: bytes) -> str | None:
    """Return the one of `FORMATS` whose files begin with these bytes, or None."""
    matches = (name for name, start in FORMATS.items() if re.match(start, head, re.DOTALL))
    return next(matches, None)


def heic_is_readable() -> bool:
    """Return whether pi-heif is installed, which reads HEIC."""
    try:
        import pi_heif.as_plugin  # noqa: F401
    except ImportError:
        return False
    return True


def read_header(file: BinaryIO, formats: Collection[str] = tuple(FORMATS)) -> ImageHeader | None:
    """Return the header of an open file; None where it has none of these formats or is damaged."""
    head = file.read(_HEAD_BYTES)
    name = image_format(head)
    file.seek(0)
    try:
        if name is None or name not in formats:
            return None
        (width, height), exif, block_bytes = _size_exif_and_block(name, head, file)
        header = ImageHeader(name, width, height, *_exif_entries(exif), block_bytes)
    except Exception:  # the errors of Pillow and pi-heif have no common base class
        return None
    if name in ("TIFF", "HEIC"):  # their decoders rotate them
        width, height = header.size(upright=True)
        return ImageHeader(name, width, height, 1, header.lens, block_bytes)
    return header


def _size_exif_and_block(
    name: str, head: bytes, file: BinaryIO
) -> tuple[tuple[int, int], Exif, int]:
    """Return size, EXIF data and `block_bytes` of the stored image; it is not decoded."""
    if name == "WebP":  # Pillow would allocate the whole image
        return _webp_size(head), _webp_exif(file), 0
    if name == "TIFF":
        tiff = TiffImageFile(file)  # versions of Pillow differ in whether its `size` is rotated
        size = int(tiff.tag_v2[_WIDTH]), int(tiff.tag_v2[_HEIGHT])
        return size, tiff.getexif(), _block_bytes(tiff.tag_v2, *size)
    if name == "HEIC":
        from pi_heif.as_plugin import HeifImageFile

        heic = HeifImageFile(file)  # its size is rotated, and its EXIF orientation is 1
        return heic.size, heic.getexif(), 0
    image = JpegImageFile(file) if name == "JPEG" else PngImageFile(file)
    return image.size, Image.getexif(image), 0  # PngImageFile.getexif would decode the image


def _block_bytes(tags: Mapping[int, Any], width: int, height: int) -> int:
    """Return the decompressed size of a strip or a tile of a TIFF image, by its tags (TIFF 6.0)."""
    rows = min(int(tags.get(_ROWS_PER_STRIP, 0)) or height, height)
    pixels = int(tags.get(_TILE_WIDTH, width)) * int(tags.get(_TILE_HEIGHT, rows))
    return pixels * int(tags.get(_CHANNELS, 1)) * max(tags.get(_BITS, (1,))) // 8


def _exif_entries(exif: Exif) -> tuple[int, Lens | None]:
    """Return orientation and lens; damaged entries are those of an image without EXIF data."""
    try:
        stated, inner = exif.get(_ORIENTATION), exif.get_ifd(_EXIF)
        names = [str(exif.get(tag, "")).strip("\0 ")[:_MAX_NAME] for tag in (_MAKE, _MODEL)]
        lengths = [_length(inner.get(tag)) for tag in (_FOCAL_LENGTH, _FOCAL_LENGTH_35MM)]
    except Exception:  # Pillow's errors on damaged EXIF data have no common base class
        return 1, None
    lens = Lens(" ".join(names).strip(), *lengths)
    orientation = stated if isinstance(stated, int) and 1 <= stated <= 8 else 1
    return orientation, lens if lens.camera or any(lengths) else None


def _length(stated: Any) -> float:
    """Return a length above 0, mm, or 0 where the entry is none."""
    try:
        length = float(stated)
    except (TypeError, ValueError, ZeroDivisionError):
        return 0.0
    return round(length, 2) if 0 < length < math.inf else 0.0


def _webp_size(head: bytes) -> tuple[int, int]:
    """Return width and height from the first chunk of a WebP file (RFC 9649)."""
    if head[12:16] == b"VP8X":
        return _little_endian(head[24:27]) + 1, _little_endian(head[27:30]) + 1
    if head[12:16] == b"VP8L":
        bits = _little_endian(head[21:25])
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    return _little_endian(head[26:28]) & 0x3FFF, _little_endian(head[28:30]) & 0x3FFF


def _webp_exif(file: BinaryIO) -> Exif:
    """Return the EXIF data of a WebP file; none where it has no such chunk."""
    exif = Exif()
    file.seek(12)
    for _ in range(_MAX_CHUNKS):
        head = file.read(8)
        if len(head) < 8:
            break
        size = _little_endian(head[4:])
        if head[:4] == b"EXIF":
            with suppress(Exception):  # damaged; Pillow's errors have no common base class
                exif.load(file.read(min(size, _MAX_EXIF_BYTES)))
            break
        file.seek(size + size % 2, os.SEEK_CUR)
    return exif


def _little_endian(data: bytes) -> int:
    """Return an unsigned integer, the least significant byte first."""
    return int.from_bytes(data, "little")
