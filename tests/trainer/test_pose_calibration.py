"""The covariance of poses: fitted to measured errors, safe where none are measured."""

import logging
from dataclasses import astuple, replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import chi2

pytest.importorskip("torch", reason="torch is not installed")

import torch  # noqa: E402
from make_map import CAMERA, room_points  # noqa: E402
from make_painted_room import keyframe, photograph, shifted  # noqa: E402
from make_wall import QUICK, SMALL  # noqa: E402

from distill_training.calibration.pose_calibration_fit import (  # noqa: E402
    PoseError,
    fit_pose_calibration,
    unmeasured_calibration,
)
from distill_training.calibration.validation import Validation  # noqa: E402
from distill_training.pipeline import train_student  # noqa: E402
from distill_training.reconstruction import ReconstructedFrame, Reconstruction  # noqa: E402
from distill_training.students.torch_backend import TorchBackend  # noqa: E402
from distill_training.training.frame_split import FrameSplit, split_frames  # noqa: E402
from distill_training.training.frame_store import FrameStore  # noqa: E402
from distill_training.training.train_config import TrainConfig  # noqa: E402
from mote_localization.geometry import local_coordinates, retract  # noqa: E402
from mote_localization.localizer import Localizer  # noqa: E402
from mote_localization.map_file import MapFile, MapInfo  # noqa: E402
from mote_localization.pose_calibration import PoseCalibration  # noqa: E402

FLOOR, SLOPE = 0.002, 0.01  # m, and m per m of distance: what the estimates of `errors` lack
BLOCKS = {"position": slice(0, 3), "rotation": slice(3, 6), "pose": slice(0, 6)}


def errors(count: int, farthest: float, seed: int) -> list[PoseError]:
    """Return random errors: larger than estimated, the more the farther from the keyframes."""
    rng = np.random.default_rng(seed)
    drawn = []
    for _ in range(count):
        deviation_6 = rng.uniform(0.0005, 0.004) * np.array([1, 2, 1, 0.5, 0.5, 0.5])
        distance = rng.uniform(0, farthest)
        true_6 = np.sqrt((1.3 * deviation_6) ** 2 + FLOOR**2 + (SLOPE * distance) ** 2)
        error_6 = true_6 * rng.standard_normal(6)
        drawn.append(PoseError(error_6, np.diag(deviation_6**2), distance))
    return drawn


def covered(calibration: PoseCalibration, tested: list[PoseError]) -> dict[str, float]:
    """Return the fraction of errors inside the 95 % ellipsoids, by the name of the block."""
    inside = {name: 0 for name in BLOCKS}
    for error in tested:
        calibrated_66 = calibration.calibrated(error.covariance_66, error.distance)
        for name, block in BLOCKS.items():
            e = error.error_6[block]
            nees = e @ np.linalg.solve(calibrated_66[block, block], e)
            inside[name] += nees < chi2.ppf(0.95, len(e))
    return {name: count / len(tested) for name, count in inside.items()}


@pytest.mark.parametrize("farthest", [0.05, 0.4, 1.5])
def test_ellipsoids_hold_95_percent_of_new_errors_near_and_far(farthest: float):
    calibration = fit_pose_calibration(errors(600, 0.8, seed=0))
    assert calibration and calibration.poses == 600
    fractions = covered(calibration, errors(1000, farthest, seed=1))
    assert all(0.9 <= fraction <= 0.99 for fraction in fractions.values()), fractions
    too_small = covered(PoseCalibration(), errors(1000, farthest, seed=1))
    assert max(too_small.values()) < 0.8


def test_accurate_estimates_stay_as_they_are():
    rng = np.random.default_rng(0)
    deviation_6 = np.array([0.004, 0.002, 0.003, 0.01, 0.02, 0.01])
    exact = [
        PoseError(deviation_6 * rng.standard_normal(6), np.diag(deviation_6**2), rng.uniform())
        for _ in range(2000)
    ]
    calibration = fit_pose_calibration(exact)
    assert calibration
    for model in (calibration.position, calibration.rotation):
        assert model.factor(0.0) == pytest.approx(1, abs=0.1)
        assert model.factor(1.0) == pytest.approx(1, abs=0.1)


