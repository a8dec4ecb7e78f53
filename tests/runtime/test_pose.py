"""The pose solver: exact for exact matches, equal with both libraries, calibrated covariance."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from make_map import CAMERA, T_MAP_CAM, room_points

from mote_localization import pose
from mote_localization.camera import Camera, cell_pixels
from mote_localization.errors import BackendError
from mote_localization.geometry import (
    exp_rotation,
    invert,
    pose_from,
    rigid,
    rotation_angle,
)
from mote_localization.pose import PoseConfig, RigView, solve_pose

POINTS = room_points(T_MAP_CAM, CAMERA, 8).reshape(-1, 3).astype(np.float64)
PIXELS = cell_pixels(CAMERA.width, CAMERA.height, 8).reshape(-1, 2)
SOLVERS = ["opencv"] if pose.poselib is None else ["poselib", "opencv"]


def matches(seed, count=600, noise_m=0.0, outliers=0.0, block_px=None):
    """Return points, pixels and sigmas; `block_px`: cells of an image block have the same error."""
    random = np.random.default_rng(seed)
    error = random.normal(size=POINTS.shape)
    if block_px:
        block = (PIXELS // block_px).astype(int) @ (1, 30)
        error = error[block]
    points = POINTS + noise_m * error
    wrong = random.random(len(points)) < outliers
    points[wrong] += random.uniform(-2, 2, (wrong.sum(), 3))
    chosen = np.sort(random.choice(len(points), count, replace=False))
    return points[chosen], PIXELS[chosen], np.full(count, max(noise_m, 0.01))


def error_of(solution):
    """Return the error x y z rotX rotY rotZ of a solution, along the axes of the map."""
    R = solution.T_map_cam[:3, :3] @ T_MAP_CAM[:3, :3].T
    omega = np.array([R[2, 1] - R[1, 2], R[0, 2] - R[2, 0], R[1, 0] - R[0, 1]])
    return np.concatenate([solution.T_map_cam[:3, 3] - T_MAP_CAM[:3, 3], omega / 2])


@pytest.mark.parametrize("solver", SOLVERS)
def test_exact_matches_give_the_exact_pose(solver):
    solution = solve_pose(*matches(0), CAMERA, PoseConfig(solver))
    assert np.allclose(solution.T_map_cam, T_MAP_CAM, atol=1e-7)
    assert solution.inliers_n.all()
    assert solution.reprojection_px < 1e-5


def test_small_canonical_camera_gives_a_pose():
    small = Camera(160, 120, 130.0, 130.0, 79.2, 59.2)
    points = room_points(T_MAP_CAM, small, 8).reshape(-1, 3)
    solution = solve_pose(
        points, cell_pixels(160, 120, 8).reshape(-1, 2), np.full(len(points), 0.01), small
    )
    assert np.allclose(solution.T_map_cam, T_MAP_CAM, atol=1e-4)


@pytest.mark.parametrize("solver", SOLVERS)
def test_pose_is_within_centimetres_for_half_outliers_and_noise(solver):
    for seed in range(5):
        solution = solve_pose(*matches(seed, 600, 0.02, 0.5), CAMERA, PoseConfig(solver))
        error = error_of(solution)
        assert np.linalg.norm(error[:3]) < 0.03
        assert np.degrees(np.linalg.norm(error[3:])) < 0.6


@pytest.mark.skipif(pose.poselib is None, reason="poselib is not installed")
def test_both_libraries_lead_to_the_same_pose():
    for seed in range(5):
        found = matches(seed, 600, 0.03, 0.4)
        one, other = (solve_pose(*found, CAMERA, PoseConfig(s)) for s in SOLVERS)
        assert np.array_equal(one.inliers_n, other.inliers_n)
        assert np.linalg.norm(one.T_map_cam[:3, 3] - other.T_map_cam[:3, 3]) < 1e-3
        assert rotation_angle(one.T_map_cam[:3, :3].T @ other.T_map_cam[:3, :3]) < 1e-3


@pytest.mark.parametrize("solver", SOLVERS)
def test_ransac_on_some_matches_leads_to_the_same_pose(solver):
    for seed in range(5):
        found = matches(seed, 1000, 0.03, 0.4)
        some, all_matches = (
            solve_pose(*found, CAMERA, PoseConfig(solver, ransac_matches=n)) for n in (200, 1000)
        )
        assert np.allclose(some.T_map_cam, all_matches.T_map_cam, atol=5e-4)
        assert abs(some.inliers_n.sum() - all_matches.inliers_n.sum()) < 3


@pytest.mark.parametrize("solver", SOLVERS)
def test_pose_is_deterministic(solver):
    found = matches(1, 600, 0.03, 0.4)
    one, other = (solve_pose(*found, CAMERA, PoseConfig(solver)) for _ in range(2))
    assert np.array_equal(one.T_map_cam, other.T_map_cam)
    assert np.array_equal(one.covariance_66, other.covariance_66)


def shifted_pose(metres: float, degrees: float) -> np.ndarray:
    """Return the true pose, shifted and rotated along oblique axes."""
    moved = T_MAP_CAM.copy()
    moved[:3, 3] += metres * np.array([0.6, -0.64, 0.48])
    moved[:3, :3] = moved[:3, :3] @ exp_rotation(np.radians(degrees) * np.array([0.6, 0.64, -0.48]))
    return moved


@pytest.mark.parametrize("prior", [T_MAP_CAM, shifted_pose(0.05, 2), shifted_pose(0.2, 5)])
def test_ransac_does_not_run_with_a_good_prior(prior, monkeypatch):
    found = matches(3, 600, 0.02, 0.3)
    without_prior = solve_pose(*found, CAMERA)
    monkeypatch.setattr(pose, "_search", None)
    kept = prior.copy()
    refined = solve_pose(*found, CAMERA, prior=prior)
    assert np.array_equal(prior, kept)
    assert np.allclose(refined.T_map_cam, without_prior.T_map_cam, atol=2e-5)
    assert np.array_equal(refined.inliers_n, without_prior.inliers_n)
    assert np.allclose(refined.covariance_66, without_prior.covariance_66, rtol=1e-2)


@pytest.mark.parametrize(
    "prior",
    [shifted_pose(1, 20), shifted_pose(0, 180), shifted_pose(100, 0), np.full((4, 4), np.nan)],
)
def test_wrong_prior_gives_the_same_pose(prior):
    found = matches(3, 600, 0.02, 0.3)
    without_prior = solve_pose(*found, CAMERA)
    refined = solve_pose(*found, CAMERA, prior=prior)
    assert np.allclose(refined.T_map_cam, without_prior.T_map_cam, atol=2e-5)


def test_prior_with_few_inliers_is_rejected():
    """A third of the matches fit the prior, which is another camera's pose; most do not."""
    points, pixels, sigma = matches(0, 600)
    other = shifted_pose(1.0, 0)
    to_other = other @ np.linalg.inv(T_MAP_CAM)
    points[:180] = points[:180] @ to_other[:3, :3].T + to_other[:3, 3]
    solution = solve_pose(points, pixels, sigma, CAMERA, prior=other)
    assert np.linalg.norm(error_of(solution)[:3]) < 1e-3 and not solution.inliers_n[:180].all()


