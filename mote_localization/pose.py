"""Absolute pose from 2-D to 3-D matches: RANSAC by a library, refinement and covariance here.

PoseLib or OpenCV's USAC only gives the start of the refinement, so both lead to the same pose.
The matches are those of one camera, or of several cameras on one rigid body.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import cv2
import numpy as np

from mote_localization.camera import Camera
from mote_localization.errors import BackendError
from mote_localization.geometry import exp_rotation, invert, rigid

try:
    import poselib
except ImportError:  # it has no wheel for aarch64
    poselib = None

_MIN_MATCHES = 4  # fewer have no unique pose
_MAX_LAST_STEP = 1e-4  # m and rad; a smaller Gauss-Newton step is the last one
_MAX_LAST_NEWTON_STEP = 1e-3  # m and rad; the error left after it is about 1 % of the step
_MAX_NEWTON_RATIO = 4.0  # length of a Newton step over that of the Gauss-Newton step
_MIN_EIGENVALUE = 1e-9  # of a Hessian scaled to unit diagonal; smaller ones are singular
_MIN_BLOCKS = 7  # image blocks; fewer cannot show the variance of all six coordinates
_MIN_ERROR_PX = 0.5  # expected error of a match is at least the resolution of the image


@dataclass(frozen=True)
class PoseConfig:
    """Settings of RANSAC and refinement. Pixels are those of the canonical camera."""

    solver: Literal["auto", "poselib", "opencv"] = "auto"  # auto: poselib where it is installed
    inlier_px: float = 10.0  # reprojection error up to which a match is an inlier
    ransac_matches: int = 300  # matches given to RANSAC, evenly spaced; the refinement takes all
    max_iterations: int = 1000  # largest number of RANSAC hypotheses
    confidence: float = 0.9999  # probability of one sample without outliers at which RANSAC stops
    refine_steps: int = 20  # largest number of Newton or Gauss-Newton steps
    refine_radius: float = 3.0  # times inlier_px: largest reprojection error in the refinement
    robust_sigmas: float = 0.5  # scale of the Cauchy weight, in expected errors of a match
    blocks: float = 5.0  # image blocks across the width; a block is one jackknife observation
    # expected errors of the transforms between several cameras, per axis
    rig_sigma_m: float = 0.005
    rig_sigma_deg: float = 0.3


class RigView(NamedTuple):
    """One of several rigid cameras, and how many of the matches are its own."""

    T_first_cam: np.ndarray  # (4, 4), pose in the frame of the first camera
    match_count: int

    @property
    def is_first(self) -> bool:
        """Whether it is the first camera, whose pose is found."""
        return np.array_equal(self.T_first_cam, np.eye(4))


def parts_of(rig: Sequence[RigView]) -> Iterator[tuple[RigView, slice]]:
    """Yield the cameras of a rig, and which of all matches are each one's own."""
    first = 0
    for view in rig:
        yield view, slice(first, first + view.match_count)
        first += view.match_count


@dataclass(frozen=True)
class PoseSolution:
    """A camera pose, its covariance and its inliers."""

    T_map_cam: np.ndarray  # (4, 4)
    covariance_66: np.ndarray  # x y z rotX rotY rotZ, map frame: m^2, m rad, rad^2
    rig_covariance_66: np.ndarray  # by errors of the transforms between cameras; not in the above
    inliers_n: np.ndarray  # bool, per match
    reprojection_px: float  # median reprojection error of the inliers


