"""Novel views: rendered from poses without a photograph, with exact points."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed")

import torch  # noqa: E402
from make_views import CPU, NO_CHANGE, views  # noqa: E402
from make_wall import CAMERA, POSE, wall_frame  # noqa: E402

from distill_training.training.novel_views import (  # noqa: E402
    fill_holes,
    nearby_poses,
    novel_poses,
    render,
)
from mote_localization.camera import Camera, cell_pixels  # noqa: E402
from mote_localization.geometry import invert, transform  # noqa: E402

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


def test_a_frame_without_depth_is_not_rendered_from_a_novel_pose():
    frame = wall_frame()
    frame.points_hw3[:] = np.nan
    for view in views(NOVEL, frame):
        np.testing.assert_allclose(view.T_cam_map, invert(POSE), atol=1e-6)
        assert (view.image_hw3 == frame.image_hw3).all() and not view.valid_hw.any()


def rendered(image_hw3, depth_hw, sigma_hw, camera: Camera, poses: Sequence[np.ndarray]):
    """Images (rounded), depths and sigmas of a photograph, rendered from poses T_cam_novel."""
    n, index_n = len(poses), np.arange(len(poses))
    known = np.full(n, np.median(depth_hw[depth_hw > 0]))
    stride = camera.width // depth_hw.shape[1]
    fill_n3 = np.zeros((n, 3))
    poses = novel_poses(index_n, np.stack(poses), known, fill_n3, camera, stride, CPU)
    photograph = (image_hw3.transpose(2, 0, 1), depth_hw, sigma_hw, fill_holes(depth_hw))
    image, depth, sigma = render(
        *(torch.from_numpy(a.astype(np.float32)).expand(n, *a.shape) for a in photograph), poses
    )
    return image.round().permute(0, 2, 3, 1).numpy(), depth.numpy(), sigma.numpy()


def test_novel_views_have_no_holes_and_near_surfaces_occlude_far_ones():
    depth_hw = np.full((6, 8), 3.0, np.float32)
    depth_hw[2:4, 3:5] = 1.5
    image_hw3 = np.full((48, 64, 3), 200, np.uint8)
    image_hw3[16:32, 24:40] = 50
    sigma_hw = np.full((6, 8), 0.02, np.float32)
    forward, sideways = np.eye(4), np.eye(4)
    forward[2, 3], sideways[0, 3] = 0.4, 0.6
    (image, aside), (depth, depth_aside), (sigma, _) = rendered(
        image_hw3, depth_hw, sigma_hw, CAMERA, [forward, sideways]
    )
    assert (image > 0).all() and (sigma == np.float32(0.02)).all()
    # cells that show both the box and the wall have no depth
    assert set(np.unique(depth.round(2))) == {0, np.float32(1.1), np.float32(2.6)}
    assert (depth[:, [0, -1]] > 0).all() and (depth == 0).mean() < 0.3
    image, depth = aside, depth_aside
    # 0.6 m are 20 px at 1.5 m and 10 px at 3 m: the box hid 10 px of the wall in the photograph
    assert (depth[2:4, 1] == 1.5).all() and (image[18:30, 6:18] == 50).all()
    assert (depth[2:4, 3] == 0).all() and (image[18:30, 22:28] == 0).all()
    assert (depth[2:4, 4:6] == 3).all() and (image[18:30, 32:52] == 200).all()


def test_pixels_without_depth_are_rendered_like_their_surroundings_but_have_no_depth():
    depth_hw = np.full((6, 8), 2.0, np.float32)
    depth_hw[1:4, 3:6] = depth_hw[:, 0] = 0
    image_hw3 = np.full((48, 64, 3), 200, np.uint8)
    image_hw3[8:32, 24:48] = 50
    sigma_hw, sideways = np.full((6, 8), 0.02, np.float32), np.eye(4)
    sideways[0, 3] = -0.32  # 8 px at 2 m
    (image,), (depth,), _ = rendered(image_hw3, depth_hw, sigma_hw, CAMERA, [sideways])
    assert (image[8:32, 33:55] == 50).all() and (image[34:, 9:] == 200).all()
    assert (depth[1:4, 4:7] == 0).all() and (depth[:, :2] == 0).all()
    assert (depth[4:, 2:] == 2).all()


@pytest.mark.parametrize(("stride", "degrees"), [(4, 30), (8, 30), (16, 30), (8, 50)])
def test_points_of_a_slanted_wall_stay_on_it_in_novel_views(stride: int, degrees: float):
    camera = Camera(320, 240, 280.0, 280.0, 159.5, 119.5)
    normal = np.array([np.sin(np.radians(degrees)), 0, -np.cos(np.radians(degrees))])
    offset = 2 * normal[2]  # 2 m away along the optical axis
    rays = camera.rays(cell_pixels(320, 240, stride))
    depth_hw = (offset / (rays @ normal)).astype(np.float32)
    image_hw3 = np.zeros((240, 320, 3), np.uint8)
    rng = np.random.default_rng(0)
    shift_n3, rotation_n2 = 0.06 * rng.standard_normal((5, 3)), 3.0 * rng.standard_normal((5, 2))
    poses = nearby_poses(shift_n3, rotation_n2, np.full(5, np.median(depth_hw)))
    _, depth_nhw, _ = rendered(image_hw3, depth_hw, np.zeros_like(depth_hw), camera, poses)
    off = []
    for T_cam_novel, seen_hw in zip(poses, depth_nhw, strict=True):
        points = transform(T_cam_novel, rays * seen_hw[..., None])[seen_hw > 0]
        off.append(np.abs(points @ normal - offset))
    assert np.percentile(np.concatenate(off), 50) < 1e-3
    assert np.percentile(np.concatenate(off), 90) < 5e-3
