"""The bytes of an ONNX file before it is parsed: values are many, everything else must be few.

Parsed, two bytes of an empty node take 150 bytes of memory. Values of weights stay as they are.
"""

from contextlib import suppress
from typing import Any

from mote_localization.errors import MapFileError

_MAX_STRUCTURE_BYTES = 1 << 20  # of all but values; maps have up to 60 kB
_VARINT, _BYTES = 0, 2  # wire types of protobuf
_SIZES = {_VARINT: 0, 1: 8, _BYTES: 0, 5: 4}  # bytes after the tag, and after the length
_VALUES: dict[int, Any] = {}
# Numbers of the fields that lead to values in onnx.proto: raw_data of a TensorProto; node and
# initializer of a GraphProto; graph, metadata_props and training_info of a ModelProto.
_TENSOR = {9: _VALUES}
_GRAPH = {1: {5: {5: _TENSOR}}, 5: _TENSOR}
_MODEL = {7: _GRAPH, 14: {2: _VALUES}, 20: {1: _GRAPH}}


def check_structure(content: bytes) -> None:
    """Check that an ONNX file takes little more memory than its size when it is parsed.

    A truncated file is checked up to its end.

    Raises:
        MapFileError: It takes more, or is no ONNX file.
    """
    with suppress(IndexError):
        _structure(memoryview(content), _MODEL, _MAX_STRUCTURE_BYTES)


def _structure(message: memoryview, fields: dict[int, Any], most: int) -> int:
    """Return the bytes of a message of protobuf without its values.

    Args:
        message: The encoded message (protobuf.dev/programming-guides/encoding).
        fields: Numbers of the fields that contain values -> the fields in them.
        most: Largest number of bytes.
    """
    at, values = 0, 0
    while at < len(message):
        tag, at = _varint(message, at)
        number, kind = tag >> 3, tag & 7
        if kind not in _SIZES:
            raise MapFileError("is no ONNX file; copy the map again, or make it again")
        size = _SIZES[kind]
        if kind == _VARINT:
            _, at = _varint(message, at)
        elif kind == _BYTES:
            size, at = _varint(message, at)
            inner = fields.get(number)
            if inner is _VALUES:
                values += size
            elif inner:
                part = message[at : at + size]
                values += len(part) - _structure(part, inner, most + values - at)
        at += size
        if at - values > most:
            raise MapFileError(
                f"has over {_MAX_STRUCTURE_BYTES >> 20} MiB beside the values of its weights, "
                "expected less; make the map again"
            )
    return at - values


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """Return an integer of variable length, and the position behind it."""
    value, shift = 0, 0
    while True:
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80 or shift >= 70:
            return value, at
