"""Raw image buffers to RGB."""

import array
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from mote_localization.errors import ImageError
from mote_localization.images import ENCODINGS, MAX_SIDE_PX
from mote_localization.images import decode as decode_message

HEIGHT, WIDTH = 6, 8
RGB = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
GRAY = RGB[..., :1]


def flat(image_hwc, padding=0):
    """Return the bytes and the step of an image with `padding` bytes after each row."""
    rows = np.ascontiguousarray(image_hwc).view(np.uint8).reshape(len(image_hwc), -1)
    rows = np.pad(rows, ((0, 0), (0, padding)), constant_values=77)
    return rows.tobytes(), rows.shape[1]


def decode(encoding, height, width, step, data, is_bigendian=False):
    """Decode a message with these fields."""
    return decode_message(SimpleNamespace(**locals()))


def alpha(image_hw3):
    return np.dstack([image_hw3, np.full(image_hw3.shape[:2], 9, np.uint8)])


@pytest.mark.parametrize(
    ("encoding", "raw", "expected"),
    [
        ("rgb8", RGB, RGB),
        ("bgr8", RGB[..., ::-1], RGB),
        ("8UC3", RGB[..., ::-1], RGB),
        ("rgba8", alpha(RGB), RGB),
        ("bgra8", alpha(RGB[..., ::-1]), RGB),
        ("8UC4", alpha(RGB[..., ::-1]), RGB),
        ("mono8", GRAY, GRAY.repeat(3, 2)),
        ("8UC1", GRAY, GRAY.repeat(3, 2)),
        ("mono16", GRAY.astype("<u2") * 257, GRAY.repeat(3, 2)),
        ("rgb16", RGB.astype("<u2") * 257, RGB),
        ("bgr16", RGB[..., ::-1].astype("<u2") * 257, RGB),
    ],
)
@pytest.mark.parametrize("padding", [0, 6])
def test_encodings_without_loss_are_decoded_exactly(encoding, raw, expected, padding):
    data, step = flat(raw, padding)
    decoded = decode(encoding, HEIGHT, WIDTH, step, data)
    assert decoded.dtype == np.uint8
    np.testing.assert_array_equal(decoded, expected)


@pytest.mark.parametrize("bits", [10, 12, 14])
def test_grey_of_fewer_than_16_bits_keeps_its_brightness(bits):
    full = (1 << bits) - 1
    grey = np.array([[0, 64, 128, 255]] * HEIGHT, np.float64)
    data, step = flat((grey / 255 * full).round().astype("<u2")[..., None])
    decoded = decode("mono16", HEIGHT, 4, step, data)
    assert np.abs(decoded[..., 0].astype(int) - grey).max() <= 1


def test_big_endian_values_are_decoded():
    data, step = flat(GRAY.astype(">u2") * 257)
    np.testing.assert_array_equal(
        decode("mono16", HEIGHT, WIDTH, step, data, is_bigendian=True), GRAY.repeat(3, 2)
    )


@pytest.mark.parametrize("make", [bytes, lambda b: array.array("B", b), np.array])
def test_decoded_rgb8_is_a_view_of_the_buffer(make):
    raw = make(RGB.tobytes()) if make is not np.array else np.frombuffer(RGB.tobytes(), np.uint8)
    decoded = decode("rgb8", HEIGHT, WIDTH, WIDTH * 3, raw)
    assert np.shares_memory(decoded, np.frombuffer(raw, np.uint8))


