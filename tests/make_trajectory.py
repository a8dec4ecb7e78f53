"""A short trajectory with an estimate of it: known errors, another frame, another scale."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mote_localization.evaluation.pose_files import write_tum
from mote_localization.geometry import exp_rotation, rigid

FRAMES = 12
SCALE, MISSING = 1.25, 7  # of the estimate; its frame without a pose


def true_pose(i: int) -> np.ndarray:
    """Return T_map_cam of a frame on a rising curve."""
    return rigid(
        exp_rotation(np.array([0.1 * i, 0.3 * np.sin(i), -0.05 * i])),
        np.array([2 * np.cos(0.3 * i), 1.5 * np.sin(0.3 * i), 0.1 * i]),
    )


def estimated_pose(i: int) -> np.ndarray:
    """Return the pose with errors of some centimetres and degrees, in another frame."""
    T = true_pose(i)
    T[:3, 3] += 0.03 * np.sin(np.array([3.0, 5, 7]) * i)
    T[:3, :3] = T[:3, :3] @ exp_rotation(0.02 * np.cos(np.array([2.0, 4, 6]) * i))
    T[:3, 3] *= SCALE
    return rigid(exp_rotation(np.array([0.2, -0.1, 0.4])), np.array([0.5, -0.2, 0.3])) @ T


def write_trajectory(folder: Path) -> tuple[Path, Path]:
    """Write estimate.tum, without one frame, and truth.tum; return their paths."""
    estimate, truth = folder / "estimate.tum", folder / "truth.tum"
    kept = [i for i in range(FRAMES) if i != MISSING]
    write_tum(estimate, [(i / 10 + 0.004, estimated_pose(i)) for i in kept])
    write_tum(truth, [(i / 10, true_pose(i)) for i in range(FRAMES)])
    return estimate, truth
