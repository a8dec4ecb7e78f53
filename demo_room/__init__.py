"""A synthetic furnished room, rendered exactly: scenes and recordings with true depth and poses."""

from demo_room.room_camera import CAMERA, render
from demo_room.views import drive, training_views

__all__ = ["CAMERA", "drive", "render", "training_views"]
