"""Float16 and 8-bit integers: points change little, and engines can be built."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

pytest.importorskip("torch", reason="torch is not installed")

from make_student import SMALL, as_if_trained, images, student  # noqa: E402
from make_wall import CAMERA  # noqa: E402
from onnx import TensorProto, helper  # noqa: E402

import distill_training.export.onnx_export  # noqa: E402
from distill_training.export.onnx_export import export_int8_map, export_map  # noqa: E402
from mote_localization.backends import create_backend  # noqa: E402
from mote_localization.backends.engine_builder import Gpu, engine_for  # noqa: E402
from mote_localization.backends.precision import (  # noqa: E402
    in_half_precision,
    is_quantized,
    single_precision_nodes,
    with_signed_integers,
)
from mote_localization.errors import MapFileError  # noqa: E402
from mote_localization.map_file import MapFile, MapInfo, read_map, write_map  # noqa: E402

pytestmark = pytest.mark.train
STUDENTS = [
    *((family, {}) for family in SMALL),
    ("mobilenet", {"variant": "v2"}),
    ("mobilenet", {"variant": "v3-large"}),
    ("vit", {"patch": 8}),
]


def exported(family: str, settings: dict, path: Path) -> MapFile:
    info = MapInfo("s", CAMERA, 8, (0, 0, 0), (1, 1, 1), "rgbd", "", family)
    export_map(as_if_trained(student(family, **settings)), info, images(2).numpy(), path)
    return read_map(path)


@pytest.mark.parametrize(("family", "settings"), STUDENTS)
def test_points_change_little_in_half_precision(family: str, settings: dict, tmp_path: Path):
    whole = exported(family, settings, tmp_path / "m.onnx")
    model = in_half_precision(onnx.load_model_from_string(whole.model))
    onnx.checker.check_model(model, full_check=True)
    write_map(tmp_path / "half.onnx", model, whole.info)  # passes the self-test when loaded
    image_hw3 = images().numpy()[0]
    points_hw3, sigma_hw = create_backend(whole).predict(image_hw3)
    half = create_backend(read_map(tmp_path / "half.onnx"))
    half_hw3, half_sigma_hw = half.predict(image_hw3)
    assert 0 < np.abs(half_hw3 - points_hw3).max() < 0.02
    np.testing.assert_allclose(half_sigma_hw, sigma_hw, rtol=0.05)


def test_points_and_sigma_are_computed_in_single_precision(tmp_path: Path):
    """All weights of the backbone are float16, those of the head are float32."""
    model = in_half_precision(
        onnx.load_model_from_string(exported("cnn", {}, tmp_path / "m.onnx").model)
    )
    types = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    of_head = {name for name in types if name.startswith("head.")}
    assert {types[name] for name in of_head} == {TensorProto.FLOAT}
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph.value_info
    computed = {value.name: value.type.tensor_type.elem_type for value in inferred}
    layers = [node for node in model.graph.node if node.op_type == "Conv"]
    assert {computed[n.output[0]] for n in layers if not n.name.startswith("/head/")} == {
        TensorProto.FLOAT16
    }
    assert {computed[n.output[0]] for n in layers if n.name.startswith("/head/")} == {
        TensorProto.FLOAT
    }


def test_single_precision_nodes_are_found_without_names():
    """Before the first layer, and from the last one on; a cast before the last one is included."""
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Identity", ["bias"], ["bias2"]),
        helper.make_node("Conv", ["float", "weight", "bias2"], ["features"]),
        helper.make_node("Relu", ["features"], ["active"]),
        helper.make_node("Cast", ["active"], ["wide"], to=TensorProto.FLOAT),
        helper.make_node("Conv", ["wide", "weight"], ["raw"]),
        helper.make_node("Add", ["features", "active"], ["unused"]),
        helper.make_node("Mul", ["raw", "scale"], ["points"]),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, [1])
    graph = helper.make_graph(nodes, "graph", [image], [])
    found = [node.output[0] for node in single_precision_nodes(graph)]
    assert found == ["float", "wide", "raw", "points"]


def exported_int8(family: str, settings: dict, path: Path) -> MapFile:
    info = MapInfo("s", CAMERA, 8, (0, 0, 0), (1, 1, 1), "rgbd", "", family)
    shown = images(8).numpy()
    moved = export_int8_map(as_if_trained(student(family, **settings)), info, shown, path)
    assert 0 < moved < 0.25
    return read_map(path)


OF_INTEGERS = [(family, settings) for family, settings in STUDENTS if family != "vit"]


@pytest.mark.parametrize(("family", "settings"), OF_INTEGERS)
def test_map_of_8_bit_integers_predicts_about_the_same_points(
    family: str, settings: dict, tmp_path: Path
):
    whole, small = (
        make(family, settings, tmp_path / f"{make.__name__}.onnx")
        for make in (exported, exported_int8)
    )
    assert small.info.training["computes_in"] == "int8" and small.info.self_test
    model = onnx.load_model_from_string(small.model)
    assert is_quantized(model) and not is_quantized(onnx.load_model_from_string(whole.model))
    weights = [t for t in model.graph.initializer if len(t.dims) == 4 and t.name[:5] != "head."]
    assert {t.data_type for t in weights} == {TensorProto.INT8}
    image_hw3 = images(8).numpy()[5]
    points_hw3, sigma_hw = create_backend(whole).predict(image_hw3)
    away_hw = np.linalg.norm(create_backend(small).predict(image_hw3)[0] - points_hw3, axis=-1)
    assert 0 < np.median(away_hw / sigma_hw) < 0.25


def test_signed_integers_cover_the_same_range(tmp_path: Path):
    small = exported_int8("cnn", {}, tmp_path / "m.onnx")
    model = with_signed_integers(onnx.load_model_from_string(small.model))
    onnx.checker.check_model(model, full_check=True)
    types = {t.name: t.data_type for t in model.graph.initializer}
    zeros = {n.input[2] for n in model.graph.node if n.op_type == "QuantizeLinear"}
    assert {types[name] for name in zeros} == {TensorProto.INT8}
    image_hw3 = images().numpy()[0]
    points_hw3, sigma_hw = create_backend(small).predict(image_hw3)
    signed = replace(small, model=model.SerializeToString())
    signed = replace(signed, info=replace(signed.info, self_test=None))
    away_hw = np.linalg.norm(create_backend(signed).predict(image_hw3)[0] - points_hw3, axis=-1)
    assert 0 < np.median(away_hw / sigma_hw) < 0.25


def test_too_large_quantization_error_is_refused(tmp_path: Path, monkeypatch):
    network = as_if_trained(student("cnn"))
    monkeypatch.setattr(distill_training.export.onnx_export, "_MAX_INT8_DIFFERENCE", 1e-6)
    info = MapInfo("s", CAMERA, 8, (0, 0, 0), (1, 1, 1), "rgbd", "", "cnn")
    with pytest.raises(MapFileError, match="move the points by .*% of their sigma .* --int8 out"):
        export_int8_map(network, info, images(4).numpy(), tmp_path / "m.onnx")
    assert not (tmp_path / "m.onnx").exists()


@pytest.mark.parametrize(("family", "settings"), OF_INTEGERS)
def test_engines_of_8_bit_integers_are_built(
    family: str, settings: dict, tmp_path: Path, monkeypatch, caplog
):
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    made = exported_int8(family, settings, tmp_path / "m.onnx")
    engine = engine_for(made, "tensorrt_rtx", Gpu((8, 6)), "fp16")
    assert engine_for(made, "tensorrt_rtx", Gpu((8, 6)), "fp32") == engine and not caplog.records


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize(("family", "settings"), STUDENTS)
def test_engines_of_every_student_are_built(
    family: str, settings: dict, precision, tmp_path: Path, monkeypatch, caplog
):
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    made = exported(family, settings, tmp_path / "m.onnx")
    assert len(engine_for(made, "tensorrt_rtx", Gpu((8, 6)), precision)) > 10_000
    assert not caplog.records