def test_map_far_from_its_origin_loses_no_digits():
    points, pixels, sigma = matches(0, 600, 0.02, 0.3)
    near = solve_pose(points, pixels, sigma, CAMERA)
    far = solve_pose(points + (4e5, 5e6, 100), pixels, sigma, CAMERA)
    assert np.allclose(far.T_map_cam[:3, 3] - (4e5, 5e6, 100), near.T_map_cam[:3, 3], atol=1e-5)


def test_points_of_large_sigma_have_less_weight():
    points, pixels, sigma = matches(0)
    right = pixels[:, 0] > 160
    points[right] += (0.0, 0.05, 0.0)
    weighted = solve_pose(points, pixels, np.where(right, 0.5, 0.01), CAMERA)
    unweighted = solve_pose(points, pixels, sigma, CAMERA)
    assert np.linalg.norm(error_of(weighted)[:3]) < 0.3 * np.linalg.norm(error_of(unweighted)[:3])


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("kind", ["none", "three", "one point", "a line", "random", "one block"])
def test_degenerate_matches_give_no_pose(solver, kind):
    points, pixels, sigma = matches(0)
    if kind == "none":
        chosen = np.zeros(len(points), bool)
    elif kind == "three":
        chosen = np.arange(len(points)) < 3
    elif kind == "one block":
        chosen = (np.abs(pixels - 96) < 32).all(axis=1)
    else:
        chosen = np.ones(len(points), bool)
    if kind == "one point":
        points[:] = points[0]
    if kind == "random":
        points = np.random.default_rng(0).uniform(-5, 5, points.shape)
    if kind == "a line":
        points = points[:1] + np.linspace(0, 2, len(points))[:, None] * (0.6, 0.8, 0)
        seen = (points - T_MAP_CAM[:3, 3]) @ T_MAP_CAM[:3, :3]
        pixels = CAMERA.project(seen)
    solution = solve_pose(points[chosen], pixels[chosen], sigma[chosen], CAMERA, PoseConfig(solver))
    assert solution is None or (kind == "random" and solution.inliers_n.mean() < 0.1)


