"""Conversion between ROS 2 messages and the arrays and values of the runtime."""

from __future__ import annotations

from array import array
from functools import cache
from typing import Any

import numpy as np
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from geometry_msgs.msg import Pose, PoseWithCovarianceStamped, Transform, TransformStamped, Vector3
from sensor_msgs.msg import Image, PointCloud2, PointField
from std_msgs.msg import Header

from mote_localization.backends import Chosen
from mote_localization.errors import ImageError
from mote_localization.geometry import quaternion_xyzw
from mote_localization.images import ENCODINGS, decode
from mote_localization.localizer import Localization, Status

CLOUD_FIELDS = [
    PointField(name=name, offset=4 * i, datatype=PointField.FLOAT32, count=1)
    for i, name in enumerate(("x", "y", "z", "rgb"))
]


def image_from_message(image: Image) -> np.ndarray:
    """Return image_hw3, RGB uint8, of an image message; for `rgb8` a view of its data.

    Raises:
        ImageError: The encoding is not supported, the image is empty, or size, step and data
            disagree.
    """
    bridge = None if image.encoding in ENCODINGS else _cv_bridge()
    if bridge is None:
        return decode(image)
    try:
        return np.asarray(bridge.imgmsg_to_cv2(image, "rgb8"))
    except Exception as error:  # CvBridgeError or cv2.error
        raise ImageError(
            f"image: encoding '{image.encoding[:40]}' cannot be converted to rgb8 "
            f"({str(error).strip()[:200]})"
        ) from error


@cache
def _cv_bridge() -> Any | None:
    """Return a CvBridge, or None if cv_bridge is not installed; the search is slow."""
    try:
        from cv_bridge import CvBridge
    except Exception:  # AttributeError if it was built for another numpy
        return None
    return CvBridge()


def pose_message(
    header: Header, T_map_cam: np.ndarray, covariance_66: np.ndarray
) -> PoseWithCovarianceStamped:
    """Return a message of a pose (4, 4) and its covariance (6, 6; x y z rotX rotY rotZ)."""
    message = PoseWithCovarianceStamped(header=header)
    pose: Pose = message.pose.pose
    pose.position.x, pose.position.y, pose.position.z = T_map_cam[:3, 3].tolist()
    q = pose.orientation
    q.x, q.y, q.z, q.w = quaternion_xyzw(T_map_cam[:3, :3]).tolist()
    message.pose.covariance = covariance_66.reshape(36)
    return message


def transform_message(pose: PoseWithCovarianceStamped, child_frame: str) -> TransformStamped:
    """Return the transform of `child_frame` in the frame of the pose."""
    position = pose.pose.pose.position
    return TransformStamped(
        header=pose.header,
        child_frame_id=child_frame,
        transform=Transform(
            translation=Vector3(x=position.x, y=position.y, z=position.z),
            rotation=pose.pose.pose.orientation,
        ),
    )


def cloud_message(header: Header, found: Localization) -> PointCloud2:
    """Return the pointmap as an organized cloud with colours, one point per cell.

    Fields: x, y, z (m) and rgb (0x00RRGGBB in a FLOAT32, the format of PCL and RViz). Points of
    cells that the live camera does not see are NaN.
    """
    rows, columns = found.covered_hw.shape
    stride = found.image_hw3.shape[0] // rows
    middle = (stride - 1) // 2
    red, green, blue = found.image_hw3[middle::stride, middle::stride].astype(np.uint32).T
    cells_hw4 = np.empty((rows, columns, 4), np.float32)
    cells_hw4[..., :3] = np.where(found.covered_hw[..., None], found.points_hw3, np.nan)
    cells_hw4.view(np.uint32)[..., 3] = (red << 16 | green << 8 | blue).T
    data = array("B")
    data.frombytes(cells_hw4.data.cast("B"))  # a NumPy array would be copied byte by byte
    return PointCloud2(
        header=header,
        height=rows,
        width=columns,
        fields=CLOUD_FIELDS,
        is_bigendian=False,
        point_step=16,
        row_step=16 * columns,
        data=data,
        is_dense=bool(np.isfinite(cells_hw4[..., :3]).all()),
    )


def status_message(
    stamp: Time, name: str, hardware: str, found: Localization | None, fault: str = ""
) -> DiagnosticArray:
    """Return the status of one image.

    Args:
        stamp: Stamp of the image.
        name: Name of the status.
        hardware: Hardware id of the status: the scene of the map.
        found: Result of the localizer; None if the image cannot be used.
        fault: Why the image cannot be used.
    """
    status = DiagnosticStatus(
        level=DiagnosticStatus.ERROR, name=name, hardware_id=hardware, message=fault
    )
    if found is not None:
        localized = found.status is Status.LOCALIZED
        status.level = DiagnosticStatus.OK if localized else DiagnosticStatus.WARN
        status.message = "localized" if localized else found.reason
        values = {
            "inliers": str(found.inliers),
            "cells": str(found.cells),
            "reprojection_px": f"{found.reprojection_px:.3f}",
            **{f"{stage}_ms": f"{1e3 * s:.3f}" for stage, s in found.seconds.items()},
        }
        status.values = [KeyValue(key=key, value=value) for key, value in values.items()]
    message = DiagnosticArray(status=[status])
    message.header.stamp = stamp
    return message


def backend_status(name: str, hardware: str, chosen: Chosen) -> DiagnosticStatus:
    """Return the status of the backend; it is an error if another backend was rejected."""
    rejected = "; ".join(chosen.refusals)
    return DiagnosticStatus(
        level=DiagnosticStatus.ERROR if rejected else DiagnosticStatus.OK,
        name=name,
        hardware_id=hardware,
        message=f"{chosen.name}; rejected: {rejected}" if rejected else chosen.name,
    )
