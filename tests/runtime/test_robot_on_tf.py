"""A simulated robot over real DDS: map -> odom, poses of its base, odometry, compressed images."""

import json
import os
import subprocess
import time

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")
pytest.importorskip("tf2_msgs", reason="needs tf2_msgs")

from conftest import ROOT
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from geometry_msgs.msg import PoseWithCovarianceStamped
from make_map import CAMERA
from nav_msgs.msg import Path as PathMessage
from node_processes import wait_for
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import CameraInfo, PointCloud2
from simulated_robot import FRAMES, PERIOD_S, T_BASE_CAM, colour_at, write_room_map
from std_msgs.msg import Header
from std_srvs.srv import Empty, SetBool

from mote_localization.geometry import exp_rotation, invert, rigid
from mote_localization.nodes import conversions
from mote_localization.transform_buffer import TransformError

pytestmark = [pytest.mark.ros, pytest.mark.usefixtures("ros_env")]

# another environment's processes would load the libraries of this one
_OF_THIS_VENV = ("LD_LIBRARY_PATH", "PYTHONPATH", "_ROS_WHEELS_BOOTSTRAP_COMPLETE")


@pytest.fixture(scope="module")
def room_map(tmp_path_factory):
    return write_room_map(tmp_path_factory.mktemp("map"))


def test_map_to_odom_follows_the_robot(robot, localizer):
    node = localizer(**FRAMES, transform_timeout_s=5.0)  # a busy machine delays odometry by 0.5 s
    lookups, resolved, found = 0, 0, {}

    def look_up():
        """Look up the robot, at most 0.5 s before its odometry, and where the camera is in odom."""
        nonlocal lookups, resolved
        if not robot.broadcasts:  # they follow the first pose
            return
        lookups += 1
        latest_ns = robot.buffer.latest_ns("map", "base_link") or 0
        odometry_ns = robot.buffer.latest_ns("odom", "base_link")
        robot.buffer.lookup("odom", "camera_optical", odometry_ns)
        try:
            T_map_base = robot.buffer.lookup("map", "base_link", latest_ns)
        except TransformError:
            return
        resolved += odometry_ns - latest_ns < 5e8
        found[latest_ns] = T_map_base

    truth = robot.drive(4.0, every_image=look_up)
    truth |= robot.drive(2.0, late_s=0.2)

    def are_published():
        return len(robot.errors(truth)[0]) >= 0.95 * len(robot.answered(truth)) > 30

    assert wait_for(are_published), node.text()
    metres, radians = robot.errors(truth)
    assert metres.max() < 2e-3 and radians.max() < 1e-3
    assert resolved >= 0.99 * lookups > 40
    errors_m = [np.linalg.norm((found[ns] - truth[ns])[:3, 3]) for ns in found if ns in truth]
    assert len(errors_m) > 20 and np.median(errors_m) < 0.03
    for stamp_ns in list(robot.poses)[20:50]:  # each pose was broadcast, in effect
        T_odom_base = robot.buffer.lookup("odom", "base_link", stamp_ns)
        expected = robot.poses[stamp_ns] @ invert(T_odom_base)
        assert min(np.linalg.norm((T - expected)[:3, 3]) for T in robot.broadcasts) < 2e-3
    last = list(robot.odometry.values())[-1]
    assert (last.header.frame_id, last.child_frame_id) == ("map", "base_link")
    assert "another node" not in node.text() and "no transform" not in node.text()
    assert node.end() == 0


