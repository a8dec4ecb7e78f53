"""Packaging: the colcon build, imports without torch and ROS, versions, locked dependencies."""

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from xml.etree import ElementTree

import pytest

import mote_localization

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
RUNTIME, TRAINER = (
    tomllib.loads((ROOT / folder / "pyproject.toml").read_text())
    for folder in (".", "packaging/mote_distill")
)
PROJECTS = {file["project"]["name"]: file["project"] for file in (RUNTIME, TRAINER)}
TOOLS = RUNTIME["tool"]
PACKAGES = ("mote_localization", "distill_training", "demo_room")
COLCON = Path(sys.executable).with_name("colcon")
ROS_MODULE = re.compile(
    r"rclpy|launch|launch_ros|ament_index_python|cv_bridge|sensor_msgs_py|tf2_ros"
    r"|\w+_(msgs|srvs|interfaces)"
)


def package_files(folder: Path, *packages: str) -> set[str]:
    """Return the files of packages in a folder, relative to it."""
    return {
        str(path.relative_to(folder))
        for package in packages
        for path in (folder / package).rglob("*")
        if path.is_file() and path.parent.name != "__pycache__"
    }


def requirement_names(lines: Iterable[str]) -> set[str]:
    """Return the normalized names of the distributions that requirement lines name."""
    matches = (re.match(r"[\w-]+", line) for line in lines)
    return {match[0].lower().replace("_", "-") for match in matches if match}


def imported(path: Path) -> set[str]:
    """Return the top-level names that a file imports, also inside functions."""
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
    """Run code in a Python that finds neither torch nor rclpy."""
    return subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH_AND_ROS + code],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """Return the install prefix of the package after `colcon build` in ros2_ws."""
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


def test_colcon_installs_the_runtime_only(installed):
    (site,) = installed.glob("lib/python3*/site-packages")
    assert package_files(site, *PACKAGES) == package_files(ROOT, "mote_localization")


def test_colcon_installs_shared_files(installed):
    share = installed / "share"
    assert (share / "ament_index/resource_index/packages/mote_localization").is_file()
    for kind in ("config", "launch", "rviz"):
        names = {path.name for path in (share / "mote_localization" / kind).iterdir()}
        assert names == {path.name for path in (ROOT / kind).glob("*.*")}


def test_installed_command_starts_in_any_folder(installed, tmp_path):
    (site,) = installed.glob("lib/python3*/site-packages")
    run = subprocess.run(
        [installed / "lib/mote_localization/mote", "--help"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": f"{site}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    assert "mote" in run.stdout


@pytest.mark.ros
def test_installed_node_is_an_executable_of_the_package(installed):
    assert os.access(installed / "lib/mote_localization/localizer", os.X_OK)


def test_package_xml_lists_every_imported_ros_package():
    files = [*(ROOT / "mote_localization").rglob("*.py"), *(ROOT / "launch").glob("*.py")]
    needed = {name for path in files for name in imported(path) if ROS_MODULE.fullmatch(name)}
    package = ElementTree.parse(ROOT / "package.xml")
    assert needed <= {depend.text for depend in package.findall("exec_depend")}


# rosdep's keys, from rosdep/python.yaml of ros/rosdistro
ROSDEP_KEYS = {
    "filelock": "python3-filelock",
    "jinja2": "python3-jinja2",
    "matplotlib": "python3-matplotlib",
    "natsort": "python3-natsort",
    "numpy": "python3-numpy",
    "onnxruntime": "python3-onnxruntime-pip",
    "opencv-python-headless": "python3-opencv",
    "pillow": "python3-pil",
    "platformdirs": "python3-platformdirs",
    "pyyaml": "python3-yaml",
    "rich": "python3-rich",
    "rosbags": "python3-rosbags-pip",
}
WITHOUT_KEY = {"msgspec", "onnx", "poselib", "tyro"}


def test_package_xml_lists_every_dependency_that_rosdep_has():
    declared = requirement_names(PROJECTS["mote_localization"]["dependencies"])
    assert declared == ROSDEP_KEYS.keys() | WITHOUT_KEY
    package = ElementTree.parse(ROOT / "package.xml")
    listed = {depend.text for depend in package.findall("exec_depend")}
    assert {name for name in listed if name.startswith("python3-")} == {*ROSDEP_KEYS.values()}


def test_versions_of_rosbags_agree():
    """Its private names are used, see `bag_limits`."""
    (line,) = (d for d in PROJECTS["mote_localization"]["dependencies"] if "rosbags" in d)
    package = ElementTree.parse(ROOT / "package.xml")
    (depend,) = (d for d in package.findall("exec_depend") if "rosbags" in (d.text or ""))
    assert line == f"rosbags>={depend.get('version_gte')},<{depend.get('version_lt')}"
    limits = ROOT / "mote_localization" / "scenes" / "bags" / "bag_limits.py"
    assert f"pip install '{line}'" in limits.read_text()


def test_maintainers_and_licence_agree():
    package = ElementTree.parse(ROOT / "package.xml")
    maintainers = [
        {"name": person.text, "email": person.get("email")}
        for person in package.findall("maintainer")
    ]
    assert package.findtext("license") == "Apache-2.0"
    for project in PROJECTS.values():
        assert project["maintainers"] == maintainers
        assert "License :: OSI Approved :: Apache Software License" in project["classifiers"]


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


def test_the_docker_context_has_what_the_build_needs():
    """Compare .dockerignore with the files that the tests of the installation copy."""
    from test_installation import FILES, FOLDERS

    lines = (ROOT / ".dockerignore").read_text().splitlines()
    sent = {line[1:] for line in lines if line.startswith("!")}
    assert all((ROOT / name).exists() for name in sent)
    assert sent >= {*FOLDERS, *FILES, "Makefile", "requirements", "tools", "ros2_ws/src"}


def test_versions_agree():
    runtime, trainer = PROJECTS["mote_localization"], PROJECTS["mote-distill"]
    version = runtime["version"]
    assert trainer["version"] == version
    assert f"mote_localization=={version}" in trainer["dependencies"]
    assert ElementTree.parse(ROOT / "package.xml").findtext("version") == version
    assert mote_localization.__version__ == version


@pytest.mark.parametrize(
    ("lock", "lists"), [("constraints", ("ros", "dev")), ("constraints-numpy1", ("dev",))]
)
def test_every_dependency_is_locked(lock, lists):
    def lines(name):
        return (ROOT / "requirements" / f"{name}.txt").read_text().splitlines()

    projects = [line for project in PROJECTS.values() for line in project["dependencies"]]
    needed = set().union(*(requirement_names(lines(name)) for name in lists))
    needed |= requirement_names(projects) - {"mote-localization"}
    assert needed <= requirement_names(lines(lock))
