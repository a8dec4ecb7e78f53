"""The nodes as processes over real DDS: results, invalid input, load, start and end."""

import json
import os
import re
import signal
import time
from array import array
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock

import numpy as np
import pytest
import yaml

pytest.importorskip("rclpy", reason="needs ROS 2")

import rclpy
from conftest import ROOT
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from geometry_msgs.msg import PoseWithCovarianceStamped
from make_map import CAMERA, T_MAP_CAM, room_points, write_constant_map
from node_processes import TIMEOUT_S, Child, wait_for
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters
from rclpy.qos import qos_profile_sensor_data
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, Image, PointCloud2

from mote_localization.geometry import pose_from
from mote_localization.localizer import Tracking
from mote_localization.nodes import process
from mote_localization.nodes.active_localizer import ActiveLocalizer, LastPose
from mote_localization.nodes.node_parameters import PARAMETERS
from mote_localization.scenes.bags import BagWriter
from mote_localization.stamps import nanoseconds
from mote_localization.time_share import TimeShare

pytestmark = [pytest.mark.ros, pytest.mark.usefixtures("ros_env")]

GREY = (100, 100, 100)
TOPICS = ["-r", "image:=/camera/image_raw", "-r", "camera_info:=/camera/camera_info"]


@pytest.fixture(scope="module")
def room_map(tmp_path_factory) -> Path:
    """A map whose position depends on the colour of the image."""
    return write_constant_map(tmp_path_factory.mktemp("map") / "room.onnx", colour_shift_m=1.0)


@pytest.fixture(scope="module")
def localizer(ros_env, room_map, tmp_path_factory):
    """The node under test, for all tests of this module; it must end with exit code 0."""
    log = tmp_path_factory.mktemp("node") / "localizer.log"
    one = Child(
        log,
        "localizer_main",
        "--ros-args",
        "-p",
        f"map:={room_map}",
        "-p",
        "publish_tf:=map_to_camera",
        *TOPICS,
    )
    yield one
    try:
        assert one.end() == 0, one.text()
        assert "Traceback" not in one.text()
    finally:
        one.process.kill()
        one.process.wait()


class Robot:
    """Publishes frames as a robot does, and stores the messages of the node by stamp."""

    def __init__(self, node):
        self.node = node
        self.images = node.create_publisher(Image, "/camera/image_raw", qos_profile_sensor_data)
        self.infos = node.create_publisher(
            CameraInfo, "/camera/camera_info", qos_profile_sensor_data
        )
        self.poses, self.statuses, self.clouds, self.transforms = {}, {}, {}, {}
        self.backend = None
        node.create_subscription(PoseWithCovarianceStamped, "/localizer/pose", self.on_pose, 100)
        node.create_subscription(DiagnosticArray, "/localizer/status", self.on_status, 100)
        self.stamp = 0

    def on_pose(self, pose):
        self.poses[pose.header.stamp.sec] = pose

    def on_status(self, status):
        self.statuses[status.header.stamp.sec], self.backend = status.status

    def on_cloud(self, cloud):
        self.clouds[cloud.header.stamp.sec] = cloud

    def on_tf(self, tf):
        self.transforms[tf.transforms[0].header.stamp.sec] = tf.transforms[0]

    def frame(self, colour=GREY, camera=CAMERA):
        """Return a new image of one colour, and its CameraInfo."""
        self.stamp += 1
        pixels = np.broadcast_to(np.uint8(colour), (camera.height, camera.width, 3))
        image = Image(
            encoding="rgb8", height=camera.height, width=camera.width, step=3 * camera.width,
            data=array("B", pixels.tobytes()),
        )  # fmt: skip
        info = CameraInfo(width=camera.width, height=camera.height, k=camera.K_33.reshape(9))
        for message in image, info:
            message.header.stamp.sec = self.stamp
            message.header.frame_id = "camera_optical"
        return image, info

    def send(self, image, info):
        self.infos.publish(info)
        self.images.publish(image)

    def localize(self, image, info):
        """Send a frame up to three times (sensor data is best effort) and return its status."""
        stamp = image.header.stamp.sec
        for _ in range(3):
            self.send(image, info)
            if wait_for(lambda: stamp in self.statuses, TIMEOUT_S / 10):
                status = self.statuses[stamp]
                if status.level == DiagnosticStatus.OK:
                    assert wait_for(lambda: stamp in self.poses), "a status without its pose"
                return status
        pytest.fail(f"no answer to image {stamp}")

    def position(self, colour=GREY, change=lambda image: None):
        """Send a frame and return the position that the node publishes."""
        image, info = self.frame(colour)
        change(image)
        assert self.localize(image, info).message == "localized"
        p = self.poses[self.stamp].pose.pose.position
        return np.array([p.x, p.y, p.z])


