"""The history of a training: what was measured on the way, a row a check, as CSV."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from mote_localization.errors import CheckpointError
from mote_localization.files import atomic_write

_NAME = "history.csv"
_MAX_BYTES = 1 << 20

Row = dict[str, float]  # name of a column -> its figure; NaN: not measured, inf: lost


def write_history(folder: Path, rows: Sequence[Row]) -> None:
    """Write the history into a training's folder.

    Raises:
        CheckpointError: The file cannot be written; the older one survives.
    """
    text = io.StringIO()
    # an older checkpoint's rows may lack a column
    columns = list(dict.fromkeys(name for row in rows for name in row))
    writer = csv.DictWriter(text, columns, restval="nan")
    writer.writeheader()
    writer.writerows({name: round(value, 4) for name, value in row.items()} for row in rows)
    try:
        with atomic_write(folder / _NAME) as file:
            file.write(text.getvalue().encode())
    except OSError as error:
        raise CheckpointError(
            f"{folder / _NAME}: cannot be written ({error.strerror}); free some space and run again"
        ) from error


def read_history(folder: Path) -> list[Row]:
    """Read the history in a training's folder, first the untrained student.

    Raises:
        CheckpointError: There is none, or it is damaged.
    """
    path = folder / _NAME
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ValueError(f"it has over {_MAX_BYTES >> 20} MiB")
        header, *rows = csv.reader(io.StringIO(path.read_text(encoding="utf-8")), strict=True)
        return [dict(zip(header, map(float, row), strict=True)) for row in rows]
    except (OSError, ValueError, csv.Error) as error:
        raise CheckpointError(
            f"{path}: cannot be read ({error}), expected the history that a training writes; train "
            "anew, into another folder"
        ) from error
