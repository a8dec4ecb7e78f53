"""Points triangulated at known poses, from matching features of overlapping images.

They are for given poses that stay as they are, and need no pycolmap. Structure from motion and the
adjustment of given poses (sfm/) have more accurate points, which many frames see: where these
exist, nothing is triangulated here.
"""

from collections.abc import Mapping

import numpy as np

from distill_training.common.sampling import thinned
from distill_training.poses.features import FeatureFinder, match
from distill_training.poses.frame_points import FramePoints
from distill_training.poses.image_pairs import overlapping_pairs
from distill_training.poses.poses_config import PairsConfig
from mote_localization.camera import Camera
from mote_localization.progress import track
from mote_localization.scenes import Scene

_MAX_FRAMES = 400  # that are matched, spread evenly over the recording
_MIN_PARALLAX = np.radians(3.0)  # between the two rays of a point
_MAX_RESIDUAL = 0.01  # rad, between the ray of the other image and the point
_RAY_SIGMA = 0.002  # rad, of a feature, one pixel of a usual camera


def triangulate(
    scene: Scene, T_map_cam: Mapping[str, np.ndarray], cameras: Mapping[str, Camera]
) -> dict[str, FramePoints]:
    """Return the points that frames have in common with others, at their known poses.

    Each point is seen by two frames. Its depth is that at which it is nearest to the ray of the
    other frame. Points of rays that are nearly parallel, or that miss each other, are left out.

    Args:
        scene: Its training frames with a pose are used.
        T_map_cam: Pose (4, 4) of frames.
        cameras: Camera of these frames.

    Raises:
        SceneError: An image is damaged.
    """
    chosen = set(thinned(list(T_map_cam), _MAX_FRAMES))
    names, features = [], []
    finder: FeatureFinder | None = None
    frames = (frame for frame in scene.frames("train") if frame.name in chosen)
    for frame in track(frames, "features", len(chosen)):
        if finder is None or finder.live != cameras[frame.name]:
            finder = FeatureFinder(cameras[frame.name])
        names.append(frame.name)
        features.append(finder.find(frame, measured=False))
    T_n44 = np.array([T_map_cam[name] for name in names])
    pairs = overlapping_pairs(T_n44, [cameras[name] for name in names], PairsConfig())
    matches = match(features, pairs)
    T_other_own_m44 = np.linalg.inv(T_n44)[matches.seen_m] @ T_n44[matches.measured_m]
    ray_m3 = matches.points_m3  # at depth 1
    rotated_m3 = np.einsum("mij,mj->mi", T_other_own_m44[:, :3, :3], ray_m3)
    shift_m3 = T_other_own_m44[:, :3, 3]
    seen_m3 = matches.rays_m3 / np.linalg.norm(matches.rays_m3, axis=1, keepdims=True)
    # The depth z for which the cross product of the other ray and z rotated + shift is smallest.
    across_m3, offset_m3 = np.cross(seen_m3, rotated_m3), np.cross(seen_m3, shift_m3)
    sine_m = np.linalg.norm(across_m3, axis=1) / np.linalg.norm(rotated_m3, axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        depth_m = -(across_m3 * offset_m3).sum(axis=1) / (across_m3**2).sum(axis=1)
        point_m3 = rotated_m3 * depth_m[:, None] + shift_m3
        distance_m = np.linalg.norm(point_m3, axis=1)
        residual_m = np.linalg.norm(np.cross(seen_m3, point_m3), axis=1) / distance_m
        usable_m = (
            (depth_m > 0)
            & ((point_m3 * seen_m3).sum(axis=1) > 0)
            & (sine_m > np.sin(_MIN_PARALLAX))
            & (residual_m < _MAX_RESIDUAL)
        )
    points = {}
    for i, name in enumerate(names):
        own = usable_m & (matches.measured_m == i)
        sigma_k = depth_m[own] * _RAY_SIGMA / sine_m[own]
        points[name] = FramePoints(ray_m3[own, :2], depth_m[own], sigma_k)
    return points
