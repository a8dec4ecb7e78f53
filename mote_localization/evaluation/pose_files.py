"""Files of camera poses, written here or by other systems.

TUM trajectory    stamp tx ty tz qx qy qz qw          camera to map; seconds
Named poses       name qw qx qy qz tx ty tz [f]       map to camera; f: focal length, not used

Named poses have the format of the pseudo ground truth of 7-Scenes and 12Scenes (Brachmann et al.,
ICCV 2021). One line a frame, metres. Lines that begin with # are comments.
"""

import math
import re
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import natsort
import numpy as np

from mote_localization.errors import SceneError
from mote_localization.files import atomic_write
from mote_localization.geometry import invert, poses_from, quaternion_xyzw
from mote_localization.scenes import Frame, Scene, Split
from mote_localization.scenes.text_files import read_lines, read_table

_FORMATS = "`stamp tx ty tz qx qy qz qw` (TUM) or `name qw qx qy qz tx ty tz [f]`"
_EXPECTED = f"{_FORMATS}, the same on each line"
_TUM_COLUMNS = 8
_NAMED_COLUMNS = range(8, 11)  # some published estimates have two columns of errors in place of f
_MAX_NAME = 255  # characters
_MAX_NAMED = 100_000  # poses; sorting their names takes some seconds
_QUATERNION_TOLERANCE = 0.01  # of its length: files have few digits


@dataclass(frozen=True)
class FrameKeys:
    """What identifies the frames of a file or a scene."""

    source: str  # the file or scene, for messages
    names: tuple[str, ...] | None  # of the images; None: not known
    stamps_n: np.ndarray | None  # seconds; None: not known
    has_times: bool = True  # the stamps were recorded; False: see `Scene.has_times`

    @staticmethod
    def of_frames(scene: Scene, frames: Iterable[Frame]) -> "FrameKeys":
        """Return names and stamps of frames of a scene."""
        names, stamps = [], []
        for frame in frames:
            names.append(frame.name)
            stamps.append(frame.stamp_s)
        return FrameKeys(scene.name, tuple(names), np.array(stamps), scene.has_times)


@dataclass(frozen=True)
class PoseList:
    """Camera poses and what identifies them."""

    keys: FrameKeys
    T_map_cam_n44: np.ndarray

    @staticmethod
    def of_scene(scene: Scene, split: Split) -> "PoseList":
        """Return the known poses of a scene's split, in recording order.

        Raises:
            SceneError: No frame of the split has a pose.
        """
        known = [frame for frame in scene.frames(split) if frame.T_map_cam is not None]
        if not known:
            raise SceneError(
                f"{scene.name}: no frame of the split {split} has a pose, expected true poses; try "
                "another --split"
            )
        poses_n44 = np.array([frame.T_map_cam for frame in known])
        return PoseList(FrameKeys.of_frames(scene, known), poses_n44)


def read_poses(path: Path) -> PoseList:
    """Read a TUM trajectory or named poses; the first line decides which.

    A first line of eight numbers is one of a TUM trajectory. Poses are returned in the order of
    their stamps, or in the natural order of their names.

    Raises:
        SceneError: The file cannot be read, has no poses, or a line that is no pose: NaN, a
            quaternion whose length is not 1, a name or stamp that is there twice.
    """
    contents = (line.split("#")[0].split() for _, line in read_lines(path))
    first = next(filter(None, contents), None)
    if first is None:
        raise SceneError(f"{path}: holds no poses, expected lines of {_FORMATS}")
    if len(first) == _TUM_COLUMNS and _is_number(first[0]):
        table_n8, numbers = read_table(path, _TUM_COLUMNS, _EXPECTED)
        _check(path, numbers, table_n8[:, 0].tolist(), table_n8[:, 1:])
        table_n8 = table_n8[table_n8[:, 0].argsort()]
        poses_n44 = poses_from(table_n8[:, 1:4], table_n8[:, 4:])
        return PoseList(FrameKeys(str(path), None, table_n8[:, 0]), poses_n44)
    return _named_poses(path)


