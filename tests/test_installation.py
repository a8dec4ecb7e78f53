"""Installation by pip: contents of the wheels; the documented commands in an empty environment.

Needs the package index and about a minute: `make test-install`.
"""

import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterator
from pathlib import Path
from zipfile import ZipFile

import cv2
import numpy as np
import pytest
import yaml
from make_map import CAMERA, write_constant_map
from make_scene import write_plane_scene
from test_package import PACKAGES, ROOT, package_files

FOLDERS = (*PACKAGES, "packaging", "config", "launch", "resource", "rviz")
FILES = ("pyproject.toml", "setup.py", "setup.cfg", "package.xml", "README.md", "LICENSE")

pytestmark = pytest.mark.install


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> Path:
    """Return a copy of the repository's files that pip needs."""
    folder = tmp_path_factory.mktemp("sources")
    built = shutil.ignore_patterns("__pycache__", "build", "*.egg-info")
    for name in FOLDERS:  # the links in packaging/ stay links
        shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=built)
    for name in FILES:
        shutil.copy(ROOT / name, folder)
    for built in ("build", "packaging/mote_distill/build"):  # as an earlier build leaves them
        for package in PACKAGES:
            removed = folder / built / "lib" / package / "removed.py"
            removed.parent.mkdir(parents=True)
            removed.touch()
    return folder


@pytest.fixture(scope="module")
def wheels(sources) -> dict[str, Path]:
    """Return the wheel of each distribution."""
    options = ["--no-deps", "--no-build-isolation", "--wheel-dir", "dist"]
    pip(Path(sys.executable), sources, "wheel", *options, ".", "./packaging/mote_distill")
    return {path.name.split("-")[0]: path for path in (sources / "dist").iterdir()}


@pytest.fixture(scope="module")
def commands(sources, tmp_path_factory) -> Iterator[Path]:
    """Return the folder of executables of an environment with the runtime and its libraries."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=True)
    pip(folder / "bin/python", sources, "install", "--no-compile", ".")
    yield folder / "bin"
    shutil.rmtree(folder)  # with the trainer, more than a gigabyte


@pytest.fixture(scope="module")
def trainer_commands(commands, sources) -> Path:
    """Add the trainer and its libraries to the environment of `commands`."""
    pip(commands / "python", sources, "install", "--no-compile", ".", "./packaging/mote_distill")
    return commands


@pytest.fixture
def inputs(tmp_path, monkeypatch) -> Path:
    """Return the working directory, with a map, an image and the calibration of its camera."""
    monkeypatch.chdir(tmp_path)
    write_constant_map("map.onnx")
    cv2.imwrite("image.png", np.full((CAMERA.height, CAMERA.width, 3), 128, np.uint8))
    matrix = [CAMERA.fx, 0.0, CAMERA.cx, 0.0, CAMERA.fy, CAMERA.cy, 0.0, 0.0, 1.0]
    calibration = {
        "image_width": CAMERA.width,
        "image_height": CAMERA.height,
        "distortion_model": "plumb_bob",
        "camera_matrix": {"rows": 3, "cols": 3, "data": matrix},
        "distortion_coefficients": {"rows": 1, "cols": 5, "data": [0.0] * 5},
    }
    Path("camera.yaml").write_text(yaml.safe_dump(calibration))
    return tmp_path


def pip(python: Path, folder: Path, *arguments: str) -> None:
    """Run pip in a folder, with the locked versions."""
    lock = str(ROOT / "requirements/constraints.txt")
    ended = subprocess.run(
        [python, "-m", "pip", *arguments, "--quiet", "--disable-pip-version-check"],
        cwd=folder,
        env=os.environ | {"PIP_CONSTRAINT": lock, "PIP_BUILD_CONSTRAINT": lock},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr[-2000:]


def run(folder: Path, line: str) -> subprocess.CompletedProcess:
    """Run an executable of a folder, without the modules on this process's path."""
    program, *arguments = line.split()
    return subprocess.run(
        [folder / program, *arguments],
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        capture_output=True,
        text=True,
    )


def content(wheel: Path) -> set[str]:
    """Return the names of a wheel's files, without its metadata and what it adds to share/."""
    with ZipFile(wheel) as file:
        names = file.namelist()
    return {name for name in names if not name.split("/")[0].endswith((".dist-info", ".data"))}


@pytest.mark.parametrize(
    ("distribution", "packages"),
    [
        ("mote_localization", ["mote_localization"]),
        ("mote_distill", ["distill_training", "demo_room"]),
    ],
)
def test_wheel_contains_its_packages_only(sources, wheels, distribution, packages):
    assert content(wheels[distribution]) == package_files(sources, *packages)


def test_wheels_contain_the_licence(wheels):
    assert len(wheels) == 2
    for wheel in wheels.values():
        with ZipFile(wheel) as file:
            (name,) = (name for name in file.namelist() if name.endswith("/LICENSE"))
            assert file.read(name) == (ROOT / "LICENSE").read_bytes()


LOCALIZE = "mote localize image.png --map map.onnx --camera camera.yaml"


def test_installed_runtime_localizes_an_image(commands, inputs):
    ended = run(commands, LOCALIZE)
    assert ended.returncode == 0, ended.stderr
    assert "1.0000 2.0000 1.2000 m" in ended.stdout
    assert not (commands / "mote-distill").exists()


@pytest.mark.parametrize(
    ("line", "remedy"),
    [
        (f"{LOCALIZE} --backend tensorrt_rtx", "pip install tensorrt-rtx-cu13"),
        ("localizer", "pip install 'ros-rclpy[fastrtps]' ros-common-interfaces"),
    ],
)
def test_missing_package_is_one_line_that_names_it(commands, inputs, line, remedy):
    ended = run(commands, line)
    assert ended.returncode == 1
    assert ended.stderr.count("\n") == 1 and len(ended.stderr) <= 300, ended.stderr
    assert remedy in ended.stderr


def test_trainer_without_its_libraries_names_the_command_that_installs_them(
    commands, wheels, inputs
):
    write_plane_scene(inputs / "scene")
    pip(
        commands / "python",
        inputs,
        "install",
        "--no-compile",
        "--no-deps",
        str(wheels["mote_distill"]),
    )
    assert run(commands, "mote-distill room --help").returncode == 0
    ended = run(commands, "mote-distill map scene -o new.onnx")
    assert ended.returncode == 1
    assert ended.stderr.count("\n") == 1 and len(ended.stderr) <= 300, ended.stderr
    assert "`pip install . ./packaging/mote_distill`" in ended.stderr


def test_installed_trainer_makes_a_map(trainer_commands, inputs):
    write_plane_scene(inputs / "scene")
    ended = run(trainer_commands, "mote-distill map scene -o new.onnx --steps 2 --batch 1")
    assert ended.returncode == 0, ended.stderr
    ended = run(trainer_commands, "mote inspect new.onnx")
    assert ended.returncode == 0, ended.stderr
