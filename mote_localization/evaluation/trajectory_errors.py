"""APE and RPE of a trajectory, as evo defines them (github.com/MichaelGrupp/evo), and alignment."""

from typing import Literal

import numpy as np

from mote_localization.errors import MoteError
from mote_localization.geometry import invert, rotation_angle
from mote_localization.map_transform import FrameChange
from mote_localization.similarity import similarity

Alignment = Literal["none", "se3", "sim3"]


def trajectory_errors(
    T_true_n44: np.ndarray, T_map_cam_n44: np.ndarray
) -> dict[str, dict[str, float]]:
    """Return the statistics of a trajectory's errors.

    APE (absolute pose error): distance of the camera centres, and angle of T_true^-1 T. RPE
    (relative pose error): translation and angle of E = M_true^-1 M, where M is the motion from a
    pose to the next one.

    Args:
        T_true_n44: True poses, metres.
        T_map_cam_n44: Estimated poses of the same frames, in recording order.

    Returns:
        "ape_cm", "ape_deg", "rpe_cm", "rpe_deg" -> "rmse", "mean", "median"; without RPE for one
        pose, empty without poses.
    """
    errors = {
        "ape_cm": 100 * np.linalg.norm(T_map_cam_n44[:, :3, 3] - T_true_n44[:, :3, 3], axis=1),
        "ape_deg": _angles_deg(_relative(T_true_n44, T_map_cam_n44)),
    }
    if len(T_true_n44) > 1:
        motions = [_relative(T_n44[:-1], T_n44[1:]) for T_n44 in (T_true_n44, T_map_cam_n44)]
        E_n44 = _relative(*motions)
        errors["rpe_cm"] = 100 * np.linalg.norm(E_n44[:, :3, 3], axis=1)
        errors["rpe_deg"] = _angles_deg(E_n44)
    return {
        kind: {
            "rmse": float(np.sqrt(np.mean(errors_n**2))),
            "mean": float(np.mean(errors_n)),
            "median": float(np.median(errors_n)),
        }
        for kind, errors_n in errors.items()
        if len(errors_n)
    }


def fit_alignment(
    T_true_n44: np.ndarray, T_map_cam_n44: np.ndarray, alignment: Alignment
) -> FrameChange:
    """Return the transform that moves estimated camera centres onto the true ones.

    By least squares (Umeyama 1991): rotation and translation for se3, scale too for sim3.

    Args:
        T_true_n44: True poses.
        T_map_cam_n44: Estimated poses of the same frames.
        alignment: What is fitted.

    Raises:
        MoteError: The camera centres are fewer than three or on one line, which determines no
            rotation.
    """
    if alignment == "none":
        return FrameChange(np.eye(4))
    source_n3, target_n3 = T_map_cam_n44[:, :3, 3], T_true_n44[:, :3, 3]
    for centres_n3 in (source_n3, target_n3):
        if len(centres_n3) < 3 or np.linalg.matrix_rank(centres_n3 - centres_n3.mean(axis=0)) < 2:
            raise MoteError(
                f"--align {alignment}: found {len(centres_n3)} camera centres that are on one "
                "line, expected three or more that determine a rotation; leave out --align"
            )
    scale, T = similarity(source_n3, target_n3)
    if alignment == "se3":
        scale = 1.0
        T[:3, 3] = target_n3.mean(axis=0) - T[:3, :3] @ source_n3.mean(axis=0)
    return FrameChange(T, scale)


def _relative(T_from_n44: np.ndarray, T_to_n44: np.ndarray) -> np.ndarray:
    """Return T_from^-1 T_to of each pair (n, 4, 4)."""
    pairs = zip(T_from_n44, T_to_n44, strict=True)
    return np.array([invert(T_from) @ T_to for T_from, T_to in pairs]).reshape(-1, 4, 4)


def _angles_deg(T_n44: np.ndarray) -> np.ndarray:
    return np.degrees([rotation_angle(T[:3, :3]) for T in T_n44])