def _named_poses(path: Path) -> PoseList:
    """Return named poses in the natural order of their names."""
    names: list[str] = []
    values, numbers = array("d"), array("q")
    for number, line in read_lines(path):
        words = line.split("#")[0].split()
        if not words:
            continue
        row = _named_row(words)
        if row is None:
            raise SceneError(
                f"{path}: line {number}: found {' '.join(words)[:60]!r}, expected {_EXPECTED}"
            )
        if len(names) == _MAX_NAMED:
            raise SceneError(f"{path}: has over {_MAX_NAMED} named poses; split the file")
        names.append(row[0])
        values.extend(row[1])
        numbers.append(number)
    values_n7 = np.array(values).reshape(-1, 7)
    _check(path, numbers, names, values_n7)
    poses_n44 = poses_from(values_n7[:, :3], values_n7[:, 3:])
    order = natsort.index_natsorted(names)
    in_order = tuple(names[i] for i in order)
    T_map_cam_n44 = np.array([invert(poses_n44[i]) for i in order])
    return PoseList(FrameKeys(str(path), in_order, None), T_map_cam_n44)


def write_tum(path: Path | str, poses: Iterable[tuple[float, np.ndarray | None]]) -> None:
    """Write poses as a TUM trajectory.

    Args:
        path: The file.
        poses: Stamp in seconds and T_map_cam (4, 4) of each frame; frames without one are left out.

    Raises:
        MoteError: The file cannot be written.
    """
    rows = [[stamp, *T[:3, 3], *quaternion_xyzw(T[:3, :3])] for stamp, T in poses if T is not None]
    with atomic_write(path) as file:
        np.savetxt(file, np.array(rows).reshape(-1, 8), fmt="%.9f")


def write_named_poses(path: Path, poses: Iterable[tuple[str, np.ndarray | None]]) -> None:
    """Write poses by the names of their images, without the focal length.

    Args:
        path: The file.
        poses: Name and T_map_cam (4, 4) of each frame; frames without one are left out.

    Raises:
        MoteError: The file cannot be written.
    """
    with atomic_write(path) as file:
        for name, T_map_cam in poses:
            if T_map_cam is not None:
                name = re.sub(r"[\s#]", "_", name)  # these end a name
                T = invert(T_map_cam)
                x, y, z, w = quaternion_xyzw(T[:3, :3])
                numbers = " ".join(f"{value:.9f}" for value in (w, x, y, z, *T[:3, 3]))
                file.write(f"{name} {numbers}\n".encode())


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _named_row(words: list[str]) -> tuple[str, list[float]] | None:
    """Return name and tx ty tz qx qy qz qw of a line, map to camera; None: it is no pose."""
    name, *numbers = words
    if len(words) not in _NAMED_COLUMNS or not all(map(_is_number, numbers)):
        return None
    if len(name) > _MAX_NAME or not re.search(r"\w", name):
        return None
    w, x, y, z, *position = map(float, numbers[:7])
    return name, [*position, x, y, z, w]


def _check(
    path: Path, numbers: Sequence[int], keys: Sequence[str | float], values_n7: np.ndarray
) -> None:
    """Raise `SceneError` for the first line that is no pose or comes twice."""
    finite_n = np.isfinite(values_n7).all(axis=1).tolist()
    lengths_n = np.linalg.norm(values_n7[:, 3:], axis=1).tolist()
    seen: dict[str | float, int] = {}
    for number, key, finite, length in zip(numbers, keys, finite_n, lengths_n, strict=True):
        where = f"{path}: line {number}"
        if not finite or not (isinstance(key, str) or math.isfinite(key)):
            raise SceneError(
                f"{where}: holds NaN or infinity; remove the lines of lost frames: a frame without "
                "a line counts as lost"
            )
        if abs(length - 1) > _QUATERNION_TOLERANCE:
            raise SceneError(
                f"{where}: found a quaternion of length {length:.3g}, expected 1; the columns are "
                f"{_FORMATS}"
            )
        if key in seen:
            raise SceneError(
                f"{where}: found {str(key)[:60]} a second time, after line {seen[key]}; expected "
                "one line a frame"
            )
        seen[key] = number
