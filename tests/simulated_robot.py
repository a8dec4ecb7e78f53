"""A simulated robot, whose images, odometry and transforms a localizer node receives over DDS."""

import math
import time
from array import array
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseWithCovarianceStamped
from make_map import CAMERA, T_MAP_CAM, write_constant_map
from nav_msgs.msg import Odometry
from node_processes import Child, wait_for
from rclpy.qos import DurabilityPolicy, QoSProfile, qos_profile_sensor_data
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header
from tf2_msgs.msg import TFMessage

from mote_localization.geometry import exp_rotation, invert, pose_from, rigid, rotation_angle
from mote_localization.nodes import conversions, process
from mote_localization.stamps import nanoseconds
from mote_localization.transform_buffer import TransformBuffer

T_BASE_CAM = rigid(exp_rotation(np.array([0.3, -1.2, 0.8])), np.array([0.4, -0.2, 0.6]))
FRAMES = {"base_frame": "base_link", "publish_tf": "map_to_odom"}
PERIOD_S = 1 / 15


def write_room_map(folder: Path) -> Path:
    """Write a map in which the colour of the image moves the camera: by 1 m for 255."""
    return write_constant_map(folder / "room.onnx", colour_shift_m=1.0)


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

    def send_image(
        self,
        stamp_ns,
        colour,
        compressed=False,
        info_offset_ns=0,
        frame="camera_optical",
        encoding="rgb8",
    ):
        pixels = np.broadcast_to(np.uint8(colour), (CAMERA.height, CAMERA.width, 3))
        header = Header(frame_id=frame)
        header.stamp.sec, header.stamp.nanosec = divmod(stamp_ns, 10**9)
        if compressed:
            content = cv2.imencode(".jpg", pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])[1]
            self.compressed.publish(
                CompressedImage(header=header, format="jpeg", data=array("B", content.tobytes()))
            )
        else:
            self.images.publish(
                Image(
                    header=header, encoding=encoding, height=CAMERA.height, width=CAMERA.width,
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

    def answered(self, truth):
        """Return the images of `truth` that have a status; a busy machine drops others."""
        return [ns for ns in truth if ns in self.statuses]

    def errors(self, truth):
        """Return the errors (m, rad) of the poses of `truth` that were published."""
        found = [(self.poses[ns], T) for ns, T in truth.items() if ns in self.poses]
        metres = [np.linalg.norm(P[:3, 3] - T[:3, 3]) for P, T in found]
        radians = [rotation_angle(P[:3, :3].T @ T[:3, :3]) for P, T in found]
        return np.array(metres), np.array(radians)


@contextmanager
def running_robot() -> Iterator[SimulatedRobot]:
    """Run the robot's node in a thread."""
    with process.ros_context():
        node = rclpy.create_node("robot")
        one = SimulatedRobot(node)
        with process.spin_in_thread(node):
            yield one
        node.destroy_node()


def publish(robot, image_hw3, camera):
    """Send an image with its calibration, and return its stamp, ns."""
    stamp_ns = robot.node.get_clock().now().nanoseconds
    header = Header(frame_id="camera_optical")
    header.stamp.sec, header.stamp.nanosec = divmod(stamp_ns, 10**9)
    size = {"height": camera.height, "width": camera.width}
    content = array("B", image_hw3.tobytes())
    robot.images.publish(
        Image(header=header, encoding="rgb8", step=3 * camera.width, data=content, **size)
    )
    robot.infos.publish(CameraInfo(header=header, k=camera.K_33.reshape(9), **size))
    return stamp_ns


def send(robot, image_hw3, camera):
    """Send an image with its calibration, and return its status, once it has one."""
    stamp_ns = publish(robot, image_hw3, camera)
    assert wait_for(lambda: stamp_ns in robot.statuses)
    return stamp_ns, robot.statuses[stamp_ns]


def start_localizer(
    child: Callable[..., Child], map_path: Path, robot: SimulatedRobot, **parameters: object
) -> Child:
    """Start the node with parameters, and wait until it receives what the robot sends."""
    arguments = [word for k, v in parameters.items() for word in ("-p", f"{k}:={v}")]
    topics = ["-r", "image:=/camera/image_raw", "-r", "camera_info:=/camera/camera_info"]
    node = child("localizer_main", "--ros-args", "-p", f"map:={map_path}", *arguments, *topics)
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
