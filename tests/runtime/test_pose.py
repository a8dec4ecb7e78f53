"""The pose solver: exact where it can be, the same by both searches, honest about its errors."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from make_map import CAMERA, T_MAP_CAM, room_points

from mote_localization import pose
from mote_localization.camera import Camera, cell_pixels
from mote_localization.errors import BackendError
from mote_localization.geometry import exp_rotation, pose_from, rotation_angle
from mote_localization.pose import PoseConfig, solve_pose

POINTS = room_points(T_MAP_CAM, CAMERA, 8).reshape(-1, 3).astype(np.float64)
PIXELS = cell_pixels(CAMERA.width, CAMERA.height, 8).reshape(-1, 2)
SOLVERS = ["opencv"] if pose.poselib is None else ["poselib", "opencv"]


def matches(seed, count=600, noise_m=0.0, outliers=0.0, block_px=None):
    """Return points, pixels and sigmas; `block_px`: cells of one image block err alike."""
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
    """Return x y z rotX rotY rotZ by which a solution is wrong, along the axes of the map."""
    turn = solution.T_map_cam[:3, :3] @ T_MAP_CAM[:3, :3].T
    omega = np.array([turn[2, 1] - turn[1, 2], turn[0, 2] - turn[2, 0], turn[1, 0] - turn[0, 1]])
    return np.concatenate([solution.T_map_cam[:3, 3] - T_MAP_CAM[:3, 3], omega / 2])


@pytest.mark.parametrize("solver", SOLVERS)
def test_clean_matches_give_the_exact_pose(solver):
    solution = solve_pose(*matches(0), CAMERA, PoseConfig(solver))
    assert np.allclose(solution.T_map_cam, T_MAP_CAM, atol=1e-7)
    assert solution.inliers_n.all()
    assert solution.reprojection_px < 1e-5


def test_a_small_canonical_camera_gives_poses_too():
    small = Camera(160, 120, 130.0, 130.0, 79.2, 59.2)
    points = room_points(T_MAP_CAM, small, 8).reshape(-1, 3)
    solution = solve_pose(
        points, cell_pixels(160, 120, 8).reshape(-1, 2), np.full(len(points), 0.01), small
    )
    assert np.allclose(solution.T_map_cam, T_MAP_CAM, atol=1e-4)


@pytest.mark.parametrize("solver", SOLVERS)
def test_half_outliers_and_noise_leave_a_centimetre(solver):
    for seed in range(5):
        solution = solve_pose(*matches(seed, 600, 0.02, 0.5), CAMERA, PoseConfig(solver))
        error = error_of(solution)
        assert np.linalg.norm(error[:3]) < 0.03
        assert np.degrees(np.linalg.norm(error[3:])) < 0.6


@pytest.mark.skipif(pose.poselib is None, reason="poselib is not installed")
def test_both_searches_end_at_the_same_pose():
    for seed in range(5):
        found = matches(seed, 600, 0.03, 0.4)
        one, other = (solve_pose(*found, CAMERA, PoseConfig(s)) for s in SOLVERS)
        assert np.array_equal(one.inliers_n, other.inliers_n)
        assert np.linalg.norm(one.T_map_cam[:3, 3] - other.T_map_cam[:3, 3]) < 1e-3
        assert rotation_angle(one.T_map_cam[:3, :3].T @ other.T_map_cam[:3, :3]) < 1e-3


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_search_among_some_matches_ends_where_one_among_all_does(solver):
    for seed in range(5):
        found = matches(seed, 1000, 0.03, 0.4)
        some, every = (
            solve_pose(*found, CAMERA, PoseConfig(solver, searched=n)) for n in (200, 1000)
        )
        assert np.allclose(some.T_map_cam, every.T_map_cam, atol=5e-4)
        assert abs(some.inliers_n.sum() - every.inliers_n.sum()) < 3


@pytest.mark.parametrize("solver", SOLVERS)
def test_the_same_matches_give_the_same_pose(solver):
    found = matches(1, 600, 0.03, 0.4)
    one, other = (solve_pose(*found, CAMERA, PoseConfig(solver)) for _ in range(2))
    assert np.array_equal(one.T_map_cam, other.T_map_cam)
    assert np.array_equal(one.covariance_66, other.covariance_66)


def away(metres: float, degrees: float) -> np.ndarray:
    """The true pose, moved and turned along axes that nothing else here has."""
    moved = T_MAP_CAM.copy()
    moved[:3, 3] += metres * np.array([0.6, -0.64, 0.48])
    moved[:3, :3] = moved[:3, :3] @ exp_rotation(np.radians(degrees) * np.array([0.6, 0.64, -0.48]))
    return moved


@pytest.mark.parametrize("prior", [T_MAP_CAM, away(0.05, 2), away(0.2, 5)])
def test_from_a_good_prior_nothing_is_searched(prior, monkeypatch):
    found = matches(3, 600, 0.02, 0.3)
    searched = solve_pose(*found, CAMERA)
    monkeypatch.setattr(pose, "_ransac", None)
    kept = prior.copy()
    refined = solve_pose(*found, CAMERA, prior=prior)
    assert np.array_equal(prior, kept)
    assert np.allclose(refined.T_map_cam, searched.T_map_cam, atol=2e-5)
    assert np.array_equal(refined.inliers_n, searched.inliers_n)
    assert np.allclose(refined.covariance_66, searched.covariance_66, rtol=1e-2)


@pytest.mark.parametrize(
    "prior", [away(1, 20), away(0, 180), away(100, 0), np.full((4, 4), np.nan)]
)
def test_a_bad_prior_changes_nothing(prior):
    found = matches(3, 600, 0.02, 0.3)
    searched = solve_pose(*found, CAMERA)
    refined = solve_pose(*found, CAMERA, prior=prior)
    assert np.allclose(refined.T_map_cam, searched.T_map_cam, atol=2e-5)


def test_a_prior_that_few_matches_agree_with_is_not_taken_for_the_pose():
    """A third of the matches are another camera's: the prior's. Most are not."""
    points, pixels, sigma = matches(0, 600)
    ghost = away(1.0, 0)
    to_ghost = ghost @ np.linalg.inv(T_MAP_CAM)
    points[:180] = points[:180] @ to_ghost[:3, :3].T + to_ghost[:3, 3]
    solution = solve_pose(points, pixels, sigma, CAMERA, prior=ghost)
    assert np.linalg.norm(error_of(solution)[:3]) < 1e-3 and not solution.inliers_n[:180].all()


def test_a_map_far_from_its_origin_loses_no_digits():
    points, pixels, sigma = matches(0, 600, 0.02, 0.3)
    near = solve_pose(points, pixels, sigma, CAMERA)
    far = solve_pose(points + (4e5, 5e6, 100), pixels, sigma, CAMERA)
    assert np.allclose(far.T_map_cam[:3, 3] - (4e5, 5e6, 100), near.T_map_cam[:3, 3], atol=1e-5)


def test_uncertain_points_count_less():
    points, pixels, sigma = matches(0)
    right = pixels[:, 0] > 160
    points[right] += (0.0, 0.05, 0.0)
    sure = solve_pose(points, pixels, np.where(right, 0.5, 0.01), CAMERA)
    unsure = solve_pose(points, pixels, sigma, CAMERA)
    assert np.linalg.norm(error_of(sure)[:3]) < 0.3 * np.linalg.norm(error_of(unsure)[:3])


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("kind", ["none", "three", "one point", "a line", "random", "one block"])
def test_what_determines_no_pose_gives_none(solver, kind):
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


def test_the_covariance_is_that_of_the_cost_moved_along_map_axes():
    # one scalar noise on all pixels of a block moves the pose as the jackknife says, to first order
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


def test_the_covariance_does_not_depend_on_where_pixels_are_counted_from():
    points, pixels, sigma = matches(0, 600, 0.02)
    block_px = CAMERA.width / PoseConfig().blocks
    moved = replace(CAMERA, cx=CAMERA.cx - block_px)
    one = solve_pose(points, pixels, sigma, CAMERA).covariance_66
    other = solve_pose(points, pixels - (block_px, 0), sigma, moved).covariance_66
    np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-9)


def test_the_covariance_turns_with_the_map():
    points, pixels, sigma = matches(0, 600, 0.02, 0.2)
    turn = exp_rotation(np.array([0.3, -1.2, 0.7]))
    one = solve_pose(points, pixels, sigma, CAMERA).covariance_66
    other = solve_pose(points @ turn.T, pixels, sigma, CAMERA).covariance_66
    both = np.kron(np.eye(2), turn)
    assert np.allclose(other, both @ one @ both.T, rtol=1e-3, atol=1e-3 * np.abs(one).max())


@cache
def scatter(block_px, counted_px):
    """Return predicted over true deviation (6,), and the median normalized squared error."""
    errors, predicted = [], []
    for seed in range(60):
        found = matches(seed, 400, 0.03, 0.2, block_px)
        solution = solve_pose(*found, CAMERA, PoseConfig(blocks=CAMERA.width / counted_px))
        errors.append(error_of(solution))
        predicted.append(solution.covariance_66)
    errors, predicted = np.array(errors), np.array(predicted)
    squared = np.einsum("ni,nij,nj->n", errors, np.linalg.inv(predicted), errors)
    deviation = np.sqrt(np.diagonal(predicted, axis1=1, axis2=2).mean(axis=0))
    # 5.35: median of chi squared with 6 degrees of freedom
    return deviation / np.sqrt((errors**2).mean(axis=0)), np.median(squared) / 5.35


def test_predicted_and_true_deviation_agree_for_independent_errors():
    ratio, squared = scatter(None, 64.0)
    assert (ratio > 1 / 1.5).all() and (ratio < 1.5).all()
    assert squared < 2


def test_predicted_deviation_is_honest_for_errors_that_neighbours_share():
    ratio, squared = scatter(32, 64.0)
    assert (ratio > 0.9).all() and (ratio < 2).all()
    assert squared < 2


def test_taking_neighbours_as_independent_would_promise_too_much():
    ratio, squared = scatter(32, 1.0)
    assert (ratio < 0.7).all()
    assert squared > 4


def test_covariances_are_symmetric_and_positive():
    covariance = solve_pose(*matches(0, 600, 0.02, 0.3), CAMERA).covariance_66
    assert np.allclose(covariance, covariance.T, rtol=1e-9)
    assert np.linalg.eigvalsh(covariance)[0] > 0


@pytest.mark.skipif(pose.poselib is None, reason="poselib is not installed")
def test_poselib_knows_the_options_it_is_given(monkeypatch):
    # it ignores keys that it does not know
    given = []
    real = pose.poselib.estimate_absolute_pose
    monkeypatch.setattr(
        pose.poselib, "estimate_absolute_pose", lambda *args: given.extend(args) or real(*args)
    )
    solve_pose(*matches(0), CAMERA, PoseConfig("poselib"))
    assert given[3].keys() <= pose.poselib.RansacOptions().keys()
    assert given[4].keys() <= pose.poselib.BundleOptions().keys()


def test_an_unknown_solver_is_refused():
    with pytest.raises(BackendError, match="expected auto, poselib or opencv"):
        solve_pose(*matches(0), CAMERA, PoseConfig("epnp"))


def test_a_solver_that_is_not_installed_is_refused(monkeypatch):
    monkeypatch.setattr(pose, "poselib", None)
    with pytest.raises(BackendError, match="not installed"):
        solve_pose(*matches(0), CAMERA, PoseConfig("poselib"))
    assert solve_pose(*matches(0), CAMERA, PoseConfig("auto")) is not None


def test_points_behind_the_camera_are_no_inliers():
    points, pixels, sigma = matches(0)
    behind = np.arange(len(points)) % 5 == 0
    points[behind] = 2 * T_MAP_CAM[:3, 3] - points[behind]  # mirrored: the same pixels
    solution = solve_pose(points, pixels, sigma, CAMERA)
    assert np.array_equal(solution.inliers_n, ~behind)


def test_a_pose_is_a_rigid_transform():
    T = solve_pose(*matches(3, 600, 0.05, 0.5), CAMERA).T_map_cam
    assert np.allclose(T[:3, :3] @ T[:3, :3].T, np.eye(3), atol=1e-9)
    assert np.array_equal(T[3], pose_from(np.zeros(3), np.array([0.0, 0, 0, 1]))[3])
