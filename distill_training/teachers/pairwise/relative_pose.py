"""What each pair says of how its two cameras stand to each other."""

from dataclasses import dataclass, fields
from itertools import permutations, product

import numpy as np

from distill_training.common.robust import cauchy_weight, row_medians
from distill_training.teachers.pairwise.observations import Observations

_STEPS = 10
_TUNING = 1.5  # medians at which a Cauchy weight has fallen to one half
_TURNED_ALIKE = np.radians(8.0)
_TOWARDS_ALIKE = np.cos(np.radians(30.0))
_APART = 0.1  # of the depth: cameras nearer to each other have no sure direction
_AS_GOOD = 0.95  # of the votes


@dataclass(frozen=True)
class RelativePoses:
    """Per unordered pair p of images (i, j), i before j, the similarity from j's units to i's."""

    i_p: np.ndarray
    j_p: np.ndarray
    forward_p: np.ndarray  # directed pair (i, j)
    backward_p: np.ndarray  # directed pair (j, i)
    scale_p: np.ndarray
    R_p33: np.ndarray
    t_p3: np.ndarray
    residual_p: np.ndarray  # median distance of corresponding points, as a share of their depth
    confidence_p: np.ndarray  # mean confidence

    def only(self, which_p: np.ndarray) -> "RelativePoses":
        """Return some of the pairs."""
        return RelativePoses(*(getattr(self, field.name)[which_p] for field in fields(self)))

    def directed(self, which_p: np.ndarray, count: int) -> np.ndarray:
        """Return which of all directed pairs (count,) are those of some of the pairs."""
        which_e = np.zeros(count, bool)
        which_e[self.forward_p[which_p]] = which_e[self.backward_p[which_p]] = True
        return which_e


def relative_poses(
    observations: Observations, rays_in3: np.ndarray, log_scales_e: np.ndarray, depth_in: np.ndarray
) -> RelativePoses:
    """Fit a similarity to each pair's points, robustly; arguments as `agree_on_scales` gives them.

    Cells of j as the pair (i, j) sees them against j's own depth, and the same of i.
    """
    o = observations
    at = {ends: e for e, ends in enumerate(zip(o.first_e, o.second_e, strict=True))}
    ends = sorted((i, j) for i, j in at if i < j)
    forward, backward = (np.array([at[pair[::way]] for pair in ends], int) for way in (1, -1))
    i_p, j_p = o.first_e[forward], o.second_e[forward]
    own_in3 = rays_in3 * np.nan_to_num(depth_in)[..., None]
    unseen_e = np.isnan(log_scales_e)  # nothing is known of the first image: no scale, no say
    other_en3 = o.other_en3 * np.exp(np.where(unseen_e, 0, log_scales_e))[:, None, None]
    weight_en = np.where(np.isnan(depth_in[o.second_e]), 0, o.other_weight_en)
    weight_pn = np.concatenate([weight_en[forward], weight_en[backward]], axis=1)
    scale_p, R_p33, t_p3, residual_p = _similarities(
        np.concatenate([own_in3[j_p], other_en3[backward]], axis=1, dtype=np.float64),
        np.concatenate([other_en3[forward], own_in3[i_p]], axis=1, dtype=np.float64),
        weight_pn.astype(np.float64),
    )
    return RelativePoses(
        i_p,
        j_p,
        forward,
        backward,
        scale_p,
        R_p33,
        t_p3,
        np.where(unseen_e[forward] | unseen_e[backward], np.inf, residual_p),
        weight_pn.mean(axis=1),
    )


