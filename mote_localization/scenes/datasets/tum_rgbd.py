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

from bisect import bisect_left
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mote_localization.calibration_files import read_calibration
from mote_localization.camera import Camera
from mote_localization.errors import CameraError, SceneError
from mote_localization.geometry import exp_rotation, log_rotation, pose_from, rigid
from mote_localization.scenes.frame_files import (
    FileFrame,
    FileScene,
    find_image,
    inside,
    make_frames,
    size_of_image,
)
from mote_localization.scenes.text_files import read_intrinsics, read_text

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
_MAX_DEPTH_OFFSET_S = 0.02  # between an image and its depth image
_MAX_POSE_GAP_S = 0.1  # between the two true poses around an image


class TumRgbdScene(FileScene):
    """A recording, all frames for training. Poses are interpolated to the images' stamps.

    A frame has no pose where the true poses around it are more than 0.1 s apart, and no depth where
    no depth image is within 20 ms.
    """

    def __init__(self, path: Path | str) -> None:
        """Open the folder.

        Raises:
            SceneError: Files are missing or damaged, or a line has another form.
        """
        path = Path(path)
        images = _read_files(path / "rgb.txt")
        if not images:
            raise SceneError(f"{path}/rgb.txt: names no image, expected lines 'stamp path'")
        depths = _read_files(path / "depth.txt")
        depth_stamps = [stamp for stamp, _ in depths]
        truth = _Trajectory(path / "groundtruth.txt")
        camera, camera_from = _find_camera(path, images[0][1])

        def frame(index: int, name: str) -> FileFrame:
            stamp_s, image = images[index]
            near = _nearest(depth_stamps, stamp_s)
            depth = None
            if near is not None and abs(depth_stamps[near] - stamp_s) <= _MAX_DEPTH_OFFSET_S:
                depth = inside(path, depths[near][1])
            return FileFrame(
                name,
                stamp_s,
                camera,
                truth.at(stamp_s),
                find_image(path, image, ("",)),
                depth,
                _DEPTH_UNIT_M,
                camera_from=camera_from,
            )

        names = [Path(image).stem for _, image in images]
        super().__init__(path, make_frames(path, names, frame))


def _rows(path: Path, count: int, expected: str) -> Iterator[tuple[list[str], str]]:
    """Yield the columns of each line, and the line's place for messages.

    Args:
        path: The file.
        count: How many of the first columns are numbers.
        expected: The names of the columns.

    Raises:
        SceneError: A line has fewer columns, or its numbers are not finite numbers.
    """
    for number, line in enumerate(read_text(path).splitlines(), 1):
        if not line.strip() or line.lstrip().startswith(("#", "timestamp")):
            continue
        row, where = line.split(), f"{path}, line {number}"
        try:
            numbers = np.array(row[:count], float)
        except ValueError:
            numbers = np.array(np.nan)
        if len(row) < len(expected.split()) or not np.isfinite(numbers).all():
            raise SceneError(f"{where}: found {line[:60]!r}, expected '{expected}'")
        yield row, where


def _read_files(path: Path) -> list[tuple[float, str]]:
    """Return stamps and relative paths of files in their order; none where the list is missing."""
    if not path.exists():
        return []
    return sorted((float(row[0]), row[1]) for row, _ in _rows(path, 1, "stamp path"))


class _Trajectory:
    """True poses by their stamps."""

    def __init__(self, path: Path) -> None:
        self._poses: dict[float, np.ndarray] = {}
        rows = _rows(path, 8, "stamp tx ty tz qx qy qz qw") if path.exists() else ()
        for row, where in rows:
            numbers = np.array(row[:8], float)
            if abs(np.linalg.norm(numbers[4:]) - 1) > 1e-2:
                raise SceneError(
                    f"{where}: found the quaternion {' '.join(row[4:8])[:60]}, expected length 1"
                )
            self._poses[float(numbers[0])] = pose_from(numbers[1:4], numbers[4:])
        self._stamps = sorted(self._poses)

    def at(self, stamp_s: float) -> np.ndarray | None:
        """Return the pose (4, 4) at a time, linear between its neighbours; None: not known."""
        after = bisect_left(self._stamps, stamp_s)
        if after < len(self._stamps) and self._stamps[after] == stamp_s:
            return self._poses[stamp_s]
        if not 0 < after < len(self._stamps):
            return None
        start, end = self._stamps[after - 1 : after + 1]
        if end - start > _MAX_POSE_GAP_S:
            return None
        fraction = (stamp_s - start) / (end - start)
        A, B = self._poses[start], self._poses[end]
        rotation_3 = log_rotation(A[:3, :3].T @ B[:3, :3])
        return rigid(
            A[:3, :3] @ exp_rotation(fraction * rotation_3),
            A[:3, 3] + fraction * (B[:3, 3] - A[:3, 3]),
        )


def _nearest(stamps: list[float], stamp_s: float) -> int | None:
    """Return the index of the nearest stamp; None where there are none."""
    after = bisect_left(stamps, stamp_s)
    near = [i for i in (after - 1, after) if 0 <= i < len(stamps)]
    return min(near, key=lambda i: abs(stamps[i] - stamp_s), default=None)


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
