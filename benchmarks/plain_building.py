"""A building of rooms along corridors: walls, a drive through all rooms, and depth without images.

Every corridor has rooms on both sides, each with a door. A cross corridor joins the corridors.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from mote_localization.camera import Camera
from mote_localization.geometry import rigid
from mote_localization.scenes.scene import Frame, Scene, Split

CAMERA = Camera(32, 24, 20.0, 20.0, 15.5, 11.5)
ROOM_M = (4.0, 5.0)  # along the corridor, and across
_CORRIDOR_M, _DOOR_M, _WALL_M, _HEIGHT_M = 2.0, 0.9, 0.1, 2.6
_CAMERA_M = 1.2  # height of the camera
_AHEAD_M = 0.6  # along the way, to where the camera looks

Rectangle = tuple[float, float, float, float]  # x0, y0, x1, y1


class Building:
    """Walls of a building, and a way through all its rooms."""

    def __init__(self, corridors: int, rooms: int, doors: bool = True) -> None:
        """Build it.

        Args:
            corridors: Number of corridors.
            rooms: On each side of each corridor.
            doors: Whether the rooms are open to the corridors.
        """
        self._walls: list[Rectangle] = []
        self.rooms: list[Rectangle] = []
        self.ways: list[np.ndarray] = []  # (k, 2) each: through the corridors, through each room
        width, depth = ROOM_M
        half, length = _CORRIDOR_M / 2, rooms * width
        pitch = 2 * depth + _CORRIDOR_M
        mains: list[tuple[float, float]] = []
        entrances: list[tuple[float, float]] = []
        for c in range(corridors):
            y = c * pitch
            mains += [(-half, y)]
            gaps_low, gaps_high = [], []
            for k in range(rooms):
                door = (k + 0.5) * width
                for side, gaps in ((-1, gaps_low), (1, gaps_high)):
                    near, far = y + side * half, y + side * (half + depth)
                    room = (k * width, min(near, far), (k + 1) * width, max(near, far))
                    opening = [(door - _DOOR_M / 2, door + _DOOR_M / 2)] if doors else []
                    self._add_box(room, {"low" if side > 0 else "high": opening})
                    self.rooms.append(room)
                    gaps += opening
                    at_door, inner = (door, near), (door, y + side * (half + 1))
                    loop = self._loop(room)
                    enter = [(door, y), at_door] if doors else []
                    self.ways.append(np.array([*enter, inner, *loop, inner, *enter[::-1]]))
            entrance = (y - half + _WALL_M / 2, y + half - _WALL_M / 2)
            entrances.append(entrance)
            openings = {"low": gaps_low, "high": gaps_high, "left": [entrance]}
            self._add_box((0, y - half, length, y + half), openings)
            mains += [(length - 1, y), (-half, y)]
        top = (corridors - 1) * pitch + half
        self._add_box((-_CORRIDOR_M, -half, 0, top), {"right": entrances})
        self.ways.insert(0, np.array(mains))

    def _add_box(self, box: Rectangle, openings: dict[str, Sequence[tuple[float, float]]]) -> None:
        """Add the inner faces of a room's walls, with openings in them."""
        x0, y0, x1, y1 = (v + s * _WALL_M / 2 for v, s in zip(box, (1, 1, -1, -1), strict=True))
        for side, along_x in (("low", True), ("high", True), ("left", False), ("right", False)):
            start, end = (x0, x1) if along_x else (y0, y1)
            at = {"low": y0, "high": y1, "left": x0, "right": x1}[side]
            for low, high in [*sorted(openings.get(side, [])), (end, end)]:
                if low > start:
                    self._walls.append((start, at, low, at) if along_x else (at, start, at, low))
                start = max(start, high)
            outside = at - _WALL_M if side in ("low", "left") else at + _WALL_M
            for edge in (v for opening in openings.get(side, []) for v in opening):
                jamb = (edge, at, edge, outside) if along_x else (at, edge, outside, edge)
                self._walls.append(jamb)

    def _loop(self, room: Rectangle) -> list[tuple[float, float]]:
        """Return a way around in a room, a metre from its walls, there and back."""
        x0, y0, x1, y1 = room[0] + 1, room[1] + 1, room[2] - 1, room[3] - 1
        corners = [(x0, y0), (x1, y0), (x1, y1), (x0, y1), (x0, y0)]
        return corners + corners[-2::-1]

    def drive(self, count: int, ways: Sequence[int] | None = None) -> np.ndarray:
        """Return camera poses T_map_cam (count, 4, 4), evenly along some of its ways (all)."""
        chosen = [self.ways[k] for k in (range(len(self.ways)) if ways is None else ways)]
        lengths = [float(np.linalg.norm(np.diff(way, axis=0), axis=1).sum()) for way in chosen]
        counts = np.diff(np.round(np.cumsum([0, *lengths]) / sum(lengths) * count).astype(int))
        return np.concatenate([_along(way, k) for way, k in zip(chosen, counts, strict=True)])

    def depth(self, T_map_cam: np.ndarray) -> np.ndarray:
        """Return the depth (24, 32), m, that `CAMERA` measures at a level pose (4, 4)."""
        ray_u = (np.arange(CAMERA.width) - CAMERA.cx) / CAMERA.fx
        towards_u2 = (ray_u[:, None] * T_map_cam[:3, 0] + T_map_cam[:3, 2])[:, :2]
        walls_s22 = np.array(self._walls).reshape(-1, 2, 2)
        start_s2, along_s2 = walls_s22[:, 0] - T_map_cam[:2, 3], walls_s22[:, 1] - walls_s22[:, 0]
        cross_us = towards_u2[:, :1] * along_s2[:, 1] - towards_u2[:, 1:] * along_s2[:, 0]
        start_cross_s = start_s2[:, 0] * along_s2[:, 1] - start_s2[:, 1] * along_s2[:, 0]
        on_us = start_s2[:, 0] * towards_u2[:, 1:] - start_s2[:, 1] * towards_u2[:, :1]
        with np.errstate(divide="ignore", invalid="ignore"):
            depth_us, fraction_us = start_cross_s / cross_us, on_us / cross_us
            hit_us = (depth_us > 0) & (fraction_us >= 0) & (fraction_us <= 1)
            wall_u = np.where(hit_us, depth_us, np.inf).min(axis=1)
            ray_v = (np.arange(CAMERA.height) - CAMERA.cy) / CAMERA.fy
            height_v = np.where(ray_v > 0, _CAMERA_M, _CAMERA_M - _HEIGHT_M)
            depth_vu = np.minimum(wall_u, (height_v / ray_v)[:, None])
        return np.where(np.isfinite(depth_vu), depth_vu, 0).astype(np.float32)

    def scene(self, poses_n44: np.ndarray, with_depth: bool = True) -> "PlanScene":
        """Return a scene of these poses, with black images."""
        depths = [self.depth(T) if with_depth else None for T in poses_n44]
        digits = len(str(len(depths)))
        return PlanScene(
            [
                PlanFrame(f"frame-{k:0{digits}d}", k / 10, CAMERA, T, depth)
                for k, (T, depth) in enumerate(zip(poses_n44, depths, strict=True))
            ]
        )


