"""Training losses: distillation, reprojection, and reprojection into a neighbouring image."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

# Depths at which a point's pixel constrains the point, m (Brachmann et al., ACE, CVPR 2023, 3.3).
_DEPTH_RANGE_M = (0.1, 1000.0)


@dataclass(frozen=True)
class Optics:
    """Projects points into a canonical camera."""

    K_33: Tensor
    size_px: tuple[int, int]  # width and height
    depth_range_m: tuple[float, float] = _DEPTH_RANGE_M  # least and largest z

    def project(self, points_bhw3: Tensor, T_cam_map_b44: Tensor) -> tuple[Tensor, Tensor]:
        """Return the pixels (B, h, w, 2) of points, and a mask (B, h, w) of the points in range.

        Pixels of points out of range are undefined.
        """
        R_b1133, t_b113 = T_cam_map_b44[:, None, None, :3, :3], T_cam_map_b44[:, None, None, :3, 3]
        x_bhw1, y_bhw1, z_bhw1 = points_bhw3.split(1, dim=-1)
        # Not a matrix product: accelerators may round its factors to 10 bits, an error of pixels.
        points_cam_bhw3 = (
            x_bhw1 * R_b1133[..., 0] + y_bhw1 * R_b1133[..., 1] + z_bhw1 * R_b1133[..., 2] + t_b113
        )
        z_bhw, (nearest, farthest) = points_cam_bhw3[..., 2], self.depth_range_m
        xy_bhw2 = points_cam_bhw3[..., :2] / z_bhw.clamp(min=nearest)[..., None]
        pixels_bhw2 = self.K_33.diagonal()[:2] * xy_bhw2 + self.K_33[:2, 2]
        return pixels_bhw2, (z_bhw > nearest) & (z_bhw < farthest)


def depth_range(
    bounds_min: tuple[float, ...], bounds_max: tuple[float, ...]
) -> tuple[float, float]:
    """Return the least and the largest depth z of points in a place, metres.

    All cameras and almost all points lie within the place. The range follows its size, because
    10 cm may be far where the scale is unknown.

    Args:
        bounds_min: Least coordinates of the place, metres.
        bounds_max: Largest coordinates of the place, metres.
    """
    nearest, farthest = _DEPTH_RANGE_M
    diagonal = math.dist(bounds_min, bounds_max)
    return min(nearest, 0.02 * diagonal), min(farthest, 1.5 * diagonal)


def distillation_loss(
    points_bhw3: Tensor,
    sigma_bhw: Tensor,
    target_bhw3: Tensor,
    valid_bhw: Tensor,
    target_sigma_bhw: Tensor | None = None,
) -> Tensor:
    """Return the mean negative log-likelihood of the teacher's points under both sigmas.

    Laplace in the 3-D distance d: log b + d / b, least where b is the expected distance (Kendall
    and Gal 2017, eq. 8 with the Laplace prior). The errors of student and teacher are independent,
    so b = sqrt(sigma^2 + target_sigma^2). Sigma therefore estimates the student's own error with
    respect to the truth, not to the teacher. Cells with a large sigma have small gradients.

    Args:
        points_bhw3: The student's points, metres.
        sigma_bhw: The student's expected error, metres.
        target_bhw3: The teacher's points, metres; any value where not valid.
        valid_bhw: Cells that have a teacher's point.
        target_sigma_bhw: The teacher's expected error, metres; None: zero.
    """
    target_bhw3 = torch.where(valid_bhw[..., None], target_bhw3, 0)
    distance_bhw = (points_bhw3 - target_bhw3).square().sum(-1).add(1e-8).sqrt()
    expected_bhw = sigma_bhw
    if target_sigma_bhw is not None:
        expected_bhw = torch.hypot(sigma_bhw, torch.where(valid_bhw, target_sigma_bhw, 0))
    return _masked_mean(expected_bhw.log() + distance_bhw / expected_bhw, valid_bhw)


def reprojection_loss(
    points_bhw3: Tensor,
    pixels_bhw2: Tensor,
    T_cam_map_b44: Tensor,
    optics: Optics,
    valid_bhw: Tensor,
    bound_px: float,
) -> Tensor:
    """Return the mean robust reprojection error in pixels, in [0, bound_px].

    The error e of a cell counts as bound * tanh(e / bound) (ACE, eq. 4). A point behind the camera
    or out of range counts as the bound and has no gradient, because its pixel is undefined. The
    distillation loss alone pulls such a point back to the teacher's point.

    Args:
        points_bhw3: The student's points, metres, map frame.
        pixels_bhw2: Position of each cell in the canonical image of a camera.
        T_cam_map_b44: Map to that camera.
        optics: Projection of all cameras.
        valid_bhw: Cells that count.
        bound_px: Errors far above the bound have almost no gradient.
    """
    projected_bhw2, in_range_bhw = optics.project(points_bhw3, T_cam_map_b44)
    error_bhw = (projected_bhw2 - pixels_bhw2).square().sum(-1).add(1e-4).sqrt()
    bounded_bhw = bound_px * torch.tanh(error_bhw / bound_px)
    return _masked_mean(torch.where(in_range_bhw, bounded_bhw, bound_px), valid_bhw)


def neighbour_loss(
    points_bhw3: Tensor,
    target_bhw3: Tensor,
    T_near_map_b44: Tensor,
    optics: Optics,
    valid_bhw: Tensor,
    bound_px: float,
) -> Tensor:
    """Return the reprojection loss in a neighbouring image, against the teacher's points there.

    The reprojection error in a cell's own image does not depend on the depth of its point; the
    error in a neighbour's does. Only cells whose teacher's point projects into it count.

    Args:
        points_bhw3: The student's points, metres, map frame.
        target_bhw3: The teacher's points, metres, map frame; any value where not valid.
        T_near_map_b44: Map to the neighbour's camera.
        optics: Projection of all cameras.
        valid_bhw: Cells that have a teacher's point.
        bound_px: Errors far above the bound have almost no gradient.
    """
    target_bhw3 = torch.where(valid_bhw[..., None], target_bhw3, 0)
    pixels_bhw2, in_range_bhw = optics.project(target_bhw3, T_near_map_b44)
    (x_bhw, y_bhw), (width, height) = pixels_bhw2.unbind(-1), optics.size_px
    counted_bhw = valid_bhw & in_range_bhw & (x_bhw > -0.5) & (x_bhw < width - 0.5)
    counted_bhw &= (y_bhw > -0.5) & (y_bhw < height - 0.5)
    return reprojection_loss(
        points_bhw3, pixels_bhw2, T_near_map_b44, optics, counted_bhw, bound_px
    )


def _masked_mean(loss_bhw: Tensor, valid_bhw: Tensor) -> Tensor:
    """Return the mean over valid cells; 0 where there is none."""
    return torch.where(valid_bhw, loss_bhw, 0).sum() / valid_bhw.sum().clamp(min=1)
