"""The gauge of an estimated map: where its origin lies, which way is up, how long a metre is.

Photographs alone tell a place up to a similarity. What fixes it, in this order: two or more given
poses; one given pose, for the frame, and known lengths, for the scale; nothing, and then the map is
set upright and its unit is not a metre.
"""

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from distill_training.common.robust import cauchy_weight, weighted_median
from mote_localization.camera import Camera, cell_pixels
from mote_localization.errors import ReconstructionError
from mote_localization.geometry import rotation_angle, transform

_log = logging.getLogger(__name__)

# Where the scale is unknown, the median point lies that many units away, as in a room: the
# localizer's gates, which are in metres, then stay sensible.
_USUAL_DEPTH = 2.0
_NEAR = 0.01  # of the median depth; lengths below it are noise
_LEVEL = np.sin(np.radians(10))  # x axis over the horizon of a camera that is held level, about
_PITCH = 0.02  # weight of the views: they leave the horizon about seven times as far
_TWIST_DEG = 20.0  # median disagreement of given rotations that no measurement explains
_MANY = 200  # given poses of which all pairs are compared
_ROUNDS = 10  # of reweighted least squares; it has settled then


@dataclass(frozen=True)
class Gauge:
    """Takes an estimate's frame and units to the map's."""

    scale: float  # m per unit of the estimate; depths are multiplied by it
    T_map_estimate: np.ndarray  # (4, 4) rigid, for points already in metres
    metric: bool = True  # False: the scale is arbitrary, and "metres" are not
    scale_uncertainty: float | None = None  # 1 sigma, as a share of the scale; None: not known

    def apply(self, T_estimate_cam: np.ndarray) -> np.ndarray:
        """Return the pose T_map_cam (4, 4) of a camera of the estimate."""
        T = T_estimate_cam.copy()
        T[:3, 3] *= self.scale
        return self.T_map_estimate @ T


@dataclass(frozen=True)
class PhotoDepth:
    """One photograph and the estimated depth of its cells."""

    live: Camera  # of the photograph as it was taken
    grid: Camera  # undistorted, on whose cells the depth is given
    depth_hw: np.ndarray  # units of the estimate, NaN = none
    sigma_hw: np.ndarray | None = None  # expected error of the depth, same units

    def point(self, pixel: tuple[float, float]) -> tuple[np.ndarray, float]:
        """Return the camera-frame point (3,) at a pixel of the photograph, and its sigma or NaN.

        Raises:
            ReconstructionError: The pixel lies outside of the photograph, or has no depth.
        """
        at, size = np.array(pixel), (self.live.width, self.live.height)
        if not ((at >= -0.5) & (at <= np.array(size) - 0.5)).all():
            raise ReconstructionError(
                f"pixel {at[0]:g}:{at[1]:g} lies outside of the photograph, which has "
                f"{size[0]}x{size[1]} px"
            )
        stride = self.grid.width // self.depth_hw.shape[1]
        rays_hw3 = self.grid.rays(cell_pixels(self.grid.width, self.grid.height, stride))
        pixels_hw2 = self.live.project(rays_hw3)
        side_px = stride * self.live.fx / self.grid.fx
        known = np.isfinite(self.depth_hw)
        distance_hw = np.where(known, np.linalg.norm(pixels_hw2 - at, axis=-1), np.inf)
        nearest = np.unravel_index(distance_hw.argmin(), distance_hw.shape)
        if distance_hw[nearest] > side_px:
            raise ReconstructionError(
                f"pixel {at[0]:g}:{at[1]:g} has no estimated point; choose one on a surface with "
                "texture, seen in other photographs too"
            )
        # x/z, y/z and, on a plane, 1/z are linear in the pixel; cells across an edge stay out.
        same = np.abs(np.log(self.depth_hw / self.depth_hw[nearest])) < 0.1
        close = (distance_hw < 1.6 * side_px) & same
        values_n3 = np.column_stack([rays_hw3[close][:, :2], 1 / self.depth_hw[close]])
        offsets_n2 = pixels_hw2[close] - pixels_hw2[close].mean(0)
        slopes_23 = np.linalg.lstsq(offsets_n2, values_n3 - values_n3.mean(0), rcond=None)[0]
        x, y, inverse = values_n3.mean(0) + (at - pixels_hw2[close].mean(0)) @ slopes_23
        sigma = np.nan if self.sigma_hw is None else float(np.median(self.sigma_hw[close]))
        return np.array([x, y, 1]) / inverse, sigma


@dataclass(frozen=True)
class End:
    """One end of a length: a camera, or what it sees at a pixel."""

    frame: str
    pixel: tuple[float, float] | None = None  # x, y in the photograph; None: the camera itself


