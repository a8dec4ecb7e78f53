"""Exports a reconstruction's coloured cloud: PLY for point cloud viewers, rerun, a picture."""

import os
import tempfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from distill_training.reconstruction.format import Reconstruction
from mote_localization.camera import frustum_edges
from mote_localization.errors import ReconstructionError
from mote_localization.files import atomic_write
from mote_localization.geometry import transform
from mote_localization.level_rotation import level_rotation
from mote_localization.ply_files import write_ply
from mote_localization.progress import track

RERUN = "rerun-sdk==0.41.0"  # the tested version; too large for a dependency
MOST_POINTS = 2_000_000
_CAMERA_RGB = (213, 94, 0)  # vermilion of the palette by Okabe and Ito
_FRUSTUM = 0.05  # depth of a drawn frustum, over the median distance of points from their median
_DOTS = 24  # per edge of a frustum: all viewers show points, not all show the edges of a PLY
_PICTURE_POINTS = 400_000


def save_ply(reconstruction: Reconstruction, path: Path, most_points: int = MOST_POINTS) -> None:
    """Write the coloured cloud and the cameras as a binary PLY of points, metres, map frame.

    Args:
        reconstruction: A finished one.
        path: The file; an existing one is replaced only on success.
        most_points: Maximum number of points of the cloud; an even sample is written of more.

    Raises:
        ReconstructionError: A frame is damaged, there is no point, or the file cannot be written.
    """
    points_n3, colours_n3 = _cloud(reconstruction, most_points)
    _, lines_m23 = _frusta(reconstruction, points_n3)
    fraction = np.linspace(0, 1, _DOTS)[:, None, None]
    dots_n3 = (lines_m23[:, 0] * (1 - fraction) + lines_m23[:, 1] * fraction).reshape(-1, 3)
    dot_colours_n3 = np.tile(np.array(_CAMERA_RGB, np.uint8), (len(dots_n3), 1))
    write_ply(
        path,
        np.concatenate([points_n3, dots_n3]),
        np.concatenate([colours_n3, dot_colours_n3]),
        ReconstructionError,
    )


def show_rerun(
    reconstruction: Reconstruction, save: Path | None = None, most_points: int = MOST_POINTS
) -> None:
    """Show the cloud, and each camera with its image along a timeline, in the rerun viewer.

    Args:
        reconstruction: A finished one.
        save: Write a recording (.rrd) to this file instead of opening the viewer.
        most_points: Maximum number of points of the cloud; an even sample is shown of more.

    Raises:
        ReconstructionError: rerun is not installed or its viewer does not start, a frame is
            damaged, there is no point, or the file cannot be written.
    """
    rerun = import_rerun()
    recording = rerun.RecordingStream(f"mote: {reconstruction.scene}")
    if save is None:
        try:
            recording.spawn()
        except RuntimeError as error:
            raise ReconstructionError(
                f"rerun's viewer does not start ({str(error).splitlines()[0][:80]}); activate the "
                "environment in which it is installed, or save a recording and open it elsewhere"
            ) from error
        _log_rerun(rerun, recording, reconstruction, most_points)
        recording.flush()
        return
    try:
        save.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{save.name}.", dir=save.parent) as folder:
            recording.save(Path(folder) / save.name)  # rerun writes to paths, not to open files
            _log_rerun(rerun, recording, reconstruction, most_points)
            recording.disconnect()
            os.replace(Path(folder) / save.name, save)
    except OSError as error:
        raise ReconstructionError(f"{save}: cannot be written ({error.strerror})") from error


