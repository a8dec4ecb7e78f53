"""Rigid transforms. `T_a_b` maps points of frame b to frame a; adjacent frames cancel."""

import math
from typing import Any

import numpy as np

from mote_localization.errors import SceneError

_CHI2_6 = 22.46  # 99.9 % of chi-squared with the six degrees of freedom of a pose
# Largest error of R R^T: text files have few digits, and trackers accumulate rounding errors.
_ORTHONORMAL_TOLERANCE = 1e-2
_ROUNDING = 1e-12  # error of R R^T in double precision


def rigid(R_33: np.ndarray, t_3: np.ndarray) -> np.ndarray:
    """Return the rigid transform (4, 4) of a rotation and a translation."""
    T = np.eye(4)
    T[:3, :3], T[:3, 3] = R_33, t_3
    return T


def invert(T_44: np.ndarray) -> np.ndarray:
    """Return the inverse of a rigid transform (4, 4)."""
    R, t = T_44[:3, :3], T_44[:3, 3]
    return rigid(R.T, -R.T @ t)


def transform(T_44: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Apply a rigid transform (4, 4) to points (..., 3)."""
    return points @ T_44[:3, :3].T + T_44[:3, 3]


def rotation_angle(R_33: np.ndarray) -> float:
    """Return the angle of a rotation in radians, in [0, pi]."""
    # From sine and cosine: the arc cosine alone loses half of its digits near 0 and pi.
    sine = np.linalg.norm(R_33[[2, 0, 1], [1, 2, 0]] - R_33[[1, 2, 0], [2, 0, 1]]) / 2
    return float(np.arctan2(sine, (np.trace(R_33) - 1) / 2))


def rotation_angles(R_n33: np.ndarray, R_33: np.ndarray) -> np.ndarray:
    """Return the angles (n,) between rotations and one other, in radians, in [0, pi].

    They follow from the trace alone, which is fast, but exact only to 1e-8 near 0 and pi.
    """
    traces_n = R_n33.reshape(-1, 9) @ R_33.reshape(9)
    return np.arccos(((traces_n - 1) / 2).clip(-1, 1))


def depth_in_camera(points: np.ndarray, T_map_cam: np.ndarray) -> np.ndarray:
    """Return the depth (...) of points (..., 3), map frame, along a camera's optical axis."""
    return (points - T_map_cam[:3, 3]) @ T_map_cam[:3, 2]


def quaternion_xyzw(R_33: np.ndarray) -> np.ndarray:
    """Return the unit quaternion (x, y, z, w) of a rotation, the order of ROS messages."""
    (xx, xy, xz), (yx, yy, yz), (zx, zy, zz) = R_33
    # 4 q q^T; the longest row is the best conditioned (Shepperd 1978).
    rows = np.array(
        [
            [1 + xx - yy - zz, xy + yx, xz + zx, zy - yz],
            [xy + yx, 1 - xx + yy - zz, yz + zy, xz - zx],
            [xz + zx, yz + zy, 1 - xx - yy + zz, yx - xy],
            [zy - yz, xz - zx, yx - xy, 1 + xx + yy + zz],
        ]
    )
    longest = rows[rows.diagonal().argmax()]
    return longest / np.linalg.norm(longest)


def rotation_matrix(q_xyzw: np.ndarray) -> np.ndarray:
    """Return the rotation (3, 3) of a quaternion (x, y, z, w), normalized or not."""
    return np.array(_rotation_rows(*(q_xyzw / np.linalg.norm(q_xyzw)).tolist()))  # fast as floats


def _rotation_rows(x: Any, y: Any, z: Any, w: Any) -> list[list[Any]]:
    """Return the rows of the rotation of a unit quaternion, or of an array of each component."""
    return [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]


def mean_rotation(R_n33: np.ndarray, weights_n: np.ndarray | None = None) -> np.ndarray:
    """Return the chordal mean (3, 3) of rotations (Hartley et al. 2013, Rotation Averaging)."""
    U, _, Vt = np.linalg.svd(np.average(R_n33, axis=0, weights=weights_n))
    return (U * (1, 1, np.linalg.det(U) * np.linalg.det(Vt))) @ Vt


def exp_rotation(omega_3: np.ndarray) -> np.ndarray:
    """Return the rotation (3, 3) by |omega| radians about omega."""
    half = math.sqrt(omega_3 @ omega_3) / 2
    sinc = math.sin(half) / half if half else 1.0
    x, y, z = (omega_3 * (sinc / 2)).tolist()
    return rotation_matrix(np.array([x, y, z, math.cos(half)]))


def log_rotation(R_33: np.ndarray) -> np.ndarray:
    """Return the rotation vector (3,) in radians of a rotation; the inverse of `exp_rotation`."""
    x, y, z, w = quaternion_xyzw(R_33)
    vector_3 = np.array([x, y, z]) * (1 if w >= 0 else -1)
    length = np.linalg.norm(vector_3)
    return vector_3 * (2 * np.arctan2(length, abs(w)) / length if length else 2)


def local_coordinates(T_map_from: np.ndarray, T_map_to: np.ndarray) -> np.ndarray:
    """Return the motion from one pose (4, 4) to another: x y z rotX rotY rotZ (6,), m and rad.

    Translation and rotation vector are along the axes of the map, the rotation is about the
    camera's position. Covariances of poses have the same coordinates.
    """
    rotation_3 = log_rotation(T_map_to[:3, :3] @ T_map_from[:3, :3].T)
    return np.concatenate([T_map_to[:3, 3] - T_map_from[:3, 3], rotation_3])


def is_explained(motion_6: np.ndarray, covariance_66: np.ndarray) -> bool:
    """Return whether a motion, see `local_coordinates`, is within 99.9 % of its covariance."""
    return bool(motion_6 @ np.linalg.solve(covariance_66, motion_6) < _CHI2_6)


def retract(T_map_cam: np.ndarray, motion_6: np.ndarray) -> np.ndarray:
    """Return the pose (4, 4) moved by a motion (6,); the inverse of `local_coordinates`."""
    T = T_map_cam.copy()
    T[:3, 3] += motion_6[:3]
    T[:3, :3] = exp_rotation(motion_6[3:]) @ T_map_cam[:3, :3]
    return T


def covariance_at(covariance_66: np.ndarray, lever_3: np.ndarray) -> np.ndarray:
    """Return the covariance (6, 6) of the pose of another frame that is fixed to the first one.

    A rotation about the first frame's origin moves the other's: this is the adjoint of the rigid
    transform between them (Barfoot 2017, State Estimation for Robotics, 7.1.4).

    Args:
        covariance_66: Covariance of the first frame's pose, see `local_coordinates`.
        lever_3: From the first frame's origin to the other's, along the axes of the map, m.
    """
    J_66 = np.eye(6)
    J_66[:3, 3:] = -skew(lever_3)
    return J_66 @ covariance_66 @ J_66.T


def skew(v: np.ndarray) -> np.ndarray:
    """Return matrices (..., 3, 3) whose product with w is the cross product v x w."""
    x, y, z = np.moveaxis(v, -1, 0)
    zero = np.zeros_like(x)
    rows = [[zero, -z, y], [z, zero, -x], [-y, x, zero]]
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


def on_same_surface(depth: Any, reference: Any, tolerance: float) -> Any:
    """Return whether depths differ from a reference by at most a fraction of it.

    Larger differences between neighbours are those of two surfaces. Takes arrays or tensors (...).
    """
    return abs(depth - reference) <= tolerance * reference


def pose_from(position_3: np.ndarray, q_xyzw: np.ndarray) -> np.ndarray:
    """Return the transform (4, 4) of a position in metres and a quaternion (x, y, z, w)."""
    return rigid(rotation_matrix(q_xyzw), position_3)


def poses_from(positions_n3: np.ndarray, q_n4: np.ndarray) -> np.ndarray:
    """Return the transforms (n, 4, 4) of positions in metres and quaternions (x, y, z, w)."""
    T_n44 = np.tile(np.eye(4), (len(q_n4), 1, 1))
    rows = _rotation_rows(*(q_n4 / np.linalg.norm(q_n4, axis=1, keepdims=True)).T)
    T_n44[:, :3, :3] = np.moveaxis(np.array(rows), 2, 0)
    T_n44[:, :3, 3] = positions_n3
    return T_n44


def check_pose(T_44: np.ndarray, where: str) -> np.ndarray:
    """Return the pose with an exactly orthonormal rotation.

    Args:
        T_44: A camera pose from a file.
        where: File or frame that it comes from, for the message.

    Raises:
        SceneError: The pose is not 4x4, not finite, or its 3x3 part is not a rotation.
    """
    if T_44.shape != (4, 4):
        raise SceneError(f"{where}: found a pose of shape {T_44.shape}, expected 4x4")
    if not np.isfinite(T_44).all():
        raise SceneError(
            f"{where}: the pose holds NaN or infinity; remove this frame or correct its pose"
        )
    R = T_44[:3, :3]
    deviation = np.abs(R @ R.T - np.eye(3)).max()
    if deviation > _ORTHONORMAL_TOLERANCE or np.linalg.det(R) < 0:
        raise SceneError(
            f"{where}: the pose's 3x3 part is not a rotation (R R^T differs from identity by "
            f"{deviation:.3g}, determinant {np.linalg.det(R):.3g}); expected camera-to-map, metres"
        )
    if np.abs(T_44[3] - (0, 0, 0, 1)).max() > 1e-6:
        raise SceneError(f"{where}: the pose's last row is {T_44[3]}, expected 0 0 0 1")
    checked = T_44.astype(np.float64)
    if deviation > _ROUNDING:  # a rotation that is orthonormal already keeps every digit
        U, _, Vt = np.linalg.svd(R)
        checked[:3, :3] = U @ Vt
    return checked