@pytest.fixture(scope="module")
def robot(localizer):
    with process.ros_context():
        node = rclpy.create_node("robot")
        one = Robot(node)
        with process.spin_in_thread(node):
            matched = wait_for(
                lambda: (
                    one.images.get_subscription_count()
                    and one.infos.get_subscription_count()
                    and node.count_publishers("/localizer/status")
                )
            )
            assert matched, localizer.text()
            time.sleep(0.3)  # discovery of the other direction may be later
            yield one
        node.destroy_node()


def expected_position(colour):
    return T_MAP_CAM[:3, 3] + np.array(colour) / 255


# ---- results of the node


def test_the_last_pose_is_tracked_for_a_second_then_one_image_without_it():
    last = Tracking(T_MAP_CAM, np.zeros((30, 40, 3)))
    requests = SimpleNamespace(waiting=False)
    node = SimpleNamespace(_last=LastPose(10**9, 0, last), _searched_ns=10**9, _requests=requests)
    tracking = partial(ActiveLocalizer._tracking, node, camera=0)
    assert tracking(int(1.5e9)).points_hw3 is last.points_hw3
    assert not tracking(int(1.5e9)).verify
    assert tracking(int(1.5e9), camera=1) is None
    node._last = LastPose(int(1.9e9), 0, last)
    assert tracking(int(2.1e9)).verify and not tracking(int(2.2e9)).verify
    assert tracking(int(2.95e9)) is None
    node._last = LastPose(int(1.9e9), 0, last, search_s=0.5)  # it was published so much later
    assert not tracking(int(3.3e9)).verify
    node._last = None
    assert tracking(int(2.3e9)) is None


def test_after_a_search_in_vain_the_next_images_are_not_searched_until_a_reset():
    asked = []

    def localize(*arguments):
        asked.append(search := arguments[4])
        return MagicMock(T_map_cam=None, search_s=60.0 if search else 0.0)

    node = MagicMock(_searches=TimeShare(0.25), _checks=None, _initial=None)
    node._requests.waiting = False
    node._localizer.localize = localize
    node._reader.read.return_value = [MagicMock(camera_index=0)]
    for act in (None, None, lambda: ActiveLocalizer._forget_pose(node), None):
        if act:
            act()
        ActiveLocalizer._localize_and_publish(node, [MagicMock()], 0.0)
    node._requests.waiting = True
    ActiveLocalizer._localize_and_publish(node, [MagicMock()], 0.0)
    assert asked == [True, False, True, False, True]


def test_a_second_status_names_the_backend(robot):
    image, info = robot.frame()
    assert robot.localize(image, info).name == "/localizer: localization"
    assert (robot.backend.name, robot.backend.message) == ("/localizer: backend", "onnxruntime")
    assert robot.backend.level == DiagnosticStatus.OK


def test_the_pose_is_exact_and_has_the_stamp_of_the_image(robot):
    image, info = robot.frame((51, 102, 204))
    image.header.stamp.nanosec = info.header.stamp.nanosec = 123_456_789
    robot.localize(image, info)
    pose = robot.poses[robot.stamp]
    assert pose.header.stamp == image.header.stamp
    assert pose.header.frame_id == "map"
    p, q = pose.pose.pose.position, pose.pose.pose.orientation
    T_map_cam = pose_from(np.array([p.x, p.y, p.z]), np.array([q.x, q.y, q.z, q.w]))
    np.testing.assert_allclose(T_map_cam[:3, 3], expected_position((51, 102, 204)), atol=1e-3)
    np.testing.assert_allclose(T_map_cam[:3, :3], T_MAP_CAM[:3, :3], atol=1e-3)
    covariance_66 = pose.pose.covariance.reshape(6, 6)
    np.testing.assert_allclose(covariance_66, covariance_66.T)
    assert (np.linalg.eigvalsh(covariance_66) > 0).all()


