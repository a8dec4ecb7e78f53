"""Several rigid cameras: one pose from the images of all of them."""

from dataclasses import replace

import numpy as np
import pytest
from make_map import CAMERA, T_MAP_CAM, room_points, write_constant_map
from make_painted_room import keyframe, photograph, shifted

from mote_localization.geometry import exp_rotation, invert, local_coordinates, retract, rigid
from mote_localization.keyframe_matcher import KeyframeConfig
from mote_localization.localizer import Localizer, LocalizerConfig, RigImage, Status
from mote_localization.map_file import read_map

T_FRONT_LEFT = rigid(exp_rotation(np.array([0.05, -1.4, 0.0])), np.array([-0.2, 0.0, -0.1]))
BLACK = np.zeros((CAMERA.height, CAMERA.width, 3), np.uint8)
NOISE = np.random.default_rng(0).integers(0, 255, BLACK.shape, np.uint8)
FRONT, LEFT = photograph(T_MAP_CAM), photograph(T_MAP_CAM @ T_FRONT_LEFT)


class Student:
    """A backend whose points have independent errors; nothing is known of other images."""

    def __init__(self, noise_m=0.0, seed=0):
        self.images = []
        random = np.random.default_rng(seed)
        for image, T in ((FRONT, T_MAP_CAM), (LEFT, T_MAP_CAM @ T_FRONT_LEFT)):
            points_hw3 = room_points(T, CAMERA, 8)
            points_hw3 += noise_m * random.normal(size=points_hw3.shape)
            self.images.append((image, points_hw3.astype(np.float32)))

    def predict(self, image_hw3):
        for image, points_hw3 in self.images:
            if np.array_equal(image, image_hw3):
                return points_hw3, np.full(points_hw3.shape[:2], 0.05, np.float32)
        nothing = np.full_like(self.images[0][1], np.nan)
        return nothing, np.full(nothing.shape[:2], 50, np.float32)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return read_map(write_constant_map(tmp_path_factory.mktemp("map") / "room.onnx"))


@pytest.fixture(scope="module")
def with_keyframes(plain):
    poses = shifted(-0.3, 0, 0), shifted(0.4, 0.1, -0.3, omega=(0, -0.2, 0))
    keyframes = [keyframe(T @ T_rig) for T in poses for T_rig in (np.eye(4), T_FRONT_LEFT)]
    return replace(plain, info=replace(plain.info, keyframes=tuple(keyframes)))


def left(image_hw3=LEFT, T_first_cam=T_FRONT_LEFT):
    return RigImage(image_hw3, CAMERA, T_first_cam)


def error_m(found):
    assert found.status is Status.LOCALIZED, found.reason
    return np.linalg.norm(local_coordinates(T_MAP_CAM, found.T_map_cam)[:3])


@pytest.mark.parametrize("image", [FRONT, BLACK, NOISE], ids=["seen", "black", "noise"])
def test_the_pose_is_that_of_the_first_camera_even_if_only_the_other_sees_the_place(plain, image):
    found = Localizer(plain, Student()).localize(image, CAMERA, None, [left()])
    assert error_m(found) < 1e-3
    assert found.image_hw3 is not None and np.array_equal(found.image_hw3, image)


def test_without_the_place_in_any_image_the_rig_is_lost(plain, with_keyframes):
    for map_file in (plain, with_keyframes):
        found = Localizer(map_file, Student()).localize(NOISE, CAMERA, None, [left(BLACK)])
        assert found.status is Status.LOST and found.T_map_cam is None


def test_two_cameras_together_have_enough_inliers(plain):
    config = LocalizerConfig(max_sigma_m=0.06, min_inliers=1000, max_cells=1000)
    localizer = Localizer(plain, Student(), config)
    assert "expected at least 1000" not in localizer.localize(FRONT, CAMERA).reason
    config = replace(config, min_inliers=1500, max_cells=1500)
    localizer = Localizer(plain, Student(), config)
    assert "1200 cells" in localizer.localize(FRONT, CAMERA).reason
    assert error_m(localizer.localize(FRONT, CAMERA, None, [left()])) < 1e-3


def test_two_cameras_are_more_precise_than_one(plain):
    alone, both = [], []
    for seed in range(20):
        localizer = Localizer(plain, Student(0.05, seed))
        alone.append(error_m(localizer.localize(FRONT, CAMERA)))
        both.append(error_m(localizer.localize(FRONT, CAMERA, None, [left()])))
    assert np.median(both) < 0.8 * np.median(alone)


