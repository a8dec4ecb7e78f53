"""A simulated robot over real DDS: map -> odom, poses of its base, odometry, compressed images."""

import json
import math
import os
import subprocess
import time
from array import array
from collections import deque
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")
pytest.importorskip("tf2_msgs", reason="needs tf2_msgs")

import rclpy
from conftest import ROOT
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from geometry_msgs.msg import PoseWithCovarianceStamped
from make_map import CAMERA, T_MAP_CAM, write_constant_map
from nav_msgs.msg import Odometry
from nav_msgs.msg import Path as PathMessage
from node_processes import Child, wait_for
from rclpy.qos import DurabilityPolicy, QoSProfile, qos_profile_sensor_data
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2
from std_msgs.msg import Header
from std_srvs.srv import Empty, SetBool
from tf2_msgs.msg import TFMessage

from mote_localization.geometry import exp_rotation, invert, pose_from, rigid, rotation_angle
from mote_localization.nodes import conversions, process
from mote_localization.stamps import nanoseconds
from mote_localization.transform_buffer import TransformBuffer, TransformError

pytestmark = [pytest.mark.ros, pytest.mark.usefixtures("ros_env")]

T_BASE_CAM = rigid(exp_rotation(np.array([0.3, -1.2, 0.8])), np.array([0.4, -0.2, 0.6]))
FRAMES = {"base_frame": "base_link", "publish_tf": "map_to_odom"}
PERIOD_S = 1 / 15
# another environment's processes would load the libraries of this one
_OF_THIS_VENV = ("LD_LIBRARY_PATH", "PYTHONPATH", "_ROS_WHEELS_BOOTSTRAP_COMPLETE")


@pytest.fixture(scope="module")
def room_map(tmp_path_factory) -> Path:
    """A map in which the colour of the image moves the camera: by 1 m for 255."""
    return write_constant_map(tmp_path_factory.mktemp("map") / "room.onnx", colour_shift_m=1.0)


def true_pose(colour):
    """T_map_base of an image."""
    return rigid(T_MAP_CAM[:3, :3], T_MAP_CAM[:3, 3] + np.array(colour) / 255) @ invert(T_BASE_CAM)


def colour_at(seconds):
    """Colour of the image while the robot drives in a circle of 0.4 m."""
    angle = seconds  # rad
    return np.round([128 + 51 * math.cos(angle), 128 + 51 * math.sin(angle), 128]).astype(int)


class SimulatedRobot:
    """Publishes images, a static camera and odometry that drifts; stores what the node answers."""

    def __init__(self, node):
        self.node, self.buffer = node, TransformBuffer()
        self.poses, self.odometry, self.statuses, self.broadcasts = {}, {}, {}, []
        latched = QoSProfile(depth=10, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        sensor = qos_profile_sensor_data
        self.images = node.create_publisher(Image, "/camera/image_raw", sensor)
        self.compressed = node.create_publisher(
            CompressedImage, "/camera/image_raw/compressed", sensor
        )
        self.infos = node.create_publisher(CameraInfo, "/camera/camera_info", sensor)
        self.tf = node.create_publisher(TFMessage, "/tf", 100)
        self.tf_static = node.create_publisher(TFMessage, "/tf_static", latched)
        self.send_transform(self.tf_static, 0, "base_link", "camera_optical", T_BASE_CAM)
        node.create_subscription(TFMessage, "/tf", self.on_tf, 100)
        node.create_subscription(
            TFMessage, "/tf_static", lambda m: self.buffer.add(m.transforms, static=True), latched
        )
        node.create_subscription(PoseWithCovarianceStamped, "/localizer/pose", self.on_pose, 100)
        node.create_subscription(Odometry, "/localizer/odometry", self.on_odometry, 100)
        node.create_subscription(DiagnosticArray, "/localizer/status", self.on_status, 100)
        self.T_map_odom = np.eye(4)  # true, until odometry drifts

    def on_tf(self, message):
        self.buffer.add(message.transforms, static=False)
        for transform in message.transforms:
            if transform.child_frame_id == "odom":
                t, q = transform.transform.translation, transform.transform.rotation
                self.broadcasts.append(pose_from([t.x, t.y, t.z], [q.x, q.y, q.z, q.w]))

    def on_pose(self, message):
        p, q = message.pose.pose.position, message.pose.pose.orientation
        T_map_base = pose_from([p.x, p.y, p.z], [q.x, q.y, q.z, q.w])
        self.poses[nanoseconds(message.header.stamp)] = T_map_base

    def on_odometry(self, message):
        self.odometry[nanoseconds(message.header.stamp)] = message

    def on_status(self, message):
        self.statuses[nanoseconds(message.header.stamp)] = message.status[0]

    def send_transform(self, publisher, stamp_ns, parent, child, T_parent_child):
        header = Header(frame_id=parent)
        header.stamp.sec, header.stamp.nanosec = divmod(stamp_ns, 10**9)
        transform = conversions.transform_message(header, child, T_parent_child)
        publisher.publish(TFMessage(transforms=[transform]))

    def send_image(self, stamp_ns, colour, compressed=False, info_offset_ns=0):
        pixels = np.broadcast_to(np.uint8(colour), (CAMERA.height, CAMERA.width, 3))
        header = Header(frame_id="camera_optical")
        header.stamp.sec, header.stamp.nanosec = divmod(stamp_ns, 10**9)
        if compressed:
            content = cv2.imencode(".jpg", pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])[1]
            self.compressed.publish(
                CompressedImage(header=header, format="jpeg", data=array("B", content.tobytes()))
            )
        else:
            self.images.publish(
                Image(
                    header=header, encoding="rgb8", height=CAMERA.height, width=CAMERA.width,
                    step=3 * CAMERA.width, data=array("B", pixels.tobytes()),
                )
            )  # fmt: skip
        info = CameraInfo(width=CAMERA.width, height=CAMERA.height, k=CAMERA.K_33.reshape(9))
        info.header.stamp.sec, info.header.stamp.nanosec = divmod(stamp_ns + info_offset_ns, 10**9)
        self.infos.publish(info)

    def drive(self, seconds, late_s=0.0, seen_at=colour_at, every_image=lambda: None, **image):
        """Drive, and return the T_map_base that each image shows by its stamp.

        Odometry is `late_s` late. Images show other places than odometry with `seen_at`.
        """
        truth, late = {}, deque()
        started = time.monotonic()
        drift = rigid(exp_rotation(np.array([0, 0, 4e-4])), np.array([1e-3, 0, 0]))
        for i in range(round(seconds / PERIOD_S)):
            time.sleep(max(0.0, started + i * PERIOD_S - time.monotonic()))
            stamp_ns, colour = self.node.get_clock().now().nanoseconds, seen_at(i * PERIOD_S)
            truth[stamp_ns] = true_pose(colour)
            self.T_map_odom = self.T_map_odom @ drift
            T_odom_base = invert(self.T_map_odom) @ true_pose(colour_at(i * PERIOD_S))
            late.append((time.monotonic(), stamp_ns, T_odom_base))
            self.send_image(stamp_ns, colour, **image)
            while late and time.monotonic() - late[0][0] >= late_s:
                _, odometry_ns, T_odom_base = late.popleft()
                self.send_transform(self.tf, odometry_ns, "odom", "base_link", T_odom_base)
            every_image()
        for _, odometry_ns, T_odom_base in late:
            self.send_transform(self.tf, odometry_ns, "odom", "base_link", T_odom_base)
        time.sleep(0.5)
        return truth

    def errors(self, truth):
        """Return the errors (m, rad) of the poses of `truth` that were published."""
        found = [(self.poses[ns], T) for ns, T in truth.items() if ns in self.poses]
        metres = [np.linalg.norm(P[:3, 3] - T[:3, 3]) for P, T in found]
        radians = [rotation_angle(P[:3, :3].T @ T[:3, :3]) for P, T in found]
        return np.array(metres), np.array(radians)


