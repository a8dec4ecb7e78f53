"""Figures of the report as SVG text, in the colours of the page (light or dark)."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mote_localization.camera import Camera, frustum_edges
from mote_localization.evaluation.cloud_plot import cloud_collection, surface_tiles, view_rotation
from mote_localization.evaluation.metrics import PERCENTILES, Evaluation
from mote_localization.evaluation.plot_style import figure_style
from mote_localization.evaluation.view_from_above import view_from_above
from mote_localization.geometry import invert, transform
from mote_localization.localizer import Localization

# Placeholder colours; `_svg` replaces them by the CSS variables of the page.
_INK, _MUTED, _RULE = "#010203", "#020304", "#030405"
_VARIABLES = {_INK: "var(--ink)", _MUTED: "var(--muted)", _RULE: "var(--rule)"}
_STYLE = figure_style(_INK, _MUTED) | {
    "axes.facecolor": "none",
    "axes.axisbelow": True,
    "axes.titlesize": 9,
    "figure.facecolor": "none",
    "figure.constrained_layout.use": True,
    "grid.color": _RULE,
    "grid.linewidth": 0.5,
    "savefig.facecolor": "none",
}
_BOUNDS_CM = (2.0, 5.0, 10.0)  # as in the table
# Colours of Okabe and Ito, distinct for all kinds of colour vision.
_BINS = (
    ("under 2 cm", "#009E73"),
    ("2 to 5 cm", "#56B4E9"),
    ("5 to 10 cm", "#E69F00"),
    ("10 cm or more", "#D55E00"),
)
_BOUND = 5.0  # cm and degrees, drawn in the figure of the errors
_LOST = "#D55E00"
_MARK = "#2F8FD0"
_WIDTH_IN = 7.2
_MAX_VECTOR_MARKS = 2000  # figures with more marks contain them as pixels


def trajectory(evaluation: Evaluation) -> tuple[str, str]:
    """Draw the camera positions from above.

    Returns:
        The SVG, and a description of the view: projection and estimates outside the figure.
    """
    answers, errors_cm = evaluation.answers, 100 * evaluation.errors_m
    given, found = [a.T_map_cam_true for a in answers], [a.T_map_cam for a in answers]
    known = [T for T in given if T is not None] or [T for T in found if T is not None]
    axes_23, labels, view = view_from_above(np.array(known))
    shown = np.array(known)[:, :3, 3] @ axes_23.T
    low, high = shown.min(0), shown.max(0)
    margin = max(0.05, 0.12 * float((high - low).max()))
    width, height = high - low + 2 * margin
    truth_n2, estimates_n2 = _positions(given, axes_23), _positions(found, axes_23)
    has_truth, has_pose = np.isfinite(truth_n2[:, 0]), np.isfinite(estimates_n2[:, 0])
    both = has_truth & has_pose
    bins = np.digitize(errors_cm, _BOUNDS_CM)
    groups = [(both & (bins == i), label, colour) for i, (label, colour) in enumerate(_BINS)]
    groups.append((has_pose & ~has_truth, "estimate", _BINS[1][1]))
    lost = has_truth & ~has_pose
    with rc_context(_STYLE):
        figure = Figure((_WIDTH_IN, float(np.clip(6.4 * height / width, 1.6, 5.6)) + 0.9))
        axes = figure.subplots()
        if has_truth.any():
            stamps = np.array([a.stamp_s for a in answers])[has_truth]
            runs = [truth_n2[has_truth][run] for run in _continuous_runs(stamps)]
            axes.add_collection(LineCollection(runs, colors=_MUTED, linewidths=1.0, zorder=1))
            axes.plot([], [], color=_MUTED, linewidth=1.0, label="ground truth")
        pairs = list(np.stack([truth_n2, estimates_n2], axis=1)[both])
        axes.add_collection(LineCollection(pairs, colors=_MUTED, linewidths=0.5, zorder=2))
        for chosen, label, colour in groups:
            if chosen.any():
                x, y = estimates_n2[chosen].T
                axes.scatter(x, y, s=9, c=colour, label=label, zorder=3, linewidths=0,
                             rasterized=len(answers) > _MAX_VECTOR_MARKS)  # fmt: skip
        if lost.any():
            axes.plot(
                *truth_n2[lost].T, "x", color=_LOST, ms=5, mew=1.1, label="no pose (true position)"
            )
        axes.set_aspect("equal")
        axes.set_xlim(low[0] - margin, high[0] + margin)
        axes.set_ylim(low[1] - margin, high[1] + margin)
        axes.set_xlabel(labels[0])
        axes.set_ylabel(labels[1])
        axes.grid()
        figure.legend(
            *axes.get_legend_handles_labels(), loc="outside upper left", ncols=6, fontsize=8,
            handletextpad=0.3, columnspacing=1.2, handlelength=1.4,
        )  # fmt: skip
        beyond = (estimates_n2 < low - margin) | (estimates_n2 > high + margin)
        outside = int(beyond.any(-1).sum())
        if outside:
            view += f"; {outside} estimate{'s' * (outside > 1)} outside the figure"
        return _svg(figure, "trajectory", "Trajectory from above"), view


def _positions(poses: Sequence[np.ndarray | None], axes_23: np.ndarray) -> np.ndarray:
    """Return the positions (n, 2) of poses in the figure; NaN without a pose."""
    return np.array([(np.nan, np.nan) if T is None else axes_23 @ T[:3, 3] for T in poses])


def _continuous_runs(stamps: np.ndarray) -> list[np.ndarray]:
    """Return the indices of frames in runs without gaps in time."""
    steps = np.diff(stamps)
    typical = np.median(steps) if len(steps) else 0.0
    return np.split(np.arange(len(stamps)), np.flatnonzero(steps > 5 * typical) + 1)


def error_over_time(evaluation: Evaluation) -> str:
    """Draw position (cm) and rotation (deg) errors over time, with bands for lost frames."""
    answers = evaluation.answers
    stamps = np.array([a.stamp_s for a in answers])
    seconds = stamps - stamps[0]
    step = float(np.median(np.diff(seconds))) if len(seconds) > 1 else 1.0
    lost = np.array([a.T_map_cam is None for a in answers])
    bands = [
        seconds[list(span)]
        for run in _continuous_runs(stamps)
        for span in _flagged_spans(lost, run)
    ]
    with rc_context(_STYLE):
        figure = Figure((_WIDTH_IN, 3.6))
        panels = figure.subplots(2, sharex=True)
        for axes, values, label in (
            (panels[0], 100 * evaluation.errors_m, "position error (cm)"),
            (panels[1], evaluation.errors_deg, "rotation error (°)"),
        ):
            shown = np.where(lost, np.nan, values)
            high = np.nanpercentile(shown, 97) if np.isfinite(shown).any() else _BOUND
            top = max(1.5 * float(high), 1.2 * _BOUND if high > _BOUND / 3 else 0.0, 0.1)
            over = shown > top
            axes.plot(
                seconds, np.where(over, np.nan, shown), ".", ms=4.5, color=_MARK,
                mew=0, rasterized=len(answers) > _MAX_VECTOR_MARKS,
            )  # fmt: skip
            if over.any():
                axes.plot(
                    seconds[over], np.full(over.sum(), 0.97 * top), "^", ms=4.5, color=_LOST, mew=0
                )
                axes.annotate(
                    f"▲ above, up to {np.nanmax(shown):.3g}",
                    (1, 1.02), xycoords="axes fraction", ha="right", va="bottom",
                    fontsize=8, color=_MUTED,
                )  # fmt: skip
            if _BOUND < top:
                axes.axhline(_BOUND, color=_MUTED, linewidth=0.7, linestyle=(0, (4, 3)))
            for first, last in bands:
                axes.axvspan(first - step / 2, last + step / 2, color=_LOST, alpha=0.22, lw=0)
            axes.set_ylim(0, top)
            axes.set_ylabel(label)
            axes.yaxis.set_major_locator(MaxNLocator(5))
            axes.grid(axis="y")
        panels[-1].set_xlabel("time since the first frame (s)")
        panels[-1].set_xlim(-step, seconds[-1] + step)
        figure.align_ylabels()
        return _svg(figure, "errors", "Errors over time")


def _flagged_spans(flags: np.ndarray, run: np.ndarray) -> list[tuple[int, int]]:
    """Return the first and last index of each stretch of flagged frames within a run of indices."""
    edges = np.flatnonzero(np.diff(np.r_[0, flags[run].astype(int), 0]))
    return [(int(run[a]), int(run[b - 1])) for a, b in edges.reshape(-1, 2)]


def times(milliseconds: np.ndarray, label: str, period_ms: float | None) -> str:
    """Draw the histogram of the times of all frames.

    Args:
        milliseconds: (n,).
        label: Label of the axis.
        period_ms: Time between images, drawn if it is in the figure; None: not known.
    """
    top = float(np.percentile(milliseconds, 99.5)) * 1.15
    if period_ms is not None and period_ms < 3 * top:
        top = max(top, 1.08 * period_ms)
    with rc_context(_STYLE):
        figure = Figure((_WIDTH_IN, 2.3))
        axes = figure.subplots()
        edges = np.linspace(0, top, 61).tolist()
        axes.hist(milliseconds.clip(0, top), edges, color=_MARK, alpha=0.85)
        height = axes.get_ylim()[1]
        axes.set_ylim(0, 1.42 * height)
        marks = [(np.percentile(milliseconds, p), f"p{p}", _INK) for p in PERCENTILES]
        if period_ms is not None and period_ms <= top:
            marks.append((period_ms, "next image", _LOST))
        # Lower levels to the right, so that no line crosses another label.
        for i, (value, name, colour) in enumerate(sorted(marks, reverse=True)):
            level = (1.02 + 0.1 * i) * height
            axes.plot([value, value], [0, level], color=colour, linewidth=0.8)
            axes.annotate(
                f"{name} {value:.1f}", (value, level), xytext=(3, 0), textcoords="offset points",
                fontsize=8, color=colour, va="center",
            )  # fmt: skip
        axes.set_xlim(0, top)
        axes.set_xlabel(label)
        axes.set_ylabel("frames")
        axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        return _svg(figure, "times", label)


def prediction(found: Localization, camera: Camera) -> str:
    """Draw one image, the predicted sigma of its cells, and the predicted cloud.

    Args:
        found: Result with a pose.
        camera: Canonical camera of the map.
    """
    sigma_cm = np.where(found.covered_hw, 100 * found.sigma_hw, np.nan)
    with rc_context(_STYLE):
        figure = Figure((_WIDTH_IN, 6.9))
        grid = figure.add_gridspec(2, 3, height_ratios=(1, 1.6), width_ratios=(1, 1, 0.04))
        image_axes, sigma_axes, scale_axes = (figure.add_subplot(grid[0, i]) for i in range(3))
        image_axes.imshow(found.image_hw3)
        image_axes.set_title("canonical image, the network's input")
        shown = sigma_axes.imshow(
            sigma_cm, cmap="viridis", interpolation="nearest", vmin=0,
            vmax=float(np.nanpercentile(sigma_cm, 98)),
            extent=(-0.5, camera.width - 0.5, camera.height - 0.5, -0.5),
        )  # fmt: skip
        sigma_axes.set_title("predicted error of each cell")
        bar = figure.colorbar(shown, cax=scale_axes)
        bar.set_label("σ (cm)")
        bar.outline.set_linewidth(0)
        scale_axes.set_box_aspect(17)
        for axes in (image_axes, sigma_axes):
            axes.set_xlabel("column (px)")
            axes.xaxis.set_major_locator(MaxNLocator(4))
            axes.yaxis.set_major_locator(MaxNLocator(4))
        image_axes.set_ylabel("row (px)")
        sigma_axes.set_yticklabels([])
        _plot_cloud(figure.add_subplot(grid[1, :]), found, camera)
        return _svg(figure, "prediction", "An image and its predicted cloud")


def _plot_cloud(axes: Axes, found: Localization, camera: Camera) -> None:
    """Draw the cloud and the camera from behind and above, in orthographic projection."""
    assert found.T_map_cam is not None
    points_hw3 = transform(invert(found.T_map_cam), found.points_hw3.astype(float))
    reliable = found.covered_hw & np.isfinite(points_hw3).all(-1)
    reliable &= found.sigma_hw <= np.percentile(found.sigma_hw[reliable], 90)
    depth = float(np.median(points_hw3[reliable][:, 2]))
    view = view_rotation(yaw_deg=30, pitch_deg=28)
    stride = camera.width // found.sigma_hw.shape[1]
    reliable_hw3 = np.where(reliable[..., None], points_hw3, np.nan)
    shown_hw = surface_tiles(reliable_hw3, stride / camera.fx)
    view_hw3 = points_hw3 @ view.T
    axes.add_collection(
        cloud_collection(view_hw3, shown_hw, found.image_hw3, stride, rasterized=True)
    )
    edges_823 = frustum_edges(camera, 0.25 * depth) @ view.T
    axes.add_collection(
        LineCollection(list(edges_823[..., :2] * (1, -1)), colors=_LOST, linewidths=1.2, zorder=3)
    )
    axes.set_aspect("equal")
    drawn = np.vstack([np.percentile(view_hw3[reliable], (1, 99), axis=0), *edges_823])
    low, high = drawn.min(0), drawn.max(0)
    axes.set_xlim(low[0] - 0.1 * depth, high[0] + 0.1 * depth)
    axes.set_ylim(-high[1] - 0.1 * depth, -low[1] + 0.1 * depth)
    axes.set_axis_off()
    axes.set_title("predicted points and the camera found from them")
    left, bottom = axes.get_xlim()[0], axes.get_ylim()[0]
    axes.plot([left, left + 1], [bottom, bottom], color=_INK, linewidth=1.5)
    axes.text(left + 0.5, bottom, "1 m", ha="center", va="bottom", fontsize=8)


def _svg(figure: Figure, name: str, title: str) -> str:
    """Return a figure as SVG text for the page: CSS colours, unique ids, no metadata."""
    buffer = io.StringIO()
    with rc_context({"svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", dpi=150, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    for placeholder, variable in _VARIABLES.items():
        text = text.replace(placeholder, variable)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'href="#', f'href="#{name}-', text)
    text = text.replace("url(#", f"url(#{name}-")
    return text.replace("<svg ", f'<svg role="img" aria-label="{title}" ', 1)