def test_tf2_itself_resolves_the_robot(robot, localizer):
    python = os.environ.get("MOTE_TF2_PYTHON")
    if not python:
        pytest.skip("MOTE_TF2_PYTHON is not set: the Python of an environment with tf2_ros")
    node = localizer(**FRAMES)
    environment = {key: os.environ[key] for key in os.environ if key not in _OF_THIS_VENV}
    listener = subprocess.Popen(
        [python, ROOT / "tests" / "tf2_listener.py", "7"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
    )  # fmt: skip
    assert wait_for(lambda: robot.tf.get_subscription_count() >= 3)  # also node and robot
    robot.drive(8.0)
    output, errors = listener.communicate(timeout=60)
    counts = json.loads(output)
    for name, (lookups, resolved) in counts.items():
        assert resolved >= 0.99 * lookups > 10, (name, counts, errors)
    assert "TF_" not in errors and node.end() == 0


def test_a_robot_that_was_moved_is_found_again_without_a_wrong_transform(robot, localizer):
    node = localizer(**FRAMES)
    truth = robot.drive(1.0)
    first = len(robot.broadcasts)
    before = robot.broadcasts[-1]

    def jump_once(seconds):  # one wrong image, as of a place that looks alike
        return colour_at(seconds) if abs(seconds - 5 * PERIOD_S) > 0.01 else [250, 20, 128]

    wrong = robot.drive(1.0, seen_at=jump_once)
    wrong_ns = list(wrong)[5]
    assert wrong_ns not in robot.poses
    assert robot.statuses[wrong_ns].message.startswith("held back: "), robot.statuses[wrong_ns]
    assert all(np.linalg.norm((T - before)[:3, 3]) < 0.1 for T in robot.broadcasts[first:])
    moved = robot.drive(1.0, seen_at=lambda seconds: colour_at(seconds) + [0, 0, 120])
    metres, _ = robot.errors(moved)
    # three must agree, from places that are 5 cm apart: right within three more
    assert len(moved) - 6 <= len(metres) <= len(moved) - 3 and metres.max() < 2e-3
    assert metres.size and "held back" in node.text()
    assert len(truth) and node.end() == 0


def test_missing_odometry_is_named_and_no_pose_is_published(robot, localizer):
    node = localizer(**FRAMES, odom_frame="wheels", transform_timeout_s=0.1)
    truth = robot.drive(1.0)
    assert not robot.poses and not robot.broadcasts
    reasons = {robot.statuses[ns].message for ns in truth if ns in robot.statuses}
    assert reasons == {"transforms: no transform on /tf or /tf_static has the frame 'wheels'"}
    assert node.end() == 0


def test_a_camera_with_a_parent_gets_no_second_one(robot, localizer):
    node = localizer(publish_tf="map_to_camera")
    robot.drive(1.0)
    assert robot.poses
    assert robot.buffer.parent("camera_optical") == "base_link"
    assert wait_for(lambda: "'camera_optical' has the parent 'base_link' already" in node.text())
    assert "use publish_tf map_to_odom" in node.text() and node.end() == 0


def test_another_node_that_publishes_map_to_odom_is_reported(robot, localizer):
    node = localizer(**FRAMES)

    def is_reported():
        now_ns = robot.node.get_clock().now().nanoseconds
        robot.send_transform(robot.tf, now_ns, "map", "odom", np.eye(4))
        time.sleep(0.05)
        return "another node publishes 'map' -> 'odom'" in node.text()

    assert wait_for(is_reported), node.text()
    assert node.end() == 0


def test_compressed_images_and_shifted_camera_infos_give_the_same_poses(robot, localizer):
    node = localizer(image_transport="compressed")
    truth = robot.drive(2.0, compressed=True, info_offset_ns=8_000_000)
    answered = robot.answered(truth)
    assert len([ns for ns in answered if ns in robot.poses]) == len(answered) > 15, node.text()
    T_base_cam = {ns: T @ T_BASE_CAM for ns, T in truth.items()}  # poses are those of the camera
    metres, _ = robot.errors(T_base_cam)
    assert np.median(metres) < 5e-3
    assert node.end() == 0


def test_a_camera_info_that_was_published_once_before_the_start_is_enough(robot, child, room_map):
    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    once = robot.node.create_publisher(CameraInfo, "/once/camera_info", latched)
    info = CameraInfo(width=CAMERA.width, height=CAMERA.height, k=CAMERA.K_33.reshape(9))
    once.publish(info)
    topics = ["-r", "image:=/camera/image_raw", "-r", "camera_info:=/once/camera_info"]
    node = child("localizer_main", "--ros-args", "-p", f"map:={room_map}", *topics)
    assert wait_for(lambda: "localizing" in node.text()), node.text()
    assert wait_for(lambda: robot.drive(0.5) and robot.poses), node.text()
    truth = robot.drive(1.0)
    answered = robot.answered(truth)
    assert len([ns for ns in answered if ns in robot.poses]) == len(answered) > 7, node.text()
    assert node.end() == 0


def test_images_of_another_type_are_named(robot, localizer, child, room_map):
    topic = ["-r", "image:=/camera/image_raw/compressed", "-r", "__ns:=/other"]
    node = child("localizer_main", "--ros-args", "-p", f"map:={room_map}", *topic)
    expected = "has the type sensor_msgs/msg/CompressedImage, expected sensor_msgs/msg/Image"
    assert wait_for(lambda: expected in node.text()), node.text()
    assert "set image_transport to compressed" in node.text() and node.end() == 0


def test_diagnostics_name_what_is_wrong(robot, localizer):
    states = []
    robot.node.create_subscription(
        DiagnosticArray, "/diagnostics", lambda message: states.append(message.status[0]), 10
    )
    node = localizer(max_rate_hz=10.0)
    assert wait_for(lambda: states and "no image was localized" in states[-1].message), states
    assert wait_for(lambda: "it has 1 publisher(s)" in states[-1].message), states[-1]
    assert states[-1].level == DiagnosticStatus.ERROR
    robot.drive(7.0)
    state = states[-1]
    values = {value.key: value.value for value in state.values}
    assert (state.level, state.message) == (DiagnosticStatus.OK, "localized")
    assert state.name == "/localizer: state" and state.hardware_id == "box room"
    assert 5 < float(values["received_hz"]) < 16 and 3 < float(values["localized_hz"]) < 10.5
    assert int(values["dropped"]) > 20  # above 10 Hz
    assert values["lost_last_minute_percent"] == "0.0" and values["network_ms"].startswith("p50 ")
    assert values["backend"] == "onnxruntime" and 50 < float(values["memory_mb"]) < 400
    black = robot.drive(6.0, seen_at=lambda seconds: [0, 0, 0])
    assert states[-1].level == DiagnosticStatus.WARN
    assert "lost): " in states[-1].message and len(black)
    assert node.end() == 0


def test_a_clock_that_does_not_run_is_named(robot, child, room_map):
    states = []
    robot.node.create_subscription(
        DiagnosticArray, "/diagnostics", lambda message: states.append(message.status[0]), 10
    )
    node = child(
        "localizer_main", "--ros-args", "-p", f"map:={room_map}", "-p", "use_sim_time:=true"
    )
    expected = "nothing publishes /clock"
    assert wait_for(lambda: states and expected in states[-1].message), states
    assert wait_for(lambda: expected in node.text()), node.text()
    assert node.end() == 0


def test_an_initial_pose_and_the_services(robot, localizer):
    node = localizer(**FRAMES)
    enable = robot.node.create_client(SetBool, "/localizer/enable")
    reinitialize = robot.node.create_client(Empty, "/localizer/reinitialize_global_localization")
    initial = robot.node.create_publisher(PoseWithCovarianceStamped, "/initialpose", 10)
    assert wait_for(lambda: enable.service_is_ready() and reinitialize.service_is_ready())
    paths, points = [], []
    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    robot.node.create_subscription(PathMessage, "/localizer/path", paths.append, 1)
    robot.node.create_subscription(PointCloud2, "/localizer/map_points", points.append, latched)
    robot.drive(1.0)
    assert wait_for(lambda: paths and len(paths[-1].poses) >= 10)
    assert not points  # this map has no keyframes
    moved = lambda seconds: colour_at(seconds) + [0, 0, 120]  # noqa: E731
    assert wait_for(reinitialize.call_async(Empty.Request()).done)
    truth = robot.drive(1.0, seen_at=moved)
    found = len(robot.errors(truth)[0])
    assert found >= len(robot.answered(truth)) - 1 > 6, "no pose is held back"
    random = np.random.default_rng(0)
    for _ in range(3):  # a wrong pose
        T_map_base = rigid(exp_rotation(random.normal(size=3)), random.normal(size=3))
        initial.publish(conversions.pose_message(Header(frame_id="map"), T_map_base, np.eye(6)))
        truth = robot.drive(0.5, seen_at=moved)
        metres, _ = robot.errors(truth)
        assert len(metres) >= len(robot.answered(truth)) - 1 > 2 and metres.max() < 2e-3
    assert wait_for(enable.call_async(SetBool.Request(data=False)).done)
    before = len(robot.statuses)
    robot.drive(0.5)
    assert len(robot.statuses) == before
    assert wait_for(enable.call_async(SetBool.Request(data=True)).done)
    robot.drive(0.5)
    assert len(robot.statuses) > before
    initial.publish(conversions.pose_message(Header(frame_id="odom"), np.eye(4), np.eye(6)))
    assert wait_for(lambda: "its frame is 'odom', expected 'map'" in node.text())
    assert node.end() == 0
