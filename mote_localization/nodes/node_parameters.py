"""The parameters of the localizer node."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor

from mote_localization.backends import BACKEND_HELP
from mote_localization.pose_gates import LocalizerConfig
from mote_localization.robot_frames import FrameConfig


@dataclass(frozen=True)
class Parameter:
    """One parameter of the node."""

    name: str
    default: Any
    description: str
    range: tuple[float, float] | None = None
    fixed: bool = True  # while the node is configured
    dynamic: bool = False  # its type is checked by the node, not by ROS

    def descriptor(self) -> ParameterDescriptor:
        """Return the descriptor of ROS 2 for this parameter."""
        described = ParameterDescriptor(description=self.description, dynamic_typing=self.dynamic)
        if self.range:
            ends = dict(zip(("from_value", "to_value"), self.range, strict=True))
            if isinstance(self.default, int):
                described.integer_range = [IntegerRange(**ends)]
            else:
                described.floating_point_range = [FloatingPointRange(**ends)]
        return described


_DEFAULTS = LocalizerConfig()
_FRAMES = FrameConfig()
# fmt: off
PARAMETERS = (
    Parameter("map", "", "map (.onnx) or bundle (.mote), made by `mote-distill map`", fixed=False),
    Parameter("autostart", True,
              "configure and activate at the start; false: a lifecycle manager does it"),
    Parameter("map_frame", "map", "frame of poses and clouds"),
    Parameter("odom_frame", _FRAMES.odom_frame, "frame of odometry, for publish_tf map_to_odom"),
    Parameter("base_frame", _FRAMES.base_frame,
              "frame of the robot whose pose is published; empty: the camera"),
    Parameter("camera_frame", "", "optical frame of the camera; empty: the image's frame_id"),
    Parameter("publish_tf", _FRAMES.broadcast,
              "transform on /tf: off, map_to_odom, map_to_base or map_to_camera", dynamic=True),
    Parameter("transform_tolerance_s", 0.2,
              "s, map_to_odom is stamped ahead by this time", (0.0, 10.0)),
    Parameter("transform_timeout_s", 0.5,
              "s, a pose waits at most this long for odometry of its time", (0.0, 10.0)),
    Parameter("confirmations", _FRAMES.odometry.confirmations,
              "poses that must agree before a jump from odometry is accepted", (1, 1000)),
    Parameter("cameras", [""],
              "names of several rigid cameras, such as [front, left]; empty: one camera"),
    Parameter("rig_tolerance_s", 0.01,
              "s, images of several cameras are of one moment if stamped at most so far apart",
              (0.0, 1.0)),
    Parameter("image_transport", "raw", "raw or compressed: the type of the images"),
    Parameter("rectified", False, "images are rectified: use P of CameraInfo, not K and D"),
    Parameter("max_rate_hz", 0.0, "Hz, images are dropped above this rate; 0: none",
              (0.0, 1000.0)),
    Parameter("info_tolerance_s", 0.05,
              "s, how much later than its image a CameraInfo may be stamped", (0.0, 10.0)),
    Parameter("calibration_check", True,
              "withhold poses while the images contradict the calibration; needs keyframes"),
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
    Parameter("max_wrong_rate", _DEFAULTS.max_wrong_rate,
              "maps without keyframes: fraction of the published poses of usual images that may be "
              "wrong, as estimated when the map was made", (0.0, 1.0), False),
    Parameter("max_student_deviation_m", _DEFAULTS.max_student_deviation_m,
              "lost above: standard deviation of the position in maps of known scale without "
              "keyframes for which max_wrong_rate has no effect, m",
              (0.0, 100.0), False),
    Parameter("bounds_margin_m", _DEFAULTS.bounds_margin_m,
              "lost beyond: distance outside the mapped volume, m", (0.0, 1e6), False),
    Parameter("rig_sigma_m", _DEFAULTS.pose.rig_sigma_m,
              "m, expected error of the positions between several cameras, per axis", (0.0, 1.0),
              False),
    Parameter("rig_sigma_deg", _DEFAULTS.pose.rig_sigma_deg,
              "degrees, expected error of the rotations between several cameras, per axis",
              (0.0, 45.0), False),
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
