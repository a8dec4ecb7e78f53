"""Camera poses in the demo room: training views, and the drive of a robot."""

from collections.abc import Iterable, Iterator
from functools import cache

import cv2
import numpy as np

from demo_room.days import RECORDED, Day
from demo_room.light import first_hit
from demo_room.model import SIZE_M, build
from demo_room.shapes import Block

CLEARANCE_M = 0.3  # least horizontal distance of a camera to furniture and walls
OPEN_VIEW_M = 0.8  # least median distance of the visible surfaces
START_S = 1_750_000_000.0  # stamp of the first frame of every drive
SPEED_M_S = 0.3
_START_M = 8.8  # m along the loop where drives begin: in front of the kitchen, towards the window

_CELL_M = 0.02  # cell of the clearance map
_CANDIDATES = 512  # training views that are checked at once
_BODY_M = (0.05, 1.75)  # heights in which objects are obstacles; the robot drives over rugs
_AHEAD_M = 1.8  # length of path ahead whose mean direction is the camera's heading
_LOOP = (  # control points (m) of the drive: around the low table, past kitchen, books and window
    (2.45, 2.15),
    (2.35, 1.45),
    (2.95, 1.2),
    (3.6, 1.65),
    (4.45, 2.05),
    (4.95, 2.75),
    (4.75, 3.6),
    (3.75, 3.55),
    (2.75, 3.4),
    (2.2, 3.85),
    (1.5, 4.1),
    (1.2, 3.55),
    (2.2, 3.15),
)


def pose(position_3: np.ndarray, yaw: float, pitch: float, roll: float) -> np.ndarray:
    """Return T_map_cam of a camera with a yaw (from x to y), a pitch (upward) and a roll, rad."""
    cos_yaw, sin_yaw, cos_pitch, sin_pitch = np.cos(yaw), np.sin(yaw), np.cos(pitch), np.sin(pitch)
    forward_3 = np.array([cos_yaw * cos_pitch, sin_yaw * cos_pitch, sin_pitch])
    level_3 = np.array([sin_yaw, -cos_yaw, 0.0])
    below_3 = np.cross(forward_3, level_3)
    T_map_cam = np.eye(4)
    T_map_cam[:3, 0] = np.cos(roll) * level_3 + np.sin(roll) * below_3
    T_map_cam[:3, 1] = np.cos(roll) * below_3 - np.sin(roll) * level_3
    T_map_cam[:3, 2] = forward_3
    T_map_cam[:3, 3] = position_3
    return T_map_cam


def poses_of(*values: np.ndarray) -> list[np.ndarray]:
    """Return T_map_cam of cameras from arrays (n,) of x, y, z (m), yaw, pitch and roll (rad)."""
    return [pose(row[:3], *row[3:]) for row in np.stack(values, axis=1)]


def footprints(blocks: Iterable[Block]) -> Iterator[np.ndarray]:
    """Yield the corners (4, 2) on the floor of the blocks that are obstacles, m."""
    for block in blocks:
        low, high = block.centre_3[2] + block.half_3[2] * np.array([-1.0, 1.0])
        if low > _BODY_M[1] or high < _BODY_M[0]:
            continue
        cos, sin = np.cos(block.yaw), np.sin(block.yaw)
        corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * block.half_3[:2]
        yield corners @ np.array([[cos, sin], [-sin, cos]]) + block.centre_3[:2]


@cache
def _clearance_map(day: Day) -> np.ndarray:
    """Return the distance (m) of each floor cell (rows y, columns x) to the nearest obstacle.

    Cells that a robot on the loop cannot get to have distance 0.
    """
    columns, rows = (round(side / _CELL_M) for side in SIZE_M[:2])
    free = np.ones((rows, columns), np.uint8)
    for corners_42 in footprints(build(day).blocks):
        cv2.fillConvexPoly(free, np.round(corners_42 / _CELL_M - 0.5).astype(np.int32), 0)
    distances = cv2.distanceTransform(free, cv2.DIST_L2, 5) * _CELL_M
    # free regions that are not connected with the loop
    _, regions = cv2.connectedComponents((distances >= CLEARANCE_M).astype(np.uint8))
    column, row = (np.array(_LOOP[0]) / _CELL_M).astype(int)
    distances[(distances >= CLEARANCE_M) & (regions != regions[row, column])] = 0.0
    return distances


def clearance(positions_n2: np.ndarray, day: Day = RECORDED) -> np.ndarray:
    """Return the distance (n,), m, of floor positions to the nearest obstacle; 0 if unreachable."""
    distances = _clearance_map(day)
    cells = np.floor(np.asarray(positions_n2)[:, :2] / _CELL_M).astype(int)
    inside = np.all((cells >= 0) & (cells < distances.shape[::-1]), axis=1)
    column, row = np.where(inside[:, None], cells, 0).T
    return np.where(inside, distances[row, column], 0.0)


def open_views(poses_n44: np.ndarray) -> np.ndarray:
    """Return which cameras (n,) are not close to most of the surfaces that they see."""
    x, y = (grid.ravel() for grid in np.meshgrid(np.linspace(-0.55, 0.55, 6), (-0.35, 0.0, 0.35)))
    rays_k3 = np.stack([x, y, np.ones_like(x)], axis=1)
    rays_nk3 = rays_k3 @ poses_n44[:, :3, :3].transpose(0, 2, 1)
    origins_nk3 = np.broadcast_to(poses_n44[:, None, :3, 3], rays_nk3.shape)
    rays, origins = (a.reshape(-1, 3).astype(np.float32) for a in (rays_nk3, origins_nk3))
    depths_nk = first_hit(build().blocks, origins, rays).reshape(len(poses_n44), -1)
    return np.median(depths_nk, axis=1) >= OPEN_VIEW_M


