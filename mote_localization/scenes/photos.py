"""Folders of photographs, of one camera or several: no splits, no poses, no depth.

*.jpg *.jpeg *.png    colour or grey, 8 or 16 bits; turned upright as their EXIF says
camera.yaml           calibration, in ROS's form, of the photographs of its size (optional)
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from natsort import natsort_keygen, ns

from mote_localization.camera import Camera, read_camera_info
from mote_localization.errors import CameraError, SceneError
from mote_localization.image_files import image_size, read_image
from mote_localization.scenes import LAYOUTS, NOMINAL_RATE_HZ, Frame, Scene, Split

_SUFFIXES = (".jpg", ".jpeg", ".png")
_CALIBRATION = "camera.yaml"
_natural_key = natsort_keygen(alg=ns.IGNORECASE)


@dataclass(frozen=True)
class PhotoFrame(Frame):
    """A photograph; it may turn out to be damaged when its image is asked for."""

    name: str
    stamp_s: float
    camera: Camera | None
    image_path: Path
    T_map_cam: None = None

    def image(self) -> np.ndarray:
        """Return image_hw3 RGB uint8, upright; see `Frame.image`."""
        image_hw3 = read_image(self.image_path, upright=True)
        camera = self.camera
        if camera is not None and image_hw3.shape[:2] != (camera.height, camera.width):
            raise SceneError(
                f"{self.image_path}: is {image_hw3.shape[1]}x{image_hw3.shape[0]} px, its header "
                f"says {camera.width}x{camera.height}: it is damaged"
            )
        return image_hw3

    def size(self) -> tuple[int, int]:
        """Return width and height in px, from the header where it can be read; see `Frame.size`."""
        return image_size(self.image_path, upright=True) or super().size()


class PhotoScene(Scene):
    """A folder of photographs, all to learn from, in the order of their names: img2 before img10.

    Names are the files' without suffix; with it, where two would be alike. Folders below are not
    entered and hidden files not seen. A camera is that of the upright photograph: a calibration of
    640x480 px does not speak of a portrait of 480x640.
    """

    sequential = False

    def __init__(self, path: Path | str) -> None:
        """Open the folder; of photographs at most the headers are read.

        Raises:
            SceneError: It is no folder, holds no photographs, or its calibration cannot be used.
        """
        self.path = Path(path)
        self.name = self.path.resolve().name
        paths = self._photographs()
        if not paths:
            raise SceneError(f"{self.path}: holds no photographs, expected {LAYOUTS}")
        calibrated = self._calibration()
        self._frames = [
            PhotoFrame(name, i / NOMINAL_RATE_HZ, _camera_of(path, calibrated), path)
            for i, (name, path) in enumerate(zip(_names(paths), paths, strict=True))
        ]

    def frames(self, split: Split) -> Iterator[PhotoFrame]:
        """Go through the photographs by name; none is for testing."""
        return iter([] if split == "test" else self._frames)

    def count(self, split: Split) -> int:
        """Return how many frames a split has."""
        return 0 if split == "test" else len(self._frames)

    def _photographs(self) -> list[Path]:
        try:
            found = [
                entry
                for entry in self.path.iterdir()
                if entry.suffix.lower() in _SUFFIXES
                and not entry.name.startswith(".")
                and entry.is_file()
            ]
        except OSError as error:
            raise SceneError(
                f"{self.path}: cannot be read ({error.strerror}), expected {LAYOUTS}"
            ) from error
        return sorted(found, key=lambda entry: (_natural_key(entry.stem), entry.name))

    def _calibration(self) -> Camera | None:
        path = self.path / _CALIBRATION
        try:
            return read_camera_info(path) if path.exists() else None
        except CameraError as error:
            raise SceneError(str(error)) from error


def _camera_of(path: Path, calibrated: Camera | None) -> Camera | None:
    """Return the calibrated camera if a photograph is of its size."""
    if calibrated is None:
        return None
    size = image_size(path, upright=True)
    return calibrated if size == (calibrated.width, calibrated.height) else None


def _names(paths: list[Path]) -> list[str]:
    """Return the frames' names: printable, and distinct where letters' case does not count."""
    for names in ([path.stem for path in paths], [path.name for path in paths]):
        # File systems hold bytes that are no text, those of old archives.
        printable = [os.fsencode(name).decode(errors="backslashreplace") for name in names]
        if len({name.casefold() for name in printable}) == len(paths):
            break
    return printable
