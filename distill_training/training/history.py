"""The history of a training: a CSV file with one row of measurements per check."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from mote_localization.errors import CheckpointError, first_line
from mote_localization.files import atomic_write

_NAME = "history.csv"
_MAX_BYTES = 1 << 20

Row = dict[str, float]  # name of a column -> its value; NaN: not measured, inf: lost


def write_history(folder: Path, rows: Sequence[Row]) -> None:
    """Write the history into the folder of a training.

    Raises:
        CheckpointError: The file cannot be written; an existing file stays as it is.
    """
    text = io.StringIO()
    # rows of older checkpoints may lack a column
    columns = list(dict.fromkeys(name for row in rows for name in row))
    writer = csv.DictWriter(text, columns, restval="nan")
    writer.writeheader()
    writer.writerows({name: round(value, 4) for name, value in row.items()} for row in rows)
    with atomic_write(folder / _NAME, CheckpointError, "; free some space and run again") as file:
        file.write(text.getvalue().encode())


def read_history(folder: Path) -> list[Row]:
    """Return the history in the folder of a training; the first row is the untrained student.

    Raises:
        CheckpointError: The file is missing or damaged.
    """
    path = folder / _NAME
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ValueError(f"larger than {_MAX_BYTES >> 20} MiB")
        header, *rows = csv.reader(io.StringIO(path.read_text(encoding="utf-8")), strict=True)
        return [dict(zip(header, map(float, row), strict=True)) for row in rows]
    except (OSError, ValueError, csv.Error) as error:
        raise CheckpointError(
            f"{path}: cannot be read ({first_line(error, 100)}), expected the history of a training"
            "; train again, into another folder"
        ) from error
