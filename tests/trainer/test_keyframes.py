"""Keyframes: they refine an approximate pose, and a frame they do not confirm is lost."""

from dataclasses import replace
from threading import Event

import numpy as np
import pytest
from make_map import CAMERA, T_MAP_CAM, room_points, write_constant_map
from make_painted_room import keyframe, photograph, shifted

import mote_localization.localizer
from mote_localization import rig_matches
from mote_localization.camera import Camera
from mote_localization.errors import BackendError
from mote_localization.geometry import invert, local_coordinates, retract, transform
from mote_localization.image_features import image_features
from mote_localization.keyframe_matcher import KeyframeConfig, KeyframeMatcher
from mote_localization.keyframe_search import KeyframeSearch, describe
from mote_localization.keyframes import Keyframe
from mote_localization.localizer import (
    Localization,
    Localizer,
    LocalizerConfig,
    Status,
    Tracking,
)
from mote_localization.map_file import MapFile, read_map
from mote_localization.pose_calibration import ErrorModel, PoseCalibration

ERROR_6 = np.array([0.12, -0.08, 0.1, 0.02, -0.03, 0.02])  # m and rad, of the student's points

KEYFRAMES = (
    keyframe(shifted(-0.5, 0, 0)),
    keyframe(shifted(0.4, 0.1, -0.3, omega=(0, -0.2, 0))),
    keyframe(shifted(0, 0, -0.6, omega=(0.1, 0.1, 0.3))),
)


