"""Rigid transforms against their definitions, and refusal of invalid poses."""

import numpy as np
import pytest

from mote_localization.errors import SceneError
from mote_localization.geometry import (
    check_pose,
    exp_rotation,
    invert,
    local_coordinates,
    log_rotation,
    pose_from,
    quaternion_xyzw,
    retract,
    rotation_angle,
    rotation_matrix,
    skew,
    transform,
)

AXES = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 2, -2], [-3, 0, 4]]) / [
    [1],
    [1],
    [1],
    [3],
    [5],
]
ANGLES = [0.0, 1e-9, 1e-4, 0.3, np.pi / 2, 3.0, np.pi - 1e-9, np.pi]
POSE = pose_from(np.array([1.0, -2.0, 0.5]), np.array([0.1, -0.7, 0.3, 0.6]))


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("angle", ANGLES)
def test_rotation_keeps_its_angle_and_converts_to_quaternion_and_back(axis, angle):
    R = exp_rotation(angle * axis)
    assert np.allclose(R @ R.T, np.eye(3), atol=1e-14)
    assert rotation_angle(R) == pytest.approx(angle, abs=1e-14, rel=1e-7)
    assert np.allclose(rotation_matrix(quaternion_xyzw(R)), R, atol=1e-14)


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("angle", ANGLES[:-2])  # a rotation by pi has two rotation vectors
def test_logarithm_is_the_inverse_of_the_exponential(axis, angle):
    assert np.allclose(log_rotation(exp_rotation(angle * axis)), angle * axis, atol=1e-14)


def test_rotation_by_90_degrees_about_z_maps_x_to_y():
    R = exp_rotation(np.array([0, 0, np.pi / 2]))
    assert np.allclose(R @ [1, 0, 0], [0, 1, 0], atol=1e-15)
    assert np.allclose(np.abs(quaternion_xyzw(R)), [0, 0, np.sqrt(0.5), np.sqrt(0.5)])


def test_quaternion_need_not_be_normalized():
    q = np.array([0.1, -0.7, 0.3, 0.6])
    assert np.allclose(rotation_matrix(q), rotation_matrix(5 * q), atol=1e-15)


def test_inverse_transform_restores_the_points():
    points = np.arange(24.0).reshape(2, 4, 3)
    assert np.allclose(transform(invert(POSE), transform(POSE, points)), points, atol=1e-12)


def test_transform_maps_the_camera_origin_to_the_position():
    assert np.array_equal(transform(POSE, np.zeros(3)), POSE[:3, 3])


def test_retract_moves_along_map_axes_and_local_coordinates_inverts_it():
    motion_6 = np.array([0.03, -0.02, 0.05, 0.01, -0.02, 0.005])
    other = retract(POSE, motion_6)
    assert np.allclose(local_coordinates(POSE, other), motion_6, atol=1e-15)
    assert np.allclose(other[:3, 3] - POSE[:3, 3], motion_6[:3], atol=1e-15)
    assert np.allclose(other[:3, :3], exp_rotation(motion_6[3:]) @ POSE[:3, :3], atol=1e-15)


def test_skew_times_a_vector_is_the_cross_product():
    v, w = np.random.default_rng(0).normal(size=(2, 5, 3))
    assert np.allclose((skew(v) @ w[..., None])[..., 0], np.cross(v, w), atol=1e-14)


def test_rounded_pose_becomes_exactly_orthonormal():
    checked = check_pose(POSE.round(4), "pose.txt")
    assert np.allclose(checked[:3, :3] @ checked[:3, :3].T, np.eye(3), atol=1e-14)
    assert np.allclose(checked, POSE, atol=2e-4)


def test_checking_a_pose_twice_changes_no_digit():
    checked = check_pose(POSE.round(4), "pose.txt")
    assert np.array_equal(check_pose(checked, "pose.txt"), checked)


def changed(index, value):
    pose = POSE.copy()
    pose[index] = value
    return pose


@pytest.mark.parametrize(
    ("pose", "complaint"),
    [
        (changed((0, 3), np.nan), "NaN"),
        (changed((1, 1), -np.inf), "NaN or infinity"),
        (changed((slice(3), slice(3)), 2 * POSE[:3, :3]), "not a rotation"),
        (changed((slice(3), 0), -POSE[:3, 0]), "determinant -1"),
        (changed((slice(3), slice(3)), 0), "not a rotation"),
        (changed((3, 3), 2), "last row"),
        (POSE[:3], r"shape \(3, 4\)"),
    ],
)
def test_invalid_pose_is_refused_by_name(pose, complaint):
    with pytest.raises(SceneError, match=f"^frame 7: .*{complaint}"):
        check_pose(pose, "frame 7")
