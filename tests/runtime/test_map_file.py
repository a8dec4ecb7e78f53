"""The map file: reading returns what was written; every fault is one short MapFileError."""

import json
import math
import os
import resource
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import onnx
import pytest
from conftest import ROOT
from make_map import CAMERA, write_constant_map
from onnx import TensorProto, helper

from mote_localization.camera import Camera
from mote_localization.drift import MAX_SAMPLES, Drift
from mote_localization.errors import MapFileError
from mote_localization.map_file import FORMAT_VERSION, MapInfo, read_map, write_map
from mote_localization.pose_calibration import ErrorModel, PoseCalibration
from mote_localization.validated_poses import ValidatedPose
from mote_localization.wrong_poses import WrongPoses


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return write_constant_map(tmp_path_factory.mktemp("map") / "room.onnx")


def assert_refused(path, complaint):
    with pytest.raises(MapFileError, match=complaint) as caught:
        read_map(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and "\n" not in message
    assert len(message.removeprefix(f"{path}: ")) <= 300


def changed(good, tmp_path, change):
    """Write the good map, without its checksum, after `change` has modified its model."""
    model = onnx.load(good)
    entries = {p.key: p.value for p in model.metadata_props if p.key != "mote.checksum"}
    helper.set_model_props(model, entries)
    change(model)
    (tmp_path / "changed.onnx").write_bytes(model.SerializeToString())
    return tmp_path / "changed.onnx"


def described(good, tmp_path, **properties):
    """Write the good map with other metadata; None removes an entry."""

    def change(model):
        entries = {p.key: p.value for p in model.metadata_props}
        entries.update({f"mote.{name}": value for name, value in properties.items()})
        helper.set_model_props(model, {k: v for k, v in entries.items() if v is not None})

    return changed(good, tmp_path, change)


def of_version(good, tmp_path, version, **properties):
    """Write the good map in an older format version, with other metadata."""
    entries = {"pose_calibration": None, "covariance_scale": "4.0", "format_version": version}
    return described(good, tmp_path, **{**entries, **properties})


def test_reading_returns_what_was_written(good, tmp_path):
    info = MapInfo(
        scene="küche",
        camera=CAMERA,
        stride=8,
        bounds_min=(-1.5, 0.0, 0.25),
        bounds_max=(6.0, 5.0, 3.0),
        teacher="rgbd",
        teacher_licence="CC BY-NC-SA 4.0",
        student="cnn",
        pose_calibration=PoseCalibration(
            ErrorModel(1.5, 0.002, 0.01, 0.3), ErrorModel(2.0), 119, correlation=0.9
        ),
        wrong_poses=WrongPoses(-3.5, (1.0, 0.5, -1.0, 0.0), (0.001, 0.25)),
        metric=False,
        drift=Drift(((0.1, 2.0, -3.0, 0.0, 0.0, 0.6, 0.8, *[0.01] * 6),) * 2, 0.8, 40.0, 0.03),
        validation=(ValidatedPose((1.0, 2.0, 3.0, 0.0, 0.0, 0.6, 0.8), 0.01, None),),
        training={"minutes": 25.5, "seed": 0, "loss": "distill"},
        created="2026-01-01T00:00:00+00:00",
    )
    info.wrong_poses.limit(0.1)  # what it computes once is not stored
    write_map(tmp_path / "new" / "kitchen.onnx", onnx.load(good), info)
    read = read_map(tmp_path / "new" / "kitchen.onnx")
    assert read.info == info
    assert onnx.load_model_from_string(read.model).graph == onnx.load(good).graph


def test_older_map_without_the_entry_metric_is_metric(good, tmp_path):
    assert read_map(described(good, tmp_path, metric=None)).info.metric


def test_map_of_the_first_format_is_read(good, tmp_path):
    info = read_map(of_version(good, tmp_path, "1", drift=None)).info
    assert info.drift is None
    assert info.pose_calibration == PoseCalibration(ErrorModel(2.0), ErrorModel(2.0))


def test_largest_drift_fits_into_a_map(good, tmp_path):
    sample = (
        -12.34567,
        -0.98765,
        123.45678,
        -0.26726,
        -0.53452,
        -0.80178,
        -0.00012,
        *[-0.00012] * 6,
    )
    info = replace(read_map(good).info, drift=Drift((sample,) * MAX_SAMPLES, 0.8, 40.0, 0.03))
    write_map(tmp_path / "a.onnx", onnx.load(good), info)
    assert read_map(tmp_path / "a.onnx").info == info


def test_map_is_a_valid_onnx_file(good):
    onnx.checker.check_model(onnx.load(good), full_check=True)


def test_truncated_map_is_refused(good, tmp_path):
    content = good.read_bytes()
    path = tmp_path / "truncated.onnx"
    ends = {
        *range(0, len(content), len(content) // 40),
        *range(len(content) - 900, len(content), 11),
    }
    for end in sorted(ends):
        path.write_bytes(content[:end])
        assert_refused(path, "truncated|damaged|is empty")


@pytest.mark.parametrize("content", [b"", b"not a map", b"\x89PNG\r\n\x1a\n", b"\x08" * 1000])
def test_file_that_is_not_onnx_is_refused(tmp_path, content):
    (tmp_path / "a.onnx").write_bytes(content)
    assert_refused(tmp_path / "a.onnx", "no ONNX file|not a map|is empty")


def test_missing_map_and_folder_are_refused(tmp_path):
    assert_refused(tmp_path / "none.onnx", "cannot be read")
    assert_refused(tmp_path, "cannot be read .Is a directory")


def test_huge_file_is_refused_without_reading_it(tmp_path):
    with open(tmp_path / "a.onnx", "wb") as file:
        file.truncate(1 << 40)
    assert_refused(tmp_path / "a.onnx", "is larger than 128 MiB")


def test_onnx_file_without_metadata_is_refused(good, tmp_path):
    path = changed(good, tmp_path, lambda model: model.ClearField("metadata_props"))
    assert_refused(path, "not a map")


def test_message_about_a_newer_format_advises_to_update(good, tmp_path):
    path = described(good, tmp_path, format_version=str(FORMAT_VERSION + 1))
    assert_refused(path, f"format version {FORMAT_VERSION + 1}.*update")


@pytest.mark.parametrize("version", ["", "0", "-1", "1.0", "one", "9" * 5000])
def test_invalid_format_version_is_refused(good, tmp_path, version):
    assert_refused(described(good, tmp_path, format_version=version), "format version")


CAMERA_JSON = {
    "width": 320,
    "height": 240,
    "fx": 260.0,
    "fy": 260.0,
    "cx": 159.5,
    "cy": 119.5,
    "distortion_model": "plumb_bob",
    "distortion": [],
}

SAMPLE = [0, 0, 0, 0, 0, 0, 1, *[0.01] * 6]
DRIFT_JSON = {"stations": [SAMPLE], "reach_m": 1.0, "reach_deg": 30.0, "noise": 0.1}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("camera", []),
        ("camera", "wide"),
        ("camera", None),
        ("camera", {}),
        *(
            ("camera", {**CAMERA_JSON, **wrong})
            for wrong in (
                {"width": 320.0},
                {"width": "320"},
                {"width": True},
                {"width": 10**30},
                {"height": -240},
                {"fx": "260"},
                {"fx": 0},
                {"cx": float("nan")},
                {"cy": 10**400},
                {"distortion": 0},
                {"distortion": [0.1, 0, 0, 0]},
                {"distortion": ["a"]},
                {"distortion_model": []},
                {"distortion_model": "fov"},
            )
        ),
        *(("stride", wrong) for wrong in (8.0, "8", 0, -8, 7, 10**30, True, [8], None)),
        *(
            ("bounds_min", wrong)
            for wrong in ("abc", [0, 0], [0, 0, "0"], [0, 0, float("nan")], [7, 0, 0], 5, None)
        ),
        *(
            ("pose_calibration", {"position": wrong})
            for wrong in (0, {"scale": 0}, {"scale": "1"}, {"floor": -1}, {"slope": -0.1}, [1, 2])
        ),
        ("pose_calibration", {"rotation": {"growth": -0.1}}),
        *(
            ("wrong_poses", {"intercept": 0, "weights": [0] * 4, "probabilities": [0.1]} | wrong)
            for wrong in ({"weights": [0] * 3}, {"probabilities": [2]}, {"intercept": "0"})
        ),
        *(("pose_calibration", {"correlation": wrong}) for wrong in (-0.1, 1.1, "1")),
        *(
            (
                "validation",
                [{"pose": [0, 0, 0, 0, 0, 0, 1], "error": 0.1, "deviation": 0.1, **wrong}],
            )
            for wrong in (
                {"pose": [0, 0, 0, 0, 0, 0, 2]},
                {"pose": [0, 0, 0, 1]},
                {"pose": [1e999, 0, 0, 0, 0, 0, 1]},
                {"error": -0.1},
                {"error": "0.1"},
                {"deviation": -1},
            )
        ),
        ("validation", [{"pose": [0, 0, 0, 0, 0, 0, 1], "error": 0.1, "deviation": 0.1}] * 1001),
        *(("metric", wrong) for wrong in (0, 1, "true", None, [])),
        *(
            ("drift", {**DRIFT_JSON, **wrong})
            for wrong in (
                {"stations": []},
                {"stations": [SAMPLE[:-1]]},
                {"stations": [SAMPLE] * (MAX_SAMPLES + 1)},
                {"stations": [[*SAMPLE[:6], 2, *SAMPLE[7:]]]},
                {"stations": [[float("nan"), *SAMPLE[1:]]]},
                {"stations": [["0", *SAMPLE[1:]]]},
                {"stations": 5},
                {"stations": [[*SAMPLE[:7], 1e200, *SAMPLE[8:]]]},
                {"reach_m": 0},
                {"reach_m": 1e-310},
                {"reach_deg": "30"},
                {"noise": 0},
                {"noise": float("inf")},
            )
        ),
        *(("drift", wrong) for wrong in (0, [], "much", {})),
        *(
            ("self_test", wrong)
            for wrong in (0, "", {}, {"image": "", "points": 5}, {"image": "é", "points": ""})
        ),
        *(("training", wrong) for wrong in ([], "much", {"a": []}, {"a": None})),
    ],
)
def test_wrong_metadata_is_refused(good, tmp_path, name, value):
    assert_refused(described(good, tmp_path, **{name: json.dumps(value)}), "found|damaged")


