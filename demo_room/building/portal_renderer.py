"""Renders the building: the spaces that are visible through doorways, each in its own axes.

A space is rendered in the part of the image in which openings show it (portal culling, Luebke and
Georges 1995). The part is a bounding box, so culling never removes a visible surface.
"""

from pathlib import Path

import numpy as np

from demo_room.building.floor_plan import FloorPlan
from demo_room.building.lit_building import LitBuilding, open_lit_building
from demo_room.renderer import Hits, Part, cast, overlap, shade, whole_image, windows
from mote_localization.camera import Camera

_AT_PORTAL_M = 0.05  # a portal nearer than that fills the image


def visible_spaces(
    plan: FloorPlan, T_map_cam: np.ndarray, camera: Camera
) -> dict[int, tuple[int, int, int, int]]:
    """Return the spaces that may be visible, in their order, and the window (px) that shows them.

    A camera outside all spaces sees all of them.
    """
    whole, start = whole_image(camera), plan.space_at(T_map_cam[:3, 3])
    if start is None:
        return dict.fromkeys(range(len(plan.spaces)), whole)
    portals = [portal for portals in plan.portals for portal in portals]
    edges_n33 = np.stack([portal.edges_33 for portal in portals])
    offsets_n3 = T_map_cam[:3, 3] - edges_n33[:, :, 2]
    distances_n = (offsets_n3 * np.stack([portal.normal_3 for portal in portals])).sum(axis=1)
    M_n33 = edges_n33.copy()
    M_n33[:, :, 2] = -offsets_n3
    windows_n4 = overlap(windows(T_map_cam[:3, :3].T @ M_n33, camera), np.array(whole))
    windows_n4[distances_n < 0.0] = 0
    windows_n4[np.abs(distances_n) < _AT_PORTAL_M] = whole
    firsts = np.cumsum([0, *map(len, plan.portals)])
    found: dict[int, np.ndarray] = {}

    def look(index: int, window_4: np.ndarray, path: tuple[int, ...]) -> None:
        seen_4 = found.setdefault(index, window_4.copy())
        seen_4[:2] = np.minimum(seen_4[:2], window_4[:2])
        seen_4[2:] = np.maximum(seen_4[2:], window_4[2:])
        beyond_n4 = overlap(windows_n4[firsts[index] : firsts[index + 1]], window_4)
        for portal, beyond_4 in zip(plan.portals[index], beyond_n4, strict=True):
            if portal.other not in path and (beyond_4[2:] > beyond_4[:2]).all():
                look(portal.other, beyond_4, (*path, portal.other))

    look(start, np.array(whole), (start,))
    return {index: tuple(found[index].tolist()) for index in sorted(found)}


def cast_building(
    building: LitBuilding, T_map_cam: np.ndarray, camera: Camera, cull: bool = True
) -> tuple[Hits, np.ndarray]:
    """Return what the camera sees, and the index of the space of each of its parts.

    Args:
        building: The building.
        T_map_cam: Camera pose in the map frame of the floor plan.
        camera: A pinhole camera.
        cull: Leave out what openings do not show; the result is the same.
    """
    plan, whole = building.plan, whole_image(camera)
    every = dict.fromkeys(range(len(plan.spaces)), whole)
    seen = visible_spaces(plan, T_map_cam, camera) if cull else every
    parts = [
        Part(building.surfaces[space.look], space.in_space(T_map_cam), window_4)
        for space, window_4 in ((plan.spaces[index], window) for index, window in seen.items())
    ]
    return cast(parts, camera), np.array(list(seen))


def render_building(
    folder: Path, rooms: int, T_map_cam: np.ndarray, camera: Camera
) -> tuple[np.ndarray, np.ndarray]:
    """Return image uint8 RGB (h, w, 3) and z depth float32 (h, w), m.

    Args:
        folder: Folder of the building's textures.
        rooms: Number of rooms of the floor plan.
        T_map_cam: Camera pose in the map frame of the floor plan.
        camera: A pinhole camera.
    """
    building = open_lit_building(folder, rooms)
    return shade(cast_building(building, T_map_cam, camera)[0], building.atlas)
