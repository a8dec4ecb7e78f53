"""The localizer node: subscribes to images and CameraInfo; publishes pose, cloud, status, TF."""

from __future__ import annotations

import threading
import time
import traceback
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseWithCovarianceStamped
from rcl_interfaces.msg import (
    FloatingPointRange,
    IntegerRange,
    ParameterDescriptor,
    SetParametersResult,
)
from rclpy.node import Node
from rclpy.parameter import Parameter as RosParameter
from rclpy.qos import QoSProfile, qos_profile_sensor_data
from sensor_msgs.msg import CameraInfo, Image, PointCloud2
from std_msgs.msg import Header

from mote_localization.backends import BACKEND_HELP, choose_backend
from mote_localization.camera_infos import camera_of_info
from mote_localization.errors import MapFileError, MoteError
from mote_localization.localizer import Localization, Localizer, LocalizerConfig, Tracking
from mote_localization.map_file import UNKNOWN_SCALE, read_map
from mote_localization.nodes import conversions
from mote_localization.nodes.matching import StampMatcher
from mote_localization.stamps import nanoseconds

try:
    from tf2_msgs.msg import TFMessage
except ImportError:  # PyPI has no wheel of it
    TFMessage = None

_MAX_TRACKING_AGE_NS = 1_000_000_000  # older poses are not tracked
_SEARCH_PERIOD_NS = 1_000_000_000  # after so long, one image is localized without the last pose
_WARNING_PERIOD_S = 5.0  # a warning is logged at most once per period
_NEVER_S = -1e9
_MAX_FAULT_LENGTH = 200  # characters of an unexpected exception in the status
_MAX_WARNING_KEYS = 100  # warnings whose times are stored


@dataclass(frozen=True)
class Parameter:
    """One parameter of the node."""

    name: str
    default: Any
    description: str
    range: tuple[float, float] | None = None
    read_only: bool = True

    def descriptor(self) -> ParameterDescriptor:
        """Return the descriptor of ROS 2 for this parameter."""
        described = ParameterDescriptor(description=self.description, read_only=self.read_only)
        if self.range:
            ends = dict(zip(("from_value", "to_value"), self.range, strict=True))
            if isinstance(self.default, int):
                described.integer_range = [IntegerRange(**ends)]
            else:
                described.floating_point_range = [FloatingPointRange(**ends)]
        return described


_DEFAULTS = LocalizerConfig()
# fmt: off
PARAMETERS = (
    Parameter("map", "", "map file (.onnx), made by `mote-distill map`"),
    Parameter("map_frame", "map", "frame of poses and clouds"),
    Parameter("camera_frame", "", "child frame of the transform; empty: the image's frame_id"),
    Parameter("publish_tf", False, "publish the transform map_frame -> camera_frame on /tf"),
    Parameter("backend", "onnxruntime", BACKEND_HELP),
    Parameter("threads", 0, "CPU threads of the network; 0: one per core", (0, 256)),
    # The others belong to LocalizerConfig and may change while the node runs.
    Parameter("max_cells", _DEFAULTS.max_cells,
              "cells given to the pose solver, those with the smallest sigma", (4, 100_000), False),
    Parameter("max_sigma_m", _DEFAULTS.max_sigma_m,
              "m, cells with a larger sigma are not used", (0.0, 100.0), False),
    Parameter("min_inliers", _DEFAULTS.min_inliers,
              "lost below: cells that agree with the pose", (4, 100_000), False),
    Parameter("min_inlier_ratio", _DEFAULTS.min_inlier_ratio,
              "lost below: fraction of the used cells that agree with the pose", (0.0, 1.0), False),
    Parameter("min_spread", _DEFAULTS.min_spread,
              "lost below: fraction of the image (4 x 3 tiles) that contains inliers",
              (0.0, 1.0), False),
    Parameter("max_reprojection_px", _DEFAULTS.max_reprojection_px,
              "lost above: median reprojection error of the inliers, px", (0.0, 100.0), False),
    Parameter("max_deviation_m", _DEFAULTS.max_deviation_m,
              "lost above: standard deviation of the position, m", (0.0, 100.0), False),
    Parameter("bounds_margin_m", _DEFAULTS.bounds_margin_m,
              "lost beyond: distance outside the mapped volume, m", (0.0, 1e6), False),
    Parameter("keyframe_min_matches", _DEFAULTS.keyframes.min_matches,
              "lost below: points of the keyframes found; min_inliers too", (4, 100_000), False),
    Parameter("keyframe_min_inlier_ratio", _DEFAULTS.keyframes.min_inlier_ratio,
              "lost below: fraction of the keyframes' points that agree with the pose", (0.0, 1.0),
              False),
    Parameter("keyframe_sigma", _DEFAULTS.keyframes.sigma,
              "expected error of a keyframe's point, relative to its distance", (0.0, 1.0), False),
    Parameter("keyframe_searched", _DEFAULTS.keyframes.searched,
              "keyframes in which a lost image is searched, 0: none", (0, 100), False),
)
# fmt: on


