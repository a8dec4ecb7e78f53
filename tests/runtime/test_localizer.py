"""From image to pose: every gate, and that a lost frame has no pose."""

from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
from make_map import CAMERA, T_MAP_CAM, room_points, with_doubled_points, write_constant_map
from onnx import TensorProto, helper

from mote_localization.backends import choose_backend, create_backend
from mote_localization.camera import Camera
from mote_localization.errors import BackendError, CameraError, ImageError
from mote_localization.localizer import Localizer, LocalizerConfig, Status
from mote_localization.map_file import MapFile, MapInfo, read_map
from mote_localization.pose_calibration import ErrorModel, PoseCalibration

BRIGHT = np.full((CAMERA.height, CAMERA.width, 3), 128, np.uint8)
DARK = np.zeros_like(BRIGHT)
POINTS = room_points(T_MAP_CAM, CAMERA, 8)


@pytest.fixture(scope="module")
def map_file(tmp_path_factory):
    return read_map(write_constant_map(tmp_path_factory.mktemp("map") / "room.onnx"))


@pytest.fixture(scope="module")
def localizer(map_file):
    return Localizer(map_file, create_backend(map_file, threads=1))


class Prediction:
    """A backend that predicts the same pointmap for every image."""

    def __init__(self, points_hw3, sigma_hw):
        self.prediction = points_hw3.astype(np.float32), sigma_hw.astype(np.float32)

    def predict(self, image_hw3):
        return self.prediction


def localize(map_file, points_hw3=POINTS, sigma_hw=None, camera=CAMERA, **config):
    """Localize with a given prediction."""
    sigma_hw = np.full(POINTS.shape[:2], 0.02) if sigma_hw is None else sigma_hw
    localizer = Localizer(map_file, Prediction(points_hw3, sigma_hw), LocalizerConfig(**config))
    return localizer.localize(np.zeros((camera.height, camera.width, 3), np.uint8), camera)


def assert_lost(found, reason):
    assert found.status is Status.LOST
    assert reason in found.reason
    assert found.T_map_cam is None and found.covariance_66 is None


def assert_localized(found):
    assert found.status is Status.LOCALIZED and found.reason == ""
    assert np.allclose(found.T_map_cam, T_MAP_CAM, atol=1e-3)


def test_image_is_localized_with_all_results(localizer):
    found = localizer.localize(BRIGHT, CAMERA)
    assert_localized(found)
    assert found.covariance_66.shape == (6, 6)
    assert found.inliers == found.cells == localizer.config.max_cells
    assert found.reprojection_px < 0.01
    assert found.points_hw3.shape == (30, 40, 3) and found.sigma_hw.shape == (30, 40)
    assert found.covered_hw.all()
    assert np.array_equal(found.image_hw3, BRIGHT)
    assert set(found.seconds) == {"remap", "network", "pose"}


def test_camera_of_other_size_and_lens_gives_the_same_pose(localizer):
    lens = ("rational_polynomial", (0.1, 0.0, 0.001, 0.0, 0.0, 0.2, 0.0, 0.0))
    live = Camera(640, 480, 480.0, 480.0, 320.0, 230.0, *lens)
    assert_localized(localizer.localize(np.full((480, 640, 3), 128, np.uint8), live))


def test_camera_may_change_between_images(localizer):
    half = CAMERA.resized(160, 120)
    assert_localized(localizer.localize(BRIGHT, CAMERA))
    assert_localized(localizer.localize(BRIGHT[::2, ::2], half))
    assert_localized(localizer.localize(BRIGHT, CAMERA))


def test_remap_table_is_kept_while_the_camera_is_the_same(localizer):
    localizer.localize(BRIGHT, CAMERA)
    view = localizer._view
    localizer.localize(BRIGHT, replace(CAMERA))
    assert localizer._view is view


def test_same_image_gives_the_same_pose(localizer):
    one, other = (localizer.localize(BRIGHT, CAMERA) for _ in range(2))
    assert np.array_equal(one.T_map_cam, other.T_map_cam)


def test_black_image_is_lost(localizer):
    assert_lost(localizer.localize(DARK, CAMERA), "0 cells seen with sigma under 0.5 m")


