"""Nothing from a file or the current folder is executed, and nothing is sent anywhere."""

import os
import shutil
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
import yaml
from make_bag import an_image, an_info, record
from make_map import write_constant_map

from mote_localization.backends import create_backend
from mote_localization.errors import MoteError
from mote_localization.evaluation import over_ros
from mote_localization.files import atomic_write, check_output
from mote_localization.map_file import read_map
from mote_localization.scenes.bags import open_bag


def run(code, folder, *before, **env):
    return subprocess.run(
        [*before, sys.executable, "-c", code],
        cwd=folder, env=os.environ | env, capture_output=True, text=True, timeout=120,
    )  # fmt: skip


def test_child_processes_do_not_import_from_the_current_folder(tmp_path):
    """As of `mote evaluate --ros`, in a folder with a file of the name of a library."""
    (tmp_path / "cv2.py").write_text("import pathlib; pathlib.Path('executed').touch()")
    code = over_ros._RUN_MODULE.format(os.getpid(), "mote_localization.nodes.player")
    done = run(code + " ", tmp_path)
    assert "folder of the recording" in done.stdout + done.stderr, done.stderr
    assert not (tmp_path / "executed").exists()


def test_localizing_looks_nothing_up_and_writes_nothing_at_home(tmp_path):
    write_constant_map(tmp_path / "room.onnx")
    (tmp_path / "home").mkdir()
    code = (
        "import os, sys\n"
        "sys.addaudithook(lambda event, _: event.startswith('socket.') and print(event))\n"
        "from mote_localization.localizer import Localizer\n"
        "import numpy as np\n"
        "localizer = Localizer.open('room.onnx')\n"
        "camera = localizer.info.camera\n"
        "localizer.localize(np.zeros((camera.height, camera.width, 3), np.uint8), camera)\n"
        "print(os.environ['ORT_DISABLE_TELEMETRY'])"
    )
    home = {"HOME": str(tmp_path / "home"), "XDG_CACHE_HOME": "", "XDG_CONFIG_HOME": ""}
    trace = ["strace", "-f", "-qq", "-e", "trace=connect,sendto,sendmsg", "-o", "calls"]
    traced = (
        not subprocess.call([*trace, "true"], cwd=tmp_path) if shutil.which("strace") else False
    )
    done = run(code, tmp_path, *(trace if traced else []), **home)
    assert done.stdout.strip() == "1", done.stderr
    assert not list((tmp_path / "home").iterdir())
    assert not traced or "AF_INET" not in (tmp_path / "calls").read_text()


def test_a_recording_does_not_choose_what_python_imports(tmp_path, monkeypatch):
    pytest.importorskip("rclpy", reason="needs ROS 2")
    from mote_localization.nodes.player import _message_class

    (tmp_path / "evil").mkdir()
    for name in ("evil/__init__.py", "evil/msg.py"):
        (tmp_path / name).write_text("raise SystemExit('executed')")
    monkeypatch.syspath_prepend(tmp_path)
    assert _message_class("sensor_msgs/msg/Image").__name__ == "Image"
    for msgtype in (
        "evil/msg/Image", "this/msg/X", "test/autotest/X", "sensor_msgs/msg/os",
        "sensor_msgs/srv/SetCameraInfo", "sensor_msgs.msg/msg/Image", "../sensor_msgs/msg/Image",
        "sensor_msgs/msg/Metaclass_Image", "", "a/b/c/d", "sensor_msgs/msg/Image\n",
    ):  # fmt: skip
        assert _message_class(msgtype) is None, msgtype
    assert "this" not in sys.modules and "evil" not in sys.modules


def test_the_backend_runs_the_graph_that_was_checked(tmp_path):
    """A file with ORTM at offset 4 is a model in another format to ONNX Runtime."""
    map_file = read_map(write_constant_map(tmp_path / "room.onnx"))
    # an unknown field of protobuf (number 15, of 4 + 2 bytes or more) is skipped by onnx
    model = b"\x7a\x06\x00\x00ORTM" + map_file.model
    assert onnx.load_model_from_string(model).graph.node
    disguised = replace(map_file, model=model)
    assert create_backend(disguised).predict is not None


