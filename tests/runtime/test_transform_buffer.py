"""Transforms between moving frames, and the correction of odometry; this needs no ROS 2."""

import numpy as np
import pytest
from make_bag import T_BASE_CAM, a_static, a_transform, pose

from mote_localization.geometry import covariance_at, invert, local_coordinates, retract
from mote_localization.map_to_odom import Fix, MapToOdom, OdometryConfig
from mote_localization.robot_frames import FrameConfig, FrameError, RobotFrames
from mote_localization.transform_buffer import TransformBuffer, TransformError

MS = 1_000_000
START = 10_000 * MS


def truth(ms):
    """T_odom_base; it moves by 1 m and 1.1 deg in a second."""
    return pose(ms / 100)


def add(buffer, ms, T_parent_child, parent="odom", child="base_link", **changes):
    message = a_transform(START + ms * MS, T_parent_child, parent, child, **changes)[3]
    buffer.add(message.transforms, static=False)


@pytest.fixture
def buffer():
    """Odometry at 20 Hz during a second, and a camera on the robot."""
    one = TransformBuffer()
    one.add(a_static(T_BASE_CAM, "base_link", "camera")[3].transforms, static=True)
    for ms in range(0, 1001, 50):
        add(one, ms, truth(ms))
    return one


def test_a_lookup_interpolates_and_includes_static_transforms(buffer):
    T_odom_cam = buffer.lookup("odom", "/camera", START + 475 * MS)
    np.testing.assert_allclose(T_odom_cam, truth(475) @ T_BASE_CAM, atol=1e-4)
    T_cam_odom = buffer.lookup("camera", "odom", START + 475 * MS)
    np.testing.assert_allclose(T_cam_odom, invert(T_odom_cam), atol=1e-12)
    np.testing.assert_allclose(buffer.lookup("camera", "base_link", 0), invert(T_BASE_CAM))
    assert buffer.latest_ns("odom", "camera") == START + 1000 * MS
    assert buffer.latest_ns("base_link", "camera") is None


def test_only_the_transforms_between_the_frames_are_needed(buffer):
    add(buffer, 0, np.eye(4), "map", "odom")
    assert buffer.lookup("odom", "camera", START + 900 * MS) is not None
    with pytest.raises(TransformError, match="'map' -> 'odom' is not known yet.* 0.9 s older"):
        buffer.lookup("map", "camera", START + 900 * MS)


@pytest.mark.parametrize(
    ("frame", "ms", "reason", "later"),
    [
        ("odom", 1100, "'odom' -> 'base_link' is not known yet: its newest is 0.1 s older", True),
        ("odom", -100, "known only from 0.1 s after the image on", False),
        ("wheel", 500, "no transform on /tf or /tf_static has the frame 'wheel'", True),
        ("tower", 500, "not connected: their roots are 'world' and 'odom'", True),
    ],
)
def test_a_missing_transform_is_named(buffer, frame, ms, reason, later):
    add(buffer, 0, np.eye(4), "world", "tower")
    with pytest.raises(TransformError, match=reason) as error:
        buffer.lookup(frame, "camera", START + ms * MS)
    assert error.value.later is later


def test_gaps_are_not_interpolated(buffer):
    add(buffer, 2500, truth(2500))
    with pytest.raises(TransformError, match="gap of over 1 s"):
        buffer.lookup("odom", "camera", START + 2000 * MS)


def test_the_order_of_arrival_does_not_matter():
    one = TransformBuffer()
    for ms in (300, 100, 200, 0):
        add(one, ms, truth(ms))
    np.testing.assert_allclose(
        one.lookup("odom", "base_link", START + 150 * MS), truth(150), atol=1e-4
    )


def test_memory_is_bounded_and_a_clock_that_jumps_back_starts_again(buffer):
    for ms in range(1000, 30_000, 10):
        add(buffer, ms, truth(ms))
    with pytest.raises(TransformError, match="known only from"):
        buffer.lookup("odom", "base_link", START + 19_000 * MS)
    add(buffer, 0, truth(0))
    assert buffer.latest_ns("odom", "base_link") == START
    for i in range(2000):
        add(buffer, 0, np.eye(4), "world", f"frame{i}")
    with pytest.raises(TransformError, match="'frame1999'"):
        buffer.lookup("world", "frame1999", START)


def test_transforms_that_are_no_rotations_are_ignored(buffer):
    add(buffer, 500, truth(500), quaternion=(0.0, 0.0, 0.0, 0.0))
    moved = truth(500)
    moved[0, 3] = np.nan
    add(buffer, 500, moved, quaternion=(0.0, 0.0, 0.0, 1.0))
    np.testing.assert_allclose(buffer.lookup("odom", "base_link", START + 500 * MS), truth(500))


