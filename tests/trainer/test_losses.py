"""Training losses, on data with known values; the choice of neighbouring frames."""

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

from make_views import NO_CHANGE  # noqa: E402
from make_wall import CAMERA, POSE, wall_frame  # noqa: E402

from distill_training.reconstruction import ReconstructedFrame, Reconstruction  # noqa: E402
from distill_training.training.augment_config import AugmentConfig  # noqa: E402
from distill_training.training.frame_bank import FrameBank  # noqa: E402
from distill_training.training.frame_store import FrameStore, make_frame  # noqa: E402
from distill_training.training.losses import (  # noqa: E402
    Optics,
    depth_range,
    distillation_loss,
    neighbour_loss,
    reprojection_loss,
)
from distill_training.training.neighbours import neighbours  # noqa: E402
from distill_training.training.training_views import ViewMaker  # noqa: E402
from distill_training.training.view_parameters import Draws  # noqa: E402
from mote_localization.camera import cell_pixels  # noqa: E402
from mote_localization.geometry import invert, pose_from, transform  # noqa: E402

pytestmark = pytest.mark.train
OPTICS = Optics(torch.from_numpy(CAMERA.K_33).float(), (64, 48))
EVERYWHERE = torch.ones(1, 6, 8, dtype=torch.bool)
CELLS = torch.from_numpy(cell_pixels(64, 48, 8)).float()[None]
RAYS = torch.from_numpy(CAMERA.rays(cell_pixels(64, 48, 8))).float()[None]
ORIGIN = torch.eye(4)[None]
SHORT = replace(OPTICS, depth_range_m=(0.1, 10.0))


def shifted_pose(x: float, angle: float = 0.0) -> np.ndarray:
    """T_map_cam of a camera x m to the right, rotated to the left by an angle, rad."""
    q = np.array([0, -np.sin(angle / 2), 0, np.cos(angle / 2)])
    return pose_from(np.array([x, 0, 0]), q)


def to_camera(T_map_cam: np.ndarray) -> torch.Tensor:
    """T_cam_map (1, 4, 4), float32."""
    return torch.from_numpy(invert(T_map_cam)).float()[None]


