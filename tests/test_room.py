"""The demo room: exact and repeatable rendering; scene folders and recordings."""

from dataclasses import replace

import numpy as np
import pytest

import demo_room as room
from demo_room import model, record, views
from mote_localization.anchors import read_anchors
from mote_localization.errors import BagError, CameraError, SceneError
from mote_localization.geometry import invert, rotation_angle, transform
from mote_localization.scenes import open_scene

SMALL = room.CAMERA.resized(160, 120)


def pixel_rays(camera, pixels_n2):
    """Return rays (n, 3) with z = 1 through pixel centres; integer pixel = centre."""
    return (pixels_n2 - (camera.cx, camera.cy)) @ np.diag((1 / camera.fx, 1 / camera.fy, 0))[:2] + (
        0,
        0,
        1,
    )


def test_depth_equals_that_of_a_ray_through_the_pixel_centre():
    camera, rng = room.CAMERA, np.random.default_rng(0)
    rectangles = model.build().rectangles
    corners, right, down, normals = (
        np.array([getattr(rectangle, name) for rectangle in rectangles])
        for name in ("corner_3", "right_3", "down_3", "normal_3")
    )
    solve = np.linalg.pinv(np.stack([right, down], axis=-1))
    for T_map_cam in room.training_views(4, seed=1):
        depth_hw = room.render(T_map_cam, camera)[1]
        pixels_n2 = rng.integers((camera.width, camera.height), size=(150, 2))
        rays_n3 = pixel_rays(camera, pixels_n2) @ T_map_cam[:3, :3].T
        position_3 = T_map_cam[:3, 3]
        # intersect every ray with the plane of every rectangle, then check that it is inside
        towards = rays_n3 @ normals.T
        along = ((corners - position_3) * normals).sum(1) / np.where(towards < 0, towards, -1e-12)
        offsets = position_3 + along[..., None] * rays_n3[:, None] - corners
        edge = np.einsum("rik,nrk->nri", solve, offsets)
        hit = (towards < 0) & (along > 0) & (edge >= -1e-5).all(2) & (edge <= 1 + 1e-5).all(2)
        expected = np.where(hit, along, np.inf).min(axis=1)
        error = np.abs(depth_hw[pixels_n2[:, 1], pixels_n2[:, 0]] - expected)
        assert error.max() < 1e-4


def test_two_views_have_the_same_geometry():
    camera = room.CAMERA
    poses = room.drive(4.0, 2.0, seed=3)[1]
    for T_map_a, T_map_b in zip(poses, poses[1:], strict=False):
        depth_a, depth_b = (room.render(T, camera)[1] for T in (T_map_a, T_map_b))
        v, u = (grid.ravel() for grid in np.mgrid[0 : camera.height : 5, 0 : camera.width : 5])
        points = pixel_rays(camera, np.stack([u, v], 1)) * depth_a[v, u][:, None]
        points = transform(invert(T_map_b) @ T_map_a, points)
        points = points[points[:, 2] > 0.1]
        x, y = (points @ camera.K_33.T)[:, :2].T / points[:, 2]
        inside = (x > 0) & (y > 0) & (x < camera.width - 1) & (y < camera.height - 1)
        x, y, z = x[inside], y[inside], points[inside, 2]
        # 1/z is affine on a plane: bilinear interpolation is exact where all pixels show one plane
        inverse = 1 / depth_b.astype(float)
        bend = np.zeros_like(inverse)
        bend[:, 1:-1] += np.abs(np.diff(inverse, 2, axis=1))
        bend[1:-1] += np.abs(np.diff(inverse, 2, axis=0))
        j, i = x.astype(int), y.astype(int)
        corners = ((0, 0), (0, 1), (1, 0), (1, 1))
        a, b, c, d = (inverse[i + m, j + n] for m, n in corners)
        one_plane = np.max([bend[i + m, j + n] for m, n in corners], axis=0) < 1e-5
        s, t = x - j, y - i
        interpolated = 1 / ((1 - t) * ((1 - s) * a + s * b) + t * ((1 - s) * c + s * d))
        difference = (interpolated - z)[one_plane]
        assert len(difference) > 1000
        assert np.mean(difference < 1e-3) > 0.998  # the others: objects thinner than a pixel
        visible = difference > -1e-3  # the others are hidden by a nearer surface
        assert visible.mean() > 0.8
        assert np.median(np.abs(difference[visible])) < 5e-5


