"""`mote bench`: counts equal those computed by hand, and all figures are written."""

import json
from dataclasses import replace

import numpy as np
import onnx
import pytest
from make_map import CAMERA, T_MAP_CAM, write_constant_map
from make_painted_room import keyframe, photograph, shifted
from onnx import TensorProto, helper, numpy_helper

from mote_localization.backends import create_backend
from mote_localization.errors import MoteError
from mote_localization.evaluation.bench import Bench
from mote_localization.evaluation.machine import graph_macs, matrix_product_macs_per_s
from mote_localization.map_file import read_map, write_map
from mote_localization.self_test import SelfTest


def test_multiply_adds_of_a_graph_equal_the_count_by_hand():
    weights = {
        "spatial": np.zeros((8, 3, 3, 3), np.float32),
        "each": np.zeros((8, 1, 5, 5), np.float32),  # depthwise
        "square": np.zeros((8, 8), np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["x", "spatial"], ["a"], strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["a", "each"], ["b"], group=8, pads=[2, 2, 2, 2]),
        helper.make_node("Transpose", ["b"], ["c"], perm=[0, 2, 3, 1]),
        helper.make_node("MatMul", ["c", "square"], ["d"]),
        helper.make_node("ReduceMean", ["d"], ["e"], axes=[0, 1], keepdims=0),
        helper.make_node("Gemm", ["e", "square"], ["y"], transA=1),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 16, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [8, 8])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    pixels = 8 * 8
    assert graph_macs(model) == pixels * (8 * 27 + 8 * 25 + 8 * 8) + 8 * 8 * 8


def test_the_speed_of_matrix_products_is_plausible():
    assert 1e8 < matrix_product_macs_per_s(1) < 1e15


@pytest.fixture
def map_path(tmp_path):
    plain = read_map(write_constant_map(tmp_path / "plain.onnx"))
    photo = np.random.default_rng(0).integers(0, 255, (CAMERA.height, CAMERA.width, 3), np.uint8)
    info = replace(plain.info, self_test=SelfTest.record(photo, create_backend(plain).predict))
    write_map(tmp_path / "room.onnx", onnx.load_model_from_string(plain.model), info)
    return tmp_path / "room.onnx"


def test_bench_prints_and_writes_the_times_of_all_stages(map_path, tmp_path, capsys):
    Bench(map_path, images=20, json=tmp_path / "figures.json").run()
    printed = capsys.readouterr().out
    assert "all but the network" in printed and "20 of 640x480 px" in printed
    assert "tracked: 100.0 % localized" in printed and "onnxruntime, all threads" in printed
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert list(figures["milliseconds"]) == ["first pose", "tracked"]
    for times in figures["milliseconds"].values():
        assert list(times) == ["remap", "network", "pose", "all", "all but the network"]
        for percentiles in times.values():
            assert 0 < percentiles["p50"] <= percentiles["p95"] <= percentiles["p99"]
        assert times["pose"]["p50"] < times["all"]["p50"]
    assert figures["network_macs"] == 0 and figures["matrix_product_macs_per_s"] > 1e8
    assert figures["map_bytes"] == map_path.stat().st_size
    assert figures["localized"] == {"first pose": 1, "tracked": 1}


def test_a_map_with_keyframes_is_timed_without_them_too(map_path, tmp_path):
    plain = read_map(map_path)
    photo_hw3 = photograph(T_MAP_CAM)
    record = SelfTest.record(photo_hw3, create_backend(plain).predict)
    info = replace(plain.info, self_test=record, keyframes=(keyframe(shifted(0.01, 0, 0)),))
    write_map(tmp_path / "keyframes.onnx", onnx.load_model_from_string(plain.model), info)
    Bench(tmp_path / "keyframes.onnx", images=5, json=tmp_path / "figures.json").run()
    figures = json.loads((tmp_path / "figures.json").read_text())
    names = ["first pose", "tracked", "first pose, without keyframes"]
    assert list(figures["milliseconds"]) == names
    assert figures["localized"] == dict.fromkeys(names, 1)


@pytest.mark.parametrize("wrong", [{"images": 0}, {"size": (640, 0)}])
def test_numbers_below_1_are_errors(map_path, wrong):
    with pytest.raises(MoteError, match="expected 1 or more"):
        Bench(map_path, **wrong).run()


def test_a_map_without_a_self_test_image_needs_a_scene(tmp_path):
    with pytest.raises(MoteError, match="has no self-test image.* give --scene"):
        Bench(write_constant_map(tmp_path / "old.onnx")).run()
