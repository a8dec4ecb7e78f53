"""Brings all images to one frame: of the given poses in metres, or of a frame of its own."""

import logging
from dataclasses import dataclass, replace

import numpy as np

from distill_training.poses.image_pairs import components
from distill_training.teachers.pairwise.focal_lengths import estimate_spreads
from distill_training.teachers.pairwise.fusion import PairEstimate, fuse
from distill_training.teachers.pairwise.global_adjustment import Adjusted, Cameras, adjust
from distill_training.teachers.pairwise.observations import (
    Observations,
    agree_on_scales,
    fit_scales,
    pairs_by_image,
)
from distill_training.teachers.pairwise.relative_pose import (
    RelativePoses,
    angles_between,
    between,
    diagnose_conventions,
    relative_poses,
)
from distill_training.teachers.pairwise.spanning_tree import along_tree
from mote_localization.errors import ReconstructionError
from mote_localization.geometry import invert
from mote_localization.progress import track

_log = logging.getLogger(__name__)
_ROUNDS = 3  # of adjusting cameras and depths in turns
_OUTLIER = 3.0  # medians: pairs that are off by more are refused
# Of the depth: pairs off by less are not refused; pairs off by more are, were they the majority.
_RESIDUALS = (0.05, 0.2)
_ANGLES = (np.radians(5.0), np.radians(20.0))  # likewise
_CONFUSED = 3  # pairs, and times as many: so many more agree if poses are of another convention
_FEW, _MANY, _MOST = 0.15, 0.35, 0.65  # of the pairs
_SAME_SPOT = 1e-4  # of the depth: shorter baselines are as good as none
_LARGEST_UNIT_SIGMA = 0.1  # log: images whose scale is less sure are refused


@dataclass(frozen=True)
class Alignment:
    """All images in one frame."""

    cameras: Cameras
    log_scales_e: np.ndarray  # from a directed pair's unit to its first image's
    sound_e: np.ndarray  # directed pairs that agree with themselves
    used_e: np.ndarray  # directed pairs that agree with the rest, too
    aligned_i: np.ndarray  # images that hang together with the rest
    unit_sigma_i: np.ndarray  # standard deviation of each image's log unit

    def estimate(
        self, pair: int, first: int, image: int, points: np.ndarray, confidence: np.ndarray
    ) -> PairEstimate:
        """Return what a directed pair from `first` on says of an image, as `fuse` takes it."""
        unit = float(np.exp(self.log_scales_e[pair] + self.cameras.log_unit_i[first]))
        T_image_first = invert(self.cameras.pose(image)) @ self.cameras.pose(first)
        return PairEstimate(points, confidence, unit, T_image_first)


def align(
    observations: Observations,
    lens_i: np.ndarray,
    lens_known_l: np.ndarray,
    T_map_cam_i44: np.ndarray | None,
) -> Alignment:
    """Find scales, and poses and focal lengths where they are not known, on which the pairs agree.

    Args:
        observations: What the pairs say.
        lens_i: Which lens each image was taken with.
        lens_known_l: Which lenses' focal lengths are those that the rays assume.
        T_map_cam_i44: Known poses, metres; None: the outcome is in a frame and unit of its own.

    Raises:
        ReconstructionError: The poses are of another convention.
    """
    o = observations
    guessed_l, sigma = estimate_spreads(o, lens_i)
    spread_sigma_l = np.where(lens_known_l, 0.0, sigma)
    cameras = Cameras.unplaced(lens_i, np.where(lens_known_l, 0.0, guessed_l))
    rays_in3 = cameras.rays(o.rays_in3)
    log_scales_e, depth_in = agree_on_scales(o, rays_in3)
    relative = relative_poses(o, rays_in3, log_scales_e, depth_in)
    good_p = _not_outliers(relative.residual_p, _RESIDUALS)
    sound_e = relative.directed(good_p, len(o.first_e))
    if T_map_cam_i44 is not None:
        good_p &= _agreeing(relative, good_p, T_map_cam_i44)
        cameras = replace(cameras, R_i33=T_map_cam_i44[:, :3, :3], t_i3=T_map_cam_i44[:, :3, 3])
    else:
        good_p = _largest_group(relative, good_p, o.images)
        cameras = along_tree(relative, good_p, cameras)
    nobody_i = np.zeros(o.images, bool)
    unknown_i = np.full(o.images, np.inf)
    alignment = Alignment(
        cameras, log_scales_e, sound_e, np.zeros_like(sound_e), nobody_i, unknown_i
    )
    for turn in track(range(1, _ROUNDS + 1), "align", _ROUNDS):
        if not good_p.any():
            return replace(alignment, used_e=np.zeros_like(sound_e), aligned_i=nobody_i)
        used_e = relative.directed(good_p, len(sound_e))
        adjusted = adjust(
            o,
            log_scales_e,
            depth_in,
            cameras,
            used_e,
            poses_known=T_map_cam_i44 is not None,
            spread_sigma_l=spread_sigma_l,
        )
        cameras = adjusted.cameras
        alignment = Alignment(
            cameras,
            log_scales_e,
            sound_e,
            used_e,
            _aligned(adjusted, relative, good_p, poses_known=T_map_cam_i44 is not None),
            adjusted.unit_sigma_i,
        )
        if turn == _ROUNDS:  # what follows is for the next one
            break
        depth_in = _refined_depth(o, alignment)
        log_scales_e = fit_scales(o, cameras.rays(o.rays_in3), depth_in)
        residual_p = np.fmax(
            adjusted.residual_e[relative.forward_p], adjusted.residual_e[relative.backward_p]
        )
        good_p &= _not_outliers(residual_p, _RESIDUALS)
        if T_map_cam_i44 is None:
            good_p = _largest_group(relative, good_p, o.images)
        else:
            offset_p = _offsets(relative, cameras.log_unit_i, T_map_cam_i44)
            good_p &= _not_outliers(np.where(good_p, offset_p, np.inf), _RESIDUALS)
    return alignment


