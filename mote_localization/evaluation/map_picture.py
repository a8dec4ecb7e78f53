"""A picture of a map: where it is accurate, where it finds no pose, and how errors grow."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mote_localization.errors import MoteError
from mote_localization.evaluation.plot_style import COLOURS, INK, MUTED, RULE, figure_style
from mote_localization.evaluation.view_from_above import view_from_above
from mote_localization.files import atomic_write
from mote_localization.map_file import MapFile, MapInfo
from mote_localization.pose_calibration import CHI2_95
from mote_localization.validated_poses import validation_text

_FORMATS = ("png", "svg", "pdf")
_LOST = COLOURS[1]
_ARROW = 0.06  # length of a camera's arrow, fraction of the width of the place
_STYLE = figure_style() | {"axes.axisbelow": True, "grid.color": RULE, "grid.linewidth": 0.5}


def draw_map(map_file: MapFile, path: Path) -> None:
    """Draw the validated poses of a map and its keyframes (.png, .svg or .pdf).

    Args:
        map_file: The map, with validated poses.
        path: Of the picture; written completely or not at all.

    Raises:
        MoteError: The map has no validated poses, or the file cannot be written.
    """
    info, suffix = map_file.info, path.suffix[1:].lower()
    if suffix not in _FORMATS:
        raise MoteError(f"--report {path}: expected a name that ends with .{', .'.join(_FORMATS)}")
    if not info.validation:
        raise MoteError(
            f"{map_file.path}: has no validated poses to draw, expected a map whose training had "
            "a validation; make the map again"
        )
    with rc_context(_STYLE):
        figure = Figure((11.0, 5.6), layout="constrained")
        above, errors = figure.subplots(1, 2, width_ratios=(1.5, 1))
        _draw_from_above(above, info)
        _draw_errors(errors, info)
        figure.suptitle(
            f"{info.scene}: {validation_text(info.validation, info.unit)}", fontsize=10, x=0.01,
            ha="left",
        )  # fmt: skip
        with atomic_write(path, MoteError) as file:
            figure.savefig(file, format=suffix, dpi=120)


def _draw_from_above(axes: Axes, info: MapInfo) -> None:
    """Draw each validated pose as an arrow along the viewing direction, coloured by its error."""
    poses_n44 = np.array([pose.T_map_cam for pose in info.validation])
    rows_23, labels, view = view_from_above(poses_n44, info.unit)
    unit, scale = ("cm", 100.0) if info.metric else (info.unit, 1.0)
    error_n = scale * np.array(
        [np.nan if pose.error is None else pose.error for pose in info.validation]
    )
    at_n2, towards_n2 = poses_n44[:, :3, 3] @ rows_23.T, poses_n44[:, :3, 2] @ rows_23.T
    if info.keyframes:
        stored_n2 = np.array([k.pose_44[:3, 3] for k in info.keyframes]) @ rows_23.T
        axes.plot(*stored_n2.T, "s", color=MUTED, ms=3, mew=0, label="keyframe")
    found_n = np.isfinite(error_n)
    length = _ARROW * max(float(np.ptp(at_n2, axis=0).max()), 1e-6)
    quiver: dict[str, Any] = {
        "angles": "xy",
        "scale_units": "xy",
        "scale": 1 / length,
        "width": 0.004,
    }
    if found_n.any():
        drawn = axes.quiver(
            *at_n2[found_n].T, *towards_n2[found_n].T, error_n[found_n], cmap="viridis",
            clim=(0, float(np.quantile(error_n[found_n], 0.95))), **quiver,
        )  # fmt: skip
        bar = axes.figure.colorbar(drawn, ax=axes, shrink=0.7)
        bar.set_label(f"position error ({unit})")
        bar.outline.set_visible(False)
    if not found_n.all():
        axes.quiver(*at_n2[~found_n].T, *towards_n2[~found_n].T, color=_LOST, **quiver)
        axes.plot(*at_n2[~found_n].T, "x", color=_LOST, ms=6, mew=1.4, label="no pose found")
    axes.set_aspect("equal", adjustable="datalim")
    axes.margins(0.12)
    axes.set_xlabel(labels[0])
    axes.set_ylabel(labels[1])
    axes.set_title(view, fontsize=8, loc="left")
    axes.grid()
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="best", fontsize=8)


def _draw_errors(axes: Axes, info: MapInfo) -> None:
    """Draw the errors against the bound below which 95 % are expected."""
    unit, scale = ("cm", 100.0) if info.metric else (info.unit, 1.0)
    pairs = [
        (np.sqrt(CHI2_95[3] / 3) * pose.deviation, pose.error)
        for pose in info.validation
        if pose.error is not None and pose.deviation is not None
    ]
    axes.set_xlabel(f"95 % bound that the map gives ({unit})")
    axes.set_ylabel(f"position error ({unit})")
    axes.grid()
    if not pairs:
        return
    bound_n, error_n = scale * np.array(pairs).T
    axes.plot(bound_n, error_n, ".", color=COLOURS[0], ms=5, mew=0)
    top = 1.05 * float(max(bound_n.max(), error_n.max()))
    axes.plot([0, top], [0, top], color=INK, linewidth=0.8)
    axes.set_xlim(0, top)
    axes.set_ylim(0, top)
    inside = float((error_n < bound_n).mean())
    axes.set_title(f"{inside:.0%} of the errors are below the bound", fontsize=9, loc="left")
