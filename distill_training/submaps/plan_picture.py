"""A picture of a plan: floor and cameras from above, coloured by submap."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from scipy.spatial import KDTree

from distill_training.submaps.place import Place
from distill_training.submaps.plan_file import Submap, SubmapPlan
from distill_training.submaps.seen_surfaces import VOXEL_M
from mote_localization.evaluation.plot_style import COLOURS, INK, figure_style
from mote_localization.files import atomic_write

_LONG_IN, _SHORT_IN = 11.0, 4.5  # longest side of the figure, and its shortest one
_WIDE_M = 2.0  # radius in which the floor around a label is compared
_STYLE = figure_style() | {"axes.axisbelow": True}


def draw_plan(plan: SubmapPlan, place: Place, path: Path) -> None:
    """Draw a plan as PNG.

    Args:
        plan: The submaps.
        place: The frames that they divide.
        path: Of the picture; written completely or not at all.

    Raises:
        MoteError: The file cannot be written.
    """
    index = {name: k for k, name in enumerate(place.names)}
    own = [np.array([index[name] for name in submap.own]) for submap in plan.submaps]
    overlap = [np.array([index[name] for name in s.overlap], int) for s in plan.submaps]
    at_n2 = place.positions_n3 @ place.floor.rows_23.T
    colours = _colours(plan.submaps)
    corners_c2 = place.floor.corners(place.cell_c)
    size = np.ptp(corners_c2, axis=0) + 4 * VOXEL_M
    width, height = np.clip(_LONG_IN * size / size.max(), _SHORT_IN, None)
    with rc_context(_STYLE):
        figure = Figure((width, height + 0.6), layout="constrained")
        axes = figure.subplots()
        part_c = _strongest(place, own)
        _draw_floor(axes, corners_c2, part_c, colours)
        mark_pt = float(np.clip(0.12 * 72 * width / size[0], 0.8, 3.5))  # 12 cm
        for k, colour in enumerate(colours):
            axes.plot(*at_n2[own[k]].T, "o", color=colour, ms=mark_pt, mew=0, zorder=2)
            axes.plot(
                *at_n2[overlap[k]].T, "o", mfc="none", mec=colour, ms=2.2 * mark_pt,
                mew=0.35 * mark_pt, zorder=3,
            )  # fmt: skip
        for k, submap in enumerate(plan.submaps):
            cells_k2 = corners_c2[part_c == k] + VOXEL_M / 2
            _label(axes, submap, _label_position(cells_k2, at_n2[own[k]]), len(plan.submaps))
        _add_legend(axes, mark_pt)
        axes.set_aspect("equal")
        axes.margins(0.02)
        axes.set_xlabel(place.floor.labels[0])
        axes.set_ylabel(place.floor.labels[1])
        axes.set_title(
            f"{Path(plan.recording).name}: {len(plan.frames)} frames in {len(plan.submaps)} "
            f"submap{'s' * (len(plan.submaps) > 1)}, {place.floor.description}",
            fontsize=9, loc="left",
        )  # fmt: skip
        with atomic_write(path) as file:
            figure.savefig(file, format="png", dpi=150, metadata={"Software": None})


def _colours(submaps: Sequence[Submap]) -> list[str]:
    """Return a colour for each submap; neighbours have different ones, as far as there are some."""
    colour_of: dict[str, int] = {}
    for submap in submaps:
        taken = [colour_of[one.name] for one in submap.neighbours if one.name in colour_of]
        used = list(colour_of.values())
        colour_of[submap.name] = min(
            range(len(COLOURS)), key=lambda c: (taken.count(c), used.count(c), c)
        )
    return [COLOURS[colour_of[submap.name]] for submap in submaps]


def _strongest(place: Place, own: Sequence[np.ndarray]) -> np.ndarray:
    """Return the submap (c,) whose own frames see each cell of the floor most often."""
    counts_sc = np.stack([place.sees_nc[own_k].sum(axis=0) for own_k in own])
    return counts_sc.argmax(axis=0)


def _draw_floor(
    axes: Axes, corners_c2: np.ndarray, part_c: np.ndarray, colours: Sequence[str]
) -> None:
    """Draw the cells of the floor, pale, in the colours of their submaps."""
    square_42 = VOXEL_M * np.array([[0, 0], [1, 0], [1, 1], [0, 1]])
    cells = PolyCollection(
        list(corners_c2[:, None] + square_42), facecolors=[colours[k] for k in part_c], alpha=0.18,
        linewidths=0, zorder=1,
    )  # fmt: skip
    axes.add_collection(cells, autolim=True)


def _label_position(cells_k2: np.ndarray, own_k2: np.ndarray) -> np.ndarray:
    """Return the middle (2,) of the widest floor that is a submap's; without any, of its cameras.

    Args:
        cells_k2: Centres of the cells that its frames see most often.
        own_k2: Positions of its cameras.
    """
    near_k2 = cells_k2 if len(cells_k2) else own_k2
    count_k = KDTree(near_k2).query_ball_point(near_k2, _WIDE_M, return_length=True)
    best_k2 = near_k2[count_k == count_k.max()]
    return best_k2[np.linalg.norm(best_k2 - best_k2.mean(axis=0), axis=1).argmin()]


def _label(axes: Axes, submap: Submap, at_2: np.ndarray, count: int) -> None:
    """Write number, frames and area of a submap at a position."""
    number = submap.name.removeprefix("submap-")
    text = f"{len(submap.own)} + {len(submap.overlap)}\n{submap.area_m2:.0f} m²"
    size = 9 if count <= 16 else 7 if count <= 40 else 5.5
    halo = [withStroke(linewidth=size / 3, foreground="white")]
    for label, weight, rise in ((number, "bold", 1), (text, "normal", -1)):
        axes.annotate(
            label, (at_2[0], at_2[1]), xytext=(0, rise), textcoords="offset points", ha="center",
            va="bottom" if rise > 0 else "top", fontsize=size + (2 if rise > 0 else 0),
            fontweight=weight, color=INK, path_effects=halo, zorder=4, linespacing=1.0,
        )  # fmt: skip


def _add_legend(axes: Axes, mark_pt: float) -> None:
    """Explain marks and labels above the picture."""
    for label, face, size in (
        ("camera, in the colour of its submap", INK, 4.0),
        ("also in the overlap of the submap of this colour", "none", 7.0),
    ):
        axes.plot([], [], "o", mfc=face, mec=INK, ms=size, mew=1 if face == "none" else 0,
                  label=label)  # fmt: skip
    axes.plot([], [], " ", label="labels: own + overlap frames, floor")
    axes.figure.legend(
        *axes.get_legend_handles_labels(), loc="outside lower left", ncols=3, fontsize=8,
        handletextpad=0.3, columnspacing=1.6,
    )  # fmt: skip
