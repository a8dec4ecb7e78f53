"""Lenses of photographs without intrinsics: initial focal lengths, and which share a lens."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from distill_training.poses.lenses import initial_camera, lens_key
from mote_localization.scenes.photos import PhotoScene

WIDE = ("Phone 1", 4.25, 26)  # model, focal length and that of 35 mm film, mm
ZOOMED = ("Phone 1", 9.0, 77)
OTHER_PHONE = ("Phone 2", 4.25, 26)


def write(path: Path, lens: tuple | None, size: tuple[int, int] = (80, 60)) -> None:
    """Write a photograph with a lens in its EXIF data."""
    exif = Image.Exif()
    if lens is not None:
        exif[0x0110] = lens[0]
        exif.get_ifd(0x8769).update({0x920A: lens[1], 0xA405: lens[2]})
    Image.new("RGB", size, (90, 90, 90)).save(path, exif=exif)


def lenses(folder: Path) -> dict[str, tuple[object, float]]:
    """Return the key of each photograph's lens, and its initial focal length in px."""
    found = {}
    for frame in PhotoScene(folder).frames("train"):
        camera, known = initial_camera(frame, "auto")
        assert not known
        found[frame.name] = lens_key(frame, camera, known), camera.fx
    return found


def test_the_focal_length_of_exif_data_is_the_initial_one(tmp_path):
    for name, lens in {"wide": WIDE, "zoomed": ZOOMED, "none": None}.items():
        write(tmp_path / f"{name}.jpg", lens)
    focal_px = {name: focal for name, (_, focal) in lenses(tmp_path).items()}
    diagonal_mm = np.hypot(36, 24)
    assert focal_px["wide"] == pytest.approx(26 * 100 / diagonal_mm)
    assert focal_px["zoomed"] == pytest.approx(77 * 100 / diagonal_mm)
    assert focal_px["none"] == pytest.approx(0.9 * 80)


@pytest.mark.parametrize("other", [ZOOMED, OTHER_PHONE, None])
def test_photographs_of_one_size_and_two_lenses_are_of_two_cameras(tmp_path, other):
    write(tmp_path / "a.jpg", WIDE)
    write(tmp_path / "b.jpg", other)
    found = lenses(tmp_path)
    assert found["a"][0] != found["b"][0]


def test_landscapes_and_portraits_of_a_phone_have_one_lens(tmp_path):
    write(tmp_path / "a.jpg", WIDE)
    write(tmp_path / "b.jpg", WIDE, (60, 80))
    found = lenses(tmp_path)
    assert found["a"] == found["b"]


def test_another_image_size_is_another_camera(tmp_path):
    write(tmp_path / "a.jpg", WIDE)
    write(tmp_path / "b.jpg", WIDE, (100, 60))
    found = lenses(tmp_path)
    assert found["a"][0] != found["b"][0]