ENCODED = {  # bytes of one pixel (two for yuv) of colour (40, 120, 200), tolerance in m
    "bgr8": ([200, 120, 40], 1e-3),
    "rgba8": ([40, 120, 200, 255], 1e-3),
    "bgra8": ([200, 120, 40, 255], 1e-3),
    "mono8": ([120], 1e-3),
    "yuv422": ([128, 120, 128, 120], 0.05),
    "yuv422_yuy2": ([120, 128, 120, 128], 0.05),
}


@pytest.mark.parametrize("encoding", ENCODED)
@pytest.mark.parametrize("padding", [0, 12])
def test_encodings_and_padded_rows_give_the_right_position(robot, encoding, padding):
    values, tolerance = ENCODED[encoding]
    pixels = 2 if encoding.startswith("yuv") else 1
    row = bytes(values) * (CAMERA.width // pixels) + bytes(padding)

    def encode(image):
        image.encoding, image.step = encoding, len(row)
        image.data = array("B", row * CAMERA.height)

    colour = (40, 120, 200) if len(values) > 2 and pixels == 1 else GREY_120
    found = robot.position(change=encode)
    np.testing.assert_allclose(found, expected_position(colour), atol=tolerance)


GREY_120 = (120, 120, 120)


def test_image_and_camera_info_may_arrive_in_any_order(robot):
    for first in ("infos", "images"):
        image, info = robot.frame()
        pair = {"infos": info, "images": image}
        getattr(robot, first).publish(pair.pop(first))
        time.sleep(0.05)
        ((name, message),) = pair.items()
        getattr(robot, name).publish(message)
        assert wait_for(lambda: robot.stamp in robot.poses), f"{first} first"


def test_an_image_without_camera_info_is_not_localized(robot):
    image, info = robot.frame()
    info.header.stamp.nanosec = 1
    robot.send(image, info)
    robot.position()  # a later frame has a pose
    assert robot.stamp - 1 not in robot.statuses  # this one has none


def test_a_lost_frame_gives_a_warning_and_no_pose(robot):
    black = robot.frame((0, 0, 0))
    status = robot.localize(*black)
    assert status.level == DiagnosticStatus.WARN
    assert "cells" in status.message
    robot.position()
    assert robot.stamp - 1 not in robot.poses


def test_the_transform_equals_the_pose(robot):
    tf2_msgs = pytest.importorskip("tf2_msgs.msg", reason="needs tf2_msgs")
    subscription = robot.node.create_subscription(tf2_msgs.TFMessage, "/tf", robot.on_tf, 100)
    assert wait_for(lambda: robot.position() is not None and robot.stamp in robot.transforms)
    transform, pose = robot.transforms[robot.stamp], robot.poses[robot.stamp]
    robot.node.destroy_subscription(subscription)
    assert (transform.header, transform.child_frame_id) == (pose.header, "camera_optical")
    assert transform.transform.rotation == pose.pose.pose.orientation
    assert transform.transform.translation.x == pose.pose.pose.position.x


def test_the_cloud_contains_the_predicted_points(robot):
    colour = (50, 150, 250)
    subscription = robot.node.create_subscription(
        PointCloud2, "/localizer/points", robot.on_cloud, 10
    )
    assert wait_for(lambda: robot.position(colour) is not None and robot.stamp in robot.clouds)
    cloud = robot.clouds[robot.stamp]
    robot.node.destroy_subscription(subscription)
    assert cloud.header == robot.poses[robot.stamp].header
    assert [(f.name, f.offset) for f in cloud.fields] == [("x", 0), ("y", 4), ("z", 8), ("rgb", 12)]
    cells = np.frombuffer(cloud.data, np.float32).reshape(cloud.height, cloud.width, 4)
    expected = room_points(T_MAP_CAM, CAMERA, 8) + np.float32(colour) / 255
    np.testing.assert_allclose(cells[..., :3], expected, atol=1e-4)
    assert (cells.view(np.uint32)[..., 3] == (50 << 16 | 150 << 8 | 250)).all()


def test_the_viewers_show_topics_of_the_node(robot):
    layout = (ROOT / "config" / "foxglove.json").read_text()
    json.loads(layout)
    shown = re.findall(r'"(/[a-z_/]+)"', layout)
    shown += re.findall(r"Value: (/\S+)", (ROOT / "rviz" / "localization.rviz").read_text())
    assert "/localizer/map_points" in shown
    node = "localizer", "/"
    topics = robot.node.get_publisher_names_and_types_by_node(*node)
    topics += robot.node.get_subscriber_names_and_types_by_node(*node)
    assert set(shown) <= {name for name, _ in topics}


# ---- invalid input


def no_data(image, info):
    image.data = array("B")


def short_data(image, info):
    image.data = image.data[:-1]


def no_pixels(image, info):
    image.height = image.width = image.step = 0
    image.data = array("B")


def small_step(image, info):
    image.step -= 1


def unknown_encoding(image, info):
    image.encoding = "rgb9"


def depth_image(image, info):
    image.encoding = "32FC1"


def huge_image(image, info):
    image.height = image.width = image.step = 2**32 - 1


def odd_yuv(image, info):
    image.encoding, image.width = "yuv422", 319


def other_size(image, info):
    info.width, info.height = 640, 480


def no_calibration(image, info):
    info.k = np.zeros(9)


def broken_calibration(image, info):
    info.k = np.full(9, np.nan)


def unknown_distortion(image, info):
    info.distortion_model, info.d = "thin_prism", [0.1]


def wrong_coefficients(image, info):
    info.distortion_model, info.d = "plumb_bob", [0.1, 0.2, 0.3]


INVALID = {
    no_data: "0 bytes",
    short_data: "230399 bytes",
    no_pixels: "empty",
    small_step: "step is 959",
    unknown_encoding: "encoding 'rgb9'",
    depth_image: "encoding '32FC1'",
    huge_image: "4294967295",
    odd_yuv: "width 319 is odd",
    other_size: "(480, 640, 3)",
    no_calibration: "not calibrated",
    broken_calibration: "nan",
    unknown_distortion: "thin_prism",
    wrong_coefficients: "3 coefficients",
}


@pytest.mark.parametrize("change", INVALID, ids=lambda m: m.__name__)
def test_an_invalid_message_has_an_error_status_and_the_node_goes_on(robot, localizer, change):
    image, info = robot.frame()
    change(image, info)
    status = robot.localize(image, info)
    assert status.level == DiagnosticStatus.ERROR
    assert INVALID[change] in status.message
    assert status.message.startswith(("/camera/image_raw: ", "/camera/camera_info: "))
    assert status.message in localizer.text()
    np.testing.assert_allclose(robot.position(), expected_position(GREY), atol=1e-3)
    assert robot.stamp - 1 not in robot.poses


def test_the_same_error_is_not_logged_for_every_frame(robot, localizer):
    for _ in range(20):
        image, info = robot.frame()
        image.encoding = "rgb10"
        robot.localize(image, info)
    assert localizer.text().count("rgb10") == 1


def test_an_unexpected_exception_has_an_error_status(child, robot, room_map, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(
        "from mote_localization.localizer import Localizer\n"
        "localize = Localizer.localize\n"
        "def fail(self, image_hw3, camera, *others):\n"
        "    return 1 / 0 if image_hw3.any() else localize(self, image_hw3, camera)\n"
        "Localizer.localize = fail\n"
    )
    path = os.pathsep.join([str(tmp_path), os.environ["PYTHONPATH"]])
    node = child(
        "localizer_main", "--ros-args", "-p", f"map:={room_map}", "-r", "__ns:=/other", *TOPICS,
        PYTHONPATH=path,
    )  # fmt: skip
    statuses = []
    subscription = robot.node.create_subscription(
        DiagnosticArray, "/other/localizer/status", statuses.append, 10
    )

    def answered():
        robot.send(*robot.frame())
        time.sleep(0.05)
        return statuses

    assert wait_for(answered), node.text()
    robot.node.destroy_subscription(subscription)
    assert statuses[0].status[0].level == DiagnosticStatus.ERROR
    assert statuses[0].status[0].message == "internal error: ZeroDivisionError: division by zero"
    assert "Traceback" in node.text()
    assert node.end() == 0


def test_missing_camera_info_is_reported(child, robot, room_map):
    topics = ["-r", "image:=/camera/image_raw", "-r", "camera_info:=/absent"]
    node = child(
        "localizer_main", "--ros-args", "-p", f"map:={room_map}", "-r", "__ns:=/other", *topics
    )

    def is_reported():
        robot.images.publish(robot.frame()[0])
        time.sleep(0.05)
        return "but no camera_info on /absent" in node.text()

    assert wait_for(is_reported), node.text()
    assert node.end() == 0


def test_the_newest_frame_is_localized_and_older_ones_are_dropped(robot):
    frames = [robot.frame((10 + i % 200, 100, 100)) for i in range(300)]
    first, last = frames[0][0].header.stamp.sec, frames[-1][0].header.stamp.sec
    for frame in frames[:-1]:
        robot.send(*frame)
    status = robot.localize(*frames[-1])
    assert status.message == "localized"
    answered = [stamp for stamp in robot.poses if first <= stamp <= last]
    assert answered == sorted(answered)
    assert len(answered) < 300  # frames do not queue up
    red = frames[-1][0].data[0]
    assert robot.poses[last].pose.pose.position.x == pytest.approx(1 + red / 255, abs=1e-3)


def test_gate_parameters_can_change_while_the_node_runs(robot):
    client = robot.node.create_client(SetParameters, "/localizer/set_parameters")
    assert client.wait_for_service(TIMEOUT_S)

    def change(name, value):
        chosen = Parameter(
            name=name,
            value=ParameterValue(type=ParameterType.PARAMETER_INTEGER, integer_value=value),
        )
        future = client.call_async(SetParameters.Request(parameters=[chosen]))
        assert wait_for(future.done)
        return future.result().results[0]

    refused = change("min_inliers", 5000)
    assert not refused.successful
    assert refused.reason.startswith("found min_inliers 5000 above max_cells 800")
    assert change("max_cells", 6000).successful and change("min_inliers", 5000).successful
    assert "expected at least 5000" in robot.localize(*robot.frame()).message
    assert not change("min_inliers", 1).successful  # out of range
    assert not change("threads", 2).successful  # read only
    assert change("min_inliers", 40).successful and change("max_cells", 800).successful
    robot.position()


def test_peak_memory_is_below_400_mb(robot, localizer):
    robot.position()
    status = Path(f"/proc/{localizer.process.pid}/status").read_text()
    peak_kb = next(int(line.split()[1]) for line in status.splitlines() if "VmHWM" in line)
    assert peak_kb * 1024 < 400e6


# ---- start and end


def broken_maps(folder: Path, room_map: Path) -> dict[str, tuple[Path, str]]:
    """Return files that are no maps, and the expected message of each."""
    content = room_map.read_bytes()
    key = b"mote.format_version\x12\x01"
    assert content.count(key) == 1
    files = {
        "missing": (None, "cannot be read (No such file"),
        "text": (b"this is not a map\n", "is no ONNX file"),
        "empty": (b"", ""),
        "truncated": (content[: len(content) // 2], "is no ONNX file or is truncated"),
        "newer": (content.replace(key + b"4", key + b"9"), "is a map of format version 9"),
    }
    for name, (written, _) in files.items():
        if written is not None:
            (folder / f"{name}.onnx").write_bytes(written)
    return {name: (folder / f"{name}.onnx", message) for name, (_, message) in files.items()}


def test_a_node_that_cannot_start_prints_one_line_with_the_cause(child, tmp_path, room_map):
    expected = {
        f"map:={path}": f"{path.name}: {message}"
        for path, message in broken_maps(tmp_path, room_map).values()
    }
    expected |= {"map:=''": "`map` is empty", "threads:=-1": "threads", "map:=3": "'map'"}
    nodes = {
        argument: child("localizer_main", "--ros-args", "-p", argument) for argument in expected
    }
    invalid = {
        "publish_tf:=true": "publish_tf: found 'True', expected one of off, map_to_odom",
        "publish_tf:=map_to_base": "base_frame is empty",
        "base_frame:=map": "expected different names, found 'map', 'map'",
        "image_transport:=theora": "image_transport: found 'theora', expected raw or compressed",
        "min_inliers:=900": "found min_inliers 900 above max_cells 800",
    }
    expected |= invalid
    for argument in invalid:
        arguments = ["--ros-args", "-p", f"map:={room_map}", "-p", argument, "-r", "__ns:=/other"]
        nodes[argument] = child("localizer_main", *arguments)
    for argument, node in nodes.items():
        assert node.code() == 1, argument
        errors = [line for line in node.text().splitlines() if line.startswith("error: ")]
        assert len(errors) == 1
        assert expected[argument] in errors[0]
        assert "Traceback" not in node.text()


def test_an_unknown_scale_is_logged_once_at_the_start(child, tmp_path, localizer):
    own = write_constant_map(tmp_path / "own.onnx", metric=False)
    node = child("localizer_main", "--ros-args", "-p", f"map:={own}", "-r", "__ns:=/other")
    assert wait_for(lambda: "localizing" in node.text()), node.text()
    assert node.end() == 0
    assert node.text().count("scale is unknown") == 1
    assert "scale is unknown" not in localizer.text()


def test_sigterm_ends_the_node_with_exit_code_0(child, room_map):
    node = child("localizer_main", "--ros-args", "-p", f"map:={room_map}", "-r", "__ns:=/other")
    assert wait_for(lambda: "localizing" in node.text()), node.text()
    assert node.end(signal.SIGTERM) == 0


def test_sigint_during_the_start_ends_the_node_with_exit_code_0(child, room_map):
    arguments = ["--ros-args", "-p", f"map:={room_map}", "-r", "__ns:=/other"]
    for node in [child("localizer_main", *arguments) for _ in range(3)]:
        # Python itself starts before the signals are blocked
        assert wait_for(lambda node=node: "localizing" in node.text() or blocks_sigint(node))
        assert node.end() == 0  # one after the other, so each is later in its start
        assert "Traceback" not in node.text()


def test_sigint_while_features_of_keyframes_are_computed_ends_the_node(child):
    for _ in range(2):
        node = child(
            "localizer_main", "--ros-args", "-p", f"map:={ROOT / 'maps' / 'demo_room.onnx'}",
            "-r", "__ns:=/other",
        )  # fmt: skip
        assert wait_for(lambda node=node: "localizing" in node.text()), node.text()
        assert node.end() == 0, node.text()


def blocks_sigint(node: Child) -> bool:
    status = Path(f"/proc/{node.process.pid}/status").read_text()
    blocked = next(line for line in status.splitlines() if "SigBlk" in line)
    return bool(int(blocked.split()[1], 16) >> (signal.SIGINT - 1) & 1)


def test_without_tf2_msgs_transforms_are_refused(child, room_map, tmp_path):
    package = tmp_path / "hidden" / "tf2_msgs"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise ImportError('not installed')")
    path = os.pathsep.join([str(package.parent), os.environ["PYTHONPATH"]])
    arguments = ["--ros-args", "-p", f"map:={room_map}", "-r", "__ns:=/other"]
    node = child("localizer_main", *arguments, PYTHONPATH=path)
    assert wait_for(lambda: "localizing" in node.text()), node.text()
    assert node.end() == 0
    node = child("localizer_main", *arguments, "-p", "publish_tf:=map_to_odom", PYTHONPATH=path)
    assert node.code() == 1
    assert "tf2_msgs is not installed" in node.text() and "Traceback" not in node.text()


def test_every_parameter_is_in_the_yaml_file_and_in_the_documentation():
    content = yaml.safe_load((ROOT / "config" / "localizer.yaml").read_text())
    assert content["/**"]["ros__parameters"] == {p.name: p.default for p in PARAMETERS}
    page = (ROOT / "docs" / "robot.md").read_text()
    for p in PARAMETERS:
        default = f"`{p.default}`" if isinstance(p.default, str) else str(p.default).lower()
        assert f"| `{p.name}` | {default.replace('``', '')}" in page


# ---- player and recorder


@pytest.fixture(scope="module")
def drive(tmp_path_factory) -> Path:
    """A recording of 20 frames at 5 Hz, the last of them black."""
    path = tmp_path_factory.mktemp("bag") / "drive"
    with BagWriter(path) as bag:
        for i in range(20):
            colour = (0, 0, 0) if i == 19 else (100 + i, 100, 100)
            image_hw3 = np.full((CAMERA.height, CAMERA.width, 3), colour, np.uint8)
            bag.write(1_000_000_000 + i * 200_000_000, image_hw3, CAMERA)
    return path


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.usefixtures("robot")
def test_a_replayed_recording_gives_poses(child, drive, tmp_path):
    recorder = child("recorder", tmp_path / "answers.jsonl")
    assert wait_for(lambda: "recording" in recorder.text())
    time.sleep(0.3)
    player = child("player", drive, "--rate", 2, "--log", tmp_path / "published.jsonl")
    assert player.code() == 0, player.text()
    played, seconds = re.search(r"played (\d+) messages in ([\d.]+) s", player.text()).groups()
    assert int(played) == 40
    assert float(seconds) >= 1.9  # 19 gaps of 0.2 s at twice the speed; longer on a busy machine
    stamps = [1_000_000_000 + i * 200_000_000 for i in range(20)]
    answers = tmp_path / "answers.jsonl"
    # The newest image is always localized; a busy machine drops others.
    assert wait_for(lambda: stamps[-1] in [line["stamp_ns"] for line in lines(answers)])
    assert recorder.end() == 0
    published = {
        line["stamp_ns"]: line["published_ns"] for line in lines(tmp_path / "published.jsonl")
    }
    assert list(published) == stamps
    started_s = published[stamps[-1]] / 1e9 - float(seconds) - 0.05  # or later
    assert (np.array(list(published.values())) / 1e9 >= started_s + 0.1 * np.arange(20)).all()
    assert len(lines(answers)) > 1
    for answer in lines(answers):
        assert answer["received_ns"] > published[answer["stamp_ns"]]
        i = stamps.index(answer["stamp_ns"])
        if i == 19:
            assert answer["status"] == "lost" and "cells" in answer["reason"]
            assert "position" not in answer
        else:
            assert answer["status"] == "localized" and answer["frame_id"] == "map"
            expected = expected_position((100 + i, 100, 100))
            np.testing.assert_allclose(answer["position"], expected, atol=1e-3)
            assert len(answer["covariance"]) == 36


def test_a_player_with_a_clock_publishes_the_time_of_the_recording(child, robot, drive):
    times = []
    subscription = robot.node.create_subscription(
        Clock, "/clock", lambda message: times.append(nanoseconds(message.clock)), 100
    )
    rename = "/camera/image_raw:=/clocked/image_raw"
    player = child("player", drive, "--clock", "--rate", 2, "--remap", rename)
    # the player waits for a subscriber of images, and discovers that of the clock before it
    assert wait_for(lambda: robot.node.count_publishers("/clock")), player.text()
    images = robot.node.create_subscription(Image, "/clocked/image_raw", id, 10)
    assert player.code() == 0, player.text()
    for one in subscription, images:
        robot.node.destroy_subscription(one)
    gaps = np.diff(times)
    assert len(times) > 40 and (gaps >= 0).all() and np.median(gaps) < 1e8
    assert times[-1] == 1_000_000_000 + 19 * 200_000_000


@pytest.mark.parametrize("file", ["answers.jsonl", "/dev/full"])
def test_a_recorder_that_cannot_continue_ends_with_one_error_line(child, robot, tmp_path, file):
    recorder = child("recorder", tmp_path / file, "--node", "/other")
    poses = robot.node.create_publisher(PoseWithCovarianceStamped, "/other/pose", 10)
    statuses = robot.node.create_publisher(DiagnosticArray, "/other/status", 10)
    assert wait_for(lambda: "recording" in recorder.text() and statuses.get_subscription_count())
    bad = DiagnosticStatus(level=DiagnosticStatus.WARN)
    if file != "/dev/full":
        bad.values = [KeyValue(key="cells", value="many")]
    statuses.publish(DiagnosticArray(status=[bad]))
    assert recorder.code() == 1
    for publisher in poses, statuses:
        robot.node.destroy_publisher(publisher)
    errors = [line for line in recorder.text().splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert ("No space left" if file == "/dev/full" else "'many' as value of cells") in errors[0]


def test_a_recorder_writes_the_oldest_of_too_many_incomplete_answers(tmp_path):
    from mote_localization.nodes.recorder import _MAX_INCOMPLETE, _AnswerWriter

    with (tmp_path / "answers").open("w+") as file:
        answers = _AnswerWriter(file)
        for stamp in range(_MAX_INCOMPLETE + 5):
            pose = PoseWithCovarianceStamped()
            pose.header.stamp.sec = stamp
            answers.add_pose(pose)
        assert len(answers.incomplete) == _MAX_INCOMPLETE
    assert [line["stamp_ns"] // 10**9 for line in lines(tmp_path / "answers")] == [0, 1, 2, 3, 4]


def test_a_player_without_subscribers_ends_with_an_error(child, drive):
    player = child("player", drive, "--wait", 0.3, "--remap", "/camera/image_raw:=/no_subscriber")
    assert player.code() == 1
    assert "/no_subscriber had no subscriber for 0.3 s" in player.text()
    assert "Traceback" not in player.text()


def test_a_looping_player_plays_until_interrupted(child, drive, tmp_path):
    player = child(
        "player", drive, "--loop", "--rate", 100, "--wait", 0, "--remap",
        "/camera/image_raw:=/no_subscriber", "/camera/camera_info:=/none",
        "--log", tmp_path / "log",
    )  # fmt: skip
    log = tmp_path / "log"
    assert wait_for(lambda: log.exists() and len(lines(log)) > 30)  # more than one pass
    assert player.end() == 0
    assert int(player.text().split("played ")[1].split()[0]) > 60
    assert "Traceback" not in player.text()


def test_a_loop_of_one_image_waits_between_passes(child, tmp_path):
    with BagWriter(tmp_path / "still") as bag:
        bag.write(0, np.full((CAMERA.height, CAMERA.width, 3), 100, np.uint8), CAMERA)
    log = tmp_path / "log"
    player = child("player", tmp_path / "still", "--loop", "--wait", 0, "--log", log)
    assert wait_for(lambda: log.exists() and len(lines(log)) > 5)
    assert player.end() == 0
    published_ns = [line["published_ns"] for line in lines(log)]
    assert min(np.diff(published_ns)) > 1_000_000


def test_recordings_that_cannot_be_played_are_errors(child, drive, tmp_path):
    (tmp_path / "truncated").mkdir()
    for file in drive.iterdir():
        content = file.read_bytes()
        half = content[: len(content) // 2] if file.suffix == ".mcap" else content
        (tmp_path / "truncated" / file.name).write_bytes(half)
    with BagWriter(tmp_path / "empty"):
        pass
    expected = {
        (tmp_path / "nothing",): "no such recording",
        (tmp_path / "truncated",): "damaged",
        (tmp_path / "empty",): "no images",
        (drive, "--rate", 0): "--rate 0",
        (drive, "--log", tmp_path / "no" / "log"): "cannot be written",
    }
    players = {words: child("player", *words, "--wait", 0) for words in expected}
    for words, player in players.items():
        assert player.code() == 1, words
        assert expected[words] in player.text()
        assert "Traceback" not in player.text()
