"""Poses of recordings: from topics of poses and odometry, and from /tf."""

from itertools import chain

import numpy as np
import pytest
from make_bag import (
    T_BASE_CAM,
    a_pose,
    a_pose_with_covariance,
    a_static,
    a_transform,
    an_image,
    an_info,
    an_odometry,
    pose,
    record,
)

from mote_localization.errors import BagError
from mote_localization.geometry import invert, pose_from, rotation_angle
from mote_localization.scenes import RecordingOptions
from mote_localization.scenes.bags import BagScene

MS = 1_000_000
START = 10_000 * MS
T_MAP_ODOM = pose_from(np.array([3.0, 1.0, 0.0]), np.array([0.0, 0, 0.6, 0.8]))


def at(ms):
    return START + round(ms * MS)


def truth(ms):
    """T_odom_base; it moves by 1 m and 1.1 deg in a second."""
    return pose(ms / 100)


def opened(path, *messages, **options):
    messages = sorted(messages, key=lambda message: message[2])
    return BagScene(record(path / "b", *messages), RecordingOptions(**options))


def poses(scene):
    return [frame.T_map_cam for frame in scene.frames("all")]


def images(*times_ms):
    return list(chain(*((an_info(at(ms)), an_image(at(ms))) for ms in times_ms)))


def robot(times_ms, with_map=True):
    """/tf at some times: map -> odom at 10 Hz, odom -> base_link; a static camera."""
    slow = np.arange(min(times_ms), max(times_ms) + 100, 100)
    return [
        a_static(T_BASE_CAM, "base_link", "camera"),
        *(a_transform(at(ms), truth(ms), "odom", "base_link") for ms in times_ms),
        *(a_transform(at(ms), T_MAP_ODOM, "map", "odom") for ms in slow if with_map),
    ]


def assert_near(found, expected, metres=1e-4, degrees=1e-3):
    assert np.linalg.norm(found[:3, 3] - expected[:3, 3]) < metres
    assert np.degrees(rotation_angle(found[:3, :3].T @ expected[:3, :3])) < degrees


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_poses_of_tf_are_the_true_ones(tmp_path, storage):
    times = np.arange(0, 1000, 10)  # 100 Hz
    shown = (0, 100, 330, 345, 987)  # the last two between transforms
    messages = sorted([*robot(times), *images(*shown)], key=lambda message: message[2])
    scene = BagScene(record(tmp_path / "b", *messages, storage=storage))
    for ms, found in zip(shown, poses(scene), strict=True):
        assert_near(found, T_MAP_ODOM @ truth(ms) @ T_BASE_CAM)
    assert scene.described()["poses"] == "/tf map -> camera, 5 of 5 images"


def test_rotations_are_interpolated_on_the_shortest_arc(tmp_path):
    start, end = np.array([0, 0, 0.0, 1]), -np.array([0, 0, np.sin(0.5), np.cos(0.5)])
    tf = [
        a_transform(at(ms), np.eye(4), "map", "camera", quaternion=q.tolist())
        for ms, q in ((0, start), (100, end))
    ]
    (found,) = poses(opened(tmp_path, *tf, *images(25)))
    assert_near(found, pose_from(np.zeros(3), np.array([0, 0, np.sin(0.125), np.cos(0.125)])))


def test_without_a_map_frame_poses_are_those_of_odometry(tmp_path):
    scene = opened(tmp_path, *robot([0, 50, 100], with_map=False), *images(50))
    assert_near(poses(scene)[0], truth(50) @ T_BASE_CAM)
    assert "/tf odom -> camera" in scene.described()["poses"]


def test_without_map_and_odom_the_root_is_the_fixed_frame(tmp_path):
    tf = [a_transform(at(ms), truth(ms), "/world", "camera") for ms in (0, 100)]
    scene = opened(tmp_path, *tf, *images(0))
    assert scene.described()["poses"] == "/tf world -> camera, 1 of 1 images"


@pytest.mark.parametrize("topic", ["/tf", "/tf_static"])
def test_the_place_of_the_camera_on_the_robot_is_no_pose(tmp_path, topic):
    tf = [a_transform(at(ms), T_BASE_CAM, "base_link", "camera", topic) for ms in (0, 10)]
    assert poses(opened(tmp_path, *tf, *images(0, 10))) == [None, None]


