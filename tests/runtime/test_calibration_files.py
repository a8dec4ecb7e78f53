"""Calibration files of ROS, OpenCV and Kalibr."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import ROOT

from mote_localization.calibration_files import read_calibration
from mote_localization.camera import Camera
from mote_localization.errors import CameraError
from mote_localization.image_files import read_image
from mote_localization.localizer import Localizer

CALIBRATION = """\
image_width: 640
image_height: 480
camera_name: head
camera_matrix: {rows: 3, cols: 3, data: [500.0, 0, 320, 0, 501, 240, 0, 0, 1]}
distortion_model: plumb_bob
distortion_coefficients: {rows: 1, cols: 5, data: [-0.2, 0.05, 0.001, 0, 0]}
rectification_matrix: {rows: 3, cols: 3, data: [1, 0, 0, 0, 1, 0, 0, 0, 1]}
projection_matrix: {rows: 3, cols: 4, data: [480, 0, 320, 0, 0, 480, 240, 0, 0, 0, 1, 0]}
"""


def test_calibration_of_camera_calibration_is_read(tmp_path):
    path = tmp_path / "head.yaml"
    path.write_text(CALIBRATION)
    assert read_calibration(path) == Camera(
        640, 480, 500.0, 501.0, 320.0, 240.0, "plumb_bob", (-0.2, 0.05, 0.001, 0.0, 0.0)
    )


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("image_width", None),
        ("image_width", "wide"),
        ("image_width", float("inf")),
        ("camera_matrix", None),
        ("camera_matrix", {"data": [0.0] * 9}),
        ("camera_matrix", {"data": "500 0 320"}),
        ("camera_matrix", {"data": [[1.0], [2.0, 3.0]]}),
        ("camera_matrix", {"data": [0.0] * 10}),
        ("distortion_model", ["plumb_bob"]),
        ("distortion_model", "fov"),
        ("distortion_coefficients", {"data": 0.1}),
        ("distortion_coefficients", [0.1]),
        ("distortion_coefficients", {"data": [0.0] * 15}),
        ("distortion_coefficients", {"data": [[0.0] * 5]}),
    ],
)
def test_damaged_calibration_is_one_error_that_names_the_file(tmp_path, key, value):
    path = tmp_path / "head.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(CALIBRATION), key: value}))
    with pytest.raises(CameraError, match="^" + str(path)):
        read_calibration(path)


@pytest.mark.parametrize("key", ["camera_matrix", "distortion_coefficients"])
def test_nested_aliases_are_refused_before_they_are_expanded(tmp_path, key):
    calibration = yaml.safe_load(CALIBRATION)
    del calibration[key]
    lists = ["&l0 [1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lists += [f"&l{i} [{', '.join([f'*l{i - 1}'] * 9)}]" for i in range(1, 12)]  # 9^12 numbers
    content = "".join(f"k{i}: {text}\n" for i, text in enumerate(lists))
    path = tmp_path / "head.yaml"
    path.write_text(content + yaml.safe_dump(calibration) + f"{key}: {{data: *l11}}\n")
    with pytest.raises(CameraError, match=rf"got `array` - at `\$.{key}.data\[0\]`"):
        read_calibration(path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00\xff\x89PNG",
        b"just words",
        b"a: [1",
        b"[" * 2_000,
        b" " * 2_000_000,
        b"a: 2001-13-45",
        b"image_width: 0x_",
        b"a: !!timestamp x",
        b"a: " + b"9" * 5000,
        b"a: !!opencv-matrix 7",
        b"[image]\nwidth\n1e999",
    ],
)
def test_file_without_a_calibration_is_one_short_error_that_names_it(tmp_path, content):
    path = tmp_path / "head.yaml"
    path.write_bytes(content)
    with pytest.raises(CameraError, match="^" + str(path)) as caught:
        read_calibration(path)
    assert len(str(caught.value).removeprefix(str(path))) <= 300


def test_merge_keys_are_not_expanded(tmp_path):
    lines = ["a0: &a0 {b: 1}"]
    lines += [f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 10)}]}}" for i in range(1, 12)]
    path = tmp_path / "head.yaml"  # of 10^11 entries
    path.write_text("\n".join([*lines, CALIBRATION]))
    assert read_calibration(path).fx == 500


def test_nothing_in_a_calibration_is_executed(tmp_path):
    path = tmp_path / "head.yaml"
    path.write_text(f"{CALIBRATION}made: !!python/object/apply:os.mkdir ['{tmp_path}/made']\n")
    assert read_calibration(path).fx == 500
    assert not (tmp_path / "made").exists()


def test_missing_calibration_is_one_error(tmp_path):
    with pytest.raises(CameraError, match="cannot be read"):
        read_calibration(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("written", "coefficients"),
    [
        ("data: [-.2, 1e-05, +1e-3, 0, 0]", (-0.2, 1e-5, 1e-3, 0.0, 0.0)),  # text in YAML 1.1
        ("rows: 1, cols: 5", ()),
    ],
)
def test_calibration_with_numbers_as_text_or_without_coefficients(tmp_path, written, coefficients):
    calibration = yaml.safe_load(CALIBRATION)
    del calibration["distortion_coefficients"]
    text = f"{yaml.safe_dump(calibration)}distortion_coefficients: {{{written}}}\n7: a number\n"
    (tmp_path / "head.yaml").write_text(text)
    assert read_calibration(tmp_path / "head.yaml").distortion == coefficients


LENS = (-0.2, 0.05, 0.001, 0.002, 0.0)
HEAD = Camera(640, 480, 500.0, 501.0, 320.0, 240.0, "plumb_bob", LENS)
ECHO = """\
header:
  stamp: {sec: 1759842258, nanosec: 831630048}
  frame_id: camera
