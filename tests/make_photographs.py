"""Photographs of small rooms with textured walls and boxes, rendered within milliseconds.

They have no intrinsics, depth or poses beside them: structure from motion finds all.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import cv2
import numpy as np

from mote_localization.camera import Camera, cell_pixels
from mote_localization.geometry import rigid

CAMERA = Camera(320, 240, 270.0, 270.0, 159.5, 119.5)
_SOLIDS_M = np.array(  # lowest and highest corner of the room, and of the boxes in it; z up
    [
        [[0.0, 0.0, 0.0], [4.0, 3.0, 2.6]],
        [[2.6, 0.6, 0.0], [3.2, 1.2, 1.1]],
        [[2.9, 1.9, 0.0], [3.5, 2.5, 0.8]],
        [[1.9, 2.2, 0.0], [2.3, 2.7, 1.4]],
    ]
)
_TEXELS_PER_M = 100
_TARGET_M = np.array([3.2, 1.6, 0.9])  # that every camera faces


def room_poses(count: int) -> list[np.ndarray]:
    """Return T_map_cam (4, 4) of cameras on a curve, about 10 cm apart, that face the boxes."""
    poses = []
    for k in range(count):
        angle = 0.09 * (k - count / 2)
        position = _TARGET_M + [-2.2 * np.cos(angle), 1.3 * np.sin(angle), 0.3 + 0.2 * np.sin(k)]
        forward = _TARGET_M - position
        forward /= np.linalg.norm(forward)
        right = np.cross(forward, [0, 0, 1])
        right /= np.linalg.norm(right)
        R = np.stack([right, np.cross(forward, right), forward], axis=1)
        poses.append(rigid(R, position))
    return poses


def room_image(T_map_cam: np.ndarray, camera: Camera = CAMERA, room: int = 0) -> np.ndarray:
    """Return image_hw3, RGB uint8, of a room; rooms with other numbers have other textures."""
    pixels_hw2 = cell_pixels(camera.width, camera.height, 1)
    ray_hw3 = camera.rays(pixels_hw2) @ T_map_cam[:3, :3].T
    with np.errstate(divide="ignore"):
        inverse_hw3 = 1 / ray_hw3
    eye = T_map_cam[:3, 3]
    nearest_hw = (np.where(ray_hw3 > 0, _SOLIDS_M[0, 1] - eye, -eye) * inverse_hw3).min(axis=-1)
    surface_hw = np.zeros(nearest_hw.shape, int)
    for k, (low, high) in enumerate(_SOLIDS_M[1:], 1):
        one_hw3, other_hw3 = (low - eye) * inverse_hw3, (high - eye) * inverse_hw3
        enter_hw = np.minimum(one_hw3, other_hw3).max(axis=-1)
        leave_hw = np.maximum(one_hw3, other_hw3).min(axis=-1)
        hit_hw = (enter_hw > 0) & (enter_hw < leave_hw) & (enter_hw < nearest_hw)
        nearest_hw = np.where(hit_hw, enter_hw, nearest_hw)
        surface_hw[hit_hw] = k
    point_hw3 = eye + ray_hw3 * nearest_hw[..., None]
    corners_hw23 = _SOLIDS_M[surface_hw]
    # The face of a surface is the coordinate nearest to one of its two limits.
    axis_hw = np.abs(corners_hw23 - point_hw3[..., None, :]).min(axis=-2).argmin(axis=-1)
    image_hw3 = np.zeros((*nearest_hw.shape, 3), np.uint8)
    for surface in range(len(_SOLIDS_M)):
        for axis in range(3):
            seen_hw = (surface_hw == surface) & (axis_hw == axis)
            across, along = (a for a in range(3) if a != axis)
            # Two opposite faces have different parts of a texture.
            far_hw = point_hw3[..., axis] > _SOLIDS_M[surface, :, axis].mean()
            column_hw = _TEXELS_PER_M * (point_hw3[..., across] + 4 * far_hw)
            row_hw = _TEXELS_PER_M * point_hw3[..., along]
            texture = _texture(1000 * room + 10 * surface + axis)
            colour_hw3 = cv2.remap(
                texture, column_hw.astype(np.float32), row_hw.astype(np.float32), cv2.INTER_LINEAR
            )
            image_hw3[seen_hw] = colour_hw3[seen_hw]
    return image_hw3


@cache
def _texture(seed: int) -> np.ndarray:
    """Return a colour texture (300, 800, 3) with details of all sizes."""
    rng = np.random.default_rng(seed)
    layers = [
        cv2.resize(rng.normal(0, 35, (300 // cell, 800 // cell, 3)), (800, 300))
        for cell in (6, 15, 30)
    ]
    return np.clip(128 + sum(layers), 0, 255).astype(np.uint8)


def write_photographs(
    folder: Path,
    poses: Sequence[np.ndarray],
    camera: Camera = CAMERA,
    room: int = 0,
    prefix: str = "",
) -> Path:
    """Write a photograph of each pose, named by its number after the prefix; return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for k, T_map_cam in enumerate(poses):
        image_hw3 = room_image(T_map_cam, camera, room)
        cv2.imwrite(str(folder / f"{prefix}{k:02}.png"), image_hw3[..., ::-1])
    return folder
