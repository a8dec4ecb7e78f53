"""Bundles of the painted room: submaps that look at different walls, and a copy of one."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from make_map import write_constant_map
from make_painted_room import keyframe, shifted

from mote_localization.bundles import write_bundle
from mote_localization.map_file import read_map, write_map
from mote_localization.map_transform import FrameChange, transform_map

COPY = np.eye(4)  # from a submap to its copy
COPY[0, 3] = 20.0


def view(turn: float) -> np.ndarray:
    """Return the pose of a camera in the room that is turned to the right, rad."""
    return shifted(0, 0, 0, omega=(0, turn, 0))


def map_at(path: Path, turn: float, repainted_m: float = -np.inf) -> bytes:
    """Write a map with keyframes about a view, which its network always predicts."""
    plain = read_map(write_constant_map(path, view(turn)))
    keyframes = tuple(
        keyframe(view(turn + step), repainted_m=repainted_m) for step in (-0.4, 0, 0.4)
    )
    info = replace(plain.info, scene=path.stem, keyframes=keyframes)
    write_map(path, onnx.load_model_from_string(plain.model), info)
    return path.read_bytes()


def copy_of(path: Path, copied: Path) -> bytes:
    """Write a map of a room that looks the same, elsewhere."""
    write_map(copied, *transform_map(read_map(path), FrameChange(COPY), metric=True))
    return copied.read_bytes()


def write_rooms(folder: Path) -> Path:
    """Write a bundle of a front and a rear, which are one room, and of a copy of the front."""
    maps = {"front": map_at(folder / "front.onnx", 0.0), "rear": map_at(folder / "rear.onnx", 0.9)}
    maps["copy"] = copy_of(folder / "front.onnx", folder / "copy.onnx")
    path = folder / "rooms.mote"
    write_bundle(path, "rooms", maps)
    return path
