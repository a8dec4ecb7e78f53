"""Alignment: poses, scales and focal lengths on which the pairwise predictions agree."""

import logging
from dataclasses import dataclass, replace

import numpy as np

from distill_training.poses.image_pairs import Pair, components
from distill_training.teachers.pairwise.focal_lengths import estimate_log_focal_ratios
from distill_training.teachers.pairwise.fusion import fuse
from distill_training.teachers.pairwise.global_adjustment import (
    Adjustment,
    AdjustmentProblem,
    Cameras,
)
from distill_training.teachers.pairwise.observations import (
    Observations,
    estimate_pair_scales,
    fit_scales,
    pairs_by_image,
)
from distill_training.teachers.pairwise.relative_pose import (
    RelativePoses,
    angles_between,
    diagnose_pose_convention,
    estimate_relative_poses,
    given_relative_poses,
)
from distill_training.teachers.pairwise.spanning_tree import initialize_along_spanning_tree
from mote_localization.errors import ReconstructionError
from mote_localization.geometry import invert, transform
from mote_localization.progress import track

_log = logging.getLogger(__name__)
_ROUNDS = 3  # alternations between adjusting the cameras and fusing the depth
_OUTLIER = 3.0  # pairs with an error above this many medians are rejected
# Lower and upper bound of the rejection threshold.
_RESIDUAL_BOUNDS = (0.05, 0.2)  # fraction of the depth
_ANGLE_BOUNDS = (np.radians(5.0), np.radians(20.0))
# Another pose convention is reported if more pairs agree with it, by this number and this factor.
_CONVENTION_MARGIN = 3
_FEW, _MANY, _MOST = 0.15, 0.35, 0.65  # fractions of the pairs
_MIN_BASELINE = 1e-4  # fraction of the depth; shorter baselines do not determine the scale
_MAX_UNIT_SIGMA = 0.1  # of the log unit; images with a larger value are not aligned


@dataclass(frozen=True)
class Alignment:
    """All images in one frame."""

    directed: list[Pair]  # the directed pairs (first, second), in the order of the arrays (e,)
    cameras: Cameras
    log_scales_e: np.ndarray  # log of the first image's units per pair unit
    consistent_e: np.ndarray  # bool: the points of the pair fit one similarity
    used_e: np.ndarray  # bool: consistent, and agrees with the other pairs
    aligned_i: np.ndarray  # bool: connected with the other images, and its scale is determined
    unit_sigma_i: np.ndarray  # standard deviation of each image's log unit

    def pairs(self, which_e: np.ndarray) -> list[Pair]:
        """Return the directed pairs at which a mask (e,) is set."""
        return [self.directed[e] for e in np.flatnonzero(which_e)]

    def in_camera(self, image: int, pair: int, first: int, points: np.ndarray) -> np.ndarray:
        """Return points (..., 3) of a directed pair in the camera frame of an image, map units.

        `first` is the first image of the pair, in whose camera frame the points are predicted.
        """
        unit = float(np.exp(self.log_scales_e[pair] + self.cameras.log_unit_i[first]))
        T_image_first = invert(self.cameras.pose(image)) @ self.cameras.pose(first)
        return transform(T_image_first, unit * points)