def test_covariance_is_that_of_an_explicit_jackknife():
    # solving without each block gives the jackknife terms that one Newton step approximates
    points, pixels, sigma = matches(0, 600, 0.01)
    solution = solve_pose(points, pixels, sigma, CAMERA)
    moves = []
    blocks = (pixels // 64).astype(int) @ (1, 1000)
    for block in np.unique(blocks):
        left = blocks != block
        without = solve_pose(points[left], pixels[left], sigma[left], CAMERA)
        moves.append(error_of(without) - error_of(solution))
    moves = np.array(moves)
    expected = (len(moves) - 1) / len(moves) * moves.T @ moves
    scale = np.sqrt(expected.diagonal())
    assert np.allclose(
        solution.covariance_66 / np.outer(scale, scale),
        expected / np.outer(scale, scale),
        atol=0.15,
    )


def test_covariance_does_not_depend_on_the_origin_of_pixels():
    points, pixels, sigma = matches(0, 600, 0.02)
    block_px = CAMERA.width / PoseConfig().blocks
    moved = replace(CAMERA, cx=CAMERA.cx - block_px)
    one = solve_pose(points, pixels, sigma, CAMERA).covariance_66
    other = solve_pose(points, pixels - (block_px, 0), sigma, moved).covariance_66
    np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-9)


def test_covariance_rotates_with_the_map():
    points, pixels, sigma = matches(0, 600, 0.02, 0.2)
    R = exp_rotation(np.array([0.3, -1.2, 0.7]))
    one = solve_pose(points, pixels, sigma, CAMERA).covariance_66
    other = solve_pose(points @ R.T, pixels, sigma, CAMERA).covariance_66
    both = np.kron(np.eye(2), R)
    assert np.allclose(other, both @ one @ both.T, rtol=1e-3, atol=1e-3 * np.abs(one).max())


@cache
def scatter(block_px, counted_px):
    """Return predicted over true deviation (6,), and the median NEES over its expectation."""
    errors, predicted = [], []
    for seed in range(60):
        found = matches(seed, 400, 0.03, 0.2, block_px)
        solution = solve_pose(*found, CAMERA, PoseConfig(blocks=CAMERA.width / counted_px))
        errors.append(error_of(solution))
        predicted.append(solution.covariance_66)
    errors, predicted = np.array(errors), np.array(predicted)
    nees = np.einsum("ni,nij,nj->n", errors, np.linalg.inv(predicted), errors)
    deviation = np.sqrt(np.diagonal(predicted, axis1=1, axis2=2).mean(axis=0))
    # 5.35: median of chi squared with 6 degrees of freedom
    return deviation / np.sqrt((errors**2).mean(axis=0)), np.median(nees) / 5.35


def test_predicted_and_true_deviation_agree_for_independent_errors():
    ratio, nees = scatter(None, 64.0)
    assert (ratio > 1 / 1.5).all() and (ratio < 1.5).all()
    assert nees < 2


def test_predicted_deviation_holds_for_correlated_errors_of_neighbours():
    ratio, nees = scatter(32, 64.0)
    assert (ratio > 0.9).all() and (ratio < 2).all()
    assert nees < 2


def test_without_blocks_the_predicted_deviation_is_too_small():
    ratio, nees = scatter(32, 1.0)
    assert (ratio < 0.7).all()
    assert nees > 4


def test_covariance_is_symmetric_and_positive_definite():
    covariance = solve_pose(*matches(0, 600, 0.02, 0.3), CAMERA).covariance_66
    assert np.allclose(covariance, covariance.T, rtol=1e-9)
    assert np.linalg.eigvalsh(covariance)[0] > 0


@pytest.mark.skipif(pose.poselib is None, reason="poselib is not installed")
def test_options_of_poselib_exist(monkeypatch):
    # PoseLib ignores unknown keys
    given = []
    real = pose.poselib.estimate_absolute_pose
    monkeypatch.setattr(
        pose.poselib, "estimate_absolute_pose", lambda *args: given.extend(args) or real(*args)
    )
    solve_pose(*matches(0), CAMERA, PoseConfig("poselib"))
    assert given[3].keys() <= pose.poselib.RansacOptions().keys()
    assert given[4].keys() <= pose.poselib.BundleOptions().keys()


def test_unknown_solver_is_refused():
    with pytest.raises(BackendError, match="expected auto, poselib or opencv"):
        solve_pose(*matches(0), CAMERA, PoseConfig("epnp"))


