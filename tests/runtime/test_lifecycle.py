"""The lifecycle of the localizer node over real DDS."""

import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")

import rclpy
from lifecycle_msgs.msg import State, Transition
from lifecycle_msgs.srv import ChangeState, GetState
from make_map import write_constant_map
from node_processes import memory_mb, wait_for
from rcl_interfaces.msg import Parameter as ParameterMessage
from rcl_interfaces.msg import ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters
from rclpy.parameter import Parameter

from mote_localization.nodes import process

pytestmark = [pytest.mark.ros, pytest.mark.usefixtures("ros_env")]

CONFIGURE, CLEANUP = Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_CLEANUP
ACTIVATE, DEACTIVATE = Transition.TRANSITION_ACTIVATE, Transition.TRANSITION_DEACTIVATE


@pytest.fixture(scope="module")
def room_map(tmp_path_factory) -> Path:
    return write_constant_map(tmp_path_factory.mktemp("map") / "room.onnx")


class Manager:
    """Calls the services of the node as a lifecycle manager does."""

    def __init__(self, node):
        self.node = node
        self.change = node.create_client(ChangeState, "/localizer/change_state")
        self.get = node.create_client(GetState, "/localizer/get_state")
        self.parameters = node.create_client(SetParameters, "/localizer/set_parameters")
        clients = self.change, self.get, self.parameters
        assert wait_for(lambda: all(client.service_is_ready() for client in clients))

    def call(self, client, request):
        future = client.call_async(request)
        assert wait_for(future.done)
        return future.result()

    def does(self, transition) -> bool:
        return self.call(
            self.change, ChangeState.Request(transition=Transition(id=transition))
        ).success

    def state(self) -> int:
        return self.call(self.get, GetState.Request()).current_state.id

    def set_text(self, name, text):
        value = ParameterValue(type=ParameterType.PARAMETER_STRING, string_value=text)
        request = SetParameters.Request(parameters=[ParameterMessage(name=name, value=value)])
        return self.call(self.parameters, request).results[0]


@pytest.fixture
def manager(ros_env):
    with process.ros_context():
        node = rclpy.create_node("manager")
        with process.spin_in_thread(node):
            yield lambda: Manager(node)
        node.destroy_node()


def threads_and_files(pid):
    return tuple(len(list(Path(f"/proc/{pid}/{kind}").iterdir())) for kind in ("task", "fd"))


def test_a_bad_map_fails_configure_and_the_node_lives(child, manager, room_map, tmp_path):
    bad = tmp_path / "bad.onnx"
    bad.write_text("no map")
    node = child("localizer_main", "--ros-args", "-p", f"map:={bad}", "-p", "autostart:=false")
    one = manager()
    assert one.state() == State.PRIMARY_STATE_UNCONFIGURED
    assert not one.does(CONFIGURE) and one.state() == State.PRIMARY_STATE_UNCONFIGURED
    assert node.text().count("bad.onnx: is no ONNX file") == 1
    assert one.set_text("map", str(room_map)).successful
    assert one.does(CONFIGURE)
    refused = one.set_text("base_frame", "base_link")
    assert not refused.successful and "base_frame: fixed while the node is" in refused.reason
    assert one.does(ACTIVATE) and one.state() == State.PRIMARY_STATE_ACTIVE
    assert "localizing" in node.text() and "Traceback" not in node.text()
    assert node.end() == 0


def test_cycles_leave_no_memory_thread_or_file(child, manager, room_map):
    node = child("localizer_main", "--ros-args", "-p", f"map:={room_map}", "-p", "autostart:=false")
    one, pid = manager(), node.process.pid
    publishers = one.node.count_publishers
    used = []
    for _ in range(20):
        assert one.does(CONFIGURE) and one.does(ACTIVATE)
        assert wait_for(lambda: publishers("/localizer/pose") == 1)
        assert one.does(DEACTIVATE) and one.does(CLEANUP)
        assert wait_for(lambda: publishers("/localizer/pose") == 0)
        used.append((memory_mb(pid), *threads_and_files(pid)))
    memory_n, threads_n, files_n = np.array(used).T
    assert memory_n[-1] < 1.1 * memory_n[4]
    assert threads_n[-1] <= threads_n[0] and files_n[-1] <= files_n[0]
    assert node.end() == 0


def test_a_node_starts_again_after_deactivation(child, manager, room_map):
    node = child("localizer_main", "--ros-args", "-p", f"map:={room_map}")
    one = manager()
    assert wait_for(lambda: one.state() == State.PRIMARY_STATE_ACTIVE)  # autostart
    assert one.does(DEACTIVATE) and one.node.count_publishers("/localizer/pose") <= 1
    assert one.does(ACTIVATE)
    assert wait_for(lambda: one.node.count_publishers("/localizer/pose") == 1)
    assert node.end() == 0


def test_two_nodes_in_one_process_end_without_close(room_map):
    from mote_localization.nodes.localizer_node import LocalizerNode

    with process.ros_context():
        maps = [Parameter("map", value=str(room_map))]
        nodes = [
            LocalizerNode(name, namespace="/robot", parameter_overrides=maps)
            for name in ("front", "rear")
        ]
        names = [node.get_fully_qualified_name() for node in nodes]
        assert names == ["/robot/front", "/robot/rear"]
        for node in nodes:
            node.trigger_configure()
            node.trigger_activate()
        names = [name for name, _ in nodes[0].get_topic_names_and_types()]
        assert {"/robot/front/pose", "/robot/rear/pose"} <= set(names)
        started = time.monotonic()
        for node in nodes:
            node.destroy_node()
        assert time.monotonic() - started < 5
