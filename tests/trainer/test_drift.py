"""Drift of the given poses: removed by adjustment, fitted, interpolated, added by the localizer."""

from dataclasses import replace

import numpy as np
import pytest
from make_map import CAMERA, T_MAP_CAM, room_points, write_constant_map

from distill_training.poses.drift_fit import fit_drift
from distill_training.poses.features import Matches, match
from distill_training.poses.pose_adjustment import adjust_poses
from mote_localization.drift import MAX_SAMPLES, Drift, Kriging, drift_sample
from mote_localization.geometry import (
    exp_rotation,
    invert,
    local_coordinates,
    pose_from,
    retract,
    rotation_angle,
    transform,
)
from mote_localization.localizer import Localizer
from mote_localization.map_file import read_map

MOTION = np.array([0.03, -0.02, 0.05, 0.01, -0.02, 0.005])


def drive(count: int, loops: int = 3) -> list[np.ndarray]:
    """Return poses on laps of a circle of 2 m; the cameras face outwards and up and down."""
    poses = []
    for angle in np.linspace(0, 2 * np.pi * loops, count, endpoint=False):
        T = pose_from(
            np.array([2 * np.cos(angle), 0.1 * np.sin(5 * angle), 2 * np.sin(angle)]),
            np.array([0, 0, 0, 1.0]),
        )
        yaw = exp_rotation(np.array([0, np.pi / 2 - angle, 0]))
        T[:3, :3] = yaw @ exp_rotation(np.array([0.2 * np.sin(0.7 * angle), 0, 0]))
        poses.append(T)
    return poses


def drifted(T: np.ndarray) -> np.ndarray:
    """Return a pose with drift: some centimetres and a degree, smooth in the pose."""
    x, _, z = T[:3, 3]
    motion = [0.03 * np.sin(x), 0.02 * z, 0.04 * np.cos(z), 0.01 * x, 0.015 * np.sin(z), 0.01]
    return retract(T, np.array(motion))


def named(poses: list[np.ndarray]) -> dict[str, np.ndarray]:
    return {f"{i:04d}": T for i, T in enumerate(poses)}


def test_drift_is_interpolated_between_frames():
    poses = drive(120)
    fitted = fit_drift(named([drifted(T) for T in poses]), named(poses))
    assert fitted.drift_cm > 2 and fitted.residual_cm < 0.2 * fitted.drift_cm
    kriging = Kriging(fitted.drift)
    for T in drive(55):
        given, covariance_66 = kriging.predict(T)
        error_6 = local_coordinates(drifted(T), given)
        assert np.linalg.norm(error_6[:3]) < 0.003 and np.linalg.norm(error_6[3:]) < 0.002
        assert np.linalg.eigvalsh(covariance_66).min() > -1e-15


def test_far_from_all_frames_the_covariance_is_that_of_the_drift():
    poses = drive(120)
    kriging = Kriging(fit_drift(named([drifted(T) for T in poses]), named(poses)).drift)
    near_66, far = kriging.predict(poses[7])[1], poses[7].copy()
    far[:3, 3] += 50
    given, far_66 = kriging.predict(far)
    assert np.allclose(given, far)
    assert np.trace(far_66[:3, :3]) > 20 * np.trace(near_66[:3, :3])
    assert 0.01 < np.sqrt(np.trace(far_66[:3, :3])) < 1


def test_number_of_samples_is_limited():
    poses = drive(3 * MAX_SAMPLES)
    drift = fit_drift(named([drifted(T) for T in poses]), named(poses)).drift
    assert MAX_SAMPLES / 2 < len(drift.samples) <= MAX_SAMPLES


def test_poses_without_drift_are_unchanged():
    poses = named(drive(60))
    fitted = fit_drift(poses, poses)
    assert fitted.drift_cm == fitted.residual_cm == 0
    assert np.allclose(Kriging(fitted.drift).predict(T_MAP_CAM)[0], T_MAP_CAM)


def test_covariance_is_larger_for_a_rolled_camera():
    poses = drive(120)
    kriging = Kriging(fit_drift(named([drifted(T) for T in poses]), named(poses)).drift)
    upright, rolled = poses[30], poses[30].copy()
    rolled[:3, :3] = rolled[:3, :3] @ exp_rotation(np.array([0, 0, np.pi / 2]))
    of_upright, of_rolled = (np.trace(kriging.predict(T)[1]) for T in (upright, rolled))
    assert of_rolled > 10 * of_upright


def test_drift_of_a_few_frames_can_be_fitted():
    poses = drive(3, loops=1)
    for count in (1, 2, 3):
        some = named(poses[:count])
        fitted = fit_drift({name: drifted(T) for name, T in some.items()}, some)
        given, _ = Kriging(fitted.drift).predict(poses[0])
        assert np.abs(local_coordinates(drifted(poses[0]), given)).max() < 0.04


