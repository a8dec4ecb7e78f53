"""Views of reconstructed frames: points stay exact under every augmentation."""

from dataclasses import fields, replace

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed")

import torch  # noqa: E402
from make_views import NO_CHANGE, VIEWS, View, maker, views  # noqa: E402
from make_wall import CAMERA, POSE, wall_frame  # noqa: E402

from distill_training.training.augment_config import AugmentConfig  # noqa: E402
from distill_training.training.frame_store import make_frame  # noqa: E402
from distill_training.training.view_parameters import Draws  # noqa: E402
from mote_localization.camera import cell_pixels  # noqa: E402
from mote_localization.errors import MoteError  # noqa: E402
from mote_localization.geometry import invert, log_rotation, pose_from, transform  # noqa: E402

STRONG = AugmentConfig(stretch=2.0, cutout=0.5, tilt_deg=20.0)
EVERYTHING = replace(STRONG, novel_view_fraction=0.5)


def affine(view) -> np.ndarray:
    """The affine map (2, 3) from the view's pixels to the unaugmented image's."""
    cells = np.c_[cell_pixels(64, 48, 8).reshape(-1, 2), np.ones(48)]
    return np.linalg.lstsq(cells, view.pixels_hw2.reshape(-1, 2), rcond=None)[0].T


def test_a_view_without_augmentation_equals_the_frame():
    frame = wall_frame()
    for view in [make_frame(frame, POSE, CAMERA, 8), *views(NO_CHANGE)]:
        assert (view.image_hw3 == frame.image_hw3).all() and view.valid_hw.all()
        np.testing.assert_allclose(view.points_hw3, frame.points_hw3, atol=1e-5)


@pytest.mark.parametrize("config", [AugmentConfig(), STRONG])
def test_points_stay_on_the_surface_and_on_their_rays(config: AugmentConfig):
    """They project to their pixels within 1e-4 px."""
    valid = 0
    for view in views(config):
        seen = transform(invert(POSE), view.points_hw3.astype(np.float64))[view.valid_hw]
        np.testing.assert_allclose(seen[:, 2], 2 + seen[:, :2] @ (0.1, -0.2), atol=1e-4)
        np.testing.assert_allclose(CAMERA.project(seen), view.pixels_hw2[view.valid_hw], atol=1e-4)
        valid += view.valid_hw.mean() / VIEWS
    assert valid > 0.5


def test_a_tilt_rotates_the_camera_about_its_x_and_y_axes():
    """The homography between the pixels is K R K^-1 of such a rotation."""
    angles = []
    cells = np.c_[cell_pixels(64, 48, 8).reshape(-1, 2), np.ones(48)]
    for view in views(replace(NO_CHANGE, tilt_deg=20.0)):
        rays = CAMERA.rays(view.pixels_hw2.reshape(-1, 2).astype(np.float64))
        view_rays = cells @ np.linalg.inv(CAMERA.K_33).T
        rays, view_rays = (r / np.linalg.norm(r, axis=1)[:, None] for r in (rays, view_rays))
        u, _, vt = np.linalg.svd(rays.T @ view_rays)  # Kabsch
        rotation = u @ vt
        np.testing.assert_allclose(rays, view_rays @ rotation.T, atol=1e-5)
        x, y, z = log_rotation(rotation)
        assert max(abs(x), abs(y)) < np.radians(20) + 1e-5 and abs(z) < 1e-5
        angles += [x, y]
    assert max(angles) > np.radians(12) and min(angles) < -np.radians(12)


def test_a_view_shows_at_each_cell_what_the_image_shows_at_its_pixel():
    """Brightness is linear in the image, so that of a cell gives its pixel."""
    frame = wall_frame()
    ramp_hw = np.add.outer(2.0 * np.arange(48), 2.0 * np.arange(64)).astype(np.uint8)
    frame.image_hw3[:] = ramp_hw[..., None]
    config = replace(NO_CHANGE, rotation_deg=30, zoom=1.5, shift=0.1, stretch=2, tilt_deg=20)
    shown = 0
    for view in views(config, frame):
        # A cell's centre is the common corner of four pixels.
        seen_hw = view.image_hw3.reshape(6, 8, 8, 8, 3)[:, 3:5, :, 3:5, 0].mean(axis=(1, 3))
        x_hw, y_hw = view.pixels_hw2[..., 0], view.pixels_hw2[..., 1]
        inner_hw = (x_hw > 3) & (x_hw < 60) & (y_hw > 3) & (y_hw < 44)
        np.testing.assert_allclose(seen_hw[inner_hw], 2 * (x_hw + y_hw)[inner_hw], atol=0.6)
        shown += inner_hw.sum()
    assert shown > 300


