"""Absolute pose from 2-D to 3-D matches: RANSAC by a library, refinement and covariance here.

Both solvers, PoseLib and OpenCV's USAC, only start the refinement, so both end at the same pose.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from mote_localization.camera import Camera
from mote_localization.geometry import exp_rotation, invert, transform

try:
    import poselib
except ImportError:  # it has no wheel for aarch64
    poselib = None

_SOLVER_MINIMUM = 4  # matches; fewer have no unique pose


@dataclass(frozen=True)
class PoseConfig:
    """How a pose is searched and refined. Pixels are those of the canonical camera."""

    solver: str = "auto"  # poselib, opencv, or auto: poselib where it is installed
    inlier_px: float = 5.0  # reprojection error up to which a match is an inlier
    max_iterations: int = 2000  # RANSAC hypotheses at most
    confidence: float = 0.9999  # probability of having drawn one clean sample when RANSAC stops
    refine_steps: int = 8  # Gauss-Newton steps
    robust_px: float = 1.5  # residual at which a match's weight is halved, at the median sigma
    cluster_px: float = 40.0  # side of the image blocks whose errors the covariance takes as one


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
) -> PoseSolution | None:
    """Find the camera pose that explains where map points are seen.

    Args:
        points_n3: Points in the map frame, metres.
        pixels_n2: Where each is seen, pixels of the undistorted camera.
        sigma_n: Expected error of each point, metres; only their ratios matter.
        camera: The undistorted camera.
        config: Search and refinement settings.

    Returns:
        The pose, or None where no pose has enough inliers to be determined.
    """
    points = np.ascontiguousarray(points_n3, np.float64)
    pixels = np.ascontiguousarray(pixels_n2, np.float64)
    if len(points) < _SOLVER_MINIMUM:
        return None
    # The mean is taken off: maps far from their origin lose digits otherwise.
    origin = points.mean(axis=0)
    T_cam_local = _ransac(points - origin, pixels, camera, config)
    if T_cam_local is None or not np.isfinite(T_cam_local).all():
        return None
    T_map_cam = invert(T_cam_local)
    T_map_cam[:3, 3] += origin
    return _refine(T_map_cam, points, pixels, np.asarray(sigma_n, np.float64), camera, config)


def _ransac(
    points: np.ndarray, pixels: np.ndarray, camera: Camera, config: PoseConfig
) -> np.ndarray | None:
    """Return T_cam_map of the best hypothesis, or None."""
    if config.solver == "opencv" or (config.solver == "auto" and poselib is None):
        return _ransac_opencv(points, pixels, camera, config)
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
        pixels, points, pinhole, ransac, {"max_iterations": 10}
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
    T_map_cam: np.ndarray,
    points: np.ndarray,
    pixels: np.ndarray,
    sigma: np.ndarray,
    camera: Camera,
    config: PoseConfig,
) -> PoseSolution | None:
    """Minimize robust, sigma-weighted reprojection errors by Gauss-Newton from a close start.

    A match counts by what its sigma means in pixels, f sigma / z, relative to the median match, and
    by a Cauchy weight of its residual. The covariance is the cluster-robust sandwich H^-1 B H^-1
    (Liang and Zeger 1986): neighbouring cells share their errors, so those of one image block count
    as one observation, not as many.
    """
    T = T_map_cam.copy()
    focal = np.array([camera.fx, camera.fy])
    inliers = _reprojection_errors(T, points, pixels, camera) < config.inlier_px
    if inliers.sum() < _SOLVER_MINIMUM:
        return None
    points_m3, pixels_m2 = points[inliers], pixels[inliers]
    depth = transform(invert(T), points_m3)[:, 2]
    expected_px = np.maximum(sigma[inliers], 1e-6) / depth
    precision = np.clip(np.median(expected_px) / expected_px, 0.2, 5.0) ** 2

    def linearize() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return residuals (m, 2), Jacobian (m, 2, 6) and weights (m,) at T."""
        R, offset = T[:3, :3], points_m3 - T[:3, 3]
        x, y, z = (offset @ R).T
        residual = np.stack([x / z, y / z], axis=-1) * focal + (camera.cx, camera.cy) - pixels_m2
        zero = np.zeros_like(z)
        along = np.stack(
            [np.stack([1 / z, zero, -x / z**2], -1), np.stack([zero, 1 / z, -y / z**2], -1)], 1
        )
        d_point = (along * focal[:, None]) @ R.T  # pixels per metre of the point, map axes
        # p -> p + d moves the point by -d; R -> Exp(w) R moves it by offset x w.
        J = np.concatenate([-d_point, np.cross(d_point, offset[:, None])], axis=-1)
        weight = precision / (1 + precision * (residual**2).sum(-1) / config.robust_px**2)
        return residual, J, np.where(z > 0, weight, 0)

    for _ in range(config.refine_steps):
        residual, J, weight = linearize()
        H, g = _normal_equations(J, residual, weight)
        try:
            step = -np.linalg.solve(H, g)
        except np.linalg.LinAlgError:
            return None
        T[:3, 3] += step[:3]
        T[:3, :3] = exp_rotation(step[3:]) @ T[:3, :3]
        if np.abs(step).max() < 1e-6:
            break

    residual, J, weight = linearize()
    H, _ = _normal_equations(J, residual, weight)
    scores = np.einsum("m,mij,mi->mj", weight, J, residual)
    blocks = (pixels_m2 // config.cluster_px).astype(int)
    _, block = np.unique(blocks @ (1, 1 + camera.width), return_inverse=True)
    count = block.max() + 1
    block_scores = np.zeros((count, 6))
    np.add.at(block_scores, block, scores)
    try:
        H_inverse = np.linalg.inv(H)
    except np.linalg.LinAlgError:
        return None
    small_sample = count / max(count - 3, 1)  # 6 parameters, two observations a block
    covariance = small_sample * H_inverse @ (block_scores.T @ block_scores) @ H_inverse
    errors = _reprojection_errors(T, points, pixels, camera)
    kept = errors < config.inlier_px
    if not kept.any() or not np.isfinite(T).all() or not np.isfinite(covariance).all():
        return None
    return PoseSolution(T, (covariance + covariance.T) / 2, kept, float(np.median(errors[kept])))


def _normal_equations(
    J: np.ndarray, residual: np.ndarray, weight: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return J^T W J (6, 6) and J^T W r (6,)."""
    J_flat, r_flat = J.reshape(-1, 6), residual.reshape(-1)
    weighted = J_flat * np.repeat(weight, 2)[:, None]
    return weighted.T @ J_flat, weighted.T @ r_flat


def _reprojection_errors(
    T_map_cam: np.ndarray, points: np.ndarray, pixels: np.ndarray, camera: Camera
) -> np.ndarray:
    """Return each match's distance in pixels; infinite behind the camera."""
    x, y, z = transform(invert(T_map_cam), points).T
    with np.errstate(divide="ignore", invalid="ignore"):
        u = camera.fx * x / z + camera.cx
        v = camera.fy * y / z + camera.cy
        return np.where(z > 0, np.hypot(u - pixels[:, 0], v - pixels[:, 1]), np.inf)