def test_localizer_returns_pose_and_points_in_the_given_frame(tmp_path):
    """In the camera frame the points are unchanged; the drift's covariance is added."""
    plain = read_map(write_constant_map(tmp_path / "room.onnx"))
    drift = Drift((drift_sample(T_MAP_CAM, MOTION),), 0.5, 30.0, 0.01)
    drifting = replace(plain, info=replace(plain.info, drift=drift))
    image = np.full((CAMERA.height, CAMERA.width, 3), 128, np.uint8)
    found = Localizer(drifting, Constant()).localize(image, CAMERA)
    expected = retract(T_MAP_CAM, MOTION / 1.01)
    assert np.allclose(found.T_map_cam, expected, atol=1e-3)
    points = transform(invert(found.T_map_cam), found.points_hw3)
    assert np.allclose(points, transform(invert(T_MAP_CAM), Constant.points), atol=1e-3)
    drift_66 = Kriging(drift).predict(T_MAP_CAM)[1]
    without_drift_66 = Localizer(plain, Constant()).localize(image, CAMERA).covariance_66
    assert np.allclose(found.covariance_66, without_drift_66 + drift_66, rtol=1e-2, atol=1e-9)


class Constant:
    """A backend that predicts the room as the camera of the constant map sees it."""

    points = room_points(T_MAP_CAM, CAMERA, 8)

    def predict(self, image_hw3):
        """Return the same points for every image."""
        return self.points, np.full(self.points.shape[:2], 0.02, np.float32)


@pytest.fixture(scope="module")
def circle():
    """Return poses and matches between them: 5 % outliers, the others with 0.5 px noise."""
    rng, poses = np.random.default_rng(0), drive(40, loops=1)
    columns = [], [], [], []
    for i in range(len(poses)):
        for gap in (1, 2, 4):
            j = (i + gap) % len(poses)
            rays = np.concatenate([rng.uniform(-0.5, 0.5, (60, 2)), np.ones((60, 1))], axis=1)
            points = rays * rng.uniform(1.5, 4, (60, 1))
            seen = transform(invert(poses[j]) @ poses[i], points)
            ahead = seen[:, 2] > 0.5
            seen = seen[ahead] / seen[ahead, 2:]
            seen[:, :2] += rng.normal(0, 0.5 / 500, (len(seen), 2))
            wrong = rng.random(len(seen)) < 0.05
            seen[wrong, :2] += rng.uniform(-0.2, 0.2, (wrong.sum(), 2))
            for column, value in zip(
                columns, (np.full(len(seen), i), points[ahead], np.full(len(seen), j), seen),
                strict=True,
            ):  # fmt: skip
                column.append(value)
    return np.array(poses), Matches(*map(np.concatenate, columns))


def test_adjusted_poses_are_consistent_and_near_the_given_ones(circle):
    poses, matches = circle
    given = np.array([drifted(T) for T in poses])
    adjusted = adjust_poses(given, matches, 500.0)
    assert adjusted.given_px > 3 * adjusted.adjusted_px
    assert adjusted.adjusted_px < 0.8
    assert (adjusted.matches_n > 100).all()
    away_n3 = adjusted.T_map_cam_n44[:, :3, 3] - given[:, :3, 3]
    assert np.median(np.linalg.norm(away_n3, axis=1)) < 0.08
    for T_n44, bound in ((given, None), (adjusted.T_map_cam_n44, 0.002)):
        # relative pose of every fourth camera, which a rigid motion of all poses leaves unchanged
        between = [
            local_coordinates(invert(poses[i]) @ poses[i + 4], invert(T_n44[i]) @ T_n44[i + 4])
            for i in range(36)
        ]
        off = np.median(np.linalg.norm(between, axis=1))
        assert off > 0.01 if bound is None else off < bound


def test_without_any_match_all_poses_stay_as_given(circle):
    poses, _ = circle
    adjusted = adjust_poses(poses, match([], []), 500.0)
    assert np.allclose(adjusted.T_map_cam_n44, poses, atol=1e-12)
    assert np.isnan(adjusted.given_px) and not adjusted.matches_n.any()


def test_pose_without_matches_stays_as_given(circle):
    poses, matches = circle
    with_unmatched = np.concatenate([poses, poses[:1]])
    adjusted = adjust_poses(with_unmatched, matches, 500.0)
    assert adjusted.matches_n[-1] == 0
    assert np.allclose(adjusted.T_map_cam_n44[-1], with_unmatched[-1], atol=1e-12)
    assert rotation_angle(adjusted.T_map_cam_n44[3, :3, :3].T @ poses[3, :3, :3]) < 2e-3
