"""Absolute pose from 2-D to 3-D matches: RANSAC by a library, refinement and covariance here.

Both solvers, PoseLib and OpenCV's USAC, only start the refinement, so both end at the same pose.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import cv2
import numpy as np

from mote_localization.camera import Camera
from mote_localization.errors import BackendError
from mote_localization.geometry import exp_rotation, invert

try:
    import poselib
except ImportError:  # it has no wheel for aarch64
    poselib = None

_SOLVER_MINIMUM = 4  # matches; fewer have no unique pose
_CONVERGED = 1e-4  # m and rad; a smaller step is the last
_NEARLY = 1e-3  # m and rad; likewise of Newton's steps: what is then left is a hundredth of it
_FARTHER = 4.0  # times a step with the weights held: a Newton step is not taken from there on
_SINGULAR = 1e-9  # least eigenvalue of a Hessian scaled to unit diagonal; below, it has no inverse
_LEAST_BLOCKS = 7  # image blocks; fewer do not show all six ways in which a pose may be wrong
_FLOOR_PX = 0.5  # least error expected of a match: the network sees no better than its pixels


@dataclass(frozen=True)
class PoseConfig:
    """How a pose is searched and refined. Pixels are those of the canonical camera."""

    solver: Literal["auto", "poselib", "opencv"] = "auto"  # auto: poselib where it is installed
    inlier_px: float = 10.0  # reprojection error up to which a match is an inlier
    searched: int = 300  # matches among which RANSAC searches, taken evenly; refinement takes all
    max_iterations: int = 1000  # RANSAC hypotheses at most
    confidence: float = 0.9999  # probability of having drawn one clean sample when RANSAC stops
    refine_steps: int = 20  # Gauss-Newton steps at most
    refine_reach: float = 3.0  # times inlier_px: matches within it have a part in the refinement
    robust_sigmas: float = 0.5  # residual, in expected errors, at which a match's weight is halved
    blocks: float = (
        5.0  # image blocks across the width; the covariance takes a block's errors as one
    )


@dataclass(frozen=True)
class PoseSolution:
    """A camera pose and what supports it."""

    T_map_cam: np.ndarray  # (4, 4)
    covariance_66: np.ndarray  # x y z rotX rotY rotZ, map frame: m^2, m rad, rad^2
    inliers_n: np.ndarray  # bool, per match
    reprojection_px: float  # median reprojection error of the inliers


def solve_pose(
    points_n3: np.ndarray,
    pixels_n2: np.ndarray,
    sigma_n: np.ndarray,
    camera: Camera,
    config: PoseConfig = PoseConfig(),  # noqa: B008 (frozen)
    prior: np.ndarray | None = None,
) -> PoseSolution | None:
    """Find the camera pose that explains where map points are seen.

    A prior is refined first, and nothing is searched where most matches agree with what comes of
    it. On points that are nearly flat that may be another pose than the search would find: whoever
    gives the last pose as the prior leaves it out now and then.

    Args:
        points_n3: Points in the map frame, metres.
        pixels_n2: Where each is seen, pixels of the undistorted camera.
        sigma_n: Expected error of each point, metres.
        camera: The undistorted camera.
        config: Search and refinement settings.
        prior: T_map_cam (4, 4) of about where the camera is.

    Returns:
        The pose, or None where the matches do not determine one.

    Raises:
        BackendError: The solver asked for is unknown or not installed.
    """
    points = np.asarray(points_n3, np.float64)
    if len(points) < _SOLVER_MINIMUM:
        return None
    # The mean is taken off: maps far from their origin lose digits otherwise.
    origin = points.mean(axis=0)
    matches = _Matches(
        points - origin,
        np.ascontiguousarray(pixels_n2, np.float64),
        np.asarray(sigma_n, np.float64),
    )
    solution = None
    if prior is not None:
        start = prior.copy()
        start[:3, 3] -= origin
        solution = _refine(start, matches, camera, config)
    if solution is None or 2 * solution.inliers_n.sum() <= len(points):
        solution = _search(matches, camera, config)
    if solution is not None:
        solution.T_map_cam[:3, 3] += origin
    return solution


class _Matches(NamedTuple):
    """Points with their mean at the origin, and where each is seen; float64."""

    points_n3: np.ndarray  # metres
    pixels_n2: np.ndarray
    sigma_n: np.ndarray  # metres


def _search(matches: _Matches, camera: Camera, config: PoseConfig) -> PoseSolution | None:
    """Find the pose by RANSAC among some of the matches, and refine it with all."""
    points, pixels, _ = matches
    count = min(config.searched, len(points))
    searched = np.linspace(0, len(points) - 1, count).round().astype(int)
    T_cam_local = _ransac(points[searched], pixels[searched], camera, config)
    if T_cam_local is None or not np.isfinite(T_cam_local).all():
        return None
    return _refine(invert(T_cam_local), matches, camera, config)


def _ransac(
    points: np.ndarray, pixels: np.ndarray, camera: Camera, config: PoseConfig
) -> np.ndarray | None:
    """Return T_cam_map of the best hypothesis, or None."""
    if config.solver == "opencv" or (config.solver == "auto" and poselib is None):
        return _ransac_opencv(points, pixels, camera, config)
    if config.solver not in ("auto", "poselib"):
        raise BackendError(f"found pose solver '{config.solver}', expected auto, poselib or opencv")
    if poselib is None:
        raise BackendError(
            "pose solver poselib: not installed; install it (pip install poselib) or choose opencv"
        )
    return _ransac_poselib(points, pixels, camera, config)


def _ransac_poselib(
    points: np.ndarray, pixels: np.ndarray, camera: Camera, config: PoseConfig
) -> np.ndarray | None:
    """Search with PoseLib's LO-RANSAC; its result does not depend on chance: the seed is fixed."""
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
    pose, info = poselib.estimate_absolute_pose(
        pixels, points, pinhole, ransac, {"max_iterations": 0}
    )
    if info["num_inliers"] < _SOLVER_MINIMUM:
        return None
    T_cam_map = np.eye(4)
    T_cam_map[:3] = pose.Rt
    return T_cam_map


