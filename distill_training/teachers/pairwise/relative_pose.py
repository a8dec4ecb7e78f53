"""Relative pose of the two cameras of each pair, and check of the convention of given poses."""

from dataclasses import dataclass, fields
from itertools import permutations, product

import numpy as np

from distill_training.common.robust import cauchy_weight, row_medians
from distill_training.teachers.pairwise.observations import Observations

_STEPS = 10  # of reweighted least squares
_TUNING = 1.5  # scale of the Cauchy weight over the median residual
_SAME_ROTATION = np.radians(8.0)
_SAME_DIRECTION = np.cos(np.radians(30.0))
_MIN_BASELINE = 0.1  # fraction of the depth; with a shorter one the direction is not reliable
_NEARLY_BEST = 0.95  # fraction of the most votes


@dataclass(frozen=True)
class RelativePoses:
    """Similarity from camera j to camera i, in their units, for each pair p = (i, j), i < j."""

    i_p: np.ndarray
    j_p: np.ndarray
    forward_p: np.ndarray  # index of the directed pair (i, j)
    backward_p: np.ndarray  # index of the directed pair (j, i)
    scale_p: np.ndarray
    R_p33: np.ndarray
    t_p3: np.ndarray
    residual_p: np.ndarray  # median distance of corresponding points over their depth
    confidence_p: np.ndarray  # mean confidence

    def only(self, which_p: np.ndarray) -> "RelativePoses":
        """Return the pairs at which a mask or index selects."""
        return RelativePoses(*(getattr(self, field.name)[which_p] for field in fields(self)))

    def directed(self, which_p: np.ndarray, count: int) -> np.ndarray:
        """Return the mask (count,) of the directed pairs that belong to a mask of pairs."""
        which_e = np.zeros(count, bool)
        which_e[self.forward_p[which_p]] = which_e[self.backward_p[which_p]] = True
        return which_e


def estimate_relative_poses(
    observations: Observations, rays_in3: np.ndarray, log_scales_e: np.ndarray, depth_in: np.ndarray
) -> RelativePoses:
    """Fit a similarity to the corresponding points of each pair, robustly.

    Cells of j as predicted by the pair (i, j) correspond to the points at the depth of image j, and
    cells of i as predicted by (j, i) to those at the depth of image i.

    Args:
        observations: Pair predictions.
        rays_in3: Rays of the cells, z = 1.
        log_scales_e: Log of the first image's units per pair unit; NaN = unknown.
        depth_in: Depth of the cells in the unit of their image; NaN = unknown.
    """
    o = observations
    index_of = {ends: e for e, ends in enumerate(zip(o.first_e, o.second_e, strict=True))}
    ends = sorted((i, j) for i, j in index_of if i < j)
    forward, backward = (
        np.array([index_of[pair[::step]] for pair in ends], int) for step in (1, -1)
    )
    i_p, j_p = o.first_e[forward], o.second_e[forward]
    own_in3 = rays_in3 * np.nan_to_num(depth_in)[..., None]
    unknown_e = np.isnan(log_scales_e)
    other_en3 = o.other_en3 * np.exp(np.where(unknown_e, 0, log_scales_e))[:, None, None]
    weight_en = np.where(np.isnan(depth_in[o.second_e]), 0, o.other_weight_en)
    weight_pn = np.concatenate([weight_en[forward], weight_en[backward]], axis=1)
    scale_p, R_p33, t_p3, residual_p = _similarities(
        np.concatenate([own_in3[j_p], other_en3[backward]], axis=1, dtype=np.float64),
        np.concatenate([other_en3[forward], own_in3[i_p]], axis=1, dtype=np.float64),
        weight_pn.astype(np.float64),
    )
    residual_p = np.where(unknown_e[forward] | unknown_e[backward], np.inf, residual_p)
    confidence_p = weight_pn.mean(axis=1)
    return RelativePoses(
        i_p, j_p, forward, backward, scale_p, R_p33, t_p3, residual_p, confidence_p
    )


