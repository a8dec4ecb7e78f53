"""Poses and frames as ROS messages contain them; no ROS."""

from collections.abc import Callable
from typing import Any

import numpy as np

_MAX_ABS_M = 1e9  # of a coordinate; larger ones lose all their digits
_MAX_NORM_ERROR = 1e-2  # of a quaternion; others, such as those of zeros, are no rotations


def pose_values(position: Any, orientation: Any) -> tuple[float, ...] | None:
    """Return x y z and the quaternion x y z w of a pose, None if it is no pose.

    Args:
        position: A geometry_msgs/Point or Vector3.
        orientation: A geometry_msgs/Quaternion; of unit length, but for rounding.
    """
    p, q = position, orientation
    values = (p.x, p.y, p.z, q.x, q.y, q.z, q.w)
    norm = np.sqrt(q.x * q.x + q.y * q.y + q.z * q.z + q.w * q.w)
    near = np.abs(values).max() < _MAX_ABS_M  # both are False for NaN
    return values if near and abs(norm - 1) < _MAX_NORM_ERROR else None


def frame_name(frame_id: str) -> str:
    """Return the name of a frame without the leading slash of ROS 1."""
    return frame_id.lstrip("/")


def ancestors(parent_of: Callable[[str], str | None], frame: str) -> list[str]:
    """Return a frame and those above it, up to the root; a circle ends where it closes.

    Args:
        parent_of: Returns the parent of a frame; None if it has none.
        frame: Name of the frame.
    """
    chain = {frame: None}  # in order
    while (parent := parent_of(frame)) is not None and parent not in chain:
        chain[parent], frame = None, parent
    return list(chain)
