"""Which surfaces and which floor a frame sees, as voxels and cells of the map frame."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from distill_training.poses.measured_depth import depth_at
from mote_localization.camera import Camera, canonical_camera
from mote_localization.evaluation.view_from_above import view_from_above
from mote_localization.geometry import transform
from mote_localization.scenes import Frame

VOXEL_M = 0.5  # side of voxels and of floor cells

_GRID = 16  # samples in a row of an image; 192 in an image of 4:3
_CELL_PX = 20  # between two samples; their neighbours give the normal of a surface
_MIN_M, _MAX_M = 0.1, 10.0  # depths that count; beyond, samples are wider apart than voxels
_FREE_M = (0.1, 0.5, 1.0, 1.5, 2.0)  # depths at which a frame sees free space, before a surface
_FREE_EVERY = 2  # samples
_SUPPOSED_M = 2.1  # depth of a frame without depth image
_STOREY_M = 2.5  # the heights of the cameras of one storey differ by less
_SIDES, _FREE = 7, 6  # six sides of surfaces, and free space
_BITS = 20  # of an index of a voxel: 260 km around the origin
_FAR = 1 << (_BITS - 1)


@dataclass(frozen=True)
class View:
    """What a frame sees."""

    voxel_k: np.ndarray  # (k,) int64, sorted: voxels, each with the side from which it is seen
    cell_c: np.ndarray  # (c,) int64, sorted: cells of the floor plan


class FloorPlan:
    """The plane seen from above, in square cells, for each storey."""

    def __init__(self, T_map_cam_n44: np.ndarray) -> None:
        """Find the vertical and the lowest storey of camera poses (n, 4, 4)."""
        self.rows_23, self.labels, self.description = view_from_above(T_map_cam_n44)
        self._up_3 = np.cross(*self.rows_23)
        self._lowest_m = float((T_map_cam_n44[:, :3, 3] @ self._up_3).min())

    def cells(self, points_k3: np.ndarray, position_3: np.ndarray) -> np.ndarray:
        """Return the cells (c,) under points that a camera at a position sees, map frame, m."""
        storey = int((position_3 @ self._up_3 - self._lowest_m) / _STOREY_M)
        columns_k2 = np.floor(points_k3 @ self.rows_23.T / VOXEL_M)
        storey_k1 = np.full((len(points_k3), 1), storey)
        return np.unique(_packed(np.concatenate([columns_k2, storey_k1], axis=1)))

    def corners(self, cell_c: np.ndarray) -> np.ndarray:
        """Return the lower left corners (c, 2) of cells in the view from above, m."""
        return VOXEL_M * _unpacked(cell_c)[:, :2]


def see(frame: Frame, depth_hw: np.ndarray | None, floor: FloorPlan) -> View:
    """Return the voxels and the floor cells that a frame sees.

    These are voxels of surfaces, and of the free space up to 2 m in front of the camera, which
    frames of one room have in common though they see different walls of it.

    A voxel of a surface counts once for each of six sides from which it is seen: the map axis that
    is nearest to the normal, with its sign. So two rooms have no voxel of the wall between them in
    common. A sample counts in the voxel half a voxel in front of its surface, because the floor on
    both sides of a wall may lie in one voxel.

    Without a depth image, the frame is supposed to see the free space alone. Walls are then not
    known, and the area is that near the cameras.

    Args:
        frame: With pose and camera.
        depth_hw: Its depth, m, 0: none; None: it has no depth image.
        floor: The plan whose cells are returned.
    """
    T_map_cam, camera = frame.known_pose(), frame.known_camera()
    rays_k3 = _sample_rays(camera)[0][0]
    if depth_hw is None:
        free_k3 = _free_space(rays_k3, np.full(len(rays_k3), _SUPPOSED_M))
        floor_k3, surfaces = free_k3, np.zeros(0, np.int64)
    else:
        floor_k3, normals_k3, depth_k = _measured(camera, depth_hw)
        free_k3 = _free_space(rays_k3, depth_k)
        distance_k1 = np.linalg.norm(floor_k3, axis=1, keepdims=True)
        before_k3 = floor_k3 * (1 - VOXEL_M / 2 / distance_k1.clip(VOXEL_M / 2))
        side_k = _side(normals_k3 @ T_map_cam[:3, :3].T)
        surfaces = _voxels(transform(T_map_cam, before_k3), side_k)
    voxels = np.union1d(surfaces, _voxels(transform(T_map_cam, free_k3), _FREE))
    return View(voxels, floor.cells(transform(T_map_cam, floor_k3), T_map_cam[:3, 3]))


def _free_space(rays_k3: np.ndarray, depth_k: np.ndarray) -> np.ndarray:
    """Return points (f, 3) in front of the surfaces that some rays meet, camera frame, m."""
    free_jk3 = np.array(_FREE_M)[:, None, None] * rays_k3[::_FREE_EVERY]
    return free_jk3[free_jk3[..., 2] < depth_k[::_FREE_EVERY] - VOXEL_M]


def _voxels(points_k3: np.ndarray, side: np.ndarray | int) -> np.ndarray:
    """Return the voxels (v,), sorted, of points in the map frame."""
    return np.unique(_packed(np.floor(points_k3 / VOXEL_M)) * _SIDES + side)


def _measured(camera: Camera, depth_hw: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return what the samples measure, camera frame, m.

    Returns:
        Points (k, 3) of those that have depth, their normals towards the camera, any length, and
        the depth of all samples, 0: none.
    """
    rays_3k3, pixels_3k2 = _sample_rays(camera)
    depth_3k = depth_at(depth_hw, pixels_3k2).reshape(3, -1).astype(float)
    depth_3k[~(depth_3k > _MIN_M)] = 0  # also NaN
    depth_k = depth_3k[0]
    valid_k = (depth_k > 0) & (depth_k < _MAX_M)
    depth_3k, rays_3k3 = depth_3k[:, valid_k], rays_3k3[:, valid_k]
    points_3k3 = depth_3k[..., None] * rays_3k3
    centre_k3, right_k3, below_k3 = points_3k3
    normals_k3 = np.cross(below_k3 - centre_k3, right_k3 - centre_k3)
    normals_k3[(depth_3k == 0).any(axis=0)] = 0
    away_k = np.einsum("ki,ki->k", normals_k3, centre_k3) >= 0  # or unknown
    normals_k3[away_k] = -centre_k3[away_k]
    return centre_k3, normals_k3, depth_k