def test_missing_solver_is_refused(monkeypatch):
    monkeypatch.setattr(pose, "poselib", None)
    with pytest.raises(BackendError, match="not installed"):
        solve_pose(*matches(0), CAMERA, PoseConfig("poselib"))
    assert solve_pose(*matches(0), CAMERA, PoseConfig("auto")) is not None


def test_points_behind_the_camera_are_outliers():
    points, pixels, sigma = matches(0)
    behind = np.arange(len(points)) % 5 == 0
    points[behind] = 2 * T_MAP_CAM[:3, 3] - points[behind]  # mirrored: the same pixels
    solution = solve_pose(points, pixels, sigma, CAMERA)
    assert np.array_equal(solution.inliers_n, ~behind)


def test_pose_is_a_rigid_transform():
    T = solve_pose(*matches(3, 600, 0.05, 0.5), CAMERA).T_map_cam
    assert np.allclose(T[:3, :3] @ T[:3, :3].T, np.eye(3), atol=1e-9)
    assert np.array_equal(T[3], pose_from(np.zeros(3), np.array([0.0, 0, 0, 1]))[3])


T_FRONT_LEFT = rigid(exp_rotation(np.array([0.1, -1.5, 0.0])), np.array([-0.2, 0.05, -0.1]))
RIG_POSES = np.eye(4), T_FRONT_LEFT, rigid(exp_rotation(np.array([0.0, 2.0, 0.2])), np.ones(3) / 5)


def rig_matches(seed, noise_m=0.0, outliers=0.0, counts=(600, 500)):
    """Return points, pixels, sigmas and the rig of cameras that see the box room."""
    found, rig = [], []
    for i, (T_first_cam, count) in enumerate(zip(RIG_POSES, counts, strict=False)):
        random = np.random.default_rng((seed, i))
        points = room_points(T_MAP_CAM @ T_first_cam, CAMERA, 8).reshape(-1, 3).astype(np.float64)
        points += noise_m * random.normal(size=points.shape)
        wrong = random.random(len(points)) < outliers
        points[wrong] += random.uniform(-2, 2, (wrong.sum(), 3))
        chosen = np.sort(random.choice(len(points), count, replace=False))
        found.append((points[chosen], PIXELS[chosen], np.full(count, max(noise_m, 0.01))))
        rig.append(RigView(T_first_cam, count))
    return [np.concatenate(part) for part in zip(*found, strict=True)], rig


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("counts", [(600,), (600, 500), (0, 500), (600, 0, 30)])
def test_several_cameras_give_the_pose_of_the_first(solver, counts):
    found, rig = rig_matches(0, counts=counts)
    solution = solve_pose(*found, CAMERA, PoseConfig(solver), rig=rig)
    assert np.allclose(solution.T_map_cam, T_MAP_CAM, atol=1e-5)
    assert solution.inliers_n.all()
    wrong, rig = rig_matches(1, 0.02, 0.5, counts)
    solution = solve_pose(*wrong, CAMERA, PoseConfig(solver), rig=rig)
    assert np.linalg.norm(error_of(solution)[:3]) < 0.03


def test_a_rig_of_one_camera_is_that_camera():
    found = matches(2, 600, 0.02, 0.3)
    one, other = (solve_pose(*found, CAMERA, rig=rig) for rig in ((), [RigView(np.eye(4), 600)]))
    assert np.allclose(one.T_map_cam, other.T_map_cam, atol=1e-6)
    assert np.allclose(one.covariance_66, other.covariance_66, rtol=1e-3)


def test_two_cameras_are_more_precise_than_the_better_one_and_know_it():
    errors, variances = {"both": [], "front": [], "left": []}, []
    T_left_front = invert(T_FRONT_LEFT)
    for seed in range(60):
        (points, pixels, sigma), rig = rig_matches(seed, 0.02)
        alone = [slice(0, 600), slice(600, None)]
        front, left = (
            solve_pose(points[part], pixels[part], sigma[part], CAMERA) for part in alone
        )
        both = solve_pose(points, pixels, sigma, CAMERA, rig=rig)
        errors["both"].append(error_of(both))
        errors["front"].append(error_of(front))
        errors["left"].append(error_of(replace(left, T_map_cam=left.T_map_cam @ T_left_front)))
        variances.append(np.diagonal(both.covariance_66))
    median = {
        name: np.median(np.linalg.norm(np.array(one)[:, :3], axis=1))
        for name, one in errors.items()
    }
    assert median["both"] < 0.8 * min(median["front"], median["left"]), median
    ratio = np.mean(np.square(errors["both"]), axis=0) / np.mean(variances, axis=0)
    assert (ratio > 0.5).all() and (ratio < 1.6).all(), ratio
