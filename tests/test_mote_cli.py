"""The `mote` command: output, errors and exit status."""

import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from conftest import ROOT
from make_map import CAMERA, T_MAP_CAM, write_constant_map
from make_scene import View, write_scene
from PIL import Image
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

import mote_localization.cli
from mote_localization.map_file import read_map, write_map
from mote_localization.validated_poses import ValidatedPose

CALIBRATION = """\
image_width: 320
image_height: 240
camera_matrix: {rows: 3, cols: 3, data: [260.0, 0, 159.5, 0, 260, 119.5, 0, 0, 1]}
distortion_model: plumb_bob
distortion_coefficients: {rows: 1, cols: 5, data: [0, 0, 0, 0, 0]}
"""


@pytest.fixture
def files(tmp_path, monkeypatch):
    """A map, a calibration, and a bright, a dark and a small image in the working directory."""
    monkeypatch.chdir(tmp_path)
    write_constant_map("room.onnx")
    Path("head.yaml").write_text(CALIBRATION)
    cv2.imwrite("bright.png", np.full((240, 320, 3), 128, np.uint8))
    cv2.imwrite("dark.png", np.zeros((240, 320, 3), np.uint8))
    cv2.imwrite("small.png", np.full((120, 160, 3), 128, np.uint8))


@pytest.fixture
def mote(run_command):
    """Run `mote` with arguments; return exit status, output and errors."""
    return lambda arguments: run_command("mote", mote_localization.cli.main, arguments)


def test_inspect_prints_the_map_metadata(files, mote):
    status, output, _ = mote("inspect room.onnx")
    assert status == 0
    for text in (
        "box room",
        "320x240 px",
        "40x30 cells, stride 8 px",
        "x 0.00 to 6.00",
        "constant",
        "metres",
    ):
        assert text in output


def test_lengths_of_unknown_scale_are_printed_as_units(files, mote):
    write_constant_map("own.onnx", metric=False)
    _, described, _ = mote("inspect own.onnx")
    described = " ".join(described.replace("│", " ").split())  # joins the lines of cells
    assert "z 0.00 to 3.00 units scale unknown: lengths are in the map's own unit" in described
    _, localized, _ = mote("localize bright.png --map own.onnx --camera head.yaml")
    assert localized.count(" units ") == 2 and " m " not in localized


def test_localize_prints_the_pose(files, mote):
    status, output, _ = mote("localize bright.png --map room.onnx --camera head.yaml")
    assert status == 0
    x, y, z = T_MAP_CAM[:3, 3]
    assert f"{x:.4f} {y:.4f} {z:.4f} m" in output
    assert "800 of 800 cells" in output and "network" in output


def position(output: str) -> np.ndarray:
    """Return the position that `mote localize` prints."""
    (line,) = (line for line in output.splitlines() if "position" in line)
    return np.array([float(word) for word in line.split() if re.fullmatch(r"-?\d+\.\d+", word)])


@pytest.mark.parametrize("image", ["exif1.jpg", "exif3.jpg", "exif6.jpg"])
def test_a_photograph_is_localized_upright(mote, cases, image):
    status, output, _ = mote(
        f"localize {cases}/exif/{image} --map {ROOT}/maps/demo_room.onnx "
        f"--camera {cases}/exif/camera.yaml"
    )
    assert status == 0
    assert np.linalg.norm(position(output) - (2.2904, 2.7313, 0.9915)) < 0.01


def test_an_image_whose_size_fits_as_stored_only_is_not_rotated(files, mote):
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated by 90 degrees
    Image.new("RGB", (320, 240), (128, 128, 128)).save("sensor.jpg", exif=exif)
    status, output, _ = mote("localize sensor.jpg --map room.onnx --camera head.yaml")
    assert status == 0 and "800 of 800 cells" in output


def test_a_covariance_fits_a_terminal_of_80_columns(files, mote):
    _, output, _ = mote("localize bright.png --map room.onnx --camera head.yaml")
    assert max(map(len, output.splitlines())) <= 80
    assert sum(line.count("e-") >= 6 for line in output.splitlines()) == 6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("inspect none.onnx", "none.onnx: cannot be read"),
        ("inspect head.yaml", "head.yaml: is a file of another kind"),
        ("localize none.png --map room.onnx --camera head.yaml", "none.png: cannot be read"),
        ("localize head.yaml --map room.onnx --camera head.yaml", "head.yaml: is damaged or no"),
        ("localize bright.png --map none.onnx --camera head.yaml", "none.onnx: cannot be read"),
        ("localize bright.png --map room.onnx --camera none.yaml", "none.yaml: cannot be read"),
        ("localize bright.png --map room.onnx --camera dark.png", "dark.png: is no calibration"),
        ("localize small.png --map room.onnx --camera head.yaml", "small.png by head.yaml: found"),
        ("localize dark.png --map room.onnx --camera head.yaml", "dark.png: lost: 0 cells"),
        ("localize bright.png --map room.onnx --camera head.yaml --backend x", "backend 'x'"),
        ("localize bright.png --map room.onnx --camera head.yaml --threads -1", "-1 threads"),
    ],
)
def test_bad_input_is_one_line_and_exit_status_1(files, mote, arguments, message):
    status, output, errors = mote(arguments)
    assert status == 1 and output == ""
    assert errors.startswith("error: ") and message in errors
    assert errors.count("\n") == 1