@pytest.fixture
def robot(ros_env):
    with process.ros_context():
        node = rclpy.create_node("robot")
        one = SimulatedRobot(node)
        with process.spin_in_thread(node):
            yield one
        node.destroy_node()


@pytest.fixture
def localizer(child, room_map, robot):
    """Start the node with parameters, and wait until it receives what the robot sends."""

    def start(**parameters) -> Child:
        arguments = [word for k, v in parameters.items() for word in ("-p", f"{k}:={v}")]
        topics = ["-r", "image:=/camera/image_raw", "-r", "camera_info:=/camera/camera_info"]
        node = child("localizer_main", "--ros-args", "-p", f"map:={room_map}", *arguments, *topics)
        images = robot.compressed if "image_transport" in parameters else robot.images
        assert wait_for(
            lambda: (
                images.get_subscription_count()
                and robot.infos.get_subscription_count()
                and robot.node.count_publishers("/localizer/pose")
                and "localizing" in node.text()
            )
        ), node.text()
        time.sleep(1.0)  # until the node has received what is latched
        return node

    return start


def test_map_to_odom_follows_the_robot(robot, localizer):
    node = localizer(**FRAMES)
    lookups, resolved, found = 0, 0, {}

    def look_up():
        """Look up the robot now, with a tolerance of 0.5 s, and where the camera is in odom."""
        nonlocal lookups, resolved
        if not robot.poses:
            return
        lookups += 1
        now_ns = robot.node.get_clock().now().nanoseconds
        latest_ns = robot.buffer.latest_ns("map", "base_link") or 0
        robot.buffer.lookup("odom", "camera_optical", robot.buffer.latest_ns("odom", "base_link"))
        try:
            T_map_base = robot.buffer.lookup("map", "base_link", latest_ns)
        except TransformError:
            return
        resolved += now_ns - latest_ns < 5e8
        found[latest_ns] = T_map_base

    truth = robot.drive(4.0, every_image=look_up)
    truth |= robot.drive(2.0, late_s=0.2)
    metres, radians = robot.errors(truth)
    assert len(metres) >= 0.95 * len(truth), node.text()
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
    assert len([ns for ns in truth if ns in robot.poses]) >= 0.9 * len(truth), node.text()
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
    robot.drive(1.5)
    truth = robot.drive(1.0)
    assert len([ns for ns in truth if ns in robot.poses]) >= len(truth) - 1, node.text()
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
    assert len(robot.errors(truth)[0]) >= len(truth) - 1, "no pose is held back"
    random = np.random.default_rng(0)
    for _ in range(3):  # a wrong pose
        T_map_base = rigid(exp_rotation(random.normal(size=3)), random.normal(size=3))
        initial.publish(conversions.pose_message(Header(frame_id="map"), T_map_base, np.eye(6)))
        truth = robot.drive(0.5, seen_at=moved)
        metres, _ = robot.errors(truth)
        assert len(metres) >= len(truth) - 1 and metres.max() < 2e-3
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
