"""Plots of an ablation: error over the training, and error against the cost of the map."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, NullLocator

from distill_training.experiments.ablation.trainings import Outcome
from mote_localization.evaluation.plot_style import COLOURS, MUTED, RULE, figure_style
from mote_localization.files import atomic_write

STYLE = figure_style() | {
    "svg.hashsalt": "mote",
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.axisbelow": True,
    "grid.color": RULE,
    "grid.linewidth": 0.5,
}
_WIDTH_IN = 8.0
_LABEL_PT = 11.0  # least vertical distance of labels
_MARKERS = ("o", "s", "^")  # of families
_LOG_RATIO = 8  # ratio of the largest to the smallest value from which on axes are logarithmic


def colours(outcomes: Sequence[Outcome]) -> list[str]:
    """Return a colour for each training; if there are too many, one for each family."""
    if len(outcomes) <= len(COLOURS):
        return list(COLOURS[: len(outcomes)])
    families = list(dict.fromkeys(o.run.student for o in outcomes))
    return [COLOURS[families.index(o.run.student)] for o in outcomes]


def _styles(outcomes: Sequence[Outcome]) -> tuple[list[str], list[str]]:
    """Return the colour of each training, and the marker of its family."""
    families = list(dict.fromkeys(o.run.student for o in outcomes))
    markers = [_MARKERS[families.index(o.run.student) % len(_MARKERS)] for o in outcomes]
    return colours(outcomes), markers


def write_plots(outcomes: Sequence[Outcome], folder: Path) -> None:
    """Write `error_over_epochs.svg` and `error_against_cost.svg`.

    Raises:
        MoteError: A file cannot be written.
    """
    unit = hundredth_unit(all(o.run.reconstruction.metric for o in outcomes))
    with rc_context(STYLE):
        save_figure(_error_over_epochs(outcomes, unit), folder / "error_over_epochs.svg")
        save_figure(_error_against_cost(outcomes, unit), folder / "error_against_cost.svg")


def _error_over_epochs(outcomes: Sequence[Outcome], unit: str) -> Figure:
    """Plot the error of the points over the training, on training frames and held-out frames."""
    figure = Figure((_WIDTH_IN, 3.9), layout="constrained")
    panels = figure.subplots(1, 2, sharex=True, sharey=True)
    keys = {"training frames": "train_cell_cm", "held-out frames": "held_out_cell_cm"}
    for axes, (title, key) in zip(panels, keys.items(), strict=True):
        for outcome, colour in zip(outcomes, colours(outcomes), strict=True):
            epochs, errors = _curve(outcome, key)
            axes.plot(epochs, errors, color=colour, linewidth=1.6, solid_joinstyle="round")
            axes.plot(epochs[-1:], errors[-1:], "o", color=colour, ms=4, mew=0)
        axes.set(title=title, xlabel="epochs")
        axes.set_xlim(left=0)
        _set_log_error_axis(axes)
    panels[0].set_ylabel(f"error of the points, median ({unit})")
    _label_ends(panels[1], outcomes, "held_out_cell_cm")
    return figure


def _error_against_cost(outcomes: Sequence[Outcome], unit: str) -> Figure:
    """Plot error and fraction of good poses on held-out frames against size and time of the map."""
    figure = Figure((_WIDTH_IN, 6.2), layout="constrained")
    panels = figure.subplots(2, 2, sharex="col", sharey="row")
    rows = (
        ("held_out_cell_cm", 1, f"error of the points, median ({unit})"),
        ("held_out_within_5cm_5deg", 100, "poses within 5 cm, 5° (%)"),
    )
    costs = (("file_bytes", 1e-6, "map (MB)"), ("milliseconds", 1, "network, one image (ms)"))
    for j, (cost, cost_scale, cost_label) in enumerate(costs):
        x = np.array([cost_scale * o.figures[cost] for o in outcomes])
        for i, (key, scale, _) in enumerate(rows):
            axes = panels[i, j]
            y = np.array([scale * o.figures.get(key, math.nan) for o in outcomes])
            _draw_pareto_front(axes, x, y, sign=1 if i == 0 else -1)
            for a, b, colour, marker in zip(x, y, *_styles(outcomes), strict=True):
                axes.plot(a, b, marker, color=colour, ms=7, mew=0, zorder=3)
            _set_cost_axis(axes, x)
            axes.grid(True)
        _set_log_error_axis(panels[0, j])
        panels[1, j].set(ylim=(-4, 104), xlabel=cost_label)
    for axes, (_, _, label) in zip(panels[:, 0], rows, strict=True):
        axes.set_ylabel(label)
    _add_legend(figure, outcomes)
    return figure


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure in the format of the file's suffix, with the same bytes for equal figures.

    Raises:
        MoteError: The file cannot be written.
    """
    suffix = path.suffix[1:]
    metadata = {"Date": None} if suffix == "svg" else {"Software": None}
    with atomic_write(path) as file:
        figure.savefig(file, format=suffix, dpi=150, metadata=metadata)


