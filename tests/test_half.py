"""Students in half precision: the same points, made in single; engines take both."""

from pathlib import Path

import numpy as np
import onnx
import pytest

pytest.importorskip("torch", reason="torch is not installed")

from make_student import SMALL, images, lively, student  # noqa: E402
from make_wall import CAMERA  # noqa: E402
from onnx import TensorProto  # noqa: E402

from distill_training.export import export_map  # noqa: E402
from mote_localization.backends import create_backend  # noqa: E402
from mote_localization.backends.engine_builder import Gpu, engine_for  # noqa: E402
from mote_localization.backends.half import in_half_precision  # noqa: E402
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
    export_map(lively(student(family, **settings)), info, images(2).numpy(), path)
    return read_map(path)


@pytest.mark.parametrize(("family", "settings"), STUDENTS)
def test_points_stay_where_they_were(family: str, settings: dict, tmp_path: Path):
    whole = exported(family, settings, tmp_path / "m.onnx")
    model = in_half_precision(onnx.load_model_from_string(whole.model))
    onnx.checker.check_model(model, full_check=True)
    write_map(tmp_path / "half.onnx", model, whole.info)  # it still passes its self-test
    image_hw3 = images().numpy()[0]
    points_hw3, sigma_hw = create_backend(whole).predict(image_hw3)
    half = create_backend(read_map(tmp_path / "half.onnx"))
    half_hw3, half_sigma_hw = half.predict(image_hw3)
    assert 0 < np.abs(half_hw3 - points_hw3).max() < 0.02
    np.testing.assert_allclose(half_sigma_hw, sigma_hw, rtol=0.05)


def test_points_and_sigma_are_made_in_single_precision(tmp_path: Path):
    """Every weight of the trunk is half, none of the head's."""
    model = in_half_precision(
        onnx.load_model_from_string(exported("cnn", {}, tmp_path / "m.onnx").model)
    )
    kinds = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    of_head = {name for name in kinds if name.startswith("head.")}
    assert {kinds[name] for name in of_head} == {TensorProto.FLOAT}
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph.value_info
    made = {value.name: value.type.tensor_type.elem_type for value in inferred}
    layers = [node for node in model.graph.node if node.op_type == "Conv"]
    assert {made[n.output[0]] for n in layers if not n.name.startswith("/head/")} == {
        TensorProto.FLOAT16
    }
    assert {made[n.output[0]] for n in layers if n.name.startswith("/head/")} == {TensorProto.FLOAT}


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize(("family", "settings"), STUDENTS)
def test_engines_take_every_student(
    family: str, settings: dict, precision, tmp_path: Path, monkeypatch, caplog
):
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    made = exported(family, settings, tmp_path / "m.onnx")
    assert len(engine_for(made, "tensorrt_rtx", Gpu((8, 6)), precision)) > 10_000
    assert not caplog.records
