"""Keyframes: a pose that is roughly right becomes right, one that they do not show is lost."""

import json
from dataclasses import replace

import numpy as np
import onnx
import pytest
from make_map import CAMERA, T_MAP_CAM, room_points, write_constant_map

from mote_localization.camera import Camera
from mote_localization.errors import MapFileError
from mote_localization.geometry import exp_rotation, invert, local_coordinates, retract, transform
from mote_localization.keyframes import MAX_KEYFRAMES, Keyframe
from mote_localization.localizer import Localization, Localizer, Status
from mote_localization.map_file import MapFile, read_map, write_map

_WAVES = np.random.default_rng(0).normal(0, 12, (60, 3))  # rad/m: of some decimetres
_PHASES = np.random.default_rng(1).uniform(0, 2 * np.pi, 60)
WRONG_6 = np.array([0.12, -0.08, 0.1, 0.02, -0.03, 0.02])  # m and rad, of what the student says


def photograph(T_map_cam: np.ndarray) -> np.ndarray:
    """The box room, its walls painted with waves, as a camera sees it."""
    points = room_points(T_map_cam, CAMERA, 1).astype(np.float64)
    paint = np.sin(points @ _WAVES.T + _PHASES).sum(axis=-1)
    grey = np.clip(128 + 12 * paint, 0, 255).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=-1)


def keyframe(T_map_cam: np.ndarray, hidden: bool = False) -> Keyframe:
    points_hw3 = room_points(T_map_cam, CAMERA, 8)
    return Keyframe.record(
        T_map_cam, photograph(T_map_cam), np.full_like(points_hw3, np.nan) if hidden else points_hw3
    )


def beside(*metres: float, turn: tuple[float, float, float] = (0, 0, 0)) -> np.ndarray:
    """The camera of the room, moved along its own axes and turned about them."""
    T = T_MAP_CAM.copy()
    T[:3, 3] += T[:3, :3] @ metres
    T[:3, :3] = T[:3, :3] @ exp_rotation(np.array(turn))
    return T


KEYFRAMES = (
    keyframe(beside(-0.5, 0, 0)),
    keyframe(beside(0.4, 0.1, -0.3, turn=(0, -0.2, 0))),
    keyframe(beside(0, 0, -0.6, turn=(0.1, 0.1, 0.3))),
)


