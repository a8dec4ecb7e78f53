"""A synthetic furnished room, rendered exactly: scenes and recordings with true depth and poses."""

from functools import cache

import numpy as np

from demo_room.model import demo_room
from demo_room.renderer import Renderer
from demo_room.views import drive, training_views
from mote_localization.camera import Camera

__all__ = ["CAMERA", "drive", "render", "training_views"]

CAMERA = Camera(640, 480, 480.0, 480.0, 319.5, 239.5)  # 67 x 53 degrees


@cache
def _renderer() -> Renderer:
    room = demo_room()
    return Renderer(room.rectangles, room.textures)


def render(T_map_cam: np.ndarray, camera: Camera = CAMERA) -> tuple[np.ndarray, np.ndarray]:
    """Photographs the demo room; the first call builds it, which takes some seconds.

    Args:
        T_map_cam: camera pose (4, 4); the map frame is in the room's south-west floor corner, z up.
        camera: a pinhole camera.

    Returns:
        Image uint8 RGB (h, w, 3) and z depth float32 (h, w) in metres, both at the pixel centres.

    Raises:
        CameraError: the camera has lens distortion.
    """
    return _renderer().render(T_map_cam, camera)
