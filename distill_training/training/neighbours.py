"""Choice of neighbouring frames: covisible frames with enough parallax."""

import numpy as np

from mote_localization.camera import Camera

MAX_NEIGHBOURS = 4  # of a frame
_POINTS = 24  # about; the frame's points that are checked
_NEAREST = 0.02  # least depth, fraction of the points' mean distance
_MIN_COVISIBLE = 0.5  # fraction of the points
_MIN_PARALLAX = np.radians(3.0)  # mean angle between the two rays to a point


def neighbours(
    points_hw3: np.ndarray, T_map_cam: np.ndarray, poses_n44: np.ndarray, camera: Camera
) -> np.ndarray:
    """Return frames that see at least half of a frame's points, with enough parallax.

    They are evenly spaced among all such frames. Occlusion is ignored: a point counts as seen where
    it projects into the image.

    Args:
        points_hw3: The frame's points, map frame, NaN = none.
        T_map_cam: Pose of the frame.
        poses_n44: Poses T_map_cam of the candidate frames, in recording order.
        camera: Camera of all frames.

    Returns:
        Indices of at most 4 candidates; empty where none sees enough points.
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
    suitable_n = (seen_nk.mean(axis=1) >= _MIN_COVISIBLE) & (parallax_n >= _MIN_PARALLAX)
    (found,) = np.nonzero(suitable_n)
    spaced = (np.arange(MAX_NEIGHBOURS) + 0.5) * len(found) / MAX_NEIGHBOURS
    return np.unique(found[spaced.astype(int)]) if len(found) else found
