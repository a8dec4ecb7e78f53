"""Coloured points as PLY files, which viewers of point clouds read."""

from pathlib import Path

import numpy as np

from mote_localization.errors import MoteError
from mote_localization.files import atomic_write

_VERTEX = np.dtype([("xyz", "<f4", 3), ("rgb", "u1", 3)])


def write_ply(
    path: Path, points_n3: np.ndarray, colours_n3: np.ndarray, error: type[MoteError] = MoteError
) -> None:
    """Write a binary PLY file of points.

    Args:
        path: The file; an existing one is replaced only on success.
        points_n3: Positions.
        colours_n3: RGB, uint8.
        error: Raised if the file cannot be written.

    Raises:
        MoteError: The file cannot be written.
    """
    vertices = np.empty(len(points_n3), _VERTEX)
    vertices["xyz"], vertices["rgb"] = points_n3, colours_n3
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(vertices)}"]
    header += [f"property float {axis}" for axis in "xyz"]
    header += [f"property uchar {colour}" for colour in ("red", "green", "blue")]
    with atomic_write(path, error) as file:
        file.write("\n".join([*header, "end_header\n"]).encode())
        file.write(vertices.data)
