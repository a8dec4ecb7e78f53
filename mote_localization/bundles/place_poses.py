"""Poses of an image in a bundle, and the places that they are of."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mote_localization.geometry import is_explained, local_coordinates, rotation_angles

FAR_M = 3.0  # keyframes and poses that are so far may be another place that looks the same
_TURN_M = 1.0  # m, a turn by a radian is as far as this distance
_SAME_PLACE_M = 0.25  # poses that differ by less are of one place


class Pose(NamedTuple):
    """A pose in the map frame."""

    T_map_cam: np.ndarray  # (4, 4)
    covariance_66: np.ndarray
    submap: int  # that it was found in


class Place(NamedTuple):
    """Keyframes of one submap, near each other, that look like an image."""

    submap: int
    keyframes: list[int]  # the most similar one first


def distances(T_k44: np.ndarray, T_map_cam: np.ndarray) -> np.ndarray:
    """Return the distance (k,) of cameras from another one, m; a turn counts as a distance, too."""
    shift_k = np.linalg.norm(T_k44[:, :3, 3] - T_map_cam[:3, 3], axis=1)
    return shift_k + _TURN_M * rotation_angles(T_k44[:, :3, :3], T_map_cam[:3, :3])


def grouped(
    T_n44: np.ndarray,
    submap_n: np.ndarray,
    keyframe_n: np.ndarray,
    most_places: int,
    most_keyframes: int,
) -> list[Place]:
    """Return the places of keyframes, those of the first keyframes first.

    A place is at a keyframe that is far from those of its submap before it, with those that are
    near it. Two submaps show the same place, or places that look alike.

    Args:
        T_n44: Poses of the keyframes, the most similar one first.
        submap_n: Submap of each.
        keyframe_n: Index of each in it.
        most_places: Number of places.
        most_keyframes: Of each place.
    """
    found: list[tuple[int, Place]] = []
    for n, (submap, keyframe) in enumerate(
        zip(submap_n.tolist(), keyframe_n.tolist(), strict=True)
    ):
        of_submap = [(first, place) for first, place in found if place.submap == submap]
        near = [
            place.keyframes
            for first, place in of_submap
            if distances(T_n44[first][None], T_n44[n])[0] < FAR_M
        ]
        if near and len(near[0]) < most_keyframes:
            near[0].append(keyframe)
        elif not near and len(found) < most_places:
            found.append((n, Place(submap, [keyframe])))
    return [place for _, place in found]


def are_of_one_place(one: Pose, other: Pose) -> bool:
    """Return whether two poses are near each other, or explained by their covariances."""
    error_6 = local_coordinates(one.T_map_cam, other.T_map_cam)
    if np.linalg.norm(error_6[:3]) + _TURN_M * np.linalg.norm(error_6[3:]) < _SAME_PLACE_M:
        return True
    return is_explained(error_6, one.covariance_66 + other.covariance_66)


def different(poses: Sequence[Pose]) -> list[Pose]:
    """Return the first pose of each place."""
    found: list[Pose] = []
    for pose in poses:
        if not any(are_of_one_place(pose, other) for other in found):
            found.append(pose)
    return found
