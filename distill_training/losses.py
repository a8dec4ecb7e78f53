"""What a student is punished for."""

import torch
from torch import Tensor


def distillation_loss(
    points_bhw3: Tensor, sigma_bhw: Tensor, target_bhw3: Tensor, valid_bhw: Tensor
) -> Tensor:
    """Return the mean negative log-likelihood of the teacher's points under the student's sigma.

    Laplace in the 3-D distance d: log sigma + d / sigma, least where sigma is the expected distance
    (Kendall and Gal 2017, eq. 8 with the Laplace prior). So sigma is calibrated and cells that
    cannot be learned do not rule.

    Args:
        points_bhw3: The student's points, metres.
        sigma_bhw: Its expected error, metres.
        target_bhw3: The teacher's points, metres; anything where not valid.
        valid_bhw: Where the teacher knows.
    """
    target_bhw3 = torch.where(valid_bhw[..., None], target_bhw3, 0)
    distance_bhw = (points_bhw3 - target_bhw3).square().sum(-1).add(1e-8).sqrt()
    loss_bhw = sigma_bhw.log() + distance_bhw / sigma_bhw
    return _mean(loss_bhw, valid_bhw)


def reprojection_loss(
    points_bhw3: Tensor,
    pixels_bhw2: Tensor,
    T_cam_map_b44: Tensor,
    K_33: Tensor,
    valid_bhw: Tensor,
    bound_px: float,
) -> Tensor:
    """Return the mean robust reprojection error in pixels, in [0, bound_px).

    The error e of a cell counts as bound * tanh(e / bound) (Brachmann et al., ACE, CVPR 2023, eq.
    4), points nearer than 10 cm to the camera's plane as the bound.

    Args:
        points_bhw3: The student's points, metres, map frame.
        pixels_bhw2: Where each cell stands in its unaugmented canonical image.
        T_cam_map_b44: Map to camera.
        K_33: Canonical camera matrix.
        valid_bhw: Cells that lie on the unaugmented image.
        bound_px: Errors far above it no longer pull.
    """
    R, t = T_cam_map_b44[:, None, None, :3, :3], T_cam_map_b44[:, None, None, :3, 3]
    x, y, z = ((R @ points_bhw3[..., None])[..., 0] + t).unbind(-1)
    depth = z.clamp(min=0.1)
    u = K_33[0, 0] * x / depth + K_33[0, 2]
    v = K_33[1, 1] * y / depth + K_33[1, 2]
    error_bhw = (
        ((u - pixels_bhw2[..., 0]).square() + (v - pixels_bhw2[..., 1]).square()).add(1e-4).sqrt()
    )
    bounded = bound_px * torch.tanh(error_bhw / bound_px)
    return _mean(torch.where(z > 0.1, bounded, bound_px), valid_bhw)


def _mean(loss_bhw: Tensor, valid_bhw: Tensor) -> Tensor:
    """Return the mean over valid cells; 0 where there is none."""
    return loss_bhw[valid_bhw].sum() / valid_bhw.sum().clamp(min=1)
