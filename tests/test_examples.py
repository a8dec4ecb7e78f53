"""The programs in `examples/` and the Python lines of the README run; documented commands parse."""

import re
import runpy
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
import tyro
import yaml
from conftest import ROOT, python_path
from make_map import CAMERA, ROOM_M, T_MAP_CAM, room_points, write_constant_map

from distill_training import cli as trainer_cli
from mote_localization import cli as runtime_cli
from mote_localization.backends import create_backend
from mote_localization.keyframes import Keyframe
from mote_localization.map_file import read_map, write_map
from mote_localization.self_test import SelfTest

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
GREY_HW3 = np.full((CAMERA.height, CAMERA.width, 3), 100, np.uint8)


def run(folder: Path, *arguments: object) -> subprocess.CompletedProcess:
    """Run Python in a folder, as a user would; without ROS and with this checkout."""
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=folder,
        env={"PYTHONPATH": python_path(), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )


def output_of(folder: Path, example: str, *arguments: object) -> str:
    """Return what an example prints; it must succeed."""
    done = run(folder, ROOT / "examples" / example, *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def folder(tmp_path) -> Path:
    """A folder with a map, an image and the calibration of its camera."""
    write_constant_map(tmp_path / "room.onnx")
    cv2.imwrite(str(tmp_path / "image.jpg"), GREY_HW3)
    calibration = {
        "image_width": CAMERA.width,
        "image_height": CAMERA.height,
        "camera_matrix": {"data": CAMERA.K_33.reshape(9).tolist()},
        "distortion_model": "plumb_bob",
        "distortion_coefficients": {"data": [0.0] * 5},
    }
    (tmp_path / "camera.yaml").write_text(yaml.safe_dump(calibration))
    return tmp_path


@pytest.mark.parametrize("example", sorted((ROOT / "examples").glob("*.py")), ids=lambda p: p.name)
def test_example_is_shorter_than_40_lines(example):
    assert len(example.read_text().splitlines()) < 40


def test_python_lines_of_the_readme_localize_an_image(folder):
    (lines,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert sum(map(bool, lines.splitlines())) == 6
    done = run(folder, "-c", f"{lines}print(*found.T_map_cam[:3, 3])")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Status.LOCALIZED")
    position = np.array(done.stdout.splitlines()[-1].split(), float)
    np.testing.assert_allclose(position, T_MAP_CAM[:3, 3], atol=2e-3)


def test_localize_image_prints_the_pose(folder):
    printed = output_of(folder, "localize_image.py", "room.onnx", "image.jpg", "camera.yaml")
    numbers = re.findall(r"-?\d+\.\d*", printed.splitlines()[0])
    np.testing.assert_allclose(np.array(numbers, float), T_MAP_CAM[:3, 3], atol=2e-3)


def test_localize_image_prints_why_an_image_is_lost(folder):
    cv2.imwrite(str(folder / "black.png"), np.zeros_like(GREY_HW3))
    black = ("room.onnx", "black.png", "camera.yaml")
    done = run(folder, ROOT / "examples" / "localize_image.py", *black)
    assert done.returncode == 1
    assert done.stderr.startswith("LOST: 0 cells")


def test_localize_video_writes_a_tum_trajectory_of_the_localized_frames(folder):
    size = (CAMERA.width, CAMERA.height)
    video = cv2.VideoWriter(str(folder / "a.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 10, size)
    for level in (100, 120, 0, 140):  # the third frame is black
        video.write(np.full_like(GREY_HW3, level))
    video.release()
    arguments = ("room.onnx", "a.avi", "camera.yaml", "out.tum")
    assert output_of(folder, "localize_video.py", *arguments) == "3 of 4 frames localized\n"
    rows = np.loadtxt(folder / "out.tum")
    np.testing.assert_allclose(rows[:, 0], [0.0, 0.1, 0.3])
    np.testing.assert_allclose(rows[:, 1:4], np.tile(T_MAP_CAM[:3, 3], (3, 1)), atol=2e-3)


def test_read_cloud_reads_the_points_of_a_map_and_its_keyframes(folder):
    plain = read_map(folder / "room.onnx")
    points_hw3 = room_points(T_MAP_CAM, CAMERA, 8)
    info = replace(
        plain.info,
        self_test=SelfTest.record(GREY_HW3, create_backend(plain).predict),
        keyframes=(Keyframe.record(T_MAP_CAM, GREY_HW3, points_hw3),),
    )
    write_map(folder / "full.onnx", onnx.load_model_from_string(plain.model), info)
    printed = output_of(folder, "read_cloud.py", "full.onnx")
    cells = points_hw3.shape[0] * points_hw3.shape[1]
    assert printed.startswith(f"{2 * cells} points")
    numbers = np.array(re.findall(r"-?\d+\.\d*(?:e-?\d+)?", printed), float)
    np.testing.assert_allclose(numbers[3:], points_hw3.reshape(-1, 3).max(axis=0), atol=0.01)
    assert (numbers[3:] <= ROOM_M + 0.01).all()


@pytest.mark.train
def test_read_cloud_reads_the_points_of_a_reconstruction(reconstruction, tmp_path):
    printed = output_of(tmp_path, "read_cloud.py", reconstruction.folder)
    assert printed.startswith("192 points")  # four frames of 8 x 6 cells


@pytest.mark.train
def test_custom_student_writes_a_map_of_its_own_class(
    reconstruction, tmp_path, monkeypatch, capsys, one_thread
):
    from distill_training import students  # needs torch

    example = str(ROOT / "examples" / "custom_student.py")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [example, str(reconstruction.folder), "plain.onnx", "3"])
    monkeypatch.setattr(students, "FAMILIES", dict(students.FAMILIES))
    runpy.run_path(example, run_name="__main__")  # a process would import torch again
    assert capsys.readouterr().out.startswith("equal to the student within")
    info = read_map(tmp_path / "plain.onnx").info
    assert (info.student, info.training["steps"]) == ("plain", 3)


@pytest.fixture
def commands(monkeypatch) -> dict[str, dict]:
    """The subcommands of `mote` and `mote-distill`, by program."""
    found: dict[str, dict] = {}
    monkeypatch.setattr(sys, "argv", ["mote"])
    for module in (runtime_cli, trainer_cli):
        monkeypatch.setattr(module, "run_command", lambda c, program, _: found.update({program: c}))
        module.main()
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_documented_commands_have_options_that_exist(page, commands):
    text = page.read_text().replace("\\\n", " ").replace(" OPTIONS\n", "\n")
    for line in re.findall(r"^ {4}(mote(?:-distill)? .*)$", text, re.MULTILINE):
        program, *arguments = shlex.split(line, comments=True)
        try:
            tyro.extras.subcommand_cli_from_dict(commands[program], prog=program, args=arguments)
        except SystemExit:
            pytest.fail(line)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages_lead_to_files_and_headings(page):
    for target in re.findall(r"\]\((?!https?:)([^)]*)\)", page.read_text()):
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        assert path.exists(), target
        headings = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE) if anchor else []
        anchors = [re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings]
        assert not anchor or anchor in anchors, target


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 90


def is_defined(name: str, text: str) -> bool:
    """Return whether each part of a dotted name is a class, function, constant or field."""
    return all(
        re.search(rf"^\s*(class|def) {part}\b|^{part}\b.*=|^\s+{part}: ", text, re.MULTILINE)
        for part in name.split(".")
    )


def find_path(name: str) -> Path | None:
    """Return the file or folder of a name on the architecture page; None: there is none."""
    places = (ROOT / name, ROOT / "distill_training" / name)
    return next((path for path in places if path.exists()), None)


def test_the_architecture_page_names_files_and_definitions_that_exist():
    text = (ROOT / "docs" / "architecture.md").read_text()
    found = re.findall(r"`([\w./-]+/[\w.-]+\.\w+)`(?::((?: ?`[\w.]+`,?)+))?", text)
    assert len(found) > 100
    for name, definitions in found:
        path = find_path(name)
        assert path and path.is_file(), name
        for definition in re.findall(r"[\w.]+", definitions):
            assert is_defined(definition, path.read_text()), f"{name}: {definition}"


def test_tables_of_the_architecture_page_name_definitions_of_files_in_the_same_row():
    page, checked = (ROOT / "docs" / "architecture.md").read_text(), 0
    for row in re.findall(r"^\|.*$", page, re.MULTILINE):
        quoted = {name: find_path(name) for name in re.findall(r"`(\w[\w./-]*)`", row)}
        files = [f for p in quoted.values() if p for f in (p.rglob("*.py") if p.is_dir() else [p])]
        content = "\n".join(file.read_text() for file in files)
        names = [name for name, path in quoted.items() if not path and "-" not in name]
        for name in names:
            assert is_defined(name, content), f"{name}, in: {row[:100]}"
        checked += len(names)
    assert checked > 150
