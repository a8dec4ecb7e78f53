"""Tables in Markdown."""

import math
from collections.abc import Sequence


def table_line(cells: Sequence[str]) -> str:
    """Return a line of a table."""
    return f"| {' | '.join(cells)} |"


def escaped(text: str) -> str:
    """Return a text as the content of one cell."""
    return text.replace("|", "\\|").replace("\n", " ")


def figure_text(value: float, form: str) -> str:
    """Return a figure as text: a dash for NaN, a space before the percent sign.

    Args:
        value: The figure.
        form: Its format, as ".1f" or ".0%".
    """
    if math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞"
    return format(value, form).replace("%", " %")
