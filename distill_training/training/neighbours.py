"""Which other frames see what a frame sees, from far enough beside it to see how far away it is."""

import numpy as np

from mote_localization.camera import Camera

_MOST = 4  # neighbours of a frame
_POINTS = 24  # of the frame's points that stand for all
_NEAREST = 0.02  # of the points' mean distance: nothing nearer is seen
_LEAST_SEEN = 0.5  # share of the points
_LEAST_PARALLAX = np.radians(3.0)  # mean angle between the two rays to a point


def neighbours(
    points_hw3: np.ndarray, T_map_cam: np.ndarray, poses_n44: np.ndarray, camera: Camera
) -> np.ndarray:
    """Choose frames that see at least half of a frame's points under enough parallax.

    Of those there are, some evenly spread over the recording. What stands in between is not asked:
    only where points would appear.

    Args:
        points_hw3: The frame's points, map frame, NaN = none.
        T_map_cam: Its pose.
        poses_n44: Poses T_map_cam of the frames to choose from, in recording order.
        camera: The camera of all.

    Returns:
        Indices of at most 4 frames; none where none sees enough.
    """
    points_k3 = points_hw3[np.isfinite(points_hw3).all(axis=-1)].astype(np.float64)
    points_k3 = points_k3[:: max(1, len(points_k3) // _POINTS)]
    if not len(points_k3) or not len(poses_n44):
        return np.zeros(0, int)
    rays_k3 = points_k3 - T_map_cam[:3, 3]
    other_rays_nk3 = points_k3 - poses_n44[:, None, :3, 3]
    distance_k = np.linalg.norm(rays_k3, axis=-1)
    other_distance_nk = np.linalg.norm(other_rays_nk3, axis=-1)
    x, y, z = np.moveaxis(other_rays_nk3 @ poses_n44[:, :3, :3], -1, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        u, v = camera.fx * x / z + camera.cx, camera.fy * y / z + camera.cy
        cosine_nk = np.einsum("kc,nkc->nk", rays_k3, other_rays_nk3) / (
            distance_k * other_distance_nk
        )
    seen_nk = (z > _NEAREST * distance_k.mean()) & (
        (u > -0.5) & (u < camera.width - 0.5) & (v > -0.5) & (v < camera.height - 0.5)
    )
    parallax_n = np.arccos(np.nan_to_num(cosine_nk).clip(-1, 1)).mean(axis=1)
    (chosen,) = np.nonzero((seen_nk.mean(axis=1) >= _LEAST_SEEN) & (parallax_n >= _LEAST_PARALLAX))
    spread = (np.arange(_MOST) + 0.5) * len(chosen) / _MOST
    return np.unique(chosen[spread.astype(int)]) if len(chosen) else chosen
