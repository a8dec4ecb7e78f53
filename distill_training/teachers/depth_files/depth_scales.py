"""The scale of each image's depth: map units per unit of the depth.

Triangulated points determine it. The depth of overlapping images determines the ratio of their
scales more accurately, since it has many more points.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse
from scipy.sparse.linalg import spsolve

from distill_training.common.robust import NORMAL, cauchy_weight, median_error, residual_scale
from distill_training.poses.frame_points import FramePoints
from distill_training.poses.image_pairs import Pair, components
from distill_training.teachers.pairwise.depth_map import DepthMap
from distill_training.teachers.pairwise.observations import sampled_cells
from mote_localization.errors import ReconstructionError
from mote_localization.geometry import invert, transform
from mote_localization.progress import track

_MIN_POINTS = 15  # triangulated points of an image that determine its scale
_MIN_CELLS = 20  # comparable cells of a pair
_MAX_RATIO = 1.5  # of depths that are compared; larger ratios are occlusions
_FIRST_RATIO = 3.0  # the same, before the scales are solved for
_ALTERNATIONS = 4  # of comparing the images and solving for their scales
_REWEIGHTINGS = 3
_PAIR_SIGMA = 0.01  # usual error of the ratio of two images' scales
_POINTS_SIGMA = 0.1  # usual error of one image's scale by its points, where poses drift
_MAX_ERROR = 0.15  # median log ratio of an image that is used


@dataclass(frozen=True)
class DepthScales:
    """Scales of the images whose scale is known."""

    scale: dict[int, float]  # image -> map units per unit of its depth
    sigma: dict[int, float]  # image -> expected error of the scale, relative
    error: float  # of one depth, relative, 1 sigma
    unknown: dict[int, str]  # image -> reason


def scales_of_points(
    maps: Mapping[int, DepthMap], points: Mapping[int, FramePoints]
) -> dict[int, tuple[float, float]]:
    """Return log scale and spread of the images that triangulated points determine.

    Args:
        maps: Depth map of each image, unit of its depth.
        points: Triangulated points of images, map units.

    Raises:
        ReconstructionError: No image has enough points with a depth.
    """
    measured = {i: m for i, one in points.items() if i in maps and (m := _measured(maps[i], one))}
    if not measured:
        raise ReconstructionError(
            f"none of {len(maps)} images has {_MIN_POINTS} triangulated points with a depth in its "
            "file that fits; expected depth along the optical axis, and poses camera-to-map"
        )
    return measured


def find_scales(
    maps: Mapping[int, DepthMap],
    measured: Mapping[int, tuple[float, float]],
    pairs: Sequence[Pair],
    per_image: bool,
) -> DepthScales:
    """Return the scales that fit triangulated points and the depth of overlapping images.

    Args:
        maps: Depth map of each image, unit of its depth, with its pose.
        measured: Log scale and spread of one image or more, as of `scales_of_points`.
        pairs: Images that overlap.
        per_image: Each image has its own scale; otherwise all have the same.
    """
    logs = np.array([log for log, _ in measured.values()])
    if not per_image:
        common = float(np.median(logs))
        sigma = median_error(np.abs(logs - common))
        log_scale = dict.fromkeys(maps, common)
        sigmas = dict.fromkeys(maps, sigma)
    else:
        log_scale, sigmas = _solve_each(maps, {i: m[0] for i, m in measured.items()}, pairs)
    known = sorted(log_scale)
    agreement = _Agreement({i: maps[i] for i in known}, pairs)
    error = agreement.errors(np.array([log_scale[i] for i in known]))
    unknown = {i: "too few points determine its scale" for i in sorted(maps.keys() - set(known))}
    for i, error_i in zip(known, error, strict=True):
        if error_i > _MAX_ERROR:
            unknown[i] = "its depth does not agree with that of other images"
    used = [i for i in known if i not in unknown]
    errors = [e for i, e in zip(known, error, strict=True) if i in set(used) and e > 0]
    of_points = [spread for _, spread in measured.values()]
    return DepthScales(
        {i: float(np.exp(log_scale[i])) for i in used},
        {i: sigmas[i] for i in used},
        # The ratio of two images has the errors of two depths.
        NORMAL / np.sqrt(2) * float(np.median(errors)) if errors else float(np.median(of_points)),
        unknown,
    )


def _measured(one: DepthMap, points: FramePoints) -> tuple[float, float] | None:
    """Return log scale and spread of the ratios of triangulated points to an image's depth."""
    depth_k, _ = one.sample(points.rays_k3())
    log_k = np.log(points.depth_k / depth_k)
    log_k = log_k[np.isfinite(log_k)]
    if len(log_k) < _MIN_POINTS:
        return None
    log = float(np.median(log_k))
    spread = float(np.median(np.abs(log_k - log)))
    return (log, NORMAL * spread) if spread <= _MAX_ERROR else None


