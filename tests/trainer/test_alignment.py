"""Scales, poses and focal lengths from the predictions of image pairs."""

from collections.abc import Collection
from dataclasses import dataclass, replace
from itertools import permutations

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed")
from distill_training.teachers.pairwise.focal_lengths import estimate_log_focal_ratios  # noqa: E402
from distill_training.teachers.pairwise.global_adjustment import (
    Adjustment,
    AdjustmentProblem,
    Cameras,
)  # noqa: E402
from distill_training.teachers.pairwise.observations import (  # noqa: E402
    Observations,
    depth_along,
    estimate_pair_scales,
    fit_scales,
    observe,
    pairs_by_image,
    sampled_cells,
)
from distill_training.teachers.pairwise.predictions import DirectedPair  # noqa: E402
from distill_training.teachers.pairwise.relative_pose import (  # noqa: E402
    _CONVENTIONS,
    _similarities,
    angles_between,
    diagnose_pose_convention,
    estimate_relative_poses,
)
from distill_training.teachers.pairwise.spanning_tree import initialize_along_spanning_tree  # noqa: E402
from mote_localization.camera import Camera, cell_pixels  # noqa: E402
from mote_localization.geometry import exp_rotation, invert, rigid, rotation_angle, transform  # noqa: E402
from mote_localization.similarity import similarity  # noqa: E402

pytestmark = pytest.mark.train

CAMERA = Camera(160, 120, 150.0, 150.0, 79.5, 59.5)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(11)


def cells() -> np.ndarray:
    """Rays of the sampled cells of an image."""
    return CAMERA.rays(cell_pixels(160, 120, 8)[sampled_cells(15, 20)])


def pose_of(omega_3: np.ndarray, position_3: np.ndarray) -> np.ndarray:
    return rigid(exp_rotation(omega_3), position_3)


@dataclass(frozen=True)
class Place:
    """Images of a place, and the predictions of their pairs."""

    T_map_cam_i44: np.ndarray
    depth_in: np.ndarray  # m
    log_pair_e: np.ndarray  # log of pair units per metre
    observations: Observations

    @property
    def all_pairs(self) -> np.ndarray:
        return np.ones(len(self.log_pair_e), bool)

    def cameras(self, log_focal_ratio: float = 0.0) -> Cameras:
        """True poses, with units of 1."""
        images = len(self.T_map_cam_i44)
        cameras = Cameras.at_origin(np.zeros(images, int), np.array([log_focal_ratio]))
        return replace(
            cameras, R_i33=self.T_map_cam_i44[:, :3, :3], t_i3=self.T_map_cam_i44[:, :3, 3]
        )

    def log_unit_i(self, depth_in: np.ndarray) -> np.ndarray:
        """True log of metres per unit of each image, for depths in image units."""
        return np.nanmedian(np.log(self.depth_in / depth_in), axis=1)


def make_place(
    rng: np.random.Generator,
    images: int = 6,
    noise: float = 0.0,
    baseline_m: float = 0.6,
    focal: float = 1.0,
    apart: Collection[int] = (),
) -> Place:
    """Return random images and the predictions of all their pairs.

    Args:
        rng: Random generator.
        images: Number of images.
        noise: Standard deviation of predicted points, fraction of the distance.
        baseline_m: Standard deviation of the positions, m.
        focal: Initial over true focal length.
        apart: Images that are in no pair.
    """
    rays = cells()
    T = np.array(
        [pose_of(rng.normal(0, 0.3, 3), rng.normal(0, baseline_m, 3)) for _ in range(images)]
    )
    depth_in = rng.uniform(1.5, 4, (images, len(rays)))
    ends = [pair for pair in permutations(range(images), 2) if not set(apart) & set(pair)]
    log_pair_e = rng.normal(0, 0.5, len(ends))
    own, other = [], []
    for (i, j), log_scale in zip(ends, log_pair_e, strict=True):
        for target, points in (
            (own, rays * depth_in[i][:, None]),
            (other, transform(invert(T[i]) @ T[j], rays * depth_in[j][:, None])),
        ):
            distance = np.linalg.norm(points, axis=1, keepdims=True)
            points = points + noise * distance * rng.standard_normal(points.shape)
            target.append(np.exp(log_scale) * points)
    ends_e2 = np.array(ends)
    weight_en = rng.uniform(1, 3, (2, len(ends), len(rays)))
    observations = Observations(
        np.tile(rays / (focal, focal, 1), (images, 1, 1)),
        ends_e2[:, 0],
        ends_e2[:, 1],
        np.array(own),
        weight_en[0],
        np.array(other),
        weight_en[1],
    )
    return Place(T, depth_in, log_pair_e, observations)