def _ransac_opencv(
    points: np.ndarray, pixels: np.ndarray, camera: Camera, config: PoseConfig
) -> np.ndarray | None:
    """Search with OpenCV's USAC (MAGSAC++ scores), seeded."""
    usac = cv2.UsacParams()
    usac.threshold = config.inlier_px
    usac.maxIterations = config.max_iterations
    usac.confidence = config.confidence
    usac.score = cv2.SCORE_METHOD_MAGSAC
    usac.randomGeneratorState = 0
    found, _, rotation, translation, inliers = cv2.solvePnPRansac(
        points, pixels, camera.K_33, np.zeros(4), params=usac
    )
    if not found or inliers is None or len(inliers) < _SOLVER_MINIMUM:
        return None
    T_cam_map = np.eye(4)
    T_cam_map[:3, :3] = cv2.Rodrigues(rotation)[0]
    T_cam_map[:3, 3] = translation[:, 0]
    return T_cam_map


def _refine(
    T_map_cam: np.ndarray, matches: _Matches, camera: Camera, config: PoseConfig
) -> PoseSolution | None:
    """Minimize robust, sigma-weighted reprojection errors by Newton's steps from a close start.

    The matches that take part are chosen anew at every step and reach far beyond the inliers: so
    the end does not depend on the start, nor on where the line of the inliers is drawn.
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
        if step.length < (_NEARLY if step.is_newton else _CONVERGED):
            break
    cost = _linearize(T, matches, camera, config)
    if cost is None:
        return None
    moves_k6 = _moves_without_a_block(cost, matches.pixels_n2, camera.width / config.blocks, config)
    inliers_n = cost.errors_px_n < config.inlier_px
    if moves_k6 is None or np.count_nonzero(inliers_n) < _SOLVER_MINIMUM:
        return None
    count = len(moves_k6)
    along_map_k6 = (moves_k6.reshape(-1, 3) @ T[:3, :3].T).reshape(count, 6)
    return PoseSolution(
        T,
        (count - 1) / count * along_map_k6.T @ along_map_k6,
        inliers_n,
        float(np.median(cost.errors_px_n[inliers_n])),
    )


class _Step(NamedTuple):
    """A motion towards the minimum of the cost: x y z rotX rotY rotZ of the camera's axes."""

    motion_6: np.ndarray
    is_newton: bool

    @property
    def length(self) -> float:
        """The largest of its six numbers, metres or radians."""
        return float(np.abs(self.motion_6).max())


def _step(cost: "_Cost", config: PoseConfig) -> _Step | None:
    """Return the step towards the minimum of the cost; None where it is not determined.

    With the weights held (Gauss-Newton) steps are safe but many; with their fall (Newton) they are
    few, but far from the minimum lead anywhere: where the cost curves downwards, or much farther
    than the safe ones, the safe one is taken.
    """
    gradient_6 = cost.scores_6n.sum(axis=1)
    try:
        held = _Step(-np.linalg.solve(cost.hessian_66, gradient_6), is_newton=False)
    except np.linalg.LinAlgError:
        return None
    fall_66 = 2 / config.robust_sigmas**2 * cost.scores_6n @ cost.scores_6n.T
    curved_66 = cost.hessian_66 - fall_66
    try:
        np.linalg.cholesky(curved_66)  # positive definite, or an error
        newton = _Step(-np.linalg.solve(curved_66, gradient_6), is_newton=True)
    except np.linalg.LinAlgError:
        return held
    return newton if newton.length < _FARTHER * held.length else held


