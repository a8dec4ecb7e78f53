"""Scene folders in the layout of 12Scenes.

camera-intrinsics.txt         3x3 K of colour and depth; all images have one size then (optional)
data/NAME.color.jpg|png       8-bit colour
data/NAME.depth.png           16-bit millimetres along the optical axis, 0 = no depth (optional)
data/NAME.pose.txt            4x4 camera-to-map, metres, OpenCV axes (optional for each frame)
train.txt test.txt            frame names, one a line

Images are read as stored, without the EXIF rotation: K and poses refer to the sensor's axes.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from mote_localization.camera import Camera
from mote_localization.errors import CameraError, SceneError
from mote_localization.geometry import check_pose
from mote_localization.image_files import decode_file, image_size, read_image
from mote_localization.scenes.scene import LAYOUTS, NOMINAL_RATE_HZ, Frame, Scene, Split

_MAX_NAMES_BYTES = 64 << 20
_MAX_MATRIX_BYTES = 64 << 10


@dataclass(frozen=True)
class FolderFrame(Frame):
    """A frame with its image and its depth in files."""

    name: str
    stamp_s: float
    camera: Camera | None
    T_map_cam: np.ndarray | None
    image_path: Path
    depth_path: Path

    def image(self) -> np.ndarray:
        """Return image_hw3 RGB uint8; see `Frame.image`."""
        return self._checked(read_image(self.image_path), self.image_path)

    def size(self) -> tuple[int, int]:
        """Return width and height in px, from the header if it can be read; see `Frame.size`."""
        if self.camera is not None:
            return super().size()
        return image_size(self.image_path) or super().size()

    def depth(self) -> np.ndarray | None:
        """Return depth_hw in metres, or None; see `Frame.depth`."""
        if not self.depth_path.exists():
            return None
        depth = self._checked(decode_file(self.depth_path, cv2.IMREAD_UNCHANGED), self.depth_path)
        if depth.dtype != np.uint16 or depth.ndim != 2:
            raise SceneError(
                f"{self.depth_path}: found {depth.dtype} with {depth.ndim} dimensions, expected "
                "16-bit millimetres"
            )
        return depth.astype(np.float32) / 1000

    def _checked(self, image: np.ndarray, path: Path) -> np.ndarray:
        return self._with_size_of_camera(image, str(path), "the scene's first image")


class FolderScene(Scene):
    """A scene folder. Names, camera and poses are read on opening, images on demand."""

    def __init__(self, path: Path | str) -> None:
        """Open the folder.

        Raises:
            SceneError: Files are missing or damaged, or a pose is not a rigid transform.
        """
        self.path = Path(path)
        self.name = self.path.resolve().name
        splits = {split: set(self._read_names(split)) for split in ("train", "test")}
        both = splits["train"] & splits["test"]
        if both:
            raise SceneError(
                f"{self.path}: frame {min(both)[:60]} is in train.txt and in test.txt, expected in "
                "one of them"
            )
        ordered = sorted(splits["train"] | splits["test"])
        if not ordered:
            raise SceneError(
                f"{self.path}: train.txt and test.txt name no frame, expected at least one"
            )
        camera = self._read_camera(ordered[0])
        frames = [self._frame(i / NOMINAL_RATE_HZ, name, camera) for i, name in enumerate(ordered)]
        self._frames: dict[str, list[FolderFrame]] = {
            **{split: [f for f in frames if f.name in names] for split, names in splits.items()},
            "all": frames,
        }

    def frames(self, split: Split) -> Iterator[FolderFrame]:
        """Iterate over the frames of a split, sorted by name."""
        return iter(self._frames[split])

    def count(self, split: Split) -> int:
        """Return the number of frames of a split."""
        return len(self._frames[split])

    def _read_names(self, split: str) -> list[str]:
        path = self.path / f"{split}.txt"
        if not path.exists():
            if split == "test":
                return []
            raise SceneError(
                f"{path}: is missing, expected the names of the training frames, or {LAYOUTS}"
            )
        names = _read_text(path, _MAX_NAMES_BYTES).split()
        if any(Path(name).name != name or name.startswith(".") for name in names):
            raise SceneError(f"{path}: contains a frame name with a folder, expected plain names")
        return names

    def _read_camera(self, first: str) -> Camera | None:
        path = self.path / "camera-intrinsics.txt"
        if not path.exists():
            return None
        K = _read_matrix(path, (3, 3))
        height, width = read_image(self._image_path(first)).shape[:2]
        try:
            return Camera.from_K(width, height, K)
        except CameraError as error:
            raise SceneError(f"{path}: {error}") from error

    def _frame(self, stamp_s: float, name: str, camera: Camera | None) -> FolderFrame:
        path = self.path / f"data/{name}.pose.txt"
        return FolderFrame(
            name,
            stamp_s,
            camera,
            check_pose(_read_matrix(path, (4, 4)), str(path)) if path.exists() else None,
            self._image_path(name),
            self.path / f"data/{name}.depth.png",
        )

    def _image_path(self, name: str) -> Path:
        for suffix in ("jpg", "png"):
            path = self.path / f"data/{name}.color.{suffix}"
            if path.exists():
                return path
        raise SceneError(
            f"{self.path}/data/{name[:60]}.color.jpg (or .png): is missing, but train.txt or "
            "test.txt names it"
        )


def _read_text(path: Path, max_bytes: int) -> str:
    try:
        if path.stat().st_size > max_bytes:
            raise SceneError(f"{path}: over {max_bytes >> 10} KiB, expected a text file")
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise SceneError(f"{path}: cannot be read as text ({str(error)[:100]})") from error


def _read_matrix(path: Path, shape: tuple[int, int]) -> np.ndarray:
    text = _read_text(path, _MAX_MATRIX_BYTES)
    try:
        matrix = np.array(
            [[float(x) for x in line.split()] for line in text.splitlines() if line.strip()]
        )
    except ValueError as error:
        raise SceneError(
            f"{path}: {str(error)[:100]}, expected a {shape[0]}x{shape[1]} matrix as text"
        ) from error
    if matrix.shape != shape:
        raise SceneError(f"{path}: found a matrix of shape {matrix.shape}, expected {shape}")
    return matrix
