"""The robot's pose from the camera's: frames by REP 105, from /tf; no ROS."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, NamedTuple, get_args

import numpy as np

from mote_localization.errors import MoteError
from mote_localization.geometry import covariance_at
from mote_localization.map_to_odom import Fix, MapToOdom, OdometryConfig
from mote_localization.transform_buffer import TransformBuffer

Broadcast = Literal["off", "map_to_odom", "map_to_base", "map_to_camera"]


class FrameError(MoteError):
    """The settings of the frames contradict each other or the transforms on /tf."""


@dataclass(frozen=True)
class FrameConfig:
    """Names of the frames, and which transform is published.

    Raises:
        FrameError: A value is unknown, or a name is missing.
    """

    map_frame: str = "map"
    odom_frame: str = "odom"
    base_frame: str = ""  # frame whose pose is published; empty: the camera
    broadcast: Broadcast = "off"
    several_cameras: bool = False
    odometry: OdometryConfig = field(default_factory=OdometryConfig)

    def __post_init__(self) -> None:
        """Check the settings."""
        if self.broadcast not in get_args(Broadcast):
            raise FrameError(
                f"publish_tf: found '{str(self.broadcast)[:40]}', expected one of "
                f"{', '.join(get_args(Broadcast))}"
            )
        if self.broadcast == "map_to_base" and not self.base_frame:
            raise FrameError("publish_tf map_to_base: base_frame is empty; set it, as base_link")
        if self.broadcast == "map_to_odom" and not self.odom_frame:
            raise FrameError("publish_tf map_to_odom: odom_frame is empty; set it, as odom")
        if self.several_cameras and not self.base_frame:
            raise FrameError(
                "cameras: base_frame is empty; set it, as base_link: poses of several cameras are "
                "those of the robot"
            )
        for name in (self.map_frame, self.odom_frame, self.base_frame):
            if name.startswith("/") or name != "".join(name.split()):
                raise FrameError(
                    f"found the frame '{name[:40]}', expected a name such as base_link"
                )
        odom_frame = self.odom_frame if self.broadcast == "map_to_odom" else ""
        names = [name for name in (self.map_frame, odom_frame, self.base_frame) if name]
        if not self.map_frame or len(set(names)) < len(names):
            raise FrameError(
                "map_frame, odom_frame and base_frame: expected different names, found "
                + ", ".join(f"'{name[:40]}'" for name in names)
            )

    @property
    def uses_transforms(self) -> bool:
        """Whether transforms of other nodes are needed."""
        return bool(self.base_frame) or self.broadcast != "off"


class RobotPose(NamedTuple):
    """A pose of the robot, or why it is not to be published."""

    frame: str  # whose pose it is: base_frame, or the camera's
    T_map_frame: np.ndarray  # (4, 4)
    covariance_66: np.ndarray  # see `local_coordinates`
    rejection: str  # empty: it may be published


class RobotFrames:
    """Converts poses of a camera to those of a robot.

    `buffer` must be given the transforms that the robot publishes.
    """

    def __init__(self, config: FrameConfig) -> None:
        """Start without transforms."""
        self.config = config
        self.buffer = TransformBuffer()
        self._correction = MapToOdom(config.odometry)
        self._corrected = ""  # the camera whose poses correct odometry: the first image's

    @property
    def T_map_odom(self) -> np.ndarray | None:
        """The correction of odometry (4, 4); None before the first pose, and without odometry."""
        return self._correction.T_map_odom

    def pose(
        self, stamp_ns: int, camera_frame: str, T_map_cam: np.ndarray, covariance_66: np.ndarray
    ) -> RobotPose:
        """Return the robot's pose at the time of an image, after updating `T_map_odom`.

        Args:
            stamp_ns: Stamp of the image.
            camera_frame: Optical frame of the camera.
            T_map_cam: The camera's pose (4, 4).
            covariance_66: Of that pose, see `local_coordinates`.

        Raises:
            TransformError: A transform at this time is missing; nothing has changed.
        """
        config, frame = self.config, self.config.base_frame or camera_frame
        T_cam_frame = np.eye(4)
        if config.base_frame:
            T_cam_frame = self.buffer.lookup(camera_frame, config.base_frame, stamp_ns)
        rejection = ""
        if config.broadcast == "map_to_odom":
            # poses of several cameras are compared at one of them: odometry moves it, not them
            corrected = self._corrected or camera_frame
            T_cam_corrected = self.buffer.lookup(camera_frame, corrected, stamp_ns)
            T_odom_corrected = self.buffer.lookup(config.odom_frame, corrected, stamp_ns)
            pose = _at(T_map_cam, covariance_66, T_cam_corrected)
            rejection = self._correction.add(Fix(stamp_ns, *pose, T_odom_corrected))
            self._corrected = corrected
        return RobotPose(frame, *_at(T_map_cam, covariance_66, T_cam_frame), rejection)

    def camera_pose(self, camera_frame: str, T_map_base: np.ndarray) -> np.ndarray:
        """Return the camera's pose (4, 4) at a pose of `base_frame`, by the newest transforms.

        Raises:
            FrameError: There is no `base_frame`.
            TransformError: The frames are not connected.
        """
        base_frame = self.config.base_frame
        if not base_frame:
            raise FrameError("base_frame is empty")
        latest_ns = self.buffer.latest_ns(base_frame, camera_frame) or 0
        return T_map_base @ self.buffer.lookup(base_frame, camera_frame, latest_ns)

    def broadcast_child(self, camera_frame: str) -> str:
        """Return the child frame of the transform that is published.

        Raises:
            FrameError: It has another parent already, or no name; publishing it would break the
                tree of transforms.
        """
        config = self.config
        children = {"map_to_odom": config.odom_frame, "map_to_base": config.base_frame}
        child = children.get(config.broadcast, camera_frame)
        if not child or child == config.map_frame:
            raise FrameError(
                f"no transform: the image's frame_id is '{child[:60]}'; set camera_frame"
            )
        parent = self.buffer.parent(child)
        if parent not in (None, config.map_frame):
            hint = "" if config.broadcast == "map_to_odom" else "; use publish_tf map_to_odom"
            raise FrameError(
                f"publish_tf {config.broadcast}: '{child[:60]}' has the parent '{parent[:60]}' "
                f"already, and a second one would break the tree{hint}"
            )
        return child

    def clear(self) -> None:
        """Forget all poses and transforms: the clock has jumped."""
        self.buffer.clear()
        self.reset()

    def reset(self) -> None:
        """Accept the next pose, however far it is from where odometry expects it."""
        self._correction.reset()
        self._corrected = ""


def _at(
    T_map_cam: np.ndarray, covariance_66: np.ndarray, T_cam_frame: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the pose (4, 4) of a frame on the camera's body, and its covariance."""
    T_map_frame = T_map_cam @ T_cam_frame
    lever_3 = T_map_frame[:3, 3] - T_map_cam[:3, 3]
    return T_map_frame, covariance_at(covariance_66, lever_3)
