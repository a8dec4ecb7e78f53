"""Folders of photographs from one or several cameras, without splits, poses or depth.

*.jpg *.jpeg *.png    colour or grey, 8 or 16 bits; rotated as their EXIF orientation states
camera.yaml           calibration in ROS format; it applies to photographs of its size (optional)
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from natsort import natsort_keygen, ns

from mote_localization.calibration_files import read_calibration
from mote_localization.camera import Camera
from mote_localization.errors import CameraError, SceneError
from mote_localization.image_files import image_size, read_image
from mote_localization.scenes.scene import NOMINAL_RATE_HZ, Frame, Scene, Split

_SUFFIXES = (".jpg", ".jpeg", ".png")
_CALIBRATION = "camera.yaml"
_natural_key = natsort_keygen(alg=ns.IGNORECASE)


@dataclass(frozen=True)
class PhotoFrame(Frame):
    """A photograph; a damaged file is found only when its image is read."""

    name: str
    stamp_s: float
    camera: Camera | None
    image_path: Path
    T_map_cam: None = None

    def image(self) -> np.ndarray:
        """Return image_hw3 RGB uint8, upright; see `Frame.image`."""
        image_hw3 = read_image(self.image_path, upright=True)
        return self._with_size_of_camera(image_hw3, str(self.image_path), "its header")

    def size(self) -> tuple[int, int]:
        """Return width and height in px, from the header if it can be read; see `Frame.size`."""
        return image_size(self.image_path, upright=True) or super().size()


class PhotoScene(Scene):
    """A folder of photographs, all for training, in natural order: img2 before img10.

    Frame names are the file names without suffix, or with it if two names would be equal.
    Subfolders and hidden files are ignored. The calibration applies to upright photographs of its
    size: one of 640x480 px does not apply to a portrait of 480x640 px.
    """

    sequential = False

    def __init__(self, path: Path | str, camera: Camera | None = None) -> None:
        """Open the folder; at most the headers of the photographs are read.

        Args:
            path: The folder.
            camera: Calibration of upright photographs of its size; None: camera.yaml, if present.

        Raises:
            SceneError: The path is no folder, has no photographs, or its calibration is damaged.
        """
        self.path = Path(path)
        self.name = self.path.resolve().name
        paths = find_photos(self.path)
        if not paths:
            raise SceneError(f"{self.path}: holds no photographs, expected jpg or png files")
        calibrated = camera or self._read_calibration()
        self._frames = [
            PhotoFrame(name, i / NOMINAL_RATE_HZ, _camera_of_photo(path, calibrated), path)
            for i, (name, path) in enumerate(zip(_frame_names(paths), paths, strict=True))
        ]

    def frames(self, split: Split) -> Iterator[PhotoFrame]:
        """Iterate over the photographs, sorted by name; the test split is empty."""
        return iter([] if split == "test" else self._frames)

    def count(self, split: Split) -> int:
        """Return the number of frames of a split."""
        return 0 if split == "test" else len(self._frames)

    def _read_calibration(self) -> Camera | None:
        path = self.path / _CALIBRATION
        try:
            return read_calibration(path) if path.exists() else None
        except CameraError as error:
            raise SceneError(str(error)) from error


def find_photos(folder: Path) -> list[Path]:
    """Return the photographs in a folder, in natural order; none where it is no folder.

    Raises:
        SceneError: The folder cannot be read.
    """
    if not folder.is_dir():
        return []
    try:
        found = [
            entry
            for entry in folder.iterdir()
            if entry.suffix.lower() in _SUFFIXES
            and not entry.name.startswith(".")
            and entry.is_file()
        ]
    except OSError as error:
        raise SceneError(f"{folder}: cannot be read ({error.strerror})") from error
    return sorted(found, key=lambda entry: (_natural_key(entry.stem), entry.name))


def _camera_of_photo(path: Path, calibrated: Camera | None) -> Camera | None:
    """Return the calibrated camera if a photograph has its size, else None."""
    if calibrated is None:
        return None
    size = image_size(path, upright=True)
    return calibrated if size == (calibrated.width, calibrated.height) else None


def _frame_names(paths: list[Path]) -> list[str]:
    """Return a printable name of each frame; names differ in more than upper and lower case."""
    for names in ([path.stem for path in paths], [path.name for path in paths]):
        # File names from old archives may contain bytes that are not UTF-8.
        printable = [os.fsencode(name).decode(errors="backslashreplace") for name in names]
        if len({name.casefold() for name in printable}) == len(paths):
            break
    return printable
