"""Scenes whose images and depths are files: what the readers of datasets have in common."""

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import cv2
import numpy as np
from natsort import natsort_keygen, ns

from mote_localization.camera import Camera
from mote_localization.errors import SceneError
from mote_localization.geometry import check_pose
from mote_localization.image_files import decode_file, image_size, read_image, read_lens
from mote_localization.image_headers import Lens
from mote_localization.scenes.depth_images import DepthCamera, scaled_depth
from mote_localization.scenes.scene import Frame, Scene, Split

natural_key = natsort_keygen(alg=ns.IGNORECASE)  # sorts frame-2 before frame-10

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".PNG", ".JPG", ".JPEG")
_MAX_NAME = 1000  # characters of a path in a file from outside
_NAMED_FAULTS = 3  # frames that one error names


@dataclass(frozen=True)
class FileFrame(Frame):
    """A frame with its image and its depth in files.

    Images are read as stored, without the EXIF rotation: K and poses refer to the sensor's axes.
    """

    name: str
    stamp_s: float
    camera: Camera | None
    T_map_cam: np.ndarray | None
    image_path: Path
    depth_path: Path | None = None  # 16-bit image, 0: no depth
    depth_unit_m: float = 0.001  # of its values
    invalid_depth: int = 0  # a further value that means no depth
    depth_camera: DepthCamera | None = None  # None: depth has the pixels of the colour image
    camera_from: str = "the scene's first image"  # where the camera's size is from, for messages

    def image(self) -> np.ndarray:
        """Return image_hw3 RGB uint8; see `Frame.image`."""
        image_hw3 = read_image(self.image_path)
        return self._with_size_of_camera(image_hw3, str(self.image_path), self.camera_from)

    def size(self) -> tuple[int, int]:
        """Return width and height in px, from the header if it can be read; see `Frame.size`."""
        if self.camera is not None:
            return super().size()
        return image_size(self.image_path) or super().size()

    def lens(self) -> Lens | None:
        """Return camera and focal length in the file's EXIF data; see `Frame.lens`."""
        return read_lens(self.image_path)

    def has_depth(self) -> bool:
        """Return whether the file of the depth exists; see `Frame.has_depth`."""
        return self.depth_path is not None and self.depth_path.exists()

    def depth(self) -> np.ndarray | None:
        """Return depth_hw in metres, or None; see `Frame.depth`."""
        if self.depth_path is None or not self.depth_path.exists():
            return None
        depth = decode_file(self.depth_path, cv2.IMREAD_UNCHANGED)
        if depth.dtype != np.uint16 or depth.ndim != 2:
            raise SceneError(
                f"{self.depth_path}: found {depth.dtype} with {depth.ndim} dimensions, expected "
                "16-bit depths, grey"
            )
        depth_hw = depth.astype(np.float32) * np.float32(self.depth_unit_m)
        depth_hw[depth == self.invalid_depth] = 0
        if self.depth_camera is None:
            return scaled_depth(depth_hw, self.size(), str(self.depth_path))
        size = self.depth_camera.camera.width, self.depth_camera.camera.height
        if depth.shape[::-1] != size:
            raise SceneError(
                f"{self.depth_path}: found a depth image of {depth.shape[1]}x{depth.shape[0]} px, "
                f"expected {size[0]}x{size[1]} px as its depth camera"
            )
        return self.depth_camera.depth_in_colour(depth_hw, self.known_camera())

    def with_unit(self, unit_m: float) -> "FileFrame":
        """Return the frame with the position of its pose multiplied by a unit in metres.

        Raises:
            SceneError: The position is then not finite.
        """
        if self.T_map_cam is None:
            return self
        T_map_cam = self.T_map_cam.copy()
        with np.errstate(over="ignore"):
            T_map_cam[:3, 3] *= unit_m
        where = f"--unit-m {unit_m:g}: frame {self.name[:60]}"
        return replace(self, T_map_cam=check_pose(T_map_cam, where))


