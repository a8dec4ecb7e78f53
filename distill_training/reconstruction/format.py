"""A Reconstruction: the points that a teacher measured, as a folder written frame by frame.

    reconstruction.json     teacher, its settings, canonical camera, stride, training frames and
                            their poses; where the poses are adjusted, also the given poses
    frames/NAME.npz         image_hw3 uint8, points_hw3 float32 (m, map frame, NaN = none),
                            sigma_hw float32 (m)
    left_out.json           training frames that are damaged, with the reason; only if there are any

The image is that of the canonical camera, and the pointmap has the student's stride: training needs
nothing else. Where the scale is unknown, lengths are in arbitrary units.
"""

import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np

from distill_training.common.array_folder import begin_folder, read_arrays, read_index, write_arrays
from distill_training.common.links import link_or_copy
from mote_localization.camera import Camera
from mote_localization.errors import CameraError, ReconstructionError, SceneError
from mote_localization.geometry import check_pose, invert, transform

FORMAT_VERSION = 2
_INDEX = "reconstruction.json"
_MAX_STRIDE_PX = 1 << 14


_Row = tuple[float, float, float, float]
_Pose = tuple[_Row, _Row, _Row, _Row]


class _Frame(msgspec.Struct):
    """A frame in `reconstruction.json`."""

    name: Annotated[str, msgspec.Meta(max_length=250)]  # of a file
    T_map_cam: _Pose
    T_map_cam_given: _Pose | msgspec.UnsetType = msgspec.UNSET  # set where poses are adjusted


class _Version(msgspec.Struct):
    """What `reconstruction.json` holds in every format version."""

    format_version: int


class _Index(_Version, kw_only=True, omit_defaults=True):
    """Content of `reconstruction.json`; further keys are ignored."""

    scene: str
    teacher: str
    teacher_licence: str
    camera: Camera
    stride: Annotated[int, msgspec.Meta(ge=1, le=_MAX_STRIDE_PX)]
    metric: bool = True  # stored only if false, so that indices of older versions stay equal
    settings: dict[str, bool | int | float | str]
    frames: list[_Frame]


@dataclass(frozen=True)
class ReconstructedFrame:
    """One frame's pointmap."""

    image_hw3: np.ndarray  # RGB uint8, canonical camera
    points_hw3: np.ndarray  # float32, m, map frame, NaN = none
    sigma_hw: np.ndarray  # float32, m, expected error of the teacher's point


