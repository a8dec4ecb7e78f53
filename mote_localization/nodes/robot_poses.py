"""The robot's poses from those of its camera, by the transforms on /tf."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from std_msgs.msg import Header

from mote_localization.errors import MoteError, RosError, first_line
from mote_localization.localizer import Localization
from mote_localization.nodes import conversions
from mote_localization.nodes.entities import Entities
from mote_localization.robot_frames import FrameConfig, FrameError, RobotFrames, RobotPose
from mote_localization.stamps import nanoseconds
from mote_localization.transform_buffer import TransformError

try:
    from tf2_msgs.msg import TFMessage
except ImportError:  # PyPI has no wheel of it
    TFMessage = None

_RATE_HZ = 20.0  # at which map -> odom is published again, and waiting poses are tried again
_MAX_WAITING = 64  # poses that wait for transforms; beyond, the oldest is refused
_START_S = 1.0  # until then, parents of frames on /tf_static may not have arrived
_OWN_STAMPS = 100  # of the last transforms that were published


@dataclass(frozen=True)
class LocalizedImage:
    """An image that the localizer has found a pose for."""

    stamp: Any  # builtin_interfaces/Time
    frame: str  # optical frame of the camera
    T_map_cam: np.ndarray  # (4, 4)
    covariance_66: np.ndarray  # see `local_coordinates`
    found: Localization
    received_s: float  # monotonic time
    camera: int = 0  # index of the camera


class RobotPoses:
    """Converts poses of the camera to those of the robot, in the order of the images.

    A pose waits until the transforms of its time have arrived. Without `base_frame` and
    `publish_tf` none are needed, and poses are those of the camera.
    """

    def __init__(
        self,
        node: Node,
        entities: Entities,
        config: FrameConfig,
        tolerance_s: float,
        timeout_s: float,
        on_pose: Callable[[LocalizedImage, RobotPose], None],
        on_fault: Callable[[LocalizedImage, MoteError], None],
    ) -> None:
        """Subscribe to the transforms that the configuration needs.

        Args:
            node: The node that subscribes and publishes.
            entities: To which its publishers, subscriptions and timers belong.
            config: Frames, and the transform that is published.
            tolerance_s: map -> odom is stamped ahead by this time, s.
            timeout_s: How long a pose waits for its transforms, s.
            on_pose: Is called with each pose.
            on_fault: Is called where the transforms are not known in time.

        Raises:
            RosError: Transforms are needed, and tf2_msgs is not installed.
        """
        self._node, self._tolerance_s, self._timeout_s = node, tolerance_s, timeout_s
        self._on_pose, self._on_fault = on_pose, on_fault
        self._frames = RobotFrames(config)
        self.camera_frame = ""  # optical frame of the last image
        self._lock = threading.RLock()  # of all that follows
        self._waiting: deque[LocalizedImage] = deque()
        self._broadcast_fault = ""  # why no transform is published
        self._last_ns = -1  # stamp of the last transform that was published
        self._own_stamps: deque[int] = deque(maxlen=_OWN_STAMPS)
        self._started_s = time.monotonic()
        self._tf = None
        if not config.uses_transforms:
            return
        if TFMessage is None:
            raise RosError(
                "publish_tf or base_frame: tf2_msgs is not installed; install ros-<distro>-tf2-msgs"
            )
        latched = QoSProfile(depth=100, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        entities.subscription(TFMessage, "/tf", self._on_tf, QoSProfile(depth=100))
        entities.subscription(TFMessage, "/tf_static", self._on_tf_static, latched)
        if config.broadcast != "off":
            self._tf = entities.publisher(TFMessage, "/tf", QoSProfile(depth=100))
        entities.timer(1 / _RATE_HZ, self._on_timer)
        entities.clock_jump(self._on_jump)

    def add(self, image: LocalizedImage) -> None:
        """Add a localized image; its pose is given to `on_pose` now or later."""
        with self._lock:
            self._waiting.append(image)
            self._convert()

    def camera_pose(self, T_map_base: np.ndarray) -> np.ndarray:
        """Return the camera's pose (4, 4) at a pose of the robot.

        Raises:
            MoteError: It is not known where the camera is on the robot.
        """
        with self._lock:
            return self._frames.camera_pose(self.camera_frame, T_map_base)

    def between(self, first_frame: str, other_frame: str, stamp: Any) -> np.ndarray:
        """Return the pose (4, 4) of one camera in the frame of another.

        Raises:
            TransformError: It is not known at this time.
        """
        with self._lock:
            return self._frames.buffer.lookup(first_frame, other_frame, nanoseconds(stamp))

    def reset(self) -> None:
        """Discard poses that wait, and accept the next, however far it is from odometry."""
        with self._lock:
            self._waiting.clear()
            self._frames.reset()

    def close(self) -> None:
        """Give the images that still wait to `on_fault`."""
        with self._lock:
            while self._waiting:
                self._on_fault(self._waiting.popleft(), RosError("the node was deactivated"))

    def take_fault(self) -> str:
        """Return why no transform was published since the last call; empty: it was."""
        with self._lock:
            fault, self._broadcast_fault = self._broadcast_fault, ""
            return fault

    def _on_tf(self, message: Any) -> None:
        with self._lock:
            others = [one for one in message.transforms if not self._is_own(one)]
            self._frames.buffer.add(others, static=False)
            self._check_publishers(others)
            self._convert()

    def _on_tf_static(self, message: Any) -> None:
        with self._lock:
            self._frames.buffer.add(message.transforms, static=True)
            self._convert()

    def _on_timer(self) -> None:
        with self._lock:
            self._convert()
            self._broadcast_odometry()

    def _convert(self) -> None:
        """Convert the poses that wait, until one whose transforms may still arrive."""
        while self._waiting:
            image = self._waiting.popleft()
            stamp_ns = nanoseconds(image.stamp)
            overdue = time.monotonic() - image.received_s > self._timeout_s
            try:
                pose = self._frames.pose(
                    stamp_ns, image.frame, image.T_map_cam, image.covariance_66
                )
            except TransformError as error:
                if error.later and not overdue and len(self._waiting) < _MAX_WAITING:
                    self._waiting.appendleft(image)
                    return
                self._on_fault(image, error)
                continue
            except Exception as error:  # no message may end the node
                name = type(error).__name__
                self._on_fault(image, RosError(f"internal error: {name}: {first_line(error, 200)}"))
                continue
            self._on_pose(image, pose)
            if not pose.rejection:
                self._broadcast(image, pose)

    def _broadcast(self, image: LocalizedImage, pose: RobotPose) -> None:
        """Publish the transform that follows from a pose."""
        config = self._frames.config
        if config.broadcast == "map_to_odom":
            if self._last_ns < 0 and self._frames.T_map_odom is not None:
                # so that tf2 interpolates from the first image's time on
                self._publish(nanoseconds(image.stamp), "", self._frames.T_map_odom)
            self._broadcast_odometry()
        else:
            T_map_child = pose.T_map_frame
            if config.broadcast == "map_to_camera":
                T_map_child = image.T_map_cam
            self._publish(nanoseconds(image.stamp), image.frame, T_map_child)

    def _broadcast_odometry(self) -> None:
        """Publish map -> odom, stamped ahead, if it is known."""
        T_map_odom = self._frames.T_map_odom
        if T_map_odom is not None:
            ahead_ns = round(self._tolerance_s * 1e9)
            now_ns = self._node.get_clock().now().nanoseconds
            self._publish(now_ns + ahead_ns, "", T_map_odom)

    def _publish(self, stamp_ns: int, camera_frame: str, T_map_child: np.ndarray) -> None:
        if self._tf is None or stamp_ns == self._last_ns:  # tf2 warns of repeated data
            return
        if time.monotonic() - self._started_s < _START_S:
            return
        try:
            child = self._frames.broadcast_child(camera_frame)
        except FrameError as error:
            self._broadcast_fault = str(error)
            return
        header = Header(frame_id=self._frames.config.map_frame)
        header.stamp.sec, header.stamp.nanosec = divmod(stamp_ns, 1_000_000_000)
        transform = conversions.transform_message(header, child, T_map_child)
        self._last_ns = stamp_ns
        self._own_stamps.append(stamp_ns)
        self._tf.publish(TFMessage(transforms=[transform]))

    def _is_own(self, transform: Any) -> bool:
        """Return whether a transform is one that this node has published."""
        return (
            self._tf is not None
            and transform.header.frame_id == self._frames.config.map_frame
            and nanoseconds(transform.header.stamp) in self._own_stamps
        )

    def _on_jump(self, _: Any) -> None:
        """Start again after the ROS clock has jumped back."""
        with self._lock:
            self._frames.clear()
            self._waiting.clear()

    def _check_publishers(self, transforms: list[Any]) -> None:
        """Notice another node that publishes the same transform, such as AMCL."""
        config = self._frames.config
        if config.broadcast != "map_to_odom":
            return
        for transform in transforms:
            names = transform.header.frame_id, transform.child_frame_id
            if names == (config.map_frame, config.odom_frame):
                self._broadcast_fault = (
                    f"another node publishes '{config.map_frame}' -> '{config.odom_frame}'; stop "
                    "it (AMCL: tf_broadcast false), or set publish_tf to off"
                )
