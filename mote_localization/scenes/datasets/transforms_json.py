"""Scenes described by transforms.json: nerfstudio, instant-ngp, Polycam, Record3D, Blender.

transforms.json              intrinsics of all images or of each, and for each frame file_path,
                             transform_matrix (camera-to-world, OpenGL axes) and depth_file_path
                             (16 bits, optional)
transforms_train.json        of the NeRF synthetic scenes, in place of transforms.json; with
transforms_test.json         transforms_val.json optional

The map frame is that of the file; `applied_transform` is not undone. Lengths are metres only if the
program that wrote the file knew the scale. Frames of val_filenames and test_filenames are test
frames. cx and cy are COLMAP's: (0, 0) is the upper left corner of the image (nerfstudio and
instant-ngp take over COLMAP's values, and send the ray of the first pixel through (0.5, 0.5)); here
it is the centre of the first pixel, so 0.5 is subtracted.
"""

import logging
import math
import os
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

import msgspec
import numpy as np

from mote_localization.camera import Camera
from mote_localization.errors import CameraError, SceneError
from mote_localization.geometry import check_pose
from mote_localization.input_files import read_input
from mote_localization.scenes.frame_files import (
    IMAGE_SUFFIXES,
    FileFrame,
    FileScene,
    find_image,
    inside,
    make_frames,
    natural_key,
    plain_name,
    size_of_image,
)
from mote_localization.scenes.scene import NOMINAL_RATE_HZ

ONE_FILE = "transforms.json"
SPLIT_FILES = {  # whether it holds test frames
    "transforms_train.json": False,
    "transforms_val.json": True,
    "transforms_test.json": True,
}

_log = logging.getLogger(__name__)

_SUFFIXES = ("", *IMAGE_SUFFIXES)  # file_path may have none
_MAX_BYTES = 32 << 20
_MAX_FRAMES = 1_000_000
_FROM_OPENGL = np.diag([1.0, -1.0, -1.0, 1.0])  # camera axes: y and z point the other way
_FISHEYE = ("OPENCV_FISHEYE", "FISHEYE")
_PERSPECTIVE = ("OPENCV", "PINHOLE", "SIMPLE_PINHOLE", "RADIAL", "SIMPLE_RADIAL", "PERSPECTIVE")

_Row = Annotated[tuple[float, ...], msgspec.Meta(min_length=4, max_length=4)]
_Path = Annotated[str, msgspec.Meta(min_length=1, max_length=1000)]
_Paths = Annotated[tuple[_Path, ...], msgspec.Meta(max_length=_MAX_FRAMES)]


class _Intrinsics(msgspec.Struct, frozen=True, kw_only=True):
    """Keys of the file; a frame overrides them."""

    camera_model: str | None = None
    is_fisheye: bool | None = None
    w: float | None = None
    h: float | None = None
    fl_x: float | None = None
    fl_y: float | None = None
    camera_angle_x: float | None = None  # rad
    camera_angle_y: float | None = None
    cx: float | None = None
    cy: float | None = None
    k1: float | None = None
    k2: float | None = None
    k3: float | None = None
    k4: float | None = None
    p1: float | None = None
    p2: float | None = None


class _Frame(_Intrinsics, frozen=True, kw_only=True):
    file_path: _Path
    transform_matrix: Annotated[tuple[_Row, ...], msgspec.Meta(min_length=3, max_length=4)]
    depth_file_path: _Path | None = None


class _Transforms(_Intrinsics, frozen=True, kw_only=True):
    frames: Annotated[tuple[_Frame, ...], msgspec.Meta(max_length=_MAX_FRAMES)]
    depth_unit_scale_factor: Annotated[float, msgspec.Meta(gt=0)] = 0.001  # m
    train_filenames: _Paths | None = None
    val_filenames: _Paths = ()
    test_filenames: _Paths = ()


class TransformsScene(FileScene):
    """Frames of transforms.json in natural order of their paths."""

    sequential = False

    def __init__(self, path: Path | str) -> None:
        """Open the folder.

        Raises:
            SceneError: Files are missing or damaged, a path leaves the folder, a pose is not a
                rigid transform, or a camera model cannot be expressed.
        """
        path = Path(path)
        described: dict[str, tuple[_Frame, _Transforms, Path]] = {}
        test: set[str] = set()
        for file, is_test in _files(path):
            content = _read(file)
            by_path = {_plain(one.file_path): one for one in content.frames}
            if len(by_path) < len(content.frames) or by_path.keys() & described.keys():
                raise SceneError(f"{file}: describes an image twice, expected once")
            listed = {_plain(name) for name in (*content.val_filenames, *content.test_filenames)}
            test |= by_path.keys() if is_test else by_path.keys() & listed
            if content.train_filenames is not None:  # others are in no split
                listed |= {_plain(name) for name in content.train_filenames}
                by_path = {name: one for name, one in by_path.items() if name in listed}
            described |= {name: (one, content, file) for name, one in by_path.items()}
        # Poses that come with measured depth are in metres; others are often those of COLMAP.
        self.metric = any(one.depth_file_path for one, _, _ in described.values())
        sizes: dict[Path, tuple[int, int]] = {}

        def frame(index: int, name: str) -> FileFrame:
            one, content, file = described[name]
            image = find_image(path, name, _SUFFIXES)
            if file not in sizes:
                sizes[file] = size_of_image(image)
            depth = one.depth_file_path
            return FileFrame(
                plain_name(name),
                index / NOMINAL_RATE_HZ,
                _camera(one, content, sizes[file], f"{file}: {name[:60]}"),
                _pose(one, f"{file}: {name[:60]}"),
                image,
                inside(path, depth) if depth else None,
                content.depth_unit_scale_factor,
                camera_from=file.name,
            )

        names = _with_image(path, sorted(described, key=natural_key))
        frames = list(zip(names, make_frames(path, names, frame), strict=True))
        super().__init__(
            path,
            [f for name, f in frames if name not in test],
            [f for name, f in frames if name in test],
        )


