"""What the localizer node does while it is active: from images to poses."""

from __future__ import annotations

import threading
import time
import traceback
from collections import deque
from contextlib import suppress
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseStamped, PoseWithCovarianceStamped
from nav_msgs.msg import Odometry, Path
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import Image, PointCloud2
from std_msgs.msg import Header
from std_srvs.srv import Empty, SetBool

from mote_localization.backends import Chosen
from mote_localization.bundles.bundle_localizer import AnyLocalizer
from mote_localization.debug_image import debug_image
from mote_localization.errors import MoteError
from mote_localization.geometry import pose_from
from mote_localization.intrinsics_check import CalibrationChecks
from mote_localization.localization_statistics import Answered, LocalizationStatistics, Outcome
from mote_localization.localizer import Localization, Tracking
from mote_localization.map_cloud import place_cloud
from mote_localization.nodes import conversions
from mote_localization.nodes.entities import Entities
from mote_localization.nodes.frame_reader import FrameReader
from mote_localization.nodes.node_diagnostics import NodeDiagnostics, clock_fault
from mote_localization.nodes.pose_requests import PoseRequests
from mote_localization.nodes.rig_input import Frame, RigInput, cameras_of
from mote_localization.nodes.robot_poses import LocalizedImage, RobotPoses
from mote_localization.nodes.warning_log import WarningLog, without_numbers
from mote_localization.robot_frames import FrameConfig, RobotPose
from mote_localization.stamps import nanoseconds
from mote_localization.time_share import TimeShare
from mote_localization.transform_messages import pose_values

_MAX_TRACKING_AGE_NS = 1_000_000_000  # older poses are not tracked
_SEARCH_PERIOD_NS = 1_000_000_000  # after so long, one image is localized without the last pose
_SEARCH_SHARE = 0.25  # most of the time of a lost camera, in which it is searched in the keyframes
_CHECK_PERIOD_S = 5.0  # between two checks for missing inputs
_NEVER_S = -1e9
_MAX_MAP_POINTS = 100_000  # 16 bytes each
_PATH_PERIOD_S = 1.0
_MAX_PATH = 1000  # poses
_MAX_FAULT_LENGTH = 200  # characters of an unexpected exception in the status


class LastPose(NamedTuple):
    """The last published pose."""

    stamp_ns: int
    camera: int  # index of the camera whose pose it is
    tracking: Tracking
    search_s: float = 0.0  # for which it was searched: so much later, it was published

    def is_recent(self, stamp_ns: int) -> bool:
        """Return whether an image may be near it."""
        age_ns = abs(stamp_ns - self.stamp_ns)
        return age_ns <= _MAX_TRACKING_AGE_NS + round(1e9 * self.search_s)


class _Initial(NamedTuple):
    """A pose given by a user."""

    frame: str  # of the camera whose pose it is
    tracking: Tracking