def test_cells_outside_the_camera_are_not_used(map_file):
    narrow = Camera(120, 240, 260.0, 260.0, 59.5, 119.5)
    found = localize(map_file, camera=narrow)
    assert found.covered_hw.sum() == 15 * 30
    assert found.cells == 15 * 30
    assert_localized(found)


def test_camera_with_too_few_cells_is_lost(map_file):
    sliver = Camera(16, 120, 260.0, 260.0, 7.5, 59.5)
    assert_lost(localize(map_file, camera=sliver), "30 cells seen")


def test_cells_with_the_smallest_sigma_are_used(map_file):
    points = POINTS.copy()
    points[:, 20:] = 0
    sigma = np.full(POINTS.shape[:2], 0.02)
    sigma[:, 20:] = 0.4
    found = localize(map_file, points, sigma, max_cells=300)
    assert found.cells == found.inliers == 300


def test_non_finite_points_are_not_used(map_file):
    points, sigma = POINTS.copy(), np.full(POINTS.shape[:2], 0.02)
    points[:10, :, 0] = np.nan
    points[10, :, 1] = np.inf
    sigma[11] = np.nan
    found = localize(map_file, points, sigma, max_cells=5000)
    assert found.cells == 18 * 40
    assert_localized(found)


def with_outliers(fraction):
    random = np.random.default_rng(0)
    wrong = random.random(POINTS.shape[:2]) < fraction
    return np.where(wrong[..., None], random.uniform(0, 5, POINTS.shape), POINTS)


def test_random_points_are_lost(map_file):
    assert_lost(
        localize(map_file, with_outliers(1.0)), ""
    )  # which gate rejects them depends on rounding


def test_low_inlier_ratio_is_lost(map_file):
    points = with_outliers(0.7)
    assert_localized(localize(map_file, points))
    assert_lost(localize(map_file, points, min_inlier_ratio=0.5), "inlier ratio 0.3")


def test_few_inliers_are_lost(map_file):
    assert_lost(
        localize(map_file, with_outliers(0.5), min_inliers=700), "inliers, expected at least 700"
    )


def test_inliers_in_one_corner_are_lost(map_file):
    sigma = np.full(POINTS.shape[:2], 9.0)
    sigma[:20, :20] = 0.02
    assert_lost(localize(map_file, sigma_hw=sigma, min_spread=0.5), "inliers on 33% of the image")


def test_large_reprojection_error_is_lost(map_file):
    points = POINTS + 0.05 * np.random.default_rng(0).normal(size=POINTS.shape)
    assert_lost(localize(map_file, points, max_reprojection_px=2.0), "px, expected at most 2")


def test_uncertain_position_is_lost(map_file):
    points = POINTS + 0.05 * np.random.default_rng(0).normal(size=POINTS.shape)
    assert localize(map_file, points, max_deviation_m=0.1).reason == ""
    assert_lost(
        localize(map_file, points, max_deviation_m=0.001), "standard deviation of the position 0.0"
    )


def test_a_position_that_no_keyframe_confirms_must_be_more_certain(map_file):
    """But not where the scale is unknown."""
    points = POINTS + 0.05 * np.random.default_rng(0).normal(size=POINTS.shape)
    assert_lost(
        localize(map_file, points, max_student_deviation_m=0.001),
        "standard deviation of the position 0.0",
    )
    unknown = replace(map_file, info=replace(map_file.info, metric=False))
    assert localize(unknown, points, max_student_deviation_m=0.001).reason == ""


def test_pose_calibration_of_the_map_is_applied(map_file):
    points = POINTS + 0.05 * np.random.default_rng(0).normal(size=POINTS.shape)
    calibration = PoseCalibration(ErrorModel(3.0, floor=0.002), ErrorModel(2.0, floor=0.01))
    scaled = replace(map_file, info=replace(map_file.info, pose_calibration=calibration))
    plain, calibrated = (
        localize(one, points, max_student_deviation_m=1) for one in (map_file, scaled)
    )
    expected_66 = plain.covariance_66 * np.kron([[9, 6], [6, 4]], np.ones((3, 3)))
    expected_66 += np.diag([4e-6] * 3 + [1e-4] * 3)
    np.testing.assert_allclose(calibrated.covariance_66, expected_66)
    assert_lost(
        localize(scaled, points, max_deviation_m=0.005), "standard deviation of the position"
    )