def _files(folder: Path) -> list[tuple[Path, bool]]:
    """Return the files that describe a scene, and whether their frames are test frames."""
    if (folder / ONE_FILE).exists():
        return [(folder / ONE_FILE, False)]
    return [(folder / n, test) for n, test in SPLIT_FILES.items() if (folder / n).exists()]


def _with_image(folder: Path, names: list[str]) -> list[str]:
    """Return the paths whose images exist; all of them if none does.

    Files of instant-ngp also list images that were sorted out as blurred, for example those of its
    fox; its own reader leaves them out.
    """
    found = [
        name
        for name in names
        if any(os.path.exists(inside(folder, name + suffix)) for suffix in _SUFFIXES)
    ]
    if found and len(found) < len(names):
        _log.warning(
            "%s: %d of %d images do not exist, as %s; their frames are left out",
            folder,
            len(names) - len(found),
            len(names),
            min(set(names) - set(found))[:80],
        )
    return found or names


def _plain(path: str) -> str:
    """Return a path without `./`, as the same file may be written with and without it."""
    return str(PurePosixPath(path))


def _read(path: Path) -> _Transforms:
    try:
        return msgspec.json.decode(read_input(path, _MAX_BYTES), type=_Transforms)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise SceneError(
            f"{path}: {str(error)[:160]}; expected the format of nerfstudio"
        ) from error


def _camera(frame: _Frame, common: _Transforms, size: tuple[int, int], where: str) -> Camera | None:
    """Return the camera of a frame; None: the file holds no focal length.

    Args:
        frame: Its keys override the common ones.
        common: The file.
        size: Width and height of the first image, px, where the file states none.
        where: For messages.
    """
    keys: dict[str, Any] = {
        key: value
        for source in (common, frame)
        for key in _Intrinsics.__struct_fields__
        if (value := getattr(source, key)) is not None
    }
    model = keys.get("camera_model", "OPENCV")
    fisheye = model in _FISHEYE or keys.get("is_fisheye", False)
    k1, k2, k3, k4, p1, p2 = (keys.get(key, 0.0) for key in ("k1", "k2", "k3", "k4", "p1", "p2"))
    if (p1 or p2) if fisheye else (k4 or model not in _PERSPECTIVE):
        raise SceneError(
            f"{where}: found camera model {model[:40]} with k4 {k4:g}, p1 {p1:g}, p2 {p2:g}, "
            "expected OPENCV or PINHOLE without k4, or OPENCV_FISHEYE without p1 and p2"
        )
    width, height = keys.get("w", size[0]), keys.get("h", size[1])
    fx = keys.get("fl_x") or _focal_length(width, keys.get("camera_angle_x"))
    fy = keys.get("fl_y") or _focal_length(height, keys.get("camera_angle_y")) or fx
    if fx is None or fy is None:
        return None
    distortion = (k1, k2, k3, k4) if fisheye else (k1, k2, p1, p2, k3)
    try:
        return Camera(
            int(width),
            int(height),
            fx,
            fy,
            keys.get("cx", width / 2) - 0.5,
            keys.get("cy", height / 2) - 0.5,
            "equidistant" if fisheye else "plumb_bob",
            # an equidistant lens without coefficients is still no pinhole
            distortion if any(distortion) or fisheye else (),
        )
    except CameraError as error:
        raise SceneError(f"{where}: {error}") from error


def _focal_length(side_px: float, angle: float | None) -> float | None:
    """Return the focal length in px of a field of view in radians; None: it is none."""
    return side_px / 2 / math.tan(angle / 2) if angle and 0 < angle < math.pi else None


def _pose(frame: _Frame, where: str) -> np.ndarray:
    T_44 = np.array([*frame.transform_matrix, (0.0, 0.0, 0.0, 1.0)][:4])
    return check_pose(T_44, where) @ _FROM_OPENGL
