"""Plots of an ablation: error over the training, and against what a map costs."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

from distill_training.ablation.trainings import Outcome
from mote_localization.errors import MoteError
from mote_localization.files import atomic_write

INK, MUTED, RULE = "#1d232b", "#6b7480", "#dfe3e8"
# Okabe and Ito's colours, told apart with any colour vision
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A6A00", "#333333")
STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "mote",
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
}
_WIDTH_IN = 8.0
_LABEL_PT = 11.0  # distance of labels that stand above each other
_MARKS = ("o", "s", "^")  # of families
_WIDE = 8  # ratio from which on values are told apart by their ratios
_MOST_OWN_COLOURS = len(COLOURS)


def colours(outcomes: Sequence[Outcome]) -> list[str]:
    """Return a colour for each training: its own, or its family's where there are too many."""
    if len(outcomes) <= _MOST_OWN_COLOURS:
        return list(COLOURS[: len(outcomes)])
    families = list(dict.fromkeys(o.run.student for o in outcomes))
    return [COLOURS[families.index(o.run.student)] for o in outcomes]


def write_plots(outcomes: Sequence[Outcome], folder: Path) -> None:
    """Write `error_over_epochs.svg` and `error_against_cost.svg`.

    Raises:
        MoteError: A file cannot be written.
    """
    over_epochs(outcomes, folder / "error_over_epochs.svg")
    against_cost(outcomes, folder / "error_against_cost.svg")


def over_epochs(outcomes: Sequence[Outcome], path: Path) -> None:
    """Draw the error of the points over the training, of training frames and of held-out ones."""
    unit = _unit(outcomes)
    with rc_context(STYLE):
        figure = Figure((_WIDTH_IN, 3.9), layout="constrained")
        panels = figure.subplots(1, 2, sharex=True, sharey=True)
        keys = ("train_cell_cm", "held_out_cell_cm")
        for axes, key, title in zip(
            panels, keys, ("training frames", "held-out frames"), strict=True
        ):
            for outcome, colour in zip(outcomes, colours(outcomes), strict=True):
                epochs, errors = _curve(outcome, key)
                axes.plot(epochs, errors, color=colour, linewidth=1.6, solid_joinstyle="round")
                axes.plot(epochs[-1:], errors[-1:], "o", color=colour, ms=4, mew=0)
            axes.set_title(title)
            axes.set_xlabel("epochs")
            axes.set_xlim(left=0)
            _logarithmic(axes)
        panels[0].set_ylabel(f"error of the points, median ({unit})")
        _label_ends(panels[1], outcomes, keys[1])
        save(figure, path)


def against_cost(outcomes: Sequence[Outcome], path: Path) -> None:
    """Draw error and share of good poses of held-out frames against size and time of the map."""
    families = list(dict.fromkeys(o.run.student for o in outcomes))
    unit = _unit(outcomes)
    rows = (
        ("held_out_cell_cm", 1, f"error of the points, median ({unit})"),
        ("held_out_within_5cm_5deg", 100, "poses within 5 cm, 5° (%)"),
    )
    costs = (("file_bytes", 1e-6, "map (MB)"), ("milliseconds", 1, "network, one image (ms)"))
    with rc_context(STYLE):
        figure = Figure((_WIDTH_IN, 6.2), layout="constrained")
        panels = figure.subplots(2, 2, sharex="col", sharey="row")
        for j, (cost, per, cost_label) in enumerate(costs):
            for i, (key, scale, label) in enumerate(rows):
                axes = panels[i, j]
                x = np.array([per * o.figures[cost] for o in outcomes])
                y = np.array([scale * o.figures.get(key, math.nan) for o in outcomes])
                _front(axes, x, y if i == 0 else -y, 1 if i == 0 else -1)
                for outcome, colour, a, b in zip(outcomes, colours(outcomes), x, y, strict=True):
                    mark = _MARKS[families.index(outcome.run.student) % len(_MARKS)]
                    axes.plot(a, b, mark, color=colour, ms=7, mew=0, zorder=3)
                if i == 0:
                    _logarithmic(axes)
                else:
                    axes.set_ylim(-4, 104)
                    axes.set_xlabel(cost_label)
                _spread(axes, x)
                axes.grid(color=RULE, linewidth=0.5)
                axes.set_axisbelow(True)
                if j == 0:
                    axes.set_ylabel(label)
        _legend(figure, outcomes)
        save(figure, path)


