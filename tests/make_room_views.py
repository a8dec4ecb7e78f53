"""Views of the box room of `make_map`, for scenes in the layouts of datasets."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
from make_map import ROOM_M, T_MAP_CAM, room_points
from make_scene import View

from mote_localization.camera import Camera
from mote_localization.geometry import exp_rotation, invert, rigid, transform
from mote_localization.scenes.scene import Frame

CAMERA = Camera(256, 192, 200.0, 208.0, 125.25, 98.5)


def camera_poses(count: int) -> list[np.ndarray]:
    """Return poses (4, 4) of a camera that moves sideways, turns and rolls in the room."""
    step = rigid(exp_rotation(np.array([0.05, 0.15, 0.08])), np.array([0.3, -0.05, 0.1]))
    return [T_MAP_CAM @ np.linalg.matrix_power(step, i + 1) for i in range(count)]


def room_view(T_map_cam: np.ndarray, camera: Camera = CAMERA) -> View:
    """Return image and depth of an undistorted camera; the colour is that of the point."""
    points_hw3 = room_points(T_map_cam, camera, 1)
    image_hw3 = (255 * points_hw3 / ROOM_M).astype(np.uint8)
    return View(image_hw3, T_map_cam, transform(invert(T_map_cam), points_hw3)[..., 2])


def write_image(path: Path, image_hw3: np.ndarray) -> None:
    """Write an RGB image; create its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image_hw3[..., ::-1])


def write_depth(path: Path, depth_hw: np.ndarray, values_a_metre: float = 1000) -> None:
    """Write a 16-bit depth image; create its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), (values_a_metre * depth_hw).round().astype(np.uint16))


def write_pose(path: Path, T_44: np.ndarray) -> None:
    """Write a matrix as text; create its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savetxt(path, T_44)


def median_errors_m(frames: Iterable[Frame], poses: Iterable[np.ndarray]) -> list[float]:
    """Return the median distance of each frame's points, by its depth, from the true ones.

    Args:
        frames: Frames with undistorted cameras.
        poses: Their true poses.
    """
    errors = []
    for frame, T_map_cam in zip(frames, poses, strict=True):
        depth_hw, camera = frame.known_depth(), frame.known_camera()
        assert depth_hw.shape == frame.image().shape[:2] and depth_hw.dtype == np.float32
        points_hw3 = transform(frame.known_pose(), camera.cell_rays(1) * depth_hw[..., None])
        difference_hw3 = points_hw3 - room_points(T_map_cam, camera, 1)
        assert (depth_hw > 0).mean() > 0.7
        errors.append(float(np.median(np.linalg.norm(difference_hw3, axis=-1)[depth_hw > 0])))
    return errors