def training_views(count: int, seed: int = 0) -> list[np.ndarray]:
    """Return camera poses (T_map_cam), spread evenly over the free floor, headings and heights.

    Position, heading, height, pitch and roll follow one additive-recurrence sequence, which covers
    the six-dimensional space more evenly than random numbers (Roberts 2018, "R-sequence").
    """
    start_6 = np.random.default_rng(seed).random(6)
    root = 2.0
    for _ in range(60):
        # x^7 = x + 1: generalized golden ratio for six dimensions
        root = (1.0 + root) ** (1.0 / 7.0)
    step_6 = root ** -np.arange(1.0, 7.0)
    poses: list[np.ndarray] = []
    index = 1
    while len(poses) < count:
        candidates_n6 = (start_6 + np.arange(index, index + _CANDIDATES)[:, None] * step_6) % 1.0
        index += _CANDIDATES
        candidates_n6[:, :2] *= SIZE_M[:2]
        candidates_n6 = candidates_n6[clearance(candidates_n6) >= CLEARANCE_M]
        x, y, heading, height, pitch, roll = candidates_n6.T
        z = np.interp(height, (0.0, 0.2, 0.8, 1.0), (0.5, 0.95, 1.2, 1.6))
        yaw = 2.0 * np.pi * heading
        pitch = np.radians(np.interp(pitch, (0.0, 1.0), (-15.0, 10.0)))
        roll = np.radians(np.interp(roll, (0.0, 0.2, 0.8, 1.0), (-6.0, -2.0, 2.0, 6.0)))
        views_n44 = np.array(poses_of(x, y, z, yaw, pitch, roll))
        poses.extend(views_n44[open_views(views_n44)])
    return poses[:count]


def _closed_curve(points_n2: np.ndarray, samples: int) -> np.ndarray:
    """Return equally spaced points (samples, 2) of the closed cubic B-spline of control points."""
    place = np.arange(5000) * len(points_n2) / 5000
    knot = place.astype(int)
    t = (place - knot)[:, None]
    weights = (
        (1.0 - t) ** 3,
        3.0 * t**3 - 6.0 * t**2 + 4.0,
        -3.0 * t**3 + 3.0 * t**2 + 3.0 * t + 1.0,
        t**3,
    )
    curve = np.zeros((5000, 2))
    for k, weight in enumerate(weights):
        curve += weight * points_n2[(knot + k - 1) % len(points_n2)] / 6.0
    curve = np.vstack([curve, curve[:1]])
    travelled = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(curve, axis=0), axis=1))])
    wanted = np.arange(samples) * travelled[-1] / samples
    return np.stack([np.interp(wanted, travelled, curve[:, k]) for k in (0, 1)], axis=1)


def _loop(rng: np.random.Generator) -> np.ndarray:
    """Return a closed path (2000, 2) near the planned one that keeps the clearance."""
    for _ in range(200):
        path_n2 = _closed_curve(np.array(_LOOP) + rng.normal(0.0, 0.04, (len(_LOOP), 2)), 2000)
        if clearance(path_n2).min() >= CLEARANCE_M:
            return path_n2
    raise AssertionError("the planned loop runs into the furniture")


def drive(
    seconds: float = 12.0, rate_hz: float = 30.0, seed: int = 0
) -> tuple[list[float], list[np.ndarray]]:
    """Return stamps (s) and camera poses (T_map_cam) of a robot's drive around the room.

    The camera is about 1 m above the floor, sways a little, and points ahead while it pans slowly.
    """
    rng = np.random.default_rng(seed)
    path_n2 = _loop(rng)
    spacing_m = float(np.linalg.norm(path_n2[1] - path_n2[0]))
    window = round(_AHEAD_M / spacing_m)
    # The mean direction of the path ahead changes more slowly than the path's own direction.
    steps_n2 = np.roll(path_n2, -1, axis=0) - path_n2
    shifts = range(-window // 4, window)
    ahead_n2 = np.sum([np.roll(steps_n2, -shift, axis=0) for shift in shifts], axis=0)
    headings = np.unwrap(np.arctan2(ahead_n2[:, 1], ahead_n2[:, 0]))
    lap_angle = 2.0 * np.pi * np.round((headings[-1] - headings[0]) / (2.0 * np.pi))
    headings = np.append(headings, headings[0] + lap_angle)
    closed_n2 = np.vstack([path_n2, path_n2[:1]])

    t = np.arange(round(seconds * rate_hz)) / rate_hz
    phases = rng.uniform(0.0, 2.0 * np.pi, 6)

    def sway(amplitude: float, period_s: float, index: int) -> np.ndarray:
        return amplitude * np.sin(2.0 * np.pi * t / period_s + phases[index])

    length_m = spacing_m * len(path_n2)
    begin = _START_M + rng.uniform(-0.2, 0.2)
    travelled = begin + SPEED_M_S * t + sway(0.1, 7.0, 0)
    lap, along = np.divmod(travelled, length_m)
    place = along / spacing_m
    x, y = (np.interp(place, np.arange(len(closed_n2)), closed_n2[:, k]) for k in (0, 1))
    yaw = np.interp(place, np.arange(len(headings)), headings) + lap * lap_angle
    yaw += np.radians(sway(8.0, 9.0, 1))
    z = 1.0 + sway(0.012, 1.9, 2) + sway(0.02, 5.3, 3)
    pitch, roll = np.radians(-3.0 + sway(1.5, 3.7, 4)), np.radians(sway(0.9, 2.3, 5))
    return [START_S + float(moment) for moment in t], poses_of(x, y, z, yaw, pitch, roll)
