"""The map file: one ONNX model, image in, points and sigma out, with its description as metadata.

Inputs and outputs (fixed shapes, W x H the canonical camera's size, s the stride):

    image   uint8   (1, H, W, 3)       RGB of the canonical camera
    points  float32 (1, H/s, W/s, 3)   metres in the map frame; in a map with drift, in the frame
                                       of the adjusted poses, see `mote_localization.drift`
    sigma   float32 (1, H/s, W/s)      metres, the expected error of each point

Keyframes are a tensor beside the graph, which backends do not read; see `map_metadata`.
"""

from dataclasses import dataclass
from pathlib import Path

import onnx

from mote_localization.errors import MapFileError
from mote_localization.files import atomic_write
from mote_localization.input_files import read_input
from mote_localization.map_graph import check_graph
from mote_localization.map_info import UNKNOWN_SCALE, MapInfo
from mote_localization.map_metadata import (
    FORMAT_VERSION,
    check_checksum,
    read_metadata,
    write_metadata,
)
from mote_localization.onnx_bytes import check_structure

__all__ = [
    "BUNDLE_SUFFIX",
    "FORMAT_VERSION",
    "MAX_MAP_BYTES",
    "UNKNOWN_SCALE",
    "MapFile",
    "MapInfo",
    "parse_map",
    "read_map",
    "write_map",
]

MAX_MAP_BYTES = 128 << 20
BUNDLE_SUFFIX = ".mote"  # see `mote_localization.bundles`


@dataclass(frozen=True)
class MapFile:
    """A map that was read and checked."""

    path: Path
    info: MapInfo
    model: bytes  # the ONNX model, for a backend


def write_map(path: Path | str, model: onnx.ModelProto, info: MapInfo) -> None:
    """Write a student and its description as one map file.

    Raises:
        MapFileError: The model does not have a map's form, or the file cannot be written; an
            existing file is unchanged.
    """
    described = onnx.ModelProto()
    described.CopyFrom(model)
    try:
        write_metadata(described, info)
        check_graph(described, info)
    except MapFileError as error:
        raise MapFileError(f"{path}: {error}") from error
    with atomic_write(path, MapFileError, "; an existing file is unchanged") as file:
        file.write(described.SerializeToString())


def read_map(path: Path | str) -> MapFile:
    """Read a map file and check all of it.

    Raises:
        MapFileError: The file is missing, truncated, not an ONNX file, not a map, of a newer
            format, or does not have a map's form.
    """
    path = Path(path)
    if path.suffix == BUNDLE_SUFFIX:
        raise MapFileError(
            f"{path}: is a bundle of several maps, expected one map (.onnx); `mote inspect`, "
            "`localize`, `evaluate`, `cloud` and the node take bundles"
        )
    try:
        content = read_input(path, MAX_MAP_BYTES)
    except OSError as error:
        raise MapFileError(
            f"{path}: cannot be read ({error.strerror}); expected a map made by `mote-distill map`"
        ) from error
    return parse_map(content, path)


def parse_map(content: bytes, path: Path) -> MapFile:
    """Check the content of a map file.

    Args:
        content: The whole file.
        path: Names it in errors.

    Raises:
        MapFileError: As of `read_map`.
    """
    if not content:
        raise MapFileError(f"{path}: is empty, expected a map made by `mote-distill map`")
    try:
        check_structure(content)
        model = onnx.load_model_from_string(content)
    except MapFileError as error:
        raise MapFileError(f"{path}: {error}") from error
    except Exception as error:  # protobuf's DecodeError has no stable import path
        raise MapFileError(
            f"{path}: is no ONNX file or is truncated ({len(content)} bytes); copy it again, or "
            "make it again with `mote-distill map`"
        ) from error
    try:
        info = read_metadata(model)
        check_graph(model, info)
        check_checksum(model)
    except MapFileError as error:
        raise MapFileError(f"{path}: {str(error)[:300]}") from error
    except UnicodeDecodeError as error:
        raise MapFileError(
            f"{path}: a name in its graph is no UTF-8 text; copy the map again, or make it again"
        ) from error
    return MapFile(path, info, content)
