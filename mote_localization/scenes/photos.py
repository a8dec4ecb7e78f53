"""Folders of photographs from one or several cameras, without splits, poses or depth.

*.jpg *.png *.webp *.tif *.heic    colour or grey, 8 or 16 bits; rotated as EXIF states
camera.yaml                        calibration of photographs of its size (optional)
"""

import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mote_localization.calibration_files import read_calibration
from mote_localization.camera import Camera
from mote_localization.errors import CameraError, SceneError
from mote_localization.image_files import (
    HEIC_SUFFIXES,
    INSTALL_HEIC,
    PHOTO_SUFFIXES,
    image_size,
    read_image,
    read_lens,
)
from mote_localization.image_headers import Lens, heic_is_readable
from mote_localization.scenes.frame_files import natural_key
from mote_localization.scenes.scene import NOMINAL_RATE_HZ, Frame, Scene, Split

_log = logging.getLogger(__name__)
# images that no reader opens; further files, as videos and notes, are no photographs
_OTHER_IMAGES = ".arw .avif .bmp .cr2 .cr3 .dng .gif .jp2 .jxl .nef .orf .raf .rw2".split()
_NAMED = 3  # files of a kind that a warning names
_CALIBRATION = "camera.yaml"


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

    def lens(self) -> Lens | None:
        """Return camera and focal length in the file's EXIF data; see `Frame.lens`."""
        return read_lens(self.image_path)


class PhotoScene(Scene):
    """A folder of photographs, all for training, in natural order: img2 before img10.

    Frame names are the file names without suffix, or with it if two names would be equal.
    Subfolders and hidden files are ignored. The calibration applies to upright photographs of its
    size: one of 640x480 px does not apply to a portrait of 480x640 px.
    """

    sequential = False
    has_times = False

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
        paths, left_out = _split_readable(find_images(self.path))
        if not paths:
            found = left_out or "none"
            raise SceneError(
                f"{self.path}: found no photographs that can be read ({found[:150]}), expected "
                "jpg, png, webp, tif or heic files"
            )
        if left_out:
            _log.warning("%s: images are left out: %s", self.path, left_out)
        calibrated = camera or self._read_calibration()
        self._frames = [
            PhotoFrame(name, i / NOMINAL_RATE_HZ, _camera_of_photo(path, calibrated), path)
            for i, (name, path) in enumerate(zip(_frame_names(paths), paths, strict=True))
        ]
        if calibrated and not any(frame.camera for frame in self._frames):
            _log.warning(
                "%s: no photograph has the size of the calibration, %dx%d px: it is not used",
                self.path,
                calibrated.width,
                calibrated.height,
            )

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


def find_images(folder: Path) -> list[Path]:
    """Return the image files in a folder, in natural order; none where it is no folder.

    Those of formats that cannot be read are among them.

    Raises:
        SceneError: The folder cannot be read.
    """
    if not folder.is_dir():
        return []
    try:
        found = [
            entry
            for entry in folder.iterdir()
            if entry.suffix.lower() in (*PHOTO_SUFFIXES, *_OTHER_IMAGES)
            and not entry.name.startswith(".")
            and entry.is_file()
        ]
    except OSError as error:
        raise SceneError(f"{folder}: cannot be read ({error.strerror})") from error
    return sorted(found, key=lambda entry: (natural_key(entry.stem), entry.name))


def _split_readable(images: list[Path]) -> tuple[list[Path], str]:
    """Return the images that can be read, and a description of the others; empty if none."""
    readable: list[Path] = []
    others: dict[str, list[str]] = {}
    heic = heic_is_readable()
    for path in images:
        suffix = path.suffix.lower()
        if suffix in _OTHER_IMAGES or (suffix in HEIC_SUFFIXES and not heic):
            others.setdefault(suffix, []).append(_printable(path.name))
        else:
            readable.append(path)
    kinds = []
    for suffix, names in others.items():
        more = ", ..." if len(names) > _NAMED else ""
        remedy = INSTALL_HEIC if suffix in HEIC_SUFFIXES else "convert them to jpg"
        kinds.append(f"{len(names)} {suffix[1:]} ({', '.join(names[:_NAMED])}{more}; {remedy})")
    return readable, ", ".join(kinds)


def _camera_of_photo(path: Path, calibrated: Camera | None) -> Camera | None:
    """Return the calibrated camera if a photograph has its size, else None."""
    if calibrated is None:
        return None
    size = image_size(path, upright=True)
    return calibrated if size == (calibrated.width, calibrated.height) else None


def _frame_names(paths: list[Path]) -> list[str]:
    """Return a printable name of each frame; names differ in more than upper and lower case."""
    for names in ([path.stem for path in paths], [path.name for path in paths]):
        printable = [_printable(name) for name in names]
        if len({name.casefold() for name in printable}) == len(paths):
            break
    return printable


def _printable(name: str) -> str:
    """Return a file name that can be printed: in old archives, some are not UTF-8."""
    return os.fsencode(name).decode(errors="backslashreplace")
