"""ROS 2 messages to what the runtime takes, and what it gives to messages. No state, no topics."""

from __future__ import annotations

from array import array
from functools import cache
from typing import Any

import numpy as np
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from geometry_msgs.msg import Pose, PoseWithCovarianceStamped, Transform, TransformStamped
from sensor_msgs.msg import CameraInfo, Image, PointCloud2, PointField
from std_msgs.msg import Header

from mote_localization.backends import Chosen
from mote_localization.camera import Camera
from mote_localization.errors import ImageError
from mote_localization.geometry import quaternion_xyzw
from mote_localization.images import ENCODINGS, decode
from mote_localization.localizer import Localization, Status

CLOUD_FIELDS = [
    PointField(name=name, offset=4 * i, datatype=PointField.FLOAT32, count=1)
    for i, name in enumerate(("x", "y", "z", "rgb"))
]


def image_array(image: Image) -> np.ndarray:
    """Return an image message as image_hw3, RGB uint8; of `rgb8` it is a view.

    Raises:
        ImageError: unknown encoding, empty image, or a size, step and data that disagree.
    """
    if image.encoding not in ENCODINGS:
        converted = _by_cv_bridge(image)
        if converted is not None:
            return converted
    return decode(
        image.encoding,
        image.height,
        image.width,
        image.step,
        image.data,
        bool(image.is_bigendian),
    )


@cache
def _cv_bridge() -> Any | None:
    """Return a bridge, or None where it is not installed; to look for it takes a while."""
    try:
        from cv_bridge import CvBridge
    except Exception:  # one built for another numpy fails with AttributeError
        return None
    return CvBridge()


def _by_cv_bridge(image: Image) -> np.ndarray | None:
    """Return what cv_bridge makes of a rarer encoding; None where it is not installed."""
    bridge = _cv_bridge()
    if bridge is None:
        return None
    try:
        return np.asarray(bridge.imgmsg_to_cv2(image, "rgb8"))
    except Exception as error:  # CvBridgeError and cv2.error, by what is wrong
        raise ImageError(
            f"image: encoding '{image.encoding[:40]}' cannot be converted to rgb8 "
            f"({str(error).strip()[:200]})"
        ) from error


def camera(info: CameraInfo) -> Camera:
    """Return the camera that a CameraInfo describes.

    Raises:
        CameraError: it is not calibrated (K all zero), or its distortion model is unknown.
    """
    return Camera.from_K(info.width, info.height, info.k, info.distortion_model, tuple(info.d))


def pose_message(
    header: Header, T_map_cam: np.ndarray, covariance_66: np.ndarray
) -> PoseWithCovarianceStamped:
    """Return a pose (4, 4) and its covariance (6, 6; x y z rotX rotY rotZ) as a message."""
    message = PoseWithCovarianceStamped(header=header)
    pose: Pose = message.pose.pose
    pose.position.x, pose.position.y, pose.position.z = T_map_cam[:3, 3].tolist()
    turn = pose.orientation
    turn.x, turn.y, turn.z, turn.w = quaternion_xyzw(T_map_cam[:3, :3]).tolist()
    message.pose.covariance = covariance_66.reshape(36)
    return message


def transform_message(pose: PoseWithCovarianceStamped, child_frame: str) -> TransformStamped:
    """Return the transform from the pose's frame to `child_frame`, which stands there."""
    place = pose.pose.pose
    message = TransformStamped(header=pose.header, child_frame_id=child_frame)
    transform: Transform = message.transform
    transform.translation.x = place.position.x
    transform.translation.y = place.position.y
    transform.translation.z = place.position.z
    transform.rotation = place.orientation
    return message


def cloud_message(header: Header, found: Localization) -> PointCloud2:
    """Return the pointmap as an organized cloud with colours, cells in their places.

    Fields x, y, z (m) and rgb (0x00RRGGBB in a FLOAT32, as PCL and RViz read it). Cells that the
    camera does not see are NaN.
    """
    rows, columns = found.covered_hw.shape
    stride = found.image_hw3.shape[0] // rows
    middle = (stride - 1) // 2
    red, green, blue = found.image_hw3[middle::stride, middle::stride].astype(np.uint32).T
    cells_hw4 = np.empty((rows, columns, 4), np.float32)
    cells_hw4[..., :3] = np.where(found.covered_hw[..., None], found.points_hw3, np.nan)
    cells_hw4.view(np.uint32)[..., 3] = (red << 16 | green << 8 | blue).T
    data = array("B")
    data.frombytes(cells_hw4.data.cast("B"))  # assigning the numpy array copies it byte by byte
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
    """Return what became of one image.

    Args:
        stamp: the image's.
        name: who reports.
        hardware: what it depends on: the map.
        found: the answer; None where the image could not be used at all.
        fault: why not.
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
    """Return what runs the network, an error where a faster one was refused."""
    refused = "; ".join(chosen.refusals)
    return DiagnosticStatus(
        level=DiagnosticStatus.ERROR if refused else DiagnosticStatus.OK,
        name=name,
        hardware_id=hardware,
        message=f"{chosen.name}, for {refused}" if refused else chosen.name,
    )