def write_a_pose_without_rotation(scene):
    np.savetxt(scene / "data/b.pose.txt", np.diag([2.0, 2, 2, 1]))


def write_a_nan_pose(scene):
    np.savetxt(scene / "data/b.pose.txt", np.full((4, 4), np.nan))


def remove_an_image(scene):
    (scene / "data/b.color.png").unlink()


def replace_by_a_bag_without_images(scene):
    """A recording that holds only poses."""
    shutil.rmtree(scene)
    types = get_typestore(Stores.ROS2_HUMBLE)
    with Writer(scene, version=8, storage_plugin=StoragePlugin.MCAP) as bag:
        bag.add_connection("/truth", "geometry_msgs/msg/PoseStamped", typestore=types)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            write_a_pose_without_rotation,
            "scene/data/b.pose.txt: the pose's 3x3 part is not a rotation",
        ),
        (write_a_nan_pose, "scene/data/b.pose.txt: the pose holds NaN"),
        (remove_an_image, "scene/data/b.color.jpg: is missing"),
        (
            replace_by_a_bag_without_images,
            "scene: found no images (sensor_msgs Image or CompressedImage that is not depth)",
        ),
    ],
)
def test_evaluating_bad_input_is_one_line_and_exit_status_1(files, mote, damage, message):
    view = View(np.full((240, 320, 3), 128, np.uint8), T_MAP_CAM)
    write_scene(Path("scene"), CAMERA, {"a": view, "b": view}, test=("a", "b"))
    damage(Path("scene"))
    status, output, errors = mote("evaluate scene --map room.onnx")
    assert status == 1 and output == ""
    found = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert len(found) == 1 and message in found[0]
    assert "Traceback" not in errors


def test_inspect_prints_what_a_recording_holds(tmp_path, mote):
    views = {name: View(np.zeros((240, 320, 3), np.uint8), np.eye(4)) for name in "ab"}
    write_scene(tmp_path / "den", CAMERA, views, test=("b",))
    _, output, _ = mote(f"inspect {tmp_path / 'den'}")
    assert "scene folder" in output and "2, 320x240 px" in output
    assert "1 for training, 1 for tests" in output


def with_validation(lost: int) -> tuple[ValidatedPose, ...]:
    """Return 20 poses on a line, the last ones without a pose that was found."""
    poses = []
    for i in range(20):
        T_map_cam = T_MAP_CAM.copy()
        T_map_cam[0, 3] += 0.2 * i
        found = i < 20 - lost
        error = (0.01 + 0.001 * i, 0.02) if found else (None, None)
        poses.append(ValidatedPose.record(T_map_cam, *error))
    return tuple(poses)


@pytest.mark.parametrize("lost", [0, 3, 20])
def test_inspect_draws_where_a_map_is_accurate(files, mote, lost: int):
    plain = read_map("room.onnx")
    info = replace(plain.info, validation=with_validation(lost))
    write_map(Path("measured.onnx"), onnx.load_model_from_string(plain.model), info)
    status, output, errors = mote("inspect measured.onnx --report place.png")
    words = " ".join(output.replace("│", " ").split())
    assert status == 0, errors
    assert f"{20 - lost} of 20 frames found" in words
    assert ("median error" in words) == (lost < 20)
    assert ("record more near" in words) == (lost > 0)
    image = cv2.imread("place.png")
    assert image is not None and image.shape[1] > 1000 and image.std() > 10


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("inspect room.onnx --report place.png", "has no validated poses"),
        ("inspect measured.onnx --report place.xyz", "a name that ends with .png, .svg, .pdf"),
        ("inspect head.yaml --report place.png", "expected a map"),
    ],
)
def test_report_that_cannot_be_drawn_is_one_error(files, mote, arguments, message):
    plain = read_map("room.onnx")
    info = replace(plain.info, validation=with_validation(1))
    write_map(Path("measured.onnx"), onnx.load_model_from_string(plain.model), info)
    status, _, errors = mote(arguments)
    assert status == 1 and message in errors
    assert not list(Path().glob("place.*"))


@pytest.mark.parametrize("arguments", ["", "fly", "inspect", "localize bright.png"])
def test_a_wrong_command_line_is_explained_with_exit_status_2(mote, arguments):
    status, _, errors = mote(arguments)
    assert status == 2 and errors


def test_brackets_in_file_names_are_printed_unchanged(files, mote):
    Path("room.onnx").rename("[red]room.onnx")
    status, output, _ = mote("inspect [red]room.onnx")
    assert status == 0 and "[red]room.onnx" in output


@pytest.mark.parametrize("arguments", ["mote --help", "mote-distill reconstruct --help"])
def test_help_imports_no_large_library(arguments):
    package = "distill_training" if "distill" in arguments else "mote_localization"
    script = (
        f"import sys; sys.argv = {arguments.split()}\n"
        f"from {package}.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "large = {'torch', 'scipy', 'matplotlib', 'rclpy', 'onnxruntime', 'evo'}\n"
        "sys.exit(f'loaded {large & sys.modules.keys()}' if large & sys.modules.keys() else 0)"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)
    assert ended.returncode == 0, ended.stderr
    assert ("--pairs.method" if "distill" in arguments else "localize") in ended.stdout
