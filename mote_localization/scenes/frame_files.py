"""Scenes whose images and depths are files: what the readers of datasets have in common."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from mote_localization.camera import Camera
from mote_localization.errors import SceneError
from mote_localization.image_files import decode_file, image_size, read_image
from mote_localization.scenes.scene import Frame, Scene, Split

_MAX_ASPECT_DIFFERENCE = 0.01  # relative, of depth and colour images that show the same


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
        depth_hw = scaled_depth(depth, self.size(), str(self.depth_path))
        return depth_hw.astype(np.float32) * np.float32(self.depth_unit_m)


def scaled_depth(depth_hw: np.ndarray, size: tuple[int, int], where: str) -> np.ndarray:
    """Return a depth image in the size of its colour image, by the nearest pixel.

    Args:
        depth_hw: Depths of any unit.
        size: Width and height of the colour image, px.
        where: For the error message.

    Raises:
        SceneError: The images differ in their aspect ratio by more than 1 %.
    """
    (height, width), (image_width, image_height) = depth_hw.shape, size
    if (width, height) == size:
        return depth_hw
    if abs(width * image_height / (height * image_width) - 1) > _MAX_ASPECT_DIFFERENCE:
        raise SceneError(
            f"{where}: found a depth image of {width}x{height} px beside an image of "
            f"{image_width}x{image_height} px, expected the same aspect ratio"
        )
    # cv2's INTER_NEAREST takes the pixel beside the centre; the exact one keeps pixel centres.
    return cv2.resize(depth_hw, size, interpolation=cv2.INTER_NEAREST_EXACT)


class FileScene(Scene):
    """A scene of such frames, in recording order; each reader of a layout derives from it."""

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
        self._frames: dict[str, Sequence[FileFrame]] = {
            "train": train,
            "test": test,
            "all": in_order,
        }

    def frames(self, split: Split) -> Iterator[FileFrame]:
        """Iterate over the frames of a split, in recording order."""
        return iter(self._frames[split])

    def count(self, split: Split) -> int:
        """Return the number of frames of a split."""
        return len(self._frames[split])
