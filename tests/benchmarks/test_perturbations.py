"""Changed images for benchmarks."""

import cv2
import numpy as np
import pytest

from benchmarks.perturbations import CLEAN, PERTURBATIONS, WRONG_CAMERAS, perturbed
from mote_localization.camera import Camera

CAMERA = Camera(160, 120, 130.0, 130.0, 79.5, 59.5)
COARSE = np.random.default_rng(0).integers(0, 255, (12, 16, 3)).astype(np.uint8)
IMAGE = cv2.resize(COARSE, (160, 120), interpolation=cv2.INTER_CUBIC)


@pytest.mark.parametrize("name", PERTURBATIONS)
def test_a_perturbation_changes_the_image_or_its_camera_and_is_repeatable(name: str):
    before = IMAGE.copy()
    image, camera = perturbed(name, IMAGE, CAMERA, 3)
    again, _ = perturbed(name, IMAGE, CAMERA, 3)
    assert image.dtype == np.uint8 and image.shape == IMAGE.shape
    np.testing.assert_array_equal(image, again)
    np.testing.assert_array_equal(IMAGE, before)
    assert (camera != CAMERA) == (name in WRONG_CAMERAS)
    assert (image == IMAGE).all() == (name in WRONG_CAMERAS or name == CLEAN)


@pytest.mark.parametrize("percent", [30, 50, 70])
def test_a_cover_hides_its_fraction_of_the_image(percent: int):
    for seed in range(5):
        image, _ = perturbed(f"covered {percent} %", IMAGE, CAMERA, seed)
        changed = (image != IMAGE).any(axis=-1).mean()
        assert changed == pytest.approx(percent / 100, abs=0.03)


def test_grey_has_equal_channels_and_swapped_the_same_ones():
    grey, _ = perturbed("grey", IMAGE, CAMERA, 0)
    assert np.ptp(grey, axis=-1).max() == 0
    swapped, _ = perturbed("red and blue swapped", IMAGE, CAMERA, 0)
    np.testing.assert_array_equal(swapped[..., [2, 1, 0]], IMAGE)