def _not_outliers(error_p: np.ndarray, bounds: tuple[float, float]) -> np.ndarray:
    """Return which pairs are not far worse than most, nor worse than any good one can be."""
    known = error_p[np.isfinite(error_p)]
    bound = _OUTLIER * float(np.median(known)) if len(known) else 0.0
    return error_p <= np.clip(bound, *bounds)


def _agreeing(relative: RelativePoses, good_p: np.ndarray, T_map_cam_i44: np.ndarray) -> np.ndarray:
    """Return which pairs see their cameras turned as the given poses say.

    Raises:
        ReconstructionError: The poses are of another convention, or of other images.
    """
    seems, would_p, do_p = diagnose_conventions(relative.only(good_p), T_map_cam_i44)
    more, fewer = (would_p & ~do_p).sum(), (do_p & ~would_p).sum()
    contradict = (~do_p).sum()
    found = (
        f"the given poses disagree with what the images show: {do_p.sum()} of {len(do_p)} pairs of "
        "images agree with them, "
    )
    expected = "expected camera-to-map, OpenCV axes (x right, y down, z forward)"
    # Where nearly no pair can tell, those that seem to are but wrong.
    if contradict >= _FEW * good_p.sum():
        if more >= max(_CONFUSED * (1 + fewer), _MOST * len(do_p)):
            raise ReconstructionError(
                f"{found}but {would_p.sum()} would if they are {seems}; {expected}"
            )
        if contradict > _MOST * len(do_p):
            raise ReconstructionError(f"{found}as if they were those of other images; {expected}")
        if contradict > _MANY * len(do_p):
            _log.warning("%sthose that do not are left out; %s", found, expected)
    angle_p = angles_between(relative.R_p33, between(relative, T_map_cam_i44)[0])
    return _not_outliers(np.where(good_p, angle_p, np.inf), _ANGLES)


def _offsets(
    relative: RelativePoses, log_unit_i: np.ndarray, T_map_cam_i44: np.ndarray
) -> np.ndarray:
    """Return how far pairs see one camera from where its pose says, over the other's depth."""
    unit_p1 = np.exp(log_unit_i[relative.i_p])[:, None]
    return np.linalg.norm(relative.t_p3 - between(relative, T_map_cam_i44)[1] / unit_p1, axis=-1)


def _largest_group(relative: RelativePoses, good_p: np.ndarray, images: int) -> np.ndarray:
    """Return which of the good pairs are in the largest group of images that they hold together."""
    pairs = zip(relative.i_p[good_p].tolist(), relative.j_p[good_p].tolist(), strict=True)
    inside = np.zeros(images, bool)
    inside[components(images, pairs)[0]] = True
    return good_p & inside[relative.i_p]


def _aligned(
    adjusted: Adjusted, relative: RelativePoses, good_p: np.ndarray, poses_known: bool
) -> np.ndarray:
    """Return which images have a pair that counts, and a scale.

    Given poses tell none to images that hang together with those taken from the same spot alone.
    """
    cameras, pairs = adjusted.cameras, relative.only(good_p)
    apart_p = np.linalg.norm(cameras.t_i3[pairs.j_p] - cameras.t_i3[pairs.i_p], axis=-1)
    moved_p = (apart_p > _SAME_SPOT * np.exp(cameras.log_unit_i[pairs.i_p])) | (not poses_known)
    moved = {*pairs.i_p[moved_p].tolist(), *pairs.j_p[moved_p].tolist()}
    aligned = np.zeros(len(cameras.t_i3), bool)
    for group in components(len(aligned), zip(pairs.i_p, pairs.j_p, strict=True)):
        aligned[group] = not moved.isdisjoint(group)
    return aligned & (adjusted.unit_sigma_i <= _LARGEST_UNIT_SIGMA)


def _refined_depth(observations: Observations, alignment: Alignment) -> np.ndarray:
    """Return the depth (i, n) of the images' cells, in their units, by all that is said of them."""
    o, cameras = observations, alignment.cameras
    rays_in3 = cameras.rays(o.rays_in3)
    depth_in = np.full(rays_in3.shape[:2], np.nan)
    used = np.flatnonzero(alignment.used_e)
    by_first = pairs_by_image(o.first_e[used], o.images)
    by_second = pairs_by_image(o.second_e[used], o.images)
    for image in range(o.images):
        own = used[by_first[image]]
        said = [
            *(alignment.estimate(e, image, image, o.own_en3[e], o.own_weight_en[e]) for e in own),
            *(
                alignment.estimate(e, o.first_e[e], image, o.other_en3[e], o.other_weight_en[e])
                for e in used[by_second[image]]
            ),
        ]
        if said:
            depth_n, _ = fuse(said, rays_in3[image])
            depth_in[image] = depth_n / np.exp(cameras.log_unit_i[image])
    return depth_in
