"""Several cameras, the service ~/localize, ~/debug_image and a changed map over real DDS."""

import itertools
import time

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")
pytest.importorskip("tf2_msgs", reason="needs tf2_msgs")

import rclpy
from make_map import T_MAP_CAM, write_constant_map
from node_processes import memory_mb, wait_for
from rcl_interfaces.msg import Parameter as ParameterMessage
from rcl_interfaces.msg import ParameterType, ParameterValue
from rcl_interfaces.srv import GetParameters, SetParameters
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter
from sensor_msgs.msg import CameraInfo, Image
from simulated_robot import FRAMES, T_BASE_CAM, true_pose, write_room_map
from std_srvs.srv import SetBool, Trigger

from mote_localization.geometry import invert, rigid
from mote_localization.nodes import pose_requests, process
from mote_localization.nodes.localizer_node import LocalizerNode
from mote_localization.nodes.matching import MomentMatcher
from mote_localization.nodes.pose_requests import PoseRequests

pytestmark = [pytest.mark.ros, pytest.mark.usefixtures("ros_env")]

GREY, BLACK = [128, 128, 128], [0, 0, 0]
LEFT_SHIFT = [51, 0, 0]  # of the colour: the left camera is 0.2 m ahead along x of the map
T_FRONT_LEFT = invert(T_MAP_CAM) @ rigid(T_MAP_CAM[:3, :3], T_MAP_CAM[:3, 3] + [0.2, 0, 0])


@pytest.fixture(scope="module")
def room_map(tmp_path_factory):
    return write_room_map(tmp_path_factory.mktemp("map"))


def add(matcher, *images):
    """Add (camera, stamp in ms) and return the cameras and stamps that are localized together."""
    found = (matcher.add(camera, ms * 1_000_000, ms) for camera, ms in images)
    return [moment for moment in found if moment]


def test_images_of_one_moment_are_localized_together():
    matcher = MomentMatcher(2, 10_000_000)
    found = add(matcher, (0, 0), (1, 5), (1, 33), (0, 36), (0, 66), (1, 66))
    assert found == [{0: 0, 1: 5}, {0: 36, 1: 33}, {0: 66, 1: 66}] and not matcher.missing
    assert add(MomentMatcher(2, 0), (0, 0), (1, 0), (0, 0), (1, 0)) == 2 * [{0: 0, 1: 0}]


def test_a_camera_that_stops_or_is_not_synchronized_is_not_waited_for():
    matcher = MomentMatcher(2, 10_000_000)
    found = add(matcher, (0, 0), (1, 0), (0, 33), (0, 66), (0, 99))
    assert found == [{0: 0, 1: 0}, {0: 66}, {0: 99}] and matcher.missing == {1}
    assert add(matcher, (1, 99), (0, 133), (1, 133)) == [{0: 133, 1: 133}]  # it is back
    matcher = MomentMatcher(3, 10_000_000)
    found = add(
        matcher, *((camera, ms) for ms in (0, 33, 66) for camera in (0, 1)), (1, 99), (0, 99)
    )
    assert found == [{0: ms, 1: ms} for ms in (33, 66, 99)] and matcher.missing == {2}
    apart = [(i % 2, 16 * i) for i in range(20)]
    found = add(MomentMatcher(2, 10_000_000), *apart)
    assert found == [{0: 32 * i} for i in range(1, 10)]
    assert add(matcher, (1, 200), (1, 233), (1, 266)) == [{1: 233}, {1: 266}]  # the first one stops


class Cameras:
    """The robot's front and left camera."""

    def __init__(self, robot):
        self.robot, self.left_frame = robot, "left_optical"
        self.topics = {
            name: [
                robot.node.create_publisher(kind, f"/{name}/{topic}", 10)
                for kind, topic in ((Image, "image"), (CameraInfo, "camera_info"))
            ]
            for name in ("front", "left")
        }
        robot.send_transform(robot.tf_static, 0, "camera_optical", "left_optical", T_FRONT_LEFT)

    def send(self, front, left, count=10, encoding="rgb8"):
        """Send images of two colours; None: that camera is silent. Return their stamps.

        `encoding` is that of the front camera.
        """
        stamps = []
        for _ in range(count):
            stamp_ns = self.robot.node.get_clock().now().nanoseconds
            frames = ("front", front, "camera_optical"), ("left", left, self.left_frame)
            for name, colour, frame in frames:
                if colour is not None:
                    self.robot.images, self.robot.infos = self.topics[name]
                    kind = encoding if name == "front" else "rgb8"
                    self.robot.send_image(stamp_ns, colour, frame=frame, encoding=kind)
            stamps.append(stamp_ns)
            time.sleep(1 / 15)
        time.sleep(0.3)
        return stamps


