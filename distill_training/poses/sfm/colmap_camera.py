"""Names and cameras of images in pycolmap, whose pixels are shifted by a half."""

import pycolmap

from mote_localization.camera import Camera

_CALIBRATED = "PINHOLE"
HALF_PX = 0.5  # COLMAP's (0, 0) is the corner of the first pixel, Mote's is its centre


def to_colmap(camera: Camera, known: bool) -> pycolmap.Camera:
    """Return a camera of pycolmap.

    Args:
        camera: Undistorted.
        known: The intrinsics are calibrated and stay fixed. Otherwise the camera has one focal
            length and one coefficient of radial distortion, which start at the camera's focal
            length and 0.
    """
    centre = (camera.cx + HALF_PX, camera.cy + HALF_PX)
    return pycolmap.Camera(
        model=_CALIBRATED if known else "SIMPLE_RADIAL",
        width=camera.width,
        height=camera.height,
        params=(camera.fx, camera.fy, *centre) if known else (camera.fx, *centre, 0.0),
        has_prior_focal_length=known,
    )


def is_calibrated(camera: pycolmap.Camera) -> bool:
    """Return whether the camera is one whose intrinsics stay fixed."""
    return camera.model_name == _CALIBRATED


def release(camera: pycolmap.Camera) -> None:
    """Change a calibrated camera into one whose focal length and distortion are estimated."""
    if is_calibrated(camera):
        fx, fy, cx, cy = camera.params
        camera.model = pycolmap.CameraModelId.SIMPLE_RADIAL
        camera.params = ((fx + fy) / 2, cx, cy, 0.0)


def from_colmap(camera: pycolmap.Camera) -> Camera:
    """Return the camera of either model that `to_colmap` makes."""
    fx, cx = camera.focal_length_x, camera.principal_point_x - HALF_PX
    fy, cy = camera.focal_length_y, camera.principal_point_y - HALF_PX
    if is_calibrated(camera):
        return Camera(camera.width, camera.height, fx, fy, cx, cy)
    k1 = camera.params[3]
    distortion = (float(k1), 0.0, 0.0, 0.0, 0.0)
    return Camera(camera.width, camera.height, fx, fy, cx, cy, "plumb_bob", distortion)


def image_name(index: int) -> str:
    """Return pycolmap's name of an image: its number in the list of images.

    A frame's own name may contain spaces, which separate names in COLMAP's files.
    """
    return f"{index:08d}"
