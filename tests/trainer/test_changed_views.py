"""Changed views of held-out frames, and the probability of wrong poses that is fitted to them."""

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed")

import torch  # noqa: E402
from make_map import CAMERA, room_points  # noqa: E402
from make_painted_room import photograph, shifted  # noqa: E402

from distill_training.calibration.changed_views import (  # noqa: E402
    HARD,
    USUAL,
    ChangedView,
    changed_views,
)
from distill_training.calibration.scales import calibrate  # noqa: E402
from distill_training.calibration.validation import (  # noqa: E402
    HeldOutFigures,
    Measurement,
    Validation,  # noqa: E402
)
from distill_training.calibration.wrong_pose_fit import fit_wrong_poses  # noqa: E402
from distill_training.reconstruction import ReconstructedFrame, Reconstruction  # noqa: E402
from distill_training.training.augment_config import AugmentConfig  # noqa: E402
from distill_training.training.frame_split import FrameSplit  # noqa: E402
from distill_training.training.frame_store import FrameStore  # noqa: E402
from distill_training.training.train_config import TrainConfig  # noqa: E402
from distill_training.training.trainer import TrainedStudent  # noqa: E402
from mote_localization.drift import Drift  # noqa: E402
from mote_localization.geometry import local_coordinates  # noqa: E402
from mote_localization.map_file import MapInfo  # noqa: E402

POSES = {f"f{i}": shifted(0.1 * i, 0, 0) for i in range(4)}
PLAIN = replace(
    USUAL,
    **dict.fromkeys(("brightness", "contrast", "colour", "saturation", "grey", "swapped"), 0.0),
    **dict.fromkeys(("exposure", "vignette", "bands", "noise", "blur", "cutout"), 0.0),
    gamma=1.0,
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Reconstruction:
    made = Reconstruction(tmp_path_factory.mktemp("room"), "room", "rgbd", "", CAMERA, 8, {}, POSES)
    made.begin()
    for name, T_map_cam in POSES.items():
        points_hw3 = room_points(T_map_cam, CAMERA, 8)
        sigma_hw = np.full(points_hw3.shape[:2], 0.01, np.float32)
        made.write_frame(name, ReconstructedFrame(photograph(T_map_cam), points_hw3, sigma_hw))
    return made


def made(place: Reconstruction, config: AugmentConfig, count: int) -> list[ChangedView]:
    return list(changed_views(FrameStore(place), list(POSES), CAMERA, 8, config, count))


def test_a_changed_view_shows_what_is_seen_from_its_pose(place: Reconstruction):
    for view in made(place, PLAIN, 4):
        there, before = photograph(view.T_map_cam), photograph(POSES[view.frame])
        near, far = (
            np.median(np.abs(view.image_hw3.astype(float) - image)) for image in (there, before)
        )
        assert near < 5 and far > 3 * near


def test_changed_views_are_the_same_each_time_and_hard_ones_are_farther_away(
    place: Reconstruction,
):
    first, again = made(place, USUAL, 20), made(place, USUAL, 20)
    assert len(first) == 20 and [view.frame for view in first[:5]] == ["f0", "f1", "f2", "f3", "f0"]
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one.image_hw3, other.image_hw3)
        np.testing.assert_array_equal(one.T_map_cam, other.T_map_cam)
    usual_m, hard_m = (
        np.median([np.linalg.norm((v.T_map_cam - POSES[v.frame])[:3, 3]) for v in views])
        for views in (first, made(place, HARD, 20))
    )
    assert hard_m > 1.5 * usual_m > 0