height: 480
width: 640
distortion_model: plumb_bob
d: [-0.2, 0.05, 0.001, 0.002, 0.0]
k:
- 500.0
- 0.0
- 320.0
- 0.0
- 501.0
- 240.0
- 0.0
- 0.0
- 1.0
r: [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]
binning_x: 0
binning_y: 0
roi:
  x_offset: 0
  y_offset: 0
  height: 0
  width: 0
  do_rectify: false
---
"""
OPENCV = """\
%YAML:1.0
---
calibration_time: "Tue 12 Mar 2024"
image_width: 640
image_height: 480
flags: 0
camera_matrix: !!opencv-matrix
   rows: 3
   cols: 3
   dt: d
   data: [ 500., 0., 320., 0., 501., 240., 0., 0., 1. ]
distortion_coefficients: !!opencv-matrix
   rows: 5
   cols: 1
   dt: d
   data: [ -2.0000000000000001e-01, 5.0000000000000003e-02,
       1.0000000000000000e-03, 2.0000000000000000e-03, 0. ]
"""
XML = """\
<?xml version="1.0"?>
<opencv_storage>
<!-- of a sample of OpenCV -->
<cameraResolution>
  640 480</cameraResolution>
<cameraMatrix type_id="opencv-matrix">
  <rows>3</rows>
  <cols>3</cols>
  <dt>d</dt>
  <data>
    500. 0. 320. 0. 501. 240. 0. 0. 1.</data></cameraMatrix>
<dist_coeffs type_id="opencv-matrix">
  <rows>1</rows><cols>5</cols><dt>d</dt>
  <data>-2.0e-01 5e-02 0.001 0.002 0.</data></dist_coeffs>
</opencv_storage>
"""
KALIBR = """\
cam0:
  cam_overlaps: [1]
  camera_model: pinhole
  distortion_coeffs: [-0.2, 0.05, 0.001, 0.002]
  distortion_model: radtan
  intrinsics: [500.0, 501.0, 320.0, 240.0]
  resolution: [640, 480]
  rostopic: /cam0/image_raw
"""
OST = """\
# oST version 5.0 parameters


[image]

width
640

height
480

[narrow_stereo]

camera matrix
500.000000 0.000000 320.000000
0.000000 501.000000 240.000000
0.000000 0.000000 1.000000

distortion
-0.200000 0.050000 0.001000 0.002000 0.000000