def test_a_circle_of_transforms_ends(buffer):
    add(buffer, 0, np.eye(4), "camera", "odom")
    with pytest.raises(TransformError):
        buffer.lookup("map", "camera", START)


# ---- the correction of odometry


def test_the_covariance_of_the_base_is_that_of_simulated_camera_poses():
    """Normalized squared errors of 10,000 poses have the mean of chi-squared, 6."""
    random = np.random.default_rng(0)
    root_66 = random.normal(size=(6, 6)) * ([0.02] * 3 + [0.01] * 3)
    covariance_66 = root_66.T @ root_66
    T_map_cam = retract(np.eye(4), random.normal(size=6))
    T_cam_base = retract(np.eye(4), np.array([0.6, -0.4, 0.2, 0.3, 0.5, -0.2]))
    T_map_base = T_map_cam @ T_cam_base
    lever_3 = T_map_base[:3, 3] - T_map_cam[:3, 3]
    inverse_66 = np.linalg.inv(covariance_at(covariance_66, lever_3))
    errors_n6 = np.array(
        [
            local_coordinates(T_map_base, retract(T_map_cam, root_66.T @ motion_6) @ T_cam_base)
            for motion_6 in random.normal(size=(10_000, 6))
        ]
    )
    nees_n = np.einsum("ni,ij,nj->n", errors_n6, inverse_66, errors_n6)
    assert 0.97 < nees_n.mean() / 6 < 1.03


T_MAP_ODOM = retract(np.eye(4), np.array([3.0, -1, 0, 0, 0, 0.7]))
COVARIANCE = np.diag([1e-4] * 3 + [1e-5] * 3)


def fix(ms, moved=(0.0, 0, 0, 0, 0, 0), covariance_66=COVARIANCE):
    T_map_base = retract(T_MAP_ODOM @ truth(ms), np.array(moved))
    return Fix(START + ms * MS, T_map_base, covariance_66, truth(ms))


def test_fixes_that_agree_with_odometry_are_accepted():
    correction = MapToOdom(OdometryConfig())
    assert correction.T_map_odom is None
    random = np.random.default_rng(0)
    for ms in range(0, 2000, 33):
        error_6 = random.normal(size=6) * np.sqrt(COVARIANCE.diagonal())
        assert correction.add(fix(ms, error_6)) == ""
        expected = retract(T_MAP_ODOM @ truth(ms), error_6) @ invert(truth(ms))
        np.testing.assert_allclose(correction.T_map_odom, expected)


def test_a_wrong_fix_is_held_back():
    correction = MapToOdom(OdometryConfig())
    correction.add(fix(0))
    before = correction.T_map_odom
    for ms in range(33, 2000, 66):
        reason = correction.add(fix(ms, (2.0, 0, 0, 0, 0, 0.01 * ms)))  # they do not agree
        assert reason.startswith("held back: 2.0") and reason.endswith("1 of 3 poses agree")
        np.testing.assert_array_equal(correction.T_map_odom, before)
        assert correction.add(fix(ms + 33)) == ""
        before = correction.T_map_odom


def test_a_robot_that_was_moved_is_accepted_after_some_fixes_that_agree():
    correction = MapToOdom(OdometryConfig(confirmations=3))
    correction.add(fix(0))
    kidnapped = (4.0, 1, 0, 0, 0, 0)
    assert "1 of 3 poses agree" in correction.add(fix(33, kidnapped))
    assert "2 of 3 poses agree" in correction.add(fix(40, kidnapped))
    assert "3 of 3 poses agree" in correction.add(fix(50, kidnapped))  # from nearly one place
    assert correction.add(fix(100, kidnapped)) == ""
    np.testing.assert_allclose(
        correction.T_map_odom, retract(T_MAP_ODOM, np.array(kidnapped)), atol=1e-9
    )


def test_an_uncertain_fix_is_no_contradiction():
    correction = MapToOdom(OdometryConfig())
    correction.add(fix(0))
    uncertain = np.diag([0.04] * 3 + [0.01] * 3)
    assert correction.add(fix(33, (0.3, 0, 0, 0, 0, 0))) != ""
    assert correction.add(fix(66, (0.3, 0, 0, 0, 0, 0), uncertain)) == ""


def test_the_drift_of_odometry_grows_with_motion_and_time():
    correction = MapToOdom(OdometryConfig())
    correction.add(fix(0))
    assert correction.add(fix(5000, (0.5, 0, 0, 0, 0, 0))) == ""  # after 5 m


