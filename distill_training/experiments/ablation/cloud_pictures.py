"""Pictures of an ablation: the teacher's cloud of a held-out image, and the students' clouds."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from distill_training.experiments.ablation.plots import STYLE, colours, hundredth_unit, save_figure
from distill_training.experiments.ablation.trainings import Outcome, held_out_names
from distill_training.reconstruction import ReconstructedFrame, Reconstruction
from mote_localization.camera import frustum_edges
from mote_localization.evaluation.cloud_plot import cloud_collection, surface_tiles, view_rotation
from mote_localization.evaluation.plot_style import INK
from mote_localization.geometry import invert, rotation_angle, transform
from mote_localization.localizer import Localization, Localizer
from mote_localization.progress import track

_COLUMNS = 6  # clouds in a row
_MAX_STUDENTS = 3 * _COLUMNS - 2
_CLOUD_WIDTH_IN = 2.8
_TITLE_HEIGHT_IN = 0.32
_ERROR_RANGE_CM = (1.0, 100.0)  # the same logarithmic scale in all pictures
_ERROR_TICKS_CM = (1, 2, 5, 10, 20, 50, 100)
_VIEW_DEG = (24.0, 20.0)  # yaw and pitch of the viewpoint, relative to the camera
_FRUSTUM_DEPTH = 0.15  # of a drawn camera, as a fraction of the median depth of the points
_CAMERA_COLOUR, _ESTIMATE_COLOUR = INK, "#D55E00"
_COLOUR_MAP, _BACKGROUND = "magma_r", "#eceff2"


@dataclass(frozen=True)
class _Prediction:
    """The prediction of a student for one image."""

    student: str  # name of its training
    colour: str
    result: Localization
    error_hw: np.ndarray  # cm, distance to the teacher's points; NaN where there are none


@dataclass(frozen=True)
class _HeldOutImage:
    """A held-out image with the teacher's points."""

    reconstruction: Reconstruction
    name: str
    frame: ReconstructedFrame  # points in the given frame

    @property
    def T_map_cam(self) -> np.ndarray:
        """Given pose of its camera."""
        return self.reconstruction.given_pose(self.name)


def write_pictures(outcomes: Sequence[Outcome], folder: Path, count: int) -> None:
    """Write pictures of clouds and errors for some held-out images of each reconstruction.

    Args:
        outcomes: Finished trainings.
        folder: Output folder; the files are named RECONSTRUCTION-FRAME.png.
        count: Number of pictures of each reconstruction.

    Raises:
        MoteError: A map or a frame cannot be read, or a file cannot be written.
    """
    by_reconstruction: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        by_reconstruction.setdefault(outcome.run.reconstruction_name, []).append(outcome)
    frames = [
        (source, name)
        for source, group in by_reconstruction.items()
        for name in _spread_names(held_out_names(group[0].run), count)
    ]
    students: dict[str, list[tuple[str, str, Localizer]]] = {}  # of one reconstruction at a time
    for source, name in track(frames, "pictures", len(frames)):
        group = by_reconstruction[source]
        if source not in students:
            ranked = sorted(group, key=lambda o: o.figures["held_out_cell_cm"])
            students = {
                source: [
                    (o.run.name, colour, Localizer.open(o.map))
                    for o, colour in zip(group, colours(group), strict=True)
                    if o in ranked[:_MAX_STUDENTS]
                ]
            }
        reconstruction = group[0].run.reconstruction
        frame = reconstruction.read_frame(name)
        points_hw3 = reconstruction.in_given_frame(name, frame.points_hw3)
        image = _HeldOutImage(reconstruction, name, replace(frame, points_hw3=points_hw3))
        predictions = [_predict(image, *student) for student in students[source]]
        file_name = re.sub(r"[^\w.+-]+", "-", name)
        _draw_picture(image, predictions, folder / f"{source}-{file_name}.png")


def _spread_names(names: Sequence[str], count: int) -> list[str]:
    """Return `count` of the names, evenly spread, or all where there are fewer."""
    count = min(count, len(names))
    return [names[int((i + 0.5) * len(names) / count)] for i in range(count)]