class _Cost(NamedTuple):
    """The robust cost around one pose, by the camera's motion: x y z rotX rotY rotZ of its axes."""

    errors_px_n: np.ndarray  # reprojection errors; infinite behind the camera
    used_n: np.ndarray  # bool: the matches that take part; the others have no weight
    J_u_6n: np.ndarray  # derivative of each one's reprojection, times the root of its weight
    J_v_6n: np.ndarray
    scores_6n: np.ndarray  # gradient of each one's cost
    hessian_66: np.ndarray  # of the sum, with the weights held


def _linearize(
    T_map_cam: np.ndarray, matches: _Matches, camera: Camera, config: PoseConfig
) -> _Cost | None:
    """Return the cost around a pose; None where next to nothing is seen from it.

    A match counts by what its sigma means in pixels, f sigma / z, and by a Cauchy weight of its
    residual.
    """
    points, pixels, sigma = matches
    x, y, z = T_map_cam[:3, :3].T @ (points - T_map_cam[:3, 3]).T
    ahead = z > 0
    per_z = np.divide(1, z, out=np.zeros_like(z), where=ahead)
    a, b = x * per_z, y * per_z
    du = camera.fx * a + (camera.cx - pixels[:, 0])
    dv = camera.fy * b + (camera.cy - pixels[:, 1])
    squared = du * du + dv * dv
    errors_px_n = np.where(ahead, np.sqrt(squared), np.inf)
    used_n = errors_px_n < config.refine_reach * config.inlier_px
    if np.count_nonzero(used_n) < _SOLVER_MINIMUM:
        return None
    deviation = camera.fx * sigma * per_z
    variance = deviation * deviation + (squared / config.robust_sigmas**2 + _FLOOR_PX**2)
    root = np.sqrt(used_n / variance)  # of the weight
    ab, none = a * b, np.zeros_like(a)
    # To a camera moved by d and turned by w, a point q is at q - d - w x q.
    J_u_6n = (camera.fx * root) * np.array([-per_z, none, a * per_z, ab, -1 - a * a, b])
    J_v_6n = (camera.fy * root) * np.array([none, -per_z, b * per_z, 1 + b * b, -ab, -a])
    scores_6n = (root * du) * J_u_6n + (root * dv) * J_v_6n
    hessian_66 = J_u_6n @ J_u_6n.T + J_v_6n @ J_v_6n.T
    return _Cost(errors_px_n, used_n, J_u_6n, J_v_6n, scores_6n, hessian_66)


def _moves_without_a_block(
    cost: _Cost, pixels_n2: np.ndarray, block_px: float, config: PoseConfig
) -> np.ndarray | None:
    """Return how the pose moves (k, 6) when each image block is left out, by one Newton step.

    Their spread is the jackknife's covariance (Efron and Stein 1981). Neighbouring cells share
    their errors, so those of a block count as one observation, not as many. None where a block
    alone holds the pose, or there are too few.
    """
    block_n = np.floor(pixels_n2 / block_px) @ (1, 1 << 16)
    order_m = np.argsort(block_n)
    order_m = order_m[cost.used_n[order_m]]
    starts_k = np.flatnonzero(np.diff(block_n[order_m], prepend=-np.inf))
    if len(starts_k) < _LEAST_BLOCKS:
        return None
    # One product for each block holds its sums, of derivatives and of scores.
    rows_m18 = np.concatenate([cost.J_u_6n, cost.J_v_6n, cost.scores_6n]).T[order_m]
    blocks = np.split(rows_m18, starts_k[1:])
    sums = np.array([block_18.T @ block_18 for block_18 in blocks])
    held_k66 = cost.hessian_66 - (sums[:, :6, :6] + sums[:, 6:12, 6:12])
    # Cauchy weights fall as residuals grow: the cost is flatter than with the weights held.
    fall_k66 = 2 / config.robust_sigmas**2 * (sums[:, 12:, 12:].sum(axis=0) - sums[:, 12:, 12:])
    # Where residuals are far beyond their sigma, the quadratic form has no minimum: weights held.
    others_k66 = held_k66 - fall_k66
    definite_k = _are_definite(others_k66)
    if not definite_k.all():
        others_k66 = np.where(definite_k[:, None, None], others_k66, held_k66)
        if not _are_definite(others_k66).all():  # one block alone holds the pose
            return None
    scores_k6 = np.add.reduceat(rows_m18[:, 12:], starts_k)
    return np.linalg.solve(others_k66, scores_k6[..., None])[..., 0]


def _are_definite(symmetric_k66: np.ndarray) -> np.ndarray:
    """Return which matrices are positive definite, whatever the units of their rows; bool (k,)."""
    diagonal_k6 = np.diagonal(symmetric_k66, axis1=1, axis2=2)
    positive_k = diagonal_k6.min(axis=1) > 0
    scale_k6 = 1 / np.sqrt(np.where(positive_k[:, None], diagonal_k6, 1))
    scaled_k66 = symmetric_k66 * scale_k6[:, :, None] * scale_k6[:, None, :]
    return positive_k & (np.linalg.eigvalsh(scaled_k66)[:, 0] > _SINGULAR)
