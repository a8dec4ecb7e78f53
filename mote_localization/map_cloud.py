"""The points of a map's keyframes: as a cloud, and as an occupancy grid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

from mote_localization.errors import MapFileError
from mote_localization.map_info import MapInfo

FREE, OCCUPIED, UNKNOWN = 0, 100, -1  # of nav_msgs/OccupancyGrid
_MIN_POINTS = 2  # in a cell of the grid; a single point may be an error of the depth
_FLOOR_QUANTILE = 0.02  # of the heights of all points: some errors of the depth are below the floor
_MAX_CELLS = 16_000_000  # of a grid
_MIN_UP = 0.98  # cosine of the angle between z and the direction up


class MapCloud(NamedTuple):
    """Points in the map frame and their brightness."""

    points_n3: np.ndarray  # m
    grey_n: np.ndarray  # uint8


class Grid(NamedTuple):
    """An occupancy grid, row 0 at the smallest y."""

    cells_hw: np.ndarray  # int8: FREE, OCCUPIED or UNKNOWN
    origin_2: np.ndarray  # x y of the corner of cell (0, 0), m, map frame
    resolution_m: float
    floor_m: float  # z of the floor, map frame


def map_cloud(info: MapInfo, most_points: int) -> MapCloud:
    """Return the points of all keyframes that are within the mapped volume.

    Args:
        info: A map with keyframes.
        most_points: Largest number of points; an even sample is returned of more.

    Raises:
        MapFileError: The map has no keyframes, or they have no depth.
    """
    cloud = _within_bounds(info, _clouds(info))
    count = len(cloud.points_n3)
    chosen = np.linspace(0, count - 1, min(most_points, count)).astype(int)
    return MapCloud(cloud.points_n3[chosen], cloud.grey_n[chosen])


def place_cloud(infos: Sequence[MapInfo], most_points: int) -> MapCloud:
    """Return the points of several maps of one frame, see `map_cloud`; as many of each."""
    clouds = [map_cloud(info, most_points // len(infos)) for info in infos]
    points, greys = zip(*clouds, strict=True)
    return MapCloud(np.concatenate(points), np.concatenate(greys))


def occupancy_grid(
    info: MapInfo, resolution_m: float, low_m: float, high_m: float, up_3: np.ndarray
) -> Grid:
    """Return which cells of the floor plan are occupied between two heights above the floor.

    A cell is occupied if points of the keyframes are in it. It is free if rays to such points, or
    to the floor, cross it between the heights. The floor is at the lowest points.

    Args:
        info: A map with keyframes, z up.
        resolution_m: Side of a cell, m.
        low_m: Least height above the floor, m.
        high_m: Largest height above the floor, m.
        up_3: Unit vector up, map frame.

    Raises:
        MapFileError: z is not up, the heights are not in order, or the grid would be too large.
    """
    if up_3[2] < _MIN_UP:
        raise MapFileError(
            f"z is not up in the map (up is {np.round(up_3, 2).tolist()}); level it first: "
            "mote transform MAP --level floor -o LEVEL.onnx"
        )
    if not (0 < resolution_m < np.inf and low_m < high_m):
        raise MapFileError(
            f"found a resolution of {resolution_m:g} and heights from {low_m:g} to {high_m:g}, "
            "expected a resolution above 0 and a smaller height first"
        )
    clouds = _clouds(info)
    cloud = _within_bounds(info, clouds)
    floor_m = float(np.quantile(cloud.points_n3[:, 2], _FLOOR_QUANTILE))
    low_2 = np.floor(np.array(info.bounds_min[:2]) / resolution_m) * resolution_m
    columns, rows = np.ceil((np.array(info.bounds_max[:2]) - low_2) / resolution_m).astype(int)
    if columns * rows > _MAX_CELLS:
        raise MapFileError(
            f"the grid would have {columns} x {rows} cells, expected at most {_MAX_CELLS}: raise "
            "--resolution"
        )

    def cells_of(points_n3: np.ndarray) -> np.ndarray:
        """Return the flat indices of the cells of those points that are between the heights."""
        height_n = points_n3[:, 2] - floor_m
        column_n, row_n = np.floor((points_n3[:, :2] - low_2) / resolution_m).astype(int).T
        inside_n = (height_n >= low_m) & (height_n <= high_m)
        inside_n &= (column_n >= 0) & (column_n < columns) & (row_n >= 0) & (row_n < rows)
        return row_n[inside_n] * columns + column_n[inside_n]

    free_n = np.zeros(rows * columns, bool)
    for keyframe, seen in zip(info.keyframes, clouds, strict=True):
        camera_3 = keyframe.pose_44[:3, 3]
        ray_n3 = seen.points_n3 - camera_3
        if not len(ray_n3):
            continue
        length = float(np.linalg.norm(ray_n3, axis=1).max())
        steps = max(2, int(np.ceil(2 * length / resolution_m)))
        for ratio in np.linspace(0, 1, steps, endpoint=False):
            free_n[cells_of(camera_3 + ratio * ray_n3)] = True
    count_n = np.bincount(cells_of(cloud.points_n3), minlength=rows * columns)
    cells_n = np.where(free_n, FREE, UNKNOWN).astype(np.int8)
    cells_n[count_n >= _MIN_POINTS] = OCCUPIED
    return Grid(cells_n.reshape(rows, columns), low_2, resolution_m, floor_m)


def _clouds(info: MapInfo) -> list[MapCloud]:
    """Return the points of each keyframe, one for each cell with a known depth."""
    if not info.keyframes:
        raise MapFileError("the map has no keyframes, which hold its points; make it with some")
    rows, columns = info.cells_hw
    rays_n3 = info.camera.cell_rays(info.stride).reshape(-1, 3)
    clouds = []
    for keyframe in info.keyframes:
        points_n3 = keyframe.cell_points(rays_n3)
        known_n = np.isfinite(points_n3[:, 0])
        grey_hw = cv2.resize(keyframe.grey_hw(), (columns, rows), interpolation=cv2.INTER_AREA)
        clouds.append(MapCloud(points_n3[known_n], grey_hw.reshape(-1)[known_n]))
    return clouds


def _within_bounds(info: MapInfo, clouds: list[MapCloud]) -> MapCloud:
    """Return the points of all clouds that are within the mapped volume, one at least."""
    points_n3 = np.concatenate([cloud.points_n3 for cloud in clouds])
    grey_n = np.concatenate([cloud.grey_n for cloud in clouds])
    inside_n = (points_n3 >= info.bounds_min).all(axis=1)
    inside_n &= (points_n3 <= info.bounds_max).all(axis=1)
    if not inside_n.any():
        raise MapFileError("the keyframes of the map have no points within its bounds")
    return MapCloud(points_n3[inside_n], grey_n[inside_n])