def test_correlation_of_position_and_rotation_that_is_overrated_is_reduced():
    """By the estimate, x and the rotation about y have the same error; their correlation is 0.8."""
    rng = np.random.default_rng(0)

    def drawn(count: int) -> list[PoseError]:
        covariance_66 = 1e-4 * np.eye(6)
        covariance_66[0, 4] = covariance_66[4, 0] = 0.9999e-4
        found = []
        for _ in range(count):
            error_6 = 1e-2 * rng.standard_normal(6)
            error_6[4] = 0.8 * error_6[0] + 0.6 * error_6[4]
            found.append(PoseError(error_6, covariance_66, 0.0))
        return found

    calibration = fit_pose_calibration(drawn(600))
    assert calibration and calibration.correlation < 0.95
    fractions = covered(calibration, drawn(1000))
    assert all(0.9 <= fraction <= 0.99 for fraction in fractions.values()), fractions


def test_large_errors_of_positions_and_of_rotations_in_different_poses_are_covered():
    """The ellipsoids of positions and of rotations leave out 4 % each, and so the poses' 8 %."""
    rng = np.random.default_rng(0)

    def drawn(count: int) -> list[PoseError]:
        found = []
        for i in range(count):
            error_6 = rng.uniform(0.5e-3, 1e-3, 6)
            error_6[{0: slice(0, 3), 1: slice(3, 6)}.get(i % 25, slice(0))] *= 10
            found.append(PoseError(error_6, 1e-6 * np.eye(6), 0.0))
        return found

    calibration = fit_pose_calibration(drawn(1000))
    assert calibration and covered(calibration, drawn(1000))["pose"] >= 0.93


def test_too_few_errors_are_not_fitted():
    assert fit_pose_calibration(errors(19, 1.0, seed=0)) is None
    assert fit_pose_calibration(errors(20, 1.0, seed=0)) is not None


