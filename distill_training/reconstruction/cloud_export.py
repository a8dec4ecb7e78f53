"""A Reconstruction to look at: a cloud for any point cloud viewer, a rerun recording, a picture."""

import os
import tempfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from distill_training.reconstruction import Reconstruction
from mote_localization.camera import Camera
from mote_localization.errors import ReconstructionError
from mote_localization.files import atomic_write
from mote_localization.geometry import level_rotation, transform
from mote_localization.progress import track

RERUN = "rerun-sdk==0.41.0"  # what `show_rerun` was tried with; too large to come along
MOST_POINTS = 2_000_000
_CAMERA_RGB = (213, 94, 0)  # Okabe and Ito's vermilion
_FRUSTUM = 0.05  # its depth, of the median distance of the points from their middle
_DOTS = 24  # drawn for an edge of a frustum: every viewer shows points, not all a PLY's edges
_DRAWN = 400_000  # points of a picture
_PLY_VERTEX = np.dtype([("xyz", "<f4", 3), ("rgb", "u1", 3)])


def save_ply(reconstruction: Reconstruction, path: Path, most_points: int = MOST_POINTS) -> None:
    """Write the coloured cloud and the cameras as a binary PLY of points, metres, map frame.

    Args:
        reconstruction: A finished one.
        path: Where it goes; what was there survives a failure.
        most_points: Of the cloud; an even choice is written where there are more.

    Raises:
        ReconstructionError: A frame is damaged, nothing is known, or the file cannot be written.
    """
    points_n3, colours_n3 = _cloud(reconstruction, most_points)
    lines_m23 = _frusta(reconstruction, _size(points_n3)).reshape(-1, 2, 3)
    share = np.linspace(0, 1, _DOTS)[:, None, None]
    dots_n3 = (lines_m23[:, 0] * (1 - share) + lines_m23[:, 1] * share).reshape(-1, 3)
    vertices = np.empty(len(points_n3) + len(dots_n3), _PLY_VERTEX)
    vertices["xyz"] = np.concatenate([points_n3, dots_n3])
    vertices["rgb"][: len(points_n3)] = colours_n3
    vertices["rgb"][len(points_n3) :] = _CAMERA_RGB
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(vertices)}"]
    header += [f"property float {axis}" for axis in "xyz"]
    header += [f"property uchar {colour}" for colour in ("red", "green", "blue")]
    try:
        with atomic_write(path) as file:
            file.write("\n".join([*header, "end_header\n"]).encode())
            file.write(vertices.data)
    except OSError as error:
        raise _not_written(path, error) from error


def show_rerun(
    reconstruction: Reconstruction, save: Path | None = None, most_points: int = MOST_POINTS
) -> None:
    """Show the cloud and, along a timeline, each camera with its image, in the rerun viewer.

    Args:
        reconstruction: A finished one.
        save: Write a recording (.rrd) there instead of opening the viewer.
        most_points: Of the cloud; an even choice is shown where there are more.

    Raises:
        ReconstructionError: rerun is not installed or its viewer does not start, a frame is
            damaged, nothing is known, or the file cannot be written.
    """
    rerun = import_rerun()
    recording = rerun.RecordingStream(f"mote: {reconstruction.scene}")
    if save is None:
        try:
            recording.spawn()
        except RuntimeError as error:
            raise ReconstructionError(
                f"rerun's viewer does not start ({str(error).splitlines()[0]}); activate the "
                "environment in which it is installed, or save a recording and open it elsewhere"
            ) from error
        _log_rerun(rerun, recording, reconstruction, most_points)
        recording.flush()
        return
    try:
        save.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{save.name}.", dir=save.parent) as folder:
            recording.save(Path(folder) / save.name)  # rerun writes to paths only
            _log_rerun(rerun, recording, reconstruction, most_points)
            recording.disconnect()
            os.replace(Path(folder) / save.name, save)
    except OSError as error:
        raise _not_written(save, error) from error


