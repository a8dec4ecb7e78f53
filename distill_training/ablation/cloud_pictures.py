"""Pictures of an ablation: the teacher's cloud of a held-out image beside the students'."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from distill_training.ablation.plots import INK, RULE, STYLE, colours, metric_unit, save
from distill_training.ablation.trainings import Outcome, held_out_names
from distill_training.reconstruction import ReconstructedFrame, Reconstruction
from mote_localization.camera import Camera
from mote_localization.geometry import invert, rotation_angle, transform
from mote_localization.localizer import Localization, Localizer
from mote_localization.progress import track

_COLUMNS = 6  # clouds beside each other
_MOST_STUDENTS = 3 * _COLUMNS - 2
_SIDE_IN = 2.8  # width of a cloud
_TITLE_IN = 0.32  # room for what stands above it
_SCALE_CM = (1.0, 100.0)  # the same in all pictures, as ratios: they can be compared
_TICKS_CM = (1, 2, 5, 10, 20, 50, 100)
_VIEW_DEG = (24.0, 20.0)  # from which side and from how far above the clouds are seen
_FRUSTUM = 0.15  # depth of a camera, of the median depth of the points
_BREAK = 5.0  # a surface breaks where neighbours are that many cell widths apart
_FINE = 4  # parts a cell's side is cut into for drawing
_CAMERA, _FOUND = INK, "#D55E00"
_HEAT, _BEHIND = "magma_r", "#eceff2"


@dataclass(frozen=True)
class _Answer:
    """What a student says of one image."""

    name: str
    colour: str
    found: Localization
    error_hw: np.ndarray  # cm, distance of its points to the teacher's; NaN where there are none


@dataclass(frozen=True)
class _Shot:
    """One held-out image, and where the teacher says that its cells lie."""

    reconstruction: Reconstruction
    name: str
    frame: ReconstructedFrame

    @property
    def T_map_cam(self) -> np.ndarray:
        """Where it was taken."""
        return self.reconstruction.given_pose(self.name)


def write_pictures(outcomes: Sequence[Outcome], folder: Path, count: int) -> None:
    """Draw clouds and differences on some held-out images of each reconstruction.

    Args:
        outcomes: Finished trainings.
        folder: Where the pictures go, as RECONSTRUCTION-FRAME.png.
        count: Pictures of each reconstruction.

    Raises:
        MoteError: A map or a frame cannot be read, or a file cannot be written.
    """
    sources = list(dict.fromkeys(o.run.source for o in outcomes))
    drawn = {s: _chosen([o for o in outcomes if o.run.source == s], count) for s in sources}
    shots = [(source, name) for source, names in drawn.items() for name in names]
    localizers: dict[str, list[tuple[str, str, Localizer]]] = {}
    for source, name in track(shots, "pictures", len(shots)):
        told = [o for o in outcomes if o.run.source == source]
        if source not in localizers:
            localizers = {
                source: [
                    (o.run.name, colour, Localizer.open(o.map))
                    for o, colour in zip(told, colours(told), strict=True)
                    if o in _best(told)
                ]
            }
        reconstruction = told[0].run.reconstruction
        frame = reconstruction.read_frame(name)
        points_hw3 = reconstruction.in_given_frame(name, frame.points_hw3)
        shot = _Shot(reconstruction, name, replace(frame, points_hw3=points_hw3))
        answers = [_answer(shot, *student) for student in localizers[source]]
        plain = re.sub(r"[^\w.+-]+", "-", name)
        picture(shot, answers, folder / f"{source}-{plain}.png")


def _chosen(outcomes: Sequence[Outcome], count: int) -> list[str]:
    """Return evenly spread held-out frames."""
    names = held_out_names(outcomes[0].run)
    places = (np.arange(min(count, len(names))) + 0.5) * len(names) / max(1, min(count, len(names)))
    return [names[int(place)] for place in places]


def _best(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Return as many as a picture takes, those whose held-out points are best."""
    ranked = sorted(outcomes, key=lambda o: o.figures["held_out_cell_cm"])
    return ranked[:_MOST_STUDENTS]


def _answer(shot: _Shot, name: str, colour: str, localizer: Localizer) -> _Answer:
    found = localizer.localize(shot.frame.image_hw3, shot.reconstruction.camera)
    error_hw = 100 * np.linalg.norm(found.points_hw3 - shot.frame.points_hw3, axis=-1)
    return _Answer(name, colour, found, error_hw)


