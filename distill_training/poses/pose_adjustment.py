"""Adjusts given poses until images agree on where things are that they see alike.

A bundle adjustment whose points are measured: only poses are unknown.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy import sparse
from scipy.sparse.linalg import spsolve

from distill_training.common.robust import cauchy_weight
from distill_training.poses.features import Matches
from mote_localization.geometry import local_coordinates, retract, skew
from mote_localization.progress import track

_STEPS = 30
_ENOUGH = 1e-5  # m and rad: a smaller change is the last
_TUNING = 1.5  # medians at which a Cauchy weight has fallen to one half
_LEAST_MEDIAN_PX = 0.5  # features are not found to less
_REACH_PX = 60.0  # matches farther off are plain wrong
_AGREEING = 4.0  # medians within which a match agrees with the adjusted poses
_LEAST_DEPTH_M = 0.2
_CORRELATED = 16  # matches that err alike
_PRIOR = np.repeat((0.1, np.radians(4.0)), 3)  # standard deviation of the given poses: m, rad


@dataclass(frozen=True)
class AdjustedPoses:
    """The poses on which images agree best."""

    T_map_cam_n44: np.ndarray
    # median distances of the matches that agree at the adjusted poses: there, and where the given
    # ones put them; px, NaN where none agree
    given_px: float
    adjusted_px: float
    matches_n: np.ndarray  # how many of these each image sees


def adjust_poses(T_given_n44: np.ndarray, matches: Matches, focal_px: float) -> AdjustedPoses:
    """Minimize robust reprojection errors of measured points, given poses being a prior.

    Gauss-Newton with Cauchy weights that follow the median, over motions of the cameras.

    Args:
        T_given_n44: Poses as given.
        matches: What images see alike.
        focal_px: Focal length, that turns rays into pixels.
    """
    T_n44 = T_given_n44.copy()
    for _ in track(range(_STEPS), "adjust poses", _STEPS):
        change_n6 = _step(T_n44, T_given_n44, matches, focal_px)
        T_n44 = np.array([retract(T, change) for T, change in zip(T_n44, change_n6, strict=True)])
        if np.abs(change_n6).max() < _ENOUGH:
            break
    given_m, adjusted_m = (
        np.linalg.norm(_errors(T, matches, focal_px)[1], axis=1) for T in (T_given_n44, T_n44)
    )
    agree_m = adjusted_m < _AGREEING * _median(adjusted_m[adjusted_m < _REACH_PX])
    return AdjustedPoses(
        T_n44,
        _median(given_m[agree_m]),
        _median(adjusted_m[agree_m]),
        np.bincount(matches.seen_m[agree_m], minlength=len(T_n44)),
    )


def _median(distances: np.ndarray) -> float:
    return float(np.median(distances)) if len(distances) else math.nan


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
    """Return the motion (n, 6) of each camera, see `moved`, that a Gauss-Newton step asks for."""
    points_m3, errors_m2, turns_m33 = _errors(T_n44, matches, focal_px)
    distance_m = np.linalg.norm(errors_m2, axis=1)
    kept = np.flatnonzero(distance_m < _REACH_PX)
    points_m3, errors_m2, turns_m33 = (v[kept] for v in (points_m3, errors_m2, turns_m33))
    median_px = np.fmax(_median(distance_m[kept]), _LEAST_MEDIAN_PX)
    weight_m = cauchy_weight(distance_m[kept], _TUNING * median_px) / (_CORRELATED * median_px**2)

    # To a camera moved by d and turned by w, in its own axes, a point q is at q - d - w x q.
    x, y, z = points_m3.T
    project_m23 = np.zeros((len(kept), 2, 3))
    project_m23[:, 0, 0] = project_m23[:, 1, 1] = focal_px / z
    project_m23[:, :, 2] = -focal_px * np.stack([x, y], axis=1) / (z * z)[:, None]
    J_seen = np.concatenate([-project_m23, project_m23 @ skew(points_m3)], axis=2)
    turned_m23 = project_m23 @ turns_m33
    J_measured = np.concatenate([turned_m23, -turned_m23 @ skew(matches.points_m3[kept])], axis=2)

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
    # The prior is the same along all axes: it is as well written in the camera's.
    from_given = [local_coordinates(given, T) for given, T in zip(T_given_n44, T_n44, strict=True)]
    own_n6 = _turned(np.array(from_given), np.swapaxes(T_n44[:, :3, :3], 1, 2))
    prior_n6 = np.broadcast_to(_PRIOR**-2, own_n6.shape)
    H = weighted @ J + sparse.diags_array(prior_n6.ravel())
    b = weighted @ errors_m2.ravel() + (prior_n6 * own_n6).ravel()
    return _turned(spsolve(H.tocsc(), -b).reshape(-1, 6), T_n44[:, :3, :3])


def _turned(motion_n6: np.ndarray, R_n33: np.ndarray) -> np.ndarray:
    """Return motions in other axes."""
    return (motion_n6.reshape(-1, 2, 3) @ np.swapaxes(R_n33, 1, 2)).reshape(-1, 6)