def align(
    observations: Observations,
    lens_i: np.ndarray,
    lens_known_l: np.ndarray,
    T_map_cam_i44: np.ndarray | None,
) -> Alignment:
    """Estimate scales, and poses and focal lengths where these are unknown.

    Args:
        observations: Pair predictions at sampled cells.
        lens_i: Lens of each image.
        lens_known_l: Whether the initial focal length of each lens is exact.
        T_map_cam_i44: Given poses, m; None: poses are estimated, in any frame and unit.

    Raises:
        ReconstructionError: The given poses have another convention, or are of other images.
    """
    o = observations
    poses_known = T_map_cam_i44 is not None
    log_ratio_l, sigma = estimate_log_focal_ratios(o, lens_i)
    log_ratio_sigma_l = np.where(lens_known_l, 0.0, sigma)
    cameras = Cameras.at_origin(lens_i, np.where(lens_known_l, 0.0, log_ratio_l))
    rays_in3 = cameras.rays(o.rays_in3)
    log_scales_e, depth_in = estimate_pair_scales(o, rays_in3)
    relative = estimate_relative_poses(o, rays_in3, log_scales_e, depth_in)
    good_p = _not_outliers(relative.residual_p, _RESIDUAL_BOUNDS)
    consistent_e = relative.directed(good_p, len(o.first_e))
    if T_map_cam_i44 is not None:
        good_p &= _agree_with_poses(relative, good_p, T_map_cam_i44)
        cameras = replace(cameras, R_i33=T_map_cam_i44[:, :3, :3], t_i3=T_map_cam_i44[:, :3, 3])
    else:
        good_p = _in_largest_component(relative, good_p, o.images)
        cameras = initialize_along_spanning_tree(relative, good_p, cameras)
    none_e, none_i = np.zeros_like(consistent_e), np.zeros(o.images, bool)
    unknown_i = np.full(o.images, np.inf)
    directed = list(zip(o.first_e.tolist(), o.second_e.tolist(), strict=True))
    alignment = Alignment(directed, cameras, log_scales_e, consistent_e, none_e, none_i, unknown_i)
    for round_ in track(range(1, _ROUNDS + 1), "align", _ROUNDS):
        if not good_p.any():
            return replace(alignment, used_e=none_e, aligned_i=none_i)
        used_e = relative.directed(good_p, len(consistent_e))
        problem = AdjustmentProblem(
            o, log_scales_e, depth_in, used_e, poses_known, log_ratio_sigma_l
        )
        adjusted = problem.solve(cameras)
        cameras = adjusted.cameras
        aligned_i = _aligned(adjusted, relative, good_p, poses_known)
        alignment = Alignment(
            directed, cameras, log_scales_e, consistent_e, used_e, aligned_i, adjusted.unit_sigma_i
        )
        if round_ == _ROUNDS:
            break
        depth_in = _fused_depth(o, alignment)
        log_scales_e = fit_scales(o, cameras.rays(o.rays_in3), depth_in)
        residual_p = np.fmax(
            adjusted.residual_e[relative.forward_p], adjusted.residual_e[relative.backward_p]
        )
        good_p &= _not_outliers(residual_p, _RESIDUAL_BOUNDS)
        if T_map_cam_i44 is None:
            good_p = _in_largest_component(relative, good_p, o.images)
        else:
            error_p = _position_errors(relative, cameras.log_unit_i, T_map_cam_i44)
            good_p &= _not_outliers(np.where(good_p, error_p, np.inf), _RESIDUAL_BOUNDS)
    return alignment


def _not_outliers(error_p: np.ndarray, bounds: tuple[float, float]) -> np.ndarray:
    """Return which pairs have an error below three medians, within bounds for that threshold."""
    known = error_p[np.isfinite(error_p)]
    threshold = _OUTLIER * float(np.median(known)) if len(known) else 0.0
    return error_p <= np.clip(threshold, *bounds)