def _solve_each(
    maps: Mapping[int, DepthMap], measured: Mapping[int, float], pairs: Sequence[Pair]
) -> tuple[dict[int, float], dict[int, float]]:
    """Return the log scale of each image that is connected with triangulated points, and its sigma.

    Robust least squares: the log scales are near those of the points, and the depth maps of
    overlapping images agree.
    """
    groups = components(max(maps) + 1, [p for p in pairs if p[0] in maps and p[1] in maps])
    used = sorted(i for group in groups if measured.keys() & set(group) for i in group if i in maps)
    agreement = _Agreement({i: maps[i] for i in used}, pairs)
    # Without points, an image has the median depth of the others at first.
    medians = {i: float(np.log(np.nanmedian(maps[i].depth_hw))) for i in used}
    usual = float(np.median([log + medians[i] for i, log in measured.items()]))
    log_n = np.array([measured.get(i, usual - medians[i]) for i in used])
    points_n = np.array([measured.get(i, np.nan) for i in used])
    for k in track(range(_ALTERNATIONS), "align depth", _ALTERNATIONS):
        median_e = agreement.median_ratios(log_n, _MAX_RATIO if k else _FIRST_RATIO)
        log_n = log_n + _change(median_e, agreement.ends_e2, points_n - log_n)
    left_e = agreement.median_ratios(log_n, _MAX_RATIO)
    sigma_n = np.zeros(len(used))
    for n in range(len(used)):
        own = left_e[(agreement.ends_e2[:, 0] == n) & np.isfinite(left_e)]
        if len(own):
            sigma_n[n] = NORMAL * float(np.median(np.abs(own))) / np.sqrt(len(own))
    common = median_error(np.abs(points_n - log_n)[np.isfinite(points_n)])
    return dict(zip(used, log_n.tolist(), strict=True)), dict(
        zip(used, np.hypot(sigma_n, common).tolist(), strict=True)
    )


def _change(median_e: np.ndarray, ends_e2: np.ndarray, points_n: np.ndarray) -> np.ndarray:
    """Return the change of each log scale that removes the differences, by robust least squares.

    Args:
        median_e: Median log ratio of each directed pair; NaN = none.
        ends_e2: The images of each pair.
        points_n: Log scale by triangulated points minus the present one; NaN = none.
    """
    n = len(points_n)
    pair_e, image_k = np.flatnonzero(np.isfinite(median_e)), np.flatnonzero(np.isfinite(points_n))
    rows = np.concatenate(
        [np.tile(np.arange(len(pair_e)), 2), len(pair_e) + np.arange(len(image_k))]
    )
    columns = np.concatenate([ends_e2[pair_e].T.ravel(), image_k])
    signs = np.repeat([1.0, -1.0, 1.0], [len(pair_e), len(pair_e), len(image_k)])
    A = sparse.coo_array((signs, (rows, columns)), shape=(len(pair_e) + len(image_k), n)).tocsr()
    wanted = np.concatenate([median_e[pair_e], points_n[image_k]])
    sigma = np.repeat([_PAIR_SIGMA, _POINTS_SIGMA], [len(pair_e), len(image_k)])
    change_n = np.zeros(n)
    for _ in range(_REWEIGHTINGS):
        left = np.abs(wanted - A @ change_n) / sigma
        weight = cauchy_weight(left, residual_scale(left)) / sigma**2
        # A small weight keeps images without any equation where they are.
        normal = A.T @ sparse.diags_array(weight) @ A + 1e-9 * sparse.eye_array(n)
        change_n = spsolve(normal.tocsc(), A.T @ (weight * wanted))
    return change_n


class _Agreement:
    """Compares sampled cells of images with the depth maps of their partners, at any scales."""

    def __init__(self, maps: Mapping[int, DepthMap], pairs: Sequence[Pair]) -> None:
        """Prepare the comparison; the n-th image is the n-th of `maps`."""
        self._maps = list(maps.values())
        number = {i: n for n, i in enumerate(maps)}
        inside = [(number[i], number[j]) for i, j in pairs if i in maps and j in maps]
        directed = [ends for i, j in inside for ends in ((i, j), (j, i))]
        self.ends_e2 = np.array(directed, int).reshape(-1, 2)
        self._points_nk3 = []
        for one in self._maps:
            at = sampled_cells(*one.depth_hw.shape)
            points_k3 = one.rays_hw3()[at] * one.depth_hw[at][:, None]
            self._points_nk3.append(points_k3[np.isfinite(points_k3[:, 2])])

    def median_ratios(self, log_n: np.ndarray, limit: float) -> np.ndarray:
        """Return the median log ratio of each directed pair: the other image's depth to this one's.

        Args:
            log_n: Log scale of each image.
            limit: Larger ratios are left out. NaN where too few are left.
        """
        ratios = self._ratios(log_n, limit)
        return np.array([np.median(r) if len(r) else np.nan for r in ratios])

    def errors(self, log_n: np.ndarray) -> np.ndarray:
        """Return the median size of the log ratios of each image; 0 without a comparable one."""
        sizes = [
            np.median(np.abs(r)) if len(r) else np.nan for r in self._ratios(log_n, _MAX_RATIO)
        ]
        error_n = np.zeros(len(self._maps))
        for n in range(len(self._maps)):
            own = np.array(sizes)[self.ends_e2[:, 0] == n]
            if np.isfinite(own).any():
                error_n[n] = np.nanmedian(own)
        return error_n

    def _ratios(self, log_n: np.ndarray, limit: float) -> list[np.ndarray]:
        """Return the log ratios of each directed pair; empty where there are too few."""
        ratios = []
        for i, j in self.ends_e2:
            T_other_one = invert(self._maps[j].T_map_cam) @ self._maps[i].T_map_cam
            points_k3 = transform(T_other_one, np.exp(log_n[i]) * self._points_nk3[i])
            points_k3 = points_k3[points_k3[:, 2] > 0]
            depth_k, _ = self._maps[j].sample(points_k3)
            log_k = np.log(depth_k) + log_n[j] - np.log(points_k3[:, 2])
            log_k = log_k[np.abs(log_k) < np.log(limit)]
            ratios.append(log_k if len(log_k) >= _MIN_CELLS else log_k[:0])
        return ratios
