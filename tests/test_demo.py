"""The demo: the map in the repository localizes the drive that `make demo` plays."""

from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from make_bag import T_BASE_CAM, a_packed, a_static, a_transform, an_info, record

import demo_room as room
from demo_room.record import write_bag
from mote_localization.evaluation.localize_frames import localize_frames
from mote_localization.evaluation.over_ros import replay
from mote_localization.geometry import exp_rotation, invert, rigid, rotation_angle
from mote_localization.images import decode
from mote_localization.localizer import Localizer
from mote_localization.scenes import open_scene
from mote_localization.scenes.bags import BagScene

MAP = Path(__file__).resolve().parent.parent / "maps/demo_room.onnx"


Views = list[tuple[np.ndarray, np.ndarray]]  # image_hw3 and T_map_cam


@pytest.fixture(scope="module")
def localizer() -> Localizer:
    return Localizer.open(MAP)


@pytest.fixture(scope="module")
def views() -> Views:
    """A tenth of the demo frames."""
    poses = room.drive(12.0, 3.0, seed=0)[1]
    return [(room.render(T_map_cam, room.CAMERA)[0], T_map_cam) for T_map_cam in poses]


def error(found: np.ndarray | None, T_map_cam: np.ndarray) -> tuple[float, float]:
    """Return the errors of position (m) and rotation (deg); infinite if lost."""
    if found is None:
        return np.inf, 180.0
    metres = float(np.linalg.norm(found[:3, 3] - T_map_cam[:3, 3]))
    return metres, float(np.degrees(rotation_angle(found[:3, :3].T @ T_map_cam[:3, :3])))


@pytest.fixture(scope="module")
def errors_n2(localizer: Localizer, views: Views) -> np.ndarray:
    """Position (m) and rotation (deg) errors."""
    found = [localizer.localize(image_hw3, room.CAMERA).T_map_cam for image_hw3, _ in views]
    return np.array([error(pose, T) for pose, (_, T) in zip(found, views, strict=True)])


def test_the_demo_map_is_small():
    assert MAP.stat().st_size <= 6_000_000


def test_the_demo_map_localizes_the_drive(errors_n2: np.ndarray):
    assert np.mean((errors_n2[:, 0] < 0.05) & (errors_n2[:, 1] < 5)) >= 0.95


def test_no_pose_of_the_demo_has_a_large_error(errors_n2: np.ndarray):
    assert errors_n2[np.isfinite(errors_n2[:, 0]), 0].max() < 0.25


@pytest.mark.parametrize("bits", [8, 12, 14, 16])
def test_grey_images_are_localized_in_the_colour_map(localizer: Localizer, views: Views, bits: int):
    encoding, most = ("mono8", 255) if bits == 8 else ("mono16", (1 << bits) - 1)
    for image_hw3, T_map_cam in views[::6]:
        grey_hw = cv2.cvtColor(image_hw3, cv2.COLOR_RGB2GRAY) * (most / 255)
        values_hw = grey_hw.astype("u1" if bits == 8 else "<u2")
        message = SimpleNamespace(
            encoding=encoding, height=480, width=640, step=values_hw.strides[0],
            data=values_hw.tobytes(), is_bigendian=False,
        )  # fmt: skip
        metres, degrees = error(
            localizer.localize(decode(message), room.CAMERA).T_map_cam, T_map_cam
        )
        assert metres < 0.01 and degrees < 0.5


def test_a_wrong_pose_that_a_user_gives_does_no_harm(localizer: Localizer, views: Views):
    random, info = np.random.default_rng(0), localizer.info
    low, high = np.array(info.bounds_min), np.array(info.bounds_max)
    for image_hw3, T_map_cam in views[:: len(views) // 10]:
        position = random.uniform(low - (high - low) / 4, high + (high - low) / 4)
        given = rigid(exp_rotation(random.normal(size=3)), position)
        found = localizer.localize(image_hw3, room.CAMERA, localizer.tracking_at(given))
        metres, degrees = error(found.T_map_cam, T_map_cam)
        assert metres < 0.01 and degrees < 0.5
        following = localizer.localize(image_hw3, room.CAMERA, found.tracking)
        assert error(following.T_map_cam, T_map_cam)[0] < 0.01


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