@pytest.mark.parametrize("wrong", [0, -1, "1", float("inf"), float("nan"), []])
def test_wrong_covariance_scale_of_an_older_map_is_refused(good, tmp_path, wrong):
    older = of_version(good, tmp_path, "3", covariance_scale=json.dumps(wrong))
    assert_refused(older, "found covariance scale|damaged")


def test_figures_of_the_training_may_be_nan(good, tmp_path):
    training = read_map(described(good, tmp_path, training='{"a": NaN, "b": 1}')).info.training
    assert np.isnan(training["a"]) and training["b"] == 1


def test_correct_drift_and_camera_of_these_tests_are_read(good, tmp_path):
    entries = {"drift": json.dumps(DRIFT_JSON), "camera": json.dumps(CAMERA_JSON)}
    info = read_map(described(good, tmp_path, **entries)).info
    assert info.drift == Drift((tuple(map(float, SAMPLE)),), 1.0, 30.0, 0.1)
    assert info.camera == CAMERA


def test_drift_in_a_format_version_without_drift_is_refused(good, tmp_path):
    drift = json.dumps(DRIFT_JSON)
    newer = of_version(good, tmp_path, "2", drift=drift)
    assert read_map(newer).info.drift.length_scale_m == 1
    older = of_version(good, tmp_path, "1", drift=drift)
    assert_refused(older, "format version 1, expected version 2 or later")


