"""Known lengths in the place, and the scale that they give to a map from photographs."""

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from distill_training.common.robust import cauchy_weight, residual_scale, weighted_median
from mote_localization.camera import Camera
from mote_localization.errors import ReconstructionError
from mote_localization.geometry import on_same_surface, transform

_log = logging.getLogger(__name__)

MIN_LENGTH = 0.01  # fraction of the median depth; shorter lengths are mostly noise
STEPS = 10  # of reweighted least squares, enough to converge
_SHOWN = 60  # characters of a text that a message quotes
_SURFACE_TOLERANCE = 0.1  # fraction of the depth by which cells of one surface differ


@dataclass(frozen=True)
class PhotoDepth:
    """One photograph and the estimated depth of its cells."""

    live: Camera  # of the photograph as it was taken
    grid: Camera  # undistorted, the camera of the cells
    depth_hw: np.ndarray  # units of the estimate, NaN = none
    sigma_hw: np.ndarray | None = None  # expected error of the depth, same units

    def point(self, pixel: tuple[float, float]) -> tuple[np.ndarray, float]:
        """Return the point (3,) at a pixel of the photograph, camera frame, and its sigma or NaN.

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
        rays_hw3 = self.grid.cell_rays(stride)
        pixels_hw2 = self.live.project(rays_hw3)
        side_px = stride * self.live.fx / self.grid.fx
        known = np.isfinite(self.depth_hw)
        distance_hw = np.where(known, np.linalg.norm(pixels_hw2 - at, axis=-1), np.inf)
        nearest = np.unravel_index(distance_hw.argmin(), distance_hw.shape)
        if distance_hw[nearest] > side_px:
            raise ReconstructionError(
                f"pixel {at[0]:g}:{at[1]:g} has no estimated point; choose one on a surface with "
                "texture that other photographs show too"
            )
        # On a plane, x/z, y/z and 1/z are linear in the pixel. Cells across a depth edge are left
        # out.
        same = on_same_surface(self.depth_hw, self.depth_hw[nearest], _SURFACE_TOLERANCE)
        close = (distance_hw < 1.6 * side_px) & same
        values_n3 = np.column_stack([rays_hw3[close][:, :2], 1 / self.depth_hw[close]])
        offsets_n2 = pixels_hw2[close] - pixels_hw2[close].mean(0)
        slopes_23 = np.linalg.lstsq(offsets_n2, values_n3 - values_n3.mean(0), rcond=None)[0]
        x, y, inverse = values_n3.mean(0) + (at - pixels_hw2[close].mean(0)) @ slopes_23
        sigma = np.nan if self.sigma_hw is None else float(np.median(self.sigma_hw[close]))
        return np.array([x, y, 1]) / inverse, sigma


@dataclass(frozen=True)
class End:
    """One end of a length: the position of a camera, or the point at one of its pixels."""

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

    @property
    def option(self) -> str:
        """The option that gave the length, for messages."""
        return f"--scale-from {str(self)[:_SHOWN]}"


_NUMBER = r"\d+(?:\.\d+)?"
_END = rf"([^,]+?)(?::({_NUMBER}):({_NUMBER}))?"
_LENGTH = re.compile(rf"{_END},{_END}=([^=]+)")


def parse_known_length(text: str) -> KnownLength:
    """Parse a length in metres: `A,B=1.25` or `A:120:200,B:400:210=0.9`.

    An end is NAME, the position of that photograph's camera, or NAME:X:Y, the point at that pixel
    of the photograph in full size. Both ends may be in one photograph if they are pixels. Names
    contain no comma.

    Raises:
        ReconstructionError: The text has another form, or the length is not above 0.
    """
    match = _LENGTH.fullmatch(text.strip())
    option = f"--scale-from {text[:_SHOWN]}"
    try:
        metres = float(match[7]) if match else np.nan
    except ValueError:
        metres = np.nan
    if not match or np.isnan(metres):
        raise ReconstructionError(
            f"{option}: expected FRAME,FRAME=METRES (distance of two cameras) or "
            "FRAME:X:Y,FRAME:X:Y=METRES (length between two pixels), as in "
            "IMG_1:120:200,IMG_7:400:210=0.9"
        )
    if not 0 < metres < np.inf:
        raise ReconstructionError(f"{option}: found {metres:g} m, expected above 0")
    one, other = (
        End(match[i], (float(match[i + 1]), float(match[i + 2])) if match[i + 1] else None)
        for i in (1, 4)
    )
    if one == other:
        raise ReconstructionError(f"{option}: both ends are the same, expected two places")
    return KnownLength(one, other, metres)


def scale_from_lengths(
    poses: Mapping[str, np.ndarray],
    median_depth: float,
    photo_depth: Callable[[str], PhotoDepth],
    lengths: Sequence[KnownLength],
) -> tuple[float, float | None]:
    """Return metres per unit of the estimate, and its uncertainty (1 sigma, relative) or None.

    Several lengths are averaged robustly in the logarithm. Their weights are their squares, as an
    error at their ends is about the same for all. Their spread is the uncertainty. The uncertainty
    of a single length follows from the sigma of its pixels' points; None for two cameras.

    Args:
        poses: T_estimate_cam (4, 4) of each photograph used.
        median_depth: Of all cells, units of the estimate.
        photo_depth: Returns the depth of a photograph by its name.
        lengths: One or more.

    Raises:
        ReconstructionError: A photograph is unknown, a pixel is outside of it or has no point, or
            the ends are nearly at the same place.
    """
    spans = []
    for length in lengths:
        try:
            (one, sigma_one), (other, sigma_other) = (
                _locate(end, poses, photo_depth) for end in (length.one, length.other)
            )
        except ReconstructionError as error:
            raise ReconstructionError(f"{length.option}: {error}") from error
        span = float(np.linalg.norm(one - other))
        if span < MIN_LENGTH * median_depth:
            raise ReconstructionError(
                f"{length.option}: the ends are {span / median_depth:.2%} of the median depth "
                f"apart, expected {MIN_LENGTH:.0%} or more; measure a longer length"
            )
        spans.append(span)
        relative = float(np.hypot(sigma_one, sigma_other)) / span
    if len(lengths) == 1:
        return lengths[0].metres / span, None if np.isnan(relative) else relative
    logs = np.log([length.metres / span for length, span in zip(lengths, spans, strict=True)])
    weights = np.square(spans)
    mean = float(weighted_median(logs, weights, axis=0))
    for _ in range(STEPS):
        residuals = np.abs(logs - mean)
        robust = weights * cauchy_weight(residuals, residual_scale(residuals))
        mean = np.average(logs, weights=robust)
    spread = np.average((logs - mean) ** 2, weights=weights) / (len(logs) - 1)
    for length, relative in zip(lengths, np.expm1(logs - mean), strict=True):
        if abs(relative) > 0.1:
            _log.warning(
                "--scale-from %s: differs from the other lengths by %.0f %%", length, 100 * relative
            )
    return float(np.exp(mean)), float(np.sqrt(spread))


def _locate(
    end: End, poses: Mapping[str, np.ndarray], photo_depth: Callable[[str], PhotoDepth]
) -> tuple[np.ndarray, float]:
    """Return the point (3,) at an end of a length, frame of the estimate, and its sigma or NaN."""
    name = end.frame[:_SHOWN]
    if end.frame not in poses:
        raise ReconstructionError(
            f"'{name}' is none of the {len(poses)} photographs used, such as "
            f"'{next(iter(poses))[:_SHOWN]}'"
        )
    T = poses[end.frame]
    if end.pixel is None:
        return T[:3, 3], np.nan
    try:
        point, sigma = photo_depth(end.frame).point(end.pixel)
    except ReconstructionError as error:
        raise ReconstructionError(f"frame {name}: {error}") from error
    return transform(T, point), sigma
