"""Drives of a robot through all rooms of the building: a tour of waypoints, joined and smoothed."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
from scipy.ndimage import gaussian_filter1d
from scipy.sparse import csr_array
from scipy.sparse.csgraph import dijkstra

from demo_room.building.floor_plan import FloorPlan
from demo_room.building.interiors import interior
from demo_room.views import CLEARANCE_M, START_S, footprints, poses_of

SPEED_M_S = 0.5
TURN_RAD_S = np.radians(60.0)  # largest rate of rotation of a path
_CELL_M = 0.02  # cell of the clearance map
_STEP = 5  # cells of the clearance map per cell of the routes
_PLANNED_M = 0.36  # least clearance of planned routes
_WIDE_M = 0.45  # clearance of waypoints, and that smoothing aims at
_SPACING_M = 0.05  # between points of a path
_AHEAD_M, _BEHIND_M = 1.2, 0.3  # stretch of the path whose direction is the camera's heading


@dataclass(frozen=True)
class FreeFloor:
    """The distance of each place on the floor of a building to the nearest obstacle."""

    plan: FloorPlan

    @cached_property
    def _corner_2(self) -> np.ndarray:
        return self.plan.bounds_4[:2] - _CELL_M

    @cached_property
    def distances_m(self) -> np.ndarray:
        """Distances of the cells (rows y, columns x), m."""
        columns, rows = np.ceil((self.plan.bounds_4[2:] - self._corner_2) / _CELL_M).astype(int)
        free = np.zeros((rows + 1, columns + 1), np.uint8)
        for space in self.plan.spaces:
            for x0, y0, x1, y1 in self._cells(space.floors_n4.reshape(-1, 2)).reshape(-1, 4):
                free[y0:y1, x0:x1] = 1
        for space in self.plan.spaces:
            for corners_42 in footprints(interior(space.look).obstacles):
                T_map_space = space.T_map_space
                corners_42 = corners_42 @ T_map_space[:2, :2].T + T_map_space[:2, 3]
                cv2.fillConvexPoly(free, self._cells(corners_42 - _CELL_M / 2).astype(np.int32), 0)
        return cv2.distanceTransform(free, cv2.DIST_L2, 5) * np.float32(_CELL_M)

    def _cells(self, points_n2: np.ndarray) -> np.ndarray:
        return np.round((points_n2 - self._corner_2) / _CELL_M).astype(int)

    def clearance(self, points_n2: np.ndarray) -> np.ndarray:
        """Return the distance (n,), m, of floor positions to the nearest obstacle."""
        return self._at(self.distances_m, points_n2)

    def _at(self, values: np.ndarray, points_n2: np.ndarray) -> np.ndarray:
        """Return the values (n, ...) of an image of the floor at positions."""
        cells = (np.asarray(points_n2)[:, :2] - self._corner_2) / _CELL_M - 0.5
        x, y = cells.astype(np.float32).T[:, :, None]
        return cv2.remap(values, x, y, cv2.INTER_LINEAR)[:, 0]

    @cached_property
    def _slopes(self) -> np.ndarray:
        """Image of the clearance and its slopes along x and y."""
        rows, columns = np.gradient(cv2.GaussianBlur(self.distances_m, (0, 0), 3.0), _CELL_M)
        return np.dstack([self.distances_m, columns, rows]).astype(np.float32)

    @cached_property
    def _nodes(self) -> tuple[np.ndarray, np.ndarray]:
        """Centres (n, 2) of the cells of routes, m, and their clearance."""
        coarse = self.distances_m[_STEP // 2 :: _STEP, _STEP // 2 :: _STEP]
        rows, columns = np.mgrid[: coarse.shape[0], : coarse.shape[1]]
        cells = np.stack([columns.ravel(), rows.ravel()], 1) * _STEP + _STEP // 2
        return self._corner_2 + (cells + 0.5) * _CELL_M, coarse.ravel()

    @cached_property
    def _graph(self) -> csr_array:
        """Costs of the steps between neighbouring cells; those near obstacles cost more."""
        clear_n = self._nodes[1]
        width = len(self.distances_m[0, _STEP // 2 :: _STEP])
        index = np.arange(len(clear_n)).reshape(-1, width)
        pairs = [
            (index[:, :-1], index[:, 1:], 1.0),
            (index[:-1], index[1:], 1.0),
            (index[:-1, :-1], index[1:, 1:], np.sqrt(2.0)),
            (index[:-1, 1:], index[1:, :-1], np.sqrt(2.0)),
        ]
        start, end, cost = [], [], []
        for a, b, length in pairs:
            a, b = a.ravel(), b.ravel()
            clear = np.minimum(clear_n[a], clear_n[b])
            usable = clear >= _PLANNED_M
            start.append(a[usable])
            end.append(b[usable])
            narrow = np.maximum(0.0, 0.9 - clear[usable])
            cost.append(length * _STEP * _CELL_M * (1.0 + 3.0 * narrow))
        return csr_array(
            (np.concatenate(cost), (np.concatenate(start), np.concatenate(end))),
            shape=(len(clear_n),) * 2,
        )

    def waypoints(self, space: int) -> np.ndarray:
        """Return places (n, 2) in a space with much clearance; the widest one if there are none."""
        points_n2, clear_n = self._nodes
        x0, y0, x1, y1 = self.plan.spaces[space].floors_n4[0]
        x, y = points_n2.T
        inside = (x > x0) & (x < x1) & (y > y0) & (y < y1)
        wide = inside & (clear_n >= _WIDE_M)
        if not wide.any():
            wide = inside & (clear_n >= max(clear_n[inside].max(), _PLANNED_M))
        return points_n2[wide]

    def route(self, waypoints_n2: np.ndarray) -> np.ndarray:
        """Return a smooth path (m, 2) along waypoints, with points every 5 cm.

        Raises:
            ValueError: A waypoint cannot be reached, or the path has too little clearance.
        """
        points_n2 = self._nodes[0]
        nodes = [int(np.argmin(((points_n2 - p) ** 2).sum(axis=1))) for p in waypoints_n2]
        path = [nodes[0]]
        for start, end in zip(nodes, nodes[1:], strict=False):
            near_m = 4.0 + 2.0 * float(np.linalg.norm(points_n2[start] - points_n2[end]))
            for limit in (near_m, np.inf):
                _, before = dijkstra(
                    self._graph, False, start, return_predecessors=True, limit=limit
                )
                if before[end] >= 0:
                    break
            if start != end and before[end] < 0:
                raise ValueError(f"no route from {points_n2[start]} to {points_n2[end]}")
            back = [end]
            while back[-1] != start:
                back.append(int(before[back[-1]]))
            path += back[-2::-1]
        path_n2 = _resampled(points_n2[path])
        for _ in range(200):
            inner = path_n2[1:-1]
            inner += 0.25 * (path_n2[:-2] + path_n2[2:] - 2.0 * inner)
            clear_n3 = self._at(self._slopes, inner)
            inner += 0.3 * np.maximum(0.0, _WIDE_M - clear_n3[:, :1]) * clear_n3[:, 1:]
        path_n2 = _resampled(path_n2)
        least = self.clearance(path_n2).min()
        if least < CLEARANCE_M:
            raise ValueError(f"a path has a clearance of {least:.2f} m")
        return path_n2


def _resampled(path_n2: np.ndarray) -> np.ndarray:
    """Return points (n, 2) at equal spacing along a polyline."""
    steps = np.linalg.norm(np.diff(path_n2, axis=0), axis=1)
    path_n2 = path_n2[np.r_[True, steps > 1e-9]]
    along = np.r_[0.0, np.cumsum(steps[steps > 1e-9])]
    wanted = np.linspace(0.0, along[-1], max(2, round(along[-1] / _SPACING_M)))
    return np.stack([np.interp(wanted, along, path_n2[:, k]) for k in (0, 1)], axis=1)


def tour_along_corridors(plan: FloorPlan) -> list[int]:
    """Return all rooms and corridor ends: along the first corridor to the east, then back."""
    corridors = sorted({space.y for space in plan.spaces if not space.look.pieces})

    def key(index: int) -> tuple[int, float]:
        space, portal = plan.spaces[index], plan.portals[index][0]
        place = portal.edges_33[:, 2]
        nearest = min(range(len(corridors)), key=lambda k: abs(corridors[k] + 1.0 - place[1]))
        x = space.floors_n4[0, [0, 2]].mean() if not space.look.pieces else place[0]
        return nearest, float(-x if nearest % 2 else x)

    return sorted(_stops(plan), key=key)


def tour_by_rows(plan: FloorPlan) -> list[int]:
    """Return all rooms and corridor ends, row by row from the south, to and fro."""
    rows = sorted({space.y for space in plan.spaces})

    def key(index: int) -> tuple[int, float]:
        row = rows.index(plan.spaces[index].y)
        x = float(plan.spaces[index].floors_n4[0, 0])
        return row, -x if row % 4 else x

    return sorted(_stops(plan), key=key)


def _stops(plan: FloorPlan) -> list[int]:
    return [
        index
        for index, space in enumerate(plan.spaces)
        if space.look.pieces or len(space.look.openings) == 1
    ]


def waypoints_of(
    floor: FreeFloor, tour: Sequence[int], rng: np.random.Generator, left: bool
) -> np.ndarray:
    """Return the waypoints (n, 2) of a tour: around each room, to the left or to the right."""
    chosen: list[np.ndarray] = []
    for index in tour:
        places_n2 = floor.waypoints(index)
        portals = floor.plan.portals[index]
        if not floor.plan.spaces[index].look.pieces:
            chosen.append(places_n2[int(rng.integers(len(places_n2)))])
            continue
        doors_n2 = np.array([p.edges_33[:2, 2] + p.edges_33[:2, 0] / 2.0 for p in portals])
        last_2 = chosen[-1] if chosen else doors_n2[0]
        door_2 = doors_n2[np.argmin(np.linalg.norm(doors_n2 - last_2, axis=1))]
        centre_2 = floor.plan.spaces[index].floors_n4[0].reshape(2, 2).mean(axis=0)

        def angle(points_n2: np.ndarray, centre_2: np.ndarray = centre_2) -> np.ndarray:
            return np.arctan2(*(points_n2 - centre_2).T[::-1])

        around = (angle(places_n2) - angle(door_2[None])) % (2.0 * np.pi)
        quarters = (around // (np.pi / 2.0)).astype(int)
        for quarter in range(4) if left else range(3, -1, -1):
            of_quarter_n2 = places_n2[quarters == quarter]
            if len(of_quarter_n2):
                some_n2 = rng.choice(of_quarter_n2, 3)
                away_n = np.linalg.norm(some_n2 - centre_2, axis=1)
                chosen.append(some_n2[np.argmax(away_n)])
    return np.array(chosen)


def drive_along(
    path_n2: np.ndarray, frames: int, rng: np.random.Generator
) -> tuple[list[float], list[np.ndarray]]:
    """Return stamps (s) and camera poses (T_map_cam) of a drive along a path.

    The camera is about 1 m above the floor, sways a little, and points ahead while it pans slowly.
    The robot is slower where it turns.
    """
    count = len(path_n2)
    indices = np.arange(count)
    ahead_n2 = path_n2[np.minimum(indices + round(_AHEAD_M / _SPACING_M), count - 1)]
    behind_n2 = path_n2[np.maximum(indices - round(_BEHIND_M / _SPACING_M), 0)]
    headings = np.unwrap(np.arctan2(*(ahead_n2 - behind_n2).T[::-1]))
    headings = gaussian_filter1d(headings, 0.25 / _SPACING_M, mode="nearest")
    steps_m = np.linalg.norm(np.diff(path_n2, axis=0), axis=1)
    seconds = np.hypot(steps_m / SPEED_M_S, np.diff(headings) / TURN_RAD_S)
    times_s = np.r_[0.0, np.cumsum(gaussian_filter1d(seconds, 6.0, mode="nearest"))]
    t = np.linspace(0.0, times_s[-1], frames)
    x, y, yaw = (np.interp(t, times_s, column) for column in (*path_n2.T, headings))
    phases = rng.uniform(0.0, 2.0 * np.pi, 6)

    def sway(amplitude: float, period_s: float, index: int) -> np.ndarray:
        return amplitude * np.sin(2.0 * np.pi * t / period_s + phases[index])

    yaw = yaw + np.radians(sway(10.0, 11.0, 0) + sway(8.0, 29.0, 1))
    z = 1.0 + sway(0.012, 1.9, 2) + sway(0.02, 5.3, 3)
    pitch, roll = np.radians(-3.0 + sway(1.5, 3.7, 4)), np.radians(sway(0.9, 2.3, 5))
    return [START_S + float(moment) for moment in t], poses_of(x, y, z, yaw, pitch, roll)


def training_drive(
    floor: FreeFloor, index: int, frames: int, seed: int = 0
) -> tuple[list[float], list[np.ndarray]]:
    """Return stamps and poses of a training drive: every second one is in the other direction."""
    rng = np.random.default_rng((seed, 1, index))
    tour = tour_along_corridors(floor.plan)
    return _drive(floor, tour[::-1] if index % 2 else tour, frames, rng, bool(index // 2 % 2))


def test_drive(
    floor: FreeFloor, index: int, frames: int, seed: int = 0
) -> tuple[list[float], list[np.ndarray]]:
    """Return stamps and poses of a test drive, which visits the rooms in another order."""
    rng = np.random.default_rng((seed, 2, index))
    tour = tour_by_rows(floor.plan)
    return _drive(floor, tour if index % 2 else tour[::-1], frames, rng, not index % 2)


def _drive(
    floor: FreeFloor, tour: Sequence[int], frames: int, rng: np.random.Generator, left: bool
) -> tuple[list[float], list[np.ndarray]]:
    return drive_along(floor.route(waypoints_of(floor, tour, rng, left)), frames, rng)
