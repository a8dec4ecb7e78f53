"""Views of reconstructed frames: points stay exact under every augmentation."""

from dataclasses import replace

import numpy as np
import pytest
from make_wall import CAMERA, POSE, wall_frame

from distill_training.reconstruction import ReconstructedFrame
from distill_training.training.augmentation import AugmentConfig, FrameViews
from distill_training.training.novel_views import NovelViewRenderer, random_nearby_pose
from mote_localization.camera import Camera, cell_pixels
from mote_localization.errors import MoteError
from mote_localization.geometry import invert, transform

NO_CHANGE = AugmentConfig(0, 1, 0, 0, 0, 0, 0, 0)
STRONG = AugmentConfig(stretch=2.0, cutout=0.5)
SEEDS = range(20)


def views(config: AugmentConfig, frame: ReconstructedFrame | None = None):
    frame_views = FrameViews(frame or wall_frame(), POSE, CAMERA, 8)
    return [frame_views.draw(np.random.default_rng(seed), config) for seed in SEEDS]


def affine(view) -> np.ndarray:
    """The affine map (2, 3) from the view's pixels to the unaugmented image's."""
    cells = np.c_[cell_pixels(64, 48, 8).reshape(-1, 2), np.ones(48)]
    return np.linalg.lstsq(cells, view.pixels_hw2.reshape(-1, 2), rcond=None)[0].T


def test_a_view_without_augmentation_equals_the_frame():
    frame = wall_frame()
    for view in [FrameViews(frame, POSE, CAMERA, 8).plain(), *views(NO_CHANGE)]:
        assert (view.image_hw3 == frame.image_hw3).all() and view.valid_hw.all()
        np.testing.assert_allclose(view.points_hw3, frame.points_hw3, atol=1e-5)


@pytest.mark.parametrize("config", [AugmentConfig(), STRONG])
def test_points_stay_on_the_surface_and_on_their_rays(config: AugmentConfig):
    for view in views(config):
        seen = transform(view.T_cam_map, view.points_hw3)[view.valid_hw]
        np.testing.assert_allclose(seen[:, 2], 2 + seen[:, :2] @ (0.1, -0.2), atol=1e-4)
        np.testing.assert_allclose(CAMERA.project(seen), view.pixels_hw2[view.valid_hw], atol=1e-2)


def test_a_stretched_view_shows_the_pixels_that_its_affine_map_gives():
    """The brightness at a pixel equals that at the mapped pixel of the original."""
    frame = wall_frame()
    ramp_hw = np.add.outer(2.0 * np.arange(48), 2.0 * np.arange(64)).astype(np.uint8)
    frame.image_hw3[:] = ramp_hw[..., None]
    config = AugmentConfig(brightness=0, contrast=0, colour=0, noise=0, blur=0, stretch=2.0)
    for view in views(config, frame):
        middle = np.array([31, 23])
        x, y = affine(view) @ (*middle, 1)
        if 1 < x < 62 and 1 < y < 46:
            assert view.image_hw3[23, 31, 0] == pytest.approx(2 * x + 2 * y, abs=1.5)


def test_pixels_hw2_gives_the_position_in_the_unaugmented_image():
    """A bright dot is at the cell whose `pixels_hw2` is the dot's position in the original."""
    frame = wall_frame()
    frame.image_hw3[:] = 0
    frame.image_hw3[20:26, 30:36] = 255
    config = AugmentConfig(brightness=0, contrast=0, colour=0, noise=0, blur=0)
    for seed in range(5):
        view = FrameViews(frame, POSE, CAMERA, 8).draw(np.random.default_rng(seed), config)
        cells = cell_pixels(64, 48, 8).reshape(-1, 2)
        A = np.linalg.lstsq(np.c_[cells, np.ones(48)], view.pixels_hw2.reshape(-1, 2), rcond=None)[
            0
        ]
        rows, columns = np.nonzero((view.image_hw3 == 255).all(axis=-1))
        source = np.c_[columns, rows, np.ones(len(rows))] @ A
        known = (np.abs(source - (32.5, 22.5)) < 4).all(axis=1)
        border = (source < 0).any(axis=1) | (source > (63, 47)).any(axis=1)
        assert known[~border].all() and known.any()


