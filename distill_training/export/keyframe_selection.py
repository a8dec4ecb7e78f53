"""Selects the training images that a map stores as keyframes, so that they cover all of them."""

from collections.abc import Sequence

import numpy as np

from distill_training.common.sampling import thinned
from distill_training.reconstruction import Reconstruction
from mote_localization.geometry import depth_in_camera, rotation_angles
from mote_localization.keyframes import Keyframe

# A training frame is covered by a keyframe within this distance and this rotation of it.
_DISTANCE_M = 0.05
_RELATIVE_DISTANCE = 0.023  # of the median depth, where the scale is unknown
_ROTATION = np.radians(3.3)
_SAMPLED_FRAMES = 50  # of which the median depth is measured


def choose_keyframes(
    reconstruction: Reconstruction, names: Sequence[str], at_most: int
) -> dict[str, Keyframe]:
    """Return keyframes that cover the frames of a recording, by their frames' names, in its order.

    They are fewer than `at_most` where fewer cover all frames. Only the images of the chosen frames
    and of a sample are read.

    Args:
        reconstruction: Source of images, points and poses.
        names: The frames to choose from, in recording order.
        at_most: The largest number of keyframes; 0: none.
    """
    if not at_most:
        return {}
    T_n44 = np.array([reconstruction.poses[name] for name in names])
    distance = _DISTANCE_M
    if not reconstruction.metric:
        sampled = thinned(names, _SAMPLED_FRAMES)
        distance = _RELATIVE_DISTANCE * _median_depth(reconstruction, sampled)
    keyframes = {}
    for k in covering_poses(T_n44, distance, _ROTATION, at_most):
        frame, T_map_cam = reconstruction.read_frame(names[k]), T_n44[k]
        keyframes[names[k]] = Keyframe.record(T_map_cam, frame.image_hw3, frame.points_hw3)
    return keyframes


def covering_poses(T_n44: np.ndarray, distance: float, rotation: float, at_most: int) -> list[int]:
    """Return the indices of poses to which all other poses are near, in increasing order.

    Farthest-point sampling (Gonzalez 1985): each chosen pose is the one farthest from those chosen
    before, in units of the two limits, until all poses are within both. Where `at_most` ends it
    earlier, the poses are spread as evenly as so few can be, within a factor of two.

    Args:
        T_n44: The poses, camera to map.
        distance: Limit of the distance between two poses, in their unit.
        rotation: Limit of the angle between them, radians.
        at_most: The largest number of chosen poses, 1 or more.
    """
    positions_n3, R_n33 = T_n44[:, :3, 3], np.ascontiguousarray(T_n44[:, :3, :3])
    chosen: list[int] = []
    farthest = 0
    nearest_n = np.full(len(T_n44), np.inf)  # 1: at the limit from the nearest chosen pose
    while len(chosen) < at_most and nearest_n[farthest] > 1:
        chosen.append(farthest)
        distance_n = np.linalg.norm(positions_n3 - positions_n3[farthest], axis=1)
        angle_n = rotation_angles(R_n33, R_n33[farthest])
        nearest_n = np.minimum(nearest_n, np.maximum(distance_n / distance, angle_n / rotation))
        farthest = int(nearest_n.argmax())
    return sorted(chosen)


def _median_depth(reconstruction: Reconstruction, names: Sequence[str]) -> float:
    """Return the median depth of the points of some frames."""
    depths = []
    for name in names:
        points_hw3 = reconstruction.read_frame(name).points_hw3
        depth_hw = depth_in_camera(points_hw3, reconstruction.poses[name])
        depths.append(depth_hw[np.isfinite(depth_hw)])
    return float(np.median(np.concatenate(depths)))
