"""Recordings in the layout of the TUM RGB-D benchmark (Sturm et al. 2012).

rgb.txt                      lines `stamp path` of the colour images
depth.txt                    the same of the depth images, 5000 a metre, registered to colour
groundtruth.txt              lines `stamp tx ty tz qx qy qz qw`, optical frame of the colour camera
camera.yaml                  calibration as `camera_calibration` writes it; or
camera-intrinsics.txt        3x3 or 4x4 K; or
calibration.txt              fx fy cx cy, or 3x3 K

All but rgb.txt are optional. Lines that start with # or timestamp are comments. Without a
calibration, the one that the benchmark publishes is used if the folder's name contains freiburg1,
freiburg2 or freiburg3 (cvg.cit.tum.de/data/datasets/rgbd-dataset/file_formats). Otherwise the
intrinsics are not known: other recordings in this layout are of other cameras.
"""

import math
from pathlib import Path

import numpy as np

from mote_localization.calibration_files import read_calibration
from mote_localization.camera import Camera
from mote_localization.errors import CameraError, SceneError
from mote_localization.scenes.frame_files import (
    FileFrame,
    FileScene,
    find_image,
    inside,
    make_frames,
    size_of_image,
)
from mote_localization.scenes.text_files import read_intrinsics, read_lines, read_table, read_text
from mote_localization.stamps import nearest
from mote_localization.trajectory import Trajectory

_SIZE = (640, 480)  # px, of the benchmark's images
_PUBLISHED = {
    "freiburg1": Camera(
        *_SIZE, 517.3, 516.5, 318.6, 255.3, distortion=(0.2624, -0.9531, -0.0054, 0.0026, 1.1633)
    ),
    "freiburg2": Camera(
        *_SIZE, 520.9, 521.0, 325.1, 249.7, distortion=(0.2312, -0.7849, -0.0033, -0.0001, 0.9172)
    ),
    "freiburg3": Camera(*_SIZE, 535.4, 539.2, 320.1, 247.6),
}
_DEPTH_UNIT_M = 1 / 5000
_HEADER = "timestamp"  # first word of a line that names the columns
_MAX_NUMBER = 9e9  # of a line; stamps of that many seconds are the last ones in nanoseconds
_MAX_DEPTH_OFFSET_S = 0.02  # between an image and its depth image
_MAX_POSE_GAP_NS = 100_000_000  # between the two true poses around an image


class TumRgbdScene(FileScene):
    """A recording, all frames for training. Poses are interpolated to the images' stamps.

    A frame has no pose where the true poses around it are more than 0.1 s apart, and no depth where
    no depth image is within 20 ms.
    """

    has_times = True

    def __init__(self, path: Path | str) -> None:
        """Open the folder.

        Raises:
            SceneError: Files are missing or damaged, or a line has another form.
        """
        path = Path(path)
        images = _read_files(path / "rgb.txt")
        if not images:
            raise SceneError(f"{path}/rgb.txt: names no image, expected lines 'stamp path'")
        stamps_n = np.array([stamp for stamp, _ in images])
        depths = _read_files(path / "depth.txt")
        depth_of = _nearest_depths(stamps_n, np.array([stamp for stamp, _ in depths]))
        truth = _read_trajectory(path / "groundtruth.txt")
        T_map_cam_n44, known_n = truth.at(
            np.array([_nanoseconds(stamp) for stamp, _ in images]),
            _MAX_POSE_GAP_NS,
            _MAX_POSE_GAP_NS,
        )
        camera, camera_from = _find_camera(path, images[0][1])

        def frame(index: int, name: str) -> FileFrame:
            stamp_s, image = images[index]
            depth = depth_of[index]
            return FileFrame(
                name,
                stamp_s,
                camera,
                T_map_cam_n44[index] if known_n[index] else None,
                find_image(path, image, ("",)),
                inside(path, depths[depth][1]) if depth >= 0 else None,
                _DEPTH_UNIT_M,
                camera_from=camera_from,
            )

        names = [Path(image).stem for _, image in images]
        super().__init__(path, make_frames(path, names, frame))


