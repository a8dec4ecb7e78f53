"""Table of the finished trainings of an ablation: CSV for programs, Markdown for readers."""

import csv
import io
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from distill_training.experiments.ablation.grid import Run, Value
from distill_training.experiments.ablation.trainings import Outcome
from distill_training.experiments.markdown import escaped, figure_text, table_line
from mote_localization.files import atomic_write


@dataclass(frozen=True)
class Column:
    """A column with a figure of each training."""

    key: str  # in the figures of an outcome, and in the CSV
    title: str  # in Markdown
    form: str = ".2f"  # format of the figure in Markdown
    scale: float = 1.0  # factor of the figure in Markdown
    best: Literal["least", "most"] | None = None  # which figure is printed bold
    name: str = ""  # in the CSV, where a setting has the same key


COLUMNS = (
    Column("parameters", "parameters, M", ".2f", 1e-6),
    Column("macs", "GMAC", ".2f", 1e-9),
    Column("file_bytes", "map, MB", ".2f", 1e-6),
    Column("milliseconds", "network, ms", ".1f"),
    Column("step", "steps", ".0f", name="steps_done"),
    Column("minutes", "min", ".1f", name="minutes_taken"),
    Column("train_cell_cm", "train cells, cm", ".1f", best="least"),
    Column("held_out_cell_cm", "cells, cm", ".1f", best="least"),
    Column("held_out_median_cm", "pose, cm", ".2f", best="least"),
    Column("held_out_median_deg", "pose, °", ".2f", best="least"),
    Column("held_out_within_5cm_5deg", "in 5 cm/5°", ".0%", best="most"),
    Column("held_out_within_10cm_5deg", "in 10 cm/5°", ".0%", best="most"),
    Column("held_out_cells_within_2_sigma", "in 2 σ", ".0%"),
    Column("held_out_spearman", "Spearman", ".2f", best="most"),
)
_LEGEND = (
    "Cells: median distance of the points to the teacher's points, on a sample of training frames "
    "and on the held-out frames. Poses and all columns after them: on the held-out frames. In 2 σ: "
    "fraction of the cells whose distance is below 2 σ, where σ is the student's expected error. "
    "Spearman: rank correlation of σ and distance. Network, ms: median time of ONNX Runtime on the "
    "CPU without the pose solver, {threads} threads. Bold: the best."
)


def write_table(
    outcomes: Sequence[Outcome], runs: Sequence[Run], folder: Path, command: str
) -> None:
    """Write `table.csv` and `table.md`.

    Args:
        outcomes: The finished trainings, one row each.
        runs: All trainings.
        folder: Output folder.
        command: Command that writes the table, for the reader.

    Raises:
        MoteError: A file cannot be written.
    """
    keys = list(dict.fromkeys(key for run in runs for key in run.given))
    _write(folder / "table.csv", _csv(outcomes, keys))
    _write(folder / "table.md", _markdown(outcomes, runs, keys, command))


def _csv(rows: Sequence[Outcome], keys: list[str]) -> str:
    """Return the given settings and all figures, not rounded."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["name", *keys, *(column.name or column.key for column in COLUMNS)])
    for row in rows:
        figures = (row.figures.get(column.key, math.nan) for column in COLUMNS)
        writer.writerow(
            [row.run.name, *(_text(row.run.value(key)) for key in keys)]
            + ["" if math.isnan(figure) else figure for figure in figures]
        )
    return text.getvalue()


def _markdown(rows: Sequence[Outcome], runs: Sequence[Run], keys: list[str], command: str) -> str:
    """Return a table with a column for each setting that differs; the others are above it."""
    differing = [key for key in keys if len({repr(run.value(key)) for run in runs}) > 1]
    common = [f"{key} {_text(runs[0].value(key))}" for key in keys if key not in differing]
    best = {column.key: _best(column, rows) for column in COLUMNS}
    lines = [
        f"    {command}",
        "",
        f"{len(rows)} of {len(runs)} trainings are finished."
        + (f" Common to all: {escaped(', '.join(common))}." if common else ""),
        "",
        table_line(["name", *differing, *(column.title for column in COLUMNS)]),
        table_line(["---"] * (1 + len(differing)) + ["---:"] * len(COLUMNS)),
    ]
    for row in rows:
        figures = [_figure(c, row.figures.get(c.key, math.nan), best[c.key]) for c in COLUMNS]
        settings = [escaped(_text(row.run.value(key))) for key in differing]
        lines.append(table_line([row.run.name, *settings, *figures]))
    return "\n".join([*lines, "", _LEGEND.format(threads=os.cpu_count()), ""])


def _best(column: Column, rows: Sequence[Outcome]) -> float | None:
    """Return the best figure of a column; None if it has no best one."""
    figures = [row.figures.get(column.key, math.nan) for row in rows]
    finite = [figure for figure in figures if math.isfinite(figure)]
    if not column.best or len(set(figures)) < 2 or not finite:
        return None
    return min(finite) if column.best == "least" else max(finite)


def _figure(column: Column, value: float, best: float | None) -> str:
    text = figure_text(value * column.scale, column.form)
    return f"**{text}**" if value == best else text


def _text(value: Value) -> str:
    """Return a setting as text."""
    if isinstance(value, bool):
        return str(value).lower()
    if value is None:
        return ""
    return " to ".join(map(str, value if isinstance(value, list) else [value]))


def _write(path: Path, text: str) -> None:
    with atomic_write(path) as file:
        file.write(text.encode())