def pair_scales(place: Place) -> tuple[np.ndarray, np.ndarray]:
    return estimate_pair_scales(place.observations, place.observations.rays_in3)


def adjusted(
    place: Place, cameras: Cameras | None = None, **changes
) -> tuple[Adjustment, np.ndarray]:
    """Return the adjustment, and the true log units."""
    log_scales_e, depth_in = pair_scales(place)
    known = {
        "observations": place.observations,
        "log_scales_e": log_scales_e,
        "depth_in": depth_in,
        "used_e": place.all_pairs,
        "poses_known": True,
        "log_focal_ratio_sigma_l": np.zeros(1),
    }
    problem = AdjustmentProblem(**{**known, **changes})
    return problem.solve(cameras or place.cameras()), place.log_unit_i(depth_in)


def assert_poses(found: Cameras, place: Place, metres: float, radians: float) -> None:
    """Check that poses are the true ones up to a similarity."""
    scale, T = similarity(found.t_i3, place.T_map_cam_i44[:, :3, 3])
    np.testing.assert_allclose(
        transform(T, scale * found.t_i3), place.T_map_cam_i44[:, :3, 3], atol=metres
    )
    for R, expected in zip(found.R_i33, place.T_map_cam_i44[:, :3, :3], strict=True):
        assert rotation_angle(expected.T @ T[:3, :3] @ R) < radians


# Observations


def test_depth_along_a_ray_is_that_of_the_nearest_point_on_it(rng):
    rays = np.concatenate([rng.uniform(-1, 1, (50, 2)), np.ones((50, 1))], axis=1)
    across = np.cross(rays, rng.standard_normal((50, 3)))
    np.testing.assert_allclose(depth_along(rays, 3 * rays + across), 3)
    assert (depth_along(rays, -rays) > 0).all()


def test_sampled_cells_include_the_corners_of_any_image():
    for rows, columns in ((15, 20), (40, 30), (12, 12), (5, 7)):
        i, j = sampled_cells(rows, columns)
        assert len(i) == len(j) == 144
        assert (i.min(), i.max(), j.min(), j.max()) == (0, rows - 1, 0, columns - 1)