def descent(loss: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """The direction in which gradient descent moves the points."""
    (gradient,) = torch.autograd.grad(loss, points)
    return -gradient


# Distillation loss


def loss_of(sigma: float, teacher_sigma: float | None, student_error: float) -> float:
    """The distillation loss for errors of student and teacher (5 cm), m along each axis."""
    seeded = torch.Generator().manual_seed(0)
    points, target = (
        torch.randn(2, 200, 200, 3, generator=seeded) * s for s in (student_error, 0.05)
    )
    valid = torch.ones(2, 200, 200, dtype=torch.bool)
    target_sigma = None if teacher_sigma is None else torch.full((2, 200, 200), teacher_sigma)
    return distillation_loss(
        points, torch.full((2, 200, 200), sigma), target, valid, target_sigma
    ).item()


@pytest.mark.parametrize("student_error", [0.02, 0.05, 0.2])
def test_the_loss_is_least_where_sigma_is_the_students_own_error(student_error: float):
    mean_length = np.sqrt(8 / np.pi)  # of a vector of three standard normal values
    sigmas = student_error * mean_length * np.array([0.5, 0.9, 1.0, 1.1, 2])
    losses = [loss_of(sigma, 0.05 * mean_length, student_error) for sigma in sigmas]
    assert np.argmin(losses) == 2


def test_without_a_teacher_sigma_the_best_sigma_includes_the_teachers_error():
    sigmas = (0.03, 0.06, 0.09)
    losses = [loss_of(sigma, None, 0.02) for sigma in sigmas]
    assert np.argmin(losses) == 2  # 1.6 sqrt(2^2 + 5^2) = 8.6 cm; the student's own error is 3 cm


def test_a_teacher_sigma_of_zero_does_not_change_the_loss():
    rng = np.random.default_rng(0)
    points, target = torch.from_numpy(rng.normal(size=(2, 2, 6, 8, 3))).float()
    sigma = torch.from_numpy(rng.uniform(0.01, 1, (2, 6, 8))).float()
    valid = torch.from_numpy(rng.random((2, 6, 8)) < 0.5)
    alone = distillation_loss(points, sigma, target, valid)
    for teacher_sigma in (0.0, 1e-6):
        both = distillation_loss(points, sigma, target, valid, torch.full((2, 6, 8), teacher_sigma))
        assert both.item() == pytest.approx(alone.item(), rel=1e-6)


def test_points_with_a_large_teacher_sigma_have_a_small_gradient():
    points = torch.zeros(1, 1, 2, 3, requires_grad=True)
    target = torch.tensor([[[[0.1, 0, 0], [0.1, 0, 0]]]])
    loss = distillation_loss(
        points,
        torch.full((1, 1, 2), 0.01),
        target,
        torch.ones(1, 1, 2, dtype=torch.bool),
        torch.tensor([[[0.0, 0.1]]]),
    )
    certain, uncertain = descent(loss, points)[0, 0, :, 0]
    assert certain > 9 * uncertain > 0


def test_cells_without_a_target_may_hold_nan_and_have_no_gradient():
    points = torch.ones(1, 1, 2, 3, requires_grad=True)
    unknown = torch.tensor([[[0.1, torch.inf]]])
    target = torch.tensor([[[[0.0, 0, 0], [torch.nan] * 3]]])
    known = torch.tensor([[[True, False]]])
    behind = to_camera(pose_from(np.array([0, 0, -3.0]), np.array([0, 0, 0, 1])))
    for loss in (
        distillation_loss(points, torch.ones(1, 1, 2), target, known, unknown),
        neighbour_loss(points, target, behind, OPTICS, known, 50.0),
    ):
        moved = descent(loss, points)
        assert torch.isfinite(loss) and torch.isfinite(moved).all()
        assert moved[0, 0, 0].abs().sum() > 0 and (moved[0, 0, 1] == 0).all()


def test_the_loss_is_least_where_sigma_is_the_mean_distance():
    target = torch.randn(1, 40, 50, 3)
    distance = target.norm(dim=-1).mean()
    valid = torch.ones(1, 40, 50, dtype=torch.bool)

    def loss(sigma: float) -> float:
        points = torch.zeros_like(target)
        return distillation_loss(points, torch.full((1, 40, 50), sigma), target, valid).item()

    assert loss(distance) < min(loss(0.9 * distance), loss(1.1 * distance))


def test_invalid_cells_change_neither_the_loss_nor_the_gradient():
    points = torch.zeros(1, 1, 2, 3, requires_grad=True)
    target = torch.tensor([[[[1.0, 0, 0], [torch.nan] * 3]]])
    loss = distillation_loss(points, torch.ones(1, 1, 2), target, torch.tensor([[[True, False]]]))
    loss.backward()
    assert loss.item() == pytest.approx(1.0, abs=1e-3)
    assert points.grad[0, 0, 1].abs().sum() == 0 and points.grad[0, 0, 0, 0] != 0


def test_the_loss_of_a_batch_without_a_valid_cell_is_0():
    points = torch.ones(1, 1, 2, 3, requires_grad=True)
    nothing = torch.zeros(1, 1, 2, dtype=torch.bool)
    loss = distillation_loss(
        points, torch.ones(1, 1, 2), torch.full((1, 1, 2, 3), torch.nan), nothing
    )
    loss.backward()
    assert loss.item() == 0 and points.grad.abs().sum() == 0


# Reprojection losses


def test_reprojection_loss_is_the_pixel_distance_far_below_its_bound():
    frame = make_frame(wall_frame(), POSE, CAMERA, 8)
    points = torch.from_numpy(frame.points_hw3)[None]
    pixels = torch.from_numpy(cell_pixels(64, 48, 8)).float()[None] + torch.tensor([3.0, 4.0])
    pose = torch.from_numpy(invert(POSE)).float()[None]
    K, valid = torch.from_numpy(CAMERA.K_33).float(), torch.ones(1, 6, 8, dtype=torch.bool)
    optics = Optics(K, (64, 48))
    assert reprojection_loss(points, pixels, pose, optics, valid, 1e4).item() == pytest.approx(
        5, abs=0.02
    )
    assert reprojection_loss(points, pixels, pose, optics, valid, 1.0).item() == pytest.approx(
        1, abs=0.02
    )


def test_the_reprojection_gradient_points_to_the_ray_and_has_no_depth_component():
    off = 2 * RAYS + torch.tensor([0.3, -0.2, 0.1])
    points = off.clone().requires_grad_()
    loss = reprojection_loss(points, CELLS, ORIGIN, OPTICS, EVERYWHERE, 50.0)
    moved = descent(loss, points)
    towards_ray = (moved * (off[..., 2:] * RAYS - off)).sum(-1)
    assert (towards_ray > 0).all()
    # The loss does not depend on the depth.
    along = (moved * off).sum(-1) / (moved.norm(dim=-1) * off.norm(dim=-1))
    assert along.abs().max() < 1e-4


def test_own_and_neighbouring_image_together_determine_the_points():
    """A cell's own image constrains the ray, a neighbouring image the depth."""
    truth = 2 * RAYS
    points = (1.3 * truth + 0.05).requires_grad_()
    optimizer = torch.optim.Adam([points], 0.02)
    for bound in np.linspace(50, 1, 150).tolist():
        own = reprojection_loss(points, CELLS, ORIGIN, OPTICS, EVERYWHERE, bound)
        near = to_camera(shifted_pose(1.0))
        neighbour = neighbour_loss(points, truth, near, OPTICS, EVERYWHERE, bound)
        optimizer.zero_grad()
        (own + neighbour).backward()
        optimizer.step()
    pixels, _ = _project(truth, shifted_pose(1.0))
    seen = pixels[..., 0] > -0.5
    assert seen.mean() == 5 / 8
    error = (points - truth).norm(dim=-1).detach().numpy()[0]
    assert error[seen].max() < 0.03 and error[~seen].min() > 0.1


def _project(points: torch.Tensor, T_map_cam: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    points_cam = transform(invert(T_map_cam), points[0].numpy().astype(np.float64))
    return CAMERA.project(points_cam), points_cam[..., 2]


def test_neighbour_loss_is_the_pixel_distance_in_the_neighbouring_image():
    """Compare with OpenCV's projection, for the cells that project into the neighbour."""
    T_map_near = shifted_pose(0.5, angle=0.25)
    truth, points = 2 * RAYS, 2.1 * RAYS
    (target, _), (projected, _) = _project(truth, T_map_near), _project(points, T_map_near)
    shown = ((target > -0.5) & (target < np.array(OPTICS.size_px) - 0.5)).all(-1)
    expected = np.linalg.norm(target - projected, axis=-1)[shown].mean()
    loss = neighbour_loss(points, truth, to_camera(T_map_near), OPTICS, EVERYWHERE, 1e4)
    assert expected > 0.3 and loss.item() == pytest.approx(expected, rel=1e-3)


def test_reprojection_loss_does_not_exceed_its_bound():
    for bound in (1.0, 50.0):
        for off in (0.01, 1.0, 100.0):
            points = 2 * RAYS + torch.tensor([off, 0, 0])
            loss = reprojection_loss(points, CELLS, ORIGIN, OPTICS, EVERYWHERE, bound)
            assert loss <= bound
    points = (2 * RAYS + torch.tensor([100.0, 0, 0])).requires_grad_()
    loss = reprojection_loss(points, CELLS, ORIGIN, OPTICS, EVERYWHERE, 1.0)
    assert loss.item() == pytest.approx(1) and descent(loss, points).abs().max() < 1e-6


@pytest.mark.parametrize("z", [-2.0, 0.05, 20.0])
def test_points_out_of_range_count_as_the_bound_and_only_the_distillation_loss_moves_them(z: float):
    points = (z * RAYS).requires_grad_()
    loss = reprojection_loss(points, CELLS, ORIGIN, SHORT, EVERYWHERE, 5.0)
    assert loss.item() == pytest.approx(5) and (descent(loss, points) == 0).all()
    near = neighbour_loss(points, 2 * RAYS, ORIGIN, SHORT, EVERYWHERE, 5.0)
    assert near.item() == pytest.approx(5) and (descent(near, points) == 0).all()
    distilled = distillation_loss(points, torch.ones(1, 6, 8), 2 * RAYS, EVERYWHERE)
    assert ((descent(distilled, points) * (2 * RAYS - points)).sum(-1) > 0).all()


def test_cells_that_are_masked_change_neither_the_reprojection_loss_nor_its_gradient():
    points = (2 * RAYS + 0.1).requires_grad_()
    some = EVERYWHERE.clone()
    some[:, :3] = False
    wrong = torch.where(some[..., None], CELLS, torch.inf)
    loss = reprojection_loss(
        points, torch.nan_to_num(wrong, posinf=1e9), ORIGIN, OPTICS, some, 50.0
    )
    below = reprojection_loss(points[:, 3:], CELLS[:, 3:], ORIGIN, OPTICS, some[:, 3:], 50.0)
    assert loss.item() == pytest.approx(below.item())
    assert (descent(loss, points)[:, :3] == 0).all()
    behind = neighbour_loss(points, -2 * RAYS, ORIGIN, OPTICS, EVERYWHERE, 50.0)
    assert behind.item() == 0 and (descent(behind, points) == 0).all()


def test_the_depth_range_follows_the_size_of_the_place():
    near, far = depth_range((-2.0, 0.0, 0.0), (2.0, 3.0, 12.0))
    assert near == 0.1 and 13 < far < 26
    assert depth_range((0.0, 0.0, 0.0), (0.1, 0.1, 0.1))[0] < 0.01  # a scene of unknown scale


# Neighbours


def wall(x: float = 0.0) -> np.ndarray:
    """Points (h, w, 3) of the wall z = 2 m in the image of a camera x m to the right."""
    return (2 * RAYS[0]).numpy() + (x, 0, 0)


def test_neighbours_see_half_of_the_points_with_parallax():
    poses = np.stack(
        [shifted_pose(x) for x in (0, 0.02, 0.3, 1.0, 2.0, -0.5)] + [shifted_pose(0.3, np.pi)]
    )
    assert neighbours(wall(), shifted_pose(0), poses, CAMERA).tolist() == [2, 3, 5]
    assert neighbours(wall(), shifted_pose(0), poses[:2], CAMERA).tolist() == []
    assert neighbours(wall() * np.nan, shifted_pose(0), poses, CAMERA).tolist() == []
    assert neighbours(wall(), shifted_pose(0), poses[:0], CAMERA).tolist() == []


def test_at_most_four_neighbours_evenly_spaced_over_the_recording():
    poses = np.stack([shifted_pose(0.3)] * 40)
    assert neighbours(wall(), shifted_pose(0), poses, CAMERA).tolist() == [5, 15, 25, 35]


def test_views_hold_the_pose_of_a_training_frame_as_neighbour(tmp_path):
    poses = {f"f{i}": shifted_pose(0.2 * i) for i in range(4)}
    made = Reconstruction(tmp_path / "r", "wall", "rgbd", "", CAMERA, 8, {}, poses)
    made.begin()
    sigma = np.full((6, 8), np.inf, np.float32)
    sigma[0] = 0.05
    image = np.zeros((48, 64, 3), np.uint8)
    for i, name in enumerate(poses):
        points = wall(0.2 * i).astype(np.float32)
        made.write_frame(name, ReconstructedFrame(image, points, sigma))
    bank = FrameBank(FrameStore(made, ["f0", "f3"]).read, CAMERA, 8, torch.device("cpu"), 4)
    batch = ViewMaker(bank, NO_CHANGE).make(["f0"] * 2, Draws((0,), 2))
    for T_near_map, sigma_hw in zip(batch.T_near_map_b44, batch.sigma_bhw, strict=True):
        np.testing.assert_allclose(T_near_map, invert(poses["f3"]), atol=1e-6)
        assert (sigma_hw.numpy()[0] == sigma[0]).all() and (sigma_hw[1:] == 0).all()
    without = make_frame(made.read_frame("f0"), poses["f0"], CAMERA, 8)
    np.testing.assert_allclose(without.T_near_map_n44, [invert(poses["f0"])])


def test_views_hold_each_neighbour_of_their_frame_about_equally_often():
    shifts = (0.1, 0.2, 0.3)
    near_n44 = np.stack([shifted_pose(x) for x in shifts])
    frame = make_frame(wall_frame(), POSE, CAMERA, 8, near_n44)
    bank = FrameBank(lambda name: frame, CAMERA, 8, torch.device("cpu"), 1)
    batch = ViewMaker(bank, AugmentConfig(noise=0)).make(["f0"] * 90, Draws((0,), 90))
    found = (-batch.T_near_map_b44[:, 0, 3]).round(decimals=3).tolist()
    for x in shifts:
        assert found.count(pytest.approx(x)) > 15
