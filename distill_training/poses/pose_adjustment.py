"""Bundle adjustment whose points are measured, so that only the poses are unknown."""

import math
from dataclasses import dataclass

import numpy as np
from scipy import sparse
from scipy.sparse.linalg import spsolve

from distill_training.common.robust import cauchy_weight
from distill_training.poses.features import Matches
from mote_localization.geometry import local_coordinates, retract, skew
from mote_localization.progress import track

_MAX_STEPS = 30
_CONVERGED = 1e-5  # m and rad: stop after a smaller step
_TUNING = 1.5  # median residuals at which a Cauchy weight is one half
_MIN_MEDIAN_PX = 0.5  # accuracy of a feature
_MAX_RESIDUAL_PX = 60.0  # matches with a larger residual are wrong and not used
_INLIER = 4.0  # median residuals within which a match is an inlier
_MIN_DEPTH_M = 0.2  # points nearer to a camera, or behind it, have no residual
_CORRELATED = 16  # matches with correlated errors, which count as one
_PRIOR = np.repeat((0.1, np.radians(4.0)), 3)  # standard deviation of the given poses: m, rad


@dataclass(frozen=True)
class AdjustedPoses:
    """Adjusted poses and the residuals before and after."""

    T_map_cam_n44: np.ndarray
    # median residuals at the given and at the adjusted poses, px, of the inliers at the latter;
    # NaN without inliers
    given_px: float
    adjusted_px: float
    matches_n: np.ndarray  # number of inliers that each image sees


def adjust_poses(T_given_n44: np.ndarray, matches: Matches, focal_px: float) -> AdjustedPoses:
    """Minimize robust reprojection errors of measured points, with the given poses as prior.

    Gauss-Newton over motions of the cameras, with Cauchy weights scaled by the median residual.

    Args:
        T_given_n44: Poses as given.
        matches: Matches between the images.
        focal_px: Focal length that converts rays to pixels.
    """
    T_n44 = T_given_n44.copy()
    for _ in track(range(_MAX_STEPS), "adjust poses", _MAX_STEPS):
        change_n6 = _gauss_newton_step(T_n44, T_given_n44, matches, focal_px)
        T_n44 = np.array([retract(T, change) for T, change in zip(T_n44, change_n6, strict=True)])
        if np.abs(change_n6).max() < _CONVERGED:
            break
    given_m, adjusted_m = (
        np.linalg.norm(_residuals(T, matches, focal_px)[1], axis=1) for T in (T_given_n44, T_n44)
    )
    inlier_m = adjusted_m < _INLIER * _median(adjusted_m[adjusted_m < _MAX_RESIDUAL_PX])
    return AdjustedPoses(
        T_n44,
        _median(given_m[inlier_m]),
        _median(adjusted_m[inlier_m]),
        np.bincount(matches.seen_m[inlier_m], minlength=len(T_n44)),
    )


def _median(distances: np.ndarray) -> float:
    return float(np.median(distances)) if len(distances) else math.nan


def _residuals(
    T_n44: np.ndarray, matches: Matches, focal_px: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return points (m, 3) in the seeing camera, residuals (m, 2) px, and rotations (m, 3, 3).

    Residuals of points behind the camera are infinite. The rotations lead from the axes of the
    measuring camera to those of the seeing one.
    """
    R_a, t_a = T_n44[matches.measured_m, :3, :3], T_n44[matches.measured_m, :3, 3]
    R_b, t_b = T_n44[matches.seen_m, :3, :3], T_n44[matches.seen_m, :3, 3]
    R_m33 = np.swapaxes(R_b, 1, 2) @ R_a
    shifts_m3 = ((t_a - t_b)[:, None] @ R_b)[:, 0]
    points_m3 = (R_m33 @ matches.points_m3[..., None])[..., 0] + shifts_m3
    return points_m3, residuals_px(points_m3, matches.rays_m3, focal_px), R_m33


def residuals_px(points_m3: np.ndarray, rays_m3: np.ndarray, focal_px: float) -> np.ndarray:
    """Return reprojection errors (m, 2) of points (m, 3), camera frame, that are seen at rays.

    They are infinite for points behind the camera.
    """
    ahead_m = points_m3[:, 2] > _MIN_DEPTH_M
    ahead_m3 = np.where(ahead_m[:, None], points_m3, (0, 0, 1))
    residuals_m2 = focal_px * (ahead_m3[:, :2] / ahead_m3[:, 2:] - rays_m3[:, :2])
    return np.where(ahead_m[:, None], residuals_m2, np.inf)


def _gauss_newton_step(
    T_n44: np.ndarray, T_given_n44: np.ndarray, matches: Matches, focal_px: float
) -> np.ndarray:
    """Return the motion (n, 6) of each camera, as `retract` takes it."""
    points_m3, residuals_m2, R_m33 = _residuals(T_n44, matches, focal_px)
    distance_m = np.linalg.norm(residuals_m2, axis=1)
    kept = np.flatnonzero(distance_m < _MAX_RESIDUAL_PX)
    points_m3, residuals_m2, R_m33 = (v[kept] for v in (points_m3, residuals_m2, R_m33))
    median_px = np.fmax(_median(distance_m[kept]), _MIN_MEDIAN_PX)
    robust_m = cauchy_weight(distance_m[kept], _TUNING * median_px)
    weight_m = robust_m / (_CORRELATED * median_px**2)

    # A camera moved by d and rotated by w, in camera axes, sees a point q at q - d - w x q.
    x, y, z = points_m3.T
    project_m23 = np.zeros((len(kept), 2, 3))
    project_m23[:, 0, 0] = project_m23[:, 1, 1] = focal_px / z
    project_m23[:, :, 2] = -focal_px * np.stack([x, y], axis=1) / (z * z)[:, None]
    J_seen = np.concatenate([-project_m23, project_m23 @ skew(points_m3)], axis=2)
    rotated_m23 = project_m23 @ R_m33
    J_measured = np.concatenate([rotated_m23, -rotated_m23 @ skew(matches.points_m3[kept])], axis=2)

    ends_m2 = np.stack([matches.measured_m, matches.seen_m], axis=1)[kept]
    columns_mk = (6 * ends_m2[..., None] + np.arange(6)).reshape(-1, 12)
    J = sparse.csr_array(
        (
            np.concatenate([J_measured, J_seen], axis=2).ravel(),
            np.repeat(columns_mk, 2, axis=0).ravel(),
            12 * np.arange(2 * len(kept) + 1),
        ),
        shape=(2 * len(kept), 6 * len(T_n44)),
    )
    weighted = J.T.multiply(np.repeat(weight_m, 2)).tocsr()
    # The prior is isotropic, so it has the same form in the camera's axes.
    from_given = [local_coordinates(given, T) for given, T in zip(T_given_n44, T_n44, strict=True)]
    motion_n6 = _rotated(np.array(from_given), np.swapaxes(T_n44[:, :3, :3], 1, 2))
    prior_n6 = np.broadcast_to(_PRIOR**-2, motion_n6.shape)
    H = weighted @ J + sparse.diags_array(prior_n6.ravel())
    b = weighted @ residuals_m2.ravel() + (prior_n6 * motion_n6).ravel()
    return _rotated(spsolve(H.tocsc(), -b).reshape(-1, 6), T_n44[:, :3, :3])


def _rotated(motion_n6: np.ndarray, R_n33: np.ndarray) -> np.ndarray:
    """Return motions (n, 6) with both of their vectors rotated."""
    return (motion_n6.reshape(-1, 2, 3) @ np.swapaxes(R_n33, 1, 2)).reshape(-1, 6)