def _similarities(
    source_bn3: np.ndarray, target_bn3: np.ndarray, weight_bn: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Fit target = scale R source + t to each of a batch of point sets, with Cauchy weights.

    Each step has the closed form of Horn 1988 with the symmetric scale, which noise in the source
    does not shrink. Returns scale (b,), R (b, 3, 3), t (b, 3) and the median residual (b,) over the
    distance of the targets.
    """
    distance_bn = np.maximum(np.linalg.norm(target_bn3, axis=-1), 1e-9)
    initial_bn = weight_bn / distance_bn**2
    robust_bn = initial_bn
    for _ in range(_STEPS):
        weight_bn1 = (robust_bn / robust_bn.sum(axis=1, keepdims=True).clip(1e-12))[..., None]
        source_mean, target_mean = (
            (weight_bn1 * points).sum(axis=1, keepdims=True) for points in (source_bn3, target_bn3)
        )
        source, target = source_bn3 - source_mean, target_bn3 - target_mean
        U, _, Vt = np.linalg.svd(np.swapaxes(weight_bn1 * target, 1, 2) @ source)
        U[:, :, 2] *= np.sign(np.linalg.det(U @ Vt))[:, None]
        R_b33 = U @ Vt
        spread_source, spread_target = (
            (weight_bn1 * points**2).sum(axis=(1, 2)).clip(1e-18) for points in (source, target)
        )
        scale_b = np.sqrt(spread_target / spread_source)
        rotated = scale_b[:, None, None] * source_bn3 @ np.swapaxes(R_b33, 1, 2)
        t_b13 = target_mean - (weight_bn1 * rotated).sum(axis=1, keepdims=True)
        relative_bn = np.linalg.norm(target_bn3 - rotated - t_b13, axis=-1) / distance_bn
        valid_bn = np.where(weight_bn > 0, relative_bn, np.nan)
        residual_b = np.nan_to_num(row_medians(valid_bn), nan=np.inf)
        scale_bn = _TUNING * np.clip(residual_b, 1e-9, 1e9)[:, None]
        robust_bn = initial_bn * cauchy_weight(relative_bn, scale_bn)
    return scale_b, R_b33, t_b13[:, 0], residual_b


def angles_between(R_b33: np.ndarray, other_b33: np.ndarray) -> np.ndarray:
    """Return the angles (b,) between rotations (b, 3, 3), rad."""
    chord_b = np.linalg.norm(R_b33 - other_b33, axis=(-2, -1)) / np.sqrt(8)
    return 2 * np.arcsin(np.minimum(chord_b, 1))


def given_relative_poses(
    relative: RelativePoses, T_map_cam_i44: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return rotation (p, 3, 3) and position (p, 3) of camera j in camera i, by the given poses."""
    R_i33, t_i3 = T_map_cam_i44[:, :3, :3], T_map_cam_i44[:, :3, 3]
    R_p33 = np.swapaxes(R_i33[relative.i_p], 1, 2)
    offset_p3 = t_i3[relative.j_p] - t_i3[relative.i_p]
    return R_p33 @ R_i33[relative.j_p], (R_p33 @ offset_p3[..., None])[..., 0]


# Descriptions of wrong pose conventions, for messages. A camera is named by the directions of its
# axes x, y and z.
_INVERTED = "map-to-camera (invert them)"
_MIRRORED = "left-handed, as in game engines (mirror camera and map), "
_EXPECTED = ("right", "down", "forward")
_OPPOSITE = ("left", "up", "backward")
_ROLLED = "rolled by 90 deg to the {}, as of portrait photographs"
_KNOWN = {
    _EXPECTED: "as expected",
    ("right", "up", "backward"): "as in OpenGL",
    ("forward", "left", "up"): "as of robot bodies in ROS, REP-103",
    ("down", "left", "forward"): _ROLLED.format("right"),
    ("up", "right", "forward"): _ROLLED.format("left"),
    ("left", "up", "forward"): "rolled by 180 deg, as of cameras mounted upside down",
}


def _conventions() -> list[tuple[str, np.ndarray, bool]]:
    """Return all conventions of poses, the most likely ones first.

    Each is a description (empty for the expected one), the axes of the camera as columns (3, 3) in
    the expected axes, and whether the poses are inverted.
    """
    found = []
    for order, signs in product(permutations(range(3)), product((1, -1), repeat=3)):
        C = np.eye(3)[:, order] * signs
        axes = zip(order, signs, strict=True)
        names = tuple((_EXPECTED if sign > 0 else _OPPOSITE)[axis] for axis, sign in axes)
        text = "of cameras with x {}, y {} and z {}".format(*names)
        if names in _KNOWN:
            text = f"{text} ({_KNOWN[names]})" if names != _EXPECTED else ""
        mirrored = bool(np.linalg.det(C) < 0)
        if mirrored:
            text = f"{_MIRRORED}{text}"
        for inverted in (False, True):
            description = " and ".join(filter(None, (_INVERTED if inverted else "", text)))
            rank = (mirrored, names not in _KNOWN, inverted)
            found.append((rank, (description, C, inverted)))
    return [convention for _, convention in sorted(found, key=lambda ranked: ranked[0])]


_CONVENTIONS = _conventions()


def diagnose_pose_convention(
    relative: RelativePoses, T_map_cam_i44: np.ndarray
) -> tuple[str, np.ndarray, np.ndarray]:
    """Return which convention of the given poses agrees best with the relative poses of the pairs.

    Pairs with a large enough rotation or baseline vote for each convention with which their
    rotation and the direction of their baseline agree.

    Args:
        relative: Relative poses estimated from the images.
        T_map_cam_i44: Poses as given.

    Returns:
        Description of the convention (empty: the expected one), which of the voting pairs agree
        with it, and which of them agree with the poses as given.
    """
    baseline_p = np.linalg.norm(relative.t_p3, axis=-1)
    rotations = (relative.R_p33, given_relative_poses(relative, T_map_cam_i44)[0])
    angle_p = np.maximum(*(angles_between(np.eye(3), R_p33) for R_p33 in rotations))
    votes_p = (angle_p > _SAME_ROTATION) | (baseline_p > _MIN_BASELINE)
    relative, baseline_p = relative.only(votes_p), baseline_p[votes_p]
    given = {
        False: given_relative_poses(relative, T_map_cam_i44),
        True: given_relative_poses(relative, np.linalg.inv(T_map_cam_i44)),
    }
    votes = []
    for _, C, inverted in _CONVENTIONS:
        R_p33, t_p3 = given[inverted]
        same_rotation_p = angles_between(C @ R_p33 @ C.T, relative.R_p33) < _SAME_ROTATION
        product_p = (t_p3 @ C.T * relative.t_p3).sum(axis=-1)
        same_direction_p = product_p > _SAME_DIRECTION * baseline_p * np.linalg.norm(t_p3, axis=-1)
        votes.append(same_rotation_p & (same_direction_p | (baseline_p < _MIN_BASELINE)))
    counts = [agree_p.sum() for agree_p in votes]
    # Motion in a plane or along a line fits several conventions: take the most likely of them,
    # although noise may give another one a few more votes.
    best = next(k for k, count in enumerate(counts) if count >= _NEARLY_BEST * max(counts))
    return _CONVENTIONS[best][0], votes[best], votes[0]
