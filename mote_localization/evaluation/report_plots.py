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
from mote_localization.evaluation.cloud_plot import cloud_collection, surface_tiles
from mote_localization.evaluation.metrics import PERCENTILES, Answer, Evaluation
from mote_localization.evaluation.plot_style import figure_style
from mote_localization.geometry import exp_rotation, invert, transform
from mote_localization.localizer import Localization

# Placeholder colours; `_svg` replaces them by the CSS variables of the page.
_INK, _MUTED, _RULE = "#010203", "#020304", "#030405"
_VARIABLES = {_INK: "var(--ink)", _MUTED: "var(--muted)", _RULE: "var(--rule)"}
_STYLE = figure_style(_INK, _MUTED) | {
    f"{part}.facecolor": "none" for part in ("axes", "figure", "savefig")
}
# Colours of Okabe and Ito, distinct for all kinds of colour vision; cm bounds as in the table.
_BINS = (
    (2.0, "under 2 cm", "#009E73"),
    (5.0, "2 to 5 cm", "#56B4E9"),
    (10.0, "5 to 10 cm", "#E69F00"),
    (np.inf, "10 cm or more", "#D55E00"),
)
_LOST = "#D55E00"
_MARK = "#2F8FD0"
_WIDTH_IN = 7.2
_MAX_VECTOR_MARKS = 2000  # figures with more marks contain them as pixels


def trajectory(evaluation: Evaluation) -> tuple[str, str]:
    """Draw the camera positions from above.

    Returns:
        The SVG, and a description of the view: projection and estimates outside the figure.
    """
    answers = evaluation.answers
    known = [a for a in answers if a.T_map_cam_true is not None]
    found = [a.T_map_cam for a in answers if a.T_map_cam is not None]
    poses = np.array([a.T_map_cam_true for a in known] or found)
    axes_23, labels, view = _view_from_above(poses)
    truth = poses[:, :3, 3] @ axes_23.T
    with rc_context(_STYLE):
        low, high = truth.min(0), truth.max(0)
        margin = max(0.05, 0.12 * float((high - low).max()))
        width, height = high - low + 2 * margin
        figure = Figure((_WIDTH_IN, float(np.clip(6.4 * height / width, 1.6, 5.6)) + 0.9))
        axes = figure.subplots()
        if known:
            stamps = np.array([a.stamp_s for a in known])
            axes.add_collection(
                LineCollection(
                    [truth[run] for run in _continuous_runs(stamps)],
                    colors=_MUTED,
                    linewidths=1.0,
                    zorder=1,
                )
            )
            axes.plot([], [], color=_MUTED, linewidth=1.0, label="ground truth")
        _plot_estimates(axes, answers, evaluation.errors_m, axes_23)
        lost = [a.T_map_cam_true for a in known if a.T_map_cam is None]
        if lost:
            positions = np.array(lost)[:, :3, 3] @ axes_23.T
            axes.plot(
                *positions.T, "x", color=_LOST, ms=5, mew=1.1, label="no pose (true position)"
            )
        axes.set_aspect("equal", adjustable="box")
        axes.set_xlim(low[0] - margin, high[0] + margin)
        axes.set_ylim(low[1] - margin, high[1] + margin)
        axes.set_xlabel(labels[0])
        axes.set_ylabel(labels[1])
        axes.grid(color=_RULE, linewidth=0.5)
        axes.set_axisbelow(True)
        figure.legend(
            *axes.get_legend_handles_labels(), loc="outside upper left", ncols=6, fontsize=8,
            handletextpad=0.3, columnspacing=1.2, handlelength=1.4,
        )  # fmt: skip
        figure.set_layout_engine("constrained")
        estimates = np.array(found).reshape(-1, 4, 4)[:, :3, 3] @ axes_23.T
        outside = int(((estimates < low - margin) | (estimates > high + margin)).any(-1).sum())
        if outside:
            view += f"; {outside} estimate{'s' * (outside > 1)} outside the figure"
        return _svg(figure, "trajectory", "Trajectory from above"), view


def _plot_estimates(
    axes: Axes, answers: Sequence[Answer], metres: np.ndarray, axes_23: np.ndarray
) -> None:
    """Plot the estimates, coloured by their error, and lines to their true positions."""
    pairs = [
        (a.T_map_cam_true[:3, 3] @ axes_23.T, a.T_map_cam[:3, 3] @ axes_23.T)
        for a in answers
        if a.T_map_cam is not None and a.T_map_cam_true is not None
    ]
    axes.add_collection(LineCollection(pairs, colors=_MUTED, linewidths=0.5, zorder=2))
    lower = 0.0
    for upper, label, colour in _BINS:
        chosen = [
            a.T_map_cam[:3, 3] @ axes_23.T
            for a, m in zip(answers, metres, strict=True)
            if a.T_map_cam is not None and lower <= 100 * m < upper
        ]
        if chosen:
            x, y = np.array(chosen).T
            axes.scatter(x, y, s=9, c=colour, label=label, zorder=3, linewidths=0,
                         rasterized=len(answers) > _MAX_VECTOR_MARKS)  # fmt: skip
        lower = upper
    unknown = [
        a.T_map_cam[:3, 3] @ axes_23.T
        for a in answers
        if a.T_map_cam is not None and a.T_map_cam_true is None
    ]
    if unknown:
        x, y = np.array(unknown).T
        axes.scatter(x, y, s=9, c=_BINS[1][2], label="estimate", zorder=3, linewidths=0,
                     rasterized=len(answers) > _MAX_VECTOR_MARKS)  # fmt: skip


