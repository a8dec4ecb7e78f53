"""The demo: the map in the repository localizes the drive that `make demo` plays."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from make_bag import T_BASE_CAM, a_packed, a_static, a_transform, an_info, record

import demo_room as room
from demo_room.record import write_bag
from mote_localization.evaluation.localize_frames import localize_frames
from mote_localization.evaluation.over_ros import replay
from mote_localization.geometry import invert, rotation_angle
from mote_localization.localizer import Localizer
from mote_localization.scenes import open_scene
from mote_localization.scenes.bags import BagScene

MAP = Path(__file__).resolve().parent.parent / "maps/demo_room.onnx"


@pytest.fixture(scope="module")
def errors_n2() -> np.ndarray:
    """Position (m) and rotation (deg) errors of a tenth of the demo frames; inf if lost."""
    localizer = Localizer.open(MAP)
    errors = []
    for T_map_cam in room.drive(12.0, 3.0, seed=0)[1]:
        found = localizer.localize(room.render(T_map_cam, room.CAMERA)[0], room.CAMERA).T_map_cam
        if found is None:
            errors.append((np.inf, 180.0))
            continue
        metres = np.linalg.norm(found[:3, 3] - T_map_cam[:3, 3])
        degrees = np.degrees(rotation_angle(found[:3, :3].T @ T_map_cam[:3, :3]))
        errors.append((metres, degrees))
    return np.array(errors)


def test_the_demo_map_is_small():
    assert MAP.stat().st_size <= 6_000_000


def test_the_demo_map_localizes_the_drive(errors_n2: np.ndarray):
    assert np.mean((errors_n2[:, 0] < 0.05) & (errors_n2[:, 1] < 5)) >= 0.95


def test_no_pose_of_the_demo_has_a_large_error(errors_n2: np.ndarray):
    assert errors_n2[np.isfinite(errors_n2[:, 0]), 0].max() < 0.25


def test_compressed_images_and_transforms_give_the_same_poses(tmp_path: Path):
    stamps_s, poses = room.drive(2.0, 10.0, seed=0)
    write_bag(tmp_path / "drive", stamps_s, poses, room.CAMERA)
    raw = open_scene(tmp_path / "drive")
    K, size = room.CAMERA.K_33.reshape(9), dict(width=room.CAMERA.width, height=room.CAMERA.height)
    messages = [a_static(T_BASE_CAM, "base_link", "camera")]
    for frame in raw.frames("test"):
        stamp_ns = round(frame.stamp_s * 1e9)
        quality = [cv2.IMWRITE_JPEG_QUALITY, 80]  # as image_transport sets it
        jpeg = cv2.imencode(".jpg", frame.image()[..., ::-1], quality)[1].tobytes()
        messages.append(a_packed(stamp_ns, "/camera/image_raw/compressed", "jpeg", jpeg))
        messages.append(an_info(stamp_ns, "/camera/camera_info", k=K, **size))
        T_map_base = frame.known_pose() @ invert(T_BASE_CAM)
        messages.append(a_transform(stamp_ns, T_map_base, "map", "base_link"))
    compressed = open_scene(record(tmp_path / "compressed", *messages))
    localizer = Localizer.open(MAP, threads=1)
    moved_m = []
    for one, other in zip(
        *(localize_frames(localizer, scene.frames("test")) for scene in (raw, compressed)),
        strict=True,
    ):
        np.testing.assert_allclose(other.T_map_cam_true, one.T_map_cam_true, atol=1e-6)
        moved_m.append(np.linalg.norm(other.T_map_cam[:3, 3] - one.T_map_cam[:3, 3]))
    assert len(moved_m) == 20 and np.median(moved_m) < 0.002


@pytest.mark.ros
def test_the_node_gives_the_same_poses_with_less_than_400_mb(tmp_path: Path):
    stamps_s, poses = room.drive(2.0, 10.0, seed=0)
    write_bag(tmp_path / "drive", stamps_s, poses, room.CAMERA)
    scene = BagScene(tmp_path / "drive")
    answers, transport = replay(scene, "test", MAP, "onnxruntime", threads=1, rate=0.3)
    alone = list(
        localize_frames(Localizer.open(MAP, threads=1), scene.frames("test"), tracking=True)
    )
    assert transport.node_peak_mb < 400
    assert sum(answer.answered for answer in answers) >= 19
    for over_ros, without in zip(answers, alone, strict=True):
        if over_ros.answered:
            assert over_ros.T_map_cam == pytest.approx(without.T_map_cam, abs=1e-3)