def readers():
    """Functions that read a file which a user names."""
    from mote_localization.anchors import check_anchors
    from mote_localization.calibration_files import read_calibration
    from mote_localization.evaluation.pose_files import read_poses
    from mote_localization.image_files import read_image
    from mote_localization.scenes import open_scene
    from mote_localization.scenes.bags import open_bag
    from mote_localization.scenes.text_files import read_text

    def open_folder(path):
        open_scene(path)

    def enter_bag(path):
        with open_bag(path):
            pass

    return {
        "map.onnx": read_map, "camera.yaml": read_calibration, "anchors.yaml": check_anchors,
        "image.jpg": read_image, "pose.txt": read_text, "poses.tum": read_poses,
        "drive.mcap": enter_bag, "drive.db3": enter_bag, "video.mp4": open_folder,
        "transforms.json": open_folder,
    }  # fmt: skip


@pytest.mark.parametrize("name", readers())
@pytest.mark.parametrize("kind", ["fifo", "device", "link", "folder"])
def test_inputs_that_are_no_regular_files_are_refused_at_once(tmp_path, name, kind):
    path, read = tmp_path / name, readers()[name]
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "link":
        path.symlink_to(path)
    else:
        path.mkdir()
    started = time.monotonic()
    with pytest.raises(MoteError, match=str(tmp_path)):
        read(path)
    assert time.monotonic() - started < 2


@pytest.mark.parametrize("place", ["metadata", "profiles of QoS", "storage file"])
def test_aliases_in_the_metadata_of_a_recording_do_not_expand(tmp_path, place):
    lines = ["a0: &a0 {b: 1}"]
    lines += [f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 10)}]}}" for i in range(1, 12)]
    bomb = "\n".join(lines)
    path = record(tmp_path / "drive", an_info(), an_image(), storage="sqlite3")
    metadata = path / "metadata.yaml"
    if place == "metadata":
        metadata.write_text(bomb)
    elif place == "profiles of QoS":
        values = yaml.safe_load(metadata.read_text())
        (topic, *_) = values["rosbag2_bagfile_information"]["topics_with_message_count"]
        topic["topic_metadata"]["offered_qos_profiles"] = bomb
        metadata.write_text(yaml.safe_dump(values))
    else:
        metadata.unlink()
        with closing(sqlite3.connect(path / "drive.db3")) as database, database:
            database.execute("UPDATE topics SET offered_qos_profiles = ?", [bomb])
    started = time.monotonic()
    with pytest.raises(MoteError, match="drive.*: damaged.*over .* values with its aliases"):
        with open_bag(path):
            pass
    assert time.monotonic() - started < 2


@pytest.mark.parametrize("kind", ["fifo", "device"])
def test_outputs_never_replace_what_is_no_file(tmp_path, kind):
    path = tmp_path / "out"
    if kind == "fifo":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/full")
    before = os.lstat(path).st_mode
    with pytest.raises(MoteError, match="is no regular file"):
        check_output(path, "--output")
    with pytest.raises(MoteError, match="is no regular file"), atomic_write(path) as file:
        file.write(b"x")
    assert os.lstat(path).st_mode == before and os.stat("/dev/full").st_mode & 0o020000
    assert sorted(Path(tmp_path).iterdir()) == [path]


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_a_pipe_in_the_folder_of_a_recording_is_refused_at_once(tmp_path, storage):
    path = record(tmp_path / "drive", an_info(), an_image(), storage=storage)
    (file,) = (one for one in path.iterdir() if one.suffix in (".mcap", ".db3"))
    file.unlink()
    os.mkfifo(file)
    started = time.monotonic()
    with pytest.raises(MoteError, match=f"{file.name}: cannot be read .is no regular file"):
        with open_bag(path):
            pass
    assert time.monotonic() - started < 2