def _read_files(path: Path) -> list[tuple[float, str]]:
    """Return stamps and relative paths of files in their order; none where the list is missing.

    Raises:
        SceneError: A line is none of a stamp and a path, or the stamp is not finite or too large.
    """
    found = []
    for number, line in read_lines(path) if path.exists() else ():
        words = line.split()
        if not words or words[0].startswith(("#", _HEADER)):
            continue
        try:
            stamp_s = float(words[0])
        except ValueError:
            stamp_s = math.nan
        if len(words) < 2 or not abs(stamp_s) < _MAX_NUMBER:
            raise SceneError(
                f"{path}, line {number}: found {line.strip()[:60]!r}, expected 'stamp path'"
            )
        found.append((stamp_s, words[1]))
    return sorted(found)


def _nearest_depths(stamps_n: np.ndarray, depth_stamps_m: np.ndarray) -> list[int]:
    """Return the index of each image's depth; -1: none is near enough."""
    if not len(depth_stamps_m):
        return [-1] * len(stamps_n)
    nearest_n = nearest(stamps_n, depth_stamps_m)
    is_near_n = np.abs(depth_stamps_m[nearest_n] - stamps_n) <= _MAX_DEPTH_OFFSET_S
    return np.where(is_near_n, nearest_n, -1).tolist()


def _read_trajectory(path: Path) -> Trajectory:
    """Return the true poses; none where the file is missing."""
    if not path.exists():
        return Trajectory(np.empty(0, np.int64), np.empty((0, 3)), np.empty((0, 4)))
    table_n8, numbers = read_table(path, 8, "'stamp tx ty tz qx qy qz qw'", _HEADER, more=True)
    lengths_n = np.linalg.norm(table_n8[:, 4:], axis=1)
    usable_n = (np.abs(table_n8) < _MAX_NUMBER).all(axis=1) & (np.abs(lengths_n - 1) < 1e-2)
    if not usable_n.all():  # NaN, too
        first = usable_n.argmin()
        raise SceneError(
            f"{path}: line {numbers[first]}: found the pose {table_n8[first, 1:].round(3).tolist()}"
            ", expected finite numbers and a quaternion of length 1"
        )
    # the last of several poses with the same stamp
    all_n = np.round(1e9 * table_n8[::-1, 0]).astype(np.int64)
    stamps_n, from_end_n = np.unique(all_n, return_index=True)
    values_n7 = table_n8[::-1][from_end_n, 1:]
    q_n4 = values_n7[:, 3:] / np.linalg.norm(values_n7[:, 3:], axis=1, keepdims=True)
    return Trajectory(stamps_n, values_n7[:, :3], q_n4)


def _nanoseconds(stamp_s: float) -> int:
    return round(1e9 * stamp_s)


def _find_camera(folder: Path, first: str) -> tuple[Camera | None, str]:
    """Return the camera, None where it is not known, and where it is from."""
    paths = [folder / n for n in ("camera.yaml", "camera-intrinsics.txt", "calibration.txt")]
    path = next((path for path in paths if path.exists()), None)
    if path is None:
        name = folder.resolve().name.lower()
        found = next((camera for key, camera in _PUBLISHED.items() if key in name), None)
        return found, "the benchmark's calibration"
    if path.suffix == ".yaml":
        try:
            return read_calibration(path), path.name
        except CameraError as error:
            raise SceneError(str(error)) from error
    size = size_of_image(inside(folder, first))
    numbers = read_text(path).split()
    if path.name == "calibration.txt" and len(numbers) == 4:
        try:
            fx, fy, cx, cy = map(float, numbers)
            return Camera(*size, fx, fy, cx, cy), path.name
        except (ValueError, CameraError) as error:
            raise SceneError(f"{path}: {error}") from error
    return read_intrinsics(path, size), path.name