@dataclass(frozen=True)
class PlanFrame(Frame):
    """A frame in memory."""

    name: str
    stamp_s: float
    camera: Camera | None
    T_map_cam: np.ndarray | None
    depth_hw: np.ndarray | None
    colour_3: tuple[int, int, int] = (0, 0, 0)

    def image(self) -> np.ndarray:
        """Return an image of one colour; see `Frame.image`."""
        return np.full((CAMERA.height, CAMERA.width, 3), self.colour_3, np.uint8)

    def depth(self) -> np.ndarray | None:
        """Return depth_hw in metres, or None; see `Frame.depth`."""
        return self.depth_hw


class PlanScene(Scene):
    """Frames in memory, all for training."""

    name = "building"

    def __init__(self, frames: Sequence[PlanFrame]) -> None:
        self._frames = frames

    def frames(self, split: Split) -> Iterator[Frame]:
        """Iterate over the frames."""
        return iter(self._frames if split != "test" else ())

    def count(self, split: Split) -> int:
        """Return the number of frames of a split."""
        return len(self._frames) if split != "test" else 0


def _along(way_k2: np.ndarray, count: int) -> np.ndarray:
    """Return level poses (count, 4, 4) along a way, each looking ahead."""
    at_k = np.concatenate([[0], np.linalg.norm(np.diff(way_k2, axis=0), axis=1).cumsum()])
    at_n = np.linspace(0, at_k[-1] - _AHEAD_M - 1e-3, count)

    def position(at: np.ndarray) -> np.ndarray:
        return np.stack([np.interp(at, at_k, way_k2[:, i]) for i in (0, 1)], axis=1)

    here_n2 = position(at_n)
    ahead_n2 = position(at_n + _AHEAD_M) - here_n2
    turned = np.linalg.norm(ahead_n2, axis=1) < 1e-2  # at the end of a way that leads back
    ahead_n2[turned] = (1, 0)
    ahead_n2 /= np.linalg.norm(ahead_n2, axis=1, keepdims=True)
    poses = []
    for (x, y), (dx, dy) in zip(here_n2, ahead_n2, strict=True):
        R_33 = np.array([[dy, 0, dx], [-dx, 0, dy], [0, -1, 0]])
        poses.append(rigid(R_33, np.array([x, y, _CAMERA_M])))
    return np.array(poses).reshape(-1, 4, 4)
