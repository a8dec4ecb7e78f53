"""The package as users install it: what colcon builds, what each side imports, what is locked."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("mote_localization", "distill_training")
COLCON = Path(sys.executable).with_name("colcon")
ROS_MODULE = re.compile(
    r"rclpy|launch|launch_ros|ament_index_python|cv_bridge|sensor_msgs_py|tf2_ros"
    r"|\w+_(msgs|srvs|interfaces)"
)


def package_files(folder: Path) -> set[str]:
    """Files of both packages under a folder, relative to it."""
    return {
        str(path.relative_to(folder))
        for package in PACKAGES
        for path in (folder / package).rglob("*")
        if path.is_file() and path.parent.name != "__pycache__"
    }


def imported(path: Path) -> set[str]:
    """Top-level names that a file imports, at its head or inside functions."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return {name.split(".")[0] for name in names}


WITHOUT_TORCH_AND_ROS = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "rclpy"):
            raise ModuleNotFoundError(f"No module named '{name}'", name=name)

sys.meta_path.insert(0, Absent())
"""


def run_without_torch_and_ros(code: str) -> subprocess.CompletedProcess:
    """Run code as if neither were installed."""
    return subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH_AND_ROS + code],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """Prefix of the package after `colcon build` in ros2_ws."""
    if not COLCON.exists():
        pytest.skip("colcon is not installed beside this Python")
    folder = tmp_path_factory.mktemp("colcon")
    bases = ["--build-base", folder / "build", "--install-base", folder / "install"]
    run = subprocess.run(
        [COLCON, "--log-base", folder / "log", "build", *bases],
        cwd=ROOT / "ros2_ws",
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "1 package finished" in run.stdout
    return folder / "install" / "mote_localization"


def test_colcon_installs_every_file_of_both_packages(installed):
    (site,) = installed.glob("lib/python3*/site-packages")
    assert package_files(site) == package_files(ROOT)


def test_colcon_installs_what_ros_looks_for(installed):
    share = installed / "share"
    assert (share / "ament_index/resource_index/packages/mote_localization").is_file()
    for kind in ("config", "launch", "rviz"):
        names = {path.name for path in (share / "mote_localization" / kind).iterdir()}
        assert names == {path.name for path in (ROOT / kind).glob("*.*")}


@pytest.mark.parametrize("command", ["mote", "mote-distill"])
def test_installed_commands_start_anywhere(installed, command, tmp_path):
    (site,) = installed.glob("lib/python3*/site-packages")
    run = subprocess.run(
        [installed / "lib/mote_localization" / command, "--help"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": f"{site}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    assert command in run.stdout


@pytest.mark.ros
def test_installed_node_is_found_by_ros2_run(installed):
    assert os.access(installed / "lib/mote_localization/localizer", os.X_OK)


def test_rooms_import_only_what_they_may():
    wrong = []
    for path in sorted(package_files(ROOT)):
        if not path.endswith(".py"):
            continue
        names = imported(ROOT / path)
        found = names & {"torchvision", "timm"}
        if path.startswith("mote_localization/"):
            found |= names & {"torch", "lightning_fabric", "distill_training"}
        if not path.startswith("mote_localization/nodes/"):
            found |= {name for name in names if ROS_MODULE.fullmatch(name)}
        wrong += [f"{path} imports {name}" for name in found]
    assert not wrong


def test_rosdep_is_told_every_ros_package_imported():
    files = [*(ROOT / "mote_localization").rglob("*.py"), *(ROOT / "launch").glob("*.py")]
    needed = {name for path in files for name in imported(path) if ROS_MODULE.fullmatch(name)}
    package = ElementTree.parse(ROOT / "package.xml")
    assert needed <= {depend.text for depend in package.findall("exec_depend")}


def test_runtime_imports_without_torch_and_ros():
    run = run_without_torch_and_ros(
        "import pkgutil, importlib, mote_localization\n"
        "for found in pkgutil.walk_packages(mote_localization.__path__, 'mote_localization.'):\n"
        "    if not found.name.startswith('mote_localization.nodes'):\n"
        "        importlib.import_module(found.name)\n",
    )
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("command", ["mote_localization.cli", "distill_training.cli"])
def test_commands_start_without_torch_and_ros(command):
    run = run_without_torch_and_ros(
        f"import {command}; sys.argv[1:] = ['--help']; {command}.main()"
    )
    assert run.returncode == 0, run.stderr


def test_versions_agree():
    version = ElementTree.parse(ROOT / "package.xml").findtext("version")
    assert f'version="{version}"' in (ROOT / "setup.py").read_text()


@pytest.mark.parametrize(
    ("lock", "lists"),
    [
        ("constraints", ("runtime", "ros", "train", "dev")),
        ("constraints-numpy1", ("runtime", "train", "dev")),
    ],
)
def test_every_requirement_is_locked(lock, lists):
    def names(file):
        lines = (ROOT / "requirements" / f"{file}.txt").read_text().splitlines()
        matches = (re.match(r"[\w-]+", line) for line in lines)
        return {match[0].lower().replace("_", "-") for match in matches if match}

    assert set().union(*map(names, lists)) <= names(lock)
