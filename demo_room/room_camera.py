"""The camera of the demo room and the function that renders its images."""

from functools import cache

import numpy as np

from demo_room.model import build, lit_textures
from demo_room.renderer import Renderer
from mote_localization.camera import Camera

CAMERA = Camera(640, 480, 480.0, 480.0, 319.5, 239.5)  # field of view 67 x 53 degrees


def render(T_map_cam: np.ndarray, camera: Camera = CAMERA) -> tuple[np.ndarray, np.ndarray]:
    """Render an image and its depth; the first call builds the room, which takes some seconds.

    Args:
        T_map_cam: Camera pose (4, 4). The map frame has its origin in the room's south-west floor
            corner, and z up.
        camera: A pinhole camera.

    Returns:
        Image uint8 RGB (h, w, 3) and z depth float32 (h, w) in metres, both at the pixel centres.

    Raises:
        CameraError: The camera has lens distortion.
    """
    return _renderer().render(T_map_cam, camera)


@cache
def _renderer() -> Renderer:
    return Renderer(build().rectangles, lit_textures())
