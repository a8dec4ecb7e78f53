"""Conversion between ROS 2 messages and the arrays and values of the runtime."""

from __future__ import annotations

from array import array
from collections.abc import Hashable
from functools import cache
from typing import Any

import numpy as np
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from geometry_msgs.msg import (
    Pose,
    PoseWithCovarianceStamped,
    Quaternion,
    Transform,
    TransformStamped,
    Vector3,
)
from nav_msgs.msg import Odometry
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2, PointField
from std_msgs.msg import Header

from mote_localization.backends import Chosen
from mote_localization.errors import ImageError
from mote_localization.geometry import quaternion_xyzw
from mote_localization.image_files import decode_compressed
from mote_localization.images import ENCODINGS, decode
from mote_localization.localizer import Localization, Status
from mote_localization.map_cloud import MapCloud

_UNKNOWN_VARIANCE = 1e6  # (m/s)^2 and (rad/s)^2
_IN_PLANE_6 = np.array([True, True, False, False, False, True])  # x, y, yaw
_FOR_FILTERS_36 = (np.outer(_IN_PLANE_6, _IN_PLANE_6) | np.eye(6, dtype=bool)).reshape(36)
CLOUD_FIELDS = [
    PointField(name=name, offset=4 * i, datatype=PointField.FLOAT32, count=1)
    for i, name in enumerate(("x", "y", "z", "rgb"))
]


def image_from_message(image: Image | CompressedImage) -> np.ndarray:
    """Return image_hw3, RGB uint8, of an image message; for `rgb8` a view of its data.

    Raises:
        ImageError: The encoding is not supported, the image is empty or damaged, or size, step and
            data disagree.
    """
    if isinstance(image, CompressedImage):
        return decode_compressed(image)
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


def image_message(header: Header, image_hw3: np.ndarray) -> Image:
    """Return a message of an image, RGB uint8."""
    height, width = image_hw3.shape[:2]
    data = array("B")
    data.frombytes(np.ascontiguousarray(image_hw3).data.cast("B"))
    return Image(
        header=header, encoding="rgb8", height=height, width=width, step=3 * width, data=data
    )


def calibration_of(info: CameraInfo) -> tuple[Hashable, ...]:
    """Return what is equal for two CameraInfo of the same calibration."""
    roi = info.roi
    return (
        info.header.frame_id, info.width, info.height, info.distortion_model,
        tuple(info.d), tuple(info.k), tuple(info.r), tuple(info.p), info.binning_x, info.binning_y,
        roi.x_offset, roi.y_offset, roi.width, roi.height,
    )  # fmt: skip


def pose_message(
    header: Header, T_map_frame: np.ndarray, covariance_66: np.ndarray
) -> PoseWithCovarianceStamped:
    """Return a message of a pose (4, 4) and its covariance (6, 6; x y z rotX rotY rotZ)."""
    message = PoseWithCovarianceStamped(header=header)
    pose: Pose = message.pose.pose
    pose.position.x, pose.position.y, pose.position.z = T_map_frame[:3, 3].tolist()
    q = pose.orientation
    q.x, q.y, q.z, q.w = quaternion_xyzw(T_map_frame[:3, :3]).tolist()
    message.pose.covariance = covariance_66.reshape(36)
    return message


def odometry_message(pose: PoseWithCovarianceStamped, child_frame: str) -> Odometry:
    """Return the pose of `child_frame` as odometry.

    Its velocity is unknown, and has large variances: filters take negative or zero ones as certain.
    z, roll and pitch have variances only: robot_localization's `two_d_mode` replaces these, and
    diverges if covariances with them stay.
    """
    message = Odometry(header=pose.header, child_frame_id=child_frame)
    message.pose.pose = pose.pose.pose
    message.pose.covariance = np.where(_FOR_FILTERS_36, pose.pose.covariance, 0)
    message.twist.covariance = (_UNKNOWN_VARIANCE * np.eye(6)).reshape(36)
    return message


def transform_message(header: Header, child_frame: str, T_44: np.ndarray) -> TransformStamped:
    """Return the transform (4, 4) of `child_frame` in the frame of the header."""
    x, y, z = T_44[:3, 3].tolist()
    qx, qy, qz, qw = quaternion_xyzw(T_44[:3, :3]).tolist()
    return TransformStamped(
        header=header,
        child_frame_id=child_frame,
        transform=Transform(
            translation=Vector3(x=x, y=y, z=z), rotation=Quaternion(x=qx, y=qy, z=qz, w=qw)
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
    return _cloud(header, cells_hw4, is_dense=bool(np.isfinite(cells_hw4[..., :3]).all()))


def _cloud(header: Header, points_hw4: np.ndarray, is_dense: bool) -> PointCloud2:
    """Return a cloud of x, y, z and rgb, float32."""
    rows, columns = points_hw4.shape[:2]
    data = array("B")
    data.frombytes(points_hw4.data.cast("B"))  # a NumPy array would be copied byte by byte
    return PointCloud2(
        header=header,
        height=rows,
        width=columns,
        fields=CLOUD_FIELDS,
        is_bigendian=False,
        point_step=16,
        row_step=16 * columns,
        data=data,
        is_dense=is_dense,
    )


def map_points_message(header: Header, cloud: MapCloud) -> PointCloud2:
    """Return the points of a map as a cloud; fields as in `cloud_message`."""
    grey_n = cloud.grey_n.astype(np.uint32)
    points_n4 = np.empty((len(grey_n), 4), np.float32)
    points_n4[:, :3] = cloud.points_n3
    points_n4.view(np.uint32)[:, 3] = grey_n << 16 | grey_n << 8 | grey_n
    return _cloud(header, points_n4[None], is_dense=True)


def status_message(
    stamp: Time,
    name: str,
    hardware: str,
    found: Localization | None,
    fault: str = "",
    rejection: str = "",
) -> DiagnosticArray:
    """Return the status of one image.

    Args:
        stamp: Stamp of the image.
        name: Name of the status.
        hardware: Hardware id of the status: the scene of the map.
        found: Result of the localizer; None if the image cannot be used.
        fault: Why the image, or its pose, cannot be used.
        rejection: Why the pose is not published, although the localizer accepts it.
    """
    status = DiagnosticStatus(
        level=DiagnosticStatus.ERROR, name=name, hardware_id=hardware, message=fault
    )
    if found is not None:
        reason = fault or rejection or found.reason
        if not fault:
            localized = found.status is Status.LOCALIZED and not rejection
            status.level = DiagnosticStatus.OK if localized else DiagnosticStatus.WARN
        status.message = reason or "localized"
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