def solve_pose(
    points_n3: np.ndarray,
    pixels_n2: np.ndarray,
    sigma_n: np.ndarray,
    camera: Camera,
    config: PoseConfig = PoseConfig(),  # noqa: B008 (frozen)
    prior: np.ndarray | None = None,
    rig: Sequence[RigView] = (),
) -> PoseSolution | None:
    """Return the camera pose at which the points project to their pixels.

    A prior is refined first. If most matches agree with the result, RANSAC does not run. On nearly
    planar points the result may be a wrong local minimum: a caller that gives the last pose as the
    prior should omit it from time to time.

    Args:
        points_n3: Points in the map frame, metres.
        pixels_n2: Pixel of each point, in the undistorted camera.
        sigma_n: Expected error of each point, metres.
        camera: The undistorted camera.
        config: Settings of RANSAC and refinement.
        prior: Approximate T_map_cam (4, 4).
        rig: Several cameras, in the order of their matches, all with the intrinsics of `camera`.
            The pose is that of the first. Empty: all matches are of one camera.

    Returns:
        The pose, or None where the matches do not determine one.

    Raises:
        BackendError: The solver in `config` is unknown or not installed.
    """
    if len(points_n3) < _MIN_MATCHES:
        return None
    matches, origin = _centred(points_n3, pixels_n2, sigma_n, rig)
    found = _find(matches, camera, config, None if prior is None else _moved(prior, -origin))
    solution = None if found is None else _solution(found, matches, camera, config)
    if solution is not None:
        solution = replace(solution, T_map_cam=_moved(solution.T_map_cam, origin))
    return solution


def find_pose(
    points_n3: np.ndarray,
    pixels_n2: np.ndarray,
    sigma_n: np.ndarray,
    camera: Camera,
    config: PoseConfig = PoseConfig(),  # noqa: B008 (frozen)
    prior: np.ndarray | None = None,
    rig: Sequence[RigView] = (),
) -> np.ndarray | None:
    """Return the pose (4, 4) of `solve_pose`, without its covariance, which takes longer."""
    if len(points_n3) < _MIN_MATCHES:
        return None
    matches, origin = _centred(points_n3, pixels_n2, sigma_n, rig)
    found = _find(matches, camera, config, None if prior is None else _moved(prior, -origin))
    return None if found is None else _moved(found.T_map_cam, origin)


class _Matches(NamedTuple):
    """Points with their mean at the origin, their pixels and sigmas; float64."""

    points_n3: np.ndarray  # metres
    pixels_n2: np.ndarray
    sigma_n: np.ndarray  # metres
    rig: Sequence[RigView]  # empty: one camera

    def some(self, count: int) -> "_Matches":
        """Return at most so many matches, evenly spaced."""
        last = len(self.points_n3) - 1
        chosen = np.linspace(0, last, min(count, last + 1)).round().astype(int)
        rig = [
            view._replace(
                match_count=int(np.count_nonzero((part.start <= chosen) & (chosen < part.stop)))
            )
            for view, part in parts_of(self.rig)
        ]
        return _Matches(self.points_n3[chosen], self.pixels_n2[chosen], self.sigma_n[chosen], rig)


def _centred(
    points_n3: np.ndarray, pixels_n2: np.ndarray, sigma_n: np.ndarray, rig: Sequence[RigView]
) -> tuple[_Matches, np.ndarray]:
    """Return the matches with their points relative to their mean, and the mean.

    Coordinates far from the origin lose digits.
    """
    points = np.asarray(points_n3, np.float64)
    origin = points.mean(axis=0)
    pixels = np.ascontiguousarray(pixels_n2, np.float64)
    return _Matches(points - origin, pixels, np.asarray(sigma_n, np.float64), rig), origin


def _moved(T_map_cam: np.ndarray, shift_3: np.ndarray) -> np.ndarray:
    """Return the pose (4, 4) at another position."""
    return rigid(T_map_cam[:3, :3], T_map_cam[:3, 3] + shift_3)


class _Found(NamedTuple):
    """A pose, and the cost linearized there."""

    T_map_cam: np.ndarray  # (4, 4)
    cost: "_Cost"