def _predict(image: _HeldOutImage, student: str, colour: str, localizer: Localizer) -> _Prediction:
    """Return a student's prediction for an image."""
    result = localizer.localize(image.frame.image_hw3, image.reconstruction.camera)
    error_hw = 100 * np.linalg.norm(result.points_hw3 - image.frame.points_hw3, axis=-1)
    return _Prediction(student, colour, result, error_hw)


def _draw_picture(image: _HeldOutImage, predictions: Sequence[_Prediction], path: Path) -> None:
    """Draw the image and the clouds from one viewpoint, and the students' errors below them.

    Raises:
        MoteError: The file cannot be written.
    """
    panels = 2 + len(predictions)
    bands = -(-panels // _COLUMNS)
    columns = -(-panels // bands)
    unit = hundredth_unit(image.reconstruction.metric)
    view = _View(image)
    camera = image.reconstruction.camera
    heights = (view.aspect, camera.height / camera.width)
    with rc_context({**STYLE, "axes.titlelocation": "center"}):
        band_height = _CLOUD_WIDTH_IN * sum(heights) + 2 * _TITLE_HEIGHT_IN
        size = (_CLOUD_WIDTH_IN * columns + 0.8, bands * band_height)
        figure = Figure(size, layout="constrained")
        figure.get_layout_engine().set(h_pad=0.08)  # type: ignore[union-attr, call-arg]
        grid = figure.add_gridspec(2 * bands, columns, height_ratios=heights * bands)
        places = [(2 * (i // columns), i % columns) for i in range(panels)]
        upper = [figure.add_subplot(grid[row, column]) for row, column in places]
        lower = [figure.add_subplot(grid[row + 1, column]) for row, column in places[2:]]
        for axes in (*upper, *lower):
            axes.set(xticks=[], yticks=[], facecolor=_BACKGROUND, anchor="N")
            axes.spines[:].set_visible(False)
        photo, teacher, *clouds = upper
        photo.imshow(image.frame.image_hw3)
        photo.set_title(f"{image.reconstruction.scene}, {image.name}")
        view.draw(teacher, image.frame.points_hw3)
        view.draw_scale_bar(teacher)
        teacher.set_title(f"teacher: {image.reconstruction.teacher}", fontweight="bold")
        _plot_error_distribution(figure.add_subplot(grid[1, :2]), predictions, unit)
        for cloud, errors, prediction in zip(clouds, lower, predictions, strict=True):
            view.draw(cloud, prediction.result.points_hw3, prediction.result.T_map_cam)
            cloud.set_title(prediction.student, color=prediction.colour, fontweight="bold")
            _draw_errors(errors, prediction.error_hw, image)
            errors.set_title(_error_text(image, prediction, unit), fontsize=8)
        colours_of_errors = ScalarMappable(LogNorm(*_ERROR_RANGE_CM), _COLOUR_MAP)
        bar = figure.colorbar(colours_of_errors, ax=upper + lower, fraction=0.03, pad=0.01)
        bar.set_label(f"distance to the teacher's point ({unit})")
        bar.outline.set_linewidth(0)
        _set_error_ticks(bar.ax.yaxis)
        save_figure(figure, path)


def _error_text(image: _HeldOutImage, prediction: _Prediction, unit: str) -> str:
    """Return the errors of points and camera as text."""
    text = f"points {np.nanmedian(prediction.error_hw):.1f} {unit}"
    estimate = prediction.result.T_map_cam
    if estimate is None:
        return f"{text}; no pose"
    centimetres = 100 * np.linalg.norm(estimate[:3, 3] - image.T_map_cam[:3, 3])
    angle = rotation_angle(estimate[:3, :3].T @ image.T_map_cam[:3, :3])
    return f"{text}; camera {centimetres:.1f} {unit}, {np.degrees(angle):.1f}°"


def _set_error_ticks(axis: Axis) -> None:
    """Set the ticks of an axis of errors."""
    axis.set_major_locator(FixedLocator(_ERROR_TICKS_CM))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter("{x:g}")


def _draw_errors(axes: Axes, error_hw: np.ndarray, image: _HeldOutImage) -> None:
    """Draw the cells' errors over the area of the image, grey where the teacher has no point."""
    camera = image.reconstruction.camera
    extent = (-0.5, camera.width - 0.5, camera.height - 0.5, -0.5)
    shown_hw = np.where(np.isfinite(image.frame.points_hw3).all(-1), error_hw, np.nan)
    norm = LogNorm(*_ERROR_RANGE_CM)
    axes.imshow(shown_hw, cmap=_COLOUR_MAP, norm=norm, extent=extent, interpolation="nearest")


def _plot_error_distribution(axes: Axes, predictions: Sequence[_Prediction], unit: str) -> None:
    """Plot the cumulative distribution of each student's errors."""
    for prediction in predictions:
        errors = np.sort(prediction.error_hw[np.isfinite(prediction.error_hw)])
        percent = 100 * np.arange(1, len(errors) + 1) / max(1, len(errors))
        axes.plot(errors, percent, color=prediction.colour, linewidth=1.6)
    axes.set(xscale="log", xlim=_ERROR_RANGE_CM, ylim=(0, 100), yticks=[0, 25, 50, 75, 100])
    _set_error_ticks(axes.xaxis)
    axes.tick_params(labelsize=8)
    axes.grid(True)
    axes.set_xlabel(f"distance to the teacher's point ({unit})", fontsize=8)
    axes.set_ylabel("cells below (%)", fontsize=8)


class _View:
    """An orthographic view from beside and above the camera of an image."""

    def __init__(self, image: _HeldOutImage) -> None:
        """Choose the tiles, and a window that contains the teacher's cloud and the camera."""
        camera, stride = image.reconstruction.camera, image.reconstruction.stride
        self._T_cam_map = invert(image.T_map_cam)
        self._image_hw3, self._stride = image.frame.image_hw3, stride
        self._R_view_cam = view_rotation(*_VIEW_DEG)
        points_hw3 = transform(self._T_cam_map, image.frame.points_hw3.astype(float))
        self._surface_hw = surface_tiles(points_hw3, stride / camera.fx)
        depth = float(np.nanmedian(points_hw3[..., 2]))
        self._unit = "m" if image.reconstruction.metric else "unit"
        self._frustum_823 = frustum_edges(camera, _FRUSTUM_DEPTH * depth)
        points_n2 = self._project(points_hw3[np.isfinite(points_hw3).all(-1)])
        corners_n2 = self._project(self._frustum_823).reshape(-1, 2)
        points_n2 = np.concatenate([np.percentile(points_n2, (2, 98), axis=0), corners_n2])
        self._low, self._high = points_n2.min(0) - 0.06 * depth, points_n2.max(0) + 0.06 * depth
        width, height = self._high - self._low
        self.aspect = float(np.clip(height / width, 0.5, 1.2))

    def draw(self, axes: Axes, points_hw3: np.ndarray, T_map_cam: np.ndarray | None = None) -> None:
        """Draw points of the map frame as a cloud, the image's camera, and an estimated camera."""
        points_hw3 = transform(self._T_cam_map, np.nan_to_num(points_hw3)) @ self._R_view_cam.T
        cloud = cloud_collection(points_hw3, self._surface_hw, self._image_hw3, self._stride)
        axes.add_collection(cloud)
        self._draw_camera(axes, np.eye(4), _CAMERA_COLOUR, 0.9)
        if T_map_cam is not None:
            self._draw_camera(axes, self._T_cam_map @ T_map_cam, _ESTIMATE_COLOUR, 1.3)
        axes.set(
            xlim=(self._low[0], self._high[0]), ylim=(self._low[1], self._high[1]), aspect="equal"
        )

    def draw_scale_bar(self, axes: Axes) -> None:
        """Draw the length of one metre, or of one unit where the scale is unknown."""
        x, below = self._low[0], axes.get_xaxis_transform()
        axes.plot([x, x + 1], [-0.03] * 2, color=INK, linewidth=1.5, transform=below, clip_on=False)
        axes.text(x + 1, -0.03, f"  1 {self._unit}", va="center", fontsize=8, transform=below)

    def _draw_camera(self, axes: Axes, T_cam_other: np.ndarray, colour: str, width: float) -> None:
        lines = self._project(transform(T_cam_other, self._frustum_823))
        axes.add_collection(LineCollection(list(lines), colors=colour, linewidths=width, zorder=3))

    def _project(self, points: np.ndarray) -> np.ndarray:
        """Return figure coordinates (..., 2) of points (..., 3) of the camera frame."""
        return (points @ self._R_view_cam.T)[..., :2] * (1, -1)
