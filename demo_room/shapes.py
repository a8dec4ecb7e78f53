"""Textured rectangles and boxes, of which everything in the demo room consists.

A `Builder` collects them. Each piece of furniture has its own axes, as seen from its front: x to
the right, y away from the viewer, z up. An object on a wall extends to y < 0.
"""

from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from demo_room.textures import Material, wrapped_strips

Vector = tuple[float, float, float]  # m


@dataclass(frozen=True)
class Rectangle:
    """A one-sided rectangle (m, map frame); left and top are as seen from its visible side."""

    corner_3: np.ndarray  # top left corner
    right_3: np.ndarray  # vector along the upper edge
    down_3: np.ndarray  # vector along the left edge
    material: Material
    glow: float = 0.0  # emitted light; 1 shows the albedo without any other light

    @cached_property
    def normal_3(self) -> np.ndarray:
        """Unit normal, towards the visible side."""
        normal_3 = np.cross(self.down_3, self.right_3)
        return normal_3 / np.linalg.norm(normal_3)


@dataclass(frozen=True)
class Block:
    """The volume of a box, which blocks light and robots."""

    centre_3: np.ndarray  # m, map frame
    half_3: np.ndarray  # m, half of the size along the box's axes
    yaw: float = 0.0  # rad, rotation about z

    @classmethod
    def rotated(cls, centre_3: np.ndarray, half_3: np.ndarray, yaw: float) -> "Block":
        """Return a block rotated about z.

        Multiples of 90 degrees swap its sides instead, which makes ray casting faster.
        """
        quarters = round(yaw / (np.pi / 2.0))
        if abs(yaw - quarters * np.pi / 2.0) > 1e-9:
            return cls(centre_3, half_3, yaw)
        return cls(centre_3, half_3[[1, 0, 2]] if quarters % 2 else half_3)

    def in_block_axes(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return horizontal vectors of the map frame in the block's axes."""
        cos, sin = np.float32(np.cos(self.yaw)), np.float32(np.sin(self.yaw))
        return cos * x + sin * y, cos * y - sin * x


@dataclass(frozen=True)
class Builder:
    """Adds rectangles and boxes to the room, in axes that have a position and a yaw in it."""

    x: float = 0.0
    y: float = 0.0
    z: float = 0.0
    yaw: float = 0.0  # rad, rotation about z
    rectangles: list[Rectangle] = field(default_factory=list)
    blocks: list[Block] = field(default_factory=list)

    def at(self, x: float, y: float, z: float = 0.0, degrees: float = 0.0) -> "Builder":
        """Return a builder of the same room at a pose given in this one's axes."""
        x, y, z = self._point(x, y, z)
        return replace(self, x=x, y=y, z=z, yaw=self.yaw + float(np.radians(degrees)))

    def _vector(self, x: float, y: float, z: float) -> np.ndarray:
        cos, sin = np.cos(self.yaw), np.sin(self.yaw)
        return np.array([cos * x - sin * y, sin * x + cos * y, z])

    def _point(self, x: float, y: float, z: float) -> np.ndarray:
        return self._vector(x, y, z) + (self.x, self.y, self.z)

    def rectangle(
        self, corner: Vector, right: Vector, down: Vector, material: Material, glow: float = 0.0
    ) -> None:
        """Add a rectangle, given by its top left corner, upper edge and left edge."""
        place = self._point(*corner), self._vector(*right), self._vector(*down)
        self.rectangles.append(Rectangle(*place, material, glow))

    def box(
        self, corner: Vector, size: Vector, material: Material, *, skip: str = "", **sides: Material
    ) -> None:
        """Add a box.

        Args:
            corner: Corner with the lowest x, y and z.
            size: Size along x, y and z.
            material: Material of the sides.
            skip: Names of the sides to leave out, because they are never visible.
            sides: Materials that differ, by side (`front=`, ...).
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
        for side, face in faces.items():
            if side not in skip.split():
                self.rectangle(*face, sides.get(side, material))
        half_3 = np.array([w, d, h]) / 2.0
        centre_3 = self._point(x + w / 2.0, y + d / 2.0, z + h / 2.0)
        self.blocks.append(Block.rotated(centre_3, half_3, self.yaw))

    def round(
        self,
        centre: Vector,
        radius: float,
        height: float,
        material: Material,
        *,
        facets: int = 12,
        glow: float = 0.0,
        top: Material | None = None,
    ) -> None:
        """Add a prism that stands on `centre`, with one material wrapped around it."""
        x, y, z = centre
        half = np.pi / facets
        width, inner = 2.0 * radius * np.sin(half), radius * np.cos(half)
        for facet, strip in enumerate(wrapped_strips(material, facets)):
            cos, sin = np.cos(2.0 * half * facet), np.sin(2.0 * half * facet)
            start = (x + cos * inner + sin * width / 2.0, y + sin * inner - cos * width / 2.0)
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
        foot: Vector,
        lean: tuple[float, float],
        width: float,
        height: float,
        material: Material,
    ) -> None:
        """Add a leaf, visible from both sides; `lean` is the offset of its tip along x and y, m."""
        x, y, z = foot
        tip = (x + lean[0] - width / 2.0, y + lean[1], z + height)
        down = (-lean[0], -lean[1], -height)
        self.rectangle(tip, (width, 0, 0), down, material)
        self.rectangle((tip[0] + width, *tip[1:]), (-width, 0, 0), down, material)
