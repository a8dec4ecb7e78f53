"""The images of one camera, or of several on one rigid body, as the node receives them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from rclpy.node import Node
from sensor_msgs.msg import CameraInfo

from mote_localization.errors import RosError
from mote_localization.nodes.camera_input import TRANSPORTS, AnyImage, CameraInput
from mote_localization.nodes.entities import Entities
from mote_localization.nodes.matching import MomentMatcher
from mote_localization.stamps import nanoseconds

_NAME = re.compile("[A-Za-z][A-Za-z0-9_]*(/[A-Za-z][A-Za-z0-9_]*)*")
_MAX_CAMERAS = 8


def cameras_of(values: Mapping[str, Any]) -> list[str]:
    """Return the names of several cameras in the parameters; empty: there is one."""
    return [name for name in values["cameras"] if name]


def check_inputs(values: Mapping[str, Any]) -> None:
    """Check the parameters of the images.

    Raises:
        RosError: A name of a camera or the transport cannot be used, or the frame of one camera is
            given for several.
    """
    cameras, transport = cameras_of(values), values["image_transport"]
    if cameras and values["camera_frame"]:
        raise RosError("camera_frame: several cameras have the frames of their images")
    for name in cameras:
        if not _NAME.fullmatch(name):
            raise RosError(f"cameras: found '{name[:40]}', expected names such as front")
        if cameras.count(name) > 1:
            raise RosError(f"cameras: found '{name[:40]}' twice, expected different names")
    if len(cameras) > _MAX_CAMERAS:
        raise RosError(f"cameras: found {len(cameras)}, expected at most {_MAX_CAMERAS}")
    if transport not in TRANSPORTS:
        raise RosError(f"image_transport: found '{transport[:40]}', expected raw or compressed")


class Frame(NamedTuple):
    """An image with its calibration."""

    camera: int  # index of its camera
    image: AnyImage
    info: CameraInfo


class RigInput:
    """Subscribes to the cameras, and gives on what they see at one moment."""

    def __init__(
        self,
        node: Node,
        entities: Entities,
        cameras: Sequence[str],
        transport: str,
        info_tolerance_s: float,
        rig_tolerance_s: float,
        on_frames: Callable[[list[Frame]], None],
    ) -> None:
        """Subscribe to `image` and `camera_info`, or to these topics below each camera's name.

        Args:
            node: The node that subscribes.
            entities: To which its subscriptions belong.
            cameras: Names of several cameras; empty: there is one.
            transport: See `CameraInput`.
            info_tolerance_s: See `CameraInput`.
            rig_tolerance_s: Largest difference between the stamps of images of one moment, s.
            on_frames: Is called with the images of each moment, in the order of their cameras.
        """
        self._names, self._on_frames = cameras, on_frames
        prefixes = [f"{name}/" for name in cameras] or [""]
        self._moments: MomentMatcher[Frame] | None = None
        if len(prefixes) > 1:
            self._moments = MomentMatcher(len(prefixes), round(rig_tolerance_s * 1e9))
        self._tolerance_s = rig_tolerance_s
        self.cameras = [
            CameraInput(
                node, entities, transport, info_tolerance_s, partial(self._on_frame, i), prefix
            )
            for i, prefix in enumerate(prefixes)
        ]

    @property
    def image_topics(self) -> str:
        """Full names of the topics of the images."""
        return ", ".join(camera.image_topic for camera in self.cameras)

    def missing(self, period_s: float) -> str:
        """Return what has been missing since the last call; empty: nothing.

        Args:
            period_s: Time since the last call, s.
        """
        missing = [camera.missing(period_s) for camera in self.cameras]
        if self._moments and not any(missing):
            missing = [
                f"images of {self._names[i]} are not used: they have stopped, or are stamped over "
                f"{self._tolerance_s:g} s from the others (synchronize the cameras, or raise "
                "rig_tolerance_s)"
                for i in sorted(self._moments.missing)
            ]
        return "; ".join(filter(None, missing))

    def _on_frame(self, camera: int, image: AnyImage, info: CameraInfo) -> None:
        frame = Frame(camera, image, info)
        if self._moments is None:
            self._on_frames([frame])
            return
        frames = self._moments.add(camera, nanoseconds(image.header.stamp), frame)
        if frames:
            self._on_frames(list(frames.values()))