def picture(shot: _Shot, answers: Sequence[_Answer], path: Path) -> None:
    """Draw photo, clouds from one viewpoint, and below them how far students are off.

    Raises:
        MoteError: The file cannot be written.
    """
    bands = -(-(2 + len(answers)) // _COLUMNS)
    columns = -(-(2 + len(answers)) // bands)
    unit = metric_unit(shot.reconstruction.metric)
    view = _View(shot)
    camera = shot.reconstruction.camera
    heights = (view.aspect, camera.height / camera.width)
    with rc_context({**STYLE, "axes.titlelocation": "center"}):
        tall = _SIDE_IN * sum(heights) + 2 * _TITLE_IN
        figure = Figure((_SIDE_IN * columns + 0.8, bands * tall), layout="constrained")
        figure.get_layout_engine().set(h_pad=0.08)  # type: ignore[union-attr, call-arg]
        grid = figure.add_gridspec(2 * bands, columns, height_ratios=heights * bands)
        places = [(2 * (i // columns), i % columns) for i in range(2 + len(answers))]
        upper = [figure.add_subplot(grid[row, column]) for row, column in places]
        lower = [figure.add_subplot(grid[row + 1, column]) for row, column in places[2:]]
        for axes in (*upper, *lower):
            axes.set(xticks=[], yticks=[], facecolor=_BEHIND, anchor="N")
            axes.spines[:].set_visible(False)
        photo, teacher, *clouds = upper
        photo.imshow(shot.frame.image_hw3)
        photo.set_title(f"{shot.reconstruction.scene}, {shot.name}")
        view.draw(teacher, shot.frame.points_hw3)
        view.draw_metre(teacher)
        teacher.set_title(f"teacher: {shot.reconstruction.teacher}", fontweight="bold")
        _shares(figure.add_subplot(grid[1, :2]), answers, unit)
        for cloud, difference, answer in zip(clouds, lower, answers, strict=True):
            view.draw(cloud, answer.found.points_hw3, answer.found.T_map_cam)
            cloud.set_title(answer.name, color=answer.colour, fontweight="bold")
            _heat(difference, answer.error_hw, shot)
            difference.set_title(_words(shot, answer, unit), fontsize=8)
        heat = ScalarMappable(LogNorm(*_SCALE_CM), _HEAT)
        bar = figure.colorbar(heat, ax=upper + lower, fraction=0.03, pad=0.01)
        bar.set_label(f"distance to the teacher's point ({unit})")
        bar.outline.set_linewidth(0)
        _as_numbers(bar.ax.yaxis)
        save(figure, path)


def _words(shot: _Shot, answer: _Answer, unit: str) -> str:
    """Return how far points and camera are off."""
    found = answer.found
    words = f"points {np.nanmedian(answer.error_hw):.1f} {unit}"
    if found.T_map_cam is None:
        return f"{words}; no pose"
    centimetres = 100 * np.linalg.norm(found.T_map_cam[:3, 3] - shot.T_map_cam[:3, 3])
    angle = rotation_angle(found.T_map_cam[:3, :3].T @ shot.T_map_cam[:3, :3])
    return f"{words}; camera {centimetres:.1f} {unit}, {np.degrees(angle):.1f}°"


def _as_numbers(axis: Axis) -> None:
    """Show the scale of the differences along an axis."""
    axis.set_major_locator(FixedLocator(_TICKS_CM))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _heat(axes: Axes, values_hw: np.ndarray, shot: _Shot) -> None:
    """Draw cells on the image's area, grey where the teacher knows nothing."""
    camera = shot.reconstruction.camera
    extent = (-0.5, camera.width - 0.5, camera.height - 0.5, -0.5)
    shown_hw = np.where(np.isfinite(shot.frame.points_hw3).all(-1), values_hw, np.nan)
    axes.imshow(
        shown_hw, cmap=_HEAT, norm=LogNorm(*_SCALE_CM), extent=extent, interpolation="nearest"
    )


def _shares(axes: Axes, answers: Sequence[_Answer], unit: str) -> None:
    """Draw for each student which share of the cells is off by less."""
    for answer in answers:
        errors = np.sort(answer.error_hw[np.isfinite(answer.error_hw)])
        shares = 100 * np.arange(1, len(errors) + 1) / max(1, len(errors))
        axes.plot(errors, shares, color=answer.colour, linewidth=1.6)
    axes.set_xscale("log")
    axes.set(xlim=_SCALE_CM, ylim=(0, 100))
    _as_numbers(axes.xaxis)
    axes.set_yticks([0, 25, 50, 75, 100])
    axes.tick_params(labelsize=8)
    axes.grid(color=RULE, linewidth=0.5)
    axes.set_xlabel(f"distance to the teacher's point ({unit})", fontsize=8)
    axes.set_ylabel("cells below (%)", fontsize=8)


class _View:
    """One viewpoint, beside and above the camera that took an image; orthographic."""

    def __init__(self, shot: _Shot) -> None:
        """Choose the tiles of the teacher's surfaces, and a window on them and the camera."""
        camera = shot.reconstruction.camera
        self._T_cam_map = invert(shot.T_map_cam)
        self._image_hw3, self._stride = shot.frame.image_hw3, shot.reconstruction.stride
        yaw, pitch = np.radians(_VIEW_DEG)
        turn = cv2.Rodrigues(np.array([0, yaw, 0]))[0]
        self._R = cv2.Rodrigues(np.array([pitch, 0, 0]))[0] @ turn
        points_hw3 = transform(self._T_cam_map, shot.frame.points_hw3.astype(float))
        tiles_hw43 = _tiles(points_hw3)
        edges = np.linalg.norm(tiles_hw43 - np.roll(tiles_hw43, 1, axis=2), axis=-1).max(-1)
        with np.errstate(invalid="ignore"):
            self._whole = edges < _BREAK * self._stride / camera.fx * tiles_hw43[..., 2].mean(-1)
        depth = float(np.nanmedian(points_hw3[..., 2]))
        self._unit = "m" if shot.reconstruction.metric else "unit"
        self._outline = _frustum(camera, _FRUSTUM * depth)
        seen = self._seen(points_hw3[np.isfinite(points_hw3).all(-1)])
        corners = self._seen(self._outline).reshape(-1, 2)
        seen = np.concatenate([np.percentile(seen, (2, 98), axis=0), corners])
        self._low, self._high = seen.min(0) - 0.06 * depth, seen.max(0) + 0.06 * depth
        width, height = self._high - self._low
        self.aspect = float(np.clip(height / width, 0.5, 1.2))

    def draw(self, axes: Axes, points_hw3: np.ndarray, T_map_cam: np.ndarray | None = None) -> None:
        """Draw a cloud, map frame, as tiles of the image, the camera, and the one found."""
        seen_hw3 = (transform(self._T_cam_map, np.nan_to_num(points_hw3)) @ self._R.T).astype(
            np.float32
        )
        whole = self._whole.repeat(_FINE, 0).repeat(_FINE, 1)
        rows, columns = np.mgrid[: whole.shape[0] + 1, : whole.shape[1] + 1].astype(np.float32)
        rows, columns = rows / _FINE, columns / _FINE
        tiles = _tiles(cv2.remap(seen_hw3, columns, rows, cv2.INTER_LINEAR))[whole]
        middle = self._stride * 0.5 / _FINE + (self._stride - 1) / 2
        colours_hw3 = cv2.remap(
            self._image_hw3, self._stride * columns[:-1, :-1] + middle,
            self._stride * rows[:-1, :-1] + middle, cv2.INTER_LINEAR,
        )  # fmt: skip
        farthest_first = np.argsort(-tiles[..., 2].mean(-1))
        axes.add_collection(
            PolyCollection(
                list(tiles[farthest_first][..., :2] * (1, -1)),
                facecolors=colours_hw3[whole][farthest_first] / 255, linewidths=0,
                antialiased=False,
            )
        )  # fmt: skip
        self._draw_camera(axes, np.eye(4), _CAMERA, 0.9)
        if T_map_cam is not None:
            self._draw_camera(axes, self._T_cam_map @ T_map_cam, _FOUND, 1.3)
        axes.set(
            xlim=(self._low[0], self._high[0]), ylim=(self._low[1], self._high[1]), aspect="equal"
        )

    def draw_metre(self, axes: Axes) -> None:
        """Draw the length of a metre, or of a unit where the scale is unknown."""
        x, below = self._low[0], axes.get_xaxis_transform()
        axes.plot([x, x + 1], [-0.03] * 2, color=INK, linewidth=1.5, transform=below, clip_on=False)
        axes.text(x + 1, -0.03, f"  1 {self._unit}", va="center", fontsize=8, transform=below)

    def _draw_camera(self, axes: Axes, T_cam_other: np.ndarray, colour: str, width: float) -> None:
        lines = self._seen(transform(T_cam_other, self._outline))
        axes.add_collection(LineCollection(list(lines), colors=colour, linewidths=width, zorder=3))

    def _seen(self, points: np.ndarray) -> np.ndarray:
        """Return where points (..., 3), camera frame, are drawn, (..., 2)."""
        return (points @ self._R.T)[..., :2] * (1, -1)


def _tiles(points_hw3: np.ndarray) -> np.ndarray:
    """Return the corners (h - 1, w - 1, 4, 3) of the tiles between neighbouring cells."""
    corners = (np.s_[:-1, :-1], np.s_[:-1, 1:], np.s_[1:, 1:], np.s_[1:, :-1])
    return np.stack([points_hw3[c] for c in corners], axis=2)


def _frustum(camera: Camera, depth: float) -> np.ndarray:
    """Return the edges (8, 2, 3) of a camera's view to some depth, camera frame."""
    w, h = camera.width - 0.5, camera.height - 0.5
    corners = depth * camera.rays(np.array([[-0.5, -0.5], [w, -0.5], [w, h], [-0.5, h]]))
    sides = np.stack([corners, np.roll(corners, 1, axis=0)], axis=1)
    spokes = np.stack([np.zeros_like(corners), corners], axis=1)
    return np.concatenate([sides, spokes])