class Student:
    """A backend whose points have the error of a motion about the camera."""

    def __init__(self, T_map_cam: np.ndarray, error_6: np.ndarray) -> None:
        self._points_hw3 = room_points(T_map_cam, CAMERA, 8)
        self._error = retract(T_map_cam, error_6) @ invert(T_map_cam)

    def predict(self, image_hw3: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        points_hw3 = transform(self._error, self._points_hw3).astype(np.float32)
        return points_hw3, np.full(points_hw3.shape[:2], 0.05, np.float32)


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> MapFile:
    return read_map(write_constant_map(tmp_path_factory.mktemp("map") / "room.onnx"))


def localize(
    plain: MapFile,
    keyframes: tuple[Keyframe, ...] = KEYFRAMES,
    image_hw3: np.ndarray | None = None,
    error_6: np.ndarray = ERROR_6,
    config: KeyframeConfig = KeyframeConfig(),  # noqa: B008 (frozen)
) -> Localization:
    """Localize an image taken at T_MAP_CAM with a student that has an error."""
    info = replace(plain.info, keyframes=keyframes)
    student = Student(T_MAP_CAM, error_6)
    localizer = Localizer(replace(plain, info=info), student, LocalizerConfig(keyframes=config))
    return localizer.localize(photograph(T_MAP_CAM) if image_hw3 is None else image_hw3, CAMERA)


def pose_error(found: Localization) -> np.ndarray:
    assert found.status is Status.LOCALIZED, found.reason
    return local_coordinates(T_MAP_CAM, found.T_map_cam)


def test_wrong_pose_is_corrected(plain: MapFile):
    assert np.allclose(pose_error(localize(plain, ())), ERROR_6, atol=5e-3)
    assert np.abs(pose_error(localize(plain))).max() < 5e-3


def test_correct_pose_is_unchanged(plain: MapFile):
    assert np.abs(pose_error(localize(plain, error_6=np.zeros(6)))).max() < 5e-3


def test_changed_lighting_is_tolerated(plain: MapFile):
    darker = (0.5 * photograph(T_MAP_CAM) + np.linspace(0, 80, CAMERA.width)[:, None]).astype("u1")
    assert np.abs(pose_error(localize(plain, image_hw3=darker))).max() < 1e-2


def test_camera_with_a_narrower_view_is_localized(plain: MapFile):
    """The border of its view is an edge in the canonical image, but not in the place."""
    narrow = Camera(200, 240, CAMERA.fx, CAMERA.fy, CAMERA.cx - 60, CAMERA.cy)
    info = replace(plain.info, keyframes=KEYFRAMES)
    localizer = Localizer(replace(plain, info=info), Student(T_MAP_CAM, ERROR_6))
    found = localizer.localize(np.ascontiguousarray(photograph(T_MAP_CAM)[:, 60:260]), narrow)
    assert np.abs(pose_error(found)).max() < 1e-2
    assert found.cells <= 2 * found.covered_hw.sum() < 2 * found.covered_hw.size


def test_covariance_is_that_of_the_matches_with_keyframes(plain: MapFile):
    found = localize(plain)
    deviations = np.sqrt(found.covariance_66.diagonal())
    assert (np.abs(pose_error(found)) < 4 * deviations).all() and deviations.max() < 0.02


def test_too_few_matches_with_keyframes_are_lost(plain: MapFile):
    found = localize(plain, config=KeyframeConfig(min_matches=5000))
    assert found.status is Status.LOST
    assert "points of the keyframes found in the image, expected at least 5000" in found.reason


def test_pose_with_which_few_matches_agree_is_lost(plain: MapFile):
    found = localize(plain, config=KeyframeConfig(min_inlier_ratio=1.0))
    assert found.status is Status.LOST and 40 < found.inliers < found.cells
    assert found.reason.startswith("inlier ratio") and "expected at least 1" in found.reason


def test_a_larger_sigma_of_keyframes_gives_a_different_pose(plain: MapFile):
    poses = [localize(plain, config=KeyframeConfig(sigma=s)).T_map_cam for s in (0.006, 0.1)]
    assert 0 < np.abs(poses[0] - poses[1]).max() < 1e-2


@pytest.mark.parametrize(
    "image_hw3",
    [
        np.zeros((CAMERA.height, CAMERA.width, 3), np.uint8),
        np.random.default_rng(0).integers(0, 255, (CAMERA.height, CAMERA.width, 3), np.uint8),
        photograph(shifted(0, 0, 0, omega=(0, 2.5, 0))),
    ],
    ids=["black", "noise", "another wall"],
)
def test_image_that_keyframes_do_not_confirm_is_lost(plain: MapFile, image_hw3: np.ndarray):
    found = localize(plain, image_hw3=image_hw3)
    assert found.status is Status.LOST and found.T_map_cam is None
    assert found.reason


def test_image_is_searched_in_the_keyframes_where_the_student_fails(plain: MapFile):
    far_6 = np.array([1.5, 0.5, -1, 0, 1.5, 0])
    lost = localize(plain, error_6=far_6, config=KeyframeConfig(searched=0))
    assert lost.status is Status.LOST
    assert np.abs(pose_error(localize(plain, error_6=far_6))).max() < 5e-3


def test_a_search_can_be_left_out_for_one_image(plain: MapFile):
    localizer = tracking_localizer(plain, np.array([1.5, 0.5, -1, 0, 1.5, 0]))
    quick = localizer.localize(photograph(T_MAP_CAM), CAMERA, search=False)
    assert quick.status is Status.LOST and quick.search_s == 0
    found = localizer.localize(photograph(T_MAP_CAM), CAMERA)
    assert found.status is Status.LOCALIZED
    assert 0 < found.search_s <= found.seconds["pose"]


def test_search_needs_no_prediction_of_the_student(plain: MapFile):
    class StudentWithoutPoints(Student):
        def predict(self, image_hw3):
            points_hw3, sigma_hw = super().predict(image_hw3)
            return np.full_like(points_hw3, np.nan), sigma_hw

    info = replace(plain.info, keyframes=KEYFRAMES)
    localizer = Localizer(replace(plain, info=info), StudentWithoutPoints(T_MAP_CAM, ERROR_6))
    assert np.abs(pose_error(localizer.localize(photograph(T_MAP_CAM), CAMERA))).max() < 5e-3


def test_matches_of_a_search_are_on_the_keyframes_points():
    grey_hw = photograph(T_MAP_CAM)[..., 0]
    search = KeyframeSearch([describe(one, CAMERA, 8) for one in KEYFRAMES])
    views = search.find(image_features(grey_hw), keyframes=2)
    assert len({view.keyframe for view in views}) == 2
    for view in views:
        local_n3 = transform(invert(T_MAP_CAM), view.points_n3)
        error_px = np.linalg.norm(CAMERA.project(local_n3) - view.pixels_n2, axis=1)
        assert len(error_px) > 20 and np.median(error_px) < 3
    blank = search.find(image_features(np.zeros_like(grey_hw)), keyframes=2)
    assert [len(view.points_n3) for view in blank] == [0, 0]
    hidden = KeyframeSearch([describe(keyframe(T_MAP_CAM, hidden=True), CAMERA, 8)])
    assert not len(hidden.find(image_features(grey_hw), keyframes=1)[0].points_n3)


def test_a_search_finds_the_one_right_keyframe_among_wrong_ones(plain: MapFile, monkeypatch):
    find = KeyframeSearch.find

    def with_wrong_ones(search, grey_hw, keyframes):
        right = find(search, grey_hw, keyframes)[0]
        wrong = right._replace(points_n3=right.points_n3 + (2, 0, 0))
        return [wrong, wrong, right]

    monkeypatch.setattr(KeyframeSearch, "find", with_wrong_ones)
    far_6 = np.array([1.5, 0.5, -1, 0, 1.5, 0])
    assert np.abs(pose_error(localize(plain, error_6=far_6))).max() < 5e-3


def test_surface_of_keyframes_is_that_of_the_room():
    matcher = KeyframeMatcher(KEYFRAMES, CAMERA, 8)
    points_hw3 = matcher.surface(T_MAP_CAM)
    expected_hw3 = room_points(T_MAP_CAM, CAMERA, 8)
    error_hw = np.linalg.norm(points_hw3 - expected_hw3, axis=-1)
    assert np.median(error_hw) < 0.05 and (error_hw < 0.3).mean() > 0.9
    behind = shifted(0, 0, 0, omega=(0, 2.5, 0))
    hidden = KeyframeMatcher((keyframe(T_MAP_CAM, hidden=True),), CAMERA, 8)
    assert np.isnan(hidden.surface(behind)).all()


def test_keyframes_of_another_view_confirm_nothing(plain: MapFile):
    found = localize(plain, (keyframe(shifted(0, 0, 0, omega=(0, 2.5, 0))),))
    assert found.status is Status.LOST
    assert "0 points of the keyframes found in the image, expected at least 40" in found.reason


def test_keyframe_without_depth_confirms_nothing(plain: MapFile):
    assert localize(plain, (keyframe(T_MAP_CAM, hidden=True),)).status is Status.LOST


def test_points_with_nan_are_tolerated(plain: MapFile):
    info = replace(plain.info, keyframes=KEYFRAMES)

    class StudentWithNan(Student):
        def predict(self, image_hw3):
            points_hw3, sigma_hw = super().predict(image_hw3)
            return np.where(np.arange(40)[:, None] % 2, points_hw3, np.nan), sigma_hw

    localizer = Localizer(replace(plain, info=info), StudentWithNan(T_MAP_CAM, ERROR_6))
    assert np.abs(pose_error(localizer.localize(photograph(T_MAP_CAM), CAMERA))).max() < 1e-2


def tracking_localizer(plain: MapFile, error_6: np.ndarray = ERROR_6) -> Localizer:
    info = replace(plain.info, keyframes=KEYFRAMES)
    return Localizer(replace(plain, info=info), Student(T_MAP_CAM, error_6))


def test_without_its_keyframes_a_map_gives_the_pose_of_the_student(plain: MapFile):
    localizer = tracking_localizer(plain)
    alone = localizer.student_alone().localize(photograph(T_MAP_CAM), CAMERA)
    assert np.allclose(pose_error(alone), ERROR_6, atol=5e-3) and alone.keyframe_distance == 0
    assert np.abs(pose_error(localizer.localize(photograph(T_MAP_CAM), CAMERA))).max() < 5e-3


def test_the_calibration_grows_with_the_distance_to_the_keyframes(plain: MapFile):
    info = replace(plain.info, keyframes=KEYFRAMES)
    calibration = PoseCalibration(
        ErrorModel(3.0, growth=0.5), ErrorModel(2.0, growth=0.25), correlation=0.9
    )
    student, image_hw3 = Student(T_MAP_CAM, ERROR_6), photograph(T_MAP_CAM)
    estimated, calibrated = (
        Localizer(replace(plain, info=changed), student).localize(image_hw3, CAMERA)
        for changed in (info, replace(info, pose_calibration=calibration))
    )
    plain_66, calibrated_66 = estimated.covariance_66, calibrated.covariance_66
    assert plain_66 is not None and calibrated_66 is not None
    distance = estimated.keyframe_distance
    assert distance > 0.3
    position, rotation = 3 * (1 + 0.5 * distance), 2 * (1 + 0.25 * distance)
    factors_22 = [
        [position**2, 0.9 * position * rotation],
        [0.9 * position * rotation, rotation**2],
    ]
    expected_66 = plain_66 * np.kron(factors_22, np.ones((3, 3)))
    np.testing.assert_allclose(calibrated_66, expected_66, rtol=1e-6)


def test_an_error_of_the_backend_while_an_image_is_tracked_is_raised(plain: MapFile):
    localizer = tracking_localizer(plain)
    first = localizer.localize(photograph(T_MAP_CAM), CAMERA)

    class BrokenBackend:
        def predict(self, image_hw3):
            raise BackendError("out of memory")

    working, localizer._backend = localizer._backend, BrokenBackend()
    with pytest.raises(BackendError, match="out of memory"):
        localizer.localize(photograph(T_MAP_CAM), CAMERA, first.tracking)
    localizer._backend = working
    found = localizer.localize(photograph(T_MAP_CAM), CAMERA, first.tracking)
    assert np.abs(pose_error(found)).max() < 5e-3


def test_without_keyframes_a_rejected_tracked_pose_is_searched_without_it(
    plain: MapFile, monkeypatch: pytest.MonkeyPatch
):
    localizer = Localizer(plain, Student(T_MAP_CAM, np.zeros(6)))
    first = localizer.localize(photograph(T_MAP_CAM), CAMERA)
    solve, priors = rig_matches.solve_pose, []

    def wrong_with_prior(points, pixels, sigma, camera, config, prior, rig):
        priors.append(prior is not None)
        shift = (50, 0, 0) if prior is not None else (0, 0, 0)
        return solve(points + shift, pixels, sigma, camera, config)

    monkeypatch.setattr(rig_matches, "solve_pose", wrong_with_prior)
    found = localizer.localize(photograph(T_MAP_CAM), CAMERA, first.tracking)
    assert np.abs(pose_error(found)).max() < 5e-3 and priors == [True, False]


def test_an_image_is_tracked_from_the_last_one(plain: MapFile, monkeypatch: pytest.MonkeyPatch):
    localizer = tracking_localizer(plain)
    first = localizer.localize(photograph(T_MAP_CAM), CAMERA)
    monkeypatch.setattr(Localizer, "_first_pose", None)  # only tracking remains
    for motion in ((0, 0, 0), (0.02, -0.01, 0.03)):
        moved = shifted(*motion, omega=(0, 0.01, 0))
        localizer._backend = Student(moved, ERROR_6)
        found = localizer.localize(photograph(moved), CAMERA, first.tracking)
        assert found.status is Status.LOCALIZED, found.reason
        assert np.abs(local_coordinates(moved, found.T_map_cam)).max() < 5e-3


def test_wrong_tracking_is_ignored(plain: MapFile):
    localizer = tracking_localizer(plain)
    image_hw3 = photograph(T_MAP_CAM)
    expected = localizer.localize(image_hw3, CAMERA)
    far = shifted(2.0, 0, -1.0, omega=(0, 1.0, 0))
    shown_hw3 = room_points(T_MAP_CAM, CAMERA, 8)
    for points_hw3 in (shown_hw3, np.full_like(shown_hw3, np.nan)):
        found = localizer.localize(image_hw3, CAMERA, Tracking(far, points_hw3))
        np.testing.assert_array_equal(found.T_map_cam, expected.T_map_cam)


def test_an_image_is_tracked_where_the_student_is_wrong(plain: MapFile):
    """The points that a wrong student predicts are not used to track the next image."""
    localizer = tracking_localizer(plain)
    found = localizer.localize(photograph(T_MAP_CAM), CAMERA)
    localizer = tracking_localizer(plain, np.array([1.5, 0.5, -1, 0, 1.5, 0])).without_keyframes([])
    assert localizer.localize(photograph(T_MAP_CAM), CAMERA).status is Status.LOST
    for i in range(1, 4):
        moved = shifted(0.02 * i, -0.01 * i, 0.03 * i)
        found = localizer.localize(photograph(moved), CAMERA, found.tracking)
        assert found.status is Status.LOCALIZED, found.reason
        assert np.abs(local_coordinates(moved, found.T_map_cam)).max() < 1e-2


def test_a_lost_image_gives_nothing_to_track(plain: MapFile):
    found = localize(plain, image_hw3=np.zeros((CAMERA.height, CAMERA.width, 3), np.uint8))
    assert found.status is Status.LOST and found.tracking is None


def test_lost_images_are_not_searched_before_the_features_are_computed(
    plain: MapFile, monkeypatch: pytest.MonkeyPatch
):
    go_on = Event()
    compute = mote_localization.localizer.search_of

    def slow(*arguments):
        assert go_on.wait(30)
        return compute(*arguments)

    monkeypatch.setattr(mote_localization.localizer, "search_of", slow)
    localizer = tracking_localizer(plain, np.array([1.5, 0.5, -1, 0, 1.5, 0]))
    localizer.prepare_search()
    assert localizer.localize(photograph(T_MAP_CAM), CAMERA).status is Status.LOST
    go_on.set()
    localizer._preparing.join(30)
    found = localizer.localize(photograph(T_MAP_CAM), CAMERA)
    assert np.abs(pose_error(found)).max() < 5e-3
