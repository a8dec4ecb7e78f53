"""Floor plans of the building: rooms and corridor sections, and the openings between them.

North is up, x east, y north, in metres. Corridors have a *section* every 5 m. A room or section is
a `Space`: a `Look`, which is built and lit once in its own axes, at a place in the building. Spaces
with one look show the same images. Corridor A has sections of one look, corridor B different ones.

          x  -1  0         5         10        15        20 21
      20.5   +-------+---------------+-----------+-----------+
             | study |   workshop    |  twin 4   |  canteen  |
      15     +-- ----+------ --------+-------- --+--- -------+
             |                corridor B                     |
      12.5   +-- --------+-------------+-------+-------- ----+
             |  lounge   |   library   | store |   office    |
       7.5   +-------- --+------- -----+-- ----+------ ------+
             |                corridor A                     |
       5     +--+- -------+- -------+- -------+- ------------+
             .  | twin 1  | twin 2  | twin 3  |   meeting    |
       0     .  +---------+---------+---------+--------------+
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

NORTH, EAST, SOUTH, WEST = range(4)
HEIGHT_M = 2.7
WALL_M = 0.25  # thickness of walls
DOOR_M = (1.0, 2.1)  # width and height of doorways
SECTION_M = (5.0, 2.0)  # length and width of a corridor's section
END_M = 1.0  # length of the sections at both ends of a corridor


@dataclass(frozen=True)
class Opening:
    """A rectangle in a side of a space, through which one sees and drives."""

    side: int  # NORTH, EAST, SOUTH or WEST
    centre: float  # m from the left end of that side, seen from inside
    width: float = DOOR_M[0]  # m
    height: float = DOOR_M[1]  # m
    depth: float = 0.0  # m from the side to the opening: the wall, where it belongs to this space


@dataclass(frozen=True)
class Look:
    """What a room or a section of a corridor looks like."""

    name: str
    size: tuple[float, float]  # m along its x and y
    openings: tuple[Opening, ...]
    pieces: tuple[str, ...] = ()  # furniture along the walls of a room, and in its middle
    windows: tuple[int, ...] = ()  # sides of a room that have windows
    seed: int = 0  # of colours, pictures and textures


@dataclass(frozen=True)
class Space:
    """A room or a section of a corridor, at its place in the building."""

    name: str
    look: Look
    x: float  # m, south-west corner of its floor
    y: float
    turned: bool = False  # by 180 degrees

    @cached_property
    def T_map_space(self) -> np.ndarray:
        """Pose of the space's axes in the building; its rotation has no rounding errors."""
        T_map_space = np.eye(4)
        T_map_space[:2, 3] = self.x, self.y
        if self.turned:
            T_map_space[:2, :2] *= -1.0
            T_map_space[:2, 3] += self.look.size
        return T_map_space

    def in_space(self, T_map_cam: np.ndarray) -> np.ndarray:
        """Return the camera's pose in the axes of the space."""
        T_space_cam = T_map_cam.copy()
        R_33 = self.T_map_space[:3, :3].T
        T_space_cam[:3, :3] = R_33 @ T_map_cam[:3, :3]
        T_space_cam[:3, 3] = R_33 @ (T_map_cam[:3, 3] - self.T_map_space[:3, 3])
        return T_space_cam

    @cached_property
    def floors_n4(self) -> np.ndarray:
        """Rectangles of the floor (n, 4): x0, y0, x1, y1, of the space and of its doorways, m."""
        corners = [(0.0, 0.0, *self.look.size)]
        for opening in self.look.openings:
            if opening.depth:
                (x0, y0, _), (x1, y1, _) = edge_of(self.look.size, opening)
                dx, dy = np.multiply(_OUTWARDS[opening.side], opening.depth)
                corners.append((x0, y0, x1 - dx, y1 - dy))
        points = np.array(corners).reshape(-1, 2, 2) @ self.T_map_space[:2, :2].T
        points += self.T_map_space[:2, 3]
        return np.concatenate([points.min(axis=1), points.max(axis=1)], axis=1)


@dataclass(frozen=True)
class Portal:
    """An opening between two spaces."""

    other: int  # index of the space beyond
    edges_33: np.ndarray  # right edge, down edge, top left corner, seen from inside; m, map frame
    normal_3: np.ndarray  # unit vector into the space that is looked from


_OUTWARDS = ((0.0, 1.0), (1.0, 0.0), (0.0, -1.0), (-1.0, 0.0))


