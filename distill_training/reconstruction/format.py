"""A Reconstruction: what a teacher says of a place, as a folder written frame by frame.

    reconstruction.json     teacher, its settings, canonical camera, stride, training frames, poses;
                            where these were adjusted, also those that were given
    frames/NAME.npz         image_hw3 uint8, points_hw3 float32 (m, map frame, NaN = none), sigma_hw
    float32 (m)

The image is the canonical camera's, the pointmap at the student's stride: training needs nothing
else. Where the scale is unknown, lengths are in units of the reconstruction's own.
"""

import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from distill_training.common.array_folder import begin_folder, read_arrays, read_index, write_arrays
from mote_localization.camera import Camera
from mote_localization.errors import CameraError, ReconstructionError, SceneError
from mote_localization.geometry import check_pose, invert, transform

FORMAT_VERSION = 2
_INDEX = "reconstruction.json"


@dataclass(frozen=True)
class ReconstructedFrame:
    """One frame's pointmap."""

    image_hw3: np.ndarray  # RGB uint8, canonical camera
    points_hw3: np.ndarray  # float32, m, map frame, NaN = none
    sigma_hw: np.ndarray  # float32, m, expected error of the teacher's point


@dataclass(frozen=True)
class Reconstruction:
    """A teacher's account of a place; frames are read one at a time."""

    folder: Path
    scene: str  # name of the place
    teacher: str
    teacher_licence: str  # licence that the teacher puts on maps; empty: none
    camera: Camera  # canonical
    stride: int  # px per cell side
    settings: dict[str, float | int | str]  # of the teacher
    poses: dict[str, np.ndarray]  # training frame -> T_map_cam (4, 4), in recording order
    metric: bool = True  # False: the scale is unknown, lengths are in units of its own
    # T_map_cam as given, of the frames whose `poses` were adjusted to agree; what a map tells is in
    # their frame
    given_poses: dict[str, np.ndarray] = field(default_factory=dict)

    def given_pose(self, name: str) -> np.ndarray:
        """Return T_map_cam (4, 4) of a training frame as it was given."""
        return self.given_poses.get(name, self.poses[name])

    def in_given_frame(self, name: str, points: np.ndarray) -> np.ndarray:
        """Return points (..., 3) of a training frame as they are at its given pose."""
        if name not in self.given_poses:
            return points
        to_given = self.given_poses[name] @ invert(self.poses[name])
        return transform(to_given, points).astype(points.dtype)

    def begin(self) -> None:
        """Write the index; where there is one, check that it says the same, to resume that run.

        Raises:
            ReconstructionError: The folder holds another reconstruction, or cannot be written.
        """
        begin_folder(self.folder / _INDEX, self.index())

    def restart(self) -> None:
        """Write the index in place of another outcome of the same settings, whose frames go.

        Raises:
            ReconstructionError: The folder cannot be written.
        """
        path = self.folder / _INDEX
        try:
            # The index first: without it, frames are nobody's.
            path.unlink(missing_ok=True)
            if (self.folder / "frames").exists():
                shutil.rmtree(self.folder / "frames")
        except OSError as error:
            raise ReconstructionError(f"{path}: cannot be deleted ({error.strerror})") from error
        self.begin()

    def missing(self) -> list[str]:
        """Return the names of the frames not yet written."""
        return [name for name in self.poses if not self._frame_path(name).exists()]

    def write_frame(self, name: str, frame: ReconstructedFrame) -> None:
        """Write one frame's pointmap, whole or not at all.

        Raises:
            ReconstructionError: The file cannot be written.
        """
        write_arrays(self._frame_path(name), vars(frame))

    def read_frame(self, name: str) -> ReconstructedFrame:
        """Read one frame's pointmap.

        Raises:
            ReconstructionError: The file is missing, damaged, or not of the canonical camera's
                size.
        """
        rows, columns = self.camera.height // self.stride, self.camera.width // self.stride
        expected = {
            "image_hw3": ((self.camera.height, self.camera.width, 3), np.uint8),
            "points_hw3": ((rows, columns, 3), np.float32),
            "sigma_hw": ((rows, columns), np.float32),
        }
        return ReconstructedFrame(**read_arrays(self._frame_path(name), expected, "frame"))

    def _frame_path(self, name: str) -> Path:
        return self.folder / f"frames/{name}.npz"

    def index(self) -> dict:
        """Return what `reconstruction.json` holds: all but the pointmaps."""
        return {
            # Only what older readers would take for something else is of a newer format.
            "format_version": FORMAT_VERSION if self.given_poses else 1,
            "scene": self.scene,
            "teacher": self.teacher,
            "teacher_licence": self.teacher_licence,
            "camera": {**asdict(self.camera), "distortion": list(self.camera.distortion)},
            "stride": self.stride,
            # Said only where it is not: older folders, which do not say, stay the same.
            **({} if self.metric else {"metric": False}),
            "settings": self.settings,
            "frames": [self._described(name) for name in self.poses],
        }

    def _described(self, name: str) -> dict:
        """Return what the index holds of a frame."""
        frame = {"name": name, "T_map_cam": self.poses[name].tolist()}
        if name in self.given_poses:
            frame["T_map_cam_given"] = self.given_poses[name].tolist()
        return frame