def import_rerun() -> Any:
    """Return the module.

    Raises:
        ReconstructionError: It is not installed.
    """
    try:
        import rerun
    except ImportError as error:
        raise ReconstructionError(
            f"rerun cannot be used ({error}); install it with `pip install {RERUN}`"
        ) from error
    return rerun


def _log_rerun(
    rerun: Any, recording: Any, reconstruction: Reconstruction, most_points: int
) -> None:
    """Log cloud and cameras; images one at a time, as JPEG."""
    camera = reconstruction.camera
    up = level_rotation(list(reconstruction.poses.values()))[2]
    axis = int(np.abs(up).argmax())
    views = rerun.ViewCoordinates
    world = (views.RIGHT_HAND_X_UP, views.RIGHT_HAND_Y_UP, views.RIGHT_HAND_Z_UP)
    world_down = (views.RIGHT_HAND_X_DOWN, views.RIGHT_HAND_Y_DOWN, views.RIGHT_HAND_Z_DOWN)
    recording.log("map", (world if up[axis] > 0 else world_down)[axis], static=True)
    points_n3, colours_n3 = _cloud(reconstruction, most_points)
    recording.log("map/points", rerun.Points3D(points_n3, colors=colours_n3), static=True)
    size = _size(points_n3)
    lines = _frusta(reconstruction, size).reshape(-1, 2, 3)
    recording.log("map/cameras", rerun.LineStrips3D(lines, colors=[_CAMERA_RGB]), static=True)
    pinhole = rerun.Pinhole(
        image_from_camera=camera.K_33,
        resolution=[camera.width, camera.height],
        image_plane_distance=4 * size,
    )
    recording.log("map/camera", pinhole, static=True)
    for i, (name, T) in enumerate(reconstruction.poses.items()):
        recording.set_time("frame", sequence=i)
        pose = rerun.Transform3D(translation=T[:3, 3], mat3x3=T[:3, :3])
        image = rerun.Image(reconstruction.read_frame(name).image_hw3).compress()
        recording.log("map/camera", pose)
        recording.log("map/camera/image", image)
        recording.log("name", rerun.TextLog(name))


def picture(reconstruction: Reconstruction, path: Path) -> None:
    """Draw the cloud from above and from the side, with the path of the cameras, as a PNG.

    Up is what the cameras say. What lies higher than the cameras is left out from above.

    Raises:
        ReconstructionError: A frame is damaged, nothing is known, or the file cannot be written.
    """
    poses = np.array(list(reconstruction.poses.values()))
    points_n3, colours_n3 = _cloud(reconstruction, _DRAWN)
    R = level_rotation(list(poses))
    across = np.linalg.svd(np.cov((points_n3 @ R.T)[:, :2].T))[0].T  # longest side to the right
    R[:2] = across * (1, np.linalg.det(across)) @ R[:2]
    points_n3, track_n3 = points_n3 @ R.T, poses[:, :3, 3] @ R.T
    corner = np.minimum(np.percentile(points_n3, 0.5, axis=0), track_n3.min(0))
    points_n3, track_n3 = points_n3 - corner, track_n3 - corner
    top = np.maximum(np.percentile(points_n3, 99.5, axis=0), track_n3.max(0))
    style: Any = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}
    with rc_context(style):
        heights = top[[1, 2]] / top[0]
        figure = Figure((7.2, 1.2 + 6.4 * float(heights.sum())), dpi=150, layout="constrained")
        above, side = figure.subplots(2, 1, sharex=True, height_ratios=heights)
        below = points_n3[:, 2] < track_n3[:, 2].max()
        _draw(above, points_n3[below], colours_n3[below], track_n3, (0, 1, 2), top)
        _draw(side, points_n3, colours_n3, track_n3, (0, 2, 1), top)
        above.set_title(f"{reconstruction.scene} from above, to the height of the cameras")
        side.set_title("from the side")
        unit = "m" if reconstruction.metric else "units (the scale is unknown)"
        side.set_xlabel(unit)
        for axes in (above, side):
            axes.set_ylabel(unit)
        try:
            with atomic_write(path) as file:
                figure.savefig(file, format="png")
        except OSError as error:
            raise _not_written(path, error) from error