def _similarities(
    source_bn3: np.ndarray, target_bn3: np.ndarray, weight_bn: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Fit target = scale R source + t to each of a batch of point sets, with Cauchy weights.

    Closed form in every step: Horn 1988, with his symmetric scale, that noise in the source does
    not shrink.

    Returns:
        scale (b,), R (b, 3, 3), t (b, 3) and the median residual (b,) over the targets' distance.
    """
    distance_bn = np.maximum(np.linalg.norm(target_bn3, axis=-1), 1e-9)
    first_bn = weight_bn / distance_bn**2
    robust_bn = first_bn
    for _ in range(_STEPS):
        share_bn1 = (robust_bn / robust_bn.sum(axis=1, keepdims=True).clip(1e-12))[..., None]
        source_mean, target_mean = (
            (share_bn1 * points).sum(axis=1, keepdims=True) for points in (source_bn3, target_bn3)
        )
        source, target = source_bn3 - source_mean, target_bn3 - target_mean
        U, _, Vt = np.linalg.svd(np.swapaxes(share_bn1 * target, 1, 2) @ source)
        U[:, :, 2] *= np.sign(np.linalg.det(U @ Vt))[:, None]
        R_b33 = U @ Vt
        spread_source, spread_target = (
            (share_bn1 * points**2).sum(axis=(1, 2)).clip(1e-18) for points in (source, target)
        )
        scale_b = np.sqrt(spread_target / spread_source)
        turned = scale_b[:, None, None] * source_bn3 @ np.swapaxes(R_b33, 1, 2)
        t_b13 = target_mean - (share_bn1 * turned).sum(axis=1, keepdims=True)
        relative_bn = np.linalg.norm(target_bn3 - turned - t_b13, axis=-1) / distance_bn
        seen_bn = np.where(weight_bn > 0, relative_bn, np.nan)
        residual_b = np.nan_to_num(row_medians(seen_bn), nan=np.inf)
        scale_bn = _TUNING * np.clip(residual_b, 1e-9, 1e9)[:, None]
        robust_bn = first_bn * cauchy_weight(relative_bn, scale_bn)
    return scale_b, R_b33, t_b13[:, 0], residual_b


def angles_between(R_b33: np.ndarray, other_b33: np.ndarray) -> np.ndarray:
    """Return by which angles (b,), rad, rotations differ."""
    chord_b = np.linalg.norm(R_b33 - other_b33, axis=(-2, -1)) / np.sqrt(8)
    return 2 * np.arcsin(np.minimum(chord_b, 1))


def between(relative: RelativePoses, T_map_cam_i44: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the rotations (p, 3, 3) and positions (p, 3) of cameras j in those of i."""
    R_i33, t_i3 = T_map_cam_i44[:, :3, :3], T_map_cam_i44[:, :3, 3]
    R_p33 = np.swapaxes(R_i33[relative.i_p], 1, 2)
    apart_p3 = t_i3[relative.j_p] - t_i3[relative.i_p]
    return R_p33 @ R_i33[relative.j_p], (R_p33 @ apart_p3[..., None])[..., 0]


# How poses come out wrong: what was done to them, and what to do about it. Cameras are named by
# where their axes x, y and z point.
_INVERTED = "map-to-camera where camera-to-map is expected (invert them)"
_MIRRORED = "left-handed, as in game engines (mirror camera and map), "
_EXPECTED = ("right", "down", "forward")
_OPPOSITE = ("left", "up", "backward")
_ROLLED = "rolled by 90 deg to the {} against the images: portrait photographs, or mounted so"
_KNOWN = {
    _EXPECTED: "as they should be",
    ("right", "up", "backward"): "as in OpenGL",
    ("forward", "left", "up"): "as of robots' bodies in ROS, REP-103",
    ("down", "left", "forward"): _ROLLED.format("right"),
    ("up", "right", "forward"): _ROLLED.format("left"),
    ("left", "up", "forward"): "rolled by 180 deg against the images: mounted upside down",
}


def _conventions() -> list[tuple[str, np.ndarray, bool]]:
    """Return all axes (3, 3) that a camera may have, inverted or not, in words; the likely first.

    Axes are the columns, in the camera's axes as they should be.
    """
    found = []
    for order, signs in product(permutations(range(3)), product((1, -1), repeat=3)):
        C = np.eye(3)[:, order] * signs
        ways = zip(order, signs, strict=True)
        names = tuple((_EXPECTED if sign > 0 else _OPPOSITE)[axis] for axis, sign in ways)
        text = "of cameras with x {}, y {} and z {}".format(*names)
        if names in _KNOWN:
            text = f"{text} ({_KNOWN[names]})" if names != _EXPECTED else ""
        mirrored = bool(np.linalg.det(C) < 0)
        if mirrored:
            text = f"{_MIRRORED}{text}"
        for inverted in (False, True):
            said = " and ".join(filter(None, (_INVERTED if inverted else "", text)))
            found.append(((mirrored, names not in _KNOWN, inverted), (said, C, inverted)))
    return [one for _, one in sorted(found, key=lambda ranked: ranked[0])]


_CONVENTIONS = _conventions()


def diagnose_conventions(
    relative: RelativePoses, T_map_cam_i44: np.ndarray
) -> tuple[str, np.ndarray, np.ndarray]:
    """Say which mistake would explain that pairs disagree with the given poses.

    Every pair that can tell, of cameras turned or moved, votes for each convention by which it
    agrees: in how one camera is turned against the other, and in which direction it stands. Pairs
    that are plain wrong vote for none.

    Args:
        relative: What the pairs say.
        T_map_cam_i44: The poses as given.

    Returns:
        What the poses most likely are (empty: as they should), and of the pairs that can tell,
        which agree with that, and which with the poses as given.
    """
    apart_p = np.linalg.norm(relative.t_p3, axis=-1)
    straight = np.eye(3)
    turns = (relative.R_p33, between(relative, T_map_cam_i44)[0])
    turned_p = np.maximum(*(angles_between(straight, R_p33) for R_p33 in turns))
    tells_p = (turned_p > _TURNED_ALIKE) | (apart_p > _APART)
    relative, apart_p = relative.only(tells_p), apart_p[tells_p]
    given = {
        False: between(relative, T_map_cam_i44),
        True: between(relative, np.linalg.inv(T_map_cam_i44)),
    }
    votes = []
    for _, C, inverted in _CONVENTIONS:
        R_p33, t_p3 = given[inverted]
        turned_p = angles_between(C @ R_p33 @ C.T, relative.R_p33) < _TURNED_ALIKE
        along_p = (t_p3 @ C.T * relative.t_p3).sum(axis=-1)
        towards_p = along_p > _TOWARDS_ALIKE * apart_p * np.linalg.norm(t_p3, axis=-1)
        votes.append(turned_p & (towards_p | (apart_p < _APART)))
    counts = [votes_p.sum() for votes_p in votes]
    # Motion in a plane or along a line leaves several: the likely one, though noise favour another.
    best = next(k for k, count in enumerate(counts) if count >= _AS_GOOD * max(counts))
    return _CONVENTIONS[best][0], votes[best], votes[0]
