"""Style of the figures: colours, and settings for matplotlib's `rc_context`."""

from typing import Any

INK, MUTED, RULE = "#1d232b", "#6b7480", "#dfe3e8"  # text, axes, grid lines
# Okabe and Ito's colours, which people with any colour vision can distinguish.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A6A00", "#333333")


def figure_style(ink: str = INK, muted: str = MUTED) -> dict[Any, Any]:
    """Return matplotlib settings with a colour for text and one for axes."""
    return {
        "svg.fonttype": "none",
        "font.family": "sans-serif",
        "font.size": 9,
        "text.color": ink,
        "axes.edgecolor": muted,
        "axes.labelcolor": ink,
        "axes.linewidth": 0.7,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "xtick.color": muted,
        "ytick.color": muted,
        "xtick.labelcolor": ink,
        "ytick.labelcolor": ink,
        "legend.frameon": False,
    }
