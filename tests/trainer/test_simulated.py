"""The simulated pair predictor has the configured errors."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import spearmanr

pytest.importorskip("torch", reason="torch is not installed")

from distill_training.teachers.pairwise.pair_predictor import PairPointmaps  # noqa: E402
from distill_training.teachers.simulated import Simulated, SimulatedConfig  # noqa: E402
from mote_localization.camera import Camera, cell_pixels  # noqa: E402
from mote_localization.errors import ReconstructionError, SceneError  # noqa: E402
from mote_localization.geometry import exp_rotation, invert, transform  # noqa: E402
from mote_localization.scenes import Frame  # noqa: E402

pytestmark = pytest.mark.train

CAMERA = Camera(160, 120, 150.0, 150.0, 79.5, 59.5)
EXACT = SimulatedConfig(width=80, pair_scale=0, noise=0, warp=0, wrong_pairs=0)
WALL = np.array([0.2, -0.1, 1.0])  # the plane of points whose product with it is 3, map frame
NO_IMAGE = np.zeros((120, 160, 3), np.uint8)


class View(Frame):
    """A frame that shows the wall; each number has another pose."""

    def __init__(self, number: int, step_m: float = 0.1, camera: Camera = CAMERA) -> None:
        self.name, self.camera = f"view{number}", camera
        self.T_map_cam = np.eye(4)
        self.T_map_cam[:3, :3] = exp_rotation(np.array([0, 0.02, 0.01]) * number)
        self.T_map_cam[:3, 3] = step_m * number * np.array([1, 0.5, -0.2])
        self.depth_hw: np.ndarray | None = self.true_depth(
            cell_pixels(camera.width, camera.height, 1)
        )

    def true_depth(self, pixels_hw2: np.ndarray) -> np.ndarray:
        directions = CAMERA.rays(pixels_hw2) @ self.T_map_cam[:3, :3].T
        return ((3 - self.T_map_cam[:3, 3] @ WALL) / (directions @ WALL)).astype(np.float32)

    def image(self) -> np.ndarray:
        return NO_IMAGE

    def depth(self) -> np.ndarray | None:
        return self.depth_hw


def predict(
    config: SimulatedConfig, views: Sequence[View], pairs: Sequence[tuple[int, int]] = ((0, 1),)
) -> tuple[PairPointmaps, PairPointmaps]:
    """Return the predictions of the simulated network for pairs of views."""
    network = Simulated(config)
    encoded = [network.encode(view, NO_IMAGE, CAMERA) for view in views]
    return network.decode([encoded[i] for i, _ in pairs], [encoded[j] for _, j in pairs])


def directed_predictions(
    config: SimulatedConfig, views: Sequence[View], pairs: Sequence[tuple[int, int]]
) -> list[tuple[int, int, list[np.ndarray]]]:
    """Return the images of directed pairs, with points and confidence of the first and second."""
    found = []
    for maps, ends in zip(
        predict(config, views, pairs), (pairs, [p[::-1] for p in pairs]), strict=True
    ):
        for k, (i, j) in enumerate(ends):
            arrays = [
                tensor[k].numpy()
                for one in (maps.first, maps.second)
                for tensor in (one.points_bhw3, one.confidence_bhw)
            ]
            found.append((i, j, arrays))
    return found


def truth(view: View, other: View, width: int = 80) -> np.ndarray:
    """Return true points of the other view in the camera frame of the first, for each pixel."""
    step = 160 / width
    pixels_hw2 = step * cell_pixels(width, round(120 / step), 1) + (step - 1) / 2
    depth_hw = other.true_depth(pixels_hw2)
    T = invert(view.T_map_cam) @ other.T_map_cam
    return transform(T, CAMERA.rays(pixels_hw2) * depth_hw[..., None])


VIEWS = [View(k) for k in range(12)]
PAIRS = [(i, j) for i in range(12) for j in range(i)]


def test_without_errors_predictions_equal_the_truth():
    for i, j, (own, _, other, _) in directed_predictions(EXACT, VIEWS, PAIRS[:5]):
        np.testing.assert_allclose(own, truth(VIEWS[i], VIEWS[i]), rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(other, truth(VIEWS[i], VIEWS[j]), rtol=1e-5, atol=1e-5)


def test_each_directed_pair_has_its_scale():
    config = replace(EXACT, pair_scale=0.3)
    logs = []
    for i, j, (own, _, other, _) in directed_predictions(config, VIEWS, PAIRS):
        ratios = own / truth(VIEWS[i], VIEWS[i]), other / truth(VIEWS[i], VIEWS[j])
        own_log, other_log = (np.log(np.median(ratio)) for ratio in ratios)
        assert own_log == pytest.approx(other_log, abs=1e-5)
        logs.append(own_log)
    assert len({round(log, 6) for log in logs}) == 2 * len(PAIRS)
    assert np.std(logs) == pytest.approx(0.3, rel=0.2)
    assert np.mean(logs) == pytest.approx(0, abs=0.08)


def errors(config: SimulatedConfig, count: int = 12) -> np.ndarray:
    """Return errors (n, h, w, 3) of the first image's points over the depth."""
    return np.array(
        [
            (own - truth(VIEWS[i], VIEWS[i])) / truth(VIEWS[i], VIEWS[i])[..., 2:]
            for i, _, (own, *_) in directed_predictions(config, VIEWS, PAIRS[:count])
        ]
    )


