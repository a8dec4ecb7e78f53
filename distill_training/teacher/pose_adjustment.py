"""Adjusts given poses until images agree on where things are that they see alike.

A bundle adjustment whose points are measured: only poses are unknown.
"""

from dataclasses import dataclass

import numpy as np
from scipy import sparse
from scipy.sparse.linalg import spsolve

from distill_training.teacher.features import Matches
from distill_training.teacher.robust import cauchy
from mote_localization.drift import motion_between, moved
from mote_localization.geometry import cross
from mote_localization.progress import track

_STEPS = 30
_ENOUGH = 1e-5  # m and rad: a smaller change is the last
_TUNING = 1.5  # medians at which a Cauchy weight has fallen to one half
_LEAST_MEDIAN_PX = 0.5  # features are not found to less
_REACH_PX = 60.0  # matches farther off are plain wrong
_LEAST_DEPTH_M = 0.2
_CORRELATED = 16  # matches that err alike
_PRIOR = np.repeat((0.1, np.radians(4.0)), 3)  # standard deviation of the given poses: m, rad


@dataclass(frozen=True)
class AdjustedPoses:
    """The poses on which images agree best."""

    T_map_cam_n44: np.ndarray
    given_px: float  # median distance of matches at the poses as given, px of the images
    adjusted_px: float  # the same at the adjusted poses
    matches_n: np.ndarray  # matches that agree about each pose, more or less


def adjust_poses(T_given_n44: np.ndarray, matches: Matches, focal_px: float) -> AdjustedPoses:
    """Minimize robust reprojection errors of measured points, given poses being a prior.

    Gauss-Newton with Cauchy weights that follow the median, over motions of the cameras.

    Args:
        T_given_n44: Poses as given.
        matches: What images see alike.
        focal_px: Focal length, that turns rays into pixels.
    """
    T_n44 = T_given_n44.copy()
    given_px = np.linalg.norm(_errors(T_n44, matches, focal_px)[1], axis=1)
    for _ in track(range(_STEPS), "adjust poses", _STEPS):
        change_n6 = _step(T_n44, T_given_n44, matches, focal_px)
        T_n44 = np.array([moved(T, change) for T, change in zip(T_n44, change_n6, strict=True)])
        if np.abs(change_n6).max() < _ENOUGH:
            break
    errors_px = np.linalg.norm(_errors(T_n44, matches, focal_px)[1], axis=1)
    kept_m = errors_px < _REACH_PX
    ends = np.concatenate([matches.measured_m[kept_m], matches.seen_m[kept_m]])
    return AdjustedPoses(
        T_n44,
        float(np.median(given_px[kept_m])),
        float(np.median(errors_px[kept_m])),
        np.bincount(ends, minlength=len(T_n44)),
    )


def _errors(
    T_n44: np.ndarray, matches: Matches, focal_px: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the points (m, 3) in the cameras that see them, errors (m, 2) px, and turns (m, 3, 3).

    The errors of what would be behind the camera are infinite; turns take the axes of the camera
    that measured to those of the one that sees.
    """
    R_a, t_a = T_n44[matches.measured_m, :3, :3], T_n44[matches.measured_m, :3, 3]
    R_b, t_b = T_n44[matches.seen_m, :3, :3], T_n44[matches.seen_m, :3, 3]
    turns_m33 = np.swapaxes(R_b, 1, 2) @ R_a
    shifts_m3 = ((t_a - t_b)[:, None] @ R_b)[:, 0]
    points_m3 = (turns_m33 @ matches.points_m3[..., None])[..., 0] + shifts_m3
    ahead_m = points_m3[:, 2] > _LEAST_DEPTH_M
    points_m3 = np.where(ahead_m[:, None], points_m3, (0, 0, 1))
    errors_m2 = focal_px * (points_m3[:, :2] / points_m3[:, 2:] - matches.rays_m3[:, :2])
    return points_m3, np.where(ahead_m[:, None], errors_m2, np.inf), turns_m33


def _step(
    T_n44: np.ndarray, T_given_n44: np.ndarray, matches: Matches, focal_px: float
) -> np.ndarray:
    """Return the motion (n, 6) of each camera that a Gauss-Newton step asks for."""
    points_m3, errors_m2, turns_m33 = _errors(T_n44, matches, focal_px)
    distance_m = np.linalg.norm(errors_m2, axis=1)
    kept = np.flatnonzero(distance_m < _REACH_PX)
    points_m3, errors_m2, turns_m33 = (v[kept] for v in (points_m3, errors_m2, turns_m33))
    median_px = max(float(np.median(distance_m[kept])) if len(kept) else 0, _LEAST_MEDIAN_PX)
    weight_m = cauchy(distance_m[kept] / (_TUNING * median_px)) / (_CORRELATED * median_px**2)

    # To a camera moved by d and turned by w, a point q is at q - d - w x q.
    x, y, z = points_m3.T
    project_m23 = np.zeros((len(kept), 2, 3))
    project_m23[:, 0, 0] = project_m23[:, 1, 1] = focal_px / z
    project_m23[:, :, 2] = -focal_px * np.stack([x, y], axis=1) / (z * z)[:, None]
    J_seen = np.concatenate([-project_m23, project_m23 @ cross(points_m3)], axis=2)
    turned_m23 = project_m23 @ turns_m33
    J_measured = np.concatenate([turned_m23, -turned_m23 @ cross(matches.points_m3[kept])], axis=2)

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
    from_given_n6 = np.array(
        [motion_between(given, T) for given, T in zip(T_given_n44, T_n44, strict=True)]
    )
    prior_n6 = np.broadcast_to(_PRIOR**-2, from_given_n6.shape)
    H = weighted @ J + sparse.diags_array(prior_n6.ravel())
    b = weighted @ errors_m2.ravel() + (prior_n6 * from_given_n6).ravel()
    return spsolve(H.tocsc(), -b).reshape(-1, 6)
