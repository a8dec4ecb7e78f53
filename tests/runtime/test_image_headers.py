"""Headers of image files: formats, sizes, camera and focal length in EXIF data."""

import struct
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from mote_localization import image_headers
from mote_localization.errors import ImageError, SceneError
from mote_localization.image_files import decode_image, encoded_size, read_image
from mote_localization.image_headers import Lens, read_header

IMAGE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8))
EXIF_IFD, FOCAL, FOCAL_35MM, MAKE, MODEL = 0x8769, 0x920A, 0xA405, 0x10F, 0x110


def encoded(format: str, tags: dict | None = None, inner: dict | None = None, **options) -> bytes:
    """Return the content of an image file with EXIF tags, and tags of the IFD inside."""
    exif = Image.Exif()
    exif.update(tags or {})
    exif.get_ifd(EXIF_IFD).update(inner or {})
    file = BytesIO()
    IMAGE.save(file, format, exif=exif, **options)
    return file.getvalue()


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WebP"])
def test_camera_and_focal_length_are_read(format):
    content = encoded(format, {MAKE: "Maker", MODEL: "Phone 1"}, {FOCAL: 4.25, FOCAL_35MM: 26})
    assert read_header(BytesIO(content)).lens == Lens("Maker Phone 1", 4.25, 26.0)


def test_a_focal_length_of_film_is_converted_by_the_diagonal():
    lens = Lens("", 0.0, 50.0)
    assert lens.focal_px(3600, 2400) == pytest.approx(5000)  # an image of the shape of film
    assert lens.focal_px(4000, 3000) == lens.focal_px(3000, 4000) == pytest.approx(5778, abs=1)


@pytest.mark.parametrize("inner", [{}, {FOCAL_35MM: 0}, {FOCAL_35MM: 65535}, {FOCAL: 4.25}])
def test_a_focal_length_that_is_not_stated_is_unknown(inner):
    lens = read_header(BytesIO(encoded("JPEG", {MODEL: "Phone 1"}, inner))).lens
    assert lens.focal_px(4000, 3000) is None


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WebP", "TIFF"])
def test_an_image_without_exif_data_has_no_lens(format):
    assert read_header(BytesIO(encoded(format))).lens is None


@pytest.mark.parametrize("format", ["JPEG", "WebP"])
def test_damaged_exif_data_are_ignored(format):
    content = encoded(format, {MODEL: "Phone 1"})
    header = read_header(BytesIO(content.replace(b"MM\0*", b"MMMM").replace(b"II*\0", b"IIII")))
    assert (header.width, header.height, header.orientation, header.lens) == (60, 40, 1, None)


@pytest.mark.parametrize(
    "options", [{"lossless": True}, {"quality": 80}, {"lossless": True, "exif": b"Exif\0\0"}]
)
def test_the_size_of_every_kind_of_webp_is_read(options):
    file = BytesIO()
    IMAGE.save(file, "WebP", **options)
    header = read_header(file := BytesIO(file.getvalue()))
    assert header.size(upright=False) == (60, 40)


def large_webp() -> bytes:
    """Return WebP whose header states 16384x16384 px."""
    content = bytearray(encoded("WebP", {MODEL: "Phone 1"}))
    assert content[12:16] == b"VP8X"
    content[24:30] = (16383).to_bytes(3, "little") * 2
    return bytes(content)


def large_tiff() -> bytes:
    """Return TIFF whose header states 16000x60000 px."""
    content = encoded("TIFF")
    start = content.index(struct.pack("<HHI", 0x100, 4, 1))  # entry of the width
    height = content.index(struct.pack("<HHI", 0x101, 4, 1)) + 8
    content = bytearray(content)
    content[start + 8 : start + 12] = struct.pack("<I", 16000)
    content[height : height + 4] = struct.pack("<I", 60000)
    return bytes(content)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("make", [large_webp, large_tiff])
def test_an_image_of_too_many_pixels_is_rejected_by_its_header(tmp_path, make):
    (tmp_path / "a").write_bytes(make())
    with pytest.raises(SceneError, match="is 16.* px, expected at most 16384 px per side"):
        read_image(tmp_path / "a")


def test_chunks_of_webp_are_not_read_without_end():
    file = BytesIO(encoded("WebP") + 1_000_000 * b"JUNK\2\0\0\0??")
    assert read_header(file).format == "WebP"
    assert file.tell() < 200_000


@pytest.mark.parametrize("format", ["WebP", "TIFF", "GIF", "BMP"])
def test_compressed_images_of_ros_are_jpeg_or_png(format):
    file = BytesIO()
    IMAGE.save(file, format)
    assert encoded_size(file.getvalue()) is None
    with pytest.raises(ImageError, match="is damaged or no image"):
        decode_image(file.getvalue(), 1)


@pytest.mark.parametrize(("rows_per_strip", "rows"), [(8, 8), (1 << 30, 40)])
def test_bytes_of_a_strip_of_a_tiff(rows_per_strip, rows):
    content = encoded("TIFF", tiffinfo={0x116: rows_per_strip})
    assert read_header(BytesIO(content)).block_bytes == 60 * rows * 3


def test_bytes_of_a_tile_of_a_tiff():
    tags = {0x102: (16, 16, 16), 0x115: 3, 0x142: 32, 0x143: 16}
    assert image_headers._block_bytes(tags, 60, 40) == 32 * 16 * 3 * 2
