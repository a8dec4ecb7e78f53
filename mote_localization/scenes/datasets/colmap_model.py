"""Models of COLMAP, as text or binary files, with their images.

cameras.txt|bin images.txt|bin    in sparse/0/, in sparse/ or in the folder itself
images/NAME                       the images; or in the folder itself

Points are not read. Lengths are those of the model: metres only if the model has been scaled.
COLMAP's pixel (0, 0) is the upper left corner of the image; here it is the centre of the first
pixel, so 0.5 is subtracted from the principal point.
"""

import os
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from mote_localization.camera import Camera
from mote_localization.errors import CameraError, SceneError
from mote_localization.geometry import check_pose, invert, pose_from
from mote_localization.input_files import open_input
from mote_localization.scenes.frame_files import (
    FileFrame,
    FileScene,
    find_image,
    make_frames,
    natural_key,
    plain_name,
)
from mote_localization.scenes.scene import NOMINAL_RATE_HZ

_MODEL_FOLDERS = ("sparse/0", "sparse", ".")
_MAX_LINE = 64 << 20  # characters; a line of images.txt lists the points of an image
_MAX_NAME = 4096  # bytes
_MAX_IMAGES = 100_000  # of a model


class _Model(NamedTuple):
    """How a camera model of COLMAP is expressed; the rest of its parameters is distortion."""

    name: str
    parameters: int
    focal_lengths: int = 2  # 1: fx and fy are equal
    distortion_model: str | None = None  # None: not supported
    coefficients: int = 0  # of the distortion model; those that COLMAP lacks are zero

    def camera(self, width: int, height: int, parameters: tuple[float, ...]) -> Camera:
        if self.distortion_model is None:
            raise CameraError(
                f"found the camera model {self.name}, expected one that OpenCV has, as OPENCV; "
                "undistort the images with `colmap image_undistorter`"
            )
        focal, rest = parameters[: self.focal_lengths], parameters[self.focal_lengths :]
        distortion = (rest[2:] + (0.0,) * self.coefficients)[: self.coefficients]
        return Camera(
            width,
            height,
            focal[0],
            focal[-1],
            rest[0] - 0.5,
            rest[1] - 0.5,
            self.distortion_model,
            # an equidistant lens without coefficients is still no pinhole
            distortion if any(distortion) or self.distortion_model == "equidistant" else (),
        )


# https://colmap.github.io/cameras.html; the index in binary files is that of this list
_MODELS = (
    _Model("SIMPLE_PINHOLE", 3, 1, "plumb_bob"),
    _Model("PINHOLE", 4, 2, "plumb_bob"),
    _Model("SIMPLE_RADIAL", 4, 1, "plumb_bob", 4),
    _Model("RADIAL", 5, 1, "plumb_bob", 4),
    _Model("OPENCV", 8, 2, "plumb_bob", 4),
    _Model("OPENCV_FISHEYE", 8, 2, "equidistant", 4),
    _Model("FULL_OPENCV", 12, 2, "rational_polynomial", 8),
    _Model("FOV", 5),
    _Model("SIMPLE_RADIAL_FISHEYE", 4, 1, "equidistant", 4),
    _Model("RADIAL_FISHEYE", 5, 1, "equidistant", 4),
    _Model("THIN_PRISM_FISHEYE", 12),
    _Model("RAD_TAN_THIN_PRISM_FISHEYE", 16),
    _Model("SIMPLE_DIVISION", 4),
    _Model("DIVISION", 5),
    _Model("SIMPLE_FISHEYE", 3, 1, "equidistant", 4),
    _Model("FISHEYE", 4, 2, "equidistant", 4),
    _Model("EUCM", 6),
    _Model("EQUIRECTANGULAR", 2),
)


class _ColmapCamera(NamedTuple):
    model: _Model
    width: int
    height: int
    parameters: tuple[float, ...]


class _Image(NamedTuple):
    q_wxyz: tuple[float, ...]  # world to camera
    t_3: tuple[float, ...]
    camera_id: int


class ColmapScene(FileScene):
    """The images of a COLMAP model, all for training, in natural order of their names."""

    sequential = False
    metric = False

    def __init__(self, path: Path | str) -> None:
        """Open the folder.

        Raises:
            SceneError: Files are missing or damaged, or a camera model cannot be expressed.
        """
        path = Path(path)
        model = find_model(path)
        if model is None:
            raise SceneError(f"{path}: holds no COLMAP model, expected cameras.bin and images.bin")
        suffix = model.suffix
        read_cameras, read_images = _READERS[suffix]
        cameras = _read(model, read_cameras)
        images = _read(model.with_name(f"images{suffix}"), read_images)
        folder = path / "images" if (path / "images").is_dir() else path
        made: dict[int, Camera] = {}

        def frame(index: int, name: str) -> FileFrame:
            one = images[name]
            if one.camera_id not in cameras:
                raise SceneError(f"{model}: lacks camera {one.camera_id} of image {name[:60]}")
            if one.camera_id not in made:
                of_model, width, height, parameters = cameras[one.camera_id]
                try:
                    made[one.camera_id] = of_model.camera(width, height, parameters)
                except CameraError as error:
                    raise SceneError(f"{model}: camera {one.camera_id}: {error}") from error
            w, x, y, z = one.q_wxyz
            if not abs(np.linalg.norm(one.q_wxyz) - 1) < 1e-2:  # also for NaN
                raise SceneError(f"{model.parent}: the quaternion of {name[:60]} has no length 1")
            T_cam_map = pose_from(np.array(one.t_3), np.array([x, y, z, w]))
            return FileFrame(
                plain_name(name),
                index / NOMINAL_RATE_HZ,
                made[one.camera_id],
                invert(check_pose(T_cam_map, f"{model.parent}: image {name[:60]}")),
                find_image(folder, name, ("",)),
                camera_from=model.name,
            )

        super().__init__(path, make_frames(path, sorted(images, key=natural_key), frame))


