"""What the tests share: recorded data, an environment for ROS processes, what is skipped where."""

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mote_localization.evaluation.over_ros import loopback_environment

if TYPE_CHECKING:
    from distill_training.reconstruction import Reconstruction

ROOT = Path(__file__).resolve().parent.parent

# marker: the module that its tests need
NEEDS = {"ros": "rclpy", "train": "torch"}


def pytest_collection_modifyitems(items):
    missing = {marker for marker, module in NEEDS.items() if not importlib.util.find_spec(module)}
    for item in items:
        for marker in missing.intersection(item.keywords):
            item.add_marker(pytest.mark.skip(reason=f"{NEEDS[marker]} is not installed"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The data that lies beside the repository, or where MOTE_SHARED says."""
    path = Path(os.environ.get("MOTE_SHARED", ROOT.parent / "shared"))
    if not path.is_dir():
        pytest.skip(f"no shared data at {path}; MOTE_SHARED names another place")
    return path


@pytest.fixture(scope="session")
def kitchen(shared_data) -> Path:
    return scene(shared_data, "redkitchen")


@pytest.fixture(scope="session")
def lounge(shared_data) -> Path:
    return scene(shared_data, "lounge")


def scene(shared_data: Path, name: str) -> Path:
    path = shared_data / "data" / "reloc_real" / name
    if not path.is_dir():
        pytest.skip(f"no scene at {path}")
    return path


@pytest.fixture
def reconstruction(tmp_path: Path) -> "Reconstruction":
    """Four frames of a wall."""
    from make_wall import write_wall  # only some environments hold what it needs

    return write_wall(tmp_path / "r")


@pytest.fixture(scope="module")
def ros_env() -> Iterator[None]:
    """DDS on the loopback, in a domain of this module alone: here and in its processes."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in loopback_environment().items():
            patch.setenv(name, value)
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)
        yield


def python_path() -> str:
    """Return the PYTHONPATH of a test that starts Python itself: as pytest's own, see pyproject."""
    folders = (ROOT, ROOT / "tests", ROOT / "tests/runtime", ROOT / "tests/trainer")
    return os.pathsep.join(map(str, folders))
