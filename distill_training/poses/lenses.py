"""Cameras of frames whose intrinsics may be unknown."""

from distill_training.poses.poses_config import Known
from mote_localization.camera import Camera
from mote_localization.scenes import Frame

_INITIAL_FOCAL = 0.9  # times the long side of the image: typical of phones


def initial_camera(frame: Frame, intrinsics: Known) -> tuple[Camera, bool]:
    """Return a frame's camera, and whether it is known; an unknown one has a typical focal length.

    Args:
        frame: The frame.
        intrinsics: given: they must be known; estimate: given ones are initial values; auto: known
            where the frame has them.

    Raises:
        SceneError: Given intrinsics are missing, or the image's size cannot be read.
    """
    camera = frame.known_camera() if intrinsics == "given" else frame.camera
    if camera is not None:
        return camera, intrinsics != "estimate"
    width, height = frame.size()
    focal = _INITIAL_FOCAL * max(width, height)
    return Camera(width, height, focal, focal, (width - 1) / 2, (height - 1) / 2), False


def lens_key(camera: Camera, known: bool) -> object:
    """Return a key that is equal for images of the same lens.

    Landscape and portrait images of one size are assumed to have the same lens.
    """
    return camera if known else tuple(sorted((camera.width, camera.height)))