def save(figure: Figure, path: Path) -> None:
    """Write a figure in the form that the file's name says, the same bytes for the same figure.

    Raises:
        MoteError: The file cannot be written.
    """
    form = path.suffix[1:]
    metadata = {"Date": None} if form == "svg" else {"Software": None}
    try:
        with atomic_write(path) as file:
            figure.savefig(file, format=form, dpi=150, metadata=metadata)
    except OSError as error:
        raise MoteError(f"{path}: cannot be written ({error.strerror})") from error


def metric_unit(metric: bool) -> str:
    """Return the unit of a hundredth of a map's lengths."""
    return "cm" if metric else "units / 100"


def _unit(outcomes: Sequence[Outcome]) -> str:
    return metric_unit(all(o.run.reconstruction.metric for o in outcomes))


def _curve(outcome: Outcome, key: str) -> tuple[np.ndarray, np.ndarray]:
    """Return epochs and a figure at every check."""
    rows = outcome.history
    return np.array([r["epoch"] for r in rows]), np.array([r.get(key, math.nan) for r in rows])


def _logarithmic(axes: Axes) -> None:
    """Make the upward axis logarithmic, of what is drawn already, with round numbers along it."""
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    wide = high > _WIDE * low
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)) if wide else MaxNLocator(6))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.grid(axis="y", color=RULE, linewidth=0.5)
    axes.set_axisbelow(True)


def _label_ends(axes: Axes, outcomes: Sequence[Outcome], key: str) -> None:
    """Name each curve at the right, one above the other; of too many, each family's best."""
    ends = [
        (curve[0][-1], curve[1][-1], o.run, colour)
        for o, colour in zip(outcomes, colours(outcomes), strict=True)
        if math.isfinite((curve := _curve(o, key))[1][-1])
    ]
    ends.sort(key=lambda end: end[1])
    if len(outcomes) > _MOST_OWN_COLOURS:
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
    for (x, y, run, colour), height in zip(ends, apart(natural, step), strict=True):
        axes.annotate(
            run.name, (x, y), xytext=(1.06, height), textcoords="axes fraction", va="center",
            color=colour, fontsize=8, annotation_clip=False,
            arrowprops={
                "arrowstyle": "-", "color": colour, "linewidth": 0.5, "shrinkA": 0, "shrinkB": 3,
                "relpos": (0, 0.5), "alpha": 0.6,
            },
        )  # fmt: skip


def apart(values: Sequence[float], step: float) -> list[float]:
    """Return ascending values moved as little as it takes to be `step` apart (least squares)."""
    # Neighbours that would touch stand together around the mean of their places.
    groups: list[list[float]] = []  # of values less their rank
    for i, value in enumerate(values):
        groups.append([value - i * step])
        while len(groups) > 1 and np.mean(groups[-2]) > np.mean(groups[-1]):
            last = groups.pop()
            groups[-1] += last
    level = [float(np.mean(group)) for group in groups for _ in group]
    return [value + i * step for i, value in enumerate(level)]


def _front(axes: Axes, x: np.ndarray, y: np.ndarray, sign: int) -> None:
    """Draw what no cheaper training betters, `y` the less the better, times `sign` as drawn."""
    order = [i for i in np.lexsort((y, x)) if math.isfinite(y[i])]
    kept: list[int] = []
    for i in order:
        if not kept or y[i] < y[kept[-1]]:
            kept.append(i)
    axes.step(x[kept], sign * y[kept], where="post", color=MUTED, linewidth=0.8, zorder=1)


def _spread(axes: Axes, x: np.ndarray) -> None:
    """Show costs from nothing on, or as ratios where they are far apart."""
    if x.max() > _WIDE * x.min() > 0:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlim(0.8 * x.min(), 1.25 * x.max())
    else:
        axes.set_xlim(0, 1.12 * x.max())


def _legend(figure: Figure, outcomes: Sequence[Outcome]) -> None:
    """Name each training's mark, or each family's where there are too many."""
    families = list(dict.fromkeys(o.run.student for o in outcomes))
    named = {}
    for outcome, colour in zip(outcomes, colours(outcomes), strict=True):
        student = outcome.run.student
        name = outcome.run.name if len(outcomes) <= _MOST_OWN_COLOURS else student
        mark = _MARKS[families.index(student) % len(_MARKS)]
        named[name] = Line2D([], [], color=colour, marker=mark, ms=6, mew=0, linestyle="")
    front = Line2D([], [], color=MUTED, linewidth=0.8)
    figure.legend(
        [*named.values(), front], [*named, "not bettered by a cheaper one"], fontsize=8,
        loc="outside upper left", ncols=3, handletextpad=0.3, columnspacing=1.4,
    )  # fmt: skip
