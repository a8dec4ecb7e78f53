"""From pair predictions to the depth map of an image: robust mean, cells, fusion, agreement."""

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed")
import torch  # noqa: E402

from distill_training.common.robust import robust_mean, row_medians, weighted_median  # noqa: E402
from distill_training.teachers.pairwise.agreement import measure_agreement  # noqa: E402
from distill_training.teachers.pairwise.alignment import Alignment  # noqa: E402
from distill_training.teachers.pairwise.cells import reduce_to_cells  # noqa: E402
from distill_training.teachers.pairwise.depth_map import DepthMap  # noqa: E402
from distill_training.teachers.pairwise.fusion import fuse  # noqa: E402
from distill_training.teachers.pairwise.global_adjustment import Cameras  # noqa: E402
from distill_training.teachers.pairwise.pair_predictor import Pointmap  # noqa: E402
from mote_localization.camera import Camera, cell_pixels  # noqa: E402
from mote_localization.geometry import exp_rotation, invert, rigid, transform  # noqa: E402

pytestmark = pytest.mark.train

STRIDE = 8
GRID = Camera(160, 128, 140.0, 140.0, 79.5, 63.5)
NETWORK = GRID.resized(80, 64)
PLANE = np.array([0.25, -0.1, 1.0])  # normal; points p with PLANE @ p = 2 m


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(3)


def pose_of(omega_3, position_3) -> np.ndarray:
    return rigid(exp_rotation(np.array(omega_3, float)), position_3)


# Robust averages


@pytest.mark.parametrize(
    ("values", "weights", "expected"),
    [
        ([3, 1, 2], [1, 1, 1], 2),
        ([3, 1, 2], [5, 1, 1], 3),
        ([3, 1, np.nan], [1, 2, 0], 1),
        ([3, 1, 1e9], [1, 2, 0], 1),
        ([np.nan, 7], [0, 1e-9], 7),
        ([3, 1], [0, 0], np.nan),
        ([np.nan, np.nan], [0, 0], np.nan),
    ],
)
def test_half_of_the_weight_is_on_either_side_of_a_weighted_median(values, weights, expected):
    values, weights = np.array(values, float), np.array(weights, float)
    for axis in (0, 1):
        found = weighted_median(
            np.expand_dims(values, 1 - axis), np.expand_dims(weights, 1 - axis), axis
        )
        np.testing.assert_array_equal(found, [expected])


def test_row_medians_ignore_nan():
    nan = np.nan
    rows = np.array([[5, nan, 1, 3, nan], [7, 8, nan, nan, nan], [nan] * 5, [2, 9, 4, 8, 3]])
    np.testing.assert_array_equal(row_medians(rows), [3, 7, nan, 4])


