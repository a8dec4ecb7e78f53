"""Keyframes are chosen so that each training frame is near one of them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed")
from make_wall import CAMERA, wall_frame  # noqa: E402

from distill_training.export.keyframe_selection import (  # noqa: E402
    choose_keyframes,
    covering_poses,
)
from distill_training.reconstruction import ReconstructedFrame, Reconstruction  # noqa: E402
from mote_localization.geometry import exp_rotation, rigid, rotation_angle  # noqa: E402

pytestmark = pytest.mark.train
LIMITS = (0.15, np.radians(10))


def along(*positions: float) -> np.ndarray:
    """Return poses at positions on a line, m."""
    return np.array([rigid(np.eye(3), np.array([x, 0.0, 0.0])) for x in positions])


def walk(count: int) -> np.ndarray:
    """Return the poses of a random walk that also turns."""
    rng = np.random.default_rng(0)
    positions_n3 = rng.normal(0, 0.04, (count, 3)).cumsum(axis=0)
    omega_n3 = rng.normal(0, 0.05, (count, 3)).cumsum(axis=0)
    return np.array(
        [rigid(exp_rotation(w), t) for w, t in zip(omega_n3, positions_n3, strict=True)]
    )


def is_near(T_a: np.ndarray, T_b: np.ndarray) -> bool:
    distance_m = np.linalg.norm(T_a[:3, 3] - T_b[:3, 3])
    return distance_m <= LIMITS[0] and rotation_angle(T_a[:3, :3].T @ T_b[:3, :3]) <= LIMITS[1]


def test_every_pose_is_near_a_chosen_one_where_the_number_allows_it():
    T_n44 = walk(200)
    chosen = covering_poses(T_n44, *LIMITS, at_most=200)
    assert 10 < len(chosen) < 150 and chosen == sorted(set(chosen))
    assert all(any(is_near(T, T_n44[k]) for k in chosen) for T in T_n44)


def test_no_chosen_pose_is_near_another():
    T_n44 = walk(200)
    chosen = covering_poses(T_n44, *LIMITS, at_most=200)
    assert not any(is_near(T_n44[a], T_n44[b]) for a in chosen for b in chosen if a != b)


@pytest.mark.parametrize("at_most", [1, 2, 7])
def test_at_most_so_many_poses_are_chosen(at_most: int):
    assert len(covering_poses(walk(200), *LIMITS, at_most=at_most)) == at_most


def test_few_chosen_poses_are_spread_over_all():
    crowded = along(*np.linspace(0, 0.1, 50), *np.linspace(1, 10, 10))
    chosen = covering_poses(crowded, *LIMITS, at_most=3)
    assert crowded[chosen, 0, 3].tolist() == [0, 5, 10]


def test_one_pose_is_chosen_where_the_camera_stood_still():
    assert covering_poses(along(*[1.0] * 30), *LIMITS, at_most=20) == [0]


def test_rotation_on_the_spot_needs_poses_too():
    turned = np.array(
        [rigid(exp_rotation(np.array([0, a, 0])), np.zeros(3)) for a in (0, 0.1, 0.2)]
    )
    assert covering_poses(turned, *LIMITS, at_most=20) == [0, 2]


def written(folder: Path, scale: float, metric: bool) -> Reconstruction:
    """Write frames in front of a wall at 2 m, 2 cm apart, in a unit of 1 / scale m."""
    positions = 0.02 * np.arange(11)
    poses = {f"f{i:02}": T for i, T in enumerate(along(*scale * positions))}
    made = Reconstruction(folder, "wall", "rgbd", "", CAMERA, 8, {}, poses, metric=metric)
    made.begin()
    for name, T in poses.items():
        frame = wall_frame(rigid(np.eye(3), T[:3, 3] / scale))
        made.write_frame(
            name, ReconstructedFrame(frame.image_hw3, scale * frame.points_hw3, frame.sigma_hw)
        )
    return made


def test_frames_of_a_metric_reconstruction_are_covered_within_5_cm(tmp_path: Path):
    made = written(tmp_path / "r", 1.0, metric=True)
    keyframes = choose_keyframes(made, list(made.poses), 20)
    assert list(keyframes) == ["f00", "f05", "f10"]
    for name, keyframe in keyframes.items():
        assert np.array_equal(keyframe.pose_44, made.poses[name])
    assert len(choose_keyframes(made, list(made.poses), 2)) == 2
    assert choose_keyframes(made, list(made.poses), 0) == {}


def test_choice_in_an_unknown_unit_does_not_depend_on_the_unit(tmp_path: Path):
    small, large = (written(tmp_path / f"{s}", s, metric=False) for s in (0.01, 30.0))
    names = list(small.poses)
    chosen = list(choose_keyframes(small, names, 20))
    assert chosen == list(choose_keyframes(large, names, 20)) and 1 < len(chosen) < len(names)
    metric = replace(large, metric=True)
    assert len(choose_keyframes(metric, names, 20)) == len(names)


def test_only_the_chosen_frames_are_read(tmp_path: Path):
    made = written(tmp_path / "r", 1.0, metric=True)
    keyframes = choose_keyframes(made, list(made.poses), 20)
    for name in made.poses.keys() - keyframes.keys():
        (tmp_path / "r" / "frames" / f"{name}.npz").unlink()
    assert choose_keyframes(made, list(made.poses), 20) == keyframes