def open_reconstruction(folder: Path | str) -> Reconstruction:
    """Open a finished reconstruction.

    Raises:
        ReconstructionError: There is none, it is unfinished or damaged, or of a newer format.
    """
    reconstruction = _read(Path(folder))
    missing = reconstruction.missing()
    if missing or not reconstruction.poses:
        raise ReconstructionError(
            f"{folder}: {len(missing)} of {len(reconstruction.poses)} frames are missing; run "
            "`mote-distill reconstruct` again to complete it"
        )
    return reconstruction


def begun_reconstruction(folder: Path) -> Reconstruction | None:
    """Return the reconstruction that a folder holds, finished or not; None where there is none.

    Raises:
        ReconstructionError: It is damaged, or of a newer format.
    """
    return _read(folder) if (folder / _INDEX).exists() else None


def _read(folder: Path) -> Reconstruction:
    path = folder / _INDEX
    index = read_index(path)
    try:
        version = index["format_version"]
        if version not in range(1, FORMAT_VERSION + 1):
            raise ReconstructionError(
                f"{path}: found format version {version}, expected up to {FORMAT_VERSION}; update "
                "Mote or reconstruct anew"
            )
        camera = Camera(**{**index["camera"], "distortion": tuple(index["camera"]["distortion"])})
        metric = index.get("metric", True)
        if not isinstance(metric, bool):
            raise TypeError(f"found metric: {metric!r}, expected true or false")
        poses: dict[str, np.ndarray] = {}
        given_poses: dict[str, np.ndarray] = {}
        for frame in index["frames"]:
            name = str(frame["name"])
            if Path(name).name != name:
                raise ReconstructionError(
                    f"{path}: frame name '{name}' holds a folder, expected a plain name"
                )
            for key, read in (("T_map_cam", poses), ("T_map_cam_given", given_poses)):
                if key in frame or read is poses:
                    T = np.array(frame[key], np.float64)
                    read[name] = check_pose(T, f"{path}, frame {name}")
        if given_poses and given_poses.keys() != poses.keys():
            raise ValueError("some frames lack T_map_cam_given")
        return Reconstruction(
            folder,
            str(index["scene"]),
            str(index["teacher"]),
            str(index["teacher_licence"]),
            camera,
            int(index["stride"]),
            dict(index["settings"]),
            poses,
            metric,
            given_poses,
        )
    except (KeyError, TypeError, ValueError, CameraError, SceneError) as error:
        raise ReconstructionError(f"{path}: is damaged ({error!r}); reconstruct anew") from error