class Student:
    """A backend that is wrong by a motion about where the camera is."""

    def __init__(self, T_map_cam: np.ndarray, wrong_6: np.ndarray) -> None:
        self._points_hw3 = room_points(T_map_cam, CAMERA, 8)
        self._error = retract(T_map_cam, wrong_6) @ invert(T_map_cam)

    def predict(self, image_hw3: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        points_hw3 = transform(self._error, self._points_hw3).astype(np.float32)
        return points_hw3, np.full(points_hw3.shape[:2], 0.05, np.float32)


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> MapFile:
    return read_map(write_constant_map(tmp_path_factory.mktemp("map") / "room.onnx"))


def localize(
    plain: MapFile,
    keyframes: tuple[Keyframe, ...] = KEYFRAMES,
    image_hw3: np.ndarray | None = None,
    wrong_6: np.ndarray = WRONG_6,
) -> Localization:
    """Localize a photograph taken at T_MAP_CAM by a student that is wrong."""
    info = replace(plain.info, keyframes=keyframes)
    localizer = Localizer(replace(plain, info=info), Student(T_MAP_CAM, wrong_6))
    return localizer.localize(photograph(T_MAP_CAM) if image_hw3 is None else image_hw3, CAMERA)


def error_6(found: Localization) -> np.ndarray:
    assert found.status is Status.LOCALIZED, found.reason
    return local_coordinates(T_MAP_CAM, found.T_map_cam)


def test_a_wrong_pose_is_mended(plain: MapFile):
    assert np.allclose(error_6(localize(plain, ())), WRONG_6, atol=5e-3)
    assert np.abs(error_6(localize(plain))).max() < 5e-3


def test_a_right_pose_stays(plain: MapFile):
    assert np.abs(error_6(localize(plain, wrong_6=np.zeros(6)))).max() < 5e-3


def test_the_light_may_have_changed(plain: MapFile):
    darker = (0.5 * photograph(T_MAP_CAM) + np.linspace(0, 80, CAMERA.width)[:, None]).astype("u1")
    assert np.abs(error_6(localize(plain, image_hw3=darker))).max() < 1e-2


def test_a_camera_that_sees_less_finds_its_pose_by_what_it_sees(plain: MapFile):
    """The border of what it sees is an edge in the image, not in the place."""
    narrow = Camera(200, 240, CAMERA.fx, CAMERA.fy, CAMERA.cx - 60, CAMERA.cy)
    info = replace(plain.info, keyframes=KEYFRAMES)
    localizer = Localizer(replace(plain, info=info), Student(T_MAP_CAM, WRONG_6))
    found = localizer.localize(np.ascontiguousarray(photograph(T_MAP_CAM)[:, 60:260]), narrow)
    assert np.abs(error_6(found)).max() < 1e-2
    assert found.cells <= 2 * found.covered_hw.sum() < 2 * found.covered_hw.size


def test_the_covariance_is_that_of_the_matches_with_the_keyframes(plain: MapFile):
    found = localize(plain)
    deviations = np.sqrt(found.covariance_66.diagonal())
    assert (np.abs(error_6(found)) < 4 * deviations).all() and deviations.max() < 0.02


@pytest.mark.parametrize(
    "image_hw3",
    [
        np.zeros((CAMERA.height, CAMERA.width, 3), np.uint8),
        np.random.default_rng(0).integers(0, 255, (CAMERA.height, CAMERA.width, 3), np.uint8),
        photograph(beside(0, 0, 0, turn=(0, 2.5, 0))),
    ],
    ids=["black", "noise", "another wall"],
)
def test_what_the_keyframes_do_not_confirm_is_lost(plain: MapFile, image_hw3: np.ndarray):
    found = localize(plain, image_hw3=image_hw3)
    assert found.status is Status.LOST and found.T_map_cam is None
    assert found.reason


def test_keyframes_that_look_elsewhere_confirm_nothing(plain: MapFile):
    found = localize(plain, (keyframe(beside(0, 0, 0, turn=(0, 2.5, 0))),))
    assert found.status is Status.LOST
    assert "0 points of the keyframes found in the image, expected 40" in found.reason


def test_without_its_depth_a_keyframe_tells_nothing(plain: MapFile):
    assert localize(plain, (keyframe(T_MAP_CAM, hidden=True),)).status is Status.LOST


def test_a_student_that_predicts_nonsense_is_lost(plain: MapFile):
    info = replace(plain.info, keyframes=KEYFRAMES)

    class Nonsense(Student):
        def predict(self, image_hw3):
            points_hw3, sigma_hw = super().predict(image_hw3)
            return np.where(np.arange(40)[:, None] % 2, points_hw3, np.nan), sigma_hw

    localizer = Localizer(replace(plain, info=info), Nonsense(T_MAP_CAM, WRONG_6))
    assert np.abs(error_6(localizer.localize(photograph(T_MAP_CAM), CAMERA))).max() < 1e-2


def write(plain: MapFile, tmp_path, **entries: str):
    """Write the map with keyframes, some entries of its description changed."""
    path = tmp_path / "with_keyframes.onnx"
    info = replace(plain.info, keyframes=KEYFRAMES)
    write_map(path, onnx.load_model_from_string(plain.model), info)
    if entries:
        model = onnx.load(path)
        properties = {p.key: p.value for p in model.metadata_props}
        properties.update({f"mote.{name}": text for name, text in entries.items()})
        onnx.helper.set_model_props(model, properties)
        path.write_bytes(model.SerializeToString())
    return path


def test_what_is_written_is_read(plain: MapFile, tmp_path):
    read = read_map(write(plain, tmp_path)).info
    assert read == replace(plain.info, keyframes=KEYFRAMES)
    assert read.format_version == 3


def test_readers_that_know_no_keyframes_do_not_read_them(plain: MapFile, tmp_path):
    with pytest.raises(MapFileError, match="format version 2, expected 3 or later"):
        read_map(write(plain, tmp_path, format_version="2"))


_POSE = np.eye(4).tolist()


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        "much",
        [0],
        [{}],
        [{"T_map_cam": _POSE, "image": "", "depth": ""}],
        [{"T_map_cam": _POSE, "image": "é", "depth": ""}],
        [{"T_map_cam": _POSE[:3], "image": "", "depth": ""}],
        [{"T_map_cam": np.ones((4, 4)).tolist(), "image": "", "depth": ""}],
        [{"T_map_cam": [[1, 0, 0, 1e7], *_POSE[1:]], "image": "", "depth": ""}],
        [{}] * (MAX_KEYFRAMES + 1),
    ],
)
def test_wrong_keyframes_are_refused(plain: MapFile, tmp_path, wrong):
    with pytest.raises(MapFileError, match="with_keyframes.onnx: "):
        read_map(write(plain, tmp_path, keyframes=json.dumps(wrong)))


def test_keyframes_of_another_size_are_refused(plain: MapFile):
    short = replace(KEYFRAMES[0], depth=KEYFRAMES[0].depth[:-2])
    with pytest.raises(MapFileError, match="2398 bytes of depth, expected 2400"):
        replace(plain.info, keyframes=(short,))
    small = replace(plain.info.camera, width=160)
    with pytest.raises(MapFileError, match=r"image of \(320, 240\) px, expected \(160, 240\)"):
        replace(plain.info, camera=small, keyframes=KEYFRAMES)


def test_keyframes_that_would_fill_the_memory_are_refused(plain: MapFile):
    vast = Camera(16384, 8192, 9e3, 9e3, 8e3, 4e3)
    with pytest.raises(MapFileError, match="found 3 keyframes of 16384x8192 px"):
        replace(plain.info, camera=vast, keyframes=KEYFRAMES)


def test_more_than_a_map_can_hold_is_not_written(plain: MapFile, tmp_path):
    padded = replace(KEYFRAMES[0], image=KEYFRAMES[0].image + bytes(1 << 23))
    info = replace(plain.info, keyframes=(padded,) * 4)
    with pytest.raises(MapFileError, match="keyframes has .* characters, expected at most"):
        write_map(tmp_path / "vast.onnx", onnx.load_model_from_string(plain.model), info)
    assert not list(tmp_path.iterdir())


def test_a_depth_without_end_is_no_depth(plain: MapFile):
    endless = np.full((CAMERA.height // 8, CAMERA.width // 8), np.inf, "<f2").tobytes()
    keyframes = tuple(replace(keyframe, depth=endless) for keyframe in KEYFRAMES)
    assert localize(plain, keyframes).status is Status.LOST
    some = (*KEYFRAMES, replace(KEYFRAMES[0], depth=endless))
    assert np.abs(error_6(localize(plain, some))).max() < 5e-3


def test_a_damaged_photograph_is_refused(plain: MapFile):
    torn = replace(KEYFRAMES[0], image=KEYFRAMES[0].image[:700])
    info = replace(plain.info, keyframes=(torn,))
    with pytest.raises(MapFileError, match="a keyframe of the map is damaged"):
        Localizer(replace(plain, info=info), Student(T_MAP_CAM, WRONG_6))