def _find(
    matches: _Matches, camera: Camera, config: PoseConfig, prior: np.ndarray | None
) -> _Found | None:
    """Return the pose near the prior, or that of RANSAC where most matches disagree with it."""
    near = None if prior is None else _refined(prior, matches, camera, config)
    if near is not None:
        inliers = np.count_nonzero(near.cost.errors_px_n < config.inlier_px)
        if 2 * inliers > len(matches.points_n3):
            return near
    return _search(matches, camera, config)


def _search(matches: _Matches, camera: Camera, config: PoseConfig) -> _Found | None:
    """Return the pose found by RANSAC on some of the matches and refined with all."""
    if config.solver not in ("auto", "poselib", "opencv"):
        raise BackendError(
            f"found pose solver '{config.solver[:40]}', expected auto, poselib or opencv"
        )
    if config.solver == "poselib" and poselib is None:
        raise BackendError(
            "pose solver poselib: not installed; install it (pip install poselib) or choose opencv"
        )
    by_opencv = config.solver == "opencv" or poselib is None
    ransac = _ransac_opencv if by_opencv else _ransac_poselib
    found = [
        _refined(T_map_cam, matches, camera, config)
        for T_map_cam in ransac(matches.some(config.ransac_matches), camera, config)
        if np.isfinite(T_map_cam).all()
    ]
    return max(filter(None, found), key=lambda one: np.count_nonzero(one.cost.used_n), default=None)


def _ransac_poselib(matches: _Matches, camera: Camera, config: PoseConfig) -> list[np.ndarray]:
    """Return T_map_cam of PoseLib's LO-RANSAC with a fixed seed; none where it finds none."""
    pinhole = {
        "model": "PINHOLE",
        "width": camera.width,
        "height": camera.height,
        "params": [camera.fx, camera.fy, camera.cx, camera.cy],
    }
    ransac = {
        "max_reproj_error": config.inlier_px,
        "max_iterations": config.max_iterations,
        "min_iterations": 50,
        "success_prob": config.confidence,
        "seed": 0,
    }
    refinement = {"max_iterations": 0}
    points, pixels = matches.points_n3, matches.pixels_n2
    if matches.rig:
        views, parts = zip(*parts_of(matches.rig), strict=True)
        pose, info = poselib.estimate_generalized_absolute_pose(
            [pixels[part] for part in parts],
            [points[part] for part in parts],
            [_poselib_pose(invert(view.T_first_cam)) for view in views],
            [pinhole] * len(parts),
            ransac,
            refinement,
        )
    else:
        pose, info = poselib.estimate_absolute_pose(pixels, points, pinhole, ransac, refinement)
    return [invert(rigid(pose.R, pose.t))] if info["num_inliers"] >= _MIN_MATCHES else []


def _poselib_pose(T_44: np.ndarray) -> Any:
    pose = poselib.CameraPose()
    pose.R, pose.t = T_44[:3, :3], T_44[:3, 3]
    return pose


def _ransac_opencv(matches: _Matches, camera: Camera, config: PoseConfig) -> list[np.ndarray]:
    """Return T_map_cam of OpenCV's USAC with MAGSAC++ scores and a fixed seed, by each camera."""
    usac = cv2.UsacParams()
    usac.threshold = config.inlier_px
    usac.maxIterations = config.max_iterations
    usac.confidence = config.confidence
    usac.score = cv2.SCORE_METHOD_MAGSAC
    usac.randomGeneratorState = 0
    poses = []
    one_camera = [RigView(np.eye(4), len(matches.points_n3))]
    for view, part in parts_of(matches.rig or one_camera):
        points, pixels = matches.points_n3[part], matches.pixels_n2[part]
        if len(points) < _MIN_MATCHES:
            continue
        found, _, rotation, translation, inliers = cv2.solvePnPRansac(
            points, pixels, camera.K_33, np.zeros(4), params=usac
        )
        if found and inliers is not None and len(inliers) >= _MIN_MATCHES:
            T_cam_map = rigid(cv2.Rodrigues(rotation)[0], translation[:, 0])
            poses.append(invert(view.T_first_cam @ T_cam_map))
    return poses


