"""Checks the intrinsics of live cameras against the map; no ROS.

A wrong calibration moves the canonical pixels of a live image. The pose absorbs a part of it, the
depth of the scene shows the rest. Each view estimates the errors of the intrinsics together with
its pose; the views are averaged by generalized least squares, because near views share the errors
of the map. Only the scatter of views from different places makes an error significant.

It needs the points of keyframes: those of a student move with the image that it sees.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import NamedTuple

import numpy as np

from mote_localization.bundles.bundle_localizer import AnyLocalizer
from mote_localization.camera import Camera
from mote_localization.geometry import exp_rotation
from mote_localization.localizer import Localization

_NAMES = ("focal length", "principal point x", "principal point y", "distortion")
_FOCAL, _DISTORTION = 0, 3  # their indices
_MIN_ERROR_PX = 0.5  # expected error of a match is at least the resolution of the image
# A smaller step is the last one; what is left is a tenth. Rad and fractions; positions in fractions
# of the median depth.
_LAST_STEP = 5e-3
_SAME_CALIBRATION = 0.002  # of fx, or of a coefficient of the distortion: smaller changes go on
_HYPOTHESIS_TOLERANCE = 0.4  # relative, of the distortion that a hypothesis predicts


@dataclass(frozen=True)
class IntrinsicsConfig:
    """When a calibration disagrees.

    The four parameters are the relative error of the focal length, those of the principal point
    (fractions of the focal length), and the first radial coefficient.
    """

    least_4: tuple[float, ...] = (0.0075, 0.02, 0.02, 0.04)  # smaller errors are the map's own
    # expected deviation of a view's estimate, before its views show it, and the number of views
    # that this expectation counts for
    deviation_4: tuple[float, ...] = (0.02, 0.02, 0.025, 0.03)
    prior_views: float = 4.0
    # An alarm is raised at alarm_sigmas (1 + few_views / views) standard errors beyond the least
    # error: the standard error of few views is not well known.
    alarm_sigmas: float = 3.0
    few_views: float = 5.0
    # It is cleared below so many, if the error is less than half of what raised it. Only the views
    # of the newest images count then: a camera that stands still may have been corrected.
    clear_sigmas: float = 1.0
    clear_images: int = 300
    suspected_sigmas: float = 1.5  # beyond so many, an error enlarges the covariance of the poses
    min_views: int = 3
    max_views: int = 60  # the newest ones count
    # A motion is the rotation, plus the distance over the median depth of the scene, in rad.
    min_motion: float = 0.015  # views nearer to another one are of the same place
    refresh_images: int = 30  # after so many, an image of a place replaces the one before
    correlated_motion: float = 0.09  # at which the correlation of two views falls to 1/e
    correlation: float = 0.7  # of two views of one place
    jackknife_scale: float = 2.0  # of a view's own deviation, as the jackknife estimates it
    robust_sigmas: float = 1.0  # scale of the Cauchy weight, in expected errors of a match
    max_error_px: float = 9.0  # matches with larger reprojection errors are not used
    min_matches: int = 40
    max_matches: int = 400  # at least half as many are used where there are more
    steps: int = 20  # of Gauss-Newton; a view that needs more is not counted


class Disagreement(NamedTuple):
    """The errors of the intrinsics as estimated from several views, see `IntrinsicsConfig`."""

    errors_4: np.ndarray  # of the true ones to those given
    sigmas_4: np.ndarray


class _Views(NamedTuple):
    """Views of different places, and what each estimates."""

    position_n3: np.ndarray  # of the camera, map frame
    R_n33: np.ndarray  # of the camera in the map frame
    depth_n: np.ndarray  # median
    errors_n4: np.ndarray
    variances_n4: np.ndarray
    image_n: np.ndarray  # number of the newest image of each place
    motion_nn: np.ndarray  # between them, see `IntrinsicsConfig`

    def motions_to(self, T_map_cam: np.ndarray, depth: float) -> np.ndarray:
        """Return the motion (n,) from each view to another one."""
        moved_n = np.linalg.norm(self.position_n3 - T_map_cam[:3, 3], axis=1)
        cosine_n = (self.R_n33.reshape(-1, 9) @ T_map_cam[:3, :3].reshape(9) - 1) / 2
        return moved_n / np.sqrt(depth * self.depth_n) + np.arccos(cosine_n.clip(-1, 1))

    def with_another(
        self,
        T_map_cam: np.ndarray,
        depth: float,
        found: Sequence[np.ndarray],
        image: int,
        motion_n: np.ndarray,
    ) -> "_Views":
        """Return these views and another one, of which `motions_to` is known."""
        motion_nn = np.pad(self.motion_nn, (0, 1))
        motion_nn[-1, :-1] = motion_nn[:-1, -1] = motion_n
        another = T_map_cam[:3, 3], T_map_cam[:3, :3], depth, *found, image
        pairs = zip(self[:-1], another, strict=True)
        return _Views._make([*(np.concatenate([old, [new]]) for old, new in pairs), motion_nn])

    def chosen(self, index_m: np.ndarray) -> "_Views":
        """Return some of these views."""
        motion_mm = self.motion_nn[np.ix_(index_m, index_m)]
        return _Views._make([*(one[index_m] for one in self[:-1]), motion_mm])


class IntrinsicsCheck:
    """Estimates the errors of one camera's intrinsics from its newest views."""

    def __init__(
        self,
        canonical: Camera,
        config: IntrinsicsConfig = IntrinsicsConfig(),  # noqa: B008 (frozen)
    ) -> None:
        """Start without views."""
        self._canonical, self._config = canonical, config
        none_n4 = np.zeros((0, 4))
        self._views = _Views(
            np.zeros((0, 3)),
            np.zeros((0, 3, 3)),
            np.zeros(0),
            none_n4,
            none_n4,
            np.zeros(0, int),
            np.zeros((0, 0)),
        )
        self._images = 0
        self._estimate: Disagreement | None = None
        self._moves_34 = np.zeros((3, 4))  # the camera per error of the intrinsics: newest view
        self._alarm: np.ndarray | None = None  # the errors (4,) that have raised it

    @property
    def disagreement(self) -> Disagreement | None:
        """The errors of the intrinsics while they are significant."""
        return self._estimate if self._alarm is not None else None

    @property
    def excess_4(self) -> np.ndarray:
        """Standard errors by which each error exceeds the least one that counts."""
        if self._estimate is None:
            return np.full(4, -np.inf)
        errors_4, sigmas_4 = self._estimate
        return (np.abs(errors_4) - self._config.least_4) / sigmas_4

    @property
    def added_variance(self) -> float:
        """Of the position along each axis, m²: by the error, if it is suspected.

        As large along each: the direction of a linear sensitivity is not that of large errors.
        """
        if self._estimate is None or self.excess_4.max() < self._config.suspected_sigmas:
            return 0.0
        errors_4, sigmas_4 = self._estimate
        moved_3 = self._moves_34 @ errors_4
        return float(moved_3 @ moved_3 + ((self._moves_34 * sigmas_4) ** 2).sum())

    def add(
        self,
        points_n3: np.ndarray,
        pixels_n2: np.ndarray,
        sigma_n: np.ndarray,
        T_map_cam: np.ndarray,
    ) -> None:
        """Add the matches of a localized image; it replaces an old view of the same place.

        Args:
            points_n3: Points of keyframes, map frame.
            pixels_n2: Their pixels in the canonical image.
            sigma_n: Expected error of each point, in units of the map.
            T_map_cam: The pose (4, 4) that they give.
        """
        config = self._config
        if len(points_n3) < config.min_matches:
            return
        points_n3, pixels_n2, sigma_n = (
            one[:: len(one) // config.max_matches + 1] for one in (points_n3, pixels_n2, sigma_n)
        )
        depth = float(np.median((points_n3 - T_map_cam[:3, 3]) @ T_map_cam[:3, 2]))
        if not depth > 0:
            return
        self._images += 1
        views = self._views
        motion_n = views.motions_to(T_map_cam, depth)
        place = int(motion_n.argmin()) if (motion_n < config.min_motion).any() else None
        if place is not None:
            if self._images - views.image_n[place] < config.refresh_images:
                return
            views.image_n[place] = self._images
        found = _errors_of(points_n3, pixels_n2, sigma_n, T_map_cam, depth, self._canonical, config)
        if found is None:
            return
        estimate, self._moves_34 = found[:2], found[2]
        if place is not None:  # its pose remains: places do not move with a slow robot
            views.errors_n4[place], views.variances_n4[place] = estimate
        else:
            self._views = views.with_another(T_map_cam, depth, estimate, self._images, motion_n)
        image_n = self._views.image_n
        newest = np.sort(np.argsort(image_n)[-config.max_views :])
        if self._alarm is not None:
            newest = newest[image_n[newest] > self._images - config.clear_images]
        self._views = self._views.chosen(newest)
        self._estimate = _mean_of(self._views, config)
        if self._alarm is not None or len(newest) >= config.min_views:
            self._alarm = self._next_alarm(self._estimate.errors_4)

    def _next_alarm(self, errors_4: np.ndarray) -> np.ndarray | None:
        """Return the errors that have raised the alarm; None: it is cleared, or not raised."""
        config, excess_4 = self._config, self.excess_4
        if self._alarm is None:
            limit = config.alarm_sigmas * (1 + config.few_views / len(self._views.depth_n))
            return errors_4 if excess_4.max() > limit else None
        worst = int(np.argmax(np.abs(self._alarm) / config.least_4))
        remains = errors_4[worst] / self._alarm[worst] > 0.5
        return self._alarm if remains or excess_4.max() > config.clear_sigmas else None


class CalibrationChecks:
    """Checks the calibration of each camera of a localizer."""

    def __init__(self, canonical: Camera) -> None:
        """Start without images."""
        self._canonical = canonical
        self._checks: dict[int, tuple[Camera, IntrinsicsCheck]] = {}  # by the camera's index

    @classmethod
    def of(cls, localizer: AnyLocalizer) -> "CalibrationChecks | None":
        """Return the checks of a localizer; None if it uses no keyframes."""
        return cls(localizer.info.camera) if localizer.uses_keyframes else None

    def fault(self, index: int, camera: Camera, found: Localization) -> str:
        """Return how a camera's calibration disagrees with its images; empty: it does not.

        Another calibration of the camera starts again; the small changes of an autofocus do not.

        Args:
            index: Of the camera.
            camera: As it is calibrated.
            found: What the image shows, localized with the map's keyframes.
        """
        if index not in self._checks or _differ(self._checks[index][0], camera):
            self._checks[index] = camera, IntrinsicsCheck(self._canonical)
        check = self._checks[index][1]
        if found.tracking is not None:
            check.add(
                found.match_points_n3,
                found.pixels_n2,
                found.match_sigma_n,
                found.tracking.T_map_cam,
            )
        if check.disagreement is None:
            return ""
        fault = _description(camera, check.disagreement, int(check.excess_4.argmax()))
        return f"{fault}, or make the map again if the calibration is right"

    def added_variance(self, index: int) -> float:
        """Return `IntrinsicsCheck.added_variance` of a camera after its last image."""
        return self._checks[index][1].added_variance


def _differ(one: Camera, other: Camera) -> bool:
    """Return whether two calibrations differ so much that their views cannot be averaged."""
    if (one.width, one.height, one.distortion_model) != (
        other.width,
        other.height,
        other.distortion_model,
    ):
        return True
    pinhole_2_4 = np.array([(c.fx, c.fy, c.cx, c.cy) for c in (one, other)]) / one.fx
    coefficients = zip_longest(one.distortion, other.distortion, fillvalue=0.0)
    changes = [*(pinhole_2_4[0] - pinhole_2_4[1]), *(a - b for a, b in coefficients)]
    return bool(np.abs(changes).max() > _SAME_CALIBRATION)


def _description(camera: Camera, found: Disagreement, worst: int) -> str:
    """Return what disagrees, and what to do."""
    error = float(found.errors_4[worst])
    given, fitting = camera.fx, camera.fx * (1 + error)
    if worst == _DISTORTION:
        expected = _distortion_if_rectified(camera)
        if expected and abs(error - expected) < _HYPOTHESIS_TOLERANCE * abs(expected):
            advice = (
                "the images look rectified, and its distortion is removed again: set the "
                "parameter rectified, or use the raw images"
            )
        elif not any(camera.distortion) and error < 0:
            advice = (
                "the images look distorted, but are used as rectified: use rectified images, or "
                "the distortion of the raw ones"
            )
        else:
            advice = "calibrate the camera again"
        return f"calibration disagrees by {error:+.2f} in the radial distortion (k1): {advice}"
    if worst != _FOCAL:
        given = (camera.cx, camera.cy)[worst - 1]
        fitting = given + error * (camera.fx, camera.fy)[worst - 1]
    return (
        f"calibration disagrees by {100 * abs(error):.1f} % of focal length: the images fit a "
        f"{_NAMES[worst]} of {fitting:.0f} px, its camera_info has {given:.0f} px; calibrate the "
        "camera again"
    )


def _distortion_if_rectified(camera: Camera) -> float:
    """Return the error of k1 if the images of a distorted camera are rectified already; 0: none."""
    if not any(camera.distortion):
        return 0.0
    corners = camera.corner_rays()
    rays = np.concatenate([corners * (s, s, 1.0) for s in np.linspace(0.2, 0.9, 8)])
    seen = (camera.project(rays) - (camera.cx, camera.cy)) / (camera.fx, camera.fy)
    basis = seen * (seen**2).sum(axis=1, keepdims=True)
    return float(((rays[:, :2] - seen) * basis).sum() / (basis**2).sum())


def _errors_of(
    points_n3: np.ndarray,
    pixels_n2: np.ndarray,
    sigma_n: np.ndarray,
    T_map_cam: np.ndarray,
    depth: float,
    camera: Camera,
    config: IntrinsicsConfig,
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Return the errors of the intrinsics (4,) of one view and their variances (4,).

    The third array (3, 4) is by how much each error moves the camera, along its axes.

    Gauss-Newton on the pose and the errors; None if it does not converge. The variances are those
    of a jackknife over 5 image blocks a row, linearized.
    """
    points = points_n3.astype(np.float64)
    pixels = pixels_n2.astype(np.float64)
    R_33, position_3, errors_4 = T_map_cam[:3, :3].copy(), T_map_cam[:3, 3].copy(), np.zeros(4)
    focal, unit_10 = camera.fx, np.array([depth] * 3 + [1] * 7)
    for _ in range(config.steps):
        x, y, z = ((points - position_3) @ R_33).T
        per_z = np.divide(1, z, out=np.zeros_like(z), where=z > 0)
        a, b = x * per_z, y * per_z
        radius = a * a + b * b
        scale = 1 + errors_4[0] + errors_4[3] * radius
        du = focal * (a * scale + errors_4[1]) + camera.cx - pixels[:, 0]
        dv = camera.fy * (b * scale + errors_4[2]) + camera.cy - pixels[:, 1]
        squared = du * du + dv * dv
        used_n = (z > 0) & (squared < config.max_error_px**2)
        if np.count_nonzero(used_n) < config.min_matches:
            return None
        deviation = focal * sigma_n * per_z
        variance = deviation**2 + squared / config.robust_sigmas**2 + _MIN_ERROR_PX**2
        root = np.sqrt(used_n / variance)
        ab, none, one = a * b, np.zeros_like(a), np.ones_like(a)
        # the pose as in `pose.py`, then the errors
        J_u = focal * root * (-per_z, none, a * per_z, ab, -1 - a * a, b, a, one, none, a * radius)
        J_v = (
            camera.fy
            * root
            * (none, -per_z, b * per_z, 1 + b * b, -ab, -a, b, none, one, b * radius)
        )
        scores = root * du * J_u + root * dv * J_v
        try:
            hessian = J_u @ J_u.T + J_v @ J_v.T
            inverse = np.linalg.inv(hessian)
        except np.linalg.LinAlgError:
            return None
        step = -inverse @ scores.sum(axis=1)
        position_3 += R_33 @ step[:3]
        R_33 = R_33 @ exp_rotation(step[3:6])
        errors_4 += step[6:]
        if not np.isfinite(step).all():
            return None
        if np.abs(step / unit_10).max() < _LAST_STEP:
            break
    else:
        return None
    block_n = np.floor(pixels[used_n] / (camera.width / 5)) @ (1, 64)
    _, block_n = np.unique(block_n, return_inverse=True)
    changes = (inverse[6:] @ scores)[:, used_n]
    of_blocks = np.array([np.bincount(block_n, one) for one in changes])
    count = of_blocks.shape[1]
    if count < 2:
        return None
    variances_4 = count / (count - 1) * (of_blocks**2).sum(axis=1)
    if not np.isfinite(variances_4).all():
        return None
    return errors_4, variances_4, np.linalg.solve(hessian[:6, :6], hessian[:6, 6:])[:3]


def _mean_of(views: _Views, config: IntrinsicsConfig) -> Disagreement:
    """Return the mean over views by generalized least squares, and its standard error.

    The scatter of the views scales the expected deviations.
    """
    count = len(views.depth_n)
    shared_nn = np.exp(-views.motion_nn / config.correlated_motion)
    correlation_nn = config.correlation * shared_nn + (1 - config.correlation) * np.eye(count)
    own_n4 = config.jackknife_scale**2 * views.variances_n4
    weight_n4 = 1 / np.sqrt(np.square(config.deviation_4) + own_n4)
    error_n4 = weight_n4 * views.errors_n4
    both_n8 = np.concatenate([weight_n4, error_n4], axis=1)
    solved_n4, solved_error_n4 = np.split(np.linalg.solve(correlation_nn, both_n8), 2, axis=1)
    information_4 = (weight_n4 * solved_n4).sum(axis=0)
    mean_4 = (error_n4 * solved_n4).sum(axis=0) / information_4
    scatter_4 = (error_n4 * solved_error_n4).sum(axis=0) - mean_4**2 * information_4
    scale_4 = (config.prior_views + scatter_4) / (config.prior_views + count - 1)
    return Disagreement(mean_4, np.sqrt(scale_4 / information_4))