rectification
1.000000 0.000000 0.000000
0.000000 1.000000 0.000000
0.000000 0.000000 1.000000
"""
FORMATS = {"echo": ECHO, "OpenCV YAML": OPENCV, "OpenCV XML": XML, "Kalibr": KALIBR, "ost": OST}


@pytest.fixture
def read(tmp_path):
    """Write a text to a file and read it as a calibration."""
    path = tmp_path / "head"

    def read(text: str) -> Camera:
        path.write_text(text)
        return read_calibration(path)

    return read


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_lens(read, name):
    camera = read(FORMATS[name])
    assert camera.distortion == LENS[: len(camera.distortion)] and len(camera.distortion) >= 4
    assert camera == replace(HEAD, distortion=camera.distortion)


@pytest.mark.parametrize("newline", ["\r\n", "\n"])
@pytest.mark.parametrize("name", FORMATS)
def test_lines_may_end_as_other_systems_write_them(read, name, newline):
    assert read("\ufeff" + FORMATS[name].replace("\n", newline)).K_33[1, 1] == 501


def test_the_first_of_several_messages_is_read(read):
    assert read(ECHO + ECHO.replace("501.0", "77.0")) == HEAD


def test_the_keys_of_ros_1_are_read(read):
    assert read(ECHO.replace("\nd:", "\nD:").replace("\nk:", "\nK:")) == HEAD


@pytest.mark.parametrize(
    ("text", "used"),
    [
        (KALIBR + KALIBR.replace("cam0", "cam1").replace("500", "77"), "cam0"),
        (OST + OST[OST.index("[narrow") :].replace("500", "77"), "number 1"),
    ],
)
def test_the_first_of_several_cameras_is_used_with_a_warning(read, caplog, text, used):
    assert read(text).fx == 500
    (warning,) = caplog.messages
    assert f"2 cameras: {used} is used" in warning


def test_binning_and_roi_of_a_message_apply_to_its_images(read):
    binned = ECHO.replace("binning_x: 0", "binning_x: 2").replace("binning_y: 0", "binning_y: 2")
    assert read(binned) == HEAD.read_out(binning=(2, 2))
    cropped = binned.replace("x_offset: 0", "x_offset: 40").replace("  width: 0", "  width: 320")
    assert read(cropped) == HEAD.read_out((40, 0), (320, 0), (2, 2))


FISHEYE = "camera_matrix: {data: [400, 0, 320, 0, 400, 240, 0, 0, 1]}\n" + (
    "image_width: 640\nimage_height: 480\ndistortion_coefficients: [0.1, 0.01, 0, 0]\n"
)


@pytest.mark.parametrize(
    "names",
    [
        "camera_model: fisheye",
        "distortion_model: fisheye",
        "distortion_model: Equidistant",
        "camera_model: pinhole\ndistortion_model: equidistant",
        "camera_model: fisheye\ndistortion_model: equidistant",
        "camera_model: equidistant\ndistortion_model: ''",
        "fisheye_model: 1",
    ],
)
def test_names_of_the_fisheye_model(read, names):
    assert read(FISHEYE + names).distortion_model == "equidistant"


@pytest.mark.parametrize(
    "names",
    [
        "camera_model: omni\ndistortion_model: radtan",
        "camera_model: fisheye\ndistortion_model: plumb_bob",
    ],
)
def test_contradicting_models_are_refused(read, names):
    with pytest.raises(CameraError, match="found the camera models"):
        read(FISHEYE + names)


def test_four_coefficients_without_a_model_are_plumb_bob_with_a_warning(read, caplog):
    assert read(FISHEYE).distortion_model == "plumb_bob"
    assert "add distortion_model: equidistant" in caplog.text


@pytest.mark.parametrize(
    "content",
    [
        "{}",
        "- 1",
        "Camera.fx: 500\nCamera.fy: 500",
        "<calibration><fx>500</fx></calibration>",
        "<!DOCTYPE lolz [<!ENTITY a 'a'>]><opencv_storage><k>&a;</k></opencv_storage>",
        "<opencv_storage>",
        "[image]",
        "[image]\nwidth\n[other]",
        "cam0: 7",
    ],
)
def test_an_unknown_format_is_an_error_that_lists_the_known_ones(read, tmp_path, content):
    with pytest.raises(CameraError, match="head: .*expected .*ost.txt.*OpenCV.*Kalibr") as caught:
        read(content)
    assert len(str(caught.value).removeprefix(str(tmp_path))) <= 300


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (KALIBR.replace("resolution", "size"), "no size of the images"),
        (KALIBR.replace("320.0, 240.0", "320.0"), "3 intrinsics, expected 4"),
        (OST.replace("640", ""), "no size of the images"),
        (ECHO.replace("- 500.0\n", ""), "camera matrix of 8 values"),
        (ECHO.replace("x_offset: 0", "x_offset: -1"), "roi.x_offset"),
        (XML.replace("5e-02", "half"), "half"),
    ],
)
def test_what_a_file_of_a_known_format_lacks_is_named(read, text, found):
    with pytest.raises(CameraError, match=found):
        read(text)


@pytest.fixture(scope="module")
def demo_room() -> Localizer:
    return Localizer.open(ROOT / "maps/demo_room.onnx", threads=1)


@pytest.mark.parametrize(
    ("image", "calibration"),
    [
        ("demo60.jpg", "yaml/echo_once.yaml"),
        ("demo60.jpg", "yaml/opencv.yaml"),
        ("demo60.jpg", "yaml/kalibr_camchain.yaml"),
        ("demo60.jpg", "yaml/ost.txt"),
        ("demo60.jpg", "yaml/bom.yaml"),
        ("demo60.jpg", "yaml/camera_model_plumb_bob.yaml"),
        ("fisheye/fisheye.png", "fisheye/camera_model_fisheye.yaml"),
        ("fisheye/fisheye.png", "fisheye/distortion_model_fisheye.yaml"),
        ("fisheye/fisheye_skew.png", "fisheye/equidistant_skew.yaml"),
    ],
)
def test_a_reported_calibration_localizes_its_image_within_1_cm(
    cases: Path, demo_room: Localizer, image: str, calibration: str
):
    found = demo_room.localize(read_image(cases / image), read_calibration(cases / calibration))
    assert found.T_map_cam is not None
    assert np.linalg.norm(found.T_map_cam[:3, 3] - (2.2904, 2.7313, 0.9915)) < 0.01


@pytest.mark.parametrize(
    ("calibration", "model", "coefficients"),
    [
        ("orbbec8", "plumb_bob", (-0.0306, 0.0352, -0.000138, -0.0001459, -0.01204)),
        ("no_model_8", "rational_polynomial", (0.01, *[0.0] * 7)),
    ],
)
def test_reported_coefficients_are_read(cases, calibration, model, coefficients):
    camera = read_calibration(cases / f"yaml/{calibration}.yaml")
    assert (camera.distortion_model, camera.distortion) == (model, coefficients)