def test_the_principal_point_shifts_the_image_by_whole_pixels():
    T_map_cam = room.training_views(1, seed=2)[0]
    image_hw3, depth_hw = room.render(T_map_cam, SMALL)
    moved = replace(SMALL, cx=SMALL.cx + 3, cy=SMALL.cy + 2)
    moved_image_hw3, moved_depth_hw = room.render(T_map_cam, moved)
    assert np.allclose(moved_depth_hw[2:, 3:], depth_hw[:-2, :-3], atol=1e-4)
    difference = np.abs(moved_image_hw3[2:, 3:].astype(int) - image_hw3[:-2, :-3])
    assert np.percentile(difference, 99) <= 1


def test_rays_outside_the_room_give_black_pixels_without_depth():
    away = views.pose(np.array([-5.0, 2.0, 1.0]), np.pi, 0.0, 0.0)
    image_hw3, depth_hw = room.render(away, SMALL)
    assert not image_hw3.any() and not depth_hw.any()


def test_distortion_is_rejected():
    camera = replace(SMALL, distortion=(0.1, 0.0, 0.0, 0.0))
    with pytest.raises(CameraError, match="pinhole"):
        room.render(np.eye(4), camera)


def test_training_views_cover_the_free_floor():
    poses = np.array(room.training_views(400, seed=0))
    again = np.array(room.training_views(400, seed=0))
    assert np.array_equal(poses, again)
    assert not np.array_equal(poses, np.array(room.training_views(400, seed=1)))

    places, forward, left = poses[:, :3, 3], poses[:, :3, 2], -poses[:, :3, 0]
    assert views.clearance(places).min() >= views.CLEARANCE_M
    assert places[:, 2].min() >= 0.5 and places[:, 2].max() <= 1.6
    assert 1.0 < np.median(places[:, 2]) < 1.2
    pitch = np.degrees(np.arcsin(forward[:, 2]))
    assert pitch.min() >= -15.001 and pitch.max() <= 10.001
    assert np.degrees(np.arcsin(np.abs(left[:, 2]))).max() < 7
    heading = np.degrees(np.arctan2(forward[:, 1], forward[:, 0])) % 360
    assert np.histogram(heading, 12, (0, 360))[0].min() >= 15

    grid = np.stack(np.meshgrid(np.arange(0, 6, 0.1), np.arange(0, 5, 0.1)), -1).reshape(-1, 2)
    free = grid[views.clearance(grid) > views.CLEARANCE_M + 0.05]
    nearest = np.linalg.norm(free[:, None] - places[None, :, :2], axis=2).min(axis=1)
    assert len(free) > 500
    assert nearest.max() < 0.35  # m


def test_views_are_not_close_to_walls():
    for T_map_cam in room.training_views(12, seed=4) + room.drive(12.0, 1.0, seed=4)[1]:
        depth_hw = room.render(T_map_cam, SMALL)[1]
        assert np.median(depth_hw) > 0.75  # m


@pytest.mark.parametrize("seed", range(3))
def test_a_drive_is_smooth_and_keeps_its_clearance(seed):
    stamps_s, poses = room.drive(20.0, 30.0, seed)
    places = np.array([T_map_cam[:3, 3] for T_map_cam in poses])
    assert len(stamps_s) == len(poses) == 600
    assert stamps_s[0] == views.START_S
    assert np.allclose(np.diff(stamps_s), 1 / 30, atol=1e-6)
    assert views.clearance(places).min() >= views.CLEARANCE_M
    velocity = np.diff(places, axis=0) * 30
    assert np.linalg.norm(velocity, axis=1).max() <= 0.6  # m/s
    assert np.linalg.norm(np.diff(velocity, axis=0) * 30, axis=1).max() < 1.5  # m/s^2
    angles = [
        rotation_angle(T_map_a[:3, :3].T @ T_map_b[:3, :3])
        for T_map_a, T_map_b in zip(poses, poses[1:], strict=False)
    ]
    assert np.degrees(max(angles)) * 30 < 120  # degrees/s


