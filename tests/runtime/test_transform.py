"""`mote transform`: poses, points and covariances are those of the map before, in a new frame."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import yaml
from make_map import CAMERA, T_MAP_CAM, write_constant_map
from make_painted_room import keyframe, photograph, shifted

import mote_localization.cli
from mote_localization.anchors import fit_anchors, read_anchors
from mote_localization.backends import create_backend
from mote_localization.drift import Drift, drift_sample
from mote_localization.errors import MapFileError, MoteError
from mote_localization.geometry import (
    exp_rotation,
    pose_from,
    quaternion_xyzw,
    rigid,
    rotation_angle,
)
from mote_localization.gravity import rotation_to_z, up_of_cameras, up_of_floor
from mote_localization.localizer import Localization, Localizer, Status
from mote_localization.map_file import MapFile, read_map, write_map
from mote_localization.map_transform import FrameChange, transform_map
from mote_localization.pose_calibration import ErrorModel, PoseCalibration
from mote_localization.self_test import SelfTest
from mote_localization.validated_poses import ValidatedPose

VIEWS = (
    shifted(-0.5, 0, 0),
    shifted(0.4, 0.1, -0.3, omega=(0, -0.2, 0)),
    shifted(0, 0, -0.6, omega=(0.1, 0.1, 0)),
    shifted(0.1, -0.2, 0.2, omega=(0.3, -0.1, 0)),
)
DRIFT = Drift(
    tuple(
        drift_sample(T, np.array([0.03, -0.02, 0.01, 0.004, -0.003, 0.006]) * (1 + 0.2 * k))
        for k, T in enumerate(VIEWS)
    ),
    0.8,
    40.0,
    0.03,
)
T_NEW = rigid(exp_rotation(np.array([0.3, -0.5, 1.9])), [40.0, -7.0, 2.0])


@pytest.fixture(scope="module")
def images() -> list[np.ndarray]:
    return [photograph(T_MAP_CAM), photograph(shifted(0.02, 0.01, 0, omega=(0, 0.01, 0)))]


def write(folder: Path, metric: bool = True, **info) -> MapFile:
    """Write a map of the box room, whose points have errors of 1 cm."""
    plain = read_map(write_constant_map(folder / "room.onnx", metric=metric))
    model = onnx.load_model_from_string(plain.model)
    for tensor in model.graph.initializer:
        if tensor.name == "room":
            points = onnx.numpy_helper.to_array(tensor)
            noise = np.random.default_rng(0).normal(0, 0.01, points.shape)
            noisy = onnx.numpy_helper.from_array((points + noise).astype(np.float32), "room")
            tensor.CopyFrom(noisy)
    write_map(folder / "room.onnx", model, replace(plain.info, **info))
    return read_map(folder / "room.onnx")


def moved(map_file: MapFile, change: FrameChange, folder: Path) -> MapFile:
    write_map(folder / "moved.onnx", *transform_map(map_file, change, map_file.info.metric))
    return read_map(folder / "moved.onnx")


def assert_same(before: Localization, after: Localization, change: FrameChange) -> None:
    """Compare two localizations to 1 mm and 0.05 degrees, and their covariances to a percent."""
    assert before.status == after.status == Status.LOCALIZED
    expected = change.pose(before.T_map_cam)
    assert np.linalg.norm(after.T_map_cam[:3, 3] - expected[:3, 3]) < 1e-3
    angle = rotation_angle(after.T_map_cam[:3, :3] @ expected[:3, :3].T)
    assert np.degrees(angle) < 0.05
    R, s = change.T_new_map[:3, :3], change.scale
    J = np.block([[s * R, np.zeros((3, 3))], [np.zeros((3, 3)), R]])
    largest = np.abs(J @ before.covariance_66 @ J.T).max()
    np.testing.assert_allclose(
        after.covariance_66, J @ before.covariance_66 @ J.T, atol=0.02 * largest
    )


def test_validated_poses_move_with_the_map(tmp_path):
    validation = (
        ValidatedPose.record(T_MAP_CAM, 0.02, 0.05),
        ValidatedPose.record(VIEWS[1], None, None),
    )
    change = FrameChange(T_NEW, 0.4)
    found, lost = moved(
        write(tmp_path, False, validation=validation), change, tmp_path
    ).info.validation
    np.testing.assert_allclose(found.T_map_cam, change.pose(T_MAP_CAM), atol=1e-3)
    assert (found.error, found.deviation) == (0.008, 0.02)
    np.testing.assert_allclose(lost.T_map_cam, change.pose(VIEWS[1]), atol=1e-3)
    assert lost.error is None


@pytest.mark.parametrize(
    ("change", "metric"),
    [
        (FrameChange(T_NEW), True),
        (FrameChange(T_NEW, 0.4), False),
    ],
)
@pytest.mark.parametrize("content", [{}, {"drift": DRIFT}, {"keyframes": VIEWS}])
def test_a_moved_map_gives_the_same_poses_in_its_frame(tmp_path, images, change, metric, content):
    if "keyframes" in content:
        calibration = PoseCalibration(
            ErrorModel(1.5, 0.01, 0.02, growth=0.7), ErrorModel(2.0, 0.003, 0.01), correlation=0.9
        )
        content = {
            "keyframes": tuple(map(keyframe, VIEWS)),
            "drift": DRIFT,
            "pose_calibration": calibration,
        }
    before = write(tmp_path, metric, **content)
    after = moved(before, change, tmp_path)
    one, other = (Localizer.open(file.path) for file in (before, after))
    for image_hw3 in images:
        first, second = (localizer.localize(image_hw3, CAMERA) for localizer in (one, other))
        assert_same(first, second, change)
        np.testing.assert_allclose(second.points_hw3, change.points(first.points_hw3), atol=1e-3)
        np.testing.assert_allclose(second.sigma_hw, change.scale * first.sigma_hw, rtol=1e-5)
    for corner in (before.info.bounds_min, before.info.bounds_max):
        point = change.points(np.array(corner))
        assert (point >= np.array(after.info.bounds_min) - 1e-6).all()
        assert (point <= np.array(after.info.bounds_max) + 1e-6).all()


def test_the_self_test_of_a_moved_map_passes(tmp_path, images):
    plain = write(tmp_path)
    before = write(tmp_path, self_test=SelfTest.record(images[0], create_backend(plain).predict))
    after = moved(before, FrameChange(T_NEW), tmp_path)
    assert after.info.self_test.difference_m(create_backend(after).predict) < 1e-4


def test_a_map_can_be_moved_twice(tmp_path, images):
    before = write(tmp_path)
    back = FrameChange(np.linalg.inv(T_NEW))
    write_map(tmp_path / "once.onnx", *transform_map(before, FrameChange(T_NEW), True))
    write_map(tmp_path / "twice.onnx", *transform_map(read_map(tmp_path / "once.onnx"), back, True))
    first, second = (
        Localizer.open(path).localize(images[0], CAMERA)
        for path in (before.path, tmp_path / "twice.onnx")
    )
    assert_same(first, second, FrameChange(np.eye(4)))


def test_up_is_found_from_cameras_and_from_the_floor(tmp_path):
    tilt = rigid(exp_rotation(np.array([0.1, -0.2, 0.0])), np.zeros(3))
    level = write(tmp_path, keyframes=tuple(map(keyframe, VIEWS)))
    tilted = moved(level, FrameChange(tilt), tmp_path).info
    for up_of, most_deg in ((up_of_cameras, 8.0), (up_of_floor, 0.1)):
        angle_deg = np.degrees(np.arccos(up_of(tilted) @ tilt[:3, 2]))
        assert angle_deg < most_deg, up_of
    R = rotation_to_z(tilt[:3, 2])
    np.testing.assert_allclose(R @ tilt[:3, 2], (0, 0, 1), atol=1e-12)
    assert rotation_angle(R) == pytest.approx(np.arccos(tilt[2, 2]))


def test_directions_up_that_are_opposite_or_equal_to_z():
    np.testing.assert_allclose(rotation_to_z(np.array([0.0, 0, 1])), np.eye(3))
    flipped = rotation_to_z(np.array([0.0, 0, -1]))
    np.testing.assert_allclose(flipped @ (0, 0, -1), (0, 0, 1))
    assert np.linalg.det(flipped) == pytest.approx(1)


def anchors_file(path: Path, T_map_n44, change: FrameChange, poses: bool) -> Path:
    def numbers(T: np.ndarray) -> list[float]:
        q = quaternion_xyzw(T[:3, :3]).tolist() if poses else []
        return [*T[:3, 3].tolist(), *q]

    pairs = [{"map": numbers(T), "target": numbers(change.pose(T))} for T in T_map_n44]
    path.write_text(yaml.safe_dump({"anchors": pairs}))
    return path


@pytest.mark.parametrize("poses", [True, False])
@pytest.mark.parametrize(("scale", "metric"), [(1.0, True), (0.4, False), (1.1, True)])
def test_anchors_determine_the_frame(tmp_path, poses, scale, metric):
    change = FrameChange(T_NEW, scale)
    path = anchors_file(tmp_path / "anchors.yaml", VIEWS, change, poses)
    fit = fit_anchors(*read_anchors(path), metric)
    assert fit.scale == pytest.approx(scale)
    assert fit.change.scale == (1 if metric else pytest.approx(scale))
    assert rotation_angle(fit.change.T_new_map[:3, :3] @ T_NEW[:3, :3].T) < 1e-6
    assert fit.residuals_m.max() < (1e-6 if scale == 1 or not metric else 0.1)


def test_one_pose_anchors_a_metric_map(tmp_path):
    path = anchors_file(tmp_path / "a.yaml", VIEWS[:1], FrameChange(T_NEW), True)
    np.testing.assert_allclose(
        fit_anchors(*read_anchors(path), True).change.T_new_map, T_NEW, atol=1e-6
    )
    with pytest.raises(MoteError, match="found 1 points"):
        fit_anchors(*read_anchors(path), False)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "Expected `object`, got `null`"),
        ("anchors: []", "found no anchors"),
        ("anchors: [{map: [1, 2], target: [1, 2, 3]}]", "length >= 3"),
        ("anchors: [{map: [1, 2, 3, 4], target: [1, 2, 3]}]", "anchor 1 has [4, 3] numbers"),
        ("anchors: [{map: [1, 2, .nan], target: [1, 2, 3]}]", "anchor 1 has"),
        ("anchors: [{map: [1, 2, 3, 0, 0, 0, 0], target: [1, 2, 3, 0, 0, 0, 1]}]", "length 0"),
        ("anchors: [{target: [1, 2, 3]}]", "both or neither of `map` and `frame`"),
        ("anchors: [{frame: a, map: [1, 2, 3], target: [1, 2, 3]}]", "both or neither"),
        ("anchors: {", "expected a list `anchors` of pairs"),
    ],
)
def test_anchor_files_that_cannot_be_used_are_refused(tmp_path, text, message):
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(MoteError) as error:
        read_anchors(tmp_path / "a.yaml")
    assert message in str(error.value) and "expected" in str(error.value)


@pytest.mark.parametrize("poses", [True, False])
def test_anchors_may_name_training_frames(tmp_path, poses):
    frames = {f"view{k}": T for k, T in enumerate(VIEWS)}
    path = anchors_file(tmp_path / "a.yaml", VIEWS, FrameChange(T_NEW), poses)
    content = yaml.safe_load(path.read_text())
    for k, anchor in enumerate(content["anchors"]):
        del anchor["map"]
        anchor["frame"] = f"view{k}"
    content["anchors"].append({"frame": "left out", "target": content["anchors"][0]["target"]})
    path.write_text(yaml.safe_dump(content))
    change = fit_anchors(*read_anchors(path, frames), True).change
    np.testing.assert_allclose(change.T_new_map, T_NEW, atol=1e-6)
    with pytest.raises(MoteError, match="names a frame, but a finished map stores no frames"):
        read_anchors(path)


def test_a_frame_too_far_away_is_refused(tmp_path):
    far = FrameChange(rigid(np.eye(3), [500_000.0, 4_000_000.0, 0.0]))
    with pytest.raises(MapFileError, match="single precision loses centimetres"):
        transform_map(write(tmp_path), far, True)


def test_two_poses_at_one_place_anchor_a_metric_map(tmp_path):
    path = anchors_file(tmp_path / "a.yaml", [VIEWS[0]] * 2, FrameChange(T_NEW), True)
    change = fit_anchors(*read_anchors(path), True).change
    np.testing.assert_allclose(change.T_new_map, T_NEW, atol=1e-6)
    with pytest.raises(MoteError, match="determine no scale"):
        fit_anchors(*read_anchors(path), False)


def test_anchors_on_a_line_are_refused(tmp_path):
    line = [pose_from(np.array([k, 0.0, 0.0]), np.array([0, 0, 0, 1.0])) for k in range(4)]
    path = anchors_file(tmp_path / "a.yaml", line, FrameChange(T_NEW), False)
    with pytest.raises(MoteError, match="on one line"):
        fit_anchors(*read_anchors(path), True)


@pytest.fixture
def mote(run_command):
    return lambda arguments: run_command("mote", mote_localization.cli.main, arguments)


def test_the_command_writes_a_level_map(tmp_path, monkeypatch, mote, images):
    monkeypatch.chdir(tmp_path)
    tilt = FrameChange(rigid(exp_rotation(np.array([0.1, -0.2, 0.0])), np.zeros(3)))
    moved(write(tmp_path, keyframes=tuple(map(keyframe, VIEWS))), tilt, tmp_path)
    status, _, printed = mote("transform moved.onnx -o level.onnx --level floor")
    assert status == 0 and "tilt of the z axis" in printed
    first, second = (
        Localizer.open(name).localize(images[0], CAMERA) for name in ("room.onnx", "level.onnx")
    )
    np.testing.assert_allclose(first.T_map_cam[2], second.T_map_cam[2], atol=2e-3)


def test_the_command_writes_a_map_in_the_frame_of_anchors(tmp_path, monkeypatch, mote):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, metric=False)
    anchors_file(tmp_path / "anchors.yaml", VIEWS, FrameChange(T_NEW, 0.4), False)
    status, _, printed = mote("transform room.onnx -o moved.onnx --anchor anchors.yaml")
    assert status == 0 and "4, off by 0.0 cm (median), 0.0 cm (largest)" in printed
    assert read_map("moved.onnx").info.metric


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "found neither --level nor --anchor"),
        ("--level floor --anchor a.yaml", "expected one of them"),
        ("--level cameras", "stores no camera poses"),
        ("--level floor", "has no keyframes"),
        ("--anchor a.yaml", "a.yaml: cannot be read"),
    ],
)
def test_options_that_cannot_be_followed_write_nothing(
    tmp_path, monkeypatch, mote, arguments, message
):
    monkeypatch.chdir(tmp_path)
    write(tmp_path)
    status, _, errors = mote(f"transform room.onnx -o moved.onnx {arguments}")
    assert status == 1 and message in errors and not Path("moved.onnx").exists()