@pytest.mark.parametrize("image", [FRONT, BLACK], ids=["both", "left"])
def test_keyframes_refine_track_and_search_the_pose_of_a_rig(with_keyframes, image, monkeypatch):
    config = LocalizerConfig(keyframes=KeyframeConfig(searched=0))
    localizer = Localizer(with_keyframes, Student(0.03), config)
    first = localizer.localize(image, CAMERA, None, [left()])
    assert error_m(first) < 1e-2
    if image is FRONT:
        assert first.inliers > 1.5 * localizer.localize(image, CAMERA).inliers
    with monkeypatch.context() as only_tracking:
        only_tracking.setattr(Localizer, "_first_pose", None)
        last = first.tracking._replace(T_map_cam=retract(T_MAP_CAM, np.full(6, 0.01)))
        assert error_m(localizer.localize(image, CAMERA, last, [left()])) < 1e-2
        was_right = last.others[0]._replace(T_first_cam=invert(T_FRONT_LEFT))
        was_right = was_right._replace(points_hw3=was_right.points_hw3 + 9)
        for others in ((), (was_right,)):  # the left camera's image was late last time
            other = last._replace(others=others)
            found = localizer.localize(image, CAMERA, other, [left()])
            assert error_m(found) < 1e-2 and found.inliers > 0.8 * first.inliers
    blind = Student()
    blind.images = [(BLACK, np.full((30, 40, 3), np.nan, np.float32))]
    assert localizer.localize(image, CAMERA, None, [left()]).status is Status.LOCALIZED
    searching = Localizer(with_keyframes, blind)
    assert error_m(searching.localize(image, CAMERA, None, [left()])) < 1e-2


def test_cameras_that_contradict_each_other_give_no_pose(with_keyframes):
    """Wrong transforms between the cameras, as of a camera that was bumped."""
    localizer = Localizer(with_keyframes, Student())
    right = localizer.localize(FRONT, CAMERA, None, [left()])
    assert error_m(right) < 5e-3 and not right.contradicted
    for omega, metres in (((0.0, 0.3, 0.0), (0.0, 0.0, 0.0)), ((0.0, 0.0, 0.0), (0.3, 0.0, 0.3))):
        T_wrong = T_FRONT_LEFT @ rigid(exp_rotation(np.array(omega)), np.array(metres))
        others = [left(T_first_cam=T_wrong)]
        found = localizer.localize(FRONT, CAMERA, None, others)
        assert found.status is Status.LOST and found.tracking is None
        assert found.contradicted and "alone has a pose" in found.reason, found.reason
        tracked = localizer.localize(FRONT, CAMERA, right.tracking, others)
        assert tracked.status is Status.LOST or error_m(tracked) < 5e-3


@pytest.mark.parametrize("image", [FRONT, BLACK], ids=["both", "left"])
def test_the_covariance_contains_the_errors_of_the_transforms(with_keyframes, image):
    localizer, nees = Localizer(with_keyframes, Student()), []
    config, random = localizer.config.pose, np.random.default_rng(0)
    sigma_6 = np.repeat([config.rig_sigma_m, np.radians(config.rig_sigma_deg)], 3)
    for _ in range(12):
        error_6 = sigma_6 * random.normal(size=6)
        error = rigid(exp_rotation(error_6[3:]), error_6[:3])
        others = [left(T_first_cam=T_FRONT_LEFT @ error)]
        found = localizer.localize(image, CAMERA, None, others)
        assert found.status is Status.LOCALIZED, found.reason
        motion_6 = local_coordinates(T_MAP_CAM, found.T_map_cam)
        nees.append(motion_6 @ np.linalg.solve(found.covariance_66, motion_6) / 6)
    assert 0.2 < np.median(nees) < 2.5, nees


def test_calibrated_transforms_between_cameras_need_not_be_exact(with_keyframes):
    inexact = rigid(exp_rotation(np.array([0.0, 0.005, 0.0])), np.array([0.005, 0.0, 0.005]))
    others = [left(T_first_cam=T_FRONT_LEFT @ inexact)]
    found = Localizer(with_keyframes, Student()).localize(FRONT, CAMERA, None, others)
    assert error_m(found) < 0.02
