"""Table of a benchmark: for the terminal, in Markdown, and as JSON."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.box import SIMPLE
from rich.table import Table
from rich.text import Text

from distill_training.experiments.markdown import escaped, figure_text, table_line
from mote_localization.evaluation.json_figures import write_json
from mote_localization.files import atomic_write

MARKDOWN, FIGURES = "benchmark.md", "benchmark.json"
_MEAN = "mean"
_LEGEND = (
    "5/5: test frames with errors below 5 cm and 5 deg. cm, deg: median errors of all test frames; "
    "those of a lost frame are infinite and 180 deg. min: time to make the map. MB: its size. ms: "
    "median time of a frame on this machine."
)


class Column(NamedTuple):
    """A figure of each scene."""

    key: str  # in the figures
    title: str
    form: str = ".1f"
    scale: float = 1.0  # factor of the figure in the table


COLUMNS = (
    Column("5 cm, 5 deg", "5/5 %", scale=100),
    Column("2 cm, 2 deg", "2/2 %", scale=100),
    Column("1 cm, 1 deg", "1/1 %", scale=100),
    Column("median_cm", "cm", ".2f"),
    Column("median_deg", "deg", ".2f"),
    Column("lost", "lost %", scale=100),
    Column("minutes", "min"),
    Column("megabytes", "MB"),
    Column("milliseconds", "ms"),
)


def benchmark_table(results: Mapping[str, Mapping[str, float]]) -> Table:
    """Return the table for the terminal: a row for each scene, and their mean."""
    table = Table("scene", box=SIMPLE, padding=(0, 1, 0, 0))
    for column in COLUMNS:
        table.add_column(column.title, justify="right")
    for name, cells in _rows(results).items():
        table.add_row(Text(name), *cells, end_section=name == list(results)[-1])
    return table


def write_table(
    results: Mapping[str, Mapping[str, float]],
    failed: Mapping[str, str],
    options: Mapping[str, object],
    folder: Path,
) -> None:
    """Write the table in Markdown and the figures as JSON.

    Args:
        results: Figures of each finished scene.
        failed: Why other scenes have none.
        options: With which the maps are made.
        folder: Folder of the benchmark.

    Raises:
        MoteError: A file cannot be written.
    """
    lines = [table_line(["scene", *(column.title for column in COLUMNS)])]
    lines.append(table_line(["---"] + ["---:"] * len(COLUMNS)))
    lines += [table_line([escaped(name), *cells]) for name, cells in _rows(results).items()]
    lines += ["", _LEGEND]
    lines += [f"\nFailed: {escaped(name)}: {escaped(reason)}" for name, reason in failed.items()]
    with atomic_write(folder / MARKDOWN) as file:
        file.write("\n".join([*lines, ""]).encode())
    figures = {"options": options, "scenes": results, _MEAN: _mean(results), "failed": failed}
    write_json(folder / FIGURES, figures)


def _rows(results: Mapping[str, Mapping[str, float]]) -> dict[str, list[str]]:
    figures = {**results, _MEAN: _mean(results)} if results else {}
    return {
        name: [figure_text(c.scale * row.get(c.key, math.nan), c.form) for c in COLUMNS]
        for name, row in figures.items()
    }


def _mean(results: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Return the mean of each figure over the scenes; empty without scenes."""
    rows = results.values()
    return {
        c.key: float(np.mean([row.get(c.key, math.nan) for row in rows]))
        for c in COLUMNS
        if results
    }
