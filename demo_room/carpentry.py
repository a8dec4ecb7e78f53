"""Textured rectangles and the boxes made of them: everything in the demo room is these.

A `Workshop` collects them. Furniture is built in its own coordinates: stand in front of it and x
goes right, y away from you, z up; so what hangs on a wall lies at y < 0, and its front faces you.
"""

from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from demo_room.textures import Material, wrapped

SIDES = ("front", "back", "left", "right", "top", "bottom")


@dataclass(frozen=True)
class Rectangle:
    """A one-sided rectangle (m, map frame); left and top are those of who sees it."""

    corner_3: np.ndarray  # top left
    right_3: np.ndarray  # along the upper edge
    down_3: np.ndarray  # along the left edge
    material: Material
    glow: float = 0.0  # light it gives off by itself, 1 = its albedo as it is

    @cached_property
    def normal_3(self) -> np.ndarray:
        """Unit normal, towards the visible side."""
        normal_3 = np.cross(self.down_3, self.right_3)
        return normal_3 / np.linalg.norm(normal_3)


@dataclass(frozen=True)
class Block:
    """The volume of a box: what blocks light and robots."""

    centre_3: np.ndarray  # m, map frame
    half_3: np.ndarray  # m, along its own axes
    turn: float = 0.0  # rad, about z

    @classmethod
    def placed(cls, centre_3: np.ndarray, half_3: np.ndarray, turn: float) -> "Block":
        """A block turned by any angle; quarter turns swap its sides, which is faster to hit."""
        quarters = round(turn / (np.pi / 2.0))
        if abs(turn - quarters * np.pi / 2.0) > 1e-9:
            return cls(centre_3, half_3, turn)
        return cls(centre_3, half_3[[1, 0, 2]] if quarters % 2 else half_3)

    def unturned(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """A horizontal vector of the map in the block's own axes."""
        cos, sin = np.float32(np.cos(self.turn)), np.float32(np.sin(self.turn))
        return cos * x + sin * y, cos * y - sin * x


@dataclass(frozen=True)
class Workshop:
    """Builds rectangles and boxes at a place of the room."""

    x: float = 0.0
    y: float = 0.0
    z: float = 0.0
    turn: float = 0.0  # rad, about z
    rectangles: list[Rectangle] = field(default_factory=list)
    blocks: list[Block] = field(default_factory=list)

    def at(self, x: float, y: float, z: float = 0.0, degrees: float = 0.0) -> "Workshop":
        """The same workshop at a place given in this one's coordinates."""
        origin_3 = self._point(x, y, z)
        return replace(
            self,
            x=origin_3[0],
            y=origin_3[1],
            z=origin_3[2],
            turn=self.turn + float(np.radians(degrees)),
        )

    def _vector(self, x: float, y: float, z: float) -> np.ndarray:
        cos, sin = np.cos(self.turn), np.sin(self.turn)
        return np.array([cos * x - sin * y, sin * x + cos * y, z])

    def _point(self, x: float, y: float, z: float) -> np.ndarray:
        return self._vector(x, y, z) + (self.x, self.y, self.z)

    def rectangle(
        self,
        corner: tuple[float, float, float],
        right: tuple[float, float, float],
        down: tuple[float, float, float],
        material: Material,
        glow: float = 0.0,
    ) -> None:
        """Adds one rectangle: top left corner, upper edge, left edge."""
        self.rectangles.append(
            Rectangle(
                self._point(*corner), self._vector(*right), self._vector(*down), material, glow
            )
        )

    def box(
        self,
        corner: tuple[float, float, float],
        size: tuple[float, float, float],
        material: Material,
        *,
        skip: str = "",
        glow: float = 0.0,
        **sides: Material,
    ) -> None:
        """Adds a box: lowest (x, y, z) corner and size; `front=`... give a side its own material.

        `skip` names the sides that nobody can see.
        """
        (x, y, z), (w, d, h) = corner, size
        faces = {
            "front": ((x, y, z + h), (w, 0, 0), (0, 0, -h)),
            "back": ((x + w, y + d, z + h), (-w, 0, 0), (0, 0, -h)),
            "left": ((x, y + d, z + h), (0, -d, 0), (0, 0, -h)),
            "right": ((x + w, y, z + h), (0, d, 0), (0, 0, -h)),
            "top": ((x, y + d, z + h), (w, 0, 0), (0, -d, 0)),
            "bottom": ((x, y, z), (w, 0, 0), (0, d, 0)),
        }
        for side in SIDES:
            if side not in skip.split():
                self.rectangle(*faces[side], sides.get(side, material), glow)
        half_3 = np.array([w, d, h]) / 2.0
        centre_3 = self._point(x + w / 2.0, y + d / 2.0, z + h / 2.0)
        self.blocks.append(Block.placed(centre_3, half_3, self.turn))

    def round(
        self,
        centre: tuple[float, float, float],
        radius: float,
        height: float,
        material: Material,
        *,
        facets: int = 12,
        glow: float = 0.0,
        top: Material | None = None,
    ) -> None:
        """Adds a pot, shade or jar: a prism on `centre`, the material wrapped around it once."""
        x, y, z = centre
        half = np.pi / facets
        width, reach = 2.0 * radius * np.sin(half), radius * np.cos(half)
        for facet, strip in enumerate(wrapped(material, facets)):
            cos, sin = np.cos(2.0 * half * facet), np.sin(2.0 * half * facet)
            start = (x + cos * reach + sin * width / 2.0, y + sin * reach - cos * width / 2.0)
            right = (-sin * width, cos * width, 0.0)
            self.rectangle((*start, z + height), right, (0.0, 0.0, -height), strip, glow)
        if top is not None:
            side = radius * 1.3
            corner = (x - side / 2.0, y + side / 2.0, z + height * 0.96)
            self.rectangle(corner, (side, 0, 0), (0, -side, 0), top, glow)
        half_3 = np.array([radius * 0.8, radius * 0.8, height / 2.0])
        self.blocks.append(Block(self._point(x, y, z + height / 2.0), half_3))

    def blade(
        self,
        foot: tuple[float, float, float],
        lean: tuple[float, float],
        width: float,
        height: float,
        material: Material,
    ) -> None:
        """Adds a leaf, seen from both sides, that leans sideways and away (m at its tip)."""
        x, y, z = foot
        tip = (x + lean[0] - width / 2.0, y + lean[1], z + height)
        down = (-lean[0], -lean[1], -height)
        self.rectangle(tip, (width, 0, 0), down, material)
        self.rectangle((tip[0] + width, *tip[1:]), (-width, 0, 0), down, material)