def _view_from_above(poses: np.ndarray) -> tuple[np.ndarray, tuple[str, str], str]:
    """Choose the projection of a view from above.

    Maps do not store the vertical. Cameras are usually held upright, so the mean of their upward
    axes estimates it. The view is along the map axis within 35 degrees of it, if there is one.
    Otherwise it shows the plane of most camera motion.

    Args:
        poses: (n, 4, 4).

    Returns:
        Map directions (2, 3) to the right and upward in the figure; their labels; a description.
    """
    up = -poses[:, :3, 1].mean(0)
    axis = int(np.abs(up).argmax())
    if np.abs(up[axis]) > np.cos(np.radians(35)) * np.linalg.norm(up):
        upward = np.sign(up[axis]) * np.eye(3)[axis]
        right = np.eye(3)[1 if axis == 0 else 0]
        rows = np.stack([right, np.cross(upward, right)])
        names = [("-" if row.sum() < 0 else "") + "xyz"[np.abs(row).argmax()] for row in rows]
        sign = "+" if up[axis] > 0 else "−"
        view = f"seen from above, the map's {sign}{'xyz'[axis]} axis towards the reader"
        labels = [f"{name.replace('-', '−')} (m)" for name in names]
        return rows, (labels[0], labels[1]), view
    centred = poses[:, :3, 3] - poses[:, :3, 3].mean(0)
    rows = np.linalg.svd(centred, full_matrices=True)[2][:2]
    view = (
        "seen across the plane of most motion (its principal axes), because no map axis is vertical"
    )
    return rows, ("first principal axis (m)", "second principal axis (m)"), view


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
        for axes, values, bound, label in zip(
            panels,
            (100 * evaluation.errors_m, evaluation.errors_deg),
            (5.0, 5.0),
            ("position error (cm)", "rotation error (°)"),
            strict=True,
        ):
            shown = np.where(lost, np.nan, values)
            high = np.nanpercentile(shown, 97) if np.isfinite(shown).any() else bound
            top = max(1.5 * float(high), 1.2 * bound if high > bound / 3 else 0.0, 0.1)
            over = shown > top
            few = len(answers) <= _MAX_VECTOR_MARKS
            axes.plot(
                seconds, np.where(over, np.nan, shown), ".", ms=4.5, color=_MARK,
                mew=0, rasterized=not few,
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
            if bound < top:
                axes.axhline(bound, color=_MUTED, linewidth=0.7, linestyle=(0, (4, 3)))
            for first, last in bands:
                axes.axvspan(first - step / 2, last + step / 2, color=_LOST, alpha=0.22, lw=0)
            axes.set_ylim(0, top)
            axes.set_ylabel(label)
            axes.yaxis.set_major_locator(MaxNLocator(5))
            axes.grid(axis="y", color=_RULE, linewidth=0.5)
            axes.set_axisbelow(True)
        panels[-1].set_xlabel("time since the first frame (s)")
        panels[-1].set_xlim(-step, seconds[-1] + step)
        figure.align_ylabels()
        figure.set_layout_engine("constrained")
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
        axes.hist(
            milliseconds.clip(0, top),
            bins=np.linspace(0, top, 61).tolist(),
            color=_MARK,
            alpha=0.85,
        )
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
        figure.set_layout_engine("constrained")
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
        image_axes.set_title("canonical image, the network's input", fontsize=9)
        shown = sigma_axes.imshow(
            sigma_cm, cmap="viridis", interpolation="nearest", vmin=0,
            vmax=float(np.nanpercentile(sigma_cm, 98)),
            extent=(-0.5, camera.width - 0.5, camera.height - 0.5, -0.5),
        )  # fmt: skip
        sigma_axes.set_title("predicted error of each cell", fontsize=9)
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
        figure.set_layout_engine("constrained")
        return _svg(figure, "prediction", "An image and its predicted cloud")


def _plot_cloud(axes: Axes, found: Localization, camera: Camera) -> None:
    """Draw the cloud and the camera from behind and above, in orthographic projection."""
    assert found.T_map_cam is not None
    points_hw3 = transform(invert(found.T_map_cam), found.points_hw3.astype(float))
    reliable = found.covered_hw & np.isfinite(points_hw3).all(-1)
    reliable &= found.sigma_hw <= np.percentile(found.sigma_hw[reliable], 90)
    depth = float(np.median(points_hw3[reliable][:, 2]))
    yaw, pitch = np.radians(30), np.radians(28)
    view = exp_rotation(np.array([pitch, 0, 0])) @ exp_rotation(np.array([0, yaw, 0]))
    stride = camera.width // found.sigma_hw.shape[1]
    shown_hw = surface_tiles(points_hw3, stride / camera.fx)
    for corner in (np.s_[:-1, :-1], np.s_[:-1, 1:], np.s_[1:, 1:], np.s_[1:, :-1]):
        shown_hw &= reliable[corner]
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
    axes.set_title("predicted points and the camera found from them", fontsize=9)
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