def test_noise_is_independent_per_pixel():
    found = errors(replace(EXACT, noise=0.02))
    np.testing.assert_allclose(found.std(axis=(0, 1, 2)), 0.02, rtol=0.03)
    neighbours = np.corrcoef(found[:, :, 1:].ravel(), found[:, :, :-1].ravel())[0, 1]
    assert abs(neighbours) < 0.02


def test_a_warp_is_smooth_over_the_image():
    found = errors(replace(EXACT, warp=0.03))
    np.testing.assert_allclose(found.std(), 0.03, rtol=0.25)
    steps = np.diff(found, axis=2)
    assert np.abs(steps).max() < 0.015
    middle = found[:, 30, 40]  # differs from pair to pair
    assert np.abs(np.corrcoef(middle[::2].T, middle[1::2].T)[:3, 3:]).max() < 0.95
    assert np.ptp(middle, axis=0).min() > 0.02


def test_some_pairs_are_wrong_in_both_orders():
    views = [View(k, step_m=0.02) for k in range(25)]
    pairs = [(i, j) for i in range(25) for j in range(i + 1, 25)]
    wrong = [
        np.median(np.linalg.norm(other - truth(views[i], views[j], 32), axis=-1)) > 0.1
        for i, j, (_, _, other, _) in directed_predictions(
            replace(EXACT, width=32, wrong_pairs=0.2), views, pairs
        )
    ]
    forward, backward = np.reshape(wrong, (2, -1))
    np.testing.assert_array_equal(forward, backward)
    assert forward.mean() == pytest.approx(0.2, abs=0.05)


def test_pairs_without_overlap_are_wrong():
    away = View(1)
    away.T_map_cam[:3, :3] = exp_rotation(np.array([0, np.pi, 0]))
    found = directed_predictions(EXACT, [VIEWS[0], away], [(0, 1)])
    T = invert(VIEWS[0].T_map_cam) @ away.T_map_cam
    own_of_away = found[1][2][0]
    assert np.median(np.linalg.norm(found[0][2][2] - transform(T, own_of_away), axis=-1)) > 0.5


def test_wrong_pairs_have_a_low_confidence():
    certain, uncertain = (
        np.median(
            [
                maps[1]
                for _, _, maps in directed_predictions(
                    replace(EXACT, noise=0.02, wrong_pairs=fraction), VIEWS, PAIRS[:9]
                )
            ]
        )
        for fraction in (0.0, 1.0)
    )
    assert uncertain < certain / 10


def test_confidence_decreases_with_the_error():
    for i, j, (own, own_confidence, other, other_confidence) in directed_predictions(
        SimulatedConfig(width=80, pair_scale=0, wrong_pairs=0), VIEWS, PAIRS[:5]
    ):
        for points, confidence, true in (
            (own, own_confidence, truth(VIEWS[i], VIEWS[i])),
            (other, other_confidence, truth(VIEWS[i], VIEWS[j])),
        ):
            assert confidence.min() > 0
            off = np.linalg.norm(points - true, axis=-1)
            assert spearmanr(confidence.ravel(), -off.ravel()).statistic > 0.3


