"""The depth of keyframes becomes that which other images of known pose show."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed")
from make_map import CAMERA, room_points  # noqa: E402
from make_painted_room import keyframe, photograph, shifted  # noqa: E402

from distill_training.export.keyframe_refinement import refine_keyframes  # noqa: E402
from distill_training.reconstruction import ReconstructedFrame, Reconstruction  # noqa: E402
from mote_localization.keyframes import Keyframe  # noqa: E402

pytestmark = pytest.mark.train
POSES = {
    "own": shifted(0, 0, 0),
    "left": shifted(-0.6, 0, 0),
    "right": shifted(0.6, 0, 0.1),
    "above": shifted(0, -0.5, 0, omega=(0.05, 0, 0)),
    "far": shifted(2.0, 0, 0),
}


@pytest.fixture(scope="module")
def room(tmp_path_factory) -> Reconstruction:
    folder: Path = tmp_path_factory.mktemp("room")
    made = Reconstruction(folder / "r", "room", "rgbd", "", CAMERA, 8, {}, POSES)
    made.begin()
    for name, T_map_cam in POSES.items():
        points_hw3 = room_points(T_map_cam, CAMERA, 8)
        sigma_hw = np.full(points_hw3.shape[:2], 0.01, np.float32)
        frame = ReconstructedFrame(photograph(T_map_cam), points_hw3, sigma_hw)
        made.write_frame(name, frame)
    return made


def wrong(true: Keyframe, factor: float = 1.0) -> Keyframe:
    """Return a keyframe whose depth is wrong by up to 3 %, smoothly, and by a factor."""
    rows, columns = CAMERA.height // 8, CAMERA.width // 8
    error_hw = np.linspace(-0.03, 0.03, columns) * np.ones((rows, 1))
    return true.with_depth(true.depth_m().reshape(rows, columns) * factor * np.exp(error_hw))


def error(found: Keyframe, true: Keyframe) -> float:
    """Return the median relative error of a keyframe's depth."""
    return float(np.nanmedian(np.abs(found.depth_m() / true.depth_m() - 1)))


def test_smooth_errors_of_the_depth_are_corrected(room: Reconstruction):
    true = keyframe(POSES["own"])
    before = wrong(true, 1.01)
    (after,) = refine_keyframes(room, list(POSES), [before])
    assert error(before, true) > 0.015
    assert error(after, true) < 0.003
    assert after.image == before.image and after.T_map_cam == before.T_map_cam


def test_unknown_depth_stays_unknown(room: Reconstruction):
    true = keyframe(POSES["own"])
    depth_hw = true.depth_m().reshape(CAMERA.height // 8, -1)
    depth_hw[:4] = np.nan
    (after,) = refine_keyframes(room, list(POSES), [wrong(true.with_depth(depth_hw))])
    assert np.array_equal(np.isfinite(after.depth_m()), np.isfinite(depth_hw.ravel()))
    assert error(after, true) < 0.003


@pytest.mark.parametrize("names", [[], ["own"], ["far"]])
def test_without_frames_around_it_a_keyframe_keeps_its_depth(room: Reconstruction, names):
    before = wrong(keyframe(POSES["own"]))
    assert refine_keyframes(room, names, [before]) == [before]


def test_a_keyframe_without_depth_stays_without(room: Reconstruction):
    before = keyframe(POSES["own"], hidden=True)
    assert refine_keyframes(room, list(POSES), [before]) == [before]


def test_images_of_another_place_change_little(room: Reconstruction, tmp_path: Path):
    """Little is tracked into noise, so that the depth stays what was measured."""
    rng = np.random.default_rng(0)
    made = Reconstruction(tmp_path / "noise", "noise", "rgbd", "", CAMERA, 8, {}, POSES)
    made.begin()
    for name in POSES:
        frame = room.read_frame(name)
        noise_hw3 = rng.integers(0, 255, frame.image_hw3.shape, np.uint8)
        made.write_frame(name, replace(frame, image_hw3=noise_hw3))
    before = wrong(keyframe(POSES["own"]))
    (after,) = refine_keyframes(made, list(POSES), [before])
    assert error(after, before) < 0.01