@pytest.mark.parametrize("version", ["1", "3"])
def test_older_map_without_covariance_scale_is_refused(good, tmp_path, version):
    older = of_version(good, tmp_path, version, covariance_scale=None)
    assert_refused(older, "lacks `mote.covariance_scale`")


@pytest.mark.parametrize("text", ["{", "", "[" * 50_000, "[0," * 50_000, "9" * 10_000, "\u0000"])
def test_deeply_nested_or_incomplete_json_is_refused(good, tmp_path, text):
    assert_refused(described(good, tmp_path, camera=text), "damaged")


@pytest.mark.parametrize("name", ["scene", "camera", "stride", "bounds_max", "training", "created"])
def test_metadata_that_lack_an_entry_are_refused(good, tmp_path, name):
    assert_refused(described(good, tmp_path, **{name: None}), f"lacks `mote.{name}`")


def test_message_about_a_too_long_entry_is_short(good, tmp_path):
    entry = {"x" * 10_000: "0" * (1 << 21)}
    assert_refused(
        described(good, tmp_path, **entry), "entry x+ has 2097152 characters, expected at most"
    )


def resize_output(model):
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 31


def make_symbolic(model):
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"


def make_float(model):
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT


def drop_sigma(model):
    del model.graph.output[1]


def use_old_operators(model):
    model.opset_import[0].version = 11


def use_custom_operator(model):
    model.graph.node[1].domain = "com.example"


def use_custom_operator_of_long_name(model):
    model.graph.node[1].domain = "x" * 10_000
    del model.opset_import[:]
    model.opset_import.append(helper.make_opsetid("x" * 10_000, 17))


def add_input_of_long_name(model):
    model.graph.input.append(helper.make_tensor_value_info("x" * 10_000, TensorProto.FLOAT, []))


def add_branch_of_long_name(model):
    part = helper.make_graph([], "part", [], [])
    model.graph.node.append(helper.make_node("x" * 10_000, ["x"], ["y"], then_branch=part))


