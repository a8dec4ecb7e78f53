"""The map's self-test: a backend predicts the points that were recorded when the map was made."""

from dataclasses import replace

import cv2
import numpy as np
import onnx
import pytest
from make_map import CAMERA, ROOM_M, write_constant_map

from mote_localization.backends import create_backend
from mote_localization.errors import BackendError, MapFileError
from mote_localization.map_file import MapFile, read_map, write_map
from mote_localization.self_test import SelfTest

PHOTO = np.random.default_rng(0).integers(0, 255, (CAMERA.height, CAMERA.width, 3), np.uint8)
SIZE, CELLS = (CAMERA.width, CAMERA.height), (CAMERA.height // 8, CAMERA.width // 8)


@pytest.fixture
def tested(tmp_path) -> MapFile:
    """A map with a self-test whose points depend on the mean colour of the image."""
    plain = read_map(write_constant_map(tmp_path / "plain.onnx", colour_shift_m=2.0))
    test = SelfTest.record(PHOTO, create_backend(plain).predict)
    info = replace(plain.info, self_test=test)
    write_map(tmp_path / "tested.onnx", onnx.load_model_from_string(plain.model), info)
    read = read_map(tmp_path / "tested.onnx")
    assert read.info == info
    return read


def with_shifted_walls(map_file: MapFile, metres: float) -> MapFile:
    """Return the map with other weights: its walls are shifted along all axes."""
    model = onnx.load_model_from_string(map_file.model)
    (room,) = [tensor for tensor in model.graph.initializer if tensor.name == "room"]
    room.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(room) + metres, "room"))
    return replace(map_file, model=model.SerializeToString())


def test_map_passes_its_own_self_test(tested: MapFile):
    assert tested.info.self_test.difference_m(create_backend(tested).predict) == 0
    create_backend(with_shifted_walls(tested, np.float32(0.002)))


@pytest.mark.parametrize(
    ("metres", "message"), [(0.01, r"17\.3 mm"), (ROOM_M[0], "mm"), (np.nan, "nan mm")]
)
def test_backend_with_other_points_is_refused(tested: MapFile, metres: float, message: str):
    with pytest.raises(BackendError, match=f"tested.onnx: backend onnxruntime .* {message} .* 5:"):
        create_backend(with_shifted_walls(tested, np.float32(metres)))


def encoded(image_hw3: np.ndarray) -> bytes:
    return cv2.imencode(".jpg", image_hw3)[1].tobytes()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"image": b""}, "image of None px"),
        ({"image": b"<svg>"}, "image of None px"),
        ({"image": encoded(PHOTO[:-8])}, r"image of \(320, 232\) px, expected \(320, 240\)"),
        ({"points": b""}, "0 bytes of points, expected 14400"),
        ({"points": np.full((*CELLS, 3), np.nan, "<f4").tobytes()}, "all finite"),
    ],
)
def test_self_test_that_does_not_fit_the_map_is_refused(tested: MapFile, wrong: dict, message: str):
    test = replace(tested.info.self_test, **wrong)
    with pytest.raises(MapFileError, match=message):
        replace(tested.info, self_test=test)


def test_truncated_self_test_image_is_one_error(tested: MapFile):
    truncated = encoded(PHOTO)[:2000]
    test = replace(tested.info.self_test, image=truncated)
    test.check(SIZE, CELLS)  # the header is complete
    with pytest.raises(MapFileError, match="self-test image is damaged .* make the map again"):
        create_backend(replace(tested, info=replace(tested.info, self_test=test)))
