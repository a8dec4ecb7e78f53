"""Errors of the intrinsics, estimated from simulated matches of several views."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from make_map import CAMERA, T_MAP_CAM, room_points, write_constant_map
from make_painted_room import keyframe

from mote_localization import intrinsics_check
from mote_localization.camera import cell_pixels
from mote_localization.geometry import exp_rotation, rigid
from mote_localization.intrinsics_check import (
    CalibrationChecks,
    IntrinsicsCheck,
    IntrinsicsConfig,
    _differ,
)
from mote_localization.localizer import Localizer
from mote_localization.map_file import read_map, write_map
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
    assert last.endswith("or make the map again if the calibration is right")


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


def test_the_alarm_of_a_camera_that_stands_still_ends_once_its_images_fit():
    given = replace(CAMERA, fx=1.1 * CAMERA.fx, fy=1.1 * CAMERA.fy)
    checks = CalibrationChecks(CAMERA)
    assert [checks.fault(0, given, image(view(i), CAMERA, given, i)) for i in range(12)][-1]
    wrong, right = (image(view(12), true, given, 12) for true in (CAMERA, given))
    assert all([checks.fault(0, given, wrong) for _ in range(700)])
    assert not [checks.fault(0, given, right) for _ in range(400)][-1]


def test_an_image_of_a_place_replaces_the_one_before():
    check, estimates = IntrinsicsCheck(CAMERA), []
    for seed in (1, 2):
        found = image(view(3), CAMERA, CAMERA, seed)
        matches = found.match_points_n3, found.pixels_n2, found.match_sigma_n
        for _ in range(30):
            check.add(*matches, found.tracking.T_map_cam)
        assert len(check._views.errors_n4) == 1
        estimates.append(check._views.errors_n4[0].copy())
    assert not np.allclose(*estimates)


def test_a_place_is_estimated_once_in_30_images_while_the_camera_stands_still(monkeypatch):
    calls = []
    real = intrinsics_check._errors_of
    monkeypatch.setattr(intrinsics_check, "_errors_of", lambda *a: calls.append(1) or real(*a))
    checks = CalibrationChecks(CAMERA)
    one = image(view(3), CAMERA, CAMERA, 3)
    for _ in range(91):
        checks.fault(0, CAMERA, one)
    assert len(calls) == 4


def test_a_calibration_that_changes_a_little_with_each_image_is_checked():
    wrong, random = 1.1 * CAMERA.fx, np.random.default_rng(0)
    checks, found = CalibrationChecks(CAMERA), []
    for i in range(20):
        f, x, y, k = random.uniform(-5e-4, 5e-4, 4)
        given = replace(
            CAMERA,
            fx=wrong * (1 + f),
            fy=wrong * (1 + f),
            cx=CAMERA.cx + wrong * x,
            cy=CAMERA.cy + wrong * y,
            distortion=(k, 0, 0, 0, 0),
        )
        found.append(checks.fault(0, given, image(view(i), CAMERA, given, i)))
    assert found[-1]
    shifted = replace(given, cx=given.cx + 0.003 * wrong)
    assert checks.fault(0, shifted, image(view(0), CAMERA, shifted, 0)) == ""  # starts again
    assert not _differ(CAMERA, replace(CAMERA, distortion=(0.001, 0, 0, 0, 0)))
    assert _differ(CAMERA, replace(CAMERA, distortion=(0.003, 0, 0, 0, 0)))
    assert _differ(CAMERA, replace(CAMERA, width=CAMERA.width + 1))


def test_a_view_whose_estimate_does_not_converge_is_not_counted():
    found = image(view(3), CAMERA, CAMERA, 3)
    matches = found.match_points_n3, found.pixels_n2, found.match_sigma_n
    pose = found.tracking.T_map_cam
    moved = pose @ rigid(np.eye(3), np.array([0.02, 0, 0]))
    for scale, steps, views in ((1, 10, 1), (1, 1, 0), (100, 10, 1)):
        check = IntrinsicsCheck(CAMERA, IntrinsicsConfig(steps=steps))
        T_map_cam = moved.copy()
        T_map_cam[:3, 3] *= scale
        check.add(scale * matches[0], matches[1], scale * matches[2], T_map_cam)
        assert len(check._views.depth_n) == views


def test_poses_of_the_student_alone_are_not_checked(tmp_path):
    plain = read_map(write_constant_map(tmp_path / "plain.onnx"))
    path = tmp_path / "painted.onnx"
    painted = replace(plain.info, keyframes=(keyframe(T_MAP_CAM),))
    write_map(path, onnx.load_model_from_string(plain.model), painted)
    localizer = Localizer.open(path, threads=1)
    assert localizer.uses_keyframes and CalibrationChecks.of(localizer) is not None
    assert CalibrationChecks.of(localizer.student_alone()) is None
    localizer.close()


def test_a_suspected_error_enlarges_the_covariance_from_the_first_view_on():
    given = replace(CAMERA, fx=1.15 * CAMERA.fx, fy=1.15 * CAMERA.fy)
    for step in range(0, 40, 5):
        checks = CalibrationChecks(CAMERA)
        wrong, right = (image(view(step), CAMERA, camera, step) for camera in (given, CAMERA))
        assert checks.fault(0, given, wrong) == ""
        off = np.linalg.norm((wrong.tracking.T_map_cam - view(step))[:3, 3])
        assert off**2 < 7.81 * checks.added_variance(0)  # in the 95 % ellipsoid
        assert checks.added_variance(0) < off**2 * 4
        checks.fault(0, CAMERA, right)
        assert checks.added_variance(0) == 0
