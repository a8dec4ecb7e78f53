"""Poses of the student alone: the probability that they are wrong, and the gate that uses it."""

import math
from dataclasses import replace

import numpy as np
import pytest
from make_map import CAMERA, T_MAP_CAM, room_points, write_constant_map

from mote_localization.errors import MapFileError
from mote_localization.localizer import Localizer, LocalizerConfig
from mote_localization.map_file import MapFile, read_map
from mote_localization.wrong_poses import MAX_PROBABILITIES, WrongPoses, pose_features

POINTS = room_points(T_MAP_CAM, CAMERA, 8)
# half of the poses are wrong where the standard deviation is 5 cm, fewer where it is less
BY_DEVIATION = WrongPoses(-3 * math.log(0.05), (3.0, 0.0, 0.0, 0.0), (0.0005, 0.001, 0.004, 0.4))


class Prediction:
    """A backend that predicts the same noisy points for every image."""

    def __init__(self, noise_m: float) -> None:
        noise = noise_m * np.random.default_rng(0).normal(size=POINTS.shape)
        self.prediction = (POINTS + noise).astype(np.float32), np.full(POINTS.shape[:2], 0.05)

    def predict(self, image_hw3: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self.prediction


def localize(map_file: MapFile, noise_m: float, wrong_poses: WrongPoses | None, **config: float):
    described = replace(map_file, info=replace(map_file.info, wrong_poses=wrong_poses))
    localizer = Localizer(described, Prediction(noise_m), LocalizerConfig(**config))
    return localizer.localize(np.zeros((CAMERA.height, CAMERA.width, 3), np.uint8), CAMERA)


@pytest.fixture(scope="module")
def map_file(tmp_path_factory: pytest.TempPathFactory) -> MapFile:
    return read_map(write_constant_map(tmp_path_factory.mktemp("map") / "room.onnx"))


def test_features_are_of_the_pose_and_its_matches():
    covariance_66 = np.diag([0.04, 0.04, 0.01, 9, 9, 9])
    found = pose_features(covariance_66, np.array([0.1, 0.2, 5.0, 0.1, 0.3]), 4)
    np.testing.assert_allclose(found, [math.log(0.3), math.log(0.2), math.log(4), 0.8])


def test_probability_grows_from_0_to_1_with_the_deviation():
    features_n4 = np.array([[math.log(m), 0, 0, 0] for m in (1e-9, 0.05 / 2, 0.05, 0.1, 1e9)])
    found = [BY_DEVIATION.probability(features_4) for features_4 in features_n4]
    np.testing.assert_allclose(found, [0, 1 / 9, 0.5, 8 / 9, 1], atol=1e-12)


def test_limit_keeps_the_expected_rate_of_wrong_poses():
    expected = {0: 0.0, 0.0004: 0.0, 0.0006: 0.0005, 0.0008: 0.001, 0.002: 0.004, 1: 0.4}
    assert {rate: BY_DEVIATION.limit(rate) for rate in expected} == expected


def test_a_pose_that_may_be_wrong_is_lost(map_file: MapFile):
    """In place of the limit of the deviation, which maps without the measurement have."""
    good, doubtful = (localize(map_file, noise, BY_DEVIATION) for noise in (0.001, 0.12))
    assert good.reason == ""
    assert "probability of a wrong pose" in doubtful.reason and "0.4 %" in doubtful.reason
    assert doubtful.T_map_cam is None and doubtful.tracking is None
    assert localize(
        map_file, 0.12, BY_DEVIATION, max_wrong_rate=1
    ).reason == doubtful.reason.replace("0.4 % (max_wrong_rate 0.005)", "40 % (max_wrong_rate 1)")
    assert localize(map_file, 0.001, BY_DEVIATION, max_wrong_rate=0).T_map_cam is None
    loose = {"max_student_deviation_m": 1e-9}
    assert localize(map_file, 0.001, BY_DEVIATION, **loose).reason == ""
    assert localize(map_file, 0.001, None, **loose).T_map_cam is None


def test_no_pose_that_is_likely_wrong_is_accepted_among_many_good_ones():
    clear_cut = replace(BY_DEVIATION, probabilities=(1e-5,) * 230 + (0.9,) * 2)
    assert np.mean(clear_cut.probabilities) < 0.01
    assert clear_cut.limit(0.01) == pytest.approx(0.1)


def test_a_rig_of_equal_cameras_has_the_features_of_one():
    covariance_66, sigma_n = np.diag([0.01] * 6), np.array([0.02, 0.05, 0.03])
    one = pose_features(covariance_66, sigma_n, 2)
    np.testing.assert_allclose(pose_features(covariance_66, np.tile(sigma_n, 3), 6, 3), one)


def test_small_probabilities_are_stored_with_their_digits():
    weights_4, features_n4 = np.array([1.0, 0, 0, 0]), np.array([[2.0, 0, 0, 0], [1.0, 0, 0, 0]])
    stored = WrongPoses.measured(-20.0, weights_4, features_n4)
    np.testing.assert_allclose(stored.probabilities, [np.exp(-19), np.exp(-18)], rtol=1e-5)
    assert stored.limit(0.001) == stored.probabilities[-1]


@pytest.mark.parametrize(
    "wrong",
    [
        {"intercept": math.nan},
        {"weights": (1.0, math.inf, 0.0, 0.0)},
        {"intercept": 1e7},
        {"probabilities": ()},
        {"probabilities": (0.2, 0.1)},
        {"probabilities": (-0.1, 0.1)},
        {"probabilities": (0.1, 1.1)},
        {"probabilities": (0.1,) * (MAX_PROBABILITIES + 1)},
    ],
)
def test_impossible_values_are_refused(wrong: dict):
    with pytest.raises(MapFileError, match="found"):
        replace(BY_DEVIATION, **wrong)