def test_position_outside_the_mapped_volume_is_lost(map_file):
    assert_lost(localize(map_file, POINTS + (0, 10, 0)), "outside the mapped volume")
    assert localize(map_file, POINTS + (0, 10, 0), bounds_margin_m=10).reason == ""


def test_degenerate_points_are_lost(map_file):
    assert_lost(localize(map_file, np.zeros_like(POINTS)), "no pose")


def test_image_of_another_size_than_its_camera_is_refused(localizer):
    with pytest.raises(ImageError, match=r"found an image of shape \(240, 319, 3\)"):
        localizer.localize(BRIGHT[:, 1:], CAMERA)


def test_camera_without_overlap_is_refused(localizer):
    aside = Camera(320, 240, 260.0, 260.0, 9000.0, 119.5)
    with pytest.raises(CameraError, match="sees nothing"):
        localizer.localize(BRIGHT, aside)
    assert_localized(localizer.localize(BRIGHT, CAMERA))


def test_unknown_backend_is_refused(map_file):
    with pytest.raises(BackendError, match="found backend 'cuda', expected one of onnxruntime"):
        create_backend(map_file, "cuda")


def test_missing_cuda_package_or_gpu_is_one_error(map_file, monkeypatch):
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("onnxruntime-gpu is installed")
    with pytest.raises(BackendError, match="pip install onnxruntime-gpu in its place"):
        create_backend(map_file, "onnxruntime_cuda")
    # onnxruntime-gpu without a GPU falls back to the CPU, as the CPU package does
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    with pytest.raises(BackendError, match="onnxruntime_cuda: ONNX Runtime finds no GPU"):
        create_backend(map_file, "onnxruntime_cuda")
    chosen = choose_backend(map_file, "auto")
    assert chosen.name == "onnxruntime" and "finds no GPU" in chosen.refusals[-1]


def test_graph_with_other_output_shapes_than_declared_is_one_error(map_file):
    odd = MapFile(map_file.path, map_file.info, with_doubled_points(map_file.model))
    with pytest.raises(BackendError, match=r"its graph computes .*'points': \(1, 60, 40, 3\)"):
        create_backend(odd)


def test_graph_that_the_backend_cannot_load_is_one_error(map_file):
    model = onnx.load_model_from_string(map_file.model)
    model.graph.node[0].op_type = "NoSuchOperator"
    broken = MapFile(map_file.path, map_file.info, model.SerializeToString())
    with pytest.raises(BackendError, match="ONNX Runtime cannot load it") as caught:
        create_backend(broken)
    assert str(caught.value).startswith(str(map_file.path))
    assert "\n" not in str(caught.value)


def test_graph_that_fails_on_an_image_is_one_error(map_file):
    model = onnx.load_model_from_string(map_file.model)
    node = model.graph.node
    whole = helper.make_node("Cast", ["brightness"], ["whole"], to=TensorProto.INT64)
    beyond = helper.make_node("Gather", ["sigma_clear", "whole"], ["beyond"])  # has 1 row, not 128
    node[-1].input[1] = "spread"
    spread = helper.make_node("ReduceMean", ["beyond"], ["spread"], keepdims=0)
    last = node.pop()
    node.extend([whole, beyond, spread, last])
    backend = create_backend(MapFile(map_file.path, map_file.info, model.SerializeToString()))
    backend.predict(DARK)
    with pytest.raises(BackendError, match="ONNX Runtime cannot run it") as caught:
        backend.predict(BRIGHT)
    assert str(caught.value).startswith(str(map_file.path))


def test_backend_predicts_with_the_declared_shapes_and_types(map_file):
    points_hw3, sigma_hw = create_backend(map_file, threads=2).predict(BRIGHT)
    assert points_hw3.dtype == sigma_hw.dtype == np.float32
    assert np.allclose(points_hw3, POINTS) and np.allclose(sigma_hw, 0.02)


def test_parameters_change_only_the_fields_they_name():
    changed = LocalizerConfig(max_cells=500).with_parameters(
        {"min_inliers": 60, "keyframe_sigma": 0.01, "map_frame": "map"}
    )
    default = LocalizerConfig()
    assert changed == replace(
        default, max_cells=500, min_inliers=60, keyframes=replace(default.keyframes, sigma=0.01)
    )


def test_map_info_returns_rows_and_columns_of_cells(map_file):
    info: MapInfo = map_file.info
    assert info.cells_hw == (30, 40)
