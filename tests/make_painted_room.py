"""Photographs and keyframes of the box room of `make_map`, whose walls are painted with waves."""

import numpy as np
from make_map import CAMERA, T_MAP_CAM, room_points

from mote_localization.geometry import exp_rotation
from mote_localization.keyframes import Keyframe

_WAVES = np.random.default_rng(0).normal(0, 12, (60, 3))  # rad/m: of some decimetres
_PHASES = np.random.default_rng(1).uniform(0, 2 * np.pi, 60)


def photograph(T_map_cam: np.ndarray, repainted_m: float = -np.inf) -> np.ndarray:
    """Return an image of the box room, whose walls are painted with waves.

    Those below `repainted_m` of the map's y are painted with others.
    """
    points = room_points(T_map_cam, CAMERA, 1).astype(np.float64)
    phases = np.where(points[..., 1:2] < repainted_m, _PHASES[::-1], _PHASES)
    paint = np.sin(points @ _WAVES.T + phases).sum(axis=-1)
    grey = np.clip(128 + 12 * paint, 0, 255).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=-1)


def keyframe(T_map_cam: np.ndarray, hidden: bool = False, repainted_m: float = -np.inf) -> Keyframe:
    points_hw3 = room_points(T_map_cam, CAMERA, 8)
    return Keyframe.record(
        T_map_cam,
        photograph(T_map_cam, repainted_m),
        np.full_like(points_hw3, np.nan) if hidden else points_hw3,
    )


def shifted(*metres: float, omega: tuple[float, float, float] = (0, 0, 0)) -> np.ndarray:
    """Return the room camera's pose, shifted along its own axes and rotated about them."""
    T = T_MAP_CAM.copy()
    T[:3, 3] += T[:3, :3] @ metres
    T[:3, :3] = T[:3, :3] @ exp_rotation(np.array(omega))
    return T
