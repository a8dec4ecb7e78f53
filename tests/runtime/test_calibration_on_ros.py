"""A node whose CameraInfo has another focal length than the camera withholds its poses."""

import re
import time
from array import array
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")
pytest.importorskip("tf2_msgs", reason="needs tf2_msgs")

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from node_processes import wait_for
from sensor_msgs.msg import CameraInfo, Image
from simulated_robot import start_localizer
from std_msgs.msg import Header

from mote_localization.map_file import read_map

pytestmark = [pytest.mark.ros, pytest.mark.usefixtures("ros_env")]

MAP = Path(__file__).resolve().parents[2] / "maps/demo_room.onnx"
INFO = read_map(MAP).info
CAMERA = INFO.camera


def send(robot, image_hw3, camera):
    """Send an image with its calibration, and return its status, once it has one."""
    stamp_ns = robot.node.get_clock().now().nanoseconds
    header = Header(frame_id="camera_optical")
    header.stamp.sec, header.stamp.nanosec = divmod(stamp_ns, 10**9)
    size = {"height": camera.height, "width": camera.width}
    content = array("B", image_hw3.tobytes())
    robot.images.publish(
        Image(header=header, encoding="rgb8", step=3 * camera.width, data=content, **size)
    )
    robot.infos.publish(CameraInfo(header=header, k=camera.K_33.reshape(9), **size))
    assert wait_for(lambda: stamp_ns in robot.statuses)
    return stamp_ns, robot.statuses[stamp_ns]


def test_a_wrong_focal_length_is_reported_until_the_calibration_changes(robot, child):
    states = []
    robot.node.create_subscription(
        DiagnosticArray, "/diagnostics", lambda m: states.extend(m.status), 10
    )
    images = [np.repeat(one.grey_hw()[..., None], 3, axis=-1) for one in INFO.keyframes[::5][:8]]
    node = start_localizer(child, MAP, robot)
    wrong = replace(CAMERA, fx=1.1 * CAMERA.fx, fy=1.1 * CAMERA.fy)
    answers = [send(robot, image, wrong) for image in images]
    reasons = [status.message for _, status in answers]
    noticed = next(i for i, reason in enumerate(reasons) if "calibration disagrees" in reason)
    assert noticed < 6, reasons
    found = re.fullmatch(
        r"/camera/camera_info: calibration disagrees by ([\d.]+) % of focal length: .*",
        reasons[noticed],
    )
    assert found and abs(float(found[1]) - 9.1) < 1.5, reasons[noticed]
    assert answers[noticed][1].level == DiagnosticStatus.ERROR
    assert all("calibration disagrees" in reason for reason in reasons[noticed:])
    time.sleep(0.2)
    assert not any(ns in robot.poses for ns, _ in answers[noticed:])
    assert all(ns in robot.poses for ns, _ in answers[1 : noticed - 1])
    assert wait_for(lambda: states and "calibration disagrees" in states[-1].message)
    right = [send(robot, image, CAMERA) for image in images[:2]]
    assert all(status.message == "localized" for _, status in right), right
    assert wait_for(lambda: right[-1][0] in robot.poses)
    assert "no pose: /camera/camera_info: calibration disagrees" in node.text()