def test_a_written_scene_folder_can_be_read(tmp_path):
    train, test = room.training_views(2, seed=6), room.drive(1.0, 1.0, seed=6)[1]
    record.write_scene(tmp_path / "scene", train, SMALL, test)
    scene = open_scene(tmp_path / "scene")
    assert (scene.count("train"), scene.count("test")) == (2, 1)
    for frame, T_map_cam in zip(scene.frames("all"), train + test, strict=True):
        image_hw3, depth_hw = room.render(T_map_cam, SMALL)
        assert frame.camera == SMALL
        assert np.allclose(frame.T_map_cam, T_map_cam, atol=1e-12)
        assert np.abs(frame.depth() - depth_hw).max() <= 0.000501  # m, of the format
        assert np.abs(frame.image().astype(int) - image_hw3).mean() < 4
    assert [path.name for path in tmp_path.iterdir()] == ["scene"]
    with pytest.raises(SceneError, match="exists already"):
        record.write_scene(tmp_path / "scene", train, SMALL)


def test_photographs_have_no_depth_and_no_pose_but_anchors(tmp_path):
    train, test = room.training_views(3, seed=6), room.drive(1.0, 1.0, seed=6)[1]
    record.write_scene(tmp_path / "scene", train, SMALL, test, photographs=True)
    scene = open_scene(tmp_path / "scene")
    taken = {frame.name: T for frame, T in zip(scene.frames("train"), train, strict=True)}
    for frame in scene.frames("train"):
        assert frame.T_map_cam is None and frame.depth() is None
    assert all(frame.known_pose() is not None for frame in scene.frames("test"))
    in_map, target = read_anchors(tmp_path / "scene/anchors.yaml", taken)
    assert len(in_map) == 3
    np.testing.assert_allclose(in_map, target, atol=1e-5)


def test_several_processes_render_the_same_images(tmp_path):
    poses = room.drive(1.0, 2.0, seed=7)[1]
    for workers in (1, 2):
        record.write_scene(tmp_path / str(workers), poses, SMALL, workers=workers)
    alone, together = (
        {path.name: path.read_bytes() for path in (tmp_path / name / "data").iterdir()}
        for name in "12"
    )
    assert alone == together


def test_a_failed_scene_leaves_no_files(tmp_path):
    broken = replace(SMALL, distortion=(0.1, 0.0, 0.0, 0.0))
    with pytest.raises(CameraError):
        record.write_scene(tmp_path / "scene", room.training_views(1), broken)
    assert not list(tmp_path.iterdir())


def test_a_written_recording_can_be_read(tmp_path):
    stamps_s, poses = room.drive(1.0, 4.0, seed=8)
    record.write_bag(tmp_path / "bag", stamps_s, poses, SMALL)
    frames = list(open_scene(tmp_path / "bag").frames("test"))
    assert len(frames) == len(poses)
    for frame, stamp_s, T_map_cam in zip(frames, stamps_s, poses, strict=True):
        assert abs(frame.stamp_s - stamp_s) < 1e-6
        assert np.allclose(frame.T_map_cam, T_map_cam, atol=1e-9)
        assert np.array_equal(frame.image(), room.render(T_map_cam, SMALL)[0])
    with pytest.raises(BagError):
        record.write_bag(tmp_path / "bag", stamps_s, poses, SMALL)


def test_the_command_requires_an_output():
    with pytest.raises(SceneError, match="--scene"):
        record.Room().run()