def edge_of(size: tuple[float, float], opening: Opening) -> np.ndarray:
    """Return left and right end (2, 3) of an opening's lower edge, in the axes of its space."""
    starts = ((0.0, size[1]), size, (size[0], 0.0), (0.0, 0.0))
    outwards = np.array(_OUTWARDS[opening.side])
    along = np.array([outwards[1], -outwards[0]])
    middle = np.array(starts[opening.side]) + along * opening.centre + outwards * opening.depth
    half = along * opening.width / 2.0
    return np.array([[*(middle - half), 0.0], [*(middle + half), 0.0]])


def _key(ends_23: np.ndarray) -> tuple[float, ...]:
    """Return a key of both ends of an opening, the same for nearly the same places."""
    return tuple((np.round(ends_23.ravel(), 6) + 0.0).tolist())


@dataclass(frozen=True)
class FloorPlan:
    """All spaces of a building."""

    spaces: tuple[Space, ...]

    @cached_property
    def bounds_4(self) -> np.ndarray:
        """Smallest x, y and largest x, y of all floors, m."""
        floors_n4 = np.concatenate([space.floors_n4 for space in self.spaces])
        return np.concatenate([floors_n4[:, :2].min(axis=0), floors_n4[:, 2:].max(axis=0)])

    @cached_property
    def portals(self) -> tuple[tuple[Portal, ...], ...]:
        """The portals of each space.

        Raises:
            ValueError: An opening meets no opening of another space.
        """
        found: list[tuple[int, np.ndarray, float]] = []
        owners: dict[tuple[float, ...], int] = {}
        for index, space in enumerate(self.spaces):
            for opening in space.look.openings:
                ends_23 = edge_of(space.look.size, opening) @ space.T_map_space[:3, :3].T
                ends_23 += space.T_map_space[:3, 3]
                found.append((index, ends_23, opening.height))
                owners[_key(ends_23)] = index
        portals: list[list[Portal]] = [[] for _ in self.spaces]
        for index, ends_23, height in found:
            other = owners.get(_key(ends_23[::-1]))
            if other is None:
                raise ValueError(f"{self.spaces[index].name}: no opening meets that at {ends_23}")
            left_3, right_3 = ends_23
            up_3 = np.array([0.0, 0.0, height])
            edges_33 = np.stack([right_3 - left_3, -up_3, left_3 + up_3], axis=1)
            normal_3 = np.cross(edges_33[:, 1], edges_33[:, 0])
            portal = Portal(other, edges_33, normal_3 / np.linalg.norm(normal_3))
            portals[index].append(portal)
        return tuple(map(tuple, portals))

    def space_at(self, position_3: np.ndarray) -> int | None:
        """Return the index of the space in which a position is; None: in no one."""
        x, y = position_3[:2]
        for index, space in enumerate(self.spaces):
            x0, y0, x1, y1 = space.floors_n4.T
            if ((x0 <= x) & (x <= x1) & (y0 <= y) & (y <= y1)).any():
                return index
        return None

    def same_look(self, index: int) -> list[int]:
        """Return the other spaces with the look of this one."""
        look = self.spaces[index].look
        return [i for i, space in enumerate(self.spaces) if space.look is look and i != index]


def _room(
    name: str,
    x: tuple[float, float],
    y: tuple[float, float],
    doors: Iterable[tuple[int, float]],
    pieces: str,
    windows: Iterable[int] = (),
    seed: int = 0,
) -> Space:
    """Return a room between x and y (m), with doors at sides and x (m) of the building."""
    width, depth = x[1] - x[0], y[1] - y[0]
    openings = [
        Opening(side, at - x[0] if side == NORTH else x[1] - at, depth=WALL_M) for side, at in doors
    ]
    look = Look(name, (width, depth), tuple(openings), tuple(pieces.split()), tuple(windows), seed)
    return Space(name, look, x[0], y[0])


def _corridor(name: str, y: float, sections: Sequence[Look], seed: int) -> list[Space]:
    """Return the sections of a corridor from x = 0 on, and its two ends."""
    length, width = SECTION_M
    across = Opening(EAST, width / 2.0, width, HEIGHT_M)
    ends = [
        Look(f"{name} {side}", (END_M, width), (opening,), seed=seed + index)
        for index, (side, opening) in enumerate(
            (("west", across), ("east", Opening(WEST, width / 2.0, width, HEIGHT_M)))
        )
    ]
    return [
        Space(ends[0].name, ends[0], -END_M, y),
        *(Space(f"{name} {k + 1}", look, k * length, y) for k, look in enumerate(sections)),
        Space(ends[1].name, ends[1], len(sections) * length, y),
    ]


