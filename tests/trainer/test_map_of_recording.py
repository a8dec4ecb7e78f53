"""A rosbag2 recording gives the same reconstruction as a folder of its frames."""

import json
import shutil
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import pytest
from make_bag import (
    T_BASE_CAM,
    a_depth,
    a_packed,
    a_static,
    a_transform,
    an_image,
    an_info,
    record,
)

from distill_training.poses.poses_config import PosesConfig
from distill_training.poses.scene_poses import find_poses
from distill_training.reconstruction import Reconstruction
from distill_training.teachers.teacher_options import Teacher
from mote_localization.geometry import invert, rotation_angle
from mote_localization.scenes import RecordingOptions, open_scene

FRAMES = 6
PERIOD_NS = 100_000_000
TEACHER = Teacher("rgbd", PosesConfig("given"))


def recorded(path: Path, kitchen: Path, storage: str, images: str, depths: str) -> Path:
    """Record frames of the kitchen as a robot does: /tf at 100 Hz, a camera on its base."""
    messages = [a_static(T_BASE_CAM, "base_link", "camera")]
    frames = list(islice(open_scene(kitchen).frames("train"), FRAMES))
    bases = [frame.known_pose() @ invert(T_BASE_CAM) for frame in frames]
    for number, frame in enumerate(frames):
        stamp = (number + 1) * PERIOD_NS
        image_hw3, depth_hw, camera = frame.image(), frame.known_depth(), frame.known_camera()
        if images == "raw":
            size = dict(height=480, width=640, step=1920, encoding="rgb8")
            messages.append(an_image(stamp, data=image_hw3.reshape(-1), **size))
        else:
            jpeg = cv2.imencode(".jpg", image_hw3[..., ::-1])[1].tobytes()
            messages.append(a_packed(stamp, "/cam/image/compressed", "jpeg", jpeg))
        K = camera.K_33.reshape(9)
        messages.append(an_info(stamp, width=640, height=480, k=K))
        messages.append(a_depth(stamp, depth_hw, depths))
        for step in range(10):  # the base stands still until the next image
            at = stamp + step * PERIOD_NS // 10
            messages.append(a_transform(at, bases[number], "odom", "base_link"))
    return record(path, *messages, storage=storage)


def reconstruct(scene: Path, folder: Path) -> Reconstruction:
    return TEACHER.reconstruct(scene, folder)


@pytest.fixture(scope="module")
def of_folder(kitchen: Path, tmp_path_factory: pytest.TempPathFactory) -> Reconstruction:
    folder = tmp_path_factory.mktemp("folder")
    (folder / "data").symlink_to(kitchen / "data")
    shutil.copy(kitchen / "camera-intrinsics.txt", folder)
    names = [frame.name for frame in islice(open_scene(kitchen).frames("train"), FRAMES)]
    (folder / "train.txt").write_text("\n".join(names))
    return reconstruct(folder, folder / "r")


@pytest.mark.parametrize(
    ("storage", "images", "depths"),
    [("mcap", "raw", "16UC1"), ("sqlite3", "raw", "32FC1"), ("mcap", "jpeg", "16UC1")],
)
def test_the_reconstruction_is_that_of_the_folder(
    kitchen: Path, of_folder: Reconstruction, tmp_path: Path, storage: str, images: str, depths: str
):
    made = reconstruct(recorded(tmp_path / "b", kitchen, storage, images, depths), tmp_path / "r")
    names = list(of_folder.poses)
    assert made.camera == of_folder.camera and len(made.poses) == FRAMES
    for name, (own, T_map_cam) in zip(names, made.poses.items(), strict=True):
        difference = invert(of_folder.poses[name]) @ T_map_cam
        assert np.linalg.norm(difference[:3, 3]) < 1e-4
        assert np.degrees(rotation_angle(difference[:3, :3])) < 1e-3
        expected, found = of_folder.read_frame(name), made.read_frame(own)
        np.testing.assert_allclose(found.points_hw3, expected.points_hw3, atol=2e-4)
        grey = np.abs(found.image_hw3.astype(int) - expected.image_hw3)
        assert grey.mean() < 3 if images == "jpeg" else not grey.any()


@pytest.mark.parametrize("unit_m", [None, 0.5])
def test_poses_of_a_known_unit_give_a_map_in_metres(tmp_path: Path, unit_m: float | None):
    T_map_cam = np.eye(4)
    T_map_cam[:3, 3] = 1, 2, 3
    frames = []
    for name in ("a.png", "b.png"):
        cv2.imwrite(str(tmp_path / name), np.zeros((48, 64, 3), np.uint8))
        frames.append({"file_path": name, "transform_matrix": T_map_cam.tolist()})
    (tmp_path / "transforms.json").write_text(json.dumps({"fl_x": 60, "frames": frames}))
    plan = Teacher("sfm").plan(tmp_path, RecordingOptions(unit_m=unit_m))
    found = find_poses(plan.scene, PosesConfig("given"))
    assert found.metric == (unit_m is not None)
    assert found.T_map_cam["a"][:3, 3].tolist() == [(unit_m or 1) * x for x in (1, 2, 3)]