@dataclass(frozen=True)
class Reconstruction:
    """The points of a place, as a teacher measured them; frames are read one at a time."""

    folder: Path
    scene: str  # name of the place
    teacher: str
    teacher_licence: str  # licence that the teacher puts on maps; empty: none
    camera: Camera  # canonical
    stride: int  # px per cell side
    settings: dict[str, float | int | str]  # of the teacher
    poses: dict[str, np.ndarray]  # training frame -> T_map_cam (4, 4), in recording order
    metric: bool = True  # False: the scale is unknown, lengths are in arbitrary units
    # training frame -> T_map_cam (4, 4) as given, where `poses` are adjusted; maps report poses in
    # the frame of the given ones
    given_poses: dict[str, np.ndarray] = field(default_factory=dict)

    def given_pose(self, name: str) -> np.ndarray:
        """Return T_map_cam (4, 4) of a training frame as it was given."""
        return self.given_poses.get(name, self.poses[name])

    def of_frames(self, names: Iterable[str]) -> "Reconstruction":
        """Return the reconstruction of some of the frames, in recording order; others are ignored.

        Raises:
            ReconstructionError: It has none of them.
        """
        wanted = set(names)
        poses = {name: pose for name, pose in self.poses.items() if name in wanted}
        given = {name: pose for name, pose in self.given_poses.items() if name in wanted}
        if not poses:
            raise ReconstructionError(
                f"{self.folder}: has none of {len(wanted)} frames such as "
                f"{next(iter(sorted(wanted)), 'none')[:60]}; reconstruct the recording again"
            )
        return replace(self, poses=poses, given_poses=given)

    def joined(self, other: "Reconstruction", folder: Path) -> "Reconstruction":
        """Write the frames of this reconstruction, then those of another one, to a new folder.

        Their files are linked, or copied where the file system has no links.

        Raises:
            ReconstructionError: The other one has another camera, stride or scale, or frames of
                the same names; or the folder cannot be written.
        """
        found = (other.camera, other.stride, other.metric)
        if found != (self.camera, self.stride, self.metric):
            raise ReconstructionError(
                f"{other.scene[:60]}: has another canonical camera, stride or scale than "
                f"{self.folder}, expected the same"
            )
        if self.poses.keys() & other.poses.keys():
            raise ReconstructionError(f"{other.scene[:60]}: has frames of {self.folder}")
        joined = replace(
            self,
            folder=folder,
            poses=self.poses | other.poses,
            given_poses=self.given_poses | other.given_poses,
        )
        joined.begin()
        for source in (self, other):
            for name in source.poses:
                link_or_copy(source._frame_path(name), joined._frame_path(name))
        return joined

    def in_given_frame(self, name: str, points: np.ndarray) -> np.ndarray:
        """Return points (..., 3) of a training frame, moved with it to its given pose."""
        if name not in self.given_poses:
            return points
        to_given = self.given_poses[name] @ invert(self.poses[name])
        return transform(to_given, points).astype(points.dtype)

    def begin(self) -> None:
        """Write the index, or check that an existing one is equal, to resume that run.

        Raises:
            ReconstructionError: The folder holds another reconstruction, or cannot be written.
        """
        begin_folder(self.folder / _INDEX, self.index())

    def check_inputs(
        self, scene: str, teacher: str, stride: int, settings: dict[str, float | int | str]
    ) -> None:
        """Check that an earlier run had these inputs.

        Args:
            scene: Name of the place.
            teacher: Name of the teacher.
            stride: Side of a cell, px.
            settings: Everything else that decides the result.

        Raises:
            ReconstructionError: It had others.
        """
        found = (self.scene, self.teacher, self.stride, self.settings)
        if found != (scene, teacher, stride, settings):
            raise ReconstructionError(
                f"{self.folder}: holds a reconstruction made with other frames or settings; delete "
                "the folder or choose another"
            )

    def restart(self) -> None:
        """Delete the folder's frames and replace its index.

        Raises:
            ReconstructionError: The folder cannot be written.
        """
        path = self.folder / _INDEX
        try:
            # The index first: if this is interrupted, the remaining frames belong to none.
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
        """Write one frame's pointmap atomically.

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
        """Return the content of `reconstruction.json`: everything but the pointmaps."""
        given = {name: T.tolist() for name, T in self.given_poses.items()}
        index = _Index(
            # Version 2 only where version 1 readers would misread the poses.
            format_version=FORMAT_VERSION if given else 1,
            scene=self.scene,
            teacher=self.teacher,
            teacher_licence=self.teacher_licence,
            camera=self.camera,
            stride=self.stride,
            metric=self.metric,
            settings=self.settings,
            frames=[
                _Frame(name, T.tolist(), given.get(name, msgspec.UNSET))
                for name, T in self.poses.items()
            ],
        )
        content = msgspec.to_builtins(index)
        content["camera"]["distortion"] = list(self.camera.distortion)  # msgspec keeps the tuple
        return content


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
    """Return the reconstruction in a folder, finished or not; None where there is none.

    Raises:
        ReconstructionError: It is damaged, or of a newer format.
    """
    return _read(folder) if (folder / _INDEX).exists() else None


def _read(folder: Path) -> Reconstruction:
    """Return the reconstruction in a folder, finished or not."""
    path = folder / _INDEX
    content = read_index(path)
    try:
        version = msgspec.convert(content, _Version).format_version
        if not 1 <= version <= FORMAT_VERSION:
            raise ReconstructionError(
                f"{path}: found format version {str(version)[:20]}, expected up to "
                f"{FORMAT_VERSION}; update Mote or reconstruct again"
            )
        index = msgspec.convert(content, _Index)
        poses: dict[str, np.ndarray] = {}
        given_poses: dict[str, np.ndarray] = {}
        for frame in index.frames:
            where = f"frame {frame.name[:60]}"
            if Path(frame.name).name != frame.name:
                raise SceneError(f"{where}: found a name with a folder, expected a plain name")
            poses[frame.name] = check_pose(np.array(frame.T_map_cam), where)
            if frame.T_map_cam_given is not msgspec.UNSET:
                given_poses[frame.name] = check_pose(np.array(frame.T_map_cam_given), where)
        if given_poses and given_poses.keys() != poses.keys():
            raise SceneError(
                f"found T_map_cam_given for {len(given_poses)} of {len(poses)} frames, expected it "
                "for all or none"
            )
    except (msgspec.ValidationError, CameraError, SceneError) as error:
        raise ReconstructionError(
            f"{path}: damaged ({str(error)[:160]}); delete the folder and reconstruct again"
        ) from error
    return Reconstruction(
        folder,
        index.scene,
        index.teacher,
        index.teacher_licence,
        index.camera,
        index.stride,
        dict(index.settings),
        poses,
        index.metric,
        given_poses,
    )