def find_model(folder: Path) -> Path | None:
    """Return the cameras file of the model in a folder; None: it holds none."""
    for place in _MODEL_FOLDERS:
        for suffix in (".bin", ".txt"):
            cameras = folder / place / f"cameras{suffix}"
            if cameras.exists() and cameras.with_name(f"images{suffix}").exists():
                return cameras
    return None


def _read(path: Path, parse: Callable[[BinaryIO], dict[Any, Any]]) -> dict[Any, Any]:
    """Return what a parser finds in a file; its faults become one error."""
    try:
        with open_input(path) as file:
            return parse(file)
    except OSError as error:
        raise SceneError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, UnicodeDecodeError) as error:
        raise SceneError(f"{path}: {str(error)[:160]}; expected a model of COLMAP") from error


@dataclass
class _Bytes:
    """Values of a binary file; none is read beyond its end."""

    file: BinaryIO

    def __post_init__(self) -> None:
        self._size = os.fstat(self.file.fileno()).st_size

    def take(self, layout: str) -> tuple[Any, ...]:
        """Return the values of a layout of `struct`."""
        return struct.unpack(f"<{layout}", self.read(struct.calcsize(f"<{layout}")))

    def read(self, count: int) -> bytes:
        self._check(count)
        return self.file.read(count)

    def skip(self, count: int) -> None:
        self._check(count)
        self.file.seek(count, os.SEEK_CUR)

    def name(self) -> str:
        """Return the text up to the next zero byte."""
        start = self.file.tell()
        content, end, _ = self.file.read(_MAX_NAME).partition(b"\0")
        if not end:
            raise ValueError("found an image name without end")
        self.file.seek(start + len(content) + 1)
        return content.decode()

    def _check(self, count: int) -> None:
        left = self._size - self.file.tell()
        if count > left:
            raise ValueError(f"is cut off: {count} bytes are missing, {left} are left")


def _check_count(found: dict[Any, Any]) -> None:
    if len(found) >= _MAX_IMAGES:
        raise ValueError(f"holds more than {_MAX_IMAGES} images or cameras")


def _binary_cameras(file: BinaryIO) -> dict[int, _ColmapCamera]:
    values = _Bytes(file)
    cameras: dict[int, _ColmapCamera] = {}
    for _ in range(*values.take("Q")):
        _check_count(cameras)
        camera_id, model_id, width, height = values.take("IiQQ")
        if not 0 <= model_id < len(_MODELS):
            raise ValueError(f"found camera model {model_id}, which is not known")
        model = _MODELS[model_id]
        parameters = values.take(f"{model.parameters}d")
        cameras[camera_id] = _ColmapCamera(model, width, height, parameters)
    return cameras


def _binary_images(file: BinaryIO) -> dict[str, _Image]:
    values = _Bytes(file)
    images: dict[str, _Image] = {}
    for _ in range(*values.take("Q")):
        _check_count(images)
        _, *pose, camera_id = values.take("I7dI")
        name = values.name()
        images[name] = _Image(tuple(pose[:4]), tuple(pose[4:]), camera_id)
        values.skip(24 * values.take("Q")[0])  # x, y and the number of its point
    return images


def _lines(file: BinaryIO) -> Iterator[str]:
    """Yield the lines of a text file that are no comments."""
    while line := file.readline(_MAX_LINE):
        if not line.startswith(b"#"):
            yield line.decode().strip()


def _text_cameras(file: BinaryIO) -> dict[int, _ColmapCamera]:
    models = {model.name: model for model in _MODELS}
    cameras: dict[int, _ColmapCamera] = {}
    for line in filter(None, _lines(file)):
        camera_id, name, width, height, *parameters = [*line.split(), "", "", "", ""][: 4 + 16]
        model = models.get(name)
        numbers = tuple(float(x) for x in parameters if x)
        if model is None or len(numbers) != model.parameters:
            raise ValueError(f"found {line[:60]!r}, which is no camera with its parameters")
        _check_count(cameras)
        cameras[int(camera_id)] = _ColmapCamera(model, int(width), int(height), numbers)
    return cameras


def _text_images(file: BinaryIO) -> dict[str, _Image]:
    images: dict[str, _Image] = {}
    lines = _lines(file)
    for line in lines:
        if not line:
            continue
        _, *numbers, camera_id, name = [*line.split(maxsplit=9), *[""] * 9][:10]
        _check_count(images)
        try:
            pose = tuple(map(float, numbers))
            images[name] = _Image(pose[:4], pose[4:], int(camera_id))
        except ValueError as error:
            raise ValueError(f"found {line[:60]!r}, which is no image with its pose") from error
        next(lines, None)  # its points
    return images


_READERS: dict[str, tuple[Callable[[BinaryIO], Any], Callable[[BinaryIO], Any]]] = {
    ".bin": (_binary_cameras, _binary_images),
    ".txt": (_text_cameras, _text_images),
}