def test_a_robot_that_stands_confirms_a_jump_after_a_second():
    correction = MapToOdom(OdometryConfig())
    still = fix(0)
    correction.add(still)
    wrong = still._replace(T_map_base=retract(still.T_map_base, np.array([8.0, 0, 0, 0, 0, 0])))
    for ms in range(33, 1000, 33):
        assert correction.add(wrong._replace(stamp_ns=START + ms * MS)) != ""
    assert correction.add(wrong._replace(stamp_ns=START + 1066 * MS)) == ""


def test_an_image_that_is_a_little_older_is_held_back():
    correction = MapToOdom(OdometryConfig())
    correction.add(fix(100))
    assert correction.add(fix(99, (8.0, 0, 0, 0, 0, 0))) == "held back: older than the last pose"
    assert correction.held == 0


def test_a_static_transform_is_kept(buffer):
    add(buffer, 500, np.eye(4), "map", "camera")
    assert buffer.parent("camera") == "base_link"
    buffer.clear()
    assert buffer.parent("camera") == "base_link" and buffer.parent("base_link") is None


def test_a_clock_that_jumps_back_by_seconds_does_not_mix_two_runs(buffer):
    add(buffer, -2000, truth(5000))
    assert buffer.latest_ns("odom", "base_link") == START - 2000 * MS


def test_a_clock_that_jumps_back_starts_again():
    correction = MapToOdom(OdometryConfig())
    correction.add(fix(5000))
    assert correction.add(fix(0, (5.0, 0, 0, 0, 0, 0))) == ""


# ---- the robot's pose


def test_a_transform_that_is_too_far_away_is_ignored():
    frames = RobotFrames(FrameConfig(base_frame="base_link"))
    far = T_BASE_CAM.copy()
    far[:3, 3] = 1e300
    frames.buffer.add(a_static(far, "base_link", "camera")[3].transforms, static=True)
    with pytest.raises(TransformError, match="has the frame 'camera' and 'base_link'"):
        frames.pose(START, "camera", np.eye(4), COVARIANCE)


def test_the_pose_of_the_base_is_that_of_the_camera_and_the_place_of_the_camera():
    frames = RobotFrames(FrameConfig(base_frame="base_link"))
    frames.buffer.add(a_static(T_BASE_CAM, "base_link", "camera")[3].transforms, static=True)
    found = frames.pose(START, "camera", truth(0) @ T_BASE_CAM, COVARIANCE)
    assert (found.frame, found.rejection) == ("base_link", "")
    np.testing.assert_allclose(found.T_map_frame, truth(0), atol=1e-12)
    np.testing.assert_allclose(frames.camera_pose("camera", truth(0)), truth(0) @ T_BASE_CAM)
    assert np.trace(found.covariance_66) > np.trace(COVARIANCE)


def test_images_of_another_camera_are_no_motion_of_the_robot():
    """The robot is at rest, and its images show another place."""
    frames = RobotFrames(FrameConfig(broadcast="map_to_odom"))
    T_base_left = retract(T_BASE_CAM, np.array([0.1, 0.2, 0, 0, 1.5, 0]))
    cameras = {"camera": T_BASE_CAM, "left": T_base_left}
    for name, T_base_cam in cameras.items():
        frames.buffer.add(a_static(T_base_cam, "base_link", name)[3].transforms, static=True)
    add(frames.buffer, 0, truth(0))
    add(frames.buffer, 900, truth(0))
    for i in range(20):
        name = ("camera", "left")[i % 2]
        T_map_base = truth(0) if i == 0 else retract(truth(0), np.array([2.0, 0, 0, 0, 0, 0.2]))
        found = frames.pose(START + 40 * i * MS, name, T_map_base @ cameras[name], COVARIANCE)
        assert bool(found.rejection) == (i > 0), (i, found.rejection)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"broadcast": "odom"}, "expected one of off, map_to_odom"),
        ({"broadcast": "map_to_base"}, "base_frame is empty"),
        ({"broadcast": "map_to_odom", "odom_frame": ""}, "odom_frame is empty"),
        ({"base_frame": "map"}, "expected different names"),
        ({"map_frame": ""}, "expected different names"),
    ],
)
def test_frames_that_contradict_each_other_are_refused(changes, message):
    with pytest.raises(FrameError, match=message):
        FrameConfig(**changes)


def test_the_map_may_be_called_odom_without_odometry():
    assert not FrameConfig(map_frame="odom").uses_transforms