def test_pixels_hw2_gives_the_position_in_the_unaugmented_image():
    """A bright dot is at the cell whose `pixels_hw2` is the dot's position in the original."""
    frame = wall_frame()
    frame.image_hw3[:] = 0
    frame.image_hw3[20:26, 30:36] = 255
    config = replace(NO_CHANGE, rotation_deg=30, zoom=1.5, shift=0.1)
    for view in views(config, frame):
        rows, columns = np.nonzero((view.image_hw3 == 255).all(axis=-1))
        source = np.c_[columns, rows, np.ones(len(rows))] @ affine(view).T
        known = (np.abs(source - (32.5, 22.5)) < 4).all(axis=1)
        border = (source < 0).any(axis=1) | (source > (63, 47)).any(axis=1)
        assert known[~border].all() and known.any()


def test_depth_is_not_interpolated_across_edges():
    frame = wall_frame(np.eye(4))
    rays = CAMERA.rays(cell_pixels(64, 48, 8))
    frame.points_hw3[:] = rays * np.where(np.arange(8) < 4, 1.0, 3.0)[None, :, None]
    for view in views(AugmentConfig(), frame, np.eye(4)):
        z = view.points_hw3[view.valid_hw][:, 2]
        assert (np.isclose(z, 1) | np.isclose(z, 3)).all()


def test_stretch_zooms_along_one_direction_up_to_its_ratio():
    ratios = []
    for view in views(replace(NO_CHANGE, stretch=1.5)):
        zooms = np.linalg.svd(affine(view)[:, :2], compute_uv=False)
        ratios.append(zooms[0] / zooms[1])
        assert zooms.prod() == pytest.approx(1, abs=1e-4)
    assert 1.3 < max(ratios) < 1.5 + 1e-4 and min(ratios) < 1.1


def test_exactly_the_cells_behind_the_rectangle_are_invalid():
    frame = wall_frame()
    hidden = []
    for view in views(replace(NO_CHANGE, cutout=0.5), frame):
        changed_hw = (view.image_hw3 != frame.image_hw3).any(axis=-1)
        # A cell's centre is the common corner of four pixels.
        covered_hw = changed_hw[3::8, 3::8] & changed_hw[4::8, 4::8]
        assert (view.valid_hw == ~covered_hw).all() and (view.inside_hw == ~covered_hw).all()
        assert (view.points_hw3[~view.valid_hw] == 0).all()
        hidden.append((~view.valid_hw).mean())
    assert max(hidden) > 0.05 and np.mean(hidden) < 0.25


def test_noise_has_the_configured_strength_and_differs_between_views():
    frame = wall_frame()
    frame.image_hw3[:] = 128
    strengths, images = [], []
    for view in views(replace(NO_CHANGE, noise=0.05), frame):
        error = view.image_hw3.astype(float) - 128
        assert abs(error.mean()) < 4 * error.std() / np.sqrt(error.size) + 0.1
        strengths.append(error.std() / 255)
        images.append(view.image_hw3.tobytes())
    assert 0.04 < max(strengths) < 0.052 and min(strengths) < 0.015
    assert len(set(images)) == len(images)


def test_blur_has_the_configured_width_and_does_not_shift_the_image():
    frame = wall_frame()
    frame.image_hw3[:] = 0
    frame.image_hw3[24, 32] = 255
    y, x = np.mgrid[8:40, 8:56]  # farther out, the colour outside the image is blurred into it
    widths, gaussian = [], 0
    for view in views(replace(NO_CHANGE, blur=2.0), frame):
        seen_hw = view.image_hw3[8:40, 8:56, 0]
        weight = seen_hw / seen_hw.sum()
        middle = np.array([(weight * x).sum(), (weight * y).sum()])
        assert np.abs(middle - (32, 24)).max() < 0.15
        away = np.stack([x - middle[0], y - middle[1]]).reshape(2, -1)
        moments = np.linalg.eigvalsh(away * weight.ravel() @ away.T)
        widths.append(np.sqrt(moments[1]))
        gaussian += moments[0] > 0.8 * moments[1]
    assert 1.5 < max(widths) < 2.2 and min(widths) < 1.0
    assert 4 < gaussian < 16  # the others are motion blur


def colour_views(**changes: float) -> list[np.ndarray]:
    """Images (h, w, 3) of views of a coloured frame, float, from 0 to 255."""
    frame = wall_frame()
    frame.image_hw3[:] = np.random.default_rng(0).integers(40, 200, frame.image_hw3.shape)
    return [v.image_hw3.astype(float) for v in views(replace(NO_CHANGE, **changes), frame)]


def test_grey_views_have_the_luma_of_the_colours():
    for image in colour_views(grey=1.0):
        plain = colour_views()[0] @ (0.299, 0.587, 0.114)
        assert np.abs(image - plain[..., None]).max() <= 0.51


def test_swapped_views_have_the_same_channels_in_another_order():
    plain, orders = colour_views()[0], set()
    for image in colour_views(swapped=1.0):
        order = tuple(
            min(range(3), key=lambda k: np.abs(image[..., i] - plain[..., k]).sum())
            for i in range(3)
        )
        np.testing.assert_array_equal(image, plain[..., order])
        orders.add(order)
    assert len(orders) > 3 and all(sorted(order) == [0, 1, 2] for order in orders)