def test_depth_is_not_interpolated_across_edges():
    frame = wall_frame(np.eye(4))
    rays = CAMERA.rays(cell_pixels(64, 48, 8))
    frame.points_hw3[:] = rays * np.where(np.arange(8) < 4, 1.0, 3.0)[None, :, None]
    for seed in range(20):
        view = FrameViews(frame, np.eye(4), CAMERA, 8).draw(
            np.random.default_rng(seed), AugmentConfig()
        )
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
    y, x = np.mgrid[:48, :64]
    widths, gaussian = [], 0
    for view in views(replace(NO_CHANGE, blur=2.0), frame):
        weight = view.image_hw3[..., 0] / view.image_hw3[..., 0].sum()
        middle = np.array([(weight * x).sum(), (weight * y).sum()])
        assert np.abs(middle - (32, 24)).max() < 0.15
        away = np.stack([x - middle[0], y - middle[1]]).reshape(2, -1)
        moments = np.linalg.eigvalsh(away * weight.ravel() @ away.T)
        widths.append(np.sqrt(moments[1]))
        gaussian += moments[0] > 0.8 * moments[1]
    assert 1.5 < max(widths) < 2.2 and min(widths) < 1.0
    assert 4 < gaussian < 16  # the others are motion blur


def test_the_same_seed_gives_the_same_view():
    for first, second in zip(views(STRONG), views(STRONG), strict=True):
        assert all(
            (a == b).all() for a, b in zip(vars(first).values(), vars(second).values(), strict=True)
        )


@pytest.mark.parametrize(
    "wrong", [{"zoom": 0.5}, {"stretch": 0.0}, {"noise": -1}, {"blur": np.nan}]
)
def test_augmentation_options_out_of_range_are_refused(wrong: dict):
    with pytest.raises(MoteError, match="expected [01] or more"):
        AugmentConfig(**wrong)


NOVEL = replace(
    NO_CHANGE, novel_view_fraction=1.0, novel_view_shift=0.05, novel_view_rotation_deg=4.0
)


def test_points_of_novel_views_project_to_the_pixels_that_show_them():
    frame = wall_frame()
    ramp_hw = np.add.outer(2.0 * np.arange(48), 2.0 * np.arange(64)).astype(np.uint8)
    frame.image_hw3[:] = ramp_hw[..., None]
    T_cam_map = invert(POSE)
    shown = 0
    for view in views(NOVEL, frame):
        assert not np.allclose(view.T_cam_map, T_cam_map, atol=1e-3)
        points = view.points_hw3[view.valid_hw]
        x, y, z = transform(T_cam_map, points).T
        off = np.abs(z - (2 + 0.1 * x - 0.2 * y))  # distance from the wall along z
        seen = transform(view.T_cam_map, points)
        np.testing.assert_allclose(CAMERA.project(seen), view.pixels_hw2[view.valid_hw], atol=1e-2)
        # A cell's centre is the common corner of four pixels.
        u, v = CAMERA.project(np.stack([x, y, z], axis=-1)).T
        rows, columns = np.nonzero(view.valid_hw)
        colours = view.image_hw3.reshape(6, 8, 8, 8, 3)[rows, 3:5, columns, 3:5, 0].mean(
            axis=(1, 2)
        )
        inner = (u > 8) & (u < 55) & (v > 8) & (v < 39)
        assert off[inner].max() < 0.01 and off.max() < 0.08
        np.testing.assert_allclose(colours[inner], 2 * (u + v)[inner], atol=3)
        shown += inner.sum()
    assert shown > 300
    assert (views(NOVEL, frame)[3].image_hw3 == views(NOVEL, frame)[3].image_hw3).all()


