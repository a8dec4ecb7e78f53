"""The camera of a sensor_msgs/CameraInfo, with its binning and region of interest; no ROS."""

from typing import Any

import numpy as np

from mote_localization.camera import Camera
from mote_localization.errors import CameraError


def camera_of_info(
    info: Any, image_size: tuple[int, int] | None, rectified: bool = False
) -> Camera:
    """Return the camera of the images to which a CameraInfo belongs.

    Its K is that of the sensor at full resolution. Images show the region of interest, reduced by
    the binning (sensor_msgs/CameraInfo). Some drivers adapt width, height and K to the images:
    then the images have that size, and K is used as it is.

    Args:
        info: The message, as rclpy or rosbags read it.
        image_size: Width and height of the images, px; None: those of the CameraInfo.
        rectified: The images are rectified: P is used without distortion, in place of K and D.

    Returns:
        The camera. It has the size of the CameraInfo if nothing in it leads to the images' size.

    Raises:
        CameraError: The camera is not calibrated (K is zero), or its distortion model is unknown.
    """
    if rectified:
        camera = _rectified_camera(info)
    else:
        camera = Camera.from_K(info.width, info.height, info.k, info.distortion_model, info.d)
    full = (camera.width, camera.height)
    roi = info.roi
    width, height = roi.width or camera.width, roi.height or camera.height
    left, top = roi.x_offset, roi.y_offset
    columns, rows = max(info.binning_x, 1), max(info.binning_y, 1)
    if image_size is None or image_size == full:
        if left + width <= camera.width and top + height <= camera.height:
            return camera
        # A region beyond the sensor: width and height are those of the images, K is the sensor's.
        if full == (width, height):
            columns, rows = 1, 1
        image_size = full
    if image_size != (width // columns, height // rows):
        return camera
    return camera.read_out((left, top), (width, height), (columns, rows))


def _rectified_camera(info: Any) -> Camera:
    """Return the camera of rectified images, from P."""
    P_34 = np.asarray(info.p, np.float64).reshape(3, 4)
    if not P_34.any():
        raise CameraError(
            "rectified: P is zero, so the driver does not rectify; set rectified to false"
        )
    return Camera.from_K(info.width, info.height, P_34[:, :3])
