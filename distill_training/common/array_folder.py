"""Folders that are written file by file: a JSON index, then files of arrays."""

import json
import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from tokenize import TokenError

import numpy as np
from numpy.typing import DTypeLike

from mote_localization.errors import ReconstructionError
from mote_localization.files import atomic_write
from mote_localization.input_files import check_input, read_input

_MAX_INDEX_BYTES = 16 << 20  # parsed, it may take 20 times as much memory
_MAX_ARRAY_BYTES = 256 << 20  # of an array of any shape
_MAX_HEADER_BYTES = 4096  # of an array's file
_SHOWN = 80  # characters of a library's error, or of a shape, that a message quotes

# Raised by numpy and zipfile for damaged or encrypted files, and for files of enormous arrays.
DAMAGED = (
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
# Raised by numpy for headers of arrays that it cannot parse, besides ValueError.
BAD_HEADER = (TypeError, LookupError, SyntaxError, TokenError)

Shape = tuple[int, ...]


def begin_folder(path: Path, index: dict) -> None:
    """Write the index of a folder, or check that an existing one is equal, to resume that run.

    Args:
        path: File of the index.
        index: Everything that determines the folder's content, in types of JSON.

    Raises:
        ReconstructionError: The folder has another index, or cannot be written.
    """
    if path.exists():
        if read_index(path) != index:
            raise ReconstructionError(
                f"{path.parent}: holds a reconstruction made with other frames or settings; "
                "delete the folder or choose another"
            )
        return
    with atomic_write(path, ReconstructionError) as file:
        file.write(json.dumps(index, indent=1).encode())


def read_index(path: Path) -> dict:
    """Read the index of a folder; its size is checked before it is parsed.

    Raises:
        ReconstructionError: There is none, or it is damaged.
    """
    try:
        index = json.loads(read_input(path, _MAX_INDEX_BYTES))
    except (OSError, ValueError, RecursionError) as error:
        raise ReconstructionError(
            f"{path}: cannot be read ({reason_of(error)}); expected a folder made by "
            "`mote-distill reconstruct`"
        ) from error
    if not isinstance(index, dict):
        raise ReconstructionError(
            f"{path}: found a {type(index).__name__}, expected an object of JSON"
        )
    return index


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays into one file atomically.

    Raises:
        ReconstructionError: The file cannot be written.
    """
    with atomic_write(path, ReconstructionError) as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]


def read_arrays(
    path: Path, expected: Mapping[str, tuple[Shape | None, DTypeLike]], what: str
) -> dict[str, np.ndarray]:
    """Read arrays of a file; their size is checked before they are in memory.

    Args:
        path: The file.
        expected: The arrays to read: name -> shape (None: any) and type.
        what: Name of the file's content, for messages.

    Raises:
        ReconstructionError: The file is missing, damaged, or its arrays differ from the expected
            ones.
    """
    try:
        check_input(path)
        with zipfile.ZipFile(path) as archive:
            for key, (shape, kind) in expected.items():
                most = _MAX_ARRAY_BYTES
                if shape is not None:
                    most = int(np.prod(shape)) * np.dtype(kind).itemsize + _MAX_HEADER_BYTES
                if archive.getinfo(f"{key}.npy").file_size > most:
                    raise ReconstructionError(
                        f"{path}: {key} is larger than a {what} of this reconstruction, expected "
                        f"at most {most} bytes; delete the file and reconstruct again"
                    )
        with np.load(path, allow_pickle=False) as arrays:
            values = {key: arrays[key] for key in expected}
    except (*DAMAGED, *BAD_HEADER) as error:
        raise ReconstructionError(
            f"{path}: missing or damaged ({reason_of(error)}); delete it where it exists and run "
            "`mote-distill reconstruct` again to complete it"
        ) from error
    for key, (shape, kind) in expected.items():
        value = values[key]
        if value.dtype != kind or (shape is not None and value.shape != shape):
            raise ReconstructionError(
                f"{path}: found {key} of shape {f'{value.shape} {value.dtype}'[:_SHOWN]}, expected "
                f"{'any shape' if shape is None else shape} {np.dtype(kind)}"
            )
    return values


def reason_of(error: Exception) -> str:
    """Return an error of a library for a message, without the path that the message has already."""
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__)[:_SHOWN]