class LocalizerNode(Node):
    """Localizes the newest image in a worker thread; older images are dropped."""

    def __init__(self) -> None:
        """Declare parameters, load the map, subscribe.

        Raises:
            MoteError: The map or the backend cannot be used.
        """
        super().__init__("localizer")
        values = {
            p.name: self.declare_parameter(p.name, p.default, p.descriptor()).value
            for p in PARAMETERS
        }
        if not values["map"]:
            raise MapFileError("parameter `map` is empty; give it a map file: -p map:=kitchen.onnx")
        config = _DEFAULTS.with_parameters(values)
        map_file = read_map(Path(values["map"]).expanduser())
        chosen = choose_backend(map_file, values["backend"], values["threads"])
        self._localizer = Localizer(map_file, chosen.backend, config)
        self._localizer.prepare_search()
        self._backend_status = conversions.backend_status(
            f"{self.get_fully_qualified_name()}: backend", map_file.info.scene, chosen
        )
        camera = self._localizer.info.camera
        # The first inference is slow, so it runs before the first image of the robot arrives.
        self._localizer.localize(np.zeros((camera.height, camera.width, 3), np.uint8), camera)
        self._map_frame = values["map_frame"]
        self._camera_frame = values["camera_frame"]
        self.add_on_set_parameters_callback(self._on_parameters)

        # Reliable QoS: the displays of RViz subscribe reliably.
        self._pose = self.create_publisher(PoseWithCovarianceStamped, "~/pose", 10)
        self._points = self.create_publisher(PointCloud2, "~/points", 2)
        self._status = self.create_publisher(DiagnosticArray, "~/status", 10)
        self._tf = None
        if values["publish_tf"] and TFMessage is None:
            self.get_logger().error(
                "publish_tf: tf2_msgs is not installed; no transform is published"
            )
        elif values["publish_tf"]:
            self._tf = self.create_publisher(TFMessage, "/tf", QoSProfile(depth=100))

        self._last: tuple[int, Tracking] | None = None  # stamp, ns, of the last pose
        self._searched_ns = 0  # stamp of the last image that was localized without the last
        self._warned_s: dict[str, float] = {}  # monotonic time of the last warning, by key
        self._wake = threading.Condition()
        self._newest: tuple[Image, CameraInfo] | None = None  # waits for the worker
        self._closing = False

        self._matcher: StampMatcher[Image, CameraInfo] = StampMatcher()
        self._received = {"image": 0, "camera_info": 0}  # since the last check
        self._input_warning = ""  # of the last check; empty: input is complete
        self._image = self.create_subscription(
            Image, "image", self._on_image, qos_profile_sensor_data
        )
        self._info = self.create_subscription(
            CameraInfo, "camera_info", self._on_info, qos_profile_sensor_data
        )
        self.create_timer(_WARNING_PERIOD_S, self._check_input)
        if not self._localizer.info.metric:
            self.get_logger().warning(
                f"{values['map']}: the map's scale is {UNKNOWN_SCALE}; poses, clouds and the "
                "parameters that end in _m are not in metres: do not fuse the poses with odometry"
            )
        self.get_logger().info(
            f"localizing {self._image.topic_name} in '{self._localizer.info.scene}' "
            f"({values['map']})"
        )
        self._worker = threading.Thread(target=self._work, name="worker")
        self._worker.start()

    def close(self) -> None:
        """End the worker thread; call it after the last callback, before destroying the node."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._worker.join()

    def _on_parameters(self, changed: list[RosParameter]) -> SetParametersResult:
        values = {p.name: p.value for p in changed}
        self._localizer.config = self._localizer.config.with_parameters(values)
        return SetParametersResult(successful=True)

    def _on_image(self, image: Image) -> None:
        self._received["image"] += 1
        stamp = nanoseconds(image.header.stamp)
        self._give_to_worker(self._matcher.add_image(stamp, image))

    def _on_info(self, info: CameraInfo) -> None:
        self._received["camera_info"] += 1
        stamp = nanoseconds(info.header.stamp)
        self._give_to_worker(self._matcher.add_info(stamp, info))

    def _give_to_worker(self, frame: tuple[Image, CameraInfo] | None) -> None:
        """Give a frame to the worker; it replaces a frame that still waits."""
        if frame is not None:
            with self._wake:
                self._newest = frame
                self._wake.notify()

    def _check_input(self) -> None:
        """Log a warning if images or CameraInfo are missing or do not match."""
        images, infos = self._received["image"], self._received["camera_info"]
        unmatched = self._matcher.take_unmatched()
        self._received = {"image": 0, "camera_info": 0}
        image_topic, info_topic = self._image.topic_name, self._info.topic_name
        warning = ""
        if images == 0:
            publishers = self.count_publishers(image_topic)
            hint = (
                f"it has {publishers} publisher(s), which may have stopped, or DDS loses large "
                "messages (set FASTDDS_DEFAULT_PROFILES_FILE to config/fastdds.xml on both sides)"
                if publishers
                else "it has no publisher (remap it: -r image:=/camera/image_raw)"
            )
            warning = f"no image on {image_topic} for {_WARNING_PERIOD_S:g} s; {hint}"
        elif infos == 0:
            warning = (
                f"images on {image_topic}, but no camera_info on {info_topic} for "
                f"{_WARNING_PERIOD_S:g} s (remap it: -r camera_info:=/camera/camera_info)"
            )
        elif unmatched:
            warning = (
                f"{unmatched} of {images} images on {image_topic} dropped: no message on "
                f"{info_topic} has their stamp; the driver stamps them differently, or DDS lost it"
            )
        if warning and warning != self._input_warning:
            self.get_logger().warning(warning)
        self._input_warning = warning

    def _work(self) -> None:
        """Localize the newest frame repeatedly until the node closes."""
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._newest is not None or self._closing)
                if self._closing or self._newest is None:
                    return
                (image, info), self._newest = self._newest, None
            try:
                self._localize_and_publish(image, info)
            except Exception as error:  # no message may end the node
                self._warn("worker", f"an image failed:\n{traceback.format_exc()}")
                fault = f"internal error: {type(error).__name__}: {error}"
                with suppress(Exception):  # publishing may be the cause
                    self._publish_status(
                        image.header.stamp, None, fault.splitlines()[0][:_MAX_FAULT_LENGTH]
                    )

    def _localize_and_publish(self, image: Image, info: CameraInfo) -> None:
        """Localize one image and publish the results with the stamp of the image."""
        stamp = image.header.stamp
        try:
            topic = self._info.topic_name
            camera = camera_of_info(info, (image.width, image.height))
            topic = self._image.topic_name
            image_hw3 = conversions.image_from_message(image)
            tracking = self._tracking(nanoseconds(stamp))
            found = self._localizer.localize(image_hw3, camera, tracking)
        except MoteError as error:
            fault = f"{topic}: {error}"
            self._warn(fault, fault)
            self._publish_status(stamp, None, fault)
            return
        if found.T_map_cam is not None and found.covariance_66 is not None:
            self._last = (nanoseconds(stamp), found.tracking) if found.tracking else None
            header = Header(stamp=stamp, frame_id=self._map_frame)
            pose = conversions.pose_message(header, found.T_map_cam, found.covariance_66)
            self._pose.publish(pose)
            self._publish_transform(pose, self._camera_frame or image.header.frame_id)
            if self._points.get_subscription_count():
                self._points.publish(conversions.cloud_message(header, found))
        else:
            self._warn("lost", f"lost: {found.reason}")
        self._publish_status(stamp, found)

    def _tracking(self, stamp_ns: int) -> Tracking | None:
        """Return that of the last pose if it is recent; None once per period: it may be wrong."""
        due = abs(stamp_ns - self._searched_ns) > _SEARCH_PERIOD_NS
        if due or self._last is None or abs(stamp_ns - self._last[0]) > _MAX_TRACKING_AGE_NS:
            self._searched_ns = stamp_ns
            return None
        return self._last[1]

    def _publish_transform(self, pose: PoseWithCovarianceStamped, child_frame: str) -> None:
        if self._tf is None:
            return
        if not child_frame or child_frame == self._map_frame:
            self._warn(
                "tf",
                f"no transform: the image's frame_id is '{child_frame[:60]}'; set camera_frame",
            )
            return
        self._tf.publish(TFMessage(transforms=[conversions.transform_message(pose, child_frame)]))

    def _publish_status(self, stamp: Any, found: Localization | None, fault: str = "") -> None:
        name = f"{self.get_fully_qualified_name()}: localization"
        message = conversions.status_message(stamp, name, self._localizer.info.scene, found, fault)
        message.status.append(self._backend_status)
        self._status.publish(message)

    def _warn(self, key: str, text: str) -> None:
        """Log a warning, at most once per period and key."""
        now = time.monotonic()
        if now - self._warned_s.get(key, _NEVER_S) < _WARNING_PERIOD_S:
            return
        if len(self._warned_s) >= _MAX_WARNING_KEYS:  # some keys come from messages
            self._warned_s.clear()
        self._warned_s[key] = now
        self.get_logger().warning(text)