@pytest.mark.parametrize(
    ("encoding", "pixel_pair"),
    [
        ("yuv422", [90, 120, 200, 120]),
        ("uyvy", [90, 120, 200, 120]),
        ("yuv422_yuy2", [120, 90, 120, 200]),
        ("yuyv", [120, 90, 120, 200]),
    ],
)
def test_yuv422_byte_orders_are_decoded(encoding, pixel_pair):
    # ITU-R BT.601, studio range, as V4L2 cameras send it: y 120, u 90, v 200
    expected = np.array([1.164 * 104 + 1.596 * 72, 1.164 * 104 - 0.392 * -38 - 0.813 * 72,
                         1.164 * 104 + 2.017 * -38])  # fmt: skip
    data = bytes(pixel_pair) * (WIDTH // 2) * HEIGHT
    decoded = decode(encoding, HEIGHT, WIDTH, WIDTH * 2, data)
    assert np.abs(decoded - expected).max() <= 1


@pytest.mark.parametrize(("encoding", "chroma"), [("nv12", [90, 200]), ("nv21", [200, 90])])
@pytest.mark.parametrize("padding", [0, 6])
def test_rows_of_chroma_values_are_decoded(encoding, chroma, padding):
    expected = decode("yuyv", HEIGHT, WIDTH, 2 * WIDTH, bytes([120, 90, 120, 200]) * 4 * HEIGHT)
    rows = np.vstack([np.full((HEIGHT, WIDTH), 120), np.tile(chroma, (HEIGHT // 2, WIDTH // 2))])
    data, step = flat(rows.astype(np.uint8)[..., None], padding)
    decoded = decode(encoding, HEIGHT, WIDTH, step, data)
    assert np.abs(decoded.astype(int) - expected).max() <= 1


@pytest.mark.parametrize("pattern", ["rggb", "bggr", "gbrg", "grbg"])
def test_bayer_patterns_are_decoded(pattern):
    colour = {"r": 200, "g": 120, "b": 40}
    tile = np.array([colour[c] for c in pattern], np.uint8).reshape(2, 2)
    data, step = flat(np.tile(tile, (HEIGHT // 2, WIDTH // 2))[..., None])
    inner = decode(f"bayer_{pattern}8", HEIGHT, WIDTH, step, data)[1:-1, 1:-1]
    assert (inner == [200, 120, 40]).all()


def test_flattened_opencv_images_are_decoded():
    row = cv2.cvtColor(RGB, cv2.COLOR_RGB2BGR)[2:5]
    np.testing.assert_array_equal(decode("bgr8", 3, WIDTH, WIDTH * 3, row.reshape(-1)), RGB[2:5])


@pytest.mark.parametrize(
    ("encoding", "height", "width", "step", "size", "words"),
    [
        ("jpeg", 2, 2, 6, 12, "'jpeg' is not supported"),
        ("16UC1", 2, 2, 4, 8, "'16UC1' is not supported"),
        ("rgb8", 0, 0, 0, 0, "empty"),
        ("rgb8", 2, 2, 5, 12, "step is 5 bytes, expected at least 6"),
        ("mono16", 2, 2, 2, 12, "step is 2 bytes, expected at least 4"),
        ("rgb8", 2, 2, 6, 11, "data has 11 bytes, expected 12"),
        ("rgb8", 2, 2, 6, 0, "data has 0 bytes, expected 12"),
        ("yuv422", 2, 3, 6, 12, "odd"),
        ("nv12", 3, 2, 2, 12, "height 3 is odd"),
        ("nv12", 4, 2, 2, 11, "data has 11 bytes, expected 12 .6 rows"),
        ("rgb8", 1, MAX_SIDE_PX + 1, 2**31, 12, "at most"),
        ("rgb8", 2**32 - 1, 2**32 - 1, 2**32 - 1, 12, "at most"),
    ],
)
def test_invalid_images_are_refused(encoding, height, width, step, size, words):
    with pytest.raises(ImageError, match=words):
        decode(encoding, height, width, step, bytes(size))


def test_message_about_a_long_encoding_name_is_short():
    with pytest.raises(ImageError) as caught:
        decode("x" * 10_000, 2, 2, 6, bytes(12))
    assert len(str(caught.value)) <= 300


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_every_encoding_is_decoded_to_rgb8(encoding):
    decoded = decode(encoding, 4, 4, 24, bytes(range(144)))
    assert decoded.shape == (4, 4, 3)
    assert decoded.dtype == np.uint8