def features(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return random features, and which of the poses are wrong: more of those of large deviation.

    The inlier ratio says nothing.
    """
    rng = np.random.default_rng(seed)
    features_n4 = rng.normal(size=(count, 4)) * [1, 0.5, 0.5, 0.2] + [-3, -4, 6, 0.5]
    logit_n = -4 + 2 * (features_n4[:, 0] + 3) - 1.5 * (features_n4[:, 2] - 6)
    return features_n4, rng.uniform(size=count) < 1 / (1 + np.exp(-logit_n))


def test_fitted_probabilities_are_those_of_new_poses():
    features_n4, wrong_n = features(600, seed=0)
    fitted = fit_wrong_poses(features_n4, wrong_n, np.arange(600) % 2 == 0)
    assert fitted and len(fitted.probabilities) == 300
    new_n4, new_wrong_n = features(20_000, seed=1)
    found_n = np.array([fitted.probability(features_4) for features_4 in new_n4])
    for low, high in ((0, 0.02), (0.02, 0.2), (0.2, 1)):
        among_n = (low <= found_n) & (found_n < high)
        assert found_n[among_n].mean() == pytest.approx(new_wrong_n[among_n].mean(), rel=0.5)
    accepted_n = found_n <= fitted.limit(0.005)
    assert accepted_n.mean() > 0.3 and new_wrong_n[accepted_n].mean() < 0.01


def test_no_weight_has_a_sign_that_makes_no_sense():
    features_n4, wrong_n = features(600, seed=0)
    fitted = fit_wrong_poses(features_n4 * [1, 1, -1, 1], wrong_n, np.ones(600, bool))
    assert fitted
    deviation, sigma, inliers, ratio = fitted.weights
    assert deviation > 1 and sigma >= 0 and inliers == 0 and ratio <= 0


def test_too_few_wrong_poses_give_no_probability():
    features_n4, wrong_n = features(600, seed=0)
    usual_n = np.ones(600, bool)
    assert fit_wrong_poses(features_n4, np.cumsum(wrong_n) * wrong_n > 9, usual_n)
    few_n = wrong_n & (np.cumsum(wrong_n) < 10)
    assert few_n.any() and fit_wrong_poses(features_n4, few_n, usual_n) is None
    assert fit_wrong_poses(features_n4, wrong_n, ~usual_n) is None


def test_a_student_that_is_mostly_lost_is_not_trusted():
    features_n4, _ = features(9, seed=0)
    fitted = fit_wrong_poses(features_n4, np.ones(9, bool), np.ones(9, bool))
    assert fitted and fitted.limit(0.005) == 0


def test_a_constant_feature_has_no_weight():
    features_n4, wrong_n = features(600, seed=0)
    features_n4[:, 1] = -3.3 + 1e-9 * wrong_n
    fitted = fit_wrong_poses(features_n4, wrong_n, np.ones(600, bool))
    assert fitted and abs(fitted.weights[1]) < 0.01


def test_where_every_pose_is_wrong_none_is_accepted():
    features_n4, _ = features(100, seed=0)
    fitted = fit_wrong_poses(features_n4, np.ones(100, bool), np.ones(100, bool))
    assert fitted and fitted.limit(0.01) == 0
    assert min(fitted.probability(features_4) for features_4 in features_n4) > 0.9


class FixedStudent(torch.nn.Module):
    """Sees every image from the same pose."""

    licence = ""

    def __init__(self, T_map_cam: np.ndarray) -> None:
        super().__init__()
        self.anchor = torch.nn.Parameter(torch.zeros(()))
        self.points_hw3 = torch.from_numpy(room_points(T_map_cam, CAMERA, 8))

    @property
    def head(self) -> "FixedStudent":
        return self

    def scale_sigma(self, scale: float) -> None:
        pass

    def forward(self, image_bhw3: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.points_hw3[None], torch.full((1, *self.points_hw3.shape[:2]), 0.05)


def test_a_map_without_keyframes_is_calibrated_by_changed_views(
    place: Reconstruction, monkeypatch: pytest.MonkeyPatch
):
    """A student that is off by decimetres, as the views show, is not accepted."""
    monkeypatch.setattr("distill_training.calibration.validation._USUAL_VIEWS", 32)
    monkeypatch.setattr("distill_training.calibration.validation._HARD_VIEWS", 48)
    info = MapInfo("room", CAMERA, 8, (-9, -9, -9), (9, 9, 9), "rgbd", "", "cnn")
    validation = Validation(place, FrameStore(place), FrameSplit([], ["f0", "f1"]), info)
    student = FixedStudent(POSES["f0"])
    changed = validation.changed_poses(student, info)
    assert 60 < len(changed) <= 80
    views = changed_views(FrameStore(place), ["f0", "f1"], CAMERA, 8, USUAL, 16)
    for view, pose in zip(views, changed[:16], strict=True):
        expected_6 = local_coordinates(view.T_map_cam, POSES["f0"])
        np.testing.assert_allclose(pose.found.error_6, expected_6, atol=2e-3)
    one_sample = (*[0.0] * 6, 1.0, 0.06, *[0.0] * 5)
    drifting = replace(info, drift=Drift((one_sample, one_sample), 0.8, 40.0, 0.03))
    for pose, other in zip(changed, validation.changed_poses(student, drifting), strict=True):
        np.testing.assert_array_equal(pose.features_4, other.features_4)
    measured = Measurement(HeldOutFigures(frames=0), 0.0, ())
    calibrated = calibrate(
        TrainedStudent(student, {}, measured),  # type: ignore[arg-type]
        validation,
        TrainConfig(keyframes=0),
    ).info
    assert calibrated.wrong_poses and calibrated.wrong_poses.limit(0.005) == 0
    assert calibrated.pose_calibration.poses == 0
    unknown = replace(info, metric=False)
    other = Validation(place, FrameStore(place), FrameSplit([], ["f0", "f1"]), unknown)
    calibrated = calibrate(
        TrainedStudent(student, {}, measured),  # type: ignore[arg-type]
        other,
        TrainConfig(keyframes=0),
    ).info
    assert calibrated.wrong_poses is None and calibrated.pose_calibration.poses > 30
