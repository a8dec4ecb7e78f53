"""The rotation to a frame with z up, from the poses of cameras."""

from collections.abc import Sequence

import numpy as np

_ROLL = np.sin(np.radians(10))  # sine of the roll at which a camera's weight is one half
_VIEW_WEIGHT = 0.02  # of a viewing direction, beside 1 for an x axis
_STEPS = 10  # of reweighted least squares, enough to converge


def level_rotation(poses: Sequence[np.ndarray]) -> np.ndarray:
    """Return the rotation (3, 3) to a frame with z up and x along the first camera's view.

    People and robots hold cameras without roll, at any pitch. Up is therefore the direction most
    orthogonal to the cameras' x axes. The viewing directions count too, with a small weight: they
    decide where the x axes are nearly parallel. Robust weights exclude a few rolled cameras.

    Args:
        poses: T_frame_cam (4, 4), one or more, in any frame.
    """
    axes_n33 = np.array(poses)[:, :3, :3]
    x, up_image, view = axes_n33[:, :, 0], -axes_n33[:, :, 1], axes_n33[:, :, 2]
    up = up_image.mean(0)
    for _ in range(_STEPS):
        weights = 1 / (1 + (x @ up / _ROLL) ** 2)  # of a Cauchy M-estimator
        scatter = (weights[:, None] * x).T @ x + _VIEW_WEIGHT * (weights[:, None] * view).T @ view
        up = np.linalg.eigh(scatter)[1][:, 0]
        up *= 1 if up @ (weights @ up_image) >= 0 else -1
    first = axes_n33[0]
    ahead = first[:, 2] - first[:, 2] @ up * up
    if np.linalg.norm(ahead) < 0.1:  # the first camera looks straight up or down
        ahead = np.cross(up, first[:, 0])
    ahead /= np.linalg.norm(ahead)
    return np.stack([ahead, np.cross(up, ahead), up])
