"""Messages of recordings: their types, the topics that Mote writes, and stamps."""

from functools import cache
from typing import Any

from rosbags.typesys import Stores, get_typestore

from mote_localization.stamps import nanoseconds

IMAGE_TOPIC = "/camera/image_raw"
INFO_TOPIC = "/camera/camera_info"
POSE_TOPIC = "/ground_truth/pose"
MAP_FRAME = "map"

IMAGE = "sensor_msgs/msg/Image"
COMPRESSED = "sensor_msgs/msg/CompressedImage"
INFO = "sensor_msgs/msg/CameraInfo"
POSE = "geometry_msgs/msg/PoseStamped"
POSE_WITH_COVARIANCE = "geometry_msgs/msg/PoseWithCovarianceStamped"
ODOMETRY = "nav_msgs/msg/Odometry"
TRANSFORMS = "tf2_msgs/msg/TFMessage"

IMAGES = (IMAGE, COMPRESSED)
POSES = (POSE, POSE_WITH_COVARIANCE, ODOMETRY)


@cache
def message_types() -> Any:
    """Return the standard message types; those used here have not changed since Foxy."""
    return get_typestore(Stores.ROS2_HUMBLE)


def read_message(raw: bytes, msgtype: str) -> Any:
    """Return the message of serialized bytes; its arrays are views of them."""
    return message_types().deserialize_cdr(raw, msgtype)


def stamp_ns(message: Any) -> int:
    """Return the stamp of a message's header in nanoseconds."""
    return nanoseconds(message.header.stamp)
