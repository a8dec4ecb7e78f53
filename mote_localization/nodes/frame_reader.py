"""From messages to images that can be localized; what cannot be used is reported."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from rclpy.node import Node
from std_msgs.msg import Header

from mote_localization.camera import Camera
from mote_localization.camera_infos import camera_of_info
from mote_localization.errors import MoteError, RosError
from mote_localization.localizer import RigImage
from mote_localization.nodes import conversions
from mote_localization.nodes.camera_input import CameraInput
from mote_localization.nodes.rig_input import Frame
from mote_localization.nodes.warning_log import WarningLog


class CameraImage(NamedTuple):
    """An image that can be localized."""

    camera_index: int
    header: Header
    image_hw3: np.ndarray  # RGB uint8
    camera: Camera


class FrameReader:
    """Reads images and calibrations, and where the cameras are on the robot."""

    def __init__(
        self,
        node: Node,
        warnings: WarningLog,
        cameras: Sequence[CameraInput],
        rectified: bool,
        check_image: Callable[[np.ndarray, Camera], None],
        transform: Callable[[str, str, Any], np.ndarray],
    ) -> None:
        """Start with nothing reported.

        Args:
            node: The node that logs.
            warnings: What many images cause is logged here.
            cameras: The subscriptions.
            rectified: Images are rectified.
            check_image: Raises `MoteError` if an image cannot be localized.
            transform: Returns the pose (4, 4) of a frame in another one at a time.
        """
        self._node, self._warnings, self._cameras = node, warnings, cameras
        self._rectified, self._check_image, self._transform = rectified, check_image, transform
        self._rectified_faults: dict[str, str] = {}  # why images look rectified, by topic
        self._rig_fault = ""  # why the image of another camera is not used

    def faults(self) -> list[str]:
        """Return what is wrong with the last images."""
        return [*self._rectified_faults.values(), self._rig_fault]

    def read(self, frames: list[Frame]) -> list[CameraImage]:
        """Return the images that can be used, one at least; the others are reported.

        Raises:
            MoteError: None can be used.
        """
        images: list[CameraImage] = []
        faults = []
        for frame in frames:
            try:
                images.append(self._image_of(frame))
            except MoteError as error:
                faults.append(str(error))
        if not images:
            raise MoteError("; ".join(faults))
        self._rig_fault = "; ".join(faults)
        for fault in faults:
            self._warnings.warn(fault, fault)
        return images

    def _image_of(self, frame: Frame) -> CameraImage:
        """Return an image and its camera.

        Raises:
            MoteError: One of them cannot be used; the message names the topic.
        """
        source = self._cameras[frame.camera]
        topic = source.image_topic
        try:
            image_hw3 = conversions.image_from_message(frame.image)
            topic = source.info_topic
            size = image_hw3.shape[1], image_hw3.shape[0]
            camera = camera_of_info(frame.info, size, self._rectified)
            self._check_image(image_hw3, camera)
        except MoteError as error:
            raise MoteError(f"{topic}: {error}") from error
        self._check_rectified(source.image_topic, camera)
        return CameraImage(frame.camera, frame.image.header, image_hw3, camera)

    def placed(self, first: CameraImage, others: list[CameraImage]) -> list[RigImage]:
        """Return the images of the other cameras whose place on the robot is known."""
        placed = []
        for other in others:
            topic = self._cameras[other.camera_index].image_topic
            try:
                if other.header.frame_id == first.header.frame_id:
                    name = first.header.frame_id[:60]
                    raise RosError(f"its frame_id is another camera's, '{name}'")
                T_first_cam = self._transform(
                    first.header.frame_id, other.header.frame_id, other.header.stamp
                )
            except MoteError as error:
                self._rig_fault = f"localized without {topic}: {error}"
                self._warnings.warn("rig", self._rig_fault)
                continue
            placed.append(RigImage(other.image_hw3, other.camera, T_first_cam, topic))
        return placed

    def _check_rectified(self, topic: str, camera: Camera) -> None:
        """Warn if images are rectified by the name of their topic, and are not treated so."""
        name = topic.removesuffix("/compressed").rsplit("/", 1)[-1]
        fault = ""
        if re.search("(^|_)rect(_|$)", name) and any(camera.distortion):
            fault = (
                f"{topic} is rectified by its name, but its CameraInfo has a distortion, which is "
                "removed again; set the parameter rectified"
            )
        if fault and not self._rectified_faults.get(topic):
            self._node.get_logger().warning(fault)
        self._rectified_faults[topic] = fault