def _agree_with_poses(
    relative: RelativePoses, good_p: np.ndarray, T_map_cam_i44: np.ndarray
) -> np.ndarray:
    """Return which pairs agree with the rotations of the given poses; raise if most do not."""
    convention, would_p, do_p = diagnose_pose_convention(relative.only(good_p), T_map_cam_i44)
    more, fewer = (would_p & ~do_p).sum(), (do_p & ~would_p).sum()
    disagreeing = (~do_p).sum()
    found = f"only {do_p.sum()} of {len(do_p)} pairs of images agree with the known poses, "
    expected = "expected camera-to-map, OpenCV axes (x right, y down, z forward)"
    # If few of all good pairs disagree, the disagreeing pairs are more likely wrong than the poses.
    if disagreeing >= _FEW * good_p.sum():
        if more >= max(_CONVENTION_MARGIN * (1 + fewer), _MOST * len(do_p)):
            raise ReconstructionError(
                f"{found}but {would_p.sum()} would if they are {convention}; {expected}"
            )
        if disagreeing > _MOST * len(do_p):
            raise ReconstructionError(f"{found}as if they were those of other images; {expected}")
        if disagreeing > _MANY * len(do_p):
            _log.warning("%sthe others are left out; %s", found, expected)
    angle_p = angles_between(relative.R_p33, given_relative_poses(relative, T_map_cam_i44)[0])
    return _not_outliers(np.where(good_p, angle_p, np.inf), _ANGLE_BOUNDS)


def _position_errors(
    relative: RelativePoses, log_unit_i: np.ndarray, T_map_cam_i44: np.ndarray
) -> np.ndarray:
    """Return the distance (p,) between estimated and given positions of cameras j, units of i."""
    unit_p1 = np.exp(log_unit_i[relative.i_p])[:, None]
    given_p3 = given_relative_poses(relative, T_map_cam_i44)[1] / unit_p1
    return np.linalg.norm(relative.t_p3 - given_p3, axis=-1)


def _in_largest_component(relative: RelativePoses, good_p: np.ndarray, images: int) -> np.ndarray:
    """Return which good pairs are in the largest connected component of the pose graph."""
    pairs = zip(relative.i_p[good_p].tolist(), relative.j_p[good_p].tolist(), strict=True)
    inside = np.zeros(images, bool)
    inside[components(images, pairs)[0]] = True
    return good_p & inside[relative.i_p]


def _aligned(
    adjusted: Adjustment, relative: RelativePoses, good_p: np.ndarray, poses_known: bool
) -> np.ndarray:
    """Return which images have a used pair and a scale.

    With given poses, a component whose images are all taken from one spot has no scale.
    """
    cameras, pairs = adjusted.cameras, relative.only(good_p)
    baseline_p = np.linalg.norm(cameras.t_i3[pairs.j_p] - cameras.t_i3[pairs.i_p], axis=-1)
    min_baseline_p = _MIN_BASELINE * np.exp(cameras.log_unit_i[pairs.i_p])
    moved_p = (baseline_p > min_baseline_p) | (not poses_known)
    moved = {*pairs.i_p[moved_p].tolist(), *pairs.j_p[moved_p].tolist()}
    aligned = np.zeros(len(cameras.t_i3), bool)
    for component in components(len(aligned), zip(pairs.i_p, pairs.j_p, strict=True)):
        aligned[component] = not moved.isdisjoint(component)
    return aligned & (adjusted.unit_sigma_i <= _MAX_UNIT_SIGMA)


def _fused_depth(observations: Observations, alignment: Alignment) -> np.ndarray:
    """Return the depth (i, n) of the cells in image units, fused from all used pairs."""
    o, cameras = observations, alignment.cameras
    rays_in3 = cameras.rays(o.rays_in3)
    depth_in = np.full(rays_in3.shape[:2], np.nan)
    used = np.flatnonzero(alignment.used_e)
    by_first = pairs_by_image(o.first_e[used], o.images)
    by_second = pairs_by_image(o.second_e[used], o.images)
    for image in range(o.images):
        own, other = used[by_first[image]], used[by_second[image]]
        points = [alignment.in_camera(image, e, image, o.own_en3[e]) for e in own]
        points += [alignment.in_camera(image, e, o.first_e[e], o.other_en3[e]) for e in other]
        if points:
            confidence = [*o.own_weight_en[own], *o.other_weight_en[other]]
            depth_n, _ = fuse(points, confidence, rays_in3[image])
            depth_in[image] = depth_n / np.exp(cameras.log_unit_i[image])
    return depth_in
