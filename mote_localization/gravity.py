"""The direction up in a map, from its cameras or its floor."""

import numpy as np

from mote_localization.errors import MoteError
from mote_localization.geometry import depth_in_camera, exp_rotation
from mote_localization.level_rotation import level_rotation
from mote_localization.map_info import MapInfo
from mote_localization.map_transform import camera_poses

_TRIALS = 2000  # planes through three points
_MAX_TILT_DEG = 20.0  # between the floor's normal and the cameras' direction up
_FLOOR_TOLERANCE = 0.01  # of the median depth: points this near the plane are on it
_MIN_FLOOR = 0.05  # fraction of all points
_BELOW = 0.02  # fraction of the points that may lie below the floor: noise
_REFINEMENTS = 10
_KEPT_SPREADS = 3.0  # median distances from the plane at which a point is on it
_MAX_POINTS = 20_000


def up_of_cameras(info: MapInfo) -> np.ndarray:
    """Return the unit vector (3,) up, map frame: cameras are held without roll.

    Raises:
        MoteError: The map stores no camera poses.
    """
    poses = camera_poses(info)
    if not poses:
        raise MoteError(
            "the map stores no camera poses, so its direction up is unknown: make it with "
            "--keyframes 20 or more, or use --anchor"
        )
    return level_rotation(poses)[2]


def up_of_floor(info: MapInfo) -> np.ndarray:
    """Return the unit normal (3,) of the floor, map frame.

    The floor is the plane with the most points of the keyframes that has almost no points below it.

    Raises:
        MoteError: The map has no keyframes, or no floor is seen in them.
    """
    if not info.keyframes:
        raise MoteError(
            "the map has no keyframes, in which a floor could be seen; make it with some"
        )
    hint = up_of_cameras(info)
    points_n3, median_depth = _points(info)
    rng = np.random.default_rng(0)
    height_n = points_n3 @ hint
    low_n3 = points_n3[height_n < np.median(height_n)]
    best, best_count = None, 0
    tolerance = _FLOOR_TOLERANCE * median_depth
    for corners in low_n3[rng.integers(0, len(low_n3), (_TRIALS, 3))]:
        normal = np.cross(corners[1] - corners[0], corners[2] - corners[0])
        length = np.linalg.norm(normal)
        if length < 1e-9:
            continue
        normal *= np.sign(normal @ hint) / length
        if normal @ hint < np.cos(np.radians(_MAX_TILT_DEG)):
            continue
        distance_n = (points_n3 - corners[0]) @ normal
        count = int((np.abs(distance_n) < tolerance).sum())
        if count > best_count and (distance_n < -2 * tolerance).mean() < _BELOW:
            best, best_count = (normal, corners[0]), count
    if best is None or best_count < _MIN_FLOOR * len(points_n3):
        raise MoteError("no floor is seen in the map's keyframes; use --level cameras or --anchor")
    normal, origin = best
    for _ in range(_REFINEMENTS):
        distance_n = np.abs((points_n3 - origin) @ normal)
        # Fewer and fewer points of walls, just above the floor, are within the tolerance.
        spread = float(np.median(distance_n[distance_n < tolerance]))
        tolerance = max(min(tolerance, _KEPT_SPREADS * spread), 1e-6 * median_depth)
        on_floor = points_n3[distance_n <= tolerance]
        origin = on_floor.mean(axis=0)
        normal = np.linalg.svd(on_floor - origin, full_matrices=False)[2][2]
        normal *= np.sign(normal @ hint)
    return normal


def rotation_to_z(up_3: np.ndarray) -> np.ndarray:
    """Return the smallest rotation (3, 3) that maps a unit vector to z: it changes no heading."""
    axis = np.cross(up_3, (0.0, 0.0, 1.0))
    sine, cosine = float(np.linalg.norm(axis)), float(up_3[2])
    if sine < 1e-9:
        return np.eye(3) if cosine > 0 else np.diag([1.0, -1.0, -1.0])
    return exp_rotation(axis / sine * np.arctan2(sine, cosine))


def _points(info: MapInfo) -> tuple[np.ndarray, float]:
    """Return points (n, 3) of the keyframes, map frame, and their median depth."""
    rays_n3 = info.camera.cell_rays(info.stride).reshape(-1, 3)
    points, depths = [], []
    for keyframe in info.keyframes:
        cells_n3 = keyframe.cell_points(rays_n3)
        known_n3 = cells_n3[np.isfinite(cells_n3[:, 0])]
        points.append(known_n3)
        depths.append(depth_in_camera(known_n3, keyframe.pose_44))
    points_n3, depth_n = np.concatenate(points), np.concatenate(depths)
    if not len(points_n3):
        raise MoteError("the map's keyframes have no depth; use --level cameras or --anchor")
    step = max(1, len(points_n3) // _MAX_POINTS)
    return points_n3[::step], float(np.median(depth_n))