def test_two_cameras_give_one_pose_of_the_robot(robot, child, room_map):
    cameras = Cameras(robot)
    node = child(
        "localizer_main", "--ros-args", "-p", f"map:={room_map}", "-p", "cameras:=[front, left]",
        "-p", "base_frame:=base_link",
    )  # fmt: skip
    text = "localizing /front/image, /left/image in 'box room'"
    assert wait_for(lambda: text in node.text()), node.text()
    assert wait_for(lambda: cameras.topics["left"][1].get_subscription_count())
    time.sleep(1.0)
    ahead = [c + s for c, s in zip(GREY, LEFT_SHIFT, strict=True)]
    cases = [(GREY, ahead), (BLACK, ahead), (GREY, BLACK), (GREY, None), (None, ahead)]
    for front, left in cases:
        stamps = cameras.send(front, left)
        known = [robot.poses[ns] for ns in stamps if ns in robot.poses]
        assert len(known) >= 7, (front, left, node.text())
        assert max(np.linalg.norm((T - true_pose(GREY))[:3, 3]) for T in known) < 2e-3
    both = cameras.send(BLACK, BLACK)
    assert not set(both) & set(robot.poses)
    unusable = cameras.send(GREY, ahead, encoding="theora")  # the front one's
    known = [robot.poses[ns] for ns in unusable if ns in robot.poses]
    assert len(known) >= 7 and "/front/image: " in node.text(), node.text()
    assert max(np.linalg.norm((T - true_pose(GREY))[:3, 3]) for T in known) < 2e-3
    cameras.send(GREY, None, 80)
    assert "/left/image" in node.text(), node.text()  # it is named as missing
    contradicting = cameras.send(GREY, GREY)[2:]  # by 0.2 m; the left one was not waited for
    assert not set(contradicting) & set(robot.poses)
    assert any("check the transforms" in s.message for s in robot.statuses.values())
    cameras.left_frame = "camera_optical"  # so it is not known where the left camera is
    assert not set(cameras.send(BLACK, ahead)) & set(robot.poses)
    assert "localized without /left/image: its frame_id is another camera's" in node.text()
    assert node.end() == 0


@pytest.mark.parametrize(
    ("parameters", "reason"),
    [
        (["cameras:=[a, b]", "base_frame:=''"], "cameras: base_frame is empty; set it"),
        (["cameras:=[front, front]"], "cameras: found 'front' twice"),
        (["cameras:=[]", "image_transport:=theora"], "image_transport: found 'theora'"),
        (["base_frame:=/base_link"], "found the frame '/base_link', expected a name such as"),
        (["cameras:=['fr ont']"], "cameras: found 'fr ont', expected names such as front"),
        (["cameras:=[a, b]", "camera_frame:=c"], "several cameras have the frames of their images"),
    ],
)
def test_wrong_names_of_cameras_are_refused(child, room_map, parameters, reason):
    given = [f"map:={room_map}", "base_frame:=base_link", *parameters]
    words = [word for text in given for word in ("-p", text)]
    node = child("localizer_main", "--ros-args", *words)
    assert node.code() == 1 and reason in node.text() and "Traceback" not in node.text()


def call(robot, kind, name, request):
    client = robot.node.create_client(kind, f"/localizer/{name}")
    assert wait_for(client.service_is_ready)
    future = client.call_async(request)
    return future


def test_one_pose_on_request_also_of_a_disabled_node(robot, localizer):
    node = localizer(**FRAMES)
    silent = call(robot, Trigger, "localize", Trigger.Request())
    time.sleep(1.5)
    later = call(robot, Trigger, "localize", Trigger.Request())
    assert wait_for(silent.done)
    time.sleep(0.5)
    assert not later.done() and wait_for(later.done)  # each waits for 3 s
    assert not silent.result().success and "no image was localized" in silent.result().message
    assert wait_for(call(robot, SetBool, "enable", SetBool.Request(data=False)).done)
    robot.drive(0.5)
    assert not robot.poses
    asked = call(robot, Trigger, "localize", Trigger.Request())
    truth = robot.drive(1.0)
    assert wait_for(asked.done) and asked.result().success, asked.result()
    assert "800 of 800 inliers, standard deviation 0.0" in asked.result().message
    assert 1 <= len(robot.poses) <= 3 and robot.errors(truth)[0].max() < 2e-3
    asked = call(robot, Trigger, "localize", Trigger.Request())
    robot.drive(0.5, seen_at=lambda _: BLACK)
    assert wait_for(asked.done) and not asked.result().success
    assert asked.result().message.startswith("lost: "), asked.result()
    waiting = call(robot, Trigger, "localize", Trigger.Request())
    time.sleep(0.2)
    assert node.end() == 0 and not waiting.done()  # a request that waits does not keep the node