def _refined(
    T_map_cam: np.ndarray, matches: _Matches, camera: Camera, config: PoseConfig
) -> _Found | None:
    """Return the minimum near a start pose; None where the matches determine none."""
    T = _minimum(T_map_cam, matches, camera, config)
    cost = None if T is None else _linearize(T, matches, camera, config)
    return None if T is None or cost is None else _Found(T, cost)


def _solution(
    found: _Found, matches: _Matches, camera: Camera, config: PoseConfig
) -> PoseSolution | None:
    """Return a pose with its covariance and inliers; None where they cannot be known."""
    T, cost = found
    block_n = _blocks(matches, camera.width / config.blocks)
    terms_k6 = _jackknife_terms(cost, block_n, config)
    inliers_n = cost.errors_px_n < config.inlier_px
    if terms_k6 is None or np.count_nonzero(inliers_n) < _MIN_MATCHES:
        return None
    count = len(terms_k6)
    map_terms_k6 = (terms_k6.reshape(-1, 3) @ T[:3, :3].T).reshape(count, 6)
    return PoseSolution(
        T,
        (count - 1) / count * map_terms_k6.T @ map_terms_k6,
        _rig_covariance(cost, matches, T[:3, :3], config),
        inliers_n,
        float(np.median(cost.errors_px_n[inliers_n])),
    )


def _minimum(
    T_map_cam: np.ndarray, matches: _Matches, camera: Camera, config: PoseConfig
) -> np.ndarray | None:
    """Return the minimum of the robust, sigma-weighted reprojection errors near a start pose.

    Every step selects its matches again, far beyond the inliers. So the result depends neither on
    the start nor on the inlier threshold.
    """
    T = T_map_cam.copy()
    for _ in range(config.refine_steps):
        cost = _linearize(T, matches, camera, config)
        if cost is None:
            return None
        step = _step(cost, config)
        if step is None:
            return None
        T[:3, 3] += T[:3, :3] @ step.motion_6[:3]
        T[:3, :3] = T[:3, :3] @ exp_rotation(step.motion_6[3:])
        if step.length < (_MAX_LAST_NEWTON_STEP if step.is_newton else _MAX_LAST_STEP):
            break
    return T


class _Step(NamedTuple):
    """A motion towards the minimum of the cost: x y z rotX rotY rotZ along the camera's axes."""

    motion_6: np.ndarray
    is_newton: bool  # otherwise a Gauss-Newton step

    @property
    def length(self) -> float:
        """The largest of the six coordinates, metres or radians."""
        return float(np.abs(self.motion_6).max())


def _step(cost: "_Cost", config: PoseConfig) -> _Step | None:
    """Return the step towards the minimum of the cost; None where the matches do not determine it.

    Gauss-Newton takes the robust weights as constant: it is safe but slow. Newton includes their
    derivative: it is fast, but not safe far from the minimum. It is used where its Hessian is
    positive definite and its step is not much longer than that of Gauss-Newton.
    """
    gradient_6 = cost.scores_6n.sum(axis=1)
    try:
        gauss_newton = _Step(-np.linalg.solve(cost.hessian_66, gradient_6), is_newton=False)
    except np.linalg.LinAlgError:
        return None
    weights_66 = 2 / config.robust_sigmas**2 * cost.scores_6n @ cost.scores_6n.T
    newton_66 = cost.hessian_66 - weights_66
    try:
        np.linalg.cholesky(newton_66)  # fails if not positive definite
        newton = _Step(-np.linalg.solve(newton_66, gradient_6), is_newton=True)
    except np.linalg.LinAlgError:
        return gauss_newton
    is_short = newton.length < _MAX_NEWTON_RATIO * gauss_newton.length
    return newton if is_short else gauss_newton


