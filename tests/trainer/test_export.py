"""Export: the map predicts the same as the student, or is not written."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

pytest.importorskip("torch", reason="torch is not installed")

import torch  # noqa: E402
from make_student import SMALL, as_if_trained, images, student  # noqa: E402
from make_wall import CAMERA, QUICK  # noqa: E402

from distill_training.export.onnx_export import export_map  # noqa: E402
from distill_training.pipeline import train_student  # noqa: E402
from distill_training.reconstruction import Reconstruction  # noqa: E402
from distill_training.students import (  # noqa: E402
    CellGrid,
    SceneNormalization,
    Student,
    create_student,
    describe,
)
from mote_localization.backends import create_backend  # noqa: E402
from mote_localization.errors import MapFileError  # noqa: E402
from mote_localization.evaluation.machine import graph_macs  # noqa: E402
from mote_localization.map_file import MapInfo, read_map  # noqa: E402

pytestmark = pytest.mark.train


def info(stride: int, family: str) -> MapInfo:
    return MapInfo("s", CAMERA, stride, (0, 0, 0), (1, 1, 1), "rgbd", "", family)


CASES: list[tuple[str, int, dict]] = [
    *((family, stride, {}) for family in SMALL for stride in (4, 8, 16)),
    ("mobilenet", 8, {"variant": "v2", "deepest": 32}),
    ("mobilenet", 8, {"variant": "v3-large"}),
    ("vit", 8, {"patch": 8}),
    ("vit", 8, {"patch": 32}),
]


def check_export(network: Student, family: str, stride: int, path: Path) -> None:
    """Check that ONNX Runtime predicts the same, from a graph of fixed sizes alone."""
    as_if_trained(network)
    described = info(stride, family)
    assert export_map(network, described, images(2).numpy(), path) < 2e-3
    model = onnx.load(path)
    nodes = model.graph.node
    assert [node.op_type for node in nodes if "image" in node.input] == ["Cast"]
    asking = {"Shape", "Size", "If", "Loop", "Scan", "NonZero", "Range", "ConstantOfShape"}
    assert not asking & {node.op_type for node in nodes}
    assert all(o.domain == "" and o.version == 17 for o in model.opset_import)
    figures = describe(network, CAMERA)
    assert figures.file_bytes < model.ByteSize() < figures.file_bytes + 150_000
    assert graph_macs(model) == pytest.approx(figures.macs, rel=1e-3)


@pytest.mark.parametrize(("family", "stride", "settings"), CASES)
def test_an_exported_student_predicts_the_same(
    family: str, stride: int, settings: dict, tmp_path: Path
):
    check_export(student(family, stride, **settings), family, stride, tmp_path / "m.onnx")


@pytest.mark.parametrize(("spread", "all_halved"), [(1.0, True), (300.0, False)])
def test_weights_are_stored_in_half_precision_where_points_allow_it(
    spread: float, all_halved: bool, tmp_path: Path
):
    """In a place of hundreds of metres, half precision moves points by centimetres."""
    frame = SceneNormalization((0.0, 0.0, 0.0), spread)
    network = as_if_trained(create_student("cnn", frame, CellGrid(8, 64, 48), **SMALL["cnn"]))
    assert export_map(network, info(8, "cnn"), images(2).numpy(), tmp_path / "m.onnx") < 2e-3
    weights = [t for t in onnx.load(tmp_path / "m.onnx").graph.initializer if len(t.dims) == 4]
    large = {t.data_type for t in weights if math.prod(t.dims) >= 1024}
    assert (large == {onnx.TensorProto.FLOAT16}) == all_halved


def test_small_layers_stay_in_single_precision_if_their_rounding_matters(tmp_path: Path):
    """Two equal channels cancel each other in the next layer, but not after rounding."""
    frame = SceneNormalization((0.0, 0.0, 0.0), 1.0)
    network = as_if_trained(
        create_student("cnn", frame, CellGrid(8, 64, 48), **SMALL["cnn"] | {"fine": 24})
    )
    first, second = network.stem[0], network.stem[1][0]
    with torch.no_grad():
        for value in (first[0].weight, *first[1].state_dict(keep_vars=True).values()):
            if value.ndim:
                value[1] = value[0]
        second.weight[:, 0] += 300
        second.weight[:, 1] -= 300
    assert export_map(network, info(8, "cnn"), images(2).numpy(), tmp_path / "m.onnx") < 2e-3
    kinds = {tuple(t.dims): t.data_type for t in onnx.load(tmp_path / "m.onnx").graph.initializer}
    assert kinds[tuple(second.weight.shape)] == onnx.TensorProto.FLOAT
    assert onnx.TensorProto.FLOAT16 in kinds.values()


def test_an_exported_map_predicts_what_the_student_does(
    reconstruction: Reconstruction, tmp_path: Path
):
    reconstruction = replace(reconstruction, metric=False)
    network, info = train_student(reconstruction, tmp_path / "t", "cnn", SMALL["cnn"], QUICK)
    assert not info.metric
    images = np.random.default_rng(0).integers(0, 255, (2, 48, 64, 3), np.uint8)
    export_map(network, info, images, tmp_path / "wall.onnx")
    read = read_map(tmp_path / "wall.onnx")
    assert replace(read.info, self_test=None) == info and read.info.self_test is not None
    points, sigma = create_backend(read).predict(images[0])
    with torch.inference_mode():
        expected_points, expected_sigma = network(torch.from_numpy(images[:1]))
    np.testing.assert_allclose(points, expected_points[0], atol=2e-3)
    np.testing.assert_allclose(sigma, expected_sigma[0], rtol=1e-2)


def test_export_that_differs_from_the_student_is_not_written(
    reconstruction: Reconstruction, tmp_path: Path
):
    class DifferentInExport(torch.nn.Module):
        """Adds 5 mm to each coordinate of its points outside of export."""

        def __init__(self, student: torch.nn.Module) -> None:
            super().__init__()
            self.student = student

        def forward(self, image):
            points, sigma = self.student(image)
            return points + (0.0 if torch.onnx.is_in_onnx_export() else 0.005), sigma

    network = DifferentInExport(student("cnn")).eval()
    info = MapInfo("s", CAMERA, 8, (0, 0, 0), (1, 1, 1), "rgbd", "", "cnn")
    path = tmp_path / "wall.onnx"
    path.write_bytes(b"the old map")
    with pytest.raises(MapFileError, match="differ from the student's by 8.66 mm"):
        export_map(network, info, np.zeros((1, 48, 64, 3), np.uint8), path)
    assert path.read_bytes() == b"the old map"


def test_student_that_predicts_nan_is_not_written(tmp_path: Path):
    network = student("cnn")
    network.head.out.bias.data[:] = torch.nan
    info = MapInfo("s", CAMERA, 8, (0, 0, 0), (1, 1, 1), "rgbd", "", "cnn")
    with pytest.raises(MapFileError, match="diverged"):
        export_map(network, info, np.zeros((1, 48, 64, 3), np.uint8), tmp_path / "wall.onnx")
    assert not (tmp_path / "wall.onnx").exists()