@dataclass(frozen=True)
class KnownLength:
    """A length measured in the place."""

    one: End
    other: End
    metres: float

    def __str__(self) -> str:
        ends = (
            end.frame + "".join(f":{value:g}" for value in end.pixel or ())
            for end in (self.one, self.other)
        )
        return f"{','.join(ends)}={self.metres:g}"


_NUMBER = r"\d+(?:\.\d+)?"
_END = rf"([^,]+?)(?::({_NUMBER}):({_NUMBER}))?"
_LENGTH = re.compile(rf"{_END},{_END}=([^=]+)")


def parse_scale(text: str) -> KnownLength:
    """Read a length: `A,B=1.25` or `A:120:200,B:400:210=0.9`, in metres.

    An end is the name of a photograph, for its camera, or NAME:X:Y, for what is seen at that pixel
    of the photograph in its full size. Both photographs may be the same where there are pixels.
    Names hold no comma.

    Raises:
        ReconstructionError: The text is no such length, or the length is not above 0.
    """
    match = _LENGTH.fullmatch(text.strip())
    try:
        metres = float(match[7]) if match else np.nan
    except ValueError:
        metres = np.nan
    if not match or np.isnan(metres):
        raise ReconstructionError(
            f"--scale-from {text}: expected FRAME,FRAME=METRES (distance of two cameras) or "
            "FRAME:X:Y,FRAME:X:Y=METRES (length between two pixels), as in "
            "IMG_1:120:200,IMG_7:400:210=0.9"
        )
    if not 0 < metres < np.inf:
        raise ReconstructionError(f"--scale-from {text}: found {metres:g} m, expected above 0")
    one, other = (
        End(match[i], (float(match[i + 1]), float(match[i + 2])) if match[i + 1] else None)
        for i in (1, 4)
    )
    if one == other:
        raise ReconstructionError(f"--scale-from {text}: both ends are the same")
    return KnownLength(one, other, metres)


def find_gauge(
    poses: Mapping[str, np.ndarray],
    median_depth: float,
    see: Callable[[str], PhotoDepth],
    given: Mapping[str, np.ndarray] | None = None,
    lengths: Sequence[KnownLength] = (),
) -> Gauge:
    """Fix the frame and the scale of an estimate by all that is known.

    Two or more given poses say both. One says the frame, known lengths the scale. Without a given
    pose the map frame is upright, has its origin at the first camera, x along that camera's view
    and z up (REP-103). Without a length the unit is arbitrary.

    Args:
        poses: T_estimate_cam (4, 4) of each photograph used, in recording order.
        median_depth: Of all cells, units of the estimate.
        see: Gives a photograph's depth by its name; asked for those with clicked pixels only.
        given: T_map_cam (4, 4), metres, of any photographs, used or not.
        lengths: Measured in the place.

    Raises:
        ReconstructionError: The given poses do not fit the estimate, or a length cannot be found
            in it.
    """
    given = given or {}
    known = {name: T for name, T in given.items() if name in poses}
    if len(known) > 1:
        if lengths:
            _log.warning("--scale-from is not used: %d given poses say the scale", len(known))
        return gauge_from_poses(poses, known, median_depth)
    if given and not known:
        _log.warning("no photograph with a given pose could be used: the map frame is a new one")
    scale, uncertainty = _USUAL_DEPTH / median_depth, None
    if lengths:
        scale, uncertainty = scale_from_lengths(poses, median_depth, see, lengths)
    name = next(iter(known or poses))
    T_map_estimate = np.eye(4)
    if known:
        T_map_estimate = known[name].copy()
        T_map_estimate[:3, :3] = known[name][:3, :3] @ poses[name][:3, :3].T
    else:
        T_map_estimate[:3, :3] = upright(list(poses.values()))
    T_map_estimate[:3, 3] -= scale * T_map_estimate[:3, :3] @ poses[name][:3, 3]
    return Gauge(scale, T_map_estimate, bool(lengths), uncertainty)


