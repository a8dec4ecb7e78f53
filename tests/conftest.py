"""Fixtures for all tests: recorded data, a ROS environment, command lines; skipped markers."""

import importlib.util
import os
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest
from node_processes import Child

from mote_localization.evaluation.over_ros import loopback_environment
from mote_localization.scenes.folder import FolderScene

if TYPE_CHECKING:
    from distill_training.reconstruction import Reconstruction

ROOT = Path(__file__).resolve().parent.parent

# marker -> module that its tests need
NEEDS = {"ros": "rclpy", "train": "torch"}


def pytest_collection_modifyitems(items):
    missing = {marker for marker, module in NEEDS.items() if not importlib.util.find_spec(module)}
    for item in items:
        for marker in missing.intersection(item.keywords):
            item.add_marker(pytest.mark.skip(reason=f"{NEEDS[marker]} is not installed"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of recorded data: MOTE_SHARED, or `shared` beside the repository."""
    path = Path(os.environ.get("MOTE_SHARED", ROOT.parent / "shared"))
    if not path.is_dir():
        pytest.skip(f"no shared data at {path}; set MOTE_SHARED to its folder")
    return path


@pytest.fixture(scope="session")
def cases(shared_data) -> Path:
    """The folder of small inputs that users of comparable software report."""
    path = shared_data / "cases"
    if not path.is_dir():
        pytest.skip(f"no cases at {path}")
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
    """A reconstruction of four frames of a wall."""
    from make_wall import write_wall  # needs the trainer

    return write_wall(tmp_path / "r")


@pytest.fixture(scope="session")
def photographs(kitchen: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scene of 12 photographs of the kitchen, without depth; four of them have a pose."""
    folder = tmp_path_factory.mktemp("photographs")
    (folder / "data").mkdir()
    names = []
    for k, frame in enumerate(islice(FolderScene(kitchen).frames("train"), 0, 60, 5)):
        names.append(frame.name)
        cv2.imwrite(str(folder / f"data/{frame.name}.color.png"), frame.image()[..., ::-1])
        if k % 3 == 0:
            np.savetxt(folder / f"data/{frame.name}.pose.txt", frame.known_pose())
        camera = frame.known_camera()
    (folder / "train.txt").write_text("\n".join(names))
    np.savetxt(folder / "camera-intrinsics.txt", camera.K_33)
    return folder


@pytest.fixture(scope="session")
def sfm_work(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The work folder of structure from motion of the photographs; it takes some seconds."""
    from quick_sfm import QUICK  # these need the trainer

    from distill_training.poses.scene_poses import find_poses

    folder = tmp_path_factory.mktemp("sfm") / "work"
    find_poses(FolderScene(photographs), QUICK, folder)
    return folder


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Run torch in one thread: several wait for each other in tiny networks on a busy machine."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def run_command(monkeypatch, capsys):
    """Run a program's `main` with arguments; return exit status, stdout and stderr."""

    def run(program, main, arguments):
        monkeypatch.setattr(sys, "argv", [program, *arguments.split()])
        try:
            main()
            status = 0
        except SystemExit as end:
            if isinstance(end.code, str):
                print(end.code, file=sys.stderr)
            status = 1 if isinstance(end.code, str) else end.code or 0
        return status, *capsys.readouterr()

    return run


@pytest.fixture(scope="module")
def ros_env() -> Iterator[None]:
    """Restrict DDS to the loopback and to a domain that no other test module uses."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in loopback_environment().items():
            patch.setenv(name, value)
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)
        yield


def python_path() -> str:
    """Return the PYTHONPATH for Python processes of tests, equal to pytest's `pythonpath`."""
    folders = (ROOT, ROOT / "tests", ROOT / "tests/runtime", ROOT / "tests/trainer")
    return os.pathsep.join(map(str, folders))


@pytest.fixture
def child(tmp_path):
    """Start processes; those that still run after the test are killed."""
    started = []

    def start(name: str, *arguments: object, **env: str) -> Child:
        started.append(Child(tmp_path / f"{name}{len(started)}.log", name, *arguments, **env))
        return started[-1]

    yield start
    for one in started:
        one.process.kill()
        one.process.wait()


@pytest.fixture
def robot(ros_env):
    """A simulated robot that sends images, odometry and transforms, see `SimulatedRobot`."""
    from simulated_robot import running_robot

    with running_robot() as one:
        yield one


@pytest.fixture
def localizer(child, room_map, robot):
    """Start the localizer node with parameters and the map `room_map` of the test's module."""
    from simulated_robot import start_localizer

    return lambda **parameters: start_localizer(child, room_map, robot, **parameters)
