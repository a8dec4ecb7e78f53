"""Text files of scenes: names and matrices."""

from pathlib import Path

import numpy as np

from mote_localization.errors import SceneError

MAX_TEXT_BYTES = 64 << 20
_MAX_MATRIX_BYTES = 64 << 10


def read_text(path: Path, max_bytes: int = MAX_TEXT_BYTES) -> str:
    """Return the text of a file, UTF-8.

    Raises:
        SceneError: The file cannot be read, is no text, or is larger than `max_bytes`.
    """
    try:
        if path.stat().st_size > max_bytes:
            raise SceneError(f"{path}: over {max_bytes >> 10} KiB, expected a text file")
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise SceneError(f"{path}: cannot be read as text ({str(error)[:100]})") from error


def read_matrix(path: Path, shape: tuple[int, int]) -> np.ndarray:
    """Return the matrix in a text file, one row a line.

    Raises:
        SceneError: The file cannot be read, or does not hold a matrix of this shape.
    """
    text = read_text(path, _MAX_MATRIX_BYTES)
    try:
        matrix = np.array(
            [[float(x) for x in line.split()] for line in text.splitlines() if line.strip()]
        )
    except ValueError as error:
        raise SceneError(
            f"{path}: {str(error)[:100]}, expected a {shape[0]}x{shape[1]} matrix as text"
        ) from error
    if matrix.shape != shape:
        raise SceneError(f"{path}: found a matrix of shape {matrix.shape}, expected {shape}")
    return matrix