class ActiveLocalizer:
    """Localizes the newest image in a worker thread; older images are dropped."""

    def __init__(
        self,
        node: Node,
        localizer: AnyLocalizer,
        chosen: Chosen,
        frames: FrameConfig,
        values: dict[str, Any],
        requests: PoseRequests,
        enabled: bool = True,
    ) -> None:
        """Advertise, subscribe, and start the worker.

        Args:
            node: The node that publishes and subscribes.
            localizer: Of the map.
            chosen: The backend that runs the network.
            frames: Frames of the robot.
            values: Parameters of the node, by name.
            requests: Of poses.
            enabled: See the service ~/enable.

        Raises:
            MoteError: A parameter cannot be used.
        """
        self._requests = requests
        self._node, self._localizer, self._entities = node, localizer, Entities(node)
        self._backend_status = conversions.backend_status(
            f"{node.get_fully_qualified_name()}: backend", localizer.info.scene, chosen
        )
        self._checks = CalibrationChecks.of(localizer) if values["calibration_check"] else None
        self._calibration_fault = ""  # why poses are withheld
        self._most_deviation_m = localizer.config.max_deviation_m
        self._backend_faults = [f"backend rejected: {refusal}" for refusal in chosen.refusals]
        self._map_frame = frames.map_frame
        self._camera_frame = values["camera_frame"]
        self._last: LastPose | None = None  # of the last published pose
        self._resets = 0  # poses of images from before a reset are discarded
        self._searched_ns = 0  # stamp of the last image that was localized without the last
        self._searches = TimeShare(_SEARCH_SHARE)
        self._initial: _Initial | None = None  # for the next image
        self.enabled = enabled
        self._path: deque[PoseStamped] = deque(maxlen=_MAX_PATH)
        self._min_period_s = 1 / values["max_rate_hz"] if values["max_rate_hz"] else 0.0
        self._taken_s = _NEVER_S  # monotonic time of the last image that was not dropped
        self._frame_fault = ""  # why no transform is published
        self._input_warning = ""  # of the last check; empty: input is complete
        self._warnings = WarningLog(node)
        self._statistics = LocalizationStatistics()
        self._wake = threading.Condition()
        self._newest: list[Frame] = []  # images of one moment that wait for the worker
        self._closing = False
        try:
            self._advertise()
            self._subscribe(frames, values, chosen)
        except BaseException:
            self._entities.close()
            raise
        self._worker = threading.Thread(target=self._work, name="worker")
        self._worker.start()
        requests.open()

    def _advertise(self) -> None:
        """Create the publishers. Reliable QoS: the displays of RViz subscribe reliably."""
        entities = self._entities
        self._pose = entities.publisher(PoseWithCovarianceStamped, "~/pose", 10)
        self._odometry = entities.publisher(Odometry, "~/odometry", 10)
        self._points = entities.publisher(PointCloud2, "~/points", 2)
        self._path_publisher = entities.publisher(Path, "~/path", 1)
        self._status = entities.publisher(DiagnosticArray, "~/status", 10)
        self._debug_image = entities.publisher(Image, "~/debug_image", 2)
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self._map_points = entities.publisher(PointCloud2, "~/map_points", latched)
        infos = [one for one in self._localizer.map_infos() if one.keyframes]
        if infos:
            stamp = self._node.get_clock().now().to_msg()
            header = Header(frame_id=self._map_frame, stamp=stamp)
            cloud = place_cloud(infos, _MAX_MAP_POINTS)
            self._map_points.publish(conversions.map_points_message(header, cloud))

    def _subscribe(self, frames: FrameConfig, values: dict[str, Any], chosen: Chosen) -> None:
        """Create the subscriptions, services and timers."""
        entities, info = self._entities, self._localizer.info
        self._robot_poses = RobotPoses(
            self._node,
            entities,
            frames,
            values["transform_tolerance_s"],
            values["transform_timeout_s"],
            self._publish_pose,
            self._on_missing_transform,
        )
        self._input = RigInput(
            self._node,
            entities,
            cameras_of(values),
            values["image_transport"],
            values["info_tolerance_s"],
            values["rig_tolerance_s"],
            self._give_to_worker,
        )
        self._reader = FrameReader(
            self._node,
            self._warnings,
            self._input.cameras,
            values["rectified"],
            self._localizer.check_image,
            self._robot_poses.between,
        )
        entities.subscription(PoseWithCovarianceStamped, "initialpose", self._on_initial_pose, 10)
        entities.service(SetBool, "~/enable", self._on_enable)
        entities.timer(_PATH_PERIOD_S, self._publish_path)
        entities.service(Empty, "~/reinitialize_global_localization", self._on_reinitialize)
        entities.timer(_CHECK_PERIOD_S, self._check_input)
        constants = {
            "map": values["map"],
            "keyframes": str(self._localizer.keyframe_count),
            "backend": chosen.name,
        }
        self._diagnostics = NodeDiagnostics(
            self._node, entities, info.scene, constants, self._statistics, self._faults
        )

    @property
    def image_topics(self) -> str:
        """Full names of the topics of the images."""
        return self._input.image_topics

    def close(self) -> None:
        """End the worker thread, and all that the node has advertised and subscribed to."""
        self._requests.close("the node is not active")
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._worker.join()
        self._robot_poses.close()
        self._entities.close()

    def _on_initial_pose(self, message: PoseWithCovarianceStamped) -> None:
        """Track the next image from a given pose, and accept it however far it is from odometry."""
        if message.header.frame_id not in ("", self._map_frame):
            self._node.get_logger().warning(
                f"initialpose ignored: its frame is '{message.header.frame_id[:60]}', expected "
                f"'{self._map_frame}'"
            )
            return
        pose = message.pose.pose
        values = pose_values(pose.position, pose.orientation)
        if values is None:
            self._node.get_logger().warning("initialpose ignored: its numbers are no pose")
            return
        T_map_base = pose_from(np.array(values[:3]), np.array(values[3:]))
        try:
            T_map_cam = self._robot_poses.camera_pose(T_map_base)
        except MoteError as error:
            self._node.get_logger().warning(
                f"initialpose: the last pose is forgotten, but the camera's is not known ({error})"
            )
            self._forget_pose()
            return
        frame = self._robot_poses.camera_frame
        initial = _Initial(frame, self._localizer.tracking_at(T_map_cam))
        with self._wake:
            self._initial = initial  # if the next image does not confirm it, the last pose remains
        self._robot_poses.reset()

    def _on_enable(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        self.enabled = request.data
        response.success, response.message = True, "enabled" if request.data else "disabled"
        return response

    def _publish_path(self) -> None:
        """Publish the last poses if somebody wants them."""
        if self._path_publisher.get_subscription_count() and self._path:
            header = Header(frame_id=self._map_frame, stamp=self._path[-1].header.stamp)
            self._path_publisher.publish(Path(header=header, poses=list(self._path)))

    def _on_reinitialize(self, _: Empty.Request, response: Empty.Response) -> Empty.Response:
        self._forget_pose()
        return response

    def _forget_pose(self) -> None:
        """Localize the next image without the last pose, and without comparing it to odometry."""
        with self._wake:
            self._resets += 1
            self._last = self._initial = None
            self._searches.reset()
        self._robot_poses.reset()

    def _faults(self) -> list[str]:
        """Return what the node cannot do at present."""
        faults = [
            clock_fault(self._node),
            self._input_warning,
            self._frame_fault,
            self._calibration_fault,
            *self._reader.faults(),
        ]
        if not self.enabled:
            faults = ["disabled by the service ~/enable"]
        return [*self._backend_faults, *filter(None, faults)]

    def _give_to_worker(self, frames: list[Frame]) -> None:
        """Give images of one moment to the worker; they replace others that still wait."""
        now_s, wanted = time.monotonic(), self._requests.waiting
        if not self.enabled and not wanted:
            return
        self._statistics.add_received(now_s)
        if now_s - self._taken_s < self._min_period_s and not wanted:
            self._statistics.add_dropped()
            return
        # the mean rate counts: images are not exactly regular
        mean_s = max(self._taken_s + self._min_period_s, now_s - self._min_period_s)
        self._taken_s = min(mean_s, now_s)  # images for requests come sooner
        with self._wake:
            if self._newest:
                self._statistics.add_dropped()
            self._newest = frames
            self._wake.notify()

    def _check_input(self) -> None:
        """Log a warning if images, CameraInfo or transforms are missing or do not match."""
        warning = self._input.missing(_CHECK_PERIOD_S)
        if warning and without_numbers(warning) != without_numbers(self._input_warning):
            self._node.get_logger().warning(warning)
        self._input_warning = warning
        self._frame_fault = self._robot_poses.take_fault()
        for fault in filter(None, (self._frame_fault, clock_fault(self._node))):
            self._warnings.warn(fault, fault)

    def _work(self) -> None:
        """Localize the newest images repeatedly until the node closes."""
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._newest or self._closing)
                if self._closing:
                    return
                frames, self._newest = self._newest, []
            received_s = time.monotonic()
            try:
                self._localize_and_publish(frames, received_s)
            except Exception as error:  # no message may end the node
                self._warnings.warn("worker", f"an image failed:\n{traceback.format_exc()}")
                fault = f"internal error: {type(error).__name__}: {error}"
                with suppress(Exception):  # publishing may be the cause
                    stamp = frames[0].image.header.stamp
                    fault = fault.splitlines()[0][:_MAX_FAULT_LENGTH]
                    self._publish_status(stamp, received_s, None, fault)

    def _localize_and_publish(self, frames: list[Frame], received_s: float) -> None:
        """Localize the images of one moment; results have the first one's stamp."""
        stamp = frames[0].image.header.stamp
        try:
            first, *others = self._reader.read(frames)
            stamp = first.header.stamp
            frame = self._camera_frame or first.header.frame_id
            self._robot_poses.camera_frame = frame
            with self._wake:
                initial, self._initial, resets = self._initial, None, self._resets
            tracking = self._tracking(nanoseconds(stamp), first.camera_index)
            if initial and initial.frame == frame:
                tracking = initial.tracking
            placed = self._reader.placed(first, others)
            search = self._requests.waiting or self._searches.allows(time.monotonic())
            found = self._localizer.localize(
                first.image_hw3, first.camera, tracking, placed, search
            )
            last = self._recent_tracking(nanoseconds(stamp), first.camera_index)
            if found.ambiguous and tracking is None and last:  # it decides between the places
                search_s = found.search_s
                found = self._localizer.localize(
                    first.image_hw3, first.camera, last, placed, search=False
                )
                found = replace(found, search_s=search_s)
        except MoteError as error:
            self._warnings.warn(str(error), str(error))
            self._publish_status(stamp, received_s, None, str(error))
            return
        self._publish_debug_image(Header(stamp=stamp, frame_id=frame), found)
        if self._checks:
            fault = self._checks.fault(first.camera_index, first.camera, found)
            topic = self._input.cameras[first.camera_index].info_topic
            self._calibration_fault = f"{topic}: {fault}" if fault else ""
            found = _less_certain(found, self._checks.added_variance(first.camera_index))
        T_map_cam, covariance_66 = found.T_map_cam, found.covariance_66
        if T_map_cam is None or covariance_66 is None:
            if found.search_s:  # the next images are answered without the delay of a search
                self._searches.add(found.search_s, time.monotonic())
            self._warnings.warn("lost", f"lost: {found.reason}")
            if found.contradicted:
                self._last = None
            self._publish_status(stamp, received_s, found)
            return
        if self._calibration_fault:
            with self._wake:
                self._last = None  # it may be wrong, and so may be the poses that wait or are on TF
            self._robot_poses.reset()
            self._warnings.warn("calibration", f"no pose: {self._calibration_fault}")
            self._publish_status(stamp, received_s, found, fault=self._calibration_fault)
            return
        deviation_m, most_m = np.sqrt(covariance_66[:3, :3].trace()), self._most_deviation_m
        if deviation_m > most_m:
            reason = (
                f"calibration may be wrong: standard deviation {deviation_m:.2f}, expected at most "
                f"{most_m:g}"
            )
            self._publish_status(stamp, received_s, found, rejection=reason)
            return
        if resets != self._resets:
            self._publish_status(
                stamp, received_s, found, rejection="discarded: the pose was reset meanwhile"
            )
            return
        self._robot_poses.add(
            LocalizedImage(
                stamp, frame, T_map_cam, covariance_66, found, received_s, first.camera_index
            )
        )

    def _publish_debug_image(self, header: Header, found: Localization) -> None:
        if self._debug_image.get_subscription_count():
            self._debug_image.publish(conversions.image_message(header, debug_image(found)))

    def _publish_pose(self, image: LocalizedImage, pose: RobotPose) -> None:
        """Publish the robot's pose at the time of an image, unless it is held back."""
        if pose.rejection:
            # it is not tracked: a wrong pose would confirm itself
            self._warnings.warn("held back", pose.rejection)
            self._publish_status(
                image.stamp, image.received_s, image.found, rejection=pose.rejection
            )
            return
        tracking = image.found.tracking
        stamp_ns = nanoseconds(image.stamp)
        search_s = image.found.search_s
        self._last = LastPose(stamp_ns, image.camera, tracking, search_s) if tracking else None
        header = Header(stamp=image.stamp, frame_id=self._map_frame)
        message = conversions.pose_message(header, pose.T_map_frame, pose.covariance_66)
        self._pose.publish(message)
        self._path.append(PoseStamped(header=header, pose=message.pose.pose))
        if self._odometry.get_subscription_count():
            self._odometry.publish(conversions.odometry_message(message, pose.frame))
        if self._points.get_subscription_count():
            self._points.publish(conversions.cloud_message(header, image.found))
        self._publish_status(image.stamp, image.received_s, image.found)

    def _on_missing_transform(self, image: LocalizedImage, error: MoteError) -> None:
        """Report a pose that cannot be that of the robot."""
        self._warnings.warn("transform", f"no pose: {error}")
        self._publish_status(
            image.stamp, image.received_s, image.found, fault=f"transforms: {error}"
        )

    def _tracking(self, stamp_ns: int, camera: int) -> Tracking | None:
        """Return that of the last pose if it is recent; to be verified once per period.

        Images without stamps, or with one and the same, are always localized without it.
        """
        since_ns = abs(stamp_ns - self._searched_ns)
        last = self._last  # another thread may forget it
        if since_ns == 0 or self._requests.waiting or last is None or not last.is_recent(stamp_ns):
            self._searched_ns = stamp_ns
            return None
        due = since_ns > _SEARCH_PERIOD_NS
        if due:
            self._searched_ns = stamp_ns
        return last.tracking._replace(verify=due) if last.camera == camera else None

    def _recent_tracking(self, stamp_ns: int, camera: int) -> Tracking | None:
        """Return that of the last pose if it is recent and of the same camera.

        That of an image with the same stamp may be old: some drivers write none.
        """
        last = self._last  # another thread may forget it
        if last is None or last.camera != camera:
            return None
        recent = stamp_ns != last.stamp_ns and last.is_recent(stamp_ns)
        return last.tracking if recent else None

    def _publish_status(
        self,
        stamp: Any,
        received_s: float,
        found: Localization | None,
        fault: str = "",
        rejection: str = "",
    ) -> None:
        name = f"{self._node.get_fully_qualified_name()}: localization"
        self._statistics.add_answer(_answered(found, fault, rejection))
        scene = self._localizer.info.scene
        message = conversions.status_message(stamp, name, scene, found, fault, rejection)
        message.status.append(self._backend_status)
        self._status.publish(message)
        if self._requests.waiting:
            self._requests.answer(*_quality(found, fault or rejection), received_s)