def import_other_operators(model):
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))


def branch(model):
    part = helper.make_graph([], "part", [], [])
    model.graph.node.append(helper.make_node("If", ["x"], ["y"], then_branch=part))


def use_external_weights(model):
    tensor = model.graph.initializer[0]
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")


def use_external_constant(model):
    tensor = TensorProto(name="c", data_type=TensorProto.FLOAT, dims=[1])
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../weights.bin")
    model.graph.node.append(helper.make_node("Constant", [], ["c"], value=tensor))


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (resize_output, "found inputs and outputs .*31"),
        (make_symbolic, "found inputs and outputs .*batch"),
        (make_float, "another type"),
        (drop_sigma, "expected .*sigma"),
        (use_old_operators, "operator sets"),
        (use_custom_operator, "operator sets"),
        (use_custom_operator_of_long_name, "operator sets"),
        (add_input_of_long_name, "found inputs and outputs"),
        (add_branch_of_long_name, "control flow"),
        (import_other_operators, "operator sets"),
        (branch, "control flow"),
        (use_external_weights, "self-contained"),
        (use_external_constant, "self-contained"),
    ],
)
def test_graph_without_the_form_of_a_map_is_refused(good, tmp_path, change, complaint):
    assert_refused(changed(good, tmp_path, change), complaint)


def test_graph_without_the_form_of_a_map_is_not_written(good, tmp_path):
    model = onnx.load(good)
    resize_output(model)
    with pytest.raises(MapFileError, match="inputs and outputs"):
        write_map(tmp_path / "a.onnx", model, read_map(good).info)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "wrong",
    [
        {"stride": 7},
        {"camera": Camera(320, 240, 260.0, 260.0, 159.5, 119.5, distortion=(0.1, 0.0, 0.0, 0.0))},
        {"bounds_min": (0.0, np.inf, 0.0)},
        {"bounds_max": (-1.0, 5.0, 3.0)},
    ],
)
def test_impossible_map_info_is_refused(wrong):
    right = {
        "scene": "room",
        "camera": CAMERA,
        "stride": 8,
        "bounds_min": (0.0, 0.0, 0.0),
        "bounds_max": (6.0, 5.0, 3.0),
        "teacher": "none",
        "teacher_licence": "",
        "student": "constant",
    }
    with pytest.raises(MapFileError):
        MapInfo(**{**right, **wrong})


def test_full_disk_leaves_the_old_map_unchanged(good, tmp_path):
    path = write_constant_map(tmp_path / "room.onnx", sigma_m=0.5)
    before = path.read_bytes()
    script = (
        "import sys, onnx; from mote_localization.map_file import read_map, write_map\n"
        "write_map(sys.argv[1], onnx.load(sys.argv[2]), read_map(sys.argv[2]).info)"
    )

    def fill_disk():
        # a write beyond the limit fails with EFBIG, as a full disk does with ENOSPC
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2,) * 2)

    ended = subprocess.run(
        [sys.executable, "-B", "-c", script, path, good],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        preexec_fn=fill_disk,
        capture_output=True,
        text=True,
    )
    assert "MapFileError" in ended.stderr and "unchanged" in ended.stderr
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["room.onnx"]


def test_a_name_that_is_no_text_is_an_error(good, tmp_path):
    name = max(onnx.load(good).graph.initializer, key=lambda tensor: math.prod(tensor.dims)).name
    path = tmp_path / "damaged.onnx"
    path.write_bytes(good.read_bytes().replace(name.encode(), b"\xe1" * len(name)))
    with pytest.raises(MapFileError, match="UTF-8"):
        read_map(path)


def test_a_bit_that_flips_is_an_error_or_changes_nothing(good, tmp_path):
    """Such as one of the focal length, which would move each pose by some centimetres."""
    content, whole = good.read_bytes(), read_map(good)
    graph = onnx.load_model_from_string(content).graph
    camera = content.index(b'"fx"')
    bits = [8 * at + bit for at in range(camera, camera + 60) for bit in (0, 3)]
    bits += np.random.default_rng(0).integers(0, 8 * len(content), 400).tolist()
    path, refused = tmp_path / "flipped.onnx", 0
    for bit in bits:
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        try:
            found = read_map(path)
        except MapFileError:
            refused += 1
        else:
            assert found.info == whole.info, bit
            assert onnx.load_model_from_string(found.model).graph == graph, bit
    assert refused > 400


def test_a_map_without_a_checksum_is_read(good, tmp_path):
    assert read_map(changed(good, tmp_path, lambda model: None)).info == read_map(good).info