def test_a_camera_that_stands_in_the_map_has_a_pose(tmp_path):
    scene = opened(tmp_path, a_static(T_BASE_CAM, "map", "camera"), *images(0))
    assert_near(poses(scene)[0], T_BASE_CAM)


def test_frames_can_be_chosen(tmp_path):
    bag = [*robot([0, 100]), a_static(np.eye(4), "base_link", "lidar"), *images(0)]
    scene = opened(tmp_path, *bag, fixed_frame="odom", camera_frame="base_link")
    assert_near(poses(scene)[0], truth(0))
    path = tmp_path / "b"
    (found,) = poses(BagScene(path, RecordingOptions(fixed_frame="lidar")))
    assert_near(found, T_BASE_CAM)  # a frame beside the camera, not above it
    for options in (dict(fixed_frame="earth"), dict(camera_frame="earth")):
        with pytest.raises(
            BagError, match="no transforms lead .*'earth'.*base_link, camera, lidar"
        ):
            BagScene(path, RecordingOptions(**options))


def test_images_outside_of_the_transforms_and_in_gaps_have_no_pose(tmp_path, caplog):
    times = [0, 10, 20, 500, 1600, 1610]  # a gap of 1.1 s
    shown = (-5, 5, 200, 900, 1600, 1611)
    found = poses(opened(tmp_path, *robot(times), *images(*shown)))
    assert [T is not None for T in found] == [False, True, True, False, True, False]
    assert "3 of 6 images have no pose in /tf map -> camera" in caplog.text


def test_transforms_without_a_rotation_are_left_out(tmp_path, caplog):
    zero = [a_transform(at(50), truth(0), "odom", "base_link", quaternion=(0.0, 0, 0, 0))]
    found = poses(opened(tmp_path, *robot([0, 40, 60]), *zero, *images(50)))
    assert_near(found[0], T_MAP_ODOM @ truth(50) @ T_BASE_CAM)
    assert caplog.text.count("1 messages of /tf hold no pose") == 1


def test_transforms_in_a_circle_end(tmp_path):
    circle = [a_transform(at(0), np.eye(4), *names) for names in (("a", "camera"), ("camera", "a"))]
    assert opened(tmp_path, *circle, *images(0)).count("all") == 1


def test_a_map_in_tf_is_preferred_to_odometry(tmp_path):
    odometry = [an_odometry(at(ms), truth(ms)) for ms in (0, 100)]
    scene = opened(tmp_path, *robot([0, 100]), *odometry, *images(0))
    assert scene.described()["poses"].startswith("/tf map -> camera")
    chosen = BagScene(tmp_path / "b", RecordingOptions(pose_topic="/odom"))
    assert chosen.described()["poses"].startswith("/odom base_link -> camera")


def test_odometry_is_that_of_its_child_frame(tmp_path):
    odometry = [an_odometry(at(ms), truth(ms)) for ms in (0, 100)]
    static = a_static(T_BASE_CAM, "base_link", "camera")
    (found,) = poses(opened(tmp_path, static, *odometry, *images(50)))
    assert_near(found, truth(50) @ T_BASE_CAM)


def test_odometry_without_transforms_to_the_camera_is_an_error(tmp_path):
    messages = [an_odometry(at(0), truth(7)), *images(0)]
    with pytest.raises(BagError, match="from 'base_link' of /odom to 'camera'.*--camera-frame"):
        opened(tmp_path, *messages)
    scene = BagScene(tmp_path / "b", RecordingOptions(camera_frame="base_link"))
    (found,) = poses(scene)
    assert_near(found, truth(7))


def test_odometry_of_the_camera_needs_no_transforms(tmp_path, caplog):
    (found,) = poses(opened(tmp_path, an_odometry(at(0), truth(7), "camera"), *images(0)))
    assert_near(found, truth(7))
    assert not caplog.text


@pytest.mark.parametrize("make", [a_pose, a_pose_with_covariance])
def test_a_pose_of_the_images_stamp_is_taken_exactly(tmp_path, make):
    messages = [make(at(ms), truth(ms)) for ms in (0, 33, 66)]
    first, second = poses(opened(tmp_path, *messages, *images(33, 66)))
    np.testing.assert_array_equal(first[:3, 3], truth(33)[:3, 3])
    np.testing.assert_allclose(second, truth(66), atol=1e-12)