def test_depth_edges_have_flying_points():
    views = [View(0), View(1)]
    for view in views:
        view.depth_hw = np.where(np.arange(160) < 80, 1, 3).astype(np.float32) * np.ones(
            (120, 1), np.float32
        )
    own = directed_predictions(EXACT, views, [(0, 1)])[0][2][0]
    flying = (own[..., 2] > 1.1) & (own[..., 2] < 2.9)
    assert flying[:, 39:41].mean() > 0.8
    assert not flying[:, :38].any() and not flying[:, 42:].any()


def test_predictions_do_not_depend_on_the_batch():
    config = SimulatedConfig(width=32)
    together = predict(config, VIEWS, PAIRS[:6])
    for k in (0, 5, 3):
        alone = predict(config, VIEWS, PAIRS[k : k + 1])
        for one, many in zip(alone, together, strict=True):
            np.testing.assert_array_equal(one.first.points_bhw3[0], many.first.points_bhw3[k])
            np.testing.assert_array_equal(one.second.points_bhw3[0], many.second.points_bhw3[k])
            np.testing.assert_array_equal(
                one.second.confidence_bhw[0], many.second.confidence_bhw[k]
            )


def test_a_pair_in_the_other_order_has_the_same_predictions():
    config = SimulatedConfig(width=32)
    forth, back = predict(config, VIEWS, [(0, 3)])
    other_back, other_forth = predict(config, VIEWS, [(3, 0)])
    for one, same in ((forth, other_forth), (back, other_back)):
        np.testing.assert_array_equal(one.first.points_bhw3, same.first.points_bhw3)
        np.testing.assert_array_equal(one.second.points_bhw3, same.second.points_bhw3)


def test_another_seed_has_other_errors():
    one, other = (predict(SimulatedConfig(width=32, seed=seed), VIEWS)[0] for seed in (0, 1))
    assert not np.allclose(one.first.points_bhw3, other.first.points_bhw3)


def test_pixels_without_measured_depth_have_points():
    view = View(0)
    view.depth_hw[20:60, 50:90] = 0
    own = directed_predictions(EXACT, [view, View(1)], [(0, 1)])[0][2][0]
    assert np.isfinite(own).all() and own[..., 2].min() > 1
    measured = np.ones((60, 80), bool)
    measured[9:31, 24:46] = False
    np.testing.assert_allclose(own[measured], truth(view, view)[measured], rtol=1e-5, atol=1e-5)


def test_images_that_show_the_same_have_similar_descriptors():
    network = Simulated(EXACT)
    first, near, far = (
        network.descriptor(network.encode(view, NO_IMAGE, CAMERA))
        for view in (VIEWS[0], VIEWS[1], View(40))
    )
    assert np.linalg.norm(first) == pytest.approx(1)
    assert first @ near > 0.5 > first @ far


def test_a_wrong_assumed_focal_length_does_not_change_predictions():
    network = Simulated(EXACT)
    assumed = replace(CAMERA, fx=190.0, fy=190.0)
    encoded = [network.encode(view, NO_IMAGE, assumed) for view in VIEWS[:2]]
    assert encoded[0].camera == assumed.resized(80, 60)
    own = network.decode(encoded[:1], encoded[1:])[0].first.points_bhw3[0].numpy()
    np.testing.assert_allclose(own, truth(VIEWS[0], VIEWS[0]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("lacking", ["depth_hw", "T_map_cam", "camera"])
def test_frames_without_depth_pose_or_intrinsics_are_refused(lacking: str):
    view = View(0)
    setattr(view, lacking, None)
    with pytest.raises(SceneError, match="view0"):
        Simulated(EXACT).encode(view, NO_IMAGE, CAMERA)


@pytest.mark.parametrize(
    "change", [{"width": 8}, {"noise": -0.1}, {"warp": -1.0}, {"pair_scale": -1.0}]
)
def test_invalid_settings_are_refused(change: dict):
    with pytest.raises(ReconstructionError, match="simulated"):
        SimulatedConfig(**change)