class FileScene(Scene):
    """A scene of such frames, in recording order; each reader of a layout derives from it."""

    has_times = False

    def __init__(
        self, path: Path, train: Sequence[FileFrame], test: Sequence[FileFrame] = ()
    ) -> None:
        """Keep the frames.

        Args:
            path: Folder of the scene.
            train: Training frames.
            test: Test frames.

        Raises:
            SceneError: There are no frames, or two have the same name.
        """
        self.path = path
        self.name = path.resolve().name
        in_order = sorted([*train, *test], key=lambda frame: frame.stamp_s)
        if not in_order:
            raise SceneError(f"{path}: holds no frame, expected at least one")
        name, times = Counter(frame.name for frame in in_order).most_common(1)[0]
        if times > 1:
            raise SceneError(
                f"{path}: {times} frames have the name {name[:60]}, expected different names of "
                "their images"
            )
        self._frames: dict[str, Sequence[FileFrame]] = {
            "train": train,
            "test": test,
            "all": in_order,
        }

    def with_unit(self, unit_m: float) -> "FileScene":
        """Return the scene in metres: the positions of its poses are in units of this length.

        Raises:
            SceneError: A position is then not finite.
        """
        scene = copy(self)
        scene.metric = True
        scene._frames = {
            split: [frame.with_unit(unit_m) for frame in frames]
            for split, frames in self._frames.items()
        }
        return scene

    def frames(self, split: Split) -> Iterator[FileFrame]:
        """Iterate over the frames of a split, in recording order."""
        return iter(self._frames[split])

    def count(self, split: Split) -> int:
        """Return the number of frames of a split."""
        return len(self._frames[split])


def make_frames(
    folder: Path, names: Sequence[str], make: Callable[[int, str], FileFrame]
) -> list[FileFrame]:
    """Return the frame of each name; all frames that cannot be made are one error.

    Args:
        folder: Of the scene, for the message.
        names: Names of the frames in recording order.
        make: Returns the frame of an index and a name.

    Raises:
        SceneError: `make` raised one for at least one frame.
    """
    frames: list[FileFrame] = []
    faults: list[tuple[str, SceneError]] = []
    for index, name in enumerate(names):
        try:
            frames.append(make(index, name))
        except SceneError as error:
            faults.append((name, error))
    if len(faults) == 1:
        raise faults[0][1]
    if faults:
        some = ", ".join(name[-24:] for name, _ in faults[:_NAMED_FAULTS])
        first = str(faults[0][1]).removeprefix(f"{folder}/")
        raise SceneError(
            f"{folder}: {len(faults)} of {len(names)} frames cannot be used ({some}"
            f"{', ...' if len(faults) > _NAMED_FAULTS else ''}); the first: {first[:160]}"
        ) from faults[0][1]
    return frames


def inside(folder: Path, name: str) -> Path:
    """Return the path of a file that a file of the scene names.

    Args:
        folder: Folder of the scene.
        name: The path relative to it, with slashes.

    Raises:
        SceneError: The path leaves the folder, or is no name of a file.
    """
    parts = PurePosixPath(name).parts
    bad = not parts or parts[0] == "/" or ".." in parts
    if bad or len(name) > _MAX_NAME or not name.isprintable():
        raise SceneError(f"{folder}: found the path {name[:80]!r}, expected one inside this folder")
    return folder.joinpath(*parts)


def find_image(folder: Path, stem: str, suffixes: Sequence[str] = IMAGE_SUFFIXES) -> Path:
    """Return the path of an image.

    Args:
        folder: Of the scene.
        stem: Path relative to the folder, without suffix.
        suffixes: The suffixes to try; "" where the path may be complete.

    Raises:
        SceneError: There is no such file, or the path leaves the folder.
    """
    for suffix in suffixes:
        path = inside(folder, f"{stem}{suffix}")
        if os.path.exists(path):  # False too for names that the file system refuses
            return path
    raise SceneError(
        f"{folder / stem}{suffixes[0]}: is missing, but the scene's files name it; add it, or "
        "remove its name"
    )


def plain_name(path: str) -> str:
    """Return the name of the frame of an image path: without suffix, folders joined by `_`."""
    name = "_".join(PurePosixPath(path).parts)
    return next((name[: -len(s)] for s in IMAGE_SUFFIXES if name.endswith(s)), name)


def size_of_image(path: Path) -> tuple[int, int]:
    """Return width and height in px of an image as stored.

    Raises:
        SceneError: The image is damaged or too large.
    """
    size = image_size(path)
    if size is None:
        height, width = read_image(path).shape[:2]  # raises the error of its fault
        size = width, height
    return size


def image_stems(folder: Path, ending: str = "") -> list[str]:
    """Return the names of the images in a folder without suffix, in natural order.

    Args:
        folder: The folder.
        ending: Only of images whose names have this before the suffix; it is removed, too.

    Raises:
        SceneError: The folder is missing, or holds no such image.
    """
    try:
        paths = [
            path
            for path in folder.iterdir()
            if path.suffix in IMAGE_SUFFIXES and not path.name.startswith(".")
        ]
    except OSError as error:
        raise SceneError(f"{folder}: cannot be read ({error.strerror})") from error
    stems = {path.stem.removesuffix(ending) for path in paths if path.stem.endswith(ending)}
    if not stems:
        raise SceneError(f"{folder}: holds no image, expected NAME{ending}.png or .jpg")
    return sorted(stems, key=natural_key)