class _Cost(NamedTuple):
    """The robust cost linearized at a pose.

    Derivatives are by the camera's motion, x y z rotX rotY rotZ along its axes.
    """

    errors_px_n: np.ndarray  # reprojection errors; infinite behind the camera
    used_n: np.ndarray  # bool: the matches in the refinement; the others have no weight
    J_u_6n: np.ndarray  # derivatives of each match's pixel column times the root of its weight
    J_v_6n: np.ndarray  # and of its row
    scores_6n: np.ndarray  # gradient of each match's cost
    hessian_66: np.ndarray  # of the total cost, with constant weights (Gauss-Newton)


def _linearize(
    T_map_cam: np.ndarray, matches: _Matches, camera: Camera, config: PoseConfig
) -> _Cost | None:
    """Return the cost linearized at a pose; None where too few matches are near their pixels.

    The weight of a match is the inverse variance of its error in pixels, f sigma / z, times a
    Cauchy weight of its residual.
    """
    pixels, sigma = matches.pixels_n2, matches.sigma_n
    local_3n = T_map_cam[:3, :3].T @ (matches.points_n3 - T_map_cam[:3, 3]).T
    for (T, _), part in parts_of(matches.rig):
        local_3n[:, part] = T[:3, :3].T @ (local_3n[:, part] - T[:3, 3:])
    x, y, z = local_3n
    ahead = z > 0
    per_z = np.divide(1, z, out=np.zeros_like(z), where=ahead)
    a, b = x * per_z, y * per_z
    du = camera.fx * a + (camera.cx - pixels[:, 0])
    dv = camera.fy * b + (camera.cy - pixels[:, 1])
    squared = du * du + dv * dv
    errors_px_n = np.where(ahead, np.sqrt(squared), np.inf)
    used_n = errors_px_n < config.refine_radius * config.inlier_px
    if np.count_nonzero(used_n) < _MIN_MATCHES:
        return None
    deviation = camera.fx * sigma * per_z
    variance = deviation * deviation + (squared / config.robust_sigmas**2 + _MIN_ERROR_PX**2)
    root = np.sqrt(used_n / variance)  # of the weight
    ab, none = a * b, np.zeros_like(a)
    # After a camera motion by d and a rotation by w, a point q has coordinates q - d - w x q.
    J_u_6n = (camera.fx * root) * np.array([-per_z, none, a * per_z, ab, -1 - a * a, b])
    J_v_6n = (camera.fy * root) * np.array([none, -per_z, b * per_z, 1 + b * b, -ab, -a])
    for view, part in parts_of(matches.rig):
        by_first_66 = _by_first(view.T_first_cam)
        J_u_6n[:, part] = by_first_66 @ J_u_6n[:, part]
        J_v_6n[:, part] = by_first_66 @ J_v_6n[:, part]
    scores_6n = (root * du) * J_u_6n + (root * dv) * J_v_6n
    hessian_66 = J_u_6n @ J_u_6n.T + J_v_6n @ J_v_6n.T
    return _Cost(errors_px_n, used_n, J_u_6n, J_v_6n, scores_6n, hessian_66)


def _by_first(T_first_cam: np.ndarray) -> np.ndarray:
    """Return the matrix (6, 6) from derivatives by a camera's motion to those by the first's.

    A motion d and rotation w of the first camera, along its axes, moves a camera at p by d + w x p.
    """
    R_33, p_3 = T_first_cam[:3, :3], T_first_cam[:3, 3]
    lever_33 = np.cross(np.eye(3), p_3) @ R_33  # w x p . R column, for w along each axis
    return np.block([[R_33, np.zeros((3, 3))], [lever_33, R_33]])


