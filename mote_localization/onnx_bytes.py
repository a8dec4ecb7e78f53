"""Limit of the structure of an ONNX file: of all its bytes but the values of weights.

Structure takes far more memory when it is parsed: an empty node has two bytes in the file and 150
in memory. Values take the same memory as in the file. So the limit is checked before parsing.
"""

from contextlib import suppress
from typing import Any

from mote_localization.errors import MapFileError

_MAX_STRUCTURE_BYTES = 1 << 20  # maps have up to 60 kB
_VARINT, _BYTES = 0, 2  # wire types of protobuf
_FIXED_BYTES = {_VARINT: 0, 1: 8, _BYTES: 0, 5: 4}  # bytes after the tag, and after the length
_VALUES: dict[int, Any] = {}
# Numbers of the fields that lead to values in onnx.proto: raw_data of a TensorProto; node and
# initializer of a GraphProto; graph, metadata_props and training_info of a ModelProto.
_TENSOR_FIELDS = {9: _VALUES}
_GRAPH_FIELDS = {1: {5: {5: _TENSOR_FIELDS}}, 5: _TENSOR_FIELDS}
_MODEL_FIELDS = {7: _GRAPH_FIELDS, 14: {2: _VALUES}, 20: {1: _GRAPH_FIELDS}}


def check_structure(content: bytes) -> None:
    """Check that an ONNX file takes little more memory than its size when it is parsed.

    A truncated file is checked up to its end.

    Raises:
        MapFileError: It takes more, or is no ONNX file.
    """
    with suppress(IndexError):
        _structure_bytes(memoryview(content), _MODEL_FIELDS, _MAX_STRUCTURE_BYTES)


def _structure_bytes(message: memoryview, fields: dict[int, Any], max_bytes: int) -> int:
    """Return the bytes of a message of protobuf without its values.

    Args:
        message: The encoded message (protobuf.dev/programming-guides/encoding).
        fields: Numbers of the fields that contain values -> the fields in them.
        max_bytes: Largest number of these bytes.
    """
    position, values = 0, 0
    while position < len(message):
        tag, position = _varint(message, position)
        number, kind = tag >> 3, tag & 7
        if kind not in _FIXED_BYTES:
            raise MapFileError("is no ONNX file; copy the map again, or make it again")
        size = _FIXED_BYTES[kind]
        if kind == _VARINT:
            _, position = _varint(message, position)
        elif kind == _BYTES:
            size, position = _varint(message, position)
            inner = fields.get(number)
            if inner is _VALUES:
                values += size
            elif inner:
                part = message[position : position + size]
                values += len(part) - _structure_bytes(part, inner, max_bytes + values - position)
        position += size
        if position - values > max_bytes:
            raise MapFileError(
                f"has over {_MAX_STRUCTURE_BYTES >> 20} MiB beside the values of its weights, "
                "expected less; make the map again"
            )
    return position - values


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    """Return an integer of variable length, and the position behind it."""
    value, shift = 0, 0
    while True:
        byte = message[position]
        value |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if byte < 0x80 or shift >= 70:
            return value, position
