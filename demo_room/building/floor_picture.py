"""Draws the floor plan of the building, with its furniture and the ways of drives."""

from collections.abc import Sequence

import cv2
import numpy as np

from demo_room.building.building_drives import FreeFloor
from demo_room.building.floor_plan import FloorPlan
from demo_room.building.interiors import interior
from demo_room.views import footprints

_PX_PER_M = 50.0
_MARGIN_M = 0.5
_WALL, _FLOOR, _TWIN, _PIECE, _INK = (
    (60, 60, 64),
    (240, 238, 232),
    (208, 226, 246),
    (176, 170, 160),
    (40, 40, 44),
)
_WAYS = ((170, 170, 170), (206, 66, 50), (50, 110, 190), (40, 140, 90))


def floor_plan_picture(
    plan: FloorPlan, floor: FreeFloor, ways: Sequence[tuple[str, np.ndarray]]
) -> np.ndarray:
    """Return a picture of a floor plan, uint8 RGB; spaces that share their look are blue.

    Args:
        plan: The floor plan.
        floor: Its free floor.
        ways: Names and positions (n, 2 or more), m, of drives; later ones lie above earlier ones.
    """
    low, high = plan.bounds_4[:2] - _MARGIN_M, plan.bounds_4[2:] + _MARGIN_M
    width, height = np.ceil((high - low) * _PX_PER_M).astype(int)
    image = np.full((height, width, 3), _WALL, np.uint8)

    def pixels(points_n2: np.ndarray) -> np.ndarray:
        flipped = np.asarray(points_n2)[:, :2] * (1.0, -1.0) + (-low[0], high[1])
        return np.round(flipped * _PX_PER_M).astype(np.int32)

    for index, space in enumerate(plan.spaces):
        colour = _TWIN if plan.same_look(index) else _FLOOR
        for rectangle_4 in space.floors_n4:
            first, last = pixels(rectangle_4.reshape(2, 2)).tolist()
            cv2.rectangle(image, first, last, colour, -1)
    for space in plan.spaces:
        R_22, t_2 = space.T_map_space[:2, :2], space.T_map_space[:2, 3]
        for corners_42 in footprints(interior(space.look).obstacles):
            cv2.fillPoly(image, [pixels(corners_42 @ R_22.T + t_2)], _PIECE)
    for number, (_, positions) in enumerate(ways):
        colour = _WAYS[min(number, len(_WAYS) - 1)]
        cv2.polylines(image, [pixels(positions)], False, colour, 2, cv2.LINE_AA)
    for space in plan.spaces:
        x0, y0, x1, y1 = space.floors_n4[0]
        for line, text in enumerate((space.name, f"{(x1 - x0) * (y1 - y0):.1f} m2")):
            if x1 - x0 > 1.5:
                x, y = pixels(np.array([[(x0 + x1) / 2, (y0 + y1) / 2]]))[0].tolist()
                place = (x - 6 * len(text), y + 24 * line)
                cv2.putText(image, text, place, 2, 0.6, _INK, 1, cv2.LINE_AA)
    for number, (name, _) in enumerate(ways):
        place = (10 + 190 * number, height - 8)
        cv2.putText(image, name, place, 2, 0.5, (255, 255, 255), 1, cv2.LINE_AA)
        colour = _WAYS[min(number, len(_WAYS) - 1)]
        cv2.line(image, (place[0] + 120, height - 12), (place[0] + 170, height - 12), colour, 3)
    return image
