"""Rosbag2 recordings (mcap or sqlite3): read as scenes, and written, without ROS."""

from mote_localization.scenes.bags.bag_files import join_names, open_bag
from mote_localization.scenes.bags.bag_messages import (
    IMAGE_TOPIC,
    IMAGES,
    INFO_TOPIC,
    POSE_TOPIC,
)
from mote_localization.scenes.bags.bag_scene import BagFrame, BagScene
from mote_localization.scenes.bags.bag_writer import BagWriter

__all__ = [
    "IMAGES",
    "IMAGE_TOPIC",
    "INFO_TOPIC",
    "POSE_TOPIC",
    "BagFrame",
    "BagScene",
    "BagWriter",
    "join_names",
    "open_bag",
]