def test_an_image_from_before_a_request_does_not_answer_it(monkeypatch):
    clock = itertools.count()
    monkeypatch.setattr(pose_requests.time, "monotonic", lambda: next(clock))
    with process.ros_context():
        node = rclpy.create_node("asked")
        requests = PoseRequests(node)
        requests.open()
        asked = requests._on_request(Trigger.Request(), Trigger.Response())
        next(clock)
        asked.send(None)
        requests.answer(True, "of an image that was received before", 1)
        assert requests.waiting
        requests.answer(True, "of a later one", 3)
        with pytest.raises(StopIteration) as answered:
            asked.send(None)
        assert answered.value.value.message == "of a later one"
        node.destroy_node()


def test_a_debug_image_shows_matches_and_status(robot, localizer):
    node, pictures = localizer(), []
    robot.node.create_subscription(Image, "/localizer/debug_image", pictures.append, 10)
    truth = robot.drive(1.5)
    assert wait_for(lambda: pictures)
    one = pictures[-1]
    assert (one.encoding, one.width) == ("rgb8", 640) and one.height > 480
    assert one.header.frame_id == "camera_optical"
    pixels = np.frombuffer(one.data, np.uint8).reshape(one.height, one.width, 3)
    green = (pixels == (0, 220, 0)).all(axis=-1)
    assert green[:480].sum() > 800 and (pixels[480:] > 200).any() and len(truth)
    assert node.end() == 0


def test_another_map_is_loaded_beside_and_used_when_valid(robot, localizer, room_map, tmp_path):
    node = localizer()

    def set_map(path):
        value = ParameterValue(type=ParameterType.PARAMETER_STRING, string_value=str(path))
        request = SetParameters.Request(parameters=[ParameterMessage(name="map", value=value)])
        future = call(robot, SetParameters, "set_parameters", request)
        assert wait_for(future.done)
        return future.result().results[0]

    def map_parameter():
        future = call(robot, GetParameters, "get_parameters", GetParameters.Request(names=["map"]))
        assert wait_for(future.done)
        return future.result().values[0].string_value

    truth = robot.drive(0.5)
    assert robot.poses and len(truth)
    assert "is not a file" in set_map(tmp_path / "missing.onnx").reason
    bad = tmp_path / "bad.onnx"
    bad.write_text("no map")
    assert set_map(bad).successful
    assert wait_for(lambda: f"cannot be used, {room_map} stays in use" in node.text())
    assert map_parameter() == str(room_map)
    T_other = rigid(T_MAP_CAM[:3, :3], T_MAP_CAM[:3, 3] + [0.0, 0.5, 0.0])
    other = write_constant_map(tmp_path / "other.onnx", T_other, colour_shift_m=1.0)
    assert wait_for(call(robot, SetBool, "enable", SetBool.Request(data=False)).done)
    assert set_map(other).successful
    assert wait_for(lambda: f"({other})" in node.text()), node.text()
    time.sleep(1.0)
    before = len(robot.poses)
    robot.drive(0.5)
    assert len(robot.poses) == before  # it is still disabled
    assert wait_for(call(robot, SetBool, "enable", SetBool.Request(data=True)).done)
    truth = robot.drive(1.0)
    assert len(robot.poses) > before
    shifts = [
        robot.poses[ns][:3, 3] - (T @ T_BASE_CAM)[:3, 3]
        for ns, T in truth.items()
        if ns in robot.poses
    ]
    assert np.allclose(shifts, [0.0, 0.5, 0.0], atol=5e-3)
    assert map_parameter() == str(other)
    before_mb, pid = memory_mb(node.process.pid), node.process.pid
    for path in 3 * [room_map, other]:
        swaps = node.text().count("localizing ")
        assert set_map(path).successful
        assert wait_for(lambda count=swaps: node.text().count("localizing ") == count + 1)
    assert memory_mb(pid) < 1.1 * before_mb and node.end() == 0


def test_while_a_map_is_loaded_no_other_one_is_accepted(room_map, tmp_path):
    other = write_constant_map(tmp_path / "other.onnx")
    with process.ros_context():
        overrides = [Parameter("map", value=str(room_map))]
        node = LocalizerNode(parameter_overrides=overrides)
        assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS
        for path, reason in ((other, ""), (room_map, f"map: {other} is being loaded"), (other, "")):
            result = node.set_parameters([Parameter("map", value=str(path))])[0]
            assert result.successful == (not reason) and result.reason.startswith(reason)
        assert node.get_parameter("map").value == str(other)
        node.destroy_node()