def test_saturation_keeps_the_luma_and_changes_the_distance_to_it():
    plain, ratios = colour_views()[0], []
    luma = (plain @ (0.299, 0.587, 0.114))[..., None]
    for image in colour_views(saturation=0.2):
        ratios.append(np.std(image - luma) / np.std(plain - luma))
        np.testing.assert_allclose(image, luma + ratios[-1] * (plain - luma), atol=1)
    assert 0.79 < min(ratios) < 0.9 and 1.1 < max(ratios) < 1.21


def test_exposure_multiplies_and_gamma_is_a_power():
    plain = colour_views()[0]
    stops = [np.log2(np.median(image / plain)) for image in colour_views(exposure=0.3)]
    assert -0.31 < min(stops) < -0.15 and 0.15 < max(stops) < 0.31
    exponents = []
    for image in colour_views(gamma=2.0):
        exponents.append(np.median(np.log(image / 255) / np.log(plain / 255)))
        np.testing.assert_allclose(image, 255 * (plain / 255) ** exponents[-1], atol=1.5)
    assert 0.49 < min(exponents) < 0.7 and 1.4 < max(exponents) < 2.01


def test_a_vignette_darkens_the_corners_and_bands_change_rows_alike():
    plain = colour_views()[0]
    corners, rows = (0, 0, -1, -1), (0, -1, 0, -1)
    darker = [
        1 - image[corners, rows] / plain[corners, rows] for image in colour_views(vignette=0.5)
    ]
    assert 0.3 < np.max(darker) < 0.51 and np.median(np.ptp(darker, axis=(1, 2))) < 0.03
    for image in colour_views(vignette=0.5):
        np.testing.assert_allclose(image[24, 32], plain[24, 32], atol=1)
    amplitudes = []
    for image in colour_views(bands=0.2):
        factor_h = np.median(image / plain, axis=(1, 2))
        np.testing.assert_allclose(image, plain * factor_h[:, None, None], atol=2.5)
        amplitudes.append(np.abs(factor_h - 1).max())
    assert 0.12 < max(amplitudes) < 0.21 and min(amplitudes) < 0.05


def frames_and_poses(count: int) -> tuple[list, list[np.ndarray]]:
    """Frames of several poses."""
    poses = [pose_from(np.array([0.1 * i, 0, 0]), np.array([0, 0, 0, 1.0])) for i in range(count)]
    return [wall_frame(pose, seed=i) for i, pose in enumerate(poses)], poses


def equal(first, second) -> bool:
    """Whether all fields of two batches are equal."""
    return all(torch.equal(getattr(first, f.name), getattr(second, f.name)) for f in fields(first))


def test_seed_and_step_determine_a_batch():
    made, names = maker([wall_frame()], EVERYTHING), ["0"] * 4
    first, again, later = (made.make(names, Draws((0, step), 4)) for step in (0, 0, 1))
    assert equal(first, again) and not torch.equal(first.image_bhw3, later.image_bhw3)


def test_a_bank_with_few_slots_gives_the_batches_of_one_with_all_frames():
    frames, poses = frames_and_poses(7)
    small = maker(frames, EVERYTHING, poses, slots=3)
    large = maker(frames, EVERYTHING, poses)
    for step, names in enumerate(np.random.default_rng(0).integers(7, size=(8, 3))):
        chosen = [str(name) for name in names]
        assert equal(*(each.make(chosen, Draws((0, step), 3)) for each in (small, large)))


def test_the_frame_that_was_not_used_for_the_longest_time_is_replaced():
    frames, poses = frames_and_poses(4)
    read = []
    made = maker(frames, NO_CHANGE, poses, slots=2, read=read)
    for names in (["0", "1"], ["0"], ["2", "0"], ["1", "2"], ["2"]):
        made.make(names, Draws((0,), len(names)))
    assert read == ["0", "1", "2", "1"]


def test_each_view_of_a_batch_is_that_of_a_batch_of_one():
    """Geometry is equal; colours may differ by a rounded level."""
    frames, poses = frames_and_poses(5)
    made, names = maker(frames, EVERYTHING, poses), [str(i) for i in range(5)]
    batch = made.make(names, Draws((0,), 5))
    for i, name in enumerate(names):
        alone = made.make([name], Draws((0,), 5, slice(i, i + 1)))
        together, single = View(batch, i), View(alone, 0)
        for key, value in vars(single).items():
            if key == "image_hw3":
                assert np.abs(value.astype(int) - together.image_hw3).max() <= 1
            else:
                np.testing.assert_array_equal(value, vars(together)[key])


@pytest.mark.parametrize(
    "wrong",
    [
        {"zoom": 0.5},
        {"stretch": 0},
        {"gamma": 0.5},
        {"noise": -1},
        {"blur": np.nan},
        {"shift": np.inf},
    ],
)
def test_augmentation_options_out_of_range_are_refused(wrong: dict):
    with pytest.raises(MoteError, match="expected [01] or more"):
        AugmentConfig(**wrong)
    with pytest.raises(MoteError, match="expected 0 to 45"):
        AugmentConfig(tilt_deg=50.0)
    with pytest.raises(MoteError, match="expected 0 to 1"):
        AugmentConfig(grey=1.5)