def scale_from_lengths(
    poses: Mapping[str, np.ndarray],
    median_depth: float,
    see: Callable[[str], PhotoDepth],
    lengths: Sequence[KnownLength],
) -> tuple[float, float | None]:
    """Return metres per unit, and its uncertainty (1 sigma, as a share) where it can be told.

    Several lengths are averaged robustly in the logarithm, weighted by their squares, as an error
    at their ends is about the same for all; their spread is the uncertainty. That of one length is
    known from its clicked points' sigma.

    Raises:
        ReconstructionError: A photograph is unknown, a pixel is outside of it or has no point, or
            the ends are nearly at the same place.
    """
    spans = []
    for length in lengths:
        try:
            (one, sigma_one), (other, sigma_other) = (
                _locate(end, poses, see) for end in (length.one, length.other)
            )
        except ReconstructionError as error:
            raise ReconstructionError(f"--scale-from {length}: {error}") from error
        span = float(np.linalg.norm(one - other))
        if span < _NEAR * median_depth:
            raise ReconstructionError(
                f"--scale-from {length}: the ends are {span / median_depth:.2%} of the median "
                "depth apart, too near to tell a scale; measure a greater length"
            )
        spans.append(span)
        share = float(np.hypot(sigma_one, sigma_other)) / span
    if len(lengths) == 1:
        return lengths[0].metres / span, None if np.isnan(share) else share
    logs = np.log([length.metres / span for length, span in zip(lengths, spans, strict=True)])
    trust = np.square(spans)
    mean = float(weighted_median(logs, trust, axis=0))
    for _ in range(_ROUNDS):
        mean = np.average(logs, weights=trust * _fading(np.abs(logs - mean)))
    spread = np.average((logs - mean) ** 2, weights=trust) / (len(logs) - 1)
    for length, share in zip(lengths, np.expm1(logs - mean), strict=True):
        if abs(share) > 0.1:
            _log.warning(
                "--scale-from %s: disagrees with the others by %.0f %%", length, 100 * share
            )
    return float(np.exp(mean)), float(np.sqrt(spread))


def _locate(
    end: End, poses: Mapping[str, np.ndarray], see: Callable[[str], PhotoDepth]
) -> tuple[np.ndarray, float]:
    """Return where an end of a length lies in the estimate, and its sigma or NaN."""
    if end.frame not in poses:
        raise ReconstructionError(
            f"'{end.frame}' is none of the {len(poses)} photographs used, such as "
            f"'{next(iter(poses))}'"
        )
    T = poses[end.frame]
    if end.pixel is None:
        return T[:3, 3], np.nan
    try:
        point, sigma = see(end.frame).point(end.pixel)
    except ReconstructionError as error:
        raise ReconstructionError(f"frame {end.frame}: {error}") from error
    return transform(T, point), sigma


def gauge_from_poses(
    estimated: Mapping[str, np.ndarray], given: Mapping[str, np.ndarray], median_depth: float
) -> Gauge:
    """Fix frame and scale by two or more given poses, robustly; those that disagree are named.

    The rotation is that of the given rotations (chordal mean: Hartley et al. 2013, Rotation
    Averaging), as two positions leave one open; scale and translation are those of the positions.
    The uncertainty is that of least squares, from the residuals.

    Args:
        estimated: T_estimate_cam (4, 4) by name, those of `given` at least.
        given: T_map_cam (4, 4), metres.
        median_depth: Of all cells, units of the estimate.

    Raises:
        ReconstructionError: The cameras stand at one place, or their poses contradict the
            photographs.
    """
    names = list(given)
    T_est, T_map = (np.array([poses[name] for name in names]) for poses in (estimated, given))
    R, angles_deg = _mean_turn(T_map[:, :3, :3] @ T_est[:, :3, :3].transpose(0, 2, 1))
    if np.median(angles_deg) > _TWIST_DEG:
        raise ReconstructionError(
            f"the {len(names)} given poses contradict the photographs: their rotations disagree by "
            f"{np.median(angles_deg):.0f} degrees in the median; expected camera-to-map, camera "
            "axes x right, y down, z forward"
        )
    source, target = T_est[:, :3, 3] @ R.T, T_map[:, :3, 3]
    span = np.linalg.norm(source - np.median(source, axis=0), axis=1).max()
    if span < _NEAR * median_depth:
        raise ReconstructionError(
            f"the {len(names)} cameras with given poses stand at nearly the same place, which "
            "tells no scale; give poses farther apart, or one pose alone and --scale-from"
        )
    scale = _first_scale(source, target)
    shift = np.median(target - scale * source, axis=0)
    for _ in range(_ROUNDS):
        residuals = np.linalg.norm(target - scale * source - shift, axis=1)
        weights = _fading(residuals)
        source_mean, target_mean = (
            np.average(p, axis=0, weights=weights) for p in (source, target)
        )
        centred = source - source_mean
        power = weights @ (centred**2).sum(1)
        scale = float(weights @ ((target - target_mean) * centred).sum(1) / power)
        shift = target_mean - scale * source_mean
    residuals = np.linalg.norm(target - scale * source - shift, axis=1)
    # Three coordinates a pose, four of them spent on scale and shift.
    variance = weights @ residuals**2 / max(3 * weights.sum() - 4, 1)
    error = float(np.sqrt(variance / power))  # of the scale, 1 sigma
    if scale <= 0 or error > scale / 2:
        raise ReconstructionError(
            f"the positions of the {len(names)} given poses do not fit the photographs (off by "
            f"{100 * np.median(residuals):.0f} cm in the median); expected camera-to-map in metres"
        )
    far = (residuals > max(5 * np.median(residuals), 0.01 * scale * span)) & (len(names) > 3)
    twisted = (angles_deg > max(5 * np.median(angles_deg), 2)) & (len(names) > 2)
    for i in np.flatnonzero(far | twisted):
        _log.warning(
            "given pose of %s: disagrees with the photographs by %.0f cm, %.1f degrees; the others "
            "outvote it", names[i], 100 * residuals[i], angles_deg[i],
        )  # fmt: skip
    T_map_estimate = np.eye(4)
    T_map_estimate[:3, :3], T_map_estimate[:3, 3] = R, shift
    return Gauge(scale, T_map_estimate, True, error / scale)