def test_pairs_of_images_of_several_sizes_are_read_at_the_same_number_of_cells(rng):
    grids = [CAMERA, replace(CAMERA, width=120, height=160, cx=59.5, cy=79.5)]

    def random_map(k: int) -> tuple[np.ndarray, np.ndarray]:
        shape = (grids[k].height // 8, grids[k].width // 8)
        return rng.uniform(1, 2, (*shape, 3)), rng.uniform(1, 2, shape)

    pairs = [DirectedPair(i, 1 - i, *random_map(i), *random_map(1 - i)) for i in (0, 1)]
    pairs[0].own_hw3[0, 0] = np.nan
    pairs[1].other_confidence_hw[0, 0] = 0
    o = observe(pairs, grids, 8)
    assert (o.images, o.first_e.tolist(), o.second_e.tolist()) == (2, [0, 1], [1, 0])
    for k, grid in enumerate(grids):
        i, j = at = sampled_cells(grid.height // 8, grid.width // 8)
        pixels = np.stack([8 * j + 3.5, 8 * i + 3.5], axis=-1)
        np.testing.assert_allclose(o.rays_in3[k], grid.rays(pixels), rtol=1e-6)
        np.testing.assert_allclose(o.own_en3[k, 1:], pairs[k].own_hw3[at][1:], rtol=1e-6)
        np.testing.assert_allclose(
            o.other_weight_en[1 - k, 1:], pairs[1 - k].other_confidence_hw[at][1:], rtol=1e-6
        )
    assert o.own_weight_en[0, 0] == 0 and np.isfinite(o.own_en3).all()
    assert o.other_weight_en[1, 0] == 0 and (o.own_weight_en[1] > 0).all()


def test_without_pairs_observations_are_empty():
    o = observe([], [CAMERA, CAMERA], 8)
    assert o.images == 2 and o.own_en3.shape == (0, 144, 3)


def test_pairs_are_grouped_by_image():
    groups = pairs_by_image(np.array([2, 0, 2, 4]), 5)
    assert [group.tolist() for group in groups] == [[1], [], [0, 2], [], [3]]


# Scales


def test_pair_scales_are_exact_without_noise(rng):
    place = make_place(rng, apart=[2])
    log_scales_e, depth_in = pair_scales(place)
    assert np.isnan(depth_in[2]).all()
    depth_in[2] = 1
    unit_i = np.exp(place.log_unit_i(depth_in))
    rest = [0, 1, 3, 4, 5]
    np.testing.assert_allclose((unit_i[:, None] * depth_in)[rest], place.depth_in[rest])
    np.testing.assert_allclose(
        np.exp(log_scales_e + place.log_pair_e) * unit_i[place.observations.first_e], 1
    )
    depth_in[:, :100] = np.nan
    np.testing.assert_allclose(
        fit_scales(place.observations, place.observations.rays_in3, depth_in), log_scales_e
    )


def test_pair_scales_are_robust_to_a_third_of_outlier_cells(rng):
    place = make_place(rng, noise=0.01)
    own = place.observations.own_en3.copy()
    wrong = rng.random(own.shape[:2]) < 0.3
    own[wrong] *= rng.uniform(1.2, 3, (wrong.sum(), 1))
    place = replace(place, observations=replace(place.observations, own_en3=own))
    log_scales_e, depth_in = pair_scales(place)
    errors = (
        log_scales_e + place.log_pair_e + place.log_unit_i(depth_in)[place.observations.first_e]
    )
    assert np.abs(errors).max() < 0.03


# Relative poses


def true_relative_poses(place: Place, depth_in: np.ndarray, i: np.ndarray, j: np.ndarray):
    unit_i, T = np.exp(place.log_unit_i(depth_in)), place.T_map_cam_i44
    R_p33 = T[i, :3, :3].transpose(0, 2, 1) @ T[j, :3, :3]
    t_p31 = T[i, :3, :3].transpose(0, 2, 1) @ (T[j, :3, 3] - T[i, :3, 3])[..., None]
    return unit_i[j] / unit_i[i], R_p33, t_p31[..., 0] / unit_i[i][:, None]


@pytest.mark.parametrize(("wrong", "tolerance"), [(0.0, 1e-7), (0.3, 1e-5)])
def test_relative_poses_are_recovered(rng, wrong: float, tolerance: float):
    place = make_place(rng)
    log_scales_e, depth_in = pair_scales(place)
    other = place.observations.other_en3.copy()
    outlier = rng.random(other.shape[:2]) < wrong
    other[outlier] += rng.normal(0, 2, (outlier.sum(), 3))
    o = replace(place.observations, other_en3=other)
    relative = estimate_relative_poses(o, o.rays_in3, log_scales_e, depth_in)
    assert sorted(zip(relative.i_p, relative.j_p, strict=True)) == [
        (i, j) for i in range(6) for j in range(i + 1, 6)
    ]
    for name, pairs in (("forward", relative.forward_p), ("backward", relative.backward_p)):
        ends = (relative.i_p, relative.j_p)
        first, second = ends if name == "forward" else ends[::-1]
        np.testing.assert_array_equal(o.first_e[pairs], first)
        np.testing.assert_array_equal(o.second_e[pairs], second)
    scale_p, R_p33, t_p3 = true_relative_poses(place, depth_in, relative.i_p, relative.j_p)
    np.testing.assert_allclose(relative.scale_p, scale_p, rtol=tolerance)
    np.testing.assert_allclose(relative.R_p33, R_p33, atol=tolerance)
    np.testing.assert_allclose(relative.t_p3, t_p3, atol=tolerance)
    assert relative.residual_p.max() < tolerance


def test_the_relative_rotation_before_a_plane_is_no_reflection(rng):
    wall_bn3 = np.tile(3 * cells(), (20, 1, 1))
    T = pose_of(np.array([0.1, -0.2, 0.1]), np.array([0.5, 0, 0]))
    seen_bn3 = transform(T, wall_bn3) + rng.normal(0, 0.02, wall_bn3.shape)
    _, R_b33, _, _ = _similarities(wall_bn3, seen_bn3, np.ones(wall_bn3.shape[:2]))
    for R in R_b33:
        assert rotation_angle(T[:3, :3].T @ R) < np.radians(2)


def test_a_wrong_pair_has_a_large_residual(rng):
    place = make_place(rng, noise=0.01)
    other = place.observations.other_en3.copy()
    o = replace(place.observations, other_en3=other)
    wrong = np.isin(o.first_e, (1, 4)) & np.isin(o.second_e, (1, 4))
    other[wrong] = rng.permutation(other[wrong], axis=1)
    relative = estimate_relative_poses(o, o.rays_in3, *pair_scales(place))
    wrong_p = (relative.i_p == 1) & (relative.j_p == 4)
    assert relative.residual_p[wrong_p] > 5 * relative.residual_p[~wrong_p].max()


def test_angles_between_rotations_are_exact_from_tiny_to_half_a_revolution(rng):
    R_b33 = np.array([exp_rotation(omega) for omega in rng.normal(0, 1, (20, 3))])
    angles = np.array([*np.logspace(-8, 0, 18), 3.1, np.pi])
    other_b33 = [
        R @ exp_rotation(np.array([0.6, 0, 0.8]) * a) for R, a in zip(R_b33, angles, strict=True)
    ]
    np.testing.assert_allclose(angles_between(R_b33, np.array(other_b33)), angles, rtol=1e-6)


def test_every_pose_convention_is_distinguished_from_all_others(rng):
    place = make_place(rng, images=8, noise=0.05)
    o = place.observations
    relative = estimate_relative_poses(o, o.rays_in3, *pair_scales(place))
    assert len({text for text, _, _ in _CONVENTIONS}) == len(_CONVENTIONS) == 2 * 48
    for text, C, inverted in _CONVENTIONS:
        right, mirror = np.eye(4), np.diag([np.linalg.det(C), 1, 1, 1])
        right[:3, :3] = C
        T_i44 = mirror @ place.T_map_cam_i44 @ right
        found, would_p, do_p = diagnose_pose_convention(
            relative, np.linalg.inv(T_i44) if inverted else T_i44
        )
        assert found == text and would_p.mean() > 0.9 and (do_p.mean() < 0.5) == bool(text)


@pytest.mark.parametrize("along", [(0, 0, 1), (1, 0, 1)])
def test_poses_that_several_conventions_explain_count_as_correct(rng, along: tuple):
    """Motion straight ahead or in a plane, which a mirrored camera explains as well."""
    place = make_place(rng, images=8)
    steps, angles = np.linspace(0, 2, 8), np.linspace(0, 1, 8) ** 2 * along[0]
    T = [
        pose_of(np.array([0, a, 0]), np.multiply(along, s))
        for s, a in zip(steps, angles, strict=True)
    ]
    i, j = np.triu_indices(8, 1)
    T_ij = np.array([invert(T[a]) @ T[b] for a, b in zip(i, j, strict=True)])
    omega = rng.normal(0, 0.03, (len(i), 3))
    R_p33 = T_ij[:, :3, :3] @ np.array([exp_rotation(one) for one in omega])
    t_p3 = T_ij[:, :3, 3] * (1 + rng.normal(0, 0.1, (len(i), 3))) + rng.normal(0, 0.03, (len(i), 3))
    o = place.observations
    relative = estimate_relative_poses(o, o.rays_in3, *pair_scales(place))
    relative = replace(relative, i_p=i, j_p=j, R_p33=R_p33, t_p3=t_p3)
    found, _, do_p = diagnose_pose_convention(relative, np.array(T))
    assert not found and do_p.mean() > 0.9


def test_noise_does_not_shrink_the_scale_between_two_cameras(rng):
    place = make_place(rng, images=8, noise=0.05)
    log_scales_e, depth_in = pair_scales(place)
    o = place.observations
    relative = estimate_relative_poses(o, o.rays_in3, log_scales_e, depth_in)
    scale_p, _, _ = true_relative_poses(place, depth_in, relative.i_p, relative.j_p)
    assert np.abs(np.mean(np.log(relative.scale_p / scale_p))) < 0.002


def test_cameras_are_initialized_along_the_best_pairs(rng):
    place = make_place(rng, images=9, apart=[4])
    log_scales_e, depth_in = pair_scales(place)
    o = place.observations
    relative = estimate_relative_poses(o, o.rays_in3, log_scales_e, depth_in)
    depth_in[4] = 1
    wrong_p = rng.random(len(relative.i_p)) < 0.4  # wrong similarities with a large residual
    relative = replace(
        relative,
        t_p3=relative.t_p3 + wrong_p[:, None],
        residual_p=np.where(wrong_p, 0.5, relative.residual_p + rng.uniform(1e-6, 1e-3)),
    )
    first = Cameras.at_origin(np.zeros(9, int), np.zeros(1))
    used_p = np.ones(len(relative.i_p), bool)
    cameras = initialize_along_spanning_tree(
        relative, used_p, replace(first, log_unit_i=np.full(9, 0.3))
    )
    np.testing.assert_array_equal(cameras.pose(4), np.eye(4))
    assert cameras.log_unit_i[4] == 0.3
    rest = np.arange(9) != 4
    assert_poses(
        replace(cameras, R_i33=cameras.R_i33[rest], t_i3=cameras.t_i3[rest]),
        replace(place, T_map_cam_i44=place.T_map_cam_i44[rest]),
        1e-6,
        1e-6,
    )
    offsets = (cameras.log_unit_i - place.log_unit_i(depth_in))[rest]
    assert np.ptp(offsets) < 1e-6


# Focal lengths


def test_a_wrong_focal_length_is_corrected_from_pointmaps(rng):
    place = make_place(rng, noise=0.03, focal=1.2)
    place.observations.own_en3[:, :100] *= (1.5, 1.5, 1)  # equal outliers of weight 0
    place.observations.own_weight_en[:, :100] = 0
    log_focal_ratio_l, sigma = estimate_log_focal_ratios(place.observations, np.zeros(6, int))
    assert log_focal_ratio_l == pytest.approx([np.log(1.2)], abs=0.005)
    assert 0.005 <= sigma < 0.02
    rays_in3 = place.cameras(log_focal_ratio_l[0]).rays(place.observations.rays_in3)
    np.testing.assert_allclose(rays_in3, np.tile(cells(), (6, 1, 1)), atol=0.005)


def test_the_focal_length_of_each_lens_is_estimated(rng):
    place = make_place(rng)
    lens_i = np.array([0, 1, 0, 1, 2, 2])
    focal_i = np.array([0.8, 1.0, 1.3])[lens_i]
    rays = place.observations.rays_in3 / np.stack([focal_i, focal_i, np.ones(6)], -1)[:, None]
    log_focal_ratio_l, _ = estimate_log_focal_ratios(
        replace(place.observations, rays_in3=rays), lens_i
    )
    np.testing.assert_allclose(np.exp(log_focal_ratio_l), [0.8, 1.0, 1.3])


# Adjustment


def test_units_are_exact_with_known_poses(rng):
    found, log_unit_i = adjusted(make_place(rng))
    np.testing.assert_allclose(found.cameras.log_unit_i, log_unit_i, atol=1e-6)
    assert found.unit_sigma_i.max() < 1e-6
    assert found.residual_e.max() < 1e-6


def test_noise_does_not_shrink_the_scale_with_short_baselines(rng):
    errors = []
    for _ in range(6):
        found, log_unit_i = adjusted(make_place(rng, images=8, noise=0.03, baseline_m=0.15))
        errors.append(found.cameras.log_unit_i - log_unit_i)
    assert abs(np.mean(errors)) < 0.005


def test_the_standard_deviation_of_units_matches_their_errors(rng):
    errors, sigmas = [], []
    for _ in range(8):
        found, log_unit_i = adjusted(make_place(rng, images=8, noise=0.03))
        errors.append(found.cameras.log_unit_i - log_unit_i)
        sigmas.append(found.unit_sigma_i)
    assert 0.5 < np.sqrt(np.mean(np.square(np.divide(errors, sigmas)))) < 2


def test_known_poses_and_focal_lengths_do_not_change(rng):
    place = make_place(rng, noise=0.03)
    before = place.cameras(log_focal_ratio=0.0123456789)
    found, _ = adjusted(place, before)
    np.testing.assert_array_equal(found.cameras.R_i33, before.R_i33)
    np.testing.assert_array_equal(found.cameras.t_i3, before.t_i3)
    np.testing.assert_array_equal(found.cameras.log_focal_ratio_l, before.log_focal_ratio_l)


def perturbed(rng: np.random.Generator, cameras: Cameras) -> Cameras:
    """Cameras with errors in rotation, position and unit, as an initial estimate has."""
    R_change = np.array([exp_rotation(rng.normal(0, 0.05, 3)) for _ in cameras.t_i3])
    return replace(
        cameras,
        R_i33=cameras.R_i33 @ R_change,
        t_i3=cameras.t_i3 + rng.normal(0, 0.1, cameras.t_i3.shape),
        log_unit_i=cameras.log_unit_i + rng.normal(0, 0.1, len(cameras.t_i3)),
    )


def test_perturbed_poses_are_recovered_up_to_a_similarity(rng):
    place = make_place(rng)
    depth_in = pair_scales(place)[1]
    first = replace(place.cameras(), log_unit_i=place.log_unit_i(depth_in))
    found, log_unit_i = adjusted(place, perturbed(rng, first), poses_known=False)
    assert_poses(found.cameras, place, 1e-5, 1e-5)
    assert np.ptp(found.cameras.log_unit_i - log_unit_i) < 1e-5


@pytest.mark.parametrize("poses_known", [True, False])
def test_an_unknown_focal_length_is_recovered(rng, poses_known: bool):
    place = make_place(rng, focal=1.05)
    log_scales_e = -place.log_pair_e
    first = place.cameras() if poses_known else perturbed(rng, place.cameras())
    found, _ = adjusted(
        place,
        first,
        log_scales_e=log_scales_e,
        depth_in=place.depth_in,
        poses_known=poses_known,
        log_focal_ratio_sigma_l=np.array([0.05]),
    )
    assert np.exp(found.cameras.log_focal_ratio_l) == pytest.approx([1.05], rel=1e-5)
    assert_poses(found.cameras, place, 1e-4, 1e-4)


def test_the_prior_of_a_focal_length_has_the_weight_of_its_sigma(rng):
    place = make_place(rng, focal=1.05, noise=0.03)
    factors = [
        float(
            np.exp(
                adjusted(place, log_focal_ratio_sigma_l=np.array([sigma]))[
                    0
                ].cameras.log_focal_ratio_l[0]
            )
        )
        for sigma in (1e-4, 1e-2, 1.0)
    ]
    assert factors[0] == pytest.approx(1, abs=0.002)
    assert 1.005 < factors[1] < 1.035
    assert factors[2] == pytest.approx(1.05, abs=0.015)


def test_units_converge_from_far_initial_values(rng):
    place = make_place(rng, noise=0.01)
    first = replace(place.cameras(), log_unit_i=np.full(6, 6.0))
    found, log_unit_i = adjusted(place, first)
    np.testing.assert_allclose(found.cameras.log_unit_i, log_unit_i, atol=0.01)


@pytest.mark.parametrize("poses_known", [True, False])
def test_images_without_pairs_keep_their_pose_and_unit(rng, poses_known: bool):
    place = make_place(rng, noise=0.02)
    used_e = (
        place.all_pairs & (place.observations.first_e != 3) & (place.observations.second_e != 3)
    )
    before = perturbed(rng, place.cameras())
    found, _ = adjusted(place, before, used_e=used_e, poses_known=poses_known)
    np.testing.assert_array_equal(found.cameras.pose(3), before.pose(3))
    assert found.cameras.log_unit_i[3] == before.log_unit_i[3]
    assert np.isinf(found.unit_sigma_i[3]) and np.isfinite(np.delete(found.unit_sigma_i, 3)).all()
    np.testing.assert_array_equal(np.isnan(found.residual_e), ~used_e)


@pytest.mark.parametrize("poses_known", [True, False])
def test_the_normal_equations_match_numeric_derivatives(rng, poses_known: bool):
    place = make_place(rng, images=4, noise=0.05, focal=1.1)
    o, images = place.observations, 4
    log_scales_e, depth_in = pair_scales(place)
    problem = AdjustmentProblem(o, log_scales_e, depth_in, place.all_pairs, poses_known, np.ones(1))
    cameras = perturbed(rng, place.cameras(log_focal_ratio=0.05))
    unknowns = images * (1 if poses_known else 7) + 1

    def errors(change: np.ndarray) -> np.ndarray:
        """Predicted points minus points of the cameras (e, n, 3), units of the first image."""
        c = problem.retract(cameras, change)
        i, j = o.first_e, o.second_e
        local = c.rays(o.rays_in3)[j] * (np.exp(c.log_unit_i[j])[:, None] * depth_in[j])[..., None]
        in_map = local @ c.R_i33[j].transpose(0, 2, 1) + c.t_i3[j][:, None]
        in_first = (
            (in_map - c.t_i3[i][:, None]) @ c.R_i33[i] * np.exp(-c.log_unit_i[i])[:, None, None]
        )
        return np.exp(log_scales_e)[:, None, None] * o.other_en3 - in_first

    step = 1e-6
    J = [(errors(-step * x) - errors(step * x)) / (2 * step) for x in np.eye(unknowns)]
    J = np.stack(J, axis=-1)  # of the points of the cameras
    predicted = np.exp(log_scales_e)[:, None, None] * o.other_en3
    weight_en = o.other_weight_en / o.other_weight_en.mean() / (predicted**2).sum(axis=-1)
    system = problem.linearize(cameras, cameras.log_focal_ratio_l, np.inf)
    b_ek = np.einsum("enax,en,ena->ex", J, weight_en, errors(np.zeros(unknowns)))
    H_ekk = np.einsum("enax,en,enay->exy", J, weight_en, J)
    for e, columns in enumerate(system.columns_ek):
        np.testing.assert_allclose(system.b_ek[e], b_ek[e, columns], atol=1e-6)
        np.testing.assert_allclose(system.H_ekk[e], H_ekk[e][np.ix_(columns, columns)], atol=1e-6)