@lru_cache(maxsize=64)
def _sample_rays(camera: Camera) -> tuple[np.ndarray, np.ndarray]:
    """Return the rays (3, k, 3), z = 1, of the samples, of their neighbours on the right and below.

    Returns:
        The rays, and their pixels (3, k, 2) in the image.
    """
    undistorted = canonical_camera(camera, _GRID * _CELL_PX, _CELL_PX)
    rays_k3 = undistorted.cell_rays(_CELL_PX).reshape(-1, 3)
    step = _CELL_PX / 2 / undistorted.fx
    rays_3k3 = rays_k3 + np.array([[[0, 0, 0]], [[step, 0, 0]], [[0, step, 0]]])
    return rays_3k3, camera.project(rays_3k3)


def _side(normals_k3: np.ndarray) -> np.ndarray:
    """Return the number (k,), 0 to 5, of the axis nearest to each normal, with its sign."""
    axis_k = np.abs(normals_k3).argmax(axis=1)
    return 2 * axis_k + (normals_k3[np.arange(len(axis_k)), axis_k] > 0)


def _packed(index_k3: np.ndarray) -> np.ndarray:
    """Return three signed indices as one (k,) int64."""
    x, y, z = (index_k3.clip(-_FAR, _FAR - 1) + _FAR).astype(np.int64).T
    return (x << 2 * _BITS) + (y << _BITS) + z


def _unpacked(packed_k: np.ndarray) -> np.ndarray:
    """Return the three indices (k, 3) of `_packed`."""
    mask = (1 << _BITS) - 1
    parts: Sequence[np.ndarray] = (packed_k >> 2 * _BITS, packed_k >> _BITS & mask, packed_k & mask)
    return np.stack(parts, axis=1) - _FAR
