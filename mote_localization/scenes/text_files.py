"""Text files of scenes: names, matrices, poses and intrinsics."""

import io
import re
from array import array
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

import numpy as np

from mote_localization.camera import Camera
from mote_localization.errors import CameraError, SceneError
from mote_localization.geometry import check_pose
from mote_localization.input_files import open_input, read_input

MAX_TEXT_BYTES = 16 << 20  # of a text that is in memory; as words, it may take 20 times as much
_MAX_LINES = 750_000  # of a text that is read line by line: an hour of poses at 200 Hz
_MAX_LINE = 1000  # characters
_MAX_MATRIX_BYTES = 64 << 10


def read_text(path: Path, max_bytes: int = MAX_TEXT_BYTES) -> str:
    """Return the text of a file, UTF-8.

    Raises:
        SceneError: The file cannot be read, is no text, or is larger than `max_bytes`.
    """
    try:
        text = read_input(path, max_bytes).decode("utf-8-sig")
        return text.replace("\r\n", "\n").replace("\r", "\n")
    except (OSError, UnicodeDecodeError) as error:
        raise SceneError(f"{path}: cannot be read as text ({str(error)[:100]})") from error


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield number and text of the lines of a file, UTF-8, without keeping them in memory.

    Raises:
        SceneError: The file cannot be read, is no text, or has too many or too long lines.
    """
    try:
        with open_input(path) as file, io.TextIOWrapper(file, "utf-8-sig") as text:
            for number in range(1, _MAX_LINES + 2):
                line = text.readline(_MAX_LINE + 2)
                if not line:
                    return
                if number > _MAX_LINES:
                    raise SceneError(
                        f"{path}: has over {_MAX_LINES} lines, expected fewer; keep every tenth: "
                        f"awk 'NR % 10 == 1' {path.name[:40]}"
                    )
                if len(line.rstrip("\r\n")) > _MAX_LINE:
                    raise SceneError(f"{path}: line {number} has over {_MAX_LINE} characters")
                yield number, line
    except (OSError, UnicodeDecodeError) as error:
        raise SceneError(f"{path}: cannot be read as text ({str(error)[:100]})") from error


def read_table(
    path: Path, columns: int, expected: str, header: str | None = None, more: bool = False
) -> tuple[np.ndarray, Sequence[int]]:
    """Return the numbers (n, columns) of a file, and the numbers of their lines.

    Empty lines, and what follows #, are left out.

    Args:
        path: The file.
        columns: How many numbers a line has.
        expected: What a line holds, for messages.
        header: First word of lines that are left out.
        more: Lines may have further columns, which are not read.

    Raises:
        SceneError: The file cannot be read, or a line holds something else.
    """
    numbers, last = array("q"), ""

    def rows() -> Iterator[str]:
        nonlocal last
        for number, line in read_lines(path):
            last = line.partition("#")[0].strip()
            if last and not (header and last.startswith(header)):
                numbers.append(number)
                yield last

    lines = rows()
    first = next(lines, None)
    if first is None:
        return np.empty((0, columns)), numbers
    try:
        if len(first.split()) != columns and not more:
            raise ValueError("has another number of columns")  # loadtxt compares the other lines
        chosen = range(columns) if more else None
        return np.loadtxt(chain([first], lines), comments=None, usecols=chosen, ndmin=2), numbers
    except ValueError as error:  # loadtxt reads no line after one that it cannot use
        raise SceneError(
            f"{path}: line {numbers[-1]}: found {last[:60]!r}, expected {expected}"
        ) from error


def read_matrix(path: Path, *shapes: tuple[int, int]) -> np.ndarray:
    """Return the matrix in a text file, one row a line.

    Args:
        path: The file.
        shapes: Allowed shapes.

    Raises:
        SceneError: The file cannot be read, or does not hold a matrix of these shapes.
    """
    text = read_text(path, _MAX_MATRIX_BYTES)
    sizes = " or ".join(f"{rows}x{columns}" for rows, columns in shapes)
    try:
        # Programs built with older compilers of Microsoft write infinity as 1.#INF or 1.#INF00.
        lines = re.sub(r"1\.#INF0*", "inf", text).splitlines()
        matrix = np.array([[float(x) for x in line.split()] for line in lines if line.strip()])
    except ValueError as error:
        raise SceneError(
            f"{path}: {str(error)[:100]}, expected a {sizes} matrix as text"
        ) from error
    if matrix.shape not in shapes:
        expected = " or ".join(map(str, shapes))
        raise SceneError(f"{path}: found a matrix of shape {matrix.shape}, expected {expected}")
    return matrix


def read_pose(path: Path) -> np.ndarray | None:
    """Return the camera pose (4, 4) in a text file; None: no file, or tracking was lost.

    12Scenes and ScanNet write the poses of frames that were not tracked as infinity.

    Raises:
        SceneError: The file cannot be read, or does not hold a rigid transform.
    """
    if not path.exists():
        return None
    T_44 = read_matrix(path, (4, 4))
    if np.isinf(T_44).any() and not np.isnan(T_44).any():
        return None
    return check_pose(T_44, str(path))


def read_intrinsics(path: Path, size: tuple[int, int]) -> Camera:
    """Return the camera of a matrix K in a text file, 3x3 or 4x4.

    Args:
        path: The file.
        size: Width and height of the images, px.

    Raises:
        SceneError: The file cannot be read, or does not hold a pinhole matrix.
    """
    K = read_matrix(path, (3, 3), (4, 4))[:3, :3]
    try:
        return Camera.from_K(*size, K)
    except CameraError as error:
        raise SceneError(f"{path}: {error}") from error
