"""Days in the demo room: what differs from the day on which the scenes are recorded."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

import cv2
import numpy as np

from demo_room.shapes import Builder, Vector

_OUTSIDE_M = 20.0  # pictures that are gone hang so far behind their wall, where no camera sees them


class Move(NamedTuple):
    """Where a piece of furniture was moved, in the axes of the wall or room in which it stands."""

    piece: str
    x: float  # m
    y: float  # m
    degrees: float = 0.0  # rotation about the vertical axis


@dataclass(frozen=True)
class Day:
    """State of the room and properties of the camera; the defaults are those of the recordings."""

    lamps: tuple[float, float, float] = (1.0, 1.0, 1.0)  # brightness: ceiling, table, floor lamp
    daylight: float = 1.0  # brightness of sky and sun; 0: night
    sun_3: Vector = (0.80, -0.16, 0.58)  # direction to the sun, map frame
    blind_m: float = 0.0  # length of the blind in front of the window, from its top
    moves: tuple[Move, ...] = ()
    gone: tuple[str, ...] = ()  # pictures that were taken down
    person: Vector | None = None  # x and y (m) and heading (degrees) of a standing person
    focal: float = 1.0  # focal length, relative to that of the recordings
    grey: bool = False  # the camera sees no colours
    noise: float = 0.0  # standard deviation of each pixel, grey values

    def at(
        self, place: Builder, piece: str, x: float, y: float, z: float = 0.0, degrees: float = 0.0
    ) -> Builder:
        """Return `place.at(x, y, z, degrees)`, moved as the piece is on this day."""
        for name, dx, dy, turn in self.moves:
            if name == piece:
                x, y, degrees = x + dx, y + dy, degrees + turn
        if piece in self.gone:
            y += _OUTSIDE_M
        return place.at(x, y, z, degrees)

    def exposed(self, image_hw3: np.ndarray, T_map_cam: np.ndarray) -> np.ndarray:
        """Return the image (uint8 RGB) as this day's camera records it; the same for each pose."""
        if self.grey:
            image_hw3 = cv2.cvtColor(
                cv2.cvtColor(image_hw3, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB
            )
        if self.noise:
            rng = np.random.default_rng(np.frombuffer(T_map_cam.tobytes(), np.uint32))
            shape = (*image_hw3.shape[:2], 1 if self.grey else 3)
            noisy_hw3 = image_hw3 + self.noise * rng.standard_normal(shape, np.float32)
            image_hw3 = np.clip(np.round(noisy_hw3), 0, 255).astype(np.uint8)
        return image_hw3


RECORDED = Day()

# Everything at once. No piece is nearer than 0.3 m to the drives.
ANOTHER = Day(
    lamps=(0.0, 2.0, 2.0),
    sun_3=(0.80, 0.42, 0.43),
    blind_m=0.6,
    moves=(
        Move("rust chair", -0.82, 0.53, 110.0),
        Move("navy chair", 0.06, 0.49, 35.0),
        Move("sage chair", 0.70, 0.22, -60.0),
        Move("armchair", 0.58, 0.23, -32.0),
        Move("pouf", 0.23, 0.70, 40.0),
        Move("floor plant", -0.32, -0.85, 80.0),
        Move("bookcase plant", 0.9, 0.0, 60.0),
        Move("bookcase box", -0.9, 0.0),
        Move("fridge box", 0.14, -0.05, 20.0),
        Move("low table plant", 0.4, 0.0, 120.0),
        Move("left sill plant", 0.3, 0.0, 90.0),
        Move("right sill plant", -0.35, 0.0, 45.0),
    ),
    gone=("landscape", "city"),
    person=(3.95, 0.8, 60.0),
    focal=0.85,
    grey=True,
    noise=4.0,
)


def _only(*names: str) -> Day:
    """Return a day that differs from that of the recordings in some fields, as ANOTHER does."""
    return Day(**{name: getattr(ANOTHER, name) for name in names})


# Days for measurements, by name: each change alone, and all at once.
DAYS: Mapping[str, Day] = MappingProxyType(
    {
        "as recorded": RECORDED,
        "lamps off": Day(lamps=(0.0, 0.0, 0.0)),
        "night, lamps on": Day(lamps=(2.0, 2.0, 2.0), daylight=0.0),
        "other lamps on": _only("lamps"),
        "sun elsewhere": _only("sun_3"),
        "blind": _only("blind_m"),
        "furniture moved": _only("moves"),
        "two pictures gone": _only("gone"),
        "a person": _only("person"),
        "focal length -15 %": _only("focal"),
        "grey": _only("grey"),
        "noise": _only("noise"),
        "another camera": _only("focal", "grey", "noise"),
        "all at once": ANOTHER,
    }
)
