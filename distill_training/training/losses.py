"""What a student is punished for."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

# Depths at which a point's pixel says where it is, m (Brachmann et al., ACE, CVPR 2023, 3.3).
_DEPTH_RANGE_M = (0.1, 1000.0)


@dataclass(frozen=True)
class Optics:
    """What canonical cameras show: points in range, on an image."""

    K_33: Tensor
    size_px: tuple[int, int]  # width and height
    depth_range_m: tuple[float, float] = _DEPTH_RANGE_M  # least and largest z

    def project(self, points_bhw3: Tensor, T_cam_map_b44: Tensor) -> tuple[Tensor, Tensor]:
        """Return the pixels (B, h, w, 2) of points, and which are in range (B, h, w).

        Pixels mean nothing out of range.
        """
        R_b1133, t_b113 = T_cam_map_b44[:, None, None, :3, :3], T_cam_map_b44[:, None, None, :3, 3]
        x_bhw1, y_bhw1, z_bhw1 = points_bhw3.split(1, dim=-1)
        # Not a matrix product: accelerators round those to 10 bits where they may, which is pixels.
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
    """Return the depths z at which points of a place may lie, by two corners of it, metres.

    Cameras and almost all points lie between the corners; where the scale is unknown, 10 cm may be
    far.
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
    and Gal 2017, eq. 8 with the Laplace prior). The student's and the teacher's error are
    independent, so the distance expected is b = sqrt(sigma^2 + target_sigma^2). So sigma is the
    student's own error, calibrated against the truth and not against the teacher; cells that
    cannot be learned do not rule, nor do those that the teacher is unsure of.

    Args:
        points_bhw3: The student's points, metres.
        sigma_bhw: Its expected error, metres.
        target_bhw3: The teacher's points, metres; anything where not valid.
        valid_bhw: Where the teacher knows.
        target_sigma_bhw: The teacher's expected error, metres; None: it makes none.
    """
    target_bhw3 = torch.where(valid_bhw[..., None], target_bhw3, 0)
    distance_bhw = (points_bhw3 - target_bhw3).square().sum(-1).add(1e-8).sqrt()
    expected_bhw = sigma_bhw
    if target_sigma_bhw is not None:
        expected_bhw = torch.hypot(sigma_bhw, torch.where(valid_bhw, target_sigma_bhw, 0))
    return _mean(expected_bhw.log() + distance_bhw / expected_bhw, valid_bhw)


def reprojection_loss(
    points_bhw3: Tensor,
    pixels_bhw2: Tensor,
    T_cam_map_b44: Tensor,
    optics: Optics,
    valid_bhw: Tensor,
    bound_px: float,
) -> Tensor:
    """Return the mean robust reprojection error in pixels, in [0, bound_px].

    The error e of a cell counts as bound * tanh(e / bound) (ACE, eq. 4). A point behind the
    camera or out of range counts as the bound and is not pulled by its pixel error, which says
    nothing there: the distillation loss alone brings it back, to the teacher's point.

    Args:
        points_bhw3: The student's points, metres, map frame.
        pixels_bhw2: Where each cell stands in the canonical image of a camera.
        T_cam_map_b44: Map to that camera.
        optics: Of all cameras.
        valid_bhw: Cells that count.
        bound_px: Errors far above it no longer pull.
    """
    seen_bhw2, in_range_bhw = optics.project(points_bhw3, T_cam_map_b44)
    error_bhw = (seen_bhw2 - pixels_bhw2).square().sum(-1).add(1e-4).sqrt()
    bounded_bhw = bound_px * torch.tanh(error_bhw / bound_px)
    return _mean(torch.where(in_range_bhw, bounded_bhw, bound_px), valid_bhw)


def neighbour_loss(
    points_bhw3: Tensor,
    target_bhw3: Tensor,
    T_near_map_b44: Tensor,
    optics: Optics,
    valid_bhw: Tensor,
    bound_px: float,
) -> Tensor:
    """Return likewise the error in a neighbouring image, to where the teacher's point stands there.

    A cell's own image says nothing about how far away its point is; a neighbour's does, in pixels.
    Cells whose teacher's point is not in the neighbour's image do not count.

    Args:
        points_bhw3: The student's points, metres, map frame.
        target_bhw3: The teacher's points, likewise; anything where not valid.
        T_near_map_b44: Map to the neighbour's camera.
        optics: Of all cameras.
        valid_bhw: Where the teacher knows.
        bound_px: Errors far above it no longer pull.
    """
    target_bhw3 = torch.where(valid_bhw[..., None], target_bhw3, 0)
    pixels_bhw2, in_range_bhw = optics.project(target_bhw3, T_near_map_b44)
    limits_2 = pixels_bhw2.new_tensor(optics.size_px) - 0.5
    shown_bhw = ((pixels_bhw2 > -0.5) & (pixels_bhw2 < limits_2)).all(-1)
    counted_bhw = valid_bhw & shown_bhw & in_range_bhw
    return reprojection_loss(
        points_bhw3, pixels_bhw2, T_near_map_b44, optics, counted_bhw, bound_px
    )


def _mean(loss_bhw: Tensor, valid_bhw: Tensor) -> Tensor:
    """Return the mean over valid cells; 0 where there is none."""
    return torch.where(valid_bhw, loss_bhw, 0).sum() / valid_bhw.sum().clamp(min=1)
