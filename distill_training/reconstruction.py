"""A Reconstruction: what a teacher says of a place, as a folder written frame by frame.

    reconstruction.json     teacher, its settings, canonical camera, stride, training frames, poses
    frames/NAME.npz         image_hw3 uint8, points_hw3 float32 (m, map frame, NaN = none), sigma_hw
    float32 (m)

The image is the canonical camera's, the pointmap at the student's stride: training needs nothing
else.
"""

import json
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from mote_localization.camera import Camera
from mote_localization.errors import CameraError, ReconstructionError, SceneError
from mote_localization.files import atomic_write
from mote_localization.geometry import check_pose

FORMAT_VERSION = 1
_INDEX = "reconstruction.json"
_MAX_INDEX_BYTES = 256 << 20


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

    def begin(self) -> None:
        """Write the index; where there is one, check that it says the same, to resume that run.

        Raises:
            ReconstructionError: The folder holds another reconstruction, or cannot be written.
        """
        index = self.index()
        path = self.folder / _INDEX
        if path.exists():
            if _read_index(path) != index:
                raise ReconstructionError(
                    f"{self.folder}: holds a reconstruction made with other frames or settings; "
                    "delete the folder or choose another"
                )
            return
        try:
            with atomic_write(path) as file:
                file.write(json.dumps(index, indent=1).encode())
        except OSError as error:
            raise ReconstructionError(f"{path}: cannot be written ({error.strerror})") from error

    def missing(self) -> list[str]:
        """Return the names of the frames not yet written."""
        return [name for name in self.poses if not self._frame_path(name).exists()]

    def write_frame(self, name: str, frame: ReconstructedFrame) -> None:
        """Write one frame's pointmap, whole or not at all.

        Raises:
            ReconstructionError: The file cannot be written.
        """
        path = self._frame_path(name)
        try:
            with atomic_write(path) as file:
                np.savez(
                    file,
                    image_hw3=frame.image_hw3,
                    points_hw3=frame.points_hw3,
                    sigma_hw=frame.sigma_hw,
                )
        except OSError as error:
            raise ReconstructionError(f"{path}: cannot be written ({error.strerror})") from error

    def read_frame(self, name: str) -> ReconstructedFrame:
        """Read one frame's pointmap.

        Raises:
            ReconstructionError: The file is missing, damaged, or not of the canonical camera's
                size.
        """
        path = self._frame_path(name)
        rows, columns = self.camera.height // self.stride, self.camera.width // self.stride
        shapes = {
            "image_hw3": ((self.camera.height, self.camera.width, 3), np.uint8),
            "points_hw3": ((rows, columns, 3), np.float32),
            "sigma_hw": ((rows, columns), np.float32),
        }
        expected_bytes = sum(int(np.prod(s)) * np.dtype(t).itemsize for s, t in shapes.values())
        try:
            with zipfile.ZipFile(path) as archive:
                if sum(member.file_size for member in archive.infolist()) > expected_bytes + 4096:
                    raise ReconstructionError(
                        f"{path}: is larger than a frame of this reconstruction"
                    )
            with np.load(path, allow_pickle=False) as arrays:
                values = {key: arrays[key] for key in shapes}
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise ReconstructionError(
                f"{path}: missing or damaged ({error}); run `mote-distill reconstruct` again to "
                "complete it"
            ) from error
        for key, (shape, kind) in shapes.items():
            if values[key].shape != shape or values[key].dtype != kind:
                raise ReconstructionError(
                    f"{path}: found {key} of shape {values[key].shape} {values[key].dtype}, "
                    f"expected {shape} {np.dtype(kind)}"
                )
        return ReconstructedFrame(**values)

    def _frame_path(self, name: str) -> Path:
        return self.folder / f"frames/{name}.npz"

    def index(self) -> dict:
        """Return what `reconstruction.json` holds: all but the pointmaps."""
        return {
            "format_version": FORMAT_VERSION,
            "scene": self.scene,
            "teacher": self.teacher,
            "teacher_licence": self.teacher_licence,
            "camera": {**asdict(self.camera), "distortion": list(self.camera.distortion)},
            "stride": self.stride,
            "settings": self.settings,
            "frames": [{"name": name, "T_map_cam": T.tolist()} for name, T in self.poses.items()],
        }


def open_reconstruction(folder: Path | str) -> Reconstruction:
    """Open a finished reconstruction.

    Raises:
        ReconstructionError: There is none, it is unfinished or damaged, or of a newer format.
    """
    folder = Path(folder)
    path = folder / _INDEX
    index = _read_index(path)
    try:
        version = index["format_version"]
        if version != FORMAT_VERSION:
            raise ReconstructionError(
                f"{path}: found format version {version}, expected {FORMAT_VERSION}; update Mote "
                "or reconstruct anew"
            )
        camera = Camera(**{**index["camera"], "distortion": tuple(index["camera"]["distortion"])})
        poses = {}
        for frame in index["frames"]:
            name = str(frame["name"])
            if Path(name).name != name:
                raise ReconstructionError(
                    f"{path}: frame name '{name}' holds a folder, expected a plain name"
                )
            poses[name] = check_pose(
                np.array(frame["T_map_cam"], np.float64), f"{path}, frame {name}"
            )
        reconstruction = Reconstruction(
            folder,
            str(index["scene"]),
            str(index["teacher"]),
            str(index["teacher_licence"]),
            camera,
            int(index["stride"]),
            dict(index["settings"]),
            poses,
        )
    except (KeyError, TypeError, ValueError, CameraError, SceneError) as error:
        raise ReconstructionError(f"{path}: is damaged ({error!r}); reconstruct anew") from error
    missing = reconstruction.missing()
    if missing or not poses:
        raise ReconstructionError(
            f"{folder}: {len(missing)} of {len(poses)} frames are missing; run `mote-distill "
            "reconstruct` again to complete it"
        )
    return reconstruction


def _read_index(path: Path) -> dict:
    try:
        if path.stat().st_size > _MAX_INDEX_BYTES:
            raise ReconstructionError(
                f"{path}: over {_MAX_INDEX_BYTES >> 20} MiB, expected an index"
            )
        index = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ReconstructionError(
            f"{path}: cannot be read ({error}); expected a folder made by `mote-distill "
            "reconstruct`"
        ) from error
    if not isinstance(index, dict):
        raise ReconstructionError(f"{path}: found a {type(index).__name__}, expected an index")
    return index
