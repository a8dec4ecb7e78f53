"""Errors of the intrinsics, estimated from simulated matches of several views."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from make_map import CAMERA, T_MAP_CAM, room_points

from mote_localization.camera import cell_pixels
from mote_localization.geometry import exp_rotation, rigid
from mote_localization.intrinsics_check import CalibrationChecks
from mote_localization.pose import find_pose

STRIDE = 16
PIXELS = cell_pixels(CAMERA.width, CAMERA.height, STRIDE).reshape(-1, 2)
BARREL = (-0.2, 0.05, 0.0, 0.0, 0.0)


def view(step):
    """Return a pose of a camera that moves about in the box room."""
    turn = exp_rotation(np.array([0.1 * np.sin(0.9 * step + 1), 0.3 * np.sin(0.23 * step), 0.02]))
    moved = np.array([0.3 * np.sin(0.31 * step), 0.1 * np.sin(0.7 * step), 0.2 * np.sin(step)])
    return T_MAP_CAM @ rigid(turn, moved)


def image(T_map_cam, true, given, seed, noise_px=0.5):
    """Return what the localizer finds in an image of a true camera that is used as a given one.

    The errors of the matches are those of image blocks, and of single matches.
    """
    random = np.random.default_rng(seed)
    points = room_points(T_map_cam, CAMERA, STRIDE).reshape(-1, 3)
    local = (points - T_map_cam[:3, 3]) @ T_map_cam[:3, :3]
    live = true.project(local)
    rays = (live - (given.cx, given.cy)) / (given.fx, given.fy)
    for _ in range(20 if given.distortion else 0):  # undistort
        there = given.project(np.column_stack([rays, np.ones(len(rays))]))
        rays = rays + (live - there) / (given.fx, given.fy)
    pixels = CAMERA.project(np.column_stack([rays, np.ones(len(rays))]))
    block = (PIXELS // 64).astype(int) @ (1, 16)
    pixels += noise_px * (random.normal(size=(200, 2))[block] + random.normal(size=pixels.shape))
    wrong = random.random(len(pixels)) < 0.1
    pixels[wrong] += random.uniform(-30, 30, (wrong.sum(), 2))
    sigma = 0.006 * local[:, 2]
    pose = find_pose(points, pixels, sigma, CAMERA, prior=T_map_cam)
    return SimpleNamespace(
        match_points_n3=points,
        pixels_n2=pixels,
        match_sigma_n=sigma,
        tracking=SimpleNamespace(T_map_cam=pose),
    )


def faults(true, given, views=range(30)):
    """Return the fault after each image."""
    checks = CalibrationChecks(CAMERA)
    return [checks.fault(0, given, image(view(i), true, given, i)) for i in views]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"fx": 1.05, "fy": 1.05}, "disagrees by 4.8 % of focal length: the images fit a focal"),
        ({"fx": 0.85, "fy": 0.85}, "disagrees by 17.6 % of focal length: the images fit a focal"),
        ({"fx": 1.03, "fy": 1.03}, "disagrees by 2.9 % of focal length: the images fit a focal"),
        ({"cx": 1.1}, "the images fit a principal point x of "),
        ({"cy": 0.87}, "the images fit a principal point y of "),
    ],
)
def test_wrong_intrinsics_are_named_with_their_size(change, text):
    given = replace(CAMERA, **{name: getattr(CAMERA, name) * f for name, f in change.items()})
    last = faults(CAMERA, given)[-1]
    if "% of" in text:  # 0.4 % of tolerance
        stated, expected = (float(one.split("by ")[1].split(" %")[0]) for one in (last, text))
        assert abs(stated - expected) < 0.4
        assert text.split(":")[1] in last
    assert text.rsplit(":", 1)[-1] in last and "calibrate the camera again" in last


def test_rectified_images_with_a_raw_calibration_and_the_reverse_are_named():
    raw = replace(CAMERA, distortion=BARREL)
    assert "the images look rectified" in faults(CAMERA, raw)[-1]
    assert "the images look distorted" in faults(raw, CAMERA)[-1]
    assert not any(faults(raw, raw))


def test_a_right_calibration_is_never_rejected():
    for first in range(0, 600, 50):
        assert not any(faults(CAMERA, CAMERA, range(first, first + 12)))


def test_a_camera_that_stands_still_is_one_view():
    given = replace(CAMERA, fx=1.15 * CAMERA.fx, fy=1.15 * CAMERA.fy)
    assert not any(faults(CAMERA, given, [3] * 30))


def test_another_calibration_starts_again_and_a_right_one_clears_the_fault():
    given = replace(CAMERA, fx=1.1 * CAMERA.fx, fy=1.1 * CAMERA.fy)
    checks = CalibrationChecks(CAMERA)
    assert [checks.fault(0, given, image(view(i), CAMERA, given, i)) for i in range(20)][-1]
    assert checks.fault(1, given, image(view(0), CAMERA, given, 0)) == ""  # another camera
    assert checks.fault(0, CAMERA, image(view(1), CAMERA, CAMERA, 1)) == ""
    assert [checks.fault(0, given, image(view(i), CAMERA, given, i)) for i in range(20)][-1]
    # the lens is set back to what it was calibrated for
    cleared = [checks.fault(0, given, image(view(i), given, given, i)) for i in range(20, 110)]
    assert cleared[0] and not cleared[-1]