def _mean_turn(turns_n33: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return a robust mean of rotations, and how far each is from it, degrees."""
    weights = np.ones(len(turns_n33))
    for _ in range(_ROUNDS):
        U, _, Vt = np.linalg.svd(np.tensordot(weights, turns_n33, 1))
        R = U * (1, 1, np.linalg.det(U) * np.linalg.det(Vt)) @ Vt
        angles_deg = np.degrees([rotation_angle(turn @ R.T) for turn in turns_n33])
        weights = 1 / np.maximum(angles_deg, 0.1)  # sum of angles, not of squares
    return R, angles_deg


def _first_scale(source_n3: np.ndarray, target_n3: np.ndarray) -> float:
    """Return the weighted median of the scales of all pairs: right with a quarter of outliers."""
    some = np.linspace(0, len(source_n3) - 1, min(len(source_n3), _MANY)).astype(int)
    i, j = np.triu_indices(len(some), 1)
    source, target = source_n3[some], target_n3[some]
    apart = source[i] - source[j]
    squares = (apart**2).sum(1)
    valid = squares > 0
    scales = ((target[i] - target[j]) * apart).sum(1)[valid] / squares[valid]
    return float(weighted_median(scales, squares[valid], axis=0))


def _fading(residuals: np.ndarray) -> np.ndarray:
    """Return weights that fade from residuals of about three medians on."""
    return cauchy_weight(residuals, max(3 * np.median(residuals), 1e-12))


def similarity(
    source_n3: np.ndarray, target_n3: np.ndarray, weights_n: np.ndarray | None = None
) -> tuple[float, np.ndarray]:
    """Fit target = R (scale * source) + t by weighted least squares (Umeyama 1991, eq. 39-42).

    The rotation is determined by three points or more that are not on one line; with less, one of
    many is returned, and the caller must not use it.

    Returns:
        The scale, and R and t as a rigid transform (4, 4).
    """
    weights_n = np.ones(len(source_n3)) if weights_n is None else weights_n
    source_mean, target_mean = (
        np.average(p, axis=0, weights=weights_n) for p in (source_n3, target_n3)
    )
    source, target = source_n3 - source_mean, target_n3 - target_mean
    U, d, Vt = np.linalg.svd((weights_n[:, None] * target).T @ source)
    signs = np.array([1, 1, np.linalg.det(U) * np.linalg.det(Vt)])
    scale = float(d @ signs / (weights_n @ (source**2).sum(1)))
    T = np.eye(4)
    T[:3, :3] = U * signs @ Vt
    T[:3, 3] = target_mean - scale * T[:3, :3] @ source_mean
    return scale, T


def upright(poses: Sequence[np.ndarray]) -> np.ndarray:
    """Return the rotation (3, 3) from a frame to one with z up and x along the first camera's view.

    People and robots hold cameras level and pitch them as they need: up is the direction most
    orthogonal to the cameras' x axes and, much less so, to their views, which decide where the x
    axes are all but parallel. A few rolled cameras are outvoted.

    Args:
        poses: T_frame_cam (4, 4), one or more.
    """
    axes_n33 = np.array(poses)[:, :3, :3]
    x, up_image, view = axes_n33[:, :, 0], -axes_n33[:, :, 1], axes_n33[:, :, 2]
    up = up_image.mean(0)
    for _ in range(_ROUNDS):
        weights = 1 / (1 + (x @ up / _LEVEL) ** 2)
        scatter = (weights[:, None] * x).T @ x + _PITCH * (weights[:, None] * view).T @ view
        up = np.linalg.eigh(scatter)[1][:, 0]
        up *= 1 if up @ (weights @ up_image) >= 0 else -1
    first = axes_n33[0]
    ahead = first[:, 2] - first[:, 2] @ up * up
    if np.linalg.norm(ahead) < 0.1:  # it looks straight up or down: ahead of its right side then
        ahead = np.cross(up, first[:, 0])
    ahead /= np.linalg.norm(ahead)
    return np.stack([ahead, np.cross(up, ahead), up])