def _rig_covariance(
    cost: _Cost, matches: _Matches, R_map_cam: np.ndarray, config: PoseConfig
) -> np.ndarray:
    """Return the covariance (6, 6) of the pose by errors of the transforms between the cameras.

    An error of a camera's pose in the first one moves the pose by the share of the information that
    its matches contribute. Along the axes of the map.
    """
    to_map_66 = np.kron(np.eye(2), R_map_cam)
    sigma_6 = np.repeat([config.rig_sigma_m, np.radians(config.rig_sigma_deg)], 3)
    covariance_66 = np.zeros((6, 6))
    for view, part in parts_of(matches.rig):
        if view.is_first:
            continue
        J_u_6n, J_v_6n = cost.J_u_6n[:, part], cost.J_v_6n[:, part]
        share_66 = np.linalg.solve(cost.hessian_66, J_u_6n @ J_u_6n.T + J_v_6n @ J_v_6n.T)
        # a motion of the camera, as a motion of the first one
        error_66 = share_66 @ np.linalg.inv(_by_first(view.T_first_cam)).T * sigma_6
        error_66 = to_map_66 @ error_66
        covariance_66 += error_66 @ error_66.T
    return covariance_66


def _blocks(matches: _Matches, block_px: float) -> np.ndarray:
    """Return the image block of each match (n,), a whole number."""
    block_n = np.floor(matches.pixels_n2 / block_px) @ (1, 1 << 16)
    for i, (_, part) in enumerate(parts_of(matches.rig)):
        block_n[part] += i * (1 << 32)
    return block_n


def _jackknife_terms(cost: _Cost, block_n: np.ndarray, config: PoseConfig) -> np.ndarray | None:
    """Return the change of the pose (k, 6) when one image block is left out, by one Newton step.

    Their spread is the jackknife covariance (Efron and Stein 1981). Errors of neighbouring cells
    are correlated, so a block is one observation. None where there are too few blocks, or where the
    pose is not determined without one of them.
    """
    order_m = np.argsort(block_n)
    order_m = order_m[cost.used_n[order_m]]
    starts_k = np.flatnonzero(np.diff(block_n[order_m], prepend=-np.inf))
    if len(starts_k) < _MIN_BLOCKS:
        return None
    # One matrix product per block contains the sums of its derivatives and of its scores.
    rows_m18 = np.concatenate([cost.J_u_6n, cost.J_v_6n, cost.scores_6n]).T[order_m]
    blocks = np.split(rows_m18, starts_k[1:])
    sums = np.array([block_18.T @ block_18 for block_18 in blocks])
    gauss_newton_k66 = cost.hessian_66 - (sums[:, :6, :6] + sums[:, 6:12, 6:12])
    # Newton's Hessian includes the derivative of the Cauchy weights, which reduces the curvature.
    weights_k66 = 2 / config.robust_sigmas**2 * (sums[:, 12:, 12:].sum(axis=0) - sums[:, 12:, 12:])
    hessian_k66 = gauss_newton_k66 - weights_k66
    definite_k = _are_definite(hessian_k66)
    if not definite_k.all():  # residuals far beyond their sigma: Gauss-Newton instead
        hessian_k66 = np.where(definite_k[:, None, None], hessian_k66, gauss_newton_k66)
        if not _are_definite(hessian_k66).all():  # the pose depends on one block
            return None
    scores_k6 = np.add.reduceat(rows_m18[:, 12:], starts_k)
    return np.linalg.solve(hessian_k66, scores_k6[..., None])[..., 0]


def _are_definite(symmetric_k66: np.ndarray) -> np.ndarray:
    """Return which matrices are positive definite, independent of their rows' units; bool (k,)."""
    diagonal_k6 = np.diagonal(symmetric_k66, axis1=1, axis2=2)
    positive_k = diagonal_k6.min(axis=1) > 0
    scale_k6 = 1 / np.sqrt(np.where(positive_k[:, None], diagonal_k6, 1))
    scaled_k66 = symmetric_k66 * scale_k6[:, :, None] * scale_k6[:, None, :]
    return positive_k & (np.linalg.eigvalsh(scaled_k66)[:, 0] > _MIN_EIGENVALUE)
