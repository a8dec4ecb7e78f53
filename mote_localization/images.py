"""Decoding of raw image buffers (`sensor_msgs/Image`) to RGB arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from mote_localization.errors import ImageError

# Of cameras whose 16-bit values use fewer bits; scaled as 16 bits, they would be almost black.
_SENSOR_BITS = (10, 12, 14)
MAX_SIDE_PX = 16384  # of an image; larger sizes are mistakes and would fill the memory


@dataclass(frozen=True)
class _Encoding:
    channels: int  # values per pixel
    code: int | None = None  # cv2 colour conversion to RGB; None: the buffer is RGB already
    dtype: str = "u1"  # of a value; 16-bit values are scaled to 8 bits
    even: bool = False  # the width must be even: two pixels have one chroma value
    chroma_rows: bool = False  # half as many rows of chroma values follow those of the brightness


# Names from sensor_msgs/image_encodings.hpp. 8UC3 and 8UC4 have OpenCV's channel order, BGR.
# OpenCV names a Bayer pattern by its second row, ROS by its first.
ENCODINGS = {
    "rgb8": _Encoding(3),
    "bgr8": _Encoding(3, cv2.COLOR_BGR2RGB),
    "rgba8": _Encoding(4, cv2.COLOR_RGBA2RGB),
    "bgra8": _Encoding(4, cv2.COLOR_BGRA2RGB),
    "mono8": _Encoding(1, cv2.COLOR_GRAY2RGB),
    "mono16": _Encoding(1, cv2.COLOR_GRAY2RGB, "u2"),
    "rgb16": _Encoding(3, None, "u2"),
    "bgr16": _Encoding(3, cv2.COLOR_BGR2RGB, "u2"),
    "8UC1": _Encoding(1, cv2.COLOR_GRAY2RGB),
    "8UC3": _Encoding(3, cv2.COLOR_BGR2RGB),
    "8UC4": _Encoding(4, cv2.COLOR_BGRA2RGB),
    "yuv422": _Encoding(2, cv2.COLOR_YUV2RGB_UYVY, even=True),
    "uyvy": _Encoding(2, cv2.COLOR_YUV2RGB_UYVY, even=True),
    "yuv422_yuy2": _Encoding(2, cv2.COLOR_YUV2RGB_YUY2, even=True),
    "yuyv": _Encoding(2, cv2.COLOR_YUV2RGB_YUY2, even=True),
    "nv12": _Encoding(1, cv2.COLOR_YUV2RGB_NV12, even=True, chroma_rows=True),
    "nv21": _Encoding(1, cv2.COLOR_YUV2RGB_NV21, even=True, chroma_rows=True),
    "bayer_rggb8": _Encoding(1, cv2.COLOR_BayerBG2RGB),
    "bayer_bggr8": _Encoding(1, cv2.COLOR_BayerRG2RGB),
    "bayer_gbrg8": _Encoding(1, cv2.COLOR_BayerGR2RGB),
    "bayer_grbg8": _Encoding(1, cv2.COLOR_BayerGB2RGB),
}


# Depth along the optical axis (REP 118): millimetres as integers, metres as floats.
DEPTH_ENCODINGS = {
    "16UC1": _Encoding(1, dtype="u2"),
    "mono16": _Encoding(1, dtype="u2"),
    "32FC1": _Encoding(1, dtype="f4"),
}


def decode(message: Any) -> np.ndarray:
    """Decode a sensor_msgs/Image, as rclpy or rosbags read it, with an encoding of `ENCODINGS`.

    Returns:
        image_hw3, RGB uint8. For `rgb8` it is a view of the message's data, read-only if these are.

    Raises:
        ImageError: The encoding is unknown, the image is empty or too large, or size, step and data
            do not fit each other.
    """
    pixels, layout = _pixels(message, ENCODINGS)
    if pixels.dtype.itemsize == 2:
        values = pixels.astype(np.uint16)
        largest = int(values.max())
        bits = next((bits for bits in _SENSOR_BITS if largest < 1 << bits), 16)
        pixels = cv2.convertScaleAbs(values, alpha=255 / ((1 << bits) - 1))
    return pixels if layout.code is None else cv2.cvtColor(pixels, layout.code)


def decode_depth(message: Any) -> np.ndarray:
    """Decode a sensor_msgs/Image of depths, with an encoding of `DEPTH_ENCODINGS`.

    Returns:
        depth_hw, float32 metres; 0 where there is no depth.

    Raises:
        ImageError: As `decode`.
    """
    pixels, _ = _pixels(message, DEPTH_ENCODINGS)
    return depth_in_metres(pixels[..., 0])


def depth_in_metres(depth_hw: np.ndarray) -> np.ndarray:
    """Return depths in metres, float32: integers are millimetres; NaN and infinity become 0."""
    if depth_hw.dtype.kind == "u":
        return depth_hw.astype(np.float32) * np.float32(0.001)
    return np.where(np.isfinite(depth_hw) & (depth_hw > 0), depth_hw, 0).astype(np.float32)


def _pixels(message: Any, encodings: dict[str, _Encoding]) -> tuple[np.ndarray, _Encoding]:
    """Return a view (h, w, channels) of the message's data, and its encoding."""
    encoding, height, width, step = message.encoding, message.height, message.width, message.step
    layout = encodings.get(encoding)
    if layout is None:
        raise ImageError(
            f"image: encoding '{encoding[:20]}' is not supported, expected one of "
            f"{', '.join(encodings)}"
        )
    if height < 1 or width < 1:
        raise ImageError(f"image: it is empty ({width}x{height} px)")
    if height > MAX_SIDE_PX or width > MAX_SIDE_PX:
        raise ImageError(f"image: found {width}x{height} px, expected at most {MAX_SIDE_PX} a side")
    if layout.even and width % 2:
        raise ImageError(f"image: width {width} is odd, '{encoding}' needs an even width")
    if layout.chroma_rows and height % 2:
        raise ImageError(f"image: height {height} is odd, '{encoding}' needs an even height")
    rows = height + height // 2 if layout.chroma_rows else height
    dtype = np.dtype(layout.dtype).newbyteorder(">" if message.is_bigendian else "<")
    row_bytes = width * layout.channels * dtype.itemsize
    if step < row_bytes:
        raise ImageError(
            f"image: step is {step} bytes, expected at least {row_bytes} "
            f"({width} pixels of '{encoding}')"
        )
    buffer = np.frombuffer(message.data, np.uint8)
    if buffer.size < rows * step:
        raise ImageError(
            f"image: data has {buffer.size} bytes, expected {rows * step} "
            f"({rows} rows of {step} bytes)"
        )
    pixels = np.ndarray(
        (rows, width, layout.channels),
        dtype,
        buffer,
        strides=(step, layout.channels * dtype.itemsize, dtype.itemsize),
    )
    return pixels, layout
