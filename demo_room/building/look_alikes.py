"""Which other places of the building would show the image of a view, computed from its surfaces.

Where a space has the look of another one, the camera may be moved by the motion between them. The
other place *explains* a pixel if the same rectangle of the same look is at the same depth there.
"""

from dataclasses import dataclass

import numpy as np

from demo_room.building.floor_plan import FloorPlan
from demo_room.building.lit_building import LitBuilding
from demo_room.building.portal_renderer import cast_building
from mote_localization.camera import Camera
from mote_localization.geometry import invert

EXPLAINED = 0.95  # fraction of the pixels from which on another place explains a view
_WORTH = 0.05  # fraction below which another place is not rendered


@dataclass(frozen=True)
class Explanation:
    """How many places explain a view."""

    places: int  # 1: unique
    largest_fraction: float  # of the pixels, of all other places

    def line(self, name: str) -> str:
        """Return the line of places.txt: name, `unique` or the number of places, fraction."""
        places = "unique" if self.places == 1 else str(self.places)
        return f"{name} {places} {self.largest_fraction:.4f}\n"


def explain(building: LitBuilding, camera: Camera, T_map_cam: np.ndarray) -> Explanation:
    """Return how many places explain the image of a camera, and how well the best other one does.

    Args:
        building: The building.
        camera: Pinhole camera; a small image is enough.
        T_map_cam: Camera pose.
    """
    own_hw, own_depth_hw, spaces, pixels = _labels(building, camera, T_map_cam)
    fractions = [0.0]
    for T_other_map in _motions(building.plan, spaces, pixels):
        moved = T_other_map @ T_map_cam
        if building.plan.space_at(moved[:3, 3]) is None:
            continue
        other_hw, other_depth_hw, _, _ = _labels(building, camera, moved)
        same_hw = (own_hw == other_hw) & (np.abs(own_depth_hw / other_depth_hw - 1.0) < 1e-3)
        fractions.append(float(same_hw.mean()))
    places = 1 + sum(fraction >= EXPLAINED for fraction in fractions)
    return Explanation(places, max(fractions))


def _labels(
    building: LitBuilding, camera: Camera, T_map_cam: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return the texture and 1/z of each pixel, and the seen spaces with their pixels."""
    hits, spaces_of_parts = cast_building(building, T_map_cam, camera)
    # each rectangle of each look has its own texture
    texture_hw = hits.first_n.take(hits.face_hw)
    spaces_hw = spaces_of_parts[hits.part_n.take(hits.face_hw)]
    spaces, pixels = np.unique(spaces_hw, return_counts=True)
    return texture_hw, np.maximum(hits.inverse_hw, 1e-9), spaces, pixels


def _motions(plan: FloorPlan, spaces: np.ndarray, pixels: np.ndarray) -> list[np.ndarray]:
    """Return the motions (4, 4) that put enough of the seen spaces where others look the same."""
    motions: list[np.ndarray] = []
    for index in spaces:
        from_space = invert(plan.spaces[index].T_map_space)
        for other in plan.same_look(index):
            motion = plan.spaces[other].T_map_space @ from_space
            if not any(np.allclose(motion, known) for known in motions):
                motions.append(motion)
    placed = [(space.look, space.T_map_space) for space in plan.spaces]

    def fraction(motion: np.ndarray) -> float:
        matched = [
            any(
                look is plan.spaces[index].look
                and np.allclose(motion @ plan.spaces[index].T_map_space, T_map_space)
                for look, T_map_space in placed
            )
            for index in spaces
        ]
        return float(pixels[matched].sum() / pixels.sum())

    return [motion for motion in motions if fraction(motion) >= _WORTH]