def _draw(
    axes: Axes,
    points_n3: np.ndarray,
    colours_n3: np.ndarray,
    track_n3: np.ndarray,
    order: tuple[int, int, int],
    top: np.ndarray,
) -> None:
    """Draw points along two axes, those nearest along the third last."""
    i, j, depth = order
    nearest_last = np.argsort(points_n3[:, depth] * (1 if depth == 2 else -1))
    points_n3, colours_n3 = points_n3[nearest_last], colours_n3[nearest_last]
    axes.scatter(points_n3[:, i], points_n3[:, j], s=0.6, c=colours_n3 / 255, linewidths=0)
    axes.plot(track_n3[:, i], track_n3[:, j], ".", color=np.array(_CAMERA_RGB) / 255, ms=3)
    axes.set(xlim=(0, top[i]), ylim=(0, top[j]), aspect="equal")


def _cloud(reconstruction: Reconstruction, most_points: int) -> tuple[np.ndarray, np.ndarray]:
    """Return points (n, 3) float32 and their colours (n, 3) uint8, an even choice of all cells."""
    if most_points < 1:
        raise ReconstructionError(f"found {most_points} points at most, expected 1 or more")
    camera, poses = reconstruction.camera, reconstruction.poses
    columns, rows = camera.width // reconstruction.stride, camera.height // reconstruction.stride
    cells = len(poses) * rows * columns
    most_points = min(most_points, cells)
    points, colours, seen = [], [], 0
    for name in track(poses, "cloud", len(poses)):
        frame = reconstruction.read_frame(name)
        known = np.isfinite(frame.points_hw3).all(-1)
        # Of every `cells` points `most_points`, as evenly as whole numbers can be.
        steps = -(-most_points * np.arange(seen, seen + known.sum() + 1) // cells)
        chosen = np.diff(steps) > 0
        seen += len(chosen)
        points.append(frame.points_hw3[known][chosen])
        small_hw3 = cv2.resize(frame.image_hw3, (columns, rows), interpolation=cv2.INTER_AREA)
        colours.append(small_hw3[known][chosen])
    if not any(map(len, points)):
        raise ReconstructionError(f"{reconstruction.folder}: holds no point to look at")
    return np.concatenate(points), np.concatenate(colours)


def _size(points_n3: np.ndarray) -> float:
    """Return the depth, m, of which cameras are drawn."""
    middle = np.median(points_n3, axis=0)
    return _FRUSTUM * float(np.median(np.linalg.norm(points_n3 - middle, axis=1)))


def _frusta(reconstruction: Reconstruction, size_m: float) -> np.ndarray:
    """Return the eight edges of each camera's view, (n, 8, 2, 3), map frame."""
    corners_43 = size_m * _corner_rays(reconstruction.camera)
    sides = np.stack([corners_43, np.roll(corners_43, 1, axis=0)], axis=1)
    spokes = np.stack([np.zeros_like(corners_43), corners_43], axis=1)
    edges_823 = np.concatenate([sides, spokes])
    return np.array([transform(T, edges_823) for T in reconstruction.poses.values()])


def _corner_rays(camera: Camera) -> np.ndarray:
    """Return the rays (4, 3) through the image's corners."""
    right, bottom = camera.width - 0.5, camera.height - 0.5
    return camera.rays(
        np.array([[-0.5, -0.5], [right, -0.5], [right, bottom], [-0.5, bottom]], np.float64)
    )


def _not_written(path: Path, error: OSError) -> ReconstructionError:
    return ReconstructionError(f"{path}: cannot be written ({error.strerror})")
