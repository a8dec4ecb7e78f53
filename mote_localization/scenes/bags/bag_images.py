"""Decodes the images and depths of recordings: raw, JPEG, PNG, and compressedDepth."""

from __future__ import annotations

import struct
from typing import Any, NamedTuple

import cv2
import numpy as np

from mote_localization.errors import ImageError
from mote_localization.image_files import decode_compressed, decode_image, encoded_size
from mote_localization.images import (
    DEPTH_ENCODINGS,
    decode,
    decode_depth,
    depth_in_metres,
)
from mote_localization.scenes.bags.bag_messages import COMPRESSED, IMAGE

_DEPTH_HEADER = struct.Struct("<iff")  # format, depthQuantA, depthQuantB


class ImageKind(NamedTuple):
    """What the first message of a topic shows."""

    frame_id: str
    size: tuple[int, int] | None  # width and height, px; None: not in the header
    holds_depth: bool  # depths that `depth_of` reads


def kind_of(message: Any, msgtype: str, topic: str = "") -> ImageKind:
    """Return what an image message is, without decoding it.

    Args:
        message: sensor_msgs/Image or sensor_msgs/CompressedImage.
        msgtype: Its type.
        topic: Its topic. 16-bit grey is depth if the name says so.
    """
    frame_id, named_depth = message.header.frame_id.lstrip("/"), "depth" in topic.lower()
    if msgtype == IMAGE:
        depth = message.encoding in DEPTH_ENCODINGS and (
            message.encoding != "mono16" or named_depth
        )
        return ImageKind(frame_id, (message.width, message.height), depth)
    if _is_compressed_depth(message):
        content = message.data[_DEPTH_HEADER.size :].tobytes()
        return ImageKind(frame_id, encoded_size(content), True)
    depth = named_depth and message.format.split(";")[0].strip() in DEPTH_ENCODINGS
    return ImageKind(frame_id, encoded_size(message.data.tobytes()), depth)


def image_of(message: Any, msgtype: str) -> np.ndarray:
    """Return image_hw3, RGB uint8, of a sensor_msgs/Image or sensor_msgs/CompressedImage.

    Raises:
        ImageError: The image is damaged, too large, or of an encoding that is not supported.
    """
    return decode_compressed(message) if msgtype == COMPRESSED else decode(message)


def depth_of(message: Any, msgtype: str) -> np.ndarray:
    """Return depth_hw, float32 metres, 0 where there is none.

    Raises:
        ImageError: The image is damaged, too large, or of an encoding that is not supported.
    """
    if msgtype != COMPRESSED:
        return decode_depth(message)
    content = message.data.tobytes()
    encoding = message.format.split(";")[0].strip()
    quant_a = quant_b = 0.0
    if _is_compressed_depth(message):
        if "rvl" in message.format.lower():
            raise ImageError(
                "is compressed depth of the format RVL, expected PNG; record it with the parameter "
                "format of compressed_depth_image_transport set to png"
            )
        if len(content) < _DEPTH_HEADER.size:
            raise ImageError(f"is compressed depth of {len(content)} bytes, too few for its header")
        _, quant_a, quant_b = _DEPTH_HEADER.unpack_from(content)
        content = content[_DEPTH_HEADER.size :]
    values_hw = decode_image(content, cv2.IMREAD_UNCHANGED)
    if values_hw.dtype != np.uint16 or values_hw.ndim != 2:
        raise ImageError(
            f"is compressed depth of {values_hw.dtype} with {values_hw.ndim} dimensions, expected "
            "16-bit grey"
        )
    if encoding != "32FC1":
        return depth_in_metres(values_hw)
    # compressed_depth_image_transport, codec.cpp: inverse depths are stored; 0 is no depth
    with np.errstate(divide="ignore"):
        depth_hw = np.float32(quant_a) / (values_hw - np.float32(quant_b))
    return depth_in_metres(np.where(values_hw > 0, depth_hw, 0))


def _is_compressed_depth(message: Any) -> bool:
    return "compressedDepth" in message.format