def test_novel_views_have_no_holes_and_near_surfaces_occlude_far_ones():
    depth_hw = np.full((6, 8), 3.0, np.float32)
    depth_hw[2:4, 3:5] = 1.5
    image_hw3 = np.full((48, 64, 3), 200, np.uint8)
    image_hw3[16:32, 24:40] = 50
    renderer = NovelViewRenderer(image_hw3, depth_hw, np.full((6, 8), 0.02, np.float32), CAMERA)
    forward, sideways = np.eye(4), np.eye(4)
    forward[2, 3], sideways[0, 3] = 0.4, 0.6
    image, depth, sigma = renderer.render(forward, (0, 0, 0))
    assert (image > 0).all() and (sigma == np.float32(0.02)).all()
    # cells that show both the box and the wall have no depth
    assert set(np.unique(depth.round(2))) == {0, np.float32(1.1), np.float32(2.6)}
    assert (depth[:, [0, -1]] > 0).all() and (depth == 0).mean() < 0.3
    image, depth, _ = renderer.render(sideways, (0, 0, 0))
    # 0.6 m are 20 px at 1.5 m and 10 px at 3 m: the box hid 10 px of the wall in the photograph
    assert (depth[2:4, 1] == 1.5).all() and (image[18:30, 6:18] == 50).all()
    assert (depth[2:4, 3] == 0).all() and (image[18:30, 22:28] == 0).all()
    assert (depth[2:4, 4:6] == 3).all() and (image[18:30, 32:52] == 200).all()


def test_pixels_without_depth_are_rendered_like_their_surroundings_but_have_no_depth():
    depth_hw = np.full((6, 8), 2.0, np.float32)
    depth_hw[1:4, 3:6] = depth_hw[:, 0] = 0
    image_hw3 = np.full((48, 64, 3), 200, np.uint8)
    image_hw3[8:32, 24:48] = 50
    renderer = NovelViewRenderer(image_hw3, depth_hw, np.full((6, 8), 0.02, np.float32), CAMERA)
    sideways = np.eye(4)
    sideways[0, 3] = -0.32  # 8 px at 2 m
    image, depth, _ = renderer.render(sideways, (0, 0, 0))
    assert (image[8:32, 33:55] == 50).all() and (image[34:, 9:] == 200).all()
    assert (depth[1:4, 4:7] == 0).all() and (depth[:, :2] == 0).all()
    assert (depth[4:, 2:] == 2).all() and renderer.median_depth == 2


@pytest.mark.parametrize(("stride", "degrees"), [(4, 30), (8, 30), (16, 30), (8, 50)])
def test_points_of_a_slanted_wall_stay_on_it_in_novel_views(stride: int, degrees: float):
    camera = Camera(320, 240, 280.0, 280.0, 159.5, 119.5)
    normal = np.array([np.sin(np.radians(degrees)), 0, -np.cos(np.radians(degrees))])
    offset = 2 * normal[2]  # 2 m away along the optical axis
    rays = camera.rays(cell_pixels(320, 240, stride))
    depth_hw = (offset / (rays @ normal)).astype(np.float32)
    image_hw3 = np.zeros((240, 320, 3), np.uint8)
    renderer = NovelViewRenderer(image_hw3, depth_hw, np.zeros_like(depth_hw), camera)
    rng = np.random.default_rng(0)
    off = []
    for _ in range(5):
        T_cam_novel = random_nearby_pose(rng, renderer.median_depth, 0.06, 3.0)
        _, seen_hw, _ = renderer.render(T_cam_novel, (0, 0, 0))
        points = transform(T_cam_novel, rays * seen_hw[..., None])[seen_hw > 0]
        off.append(np.abs(points @ normal - offset))
    assert np.percentile(np.concatenate(off), 50) < 1e-3
    assert np.percentile(np.concatenate(off), 90) < 5e-3