def import_rerun() -> Any:
    """Return the module `rerun`; its viewer sends no statistics of use.

    Raises:
        ReconstructionError: It is not installed.
    """
    # rerun has no other switch, but a setting in the user's home; the viewer inherits this one
    os.environ.setdefault("CI", "true")
    try:
        import rerun
    except ImportError as error:
        raise ReconstructionError(
            f"rerun cannot be used ({str(error)[:80]}); install it with `pip install {RERUN}`"
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
    depth_m, lines_m23 = _frusta(reconstruction, points_n3)
    lines = rerun.LineStrips3D(lines_m23, colors=[_CAMERA_RGB])
    recording.log("map/cameras", lines, static=True)
    pinhole = rerun.Pinhole(
        image_from_camera=camera.K_33,
        resolution=[camera.width, camera.height],
        image_plane_distance=4 * depth_m,
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

    The up direction is estimated from the cameras. The view from above omits points higher than
    the cameras.

    Raises:
        ReconstructionError: A frame is damaged, there is no point, or the file cannot be written.
    """
    poses = np.array(list(reconstruction.poses.values()))
    points_n3, colours_n3 = _cloud(reconstruction, _PICTURE_POINTS)
    R = level_rotation(list(poses))
    across = np.linalg.svd(np.cov((points_n3 @ R.T)[:, :2].T))[0].T  # longest extent to the right
    R[:2] = across * (1, np.linalg.det(across)) @ R[:2]
    points_n3, path_n3 = points_n3 @ R.T, poses[:, :3, 3] @ R.T
    corner = np.minimum(np.percentile(points_n3, 0.5, axis=0), path_n3.min(0))
    points_n3, path_n3 = points_n3 - corner, path_n3 - corner
    top = np.maximum(np.percentile(points_n3, 99.5, axis=0), path_n3.max(0))
    style: Any = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}
    with rc_context(style):
        heights = top[[1, 2]] / top[0]
        figure = Figure((7.2, 1.2 + 6.4 * float(heights.sum())), dpi=150, layout="constrained")
        above, side = figure.subplots(2, 1, sharex=True, height_ratios=heights)
        below = points_n3[:, 2] < path_n3[:, 2].max()
        _draw(above, points_n3[below], colours_n3[below], path_n3, (0, 1, 2), top)
        _draw(side, points_n3, colours_n3, path_n3, (0, 2, 1), top)
        above.set_title(f"{reconstruction.scene} from above, up to the height of the cameras")
        side.set_title("from the side")
        unit = "m" if reconstruction.metric else "units (the scale is unknown)"
        side.set_xlabel(unit)
        for axes in (above, side):
            axes.set_ylabel(unit)
        with atomic_write(path, ReconstructionError) as file:
            figure.savefig(file, format="png")


def _draw(
    axes: Axes,
    points_n3: np.ndarray,
    colours_n3: np.ndarray,
    path_n3: np.ndarray,
    order: tuple[int, int, int],
    top: np.ndarray,
) -> None:
    """Draw points along two axes, the nearest along the third one last."""
    i, j, depth = order
    nearest_last = np.argsort(points_n3[:, depth] * (1 if depth == 2 else -1))
    points_n3, colours_n3 = points_n3[nearest_last], colours_n3[nearest_last]
    axes.scatter(points_n3[:, i], points_n3[:, j], s=0.6, c=colours_n3 / 255, linewidths=0)
    axes.plot(path_n3[:, i], path_n3[:, j], ".", color=np.array(_CAMERA_RGB) / 255, ms=3)
    axes.set(xlim=(0, top[i]), ylim=(0, top[j]), aspect="equal")


def _cloud(reconstruction: Reconstruction, most_points: int) -> tuple[np.ndarray, np.ndarray]:
    """Return points (n, 3) float32 and their colours (n, 3) uint8, an even sample of all cells."""
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
        # `most_points` of `cells` points are chosen, as evenly as integers allow.
        steps = -(-most_points * np.arange(seen, seen + known.sum() + 1) // cells)
        chosen = np.diff(steps) > 0
        seen += len(chosen)
        points.append(frame.points_hw3[known][chosen])
        small_hw3 = cv2.resize(frame.image_hw3, (columns, rows), interpolation=cv2.INTER_AREA)
        colours.append(small_hw3[known][chosen])
    if not any(map(len, points)):
        raise ReconstructionError(
            f"{reconstruction.folder}: holds no point, expected some; reconstruct again"
        )
    return np.concatenate(points), np.concatenate(colours)


def _frusta(reconstruction: Reconstruction, points_n3: np.ndarray) -> tuple[float, np.ndarray]:
    """Return depth (m) and edges (m, 2, 3) of all cameras' frusta, eight edges each, map frame."""
    middle = np.median(points_n3, axis=0)
    depth_m = _FRUSTUM * float(np.median(np.linalg.norm(points_n3 - middle, axis=1)))
    edges_823 = frustum_edges(reconstruction.camera, depth_m)
    poses = reconstruction.poses.values()
    return depth_m, np.array([transform(T, edges_823) for T in poses]).reshape(-1, 2, 3)