def test_without_validation_the_map_says_so_and_its_covariances_are_large(
    reconstruction: Reconstruction, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    _, info = train_student(reconstruction, tmp_path, "cnn", SMALL, replace(QUICK, keyframes=2))
    size = float(np.linalg.norm(np.subtract(info.bounds_max, info.bounds_min))) / 2
    expected = unmeasured_calibration(size)
    assert astuple(info.pose_calibration.position) == pytest.approx(astuple(expected.position))
    assert astuple(info.pose_calibration.rotation) == pytest.approx(astuple(expected.rotation))
    assert info.pose_calibration.poses == 0
    assert str(info.pose_calibration) == "not measured" and "calibrate" not in caplog.text
    estimate_66 = np.diag([1e-6] * 6)
    assert (np.diag(info.pose_calibration.calibrated(estimate_66)) > 9e-6).all()


def test_too_few_frames_for_a_calibration_are_reported(
    reconstruction: Reconstruction, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    config = replace(QUICK, keyframes=2, validation=True)
    with caplog.at_level(logging.WARNING):
        _, info = train_student(reconstruction, tmp_path, "cnn", SMALL, config)
    assert info.pose_calibration.poses == 0
    assert "too few to calibrate the covariance" in caplog.text


def test_without_keyframes_a_tenth_of_the_frames_is_held_out():
    names = [f"{i:03}" for i in range(100)]
    assert split_frames(names, TrainConfig()) == (names, [])
    assert split_frames(names, TrainConfig(keyframes=0, validation=False)) == (names, [])
    training, held_out = split_frames(names, TrainConfig(keyframes=0))
    assert len(held_out) >= 10
    distances = np.abs(np.subtract.outer([int(n) for n in training], [int(n) for n in held_out]))
    assert distances.min() == 4
    _, chosen = split_frames(names, TrainConfig(held_out=0.2))
    assert len(chosen) == 20


class RoomStudent(torch.nn.Module):
    """Predicts the exact points of photographs that it is given beforehand."""

    def __init__(self, images: list[np.ndarray], poses: list[np.ndarray]) -> None:
        super().__init__()
        self.anchor = torch.nn.Parameter(torch.zeros(()))
        self.poses = {image.tobytes(): T for image, T in zip(images, poses, strict=True)}

    def forward(self, image_bhw3: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        T_map_cam = self.poses[image_bhw3[0].numpy().tobytes()]
        points_hw3 = room_points(T_map_cam, CAMERA, 8)
        return torch.from_numpy(points_hw3)[None], torch.full((1, *points_hw3.shape[:2]), 0.05)


def test_calibration_of_keyframes_holds_for_new_views(tmp_path: Path):
    rng = np.random.default_rng(0)
    poses = [
        shifted(*rng.uniform(-0.4, 0.4, 3), omega=0.1 * rng.uniform(-1, 1, 3)) for _ in "x" * 48
    ]
    names = [f"f{i:02}" for i in range(len(poses))]
    # poses that are wrong by millimetres, as those of recordings are
    wrong = [retract(T, 0.004 * rng.standard_normal(6)) for T in poses]
    place = Reconstruction(
        tmp_path,
        "room",
        "rgbd",
        "",
        CAMERA,
        8,
        {},
        dict(zip(names, wrong, strict=True)),
        given_poses=dict(zip(names, poses, strict=True)),
    )
    images = [photograph(T) for T in poses]
    place.begin()
    for name, T, image in zip(names, poses, images, strict=True):
        points_hw3 = room_points(T, CAMERA, 8)
        sigma_hw = np.full(points_hw3.shape[:2], 0.01, np.float32)
        place.write_frame(name, ReconstructedFrame(image, points_hw3, sigma_hw))
    keyframes = tuple(
        replace(keyframe(T), T_map_cam=tuple(map(tuple, W.tolist())))
        for T, W in zip(poses[::4], wrong[::4], strict=True)
    )
    info = MapInfo(
        "room", CAMERA, 8, (-9, -9, -9), (9, 9, 9), "rgbd", "", "cnn", keyframes=keyframes
    )
    network = RoomStudent(images, poses)
    validation = Validation(place, FrameStore(place), FrameSplit(names, []), info)
    tested = validation.poses_without_near_keyframes(network, info)
    found = [pose.found for pose in tested if pose.found]
    # 12 frames without the nearest 0, 2 and 8 of 12 keyframes, and 12 without 1 and 4
    assert len(found) == len(tested) == 12 * 3 + 12 * 2
    own = [pose.found for pose in tested if any(pose.T_map_cam is T for T in poses[::4])]
    assert len(own) == 36 and all(pose and pose.distance > 0.05 for pose in own)
    calibration = fit_pose_calibration(found)
    assert calibration
    new = [shifted(*rng.uniform(-0.4, 0.4, 3), omega=0.1 * rng.uniform(-1, 1, 3)) for _ in "x" * 40]
    images = [photograph(T) for T in new]
    localizer = Localizer(MapFile(tmp_path, info, b""), TorchBackend(RoomStudent(images, new)))
    errors_new = []
    for T, image in zip(new, images, strict=True):
        answer = localizer.localize(image, CAMERA)
        assert answer.T_map_cam is not None and answer.covariance_66 is not None
        error_6 = local_coordinates(T, answer.T_map_cam)
        errors_new.append(PoseError(error_6, answer.covariance_66, answer.keyframe_distance))
    fractions = covered(calibration, errors_new)
    assert min(fractions.values()) >= 0.85, fractions
    assert covered(PoseCalibration(), errors_new)["pose"] < 0.7