def test_poses_are_interpolated_if_both_neighbours_are_near(tmp_path):
    messages = [a_pose(at(ms), truth(ms)) for ms in (0, 190, 600)]
    near, far = poses(opened(tmp_path, *messages, *images(95, 400)))
    assert_near(near, truth(95))
    assert far is None  # 0.21 s after the pose before it


def test_one_zero_quaternion_among_good_ones_is_a_warning(tmp_path, caplog):
    good = [a_pose(at(ms), truth(ms)) for ms in (0, 300)]
    bad = [
        a_pose(at(ms), truth(ms), quaternion=q)
        for ms, q in ((140, (0.0, 0, 0, 0)), (150, (0.0, 0, 0, 1.1)), (160, (np.nan, 0, 0, 1)))
    ]
    found = poses(opened(tmp_path, *good, *bad, *images(0, 150, 290, 550)))
    assert [T is not None for T in found] == [True, True, False, False]
    assert "3 messages of /truth hold no pose" in caplog.text


def test_bad_poses_alone_are_no_error(tmp_path, caplog):
    bad = a_pose(at(0), truth(0), quaternion=(0.0, 0, 0, 0))
    assert poses(opened(tmp_path, bad, *images(0))) == [None]
    assert "1 messages of /truth hold no pose" in caplog.text


@pytest.mark.parametrize("tf", [False, True])
def test_poses_of_another_time_are_an_error(tmp_path, tf):
    messages = robot([5000, 5100]) if tf else [a_pose(at(5000), truth(0))]
    topic = "/tf from 15.000 to 15.[12]00" if tf else "/truth from 15.000 to 15.000"
    words = f"no image has a pose: images are from 10.000 to 10.010 s.*{topic} s.*--pose-topic none"
    with pytest.raises(BagError, match=words):
        opened(tmp_path, *messages, *images(0, 10))
    scene = BagScene(tmp_path / "b", RecordingOptions(pose_topic="none"))
    assert poses(scene) == [None, None]


def test_a_fixed_frame_belongs_to_tf(tmp_path):
    with pytest.raises(BagError, match="--fixed-frame with --pose-topic /truth"):
        opened(tmp_path, *images(0), pose_topic="/truth", fixed_frame="map")


def test_a_chain_through_the_common_ancestor_is_that_of_both_frames(tmp_path):
    """The tracker is beside the camera: T_tracker_cam = T_tracker_base T_base_cam."""
    T_base_tracker = pose(3)
    statics = [
        a_static(T_BASE_CAM, "base_link", "camera"),
        a_static(T_base_tracker, "base_link", "tracker"),
    ]
    odometry = an_odometry(at(0), truth(9), "tracker")
    (found,) = poses(opened(tmp_path, *statics, odometry, *images(0)))
    assert_near(found, truth(9) @ invert(T_base_tracker) @ T_BASE_CAM)


def test_transforms_above_the_common_ancestor_are_not_needed(tmp_path):
    later = a_transform(at(9000), T_MAP_ODOM, "map", "base_link")
    static = a_static(T_BASE_CAM, "base_link", "camera")
    messages = [later, static, an_odometry(at(0), truth(7)), *images(0)]
    (found,) = poses(opened(tmp_path, *messages, pose_topic="/odom"))
    assert_near(found, truth(7) @ T_BASE_CAM)


@pytest.mark.parametrize("topic", ["/goal_pose", "/initialpose"])
def test_a_goal_is_not_the_pose_of_the_camera(tmp_path, topic):
    times = np.arange(0, 1000, 10)
    goal = a_pose(at(500), np.eye(4), topic)
    scene = opened(tmp_path, *robot(times, False), *images(*range(0, 1000, 30)), goal)
    assert scene.described()["poses"].startswith("/tf odom -> camera")


def test_transforms_that_do_not_lead_to_the_camera_are_a_warning(tmp_path, caplog):
    moved = a_transform(at(0), np.eye(4), "map", "base_link")
    scene = opened(tmp_path, moved, *images(0, 100))
    assert poses(scene) == [None, None]
    assert "no transforms lead from 'map' to 'camera'; /tf has base_link, map" in caplog.text


def test_poses_that_may_be_those_of_the_robot_are_a_warning(tmp_path, caplog):
    static = a_static(T_BASE_CAM, "base_link", "camera")
    given = (a_pose(at(ms), truth(ms), "/amcl_pose") for ms in (0, 100))
    opened(tmp_path, static, *given, *images(0, 100))
    assert "poses of /amcl_pose are taken as those of the camera" in caplog.text