def _section(name: str, south: Iterable[float], north: Iterable[float], seed: int) -> Look:
    """Return a section with openings at x (m from its west end) in its south and north walls."""
    length, width = SECTION_M
    openings = [Opening(side, width / 2.0, width, HEIGHT_M) for side in (EAST, WEST)]
    openings += [Opening(SOUTH, length - x) for x in south]
    openings += [Opening(NORTH, x) for x in north]
    return Look(name, SECTION_M, tuple(openings), seed=seed)


_TWIN_PIECES = "desk shelf plant armchair lockers"


def _twin(k: int, x: float, y: float, turned: bool = False, like: Space | None = None) -> Space:
    """Return one of the identical rooms, whose south-west corner is at (x, y)."""
    door = [(NORTH, x + 1.375)]
    room = like or _room("twin", (x, x + 4.75), (y, y + 5.0), door, _TWIN_PIECES, (SOUTH,), 1)
    return Space(f"twin {k}", room.look, x, y, turned)


def whole_building() -> FloorPlan:
    """Return the plan above: twelve rooms and two corridors, 406 m2."""
    twin = _twin(1, 0.125, 0.0)
    same = _section("A", (1.5,), (3.5,), 20)
    south, middle, north = (0.0, 5.0), (7.5, 12.5), (15.0, 20.5)
    return FloorPlan(
        (
            twin,
            _twin(2, 5.125, 0.0, like=twin),
            _twin(3, 10.125, 0.0, like=twin),
            _room(
                "meeting",
                (15.125, 20.875),
                south,
                [(NORTH, 16.5)],
                "whiteboard plant sideboard lockers table",
                (SOUTH,),
                2,
            ),
            *_corridor("A", 5.25, [same] * 4, 30),
            _room(
                "lounge",
                (-0.875, 4.375),
                middle,
                [(SOUTH, 3.5), (NORTH, 1.5)],
                "sofa lamp cabinet armchair plant rug",
                (),
                3,
            ),
            _room(
                "library",
                (4.625, 12.0),
                middle,
                [(SOUTH, 8.5)],
                "bookcase armchair lamp shelf sideboard shelf desk table",
                (),
                4,
            ),
            _room(
                "store", (12.25, 15.5), middle, [(SOUTH, 13.5)], "shelf lockers shelf boxes", (), 5
            ),
            _room(
                "office",
                (15.75, 20.875),
                middle,
                [(SOUTH, 18.5), (NORTH, 17.5)],
                "desk lockers desk plant desk whiteboard",
                (),
                6,
            ),
            *_corridor(
                "B",
                12.75,
                [
                    _section("B 1", (1.5,), (1.0,), 41),
                    _section("B 2", (), (1.5,), 42),
                    _section("B 3", (), (2.875,), 43),
                    _section("B 4", (2.5,), (2.0,), 44),
                ],
                50,
            ),
            _room(
                "study",
                (-0.875, 2.375),
                north,
                [(SOUTH, 1.0)],
                "desk shelf armchair cabinet",
                (NORTH,),
                7,
            ),
            _room(
                "workshop",
                (2.625, 9.25),
                north,
                [(SOUTH, 6.5)],
                "shelf bench lockers boxes whiteboard bench table",
                (NORTH,),
                8,
            ),
            _twin(4, 9.5, 15.0, turned=True, like=twin),
            _room(
                "canteen",
                (14.5, 20.875),
                north,
                [(SOUTH, 17.0)],
                "fridge kitchen sofa plant coats cabinet table",
                (NORTH,),
                9,
            ),
        )
    )


def three_rooms() -> FloorPlan:
    """Return a small plan: two identical rooms, a third one, and a corridor of two sections."""
    twin = _twin(1, 0.125, 0.0)
    same = _section("A", (1.5,), (3.5,), 20)
    return FloorPlan(
        (
            twin,
            _twin(2, 5.125, 0.0, like=twin),
            *_corridor("A", 5.25, [same] * 2, 30),
            _room(
                "meeting",
                (0.125, 9.875),
                (7.5, 10.5),
                [(SOUTH, 3.5), (SOUTH, 8.5)],
                "whiteboard plant sideboard lockers",
                (NORTH,),
                2,
            ),
        )
    )
