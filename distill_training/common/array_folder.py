"""Folders that grow file by file: an index of what they hold, then arrays of known shapes."""

import json
import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import DTypeLike

from mote_localization.errors import ReconstructionError
from mote_localization.files import atomic_write

_MAX_INDEX_BYTES = 256 << 20
_MAX_OPEN_BYTES = 256 << 20  # of an array whose shape is not known beforehand
_MAX_HEADER_BYTES = 4096  # of an array's file

# What numpy and zipfile raise at files that are damaged, encrypted, or claim to be vast.
_DAMAGED = (
    OSError,
    ValueError,
    KeyError,
    EOFError,
    MemoryError,
    RuntimeError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)

Shape = tuple[int, ...]


def begin_folder(path: Path, index: dict) -> None:
    """Write the index of a folder; where there is one, check that it says the same, to go on.

    Args:
        path: The index's file.
        index: What decides the folder's content, in JSON's own types.

    Raises:
        ReconstructionError: The folder was begun with another index, or cannot be written.
    """
    if path.exists():
        if read_index(path) != index:
            raise ReconstructionError(
                f"{path.parent}: holds a reconstruction made with other frames or settings; "
                "delete the folder or choose another"
            )
        return
    try:
        with atomic_write(path) as file:
            file.write(json.dumps(index, indent=1).encode())
    except OSError as error:
        raise ReconstructionError(f"{path}: cannot be written ({error.strerror})") from error


def read_index(path: Path) -> dict:
    """Read the index of a folder.

    Raises:
        ReconstructionError: There is none, or it is damaged.
    """
    try:
        if path.stat().st_size > _MAX_INDEX_BYTES:
            raise ReconstructionError(
                f"{path}: over {_MAX_INDEX_BYTES >> 20} MiB, expected an index"
            )
        index = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ReconstructionError(
            f"{path}: cannot be read ({error}); expected a folder made by `mote-distill "
            "reconstruct`"
        ) from error
    if not isinstance(index, dict):
        raise ReconstructionError(f"{path}: found a {type(index).__name__}, expected an index")
    return index


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays into one file, whole or not at all.

    Raises:
        ReconstructionError: The file cannot be written.
    """
    try:
        with atomic_write(path) as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
    except OSError as error:
        raise ReconstructionError(f"{path}: cannot be written ({error.strerror})") from error


def read_arrays(
    path: Path, expected: Mapping[str, tuple[Shape | None, DTypeLike]], what: str
) -> dict[str, np.ndarray]:
    """Read arrays of a file, refusing what is larger than it can be before it is in memory.

    Args:
        path: The file.
        expected: The arrays to read: name -> shape, None where it is not known beforehand, and
            type.
        what: What the file holds, for the message.

    Raises:
        ReconstructionError: The file is missing, damaged, or holds other arrays.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            for key, (shape, kind) in expected.items():
                most = _MAX_OPEN_BYTES
                if shape is not None:
                    most = int(np.prod(shape)) * np.dtype(kind).itemsize + _MAX_HEADER_BYTES
                if archive.getinfo(f"{key}.npy").file_size > most:
                    raise ReconstructionError(
                        f"{path}: {key} is larger than a {what} of this reconstruction"
                    )
        with np.load(path, allow_pickle=False) as arrays:
            values = {key: arrays[key] for key in expected}
    except _DAMAGED as error:
        raise ReconstructionError(
            f"{path}: missing or damaged ({error}); delete it where it exists and run "
            "`mote-distill reconstruct` again to complete it"
        ) from error
    for key, (shape, kind) in expected.items():
        value = values[key]
        if value.dtype != kind or (shape is not None and value.shape != shape):
            raise ReconstructionError(
                f"{path}: found {key} of shape {value.shape} {value.dtype}, expected "
                f"{'any shape' if shape is None else shape} {np.dtype(kind)}"
            )
    return values
