"""Cameras of frames whose intrinsics may be unknown."""

import logging
from collections.abc import Callable
from typing import TypeVar

from distill_training.poses.poses_config import Known
from mote_localization.camera import Camera
from mote_localization.errors import CameraError, SceneError
from mote_localization.scenes import Frame, Scene

_log = logging.getLogger(__name__)
T = TypeVar("T")
_INITIAL_FOCAL = 0.9  # times the long side of the image: typical of phones


def initial_camera(frame: Frame, intrinsics: Known) -> tuple[Camera, bool]:
    """Return a frame's camera, and whether it is known.

    An unknown one has the focal length of the image's EXIF data, or a typical one.

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
    lens = frame.lens()
    stated = lens.focal_px(width, height) if lens else None
    focal = stated or _INITIAL_FOCAL * max(width, height)
    return Camera(width, height, focal, focal, (width - 1) / 2, (height - 1) / 2), False


def lens_key(frame: Frame, camera: Camera, known: bool) -> object:
    """Return a key that is equal for images of the same lens.

    Where intrinsics are unknown, images of one size, landscape or portrait, have the same lens if
    their EXIF data states the same camera and focal length.
    """
    if known:
        return camera
    return tuple(sorted((camera.width, camera.height))), frame.lens()


def take_frames(
    scene: Scene, intrinsics: Known, take: Callable[[Frame, Camera, bool], T]
) -> tuple[list[T], dict[str, str]]:
    """Return what is taken of each usable training frame, and the reason for each other, by name.

    Args:
        scene: Its training frames are used.
        intrinsics: See `initial_camera`.
        take: Called with a frame, its camera, and whether the camera is known. An error of scene or
            camera leaves the frame out.

    Raises:
        SceneError: Given intrinsics are required and missing.
    """
    taken: list[T] = []
    unusable: dict[str, str] = {}
    for frame in scene.frames("train"):
        if intrinsics == "given":
            frame.known_camera()
        try:
            taken.append(take(frame, *initial_camera(frame, intrinsics)))
        except (SceneError, CameraError) as error:
            _log.warning("frame %s is left out: %s", frame.name, error)
            unusable[frame.name] = str(error)
    return taken, unusable
