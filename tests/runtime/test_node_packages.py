"""Packages of the node: which it imports, and one line where one is missing."""

import os
import re
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from conftest import ROOT
from make_map import write_constant_map
from test_package import PROJECTS, requirement_names

from mote_localization.nodes import process


def hidden(folder: Path, package: str) -> str:
    """Return a PYTHONPATH in which a package is not installed."""
    (folder / package).mkdir(parents=True)
    error = f"No module named {package!r}"
    (folder / package / "__init__.py").write_text(
        f"raise ModuleNotFoundError({error!r}, name={package!r})"
    )
    return f"{folder}:{ROOT}"


@pytest.mark.ros
def test_the_node_imports_the_packages_of_the_documentation_and_none_of_the_tools(ros_env):
    code = "import sys, mote_localization.nodes.localizer_node as node\n"
    code += "import mote_localization.backends.onnx_runtime\n"
    code += "print(*{name.split('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    distributions = packages_distributions()
    loaded = requirement_names(
        name for module in done.stdout.split() for name in distributions.get(module, [])
    )
    declared = requirement_names(PROJECTS["mote_localization"]["dependencies"])
    page = (ROOT / "docs" / "installation.md").read_text()
    (line,) = re.findall("^The node itself imports (.*)", page, re.MULTILINE)
    documented = requirement_names(re.findall("`(.*?)`", line))
    assert documented <= declared
    assert loaded & declared | {"poselib"} == documented  # it has no wheels for aarch64


@pytest.mark.ros
@pytest.mark.parametrize(
    ("package", "expected"),
    [
        ("rclpy", "ROS 2 is not found (No module named 'rclpy'); source it"),
        ("sensor_msgs", "cannot be imported (No module named 'sensor_msgs'); install it: "),
        ("cv2", "pip install opencv-python-headless, or all packages: pip install ."),
        ("msgspec", "pip install msgspec, or all packages: pip install ."),
        ("onnxruntime", "pip install onnxruntime"),
    ],
)
def test_a_missing_package_is_one_line_that_names_what_to_install(
    ros_env, child, tmp_path, package, expected
):
    room = write_constant_map(tmp_path / "room.onnx")
    path = hidden(tmp_path / "hidden", package)
    node = child("localizer_main", "--ros-args", "-p", f"map:={room}", PYTHONPATH=path)
    assert node.code() == 1
    (line,) = [line for line in node.text().splitlines() if "[WARN]" not in line]  # of Fast DDS
    assert line.startswith("error: ") and expected in line and len(line) <= 300


def test_the_name_of_the_ros_distribution_is_that_of_the_sourced_one(monkeypatch):
    pytest.importorskip("rclpy", reason="needs ROS 2")
    monkeypatch.setenv("ROS_DISTRO", "jazzy")
    error = process.import_error(ImportError("No module", name="nav_msgs.msg"))
    assert str(error).endswith("sudo apt-get install ros-jazzy-nav-msgs")


def test_an_error_in_own_modules_is_no_missing_package():
    error = ImportError("cannot import name 'x'", name="mote_localization.pose")
    with pytest.raises(ImportError, match="cannot import name"):
        process.import_error(error)


@pytest.mark.slow
def test_images_are_localized_without_poselib(tmp_path):
    """As on aarch64, for which poselib has no wheels; test_pose.py tests both solvers."""
    tests = ["test_localizer.py", "test_pose.py::test_options_of_poselib_exist"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *(f"tests/runtime/{test}" for test in tests)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": hidden(tmp_path, "poselib"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert "poselib is not installed" in done.stdout  # the reason for which the last one is skipped