def _less_certain(found: Localization, variance: float) -> Localization:
    """Return a pose whose position has a variance added along each axis."""
    if found.covariance_66 is None:
        return found
    added_66 = np.diag([variance] * 3 + [0.0] * 3)
    return replace(found, covariance_66=found.covariance_66 + added_66)


def _answered(found: Localization | None, fault: str, rejection: str) -> Answered:
    """Return what became of an image, for the statistics."""
    now_s = time.monotonic()
    if found is None or fault:
        return Answered(now_s, "refused", fault)
    if rejection:
        return Answered(now_s, "held back", rejection, found.seconds, found.inliers)
    outcome: Outcome = "lost" if found.T_map_cam is None else "localized"
    return Answered(now_s, outcome, found.reason, found.seconds, found.inliers)


def _quality(found: Localization | None, fault: str) -> tuple[bool, str]:
    """Return whether an image was localized, and how well or why not, for the service."""
    if fault or found is None or found.covariance_66 is None:
        return False, fault or f"lost: {found.reason if found else ''}"
    variances_6 = found.covariance_66.diagonal()
    return True, (
        f"{found.inliers} of {found.cells} inliers, standard deviation "
        f"{np.sqrt(variances_6[:3].sum()):.3f} m and "
        f"{np.degrees(np.sqrt(variances_6[3:].sum())):.2f} deg"
    )