def hundredth_unit(metric: bool) -> str:
    """Return the unit of a hundredth of a map's lengths."""
    return "cm" if metric else "units / 100"


def _curve(outcome: Outcome, key: str) -> tuple[np.ndarray, np.ndarray]:
    """Return epochs and the values of a figure at each check."""
    rows = outcome.history
    return np.array([r["epoch"] for r in rows]), np.array([r.get(key, math.nan) for r in rows])


def _set_log_error_axis(axes: Axes) -> None:
    """Make the vertical axis of a finished plot logarithmic, with round numbers as ticks."""
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    wide = high > _LOG_RATIO * low
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)) if wide else MaxNLocator(6))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter("{x:g}")
    axes.grid(True, axis="y")


def _label_ends(axes: Axes, outcomes: Sequence[Outcome], key: str) -> None:
    """Label the curves at the right; if there are too many, only the best of each family."""
    ends = [
        (curve[0][-1], curve[1][-1], o.run, colour)
        for o, colour in zip(outcomes, colours(outcomes), strict=True)
        if math.isfinite((curve := _curve(o, key))[1][-1])
    ]
    ends.sort(key=lambda end: end[1])
    if len(outcomes) > len(COLOURS):
        best: dict[str, Any] = {}
        for end in ends:
            best.setdefault(end[2].student, end)
        ends = list(best.values())
    axes.figure.draw_without_rendering()  # type: ignore[union-attr]
    step = _LABEL_PT / 72 * axes.figure.dpi / axes.bbox.height
    natural = [
        axes.transAxes.inverted().transform(axes.transData.transform((x, y)))[1]
        for x, y, *_ in ends
    ]
    for (x, y, run, colour), height in zip(ends, spread_out(natural, step), strict=True):
        axes.annotate(
            run.name, (x, y), xytext=(1.06, height), textcoords="axes fraction", va="center",
            color=colour, fontsize=8, annotation_clip=False,
            arrowprops={
                "arrowstyle": "-", "color": colour, "linewidth": 0.5, "shrinkA": 0, "shrinkB": 3,
                "relpos": (0, 0.5), "alpha": 0.6,
            },
        )  # fmt: skip


def spread_out(values: Sequence[float], step: float) -> list[float]:
    """Return ascending values at least `step` apart, moved as little as possible (least squares).

    This is isotonic regression of the values less rank times step, by pooling adjacent violators.
    """
    groups: list[list[float]] = []  # adjacent values, less rank times step, with the same result
    for i, value in enumerate(values):
        groups.append([value - i * step])
        while len(groups) > 1 and np.mean(groups[-2]) > np.mean(groups[-1]):
            last = groups.pop()
            groups[-1] += last
    level = [float(np.mean(group)) for group in groups for _ in group]
    return [value + i * step for i, value in enumerate(level)]


def _draw_pareto_front(axes: Axes, x: np.ndarray, y: np.ndarray, sign: int) -> None:
    """Draw the Pareto front of cost x and figure y; smaller `sign * y` is better."""
    error = sign * y
    order = [i for i in np.lexsort((error, x)) if math.isfinite(y[i])]
    front: list[int] = []
    for i in order:
        if not front or error[i] < error[front[-1]]:
            front.append(i)
    axes.step(x[front], y[front], where="post", color=MUTED, linewidth=0.8, zorder=1)


def _set_cost_axis(axes: Axes, x: np.ndarray) -> None:
    """Let the axis of costs start at 0, or make it logarithmic for costs of a large range."""
    if x.max() > _LOG_RATIO * x.min() > 0:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlim(0.8 * x.min(), 1.25 * x.max())
    else:
        axes.set_xlim(0, 1.12 * x.max())


def _add_legend(figure: Figure, outcomes: Sequence[Outcome]) -> None:
    """Add a legend of the trainings, or of the families if there are too many trainings."""
    named = {}
    for outcome, colour, marker in zip(outcomes, *_styles(outcomes), strict=True):
        name = outcome.run.name if len(outcomes) <= len(COLOURS) else outcome.run.student
        named[name] = Line2D([], [], color=colour, marker=marker, ms=6, mew=0, linestyle="")
    front = Line2D([], [], color=MUTED, linewidth=0.8)
    figure.legend(
        [*named.values(), front], [*named, "Pareto front"], fontsize=8,
        loc="outside upper left", ncols=3, handletextpad=0.3, columnspacing=1.4,
    )  # fmt: skip
