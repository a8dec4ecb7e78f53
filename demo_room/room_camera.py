"""The camera of the demo room and the function that renders its images."""

from dataclasses import replace
from functools import lru_cache

import numpy as np

from demo_room.days import RECORDED, Day
from demo_room.model import build, lit_textures
from demo_room.renderer import Renderer
from mote_localization.camera import Camera

CAMERA = Camera(640, 480, 480.0, 480.0, 319.5, 239.5)  # field of view 67 x 53 degrees


def camera_of(day: Day) -> Camera:
    """Return the camera of a day."""
    return replace(CAMERA, fx=CAMERA.fx * day.focal, fy=CAMERA.fy * day.focal)


def render(
    T_map_cam: np.ndarray, camera: Camera = CAMERA, day: Day = RECORDED
) -> tuple[np.ndarray, np.ndarray]:
    """Render an image and its depth; a day's first call builds the room, which takes some seconds.

    Args:
        T_map_cam: Camera pose (4, 4). The map frame has its origin in the room's south-west floor
            corner, and z up.
        camera: A pinhole camera; that of a day is `camera_of(day)`.
        day: State of the room, and colours and noise of the camera.

    Returns:
        Image uint8 RGB (h, w, 3) and z depth float32 (h, w) in metres, both at the pixel centres.

    Raises:
        CameraError: The camera has lens distortion.
    """
    room = replace(day, focal=1.0, grey=False, noise=0.0)
    image_hw3, depth_hw = _renderer(room).render(T_map_cam, camera)
    return day.exposed(image_hw3, T_map_cam), depth_hw


@lru_cache(maxsize=2)
def _renderer(day: Day) -> Renderer:
    return Renderer(build(day).rectangles, lit_textures(day))
