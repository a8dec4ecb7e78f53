"""How a map stores keyframes: their size, old forms, and what is refused."""

import base64
import json
from dataclasses import replace
from pathlib import Path

import cv2
import msgspec
import numpy as np
import onnx
import pytest
from make_map import CAMERA, T_MAP_CAM, room_points, write_constant_map
from make_painted_room import keyframe, photograph, shifted
from test_keyframes import KEYFRAMES, Student

from mote_localization.camera import Camera
from mote_localization.errors import MapFileError
from mote_localization.image_files import encode_jpeg, encode_png
from mote_localization.keyframes import MAX_KEYFRAMES, Keyframe
from mote_localization.localizer import Localizer, Status
from mote_localization.map_file import MapFile, read_map, write_map
from mote_localization.map_transform import FrameChange, transform_map

_CELLS_HW = (CAMERA.height // 8, CAMERA.width // 8)
_DEPTH_HW = np.geomspace(1e-3, 1e4, 1200).reshape(_CELLS_HW)


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> MapFile:
    return read_map(write_constant_map(tmp_path_factory.mktemp("map") / "room.onnx"))


def write(plain: MapFile, folder: Path, packed: bytes | None = None, **entries: str) -> Path:
    """Write the map with keyframes: with others, packed, or with metadata entries replaced."""
    path = folder / "with_keyframes.onnx"
    info = replace(plain.info, keyframes=KEYFRAMES)
    write_map(path, onnx.load_model_from_string(plain.model), info)
    model = onnx.load(path)
    properties = {p.key: p.value for p in model.metadata_props if p.key != "mote.checksum"}
    if "format_version" in entries:
        del properties["mote.pose_calibration"]
        properties["mote.covariance_scale"] = "1.0"
    properties.update({f"mote.{name}": text for name, text in entries.items()})
    onnx.helper.set_model_props(model, properties)
    if packed is not None:
        model.training_info[0].initialization.initializer[0].raw_data = packed
    if "keyframes" in entries:
        del model.training_info[:]
    path.write_bytes(model.SerializeToString())
    return path


def in_old_form(one: Keyframe) -> Keyframe:
    """Return a keyframe as maps of format version 3 store it: JPEG and float16."""
    return replace(
        one, image=encode_jpeg(one.grey_hw(), 70), depth=one.depth_m().astype("<f2").tobytes()
    )


def as_json(keyframes: tuple[Keyframe, ...]) -> str:
    """Return the metadata entry of keyframes in format version 3."""
    return json.dumps(
        [
            {
                "T_map_cam": one.T_map_cam,
                "image": base64.b64encode(one.image).decode(),
                "depth": base64.b64encode(one.depth).decode(),
            }
            for one in keyframes
        ]
    )


def located(plain: MapFile, keyframes: tuple[Keyframe, ...]) -> np.ndarray:
    """Return the pose of an image that a student with a wrong pose finds with keyframes."""
    info = replace(plain.info, keyframes=keyframes)
    error_6 = np.array([0.12, -0.08, 0.1, 0.02, -0.03, 0.02])
    localizer = Localizer(replace(plain, info=info), Student(T_MAP_CAM, error_6))
    found = localizer.localize(photograph(T_MAP_CAM), CAMERA)
    assert found.status is Status.LOCALIZED, found.reason
    return found.T_map_cam


def test_reading_returns_what_was_written(plain: MapFile, tmp_path):
    read = read_map(write(plain, tmp_path)).info
    assert read == replace(plain.info, keyframes=KEYFRAMES)


def test_writing_keyframes_again_replaces_those_of_the_file(plain: MapFile, tmp_path):
    first = read_map(write(plain, tmp_path))
    for keyframes in (KEYFRAMES[:1], ()):
        info = replace(first.info, keyframes=keyframes)
        write_map(tmp_path / "again.onnx", onnx.load_model_from_string(first.model), info)
        assert read_map(tmp_path / "again.onnx").info.keyframes == keyframes


def test_a_keyframe_takes_little_more_of_the_file_than_its_image_and_depth(plain, tmp_path):
    files = []
    for count in (1, 3):
        info = replace(plain.info, keyframes=KEYFRAMES[:count])
        write_map(tmp_path / "map.onnx", onnx.load_model_from_string(plain.model), info)
        files.append((tmp_path / "map.onnx").stat().st_size)
    content = sum(len(one.image) + len(one.depth) for one in KEYFRAMES[1:])
    assert content < files[1] - files[0] < content + 2 * 250


def test_stored_depth_differs_by_at_most_half_a_step():
    stored = KEYFRAMES[0].with_depth(_DEPTH_HW).depth_m()
    relative = stored / _DEPTH_HW.reshape(-1) - 1
    assert 1e-4 < np.abs(relative).max() < 0.00126


def test_unknown_depth_stays_unknown():
    unknown_hw = np.full(_CELLS_HW, np.nan)
    unknown_hw[0, :3] = np.inf, 0, -1
    unknown_hw[3, 5] = 2.5
    stored_hw = KEYFRAMES[0].with_depth(unknown_hw).depth_m().reshape(_CELLS_HW)
    assert np.isfinite(stored_hw).sum() == 1 and stored_hw[3, 5] == pytest.approx(2.5, rel=2e-3)


def test_depth_of_smooth_surfaces_takes_less_than_half_of_float16():
    points_hw3 = room_points(T_MAP_CAM, CAMERA, 8)
    one = Keyframe.record(T_MAP_CAM, photograph(T_MAP_CAM), points_hw3)
    assert len(one.depth) < 0.5 * 2 * one.depth_m().size
    expected_hw = (points_hw3 - T_MAP_CAM[:3, 3]) @ T_MAP_CAM[:3, 2]
    np.testing.assert_allclose(one.depth_m(), expected_hw.reshape(-1), rtol=1.3e-3)


def test_keyframes_of_format_version_3_are_read_and_localize_as_well(plain: MapFile, tmp_path):
    old = tuple(map(in_old_form, KEYFRAMES))
    path = write(plain, tmp_path, keyframes=as_json(old), format_version="3")
    assert read_map(path).info.keyframes == old
    assert np.abs(located(plain, old) - located(plain, KEYFRAMES)).max() < 5e-3


def test_old_depth_is_read_exactly():
    one = replace(KEYFRAMES[0], depth=_DEPTH_HW.astype("<f2").tobytes())
    assert (one.depth_m() == _DEPTH_HW.astype("<f2").reshape(-1)).all()


@pytest.mark.parametrize("old", [True, False])
def test_change_of_scale_scales_depth_of_either_form(plain: MapFile, old: bool):
    one = in_old_form(KEYFRAMES[0]) if old else KEYFRAMES[0]
    changed = FrameChange(np.eye(4), 3.0)
    info = replace(plain.info, keyframes=(one,))
    _, moved = transform_map(replace(plain, info=info), changed, metric=True)
    scaled = moved.keyframes[0].depth_m()
    np.testing.assert_allclose(scaled, 3 * one.depth_m(), rtol=1.3e-3)


def test_change_of_frame_alone_keeps_the_stored_depth(plain: MapFile):
    keyframes = (KEYFRAMES[0], in_old_form(KEYFRAMES[1]))
    info = replace(plain.info, keyframes=keyframes)
    change = FrameChange(shifted(0, 0, 1), 1.0)
    _, moved = transform_map(replace(plain, info=info), change, metric=True)
    assert [one.depth for one in moved.keyframes] == [one.depth for one in keyframes]


@pytest.mark.parametrize("version", ["2", "3"])
def test_keyframes_in_an_older_format_version_are_refused(plain: MapFile, tmp_path, version: str):
    with pytest.raises(
        MapFileError, match=f"format version {version}, expected version 4 or later"
    ):
        read_map(write(plain, tmp_path, format_version=version))
    old = as_json(tuple(map(in_old_form, KEYFRAMES)))
    with pytest.raises(MapFileError, match="format version 2, expected version 3 or later"):
        read_map(write(plain, tmp_path, keyframes=old, format_version="2"))


_POSE = np.eye(4).tolist()
_WRONG = [
    {},
    "text",
    [0],
    [{}],
    [{"T_map_cam": _POSE, "image": "", "depth": ""}],
    [{"T_map_cam": _POSE, "image": "é", "depth": ""}],
    [{"T_map_cam": _POSE[:3], "image": "", "depth": ""}],
    [{"T_map_cam": np.ones((4, 4)).tolist(), "image": "", "depth": ""}],
    [{"T_map_cam": [[1, 0, 0, 1e7], *_POSE[1:]], "image": "", "depth": ""}],
    [{}] * (MAX_KEYFRAMES + 1),
    [{"T_map_cam": [[True, 0, 0, 0], *_POSE[1:]], "image": "", "depth": ""}],
    [{"T_map_cam": [["1", 0, 0, 0], *_POSE[1:]], "image": "", "depth": ""}],
    [{"T_map_cam": [[[1], 0, 0, 0], *_POSE[1:]], "image": "", "depth": ""}],
    [{"T_map_cam": [[float("nan"), 0, 0, 0], *_POSE[1:]], "image": "", "depth": ""}],
    [{"T_map_cam": [[1, 0, 0], *_POSE[1:]], "image": "", "depth": ""}],
]


@pytest.mark.parametrize("wrong", _WRONG)
def test_invalid_keyframes_are_refused(plain: MapFile, tmp_path, wrong):
    with pytest.raises(MapFileError, match="with_keyframes.onnx: "):
        read_map(write(plain, tmp_path, keyframes=json.dumps(wrong)))
    with pytest.raises(MapFileError, match="with_keyframes.onnx: "):
        read_map(write(plain, tmp_path, packed=msgspec.msgpack.encode(wrong)))


_PACKED = msgspec.msgpack.encode(KEYFRAMES)


@pytest.mark.parametrize(
    "packed",
    [b"", _PACKED[:-1], _PACKED + b"\0", b"\xdd\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff"],
    ids=["empty", "truncated", "longer", "array without end", "bytes without end"],
)
def test_damaged_keyframes_are_refused(plain: MapFile, tmp_path, packed: bytes):
    with pytest.raises(MapFileError, match="keyframes.onnx: its keyframes are damaged") as caught:
        read_map(write(plain, tmp_path, packed=packed))
    assert "make it again" in str(caught.value)


def test_flipped_bits_of_keyframes_never_give_another_error(plain: MapFile, tmp_path):
    rng = np.random.default_rng(0)
    for _ in range(40):
        damaged = bytearray(_PACKED)
        for i in rng.integers(0, len(damaged), 20):
            damaged[i] ^= 1 << int(rng.integers(8))
        try:
            keyframes = read_map(write(plain, tmp_path, packed=bytes(damaged))).info.keyframes
            for one in keyframes:
                assert one.grey_hw().shape == (CAMERA.height, CAMERA.width)
                assert one.depth_m().shape == (1200,)
        except MapFileError:
            pass


def test_keyframes_of_another_size_are_refused(plain: MapFile):
    short = replace(in_old_form(KEYFRAMES[0]), depth=bytes(2398))
    with pytest.raises(
        MapFileError, match="depth of unknown cells in 2398 bytes, expected .* 2400"
    ):
        replace(plain.info, keyframes=(short,))
    narrow = KEYFRAMES[0].with_depth(_DEPTH_HW[:, :20])
    with pytest.raises(MapFileError, match=r"depth of \(20, 30\) cells .* PNG of \(40, 30\) px"):
        replace(plain.info, keyframes=(narrow,))
    small = replace(plain.info.camera, width=160)
    with pytest.raises(MapFileError, match=r"image of \(320, 240\) px, expected \(160, 240\)"):
        replace(plain.info, camera=small, keyframes=KEYFRAMES)


def test_depth_of_8_bits_is_refused():
    one = replace(KEYFRAMES[0], depth=encode_png(np.ones(_CELLS_HW, np.uint8)))
    with pytest.raises(MapFileError, match="depth of 8 bits, expected 16"):
        one.depth_m()


def test_too_large_keyframes_are_refused(plain: MapFile):
    large = Camera(2048, 2048, 9e3, 9e3, 8e3, 4e3)
    with pytest.raises(MapFileError, match="found 39 keyframes of 2048x2048 px"):
        replace(plain.info, camera=large, stride=16, keyframes=KEYFRAMES * 13)


def test_too_many_bytes_of_keyframes_are_not_written(plain: MapFile, tmp_path):
    padded = replace(KEYFRAMES[0], image=KEYFRAMES[0].image + bytes(1 << 23))
    info = replace(plain.info, keyframes=(padded,) * 4)
    with pytest.raises(MapFileError, match="found 32 MiB of keyframes, expected at most"):
        write_map(tmp_path / "vast.onnx", onnx.load_model_from_string(plain.model), info)
    assert not list(tmp_path.iterdir())


def test_too_many_bytes_of_keyframes_are_not_read(plain: MapFile, tmp_path):
    with pytest.raises(MapFileError, match="found 33 MiB of keyframes, expected at most 32 MiB"):
        read_map(write(plain, tmp_path, packed=bytes(33 << 20)))


def test_infinite_old_depth_is_unknown_depth(plain: MapFile):
    infinite = replace(KEYFRAMES[0], depth=np.full(_CELLS_HW, np.inf, "<f2").tobytes())
    assert np.isnan(infinite.depth_m()).all()
    alone, some = located(plain, KEYFRAMES), located(plain, (*KEYFRAMES, infinite))
    assert np.abs(alone - some).max() < 5e-3


@pytest.mark.parametrize("part", ["image", "depth"])
def test_damaged_image_or_depth_is_refused(plain: MapFile, part: str):
    one = keyframe(T_MAP_CAM)
    content = getattr(one, part)
    damaged = replace(one, **{part: content[: len(content) // 2]})
    info = replace(plain.info, keyframes=(damaged,))
    with pytest.raises(MapFileError, match=f"the {part} of a keyframe is damaged"):
        Localizer(replace(plain, info=info), Student(T_MAP_CAM, np.zeros(6)))


def test_orientation_of_an_image_is_ignored():
    one = KEYFRAMES[0]
    jpeg = encode_jpeg(one.grey_hw(), 95)
    exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"
    rotated = jpeg[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + jpeg[2:]
    assert cv2.imdecode(np.frombuffer(rotated, np.uint8), 0).shape == (CAMERA.width, CAMERA.height)
    assert replace(one, image=rotated).grey_hw().shape == (CAMERA.height, CAMERA.width)