# Two deviations of as many normal values cover 0.70, 0.86, 0.91, 0.94 (Student 1908).
@pytest.mark.parametrize(("count", "covered"), [(2, 0.67), (4, 0.82), (8, 0.88), (20, 0.92)])
def test_the_deviation_of_a_robust_mean_covers_its_error(rng, count: int, covered: float):
    values = 5 + 0.1 * rng.standard_normal((count, 4000))
    values[: count // 8] += 3
    weights = rng.uniform(0.5, 2, values.shape)
    mean, deviation = robust_mean(values, weights)
    error = np.abs(mean - 5)
    assert np.median(error) < 1.3 * 0.6745 * 0.1 / np.sqrt(count)  # 1.3 times that of a plain mean
    assert covered < (error < 2 * deviation).mean() < 0.96


def test_a_single_value_has_infinite_deviation():
    values = np.array([[2.0, np.nan, 4.0], [np.nan, np.nan, 4.0]])
    mean, deviation = robust_mean(values, np.array([[1.0, 0, 3], [0, 0, 3]]))
    np.testing.assert_array_equal(mean, [2, np.nan, 4])
    np.testing.assert_array_equal(deviation[:2], [np.inf, np.nan])
    assert deviation[2] < 1e-6


def test_a_robust_mean_does_not_depend_on_the_unit_of_weights(rng):
    values, weights = rng.standard_normal((6, 50)), rng.uniform(0, 2, (6, 50))
    for one, other in zip(
        robust_mean(values, weights), robust_mean(values, 1e4 * weights), strict=True
    ):
        np.testing.assert_allclose(one, other)


# Cells


def cells_of(points_hw3, confidence_hw=None, network: Camera = NETWORK):
    """Return points and confidence of the cells of one dense pointmap."""
    points = torch.from_numpy(np.asarray(points_hw3, np.float32))[None]
    if confidence_hw is None:
        confidence_hw = np.full(points.shape[1:3], 2.0)
    confidence = torch.from_numpy(np.asarray(confidence_hw, np.float32))[None]
    points, confidence = reduce_to_cells(Pointmap(points, confidence), network, GRID, STRIDE)
    return points[0].numpy(), confidence[0].numpy()


def test_the_point_of_a_cell_is_on_its_ray():
    points, confidence = cells_of(3 * NETWORK.cell_rays(1))
    np.testing.assert_allclose(points, 3 * GRID.rays(cell_pixels(160, 128, STRIDE)), atol=1e-6)
    np.testing.assert_allclose(confidence, 2)


def test_the_points_of_a_slanted_plane_are_on_it():
    rays = NETWORK.cell_rays(1)
    points, _ = cells_of(2 * rays / (rays @ PLANE)[..., None])
    np.testing.assert_allclose(points @ PLANE, 2, atol=1e-5)
    directions = points[..., :2] / points[..., 2:]
    off_px = 140 * np.abs(directions - GRID.rays(cell_pixels(160, 128, STRIDE))[..., :2])
    assert off_px.max() < 0.1


def test_pixels_are_weighted_by_confidence():
    confidence = np.ones((64, 80))
    confidence[:, ::2] = 3
    rays = NETWORK.cell_rays(1)
    points, found = cells_of(rays * np.where(confidence > 1, 1.0, 1.02)[..., None], confidence)
    np.testing.assert_allclose(points[..., 2], 0.75 + 0.25 * 1.02, rtol=1e-6)
    np.testing.assert_allclose(found, 2)


def test_a_cell_over_a_depth_edge_is_on_one_of_both_surfaces():
    depth = np.full((64, 80), 1.0)
    depth[:, 33:] = 4  # 3 of 4 columns of a cell are on the far surface
    points, confidence = cells_of(NETWORK.cell_rays(1) * depth[..., None])
    np.testing.assert_allclose(points[:, :8, 2], 1, rtol=1e-6)
    np.testing.assert_allclose(points[:, 8:, 2], 4, rtol=1e-6)
    np.testing.assert_allclose(confidence[:, 8], 2 * 3 / 4)


def test_cells_outside_of_the_crop_have_no_point():
    crop = replace(NETWORK, width=60, cx=NETWORK.cx - 10)  # 10 px cut off on either side
    points, confidence = cells_of(crop.cell_rays(1), network=crop)
    assert np.isnan(points[:, [0, 1, -2, -1]]).all()
    assert not confidence[:, [0, 1, -2, -1]].any()
    np.testing.assert_allclose(confidence[:, [2, -3]], 1)  # half of these cells
    np.testing.assert_allclose(points[:, 3:-3, 2], 1, rtol=1e-6)


def test_pixels_without_a_point_are_ignored():
    points = 3 * NETWORK.cell_rays(1)
    points[:4, :7] = np.nan
    points[0, 7] = np.inf
    found, confidence = cells_of(points)
    assert np.isnan(found[0, 0]).all() and confidence[0, 0] == 0
    np.testing.assert_allclose(found[0, 1, 2], 3, rtol=1e-6)
    np.testing.assert_allclose(confidence[0, 1], 2 * 3 / 16)


def test_images_of_a_batch_are_independent(rng):
    points = torch.from_numpy(rng.uniform(1, 2, (3, 64, 80, 3)).astype(np.float32))
    confidence = torch.from_numpy(rng.uniform(1, 2, (3, 64, 80)).astype(np.float32))
    together = reduce_to_cells(Pointmap(points, confidence), NETWORK, GRID, STRIDE)
    for k in range(3):
        alone = cells_of(points[k], confidence[k])
        np.testing.assert_array_equal(together[0][k], alone[0])
        np.testing.assert_array_equal(together[1][k], alone[1])


# Fusion


def test_estimates_in_different_frames_and_units_are_fused_in_the_map_frame(rng):
    rays = rng.uniform(-0.5, 0.5, (50, 3)) * (1, 1, 0) + (0, 0, 1)
    depth = rng.uniform(1, 4, 50)
    # Pair k starts at image k; the unit of its pointmaps and that of the image differ.
    T_k44 = np.array([pose_of(*rng.normal(0, 1, (2, 3))) for _ in range(5)])
    pair_units_k, image_units_k = np.array([0.2, 1.0, 7.0, 1.3, 0.2]), np.arange(1.0, 6)
    none = np.zeros(0)
    alignment = Alignment(
        [],
        Cameras(T_k44[:, :3, :3], T_k44[:, :3, 3], np.log(image_units_k), none, none),
        np.log(pair_units_k),
        *[none] * 4,
    )
    points = []
    for k, unit in enumerate(pair_units_k * image_units_k):
        predicted = transform(invert(T_k44[k]) @ T_k44[2], rays * depth[:, None]) / unit
        predicted[0] += np.nan if k == 1 else 0
        points.append(alignment.in_camera(2, k, k, predicted + 0.5 * (k == 4)))
    found, sigma = fuse(points, rng.uniform(1, 2, (5, 50)), rays)
    np.testing.assert_allclose(found, depth, rtol=1e-5)
    assert sigma.max() < 1e-4 * depth.max()


def test_the_deviation_of_a_point_is_along_its_ray(rng):
    rays = np.array([[0, 0, 1.0], [0.6, -0.8, 1]])
    scales = 1 + 0.02 * rng.standard_normal(6)
    depth, sigma = fuse([scale * rays for scale in scales], np.ones((6, 2)), rays)
    assert depth[0] == pytest.approx(depth[1])
    assert sigma[1] == pytest.approx(np.sqrt(2) * sigma[0])


def test_errors_of_far_cells_do_not_affect_near_cells(rng):
    """A quarter of the cells is ten times nearer, and has a quarter of outlier estimates."""
    depth_n = np.where(np.arange(400) < 100, 0.5, 5.0)
    rays_n3 = np.tile([0.0, 0.0, 1.0], (400, 1))
    points = []
    for k in range(12):
        noisy = depth_n * np.exp(0.03 * rng.standard_normal(400))
        if k % 4 == 0:
            noisy[:100] *= 1.8
        points.append(rays_n3 * noisy[:, None])
    fused = fuse(points, np.ones((12, 400)), rays_n3)[0]
    assert np.median(np.abs(fused / depth_n - 1)[:100]) < 0.025


def test_cells_with_low_confidence_have_no_depth():
    rays_n3 = np.tile([0.0, 0.0, 1.0], (2, 1))
    depth_n = fuse([2 * rays_n3] * 3, [np.array([0.02, 2.0])] * 3, rays_n3)[0]
    assert np.isnan(depth_n[0]) and depth_n[1] == pytest.approx(2)


def test_points_behind_the_camera_are_ignored():
    rays_n3 = np.array([[0.0, 0.0, 1.0]])
    assert np.isnan(fuse([-2 * rays_n3] * 3, np.ones((3, 1)), rays_n3)).all()


def test_cells_without_an_estimate_have_no_depth():
    rays = np.array([[0, 0, 1.0], [0.1, 0, 1], [0, 0.1, 1]])
    points = 2 * rays
    points[2] = np.nan
    depth, sigma = fuse([points], [np.array([1.0, 0, 1])], rays)
    np.testing.assert_array_equal(depth, [2, np.nan, np.nan])
    np.testing.assert_array_equal(sigma, [np.inf, np.nan, np.nan])


# Depth maps


def of_plane(T_map_cam: np.ndarray, normal_3: np.ndarray = PLANE) -> DepthMap:
    """Return the depth map of a plane in the map."""
    rays = GRID.cell_rays(STRIDE)
    rays_map, origin = rays @ T_map_cam[:3, :3].T, T_map_cam[:3, 3]
    depth = (2 - origin @ normal_3) / (rays_map @ normal_3)
    return DepthMap(GRID, STRIDE, T_map_cam, depth, np.full(depth.shape, 0.02))


def test_interpolated_depth_is_exact_on_a_plane(rng):
    rays = GRID.rays(rng.uniform((3.5, 3.5), (155.5, 123.5), (200, 2)))
    depth, sigma = of_plane(np.eye(4)).sample(rays)
    np.testing.assert_allclose(depth, 2 / (rays @ PLANE))
    np.testing.assert_allclose(sigma, 0.02)


def test_depth_at_the_center_of_a_cell_is_that_of_the_cell(rng):
    one = of_plane(np.eye(4))
    one = replace(one, sigma_hw=rng.uniform(0.01, 0.05, one.depth_hw.shape))
    depth, sigma = one.sample(one.rays_hw3())
    np.testing.assert_allclose(depth, one.depth_hw)
    np.testing.assert_allclose(sigma, one.sigma_hw)


def test_there_is_no_depth_at_an_edge_outside_or_beside_an_empty_cell():
    depth = np.full((16, 20), 1.0)
    depth[:, 10:] = 2
    sigma = np.full((16, 20), 0.1)
    depth[3, 3], sigma[5, 5] = np.nan, np.inf
    one = DepthMap(GRID, STRIDE, np.eye(4), depth, sigma)

    def at(*pixels_of_grid) -> np.ndarray:
        return one.sample(GRID.rays(np.array(pixels_of_grid, float)))[0]

    # Cell (row, column) has its center at pixel (8 column + 3.5, 8 row + 3.5).
    np.testing.assert_array_equal(
        at((75.5, 60), (76, 60), (83, 60), (83.5, 60)), [1, *2 * [np.nan], 2]
    )
    assert np.isnan(at((27.5, 27.5), (24, 24), (43.5, 43.5), (47, 41))).all()
    np.testing.assert_allclose(at((-0.4, -0.4), (159.4, 127.4)), [1, 2])
    assert np.isnan(at((-0.6, 60), (159.6, 60), (60, -0.6), (60, 127.6))).all()


def test_a_depth_map_of_a_single_cell_can_be_sampled():
    camera = replace(GRID, width=8, height=8)
    one = DepthMap(camera, STRIDE, np.eye(4), np.array([[1.5]]), np.array([[0.1]]))
    np.testing.assert_allclose(one.sample(camera.rays(np.array([[3.0, 4.0]])))[0], 1.5)


# Agreement

VIEWS = [pose_of((0.05 * k, -0.1 * k, 0.02 * k), (0.15 * k, 0.05 * k, -0.1 * k)) for k in range(4)]
ALL = [(i, j) for i in range(4) for j in range(4) if i != j]


def noisy(rng, sigma: float, rotation: float = 0.0) -> dict[int, DepthMap]:
    """Return depth maps of one plane with true sigmas; poses have a rotation error (rad)."""
    maps = {}
    for k, T in enumerate(VIEWS):
        one = of_plane(T)
        depth = one.depth_hw + sigma * rng.standard_normal(one.depth_hw.shape)
        T_off = T @ pose_of(rotation * rng.standard_normal(3), (0, 0, 0))
        maps[k] = replace(
            one, T_map_cam=T_off, depth_hw=depth, sigma_hw=np.full(depth.shape, sigma)
        )
    return maps


def test_depth_maps_of_one_plane_agree_exactly():
    maps = {k: of_plane(T) for k, T in enumerate(VIEWS)}
    agreement = measure_agreement(maps, ALL)
    assert agreement.distance < 1e-9
    assert agreement.sigma_factor == 1


def test_true_sigmas_get_a_factor_of_1(rng):
    agreement = measure_agreement(noisy(rng, 0.02), ALL)
    assert agreement.sigma_factor == pytest.approx(1, abs=0.08)
    assert 0.01 < agreement.distance < 0.02


def test_pose_errors_increase_the_sigma_factor(rng):
    agreement = measure_agreement(noisy(rng, 0.02, rotation=0.02), ALL)
    assert agreement.sigma_factor > 1.3
    assert (
        agreement.sigma_factor
        < measure_agreement(noisy(rng, 0.005, rotation=0.02), ALL).sigma_factor
    )


def test_a_surface_behind_another_is_no_disagreement_but_one_in_front_is():
    near, far = of_plane(VIEWS[0]), of_plane(VIEWS[1], PLANE / 3)
    assert np.isnan(measure_agreement({0: near, 1: far}, [(1, 0)]).distance)
    before = measure_agreement({0: near, 1: far}, [(0, 1)])
    assert before.fraction == 0 and before.distance > 1


def test_a_surface_at_two_depths_is_a_disagreement():
    maps = {0: of_plane(VIEWS[0]), 1: of_plane(VIEWS[1], PLANE / 1.2)}
    found = measure_agreement(maps, [(0, 1), (1, 0)])
    assert found.fraction < 0.1 and found.sigma_factor > 5


def test_agreement_is_unknown_with_few_common_cells():
    some = of_plane(VIEWS[0])
    few = np.where(np.arange(20) < 6, some.depth_hw, np.nan)
    maps = {0: replace(some, depth_hw=few), 1: of_plane(VIEWS[1])}
    assert np.isnan(measure_agreement(maps, [(0, 1)]).distance)
    assert measure_agreement(maps, 5 * [(0, 1)]).distance < 1e-9


@pytest.mark.parametrize("pairs", [[], [(0, 1)]])
def test_agreement_is_unknown_without_overlap(pairs):
    behind = of_plane(VIEWS[0] @ pose_of((0, np.pi, 0), (0, 0, 0)), -PLANE)
    agreement = measure_agreement({0: of_plane(VIEWS[0]), 1: behind}, pairs)
    assert np.isnan(agreement.distance) and agreement.sigma_factor == 1
