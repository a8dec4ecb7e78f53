"""Tables of an evaluation for the terminal."""

from collections.abc import Mapping

from rich.table import Table

from mote_localization.evaluation.metrics import PERCENTILES, Summary, accuracy_rows


def accuracy_table(summary: Summary, title: str) -> Table:
    """Return the accuracy as a table for the terminal."""
    table = Table(title=title, show_header=False, title_justify="left")
    table.add_column()
    table.add_column(justify="right")
    for row in accuracy_rows(summary):
        table.add_row(*row)
    return table


def times_table(milliseconds: Mapping[str, Mapping[str, float]], title: str = "") -> Table:
    """Return the percentiles of each stage's times as a table for the terminal."""
    table = Table("ms a frame", title=title or None, title_justify="left", min_width=len(title))
    for percentile in PERCENTILES:
        table.add_column(f"p{percentile}", justify="right")
    for stage, percentiles in milliseconds.items():
        table.add_row(stage, *(f"{value:.1f}" for value in percentiles.values()))
    return table
