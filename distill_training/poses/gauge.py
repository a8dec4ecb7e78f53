"""Frame and scale of a map from photographs: the gauge freedom of bundle adjustment.

Photographs alone determine a place up to a similarity transform; see `find_gauge`.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from distill_training.common.robust import cauchy_weight, residual_scale, weighted_median
from distill_training.poses.known_lengths import (
    MIN_LENGTH,
    STEPS,
    KnownLength,
    PhotoDepth,
    scale_from_lengths,
)
from mote_localization.errors import ReconstructionError
from mote_localization.geometry import mean_rotation, rigid, rotation_angle
from mote_localization.level_rotation import level_rotation

_log = logging.getLogger(__name__)

# Where the scale is unknown, the median depth becomes this many units, as in a room. The
# localizer's gates, which are in metres, stay sensible then.
_ASSUMED_DEPTH = 2.0
_MAX_DISAGREEMENT_DEG = 20.0  # median over given rotations; above it they are in other axes
_MAX_COMPARED = 200  # given poses of which all pairs are compared


@dataclass(frozen=True)
class Gauge:
    """The similarity transform from the frame and units of an estimate to those of the map."""

    scale: float  # m per unit of the estimate; depths are multiplied by it
    T_map_estimate: np.ndarray  # (4, 4) rigid, for points already in metres
    metric: bool = True  # False: the scale is arbitrary, and "metres" are arbitrary units
    scale_uncertainty: float | None = None  # 1 sigma, relative to the scale; None: unknown

    def apply(self, T_estimate_cam: np.ndarray) -> np.ndarray:
        """Return the pose T_map_cam (4, 4) of a camera of the estimate."""
        T = T_estimate_cam.copy()
        T[:3, 3] *= self.scale
        return self.T_map_estimate @ T


def find_gauge(
    poses: Mapping[str, np.ndarray],
    median_depth: float,
    photo_depth: Callable[[str], PhotoDepth],
    given: Mapping[str, np.ndarray] | None = None,
    lengths: Sequence[KnownLength] = (),
    measured: tuple[float, float] | None = None,
) -> Gauge:
    """Return the frame and the scale of an estimate from given poses and known lengths.

    Two or more given poses fix both. One fixes the frame; measured depth, else known lengths, fix
    the scale. Without a given pose the map frame is level: its origin is at the first camera, x
    along that camera's view, z up (REP-103). Without depth or a length the unit is arbitrary.

    Args:
        poses: T_estimate_cam (4, 4) of each photograph used, in recording order.
        median_depth: Of all cells, units of the estimate.
        photo_depth: Returns the depth of a photograph by its name; called for ends of lengths that
            are pixels.
        given: T_map_cam (4, 4), metres, of any photographs, used or not.
        lengths: Measured in the place.
        measured: Scale by measured depth, m per unit of the estimate, and its relative uncertainty.

    Raises:
        ReconstructionError: The given poses do not fit the estimate, or a length cannot be found
            in it.
    """
    given = given or {}
    known = {name: T for name, T in given.items() if name in poses}
    if len(known) > 1:
        if lengths:
            _log.warning("--scale-from is not used: %d given poses fix the scale", len(known))
        return gauge_from_poses(poses, known, median_depth)
    if given and not known:
        _log.warning("no photograph with a given pose could be used: the map frame is a new one")
    scale, uncertainty = _ASSUMED_DEPTH / median_depth, None
    if measured:
        scale, uncertainty = measured
        if lengths:
            _log.warning("--scale-from is not used: measured depth fixes the scale")
    elif lengths:
        scale, uncertainty = scale_from_lengths(poses, median_depth, photo_depth, lengths)
    name = next(iter(known or poses))
    T_map_estimate = np.eye(4)
    if known:
        T_map_estimate = known[name].copy()
        T_map_estimate[:3, :3] = known[name][:3, :3] @ poses[name][:3, :3].T
    else:
        T_map_estimate[:3, :3] = level_rotation(list(poses.values()))
    T_map_estimate[:3, 3] -= scale * T_map_estimate[:3, :3] @ poses[name][:3, 3]
    return Gauge(scale, T_map_estimate, bool(measured or lengths), uncertainty)


def gauge_from_poses(
    estimated: Mapping[str, np.ndarray], given: Mapping[str, np.ndarray], median_depth: float
) -> Gauge:
    """Return the frame and the scale that fit two or more given poses robustly; log outliers.

    The rotation is the mean of the given rotations (chordal mean: Hartley et al. 2013, Rotation
    Averaging), as two positions do not determine it. Scale and translation follow from the
    positions. The uncertainty is that of least squares, from the residuals.

    Args:
        estimated: T_estimate_cam (4, 4) by name, for all names in `given`.
        given: T_map_cam (4, 4), metres.
        median_depth: Of all cells, units of the estimate.

    Raises:
        ReconstructionError: The cameras are all at one place, or their poses contradict the
            photographs.
    """
    names = list(given)
    T_est, T_map = (np.array([poses[name] for name in names]) for poses in (estimated, given))
    R, angles_deg = _mean_rotation(T_map[:, :3, :3] @ T_est[:, :3, :3].transpose(0, 2, 1))
    if np.median(angles_deg) > _MAX_DISAGREEMENT_DEG:
        raise ReconstructionError(
            f"the {len(names)} given poses contradict the photographs: their rotations disagree by "
            f"{np.median(angles_deg):.0f} degrees in the median; expected camera-to-map, camera "
            "axes x right, y down, z forward"
        )
    source, target = T_est[:, :3, 3] @ R.T, T_map[:, :3, 3]
    span = np.linalg.norm(source - np.median(source, axis=0), axis=1).max()
    if span < MIN_LENGTH * median_depth:
        raise ReconstructionError(
            f"the {len(names)} cameras with given poses are nearly at the same place, which "
            "determines no scale; give poses farther apart, or one pose alone and --scale-from"
        )
    scale = _median_scale(source, target)
    shift = np.median(target - scale * source, axis=0)
    for _ in range(STEPS):
        residuals = np.linalg.norm(target - scale * source - shift, axis=1)
        weights = cauchy_weight(residuals, residual_scale(residuals))
        source_mean, target_mean = (
            np.average(p, axis=0, weights=weights) for p in (source, target)
        )
        centred = source - source_mean
        power = weights @ (centred**2).sum(1)
        scale = float(weights @ ((target - target_mean) * centred).sum(1) / power)
        shift = target_mean - scale * source_mean
    residuals = np.linalg.norm(target - scale * source - shift, axis=1)
    # Three coordinates per pose, minus the four degrees of freedom of scale and shift.
    variance = weights @ residuals**2 / max(3 * weights.sum() - 4, 1)
    error = float(np.sqrt(variance / power))  # of the scale, 1 sigma
    if scale <= 0 or error > scale / 2:
        raise ReconstructionError(
            f"the positions of the {len(names)} given poses do not fit the photographs (off by "
            f"{100 * np.median(residuals):.0f} cm in the median); expected camera-to-map in metres"
        )
    far = (residuals > max(5 * np.median(residuals), 0.01 * scale * span)) & (len(names) > 3)
    rotated = (angles_deg > max(5 * np.median(angles_deg), 2)) & (len(names) > 2)
    for i in np.flatnonzero(far | rotated):
        _log.warning(
            "given pose of %s: differs from the photographs by %.0f cm, %.1f degrees; treated as "
            "an outlier", names[i], 100 * residuals[i], angles_deg[i],
        )  # fmt: skip
    return Gauge(scale, rigid(R, shift), True, error / scale)


def _mean_rotation(R_n33: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return a robust mean (3, 3) of rotations, and the angle (n,) of each to it, degrees."""
    weights = np.ones(len(R_n33))
    for _ in range(STEPS):
        mean = mean_rotation(R_n33, weights)
        angles_deg = np.degrees([rotation_angle(R @ mean.T) for R in R_n33])
        weights = 1 / np.maximum(angles_deg, 0.1)  # minimizes the sum of angles, not of squares
    return mean, angles_deg


def _median_scale(source_n3: np.ndarray, target_n3: np.ndarray) -> float:
    """Return the weighted median of the scales of all pairs; it tolerates a quarter of outliers."""
    some = np.linspace(0, len(source_n3) - 1, min(len(source_n3), _MAX_COMPARED)).astype(int)
    i, j = np.triu_indices(len(some), 1)
    source, target = source_n3[some], target_n3[some]
    apart = source[i] - source[j]
    squares = (apart**2).sum(1)
    valid = squares > 0
    scales = ((target[i] - target[j]) * apart).sum(1)[valid] / squares[valid]
    return float(weighted_median(scales, squares[valid], axis=0))
