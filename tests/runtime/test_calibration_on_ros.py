"""A node whose CameraInfo has another focal length than the camera withholds its poses."""

import re
import time
from dataclasses import replace

import numpy as np
import onnx
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")
pytest.importorskip("tf2_msgs", reason="needs tf2_msgs")

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from make_map import CAMERA, write_constant_map
from make_painted_room import keyframe, photograph, shifted
from node_processes import wait_for
from simulated_robot import FRAMES, T_BASE_CAM, publish, send, start_localizer

from mote_localization.geometry import invert
from mote_localization.map_file import read_map, write_map

pytestmark = [pytest.mark.ros, pytest.mark.usefixtures("ros_env")]


def write_painted_map(folder):
    """Write a map with three keyframes of the painted room, whose network always predicts one."""
    plain = read_map(write_constant_map(folder / "plain.onnx"))
    keyframes = tuple(keyframe(shifted(x, 0, 0)) for x in (-0.4, 0, 0.4))
    path = folder / "painted.onnx"
    write_map(
        path, onnx.load_model_from_string(plain.model), replace(plain.info, keyframes=keyframes)
    )
    return path


def view(step):
    """Return the pose of a camera that moves in the painted room."""
    turn = 0.06 * np.sin(step), 0.06 * np.sin(1.7 * step), 0.02
    return shifted(0.15 * np.sin(0.6 * step), 0.05, 0.1 * np.sin(step), omega=turn)


def test_a_wrong_focal_length_is_reported_until_the_calibration_changes(robot, child, tmp_path):
    states = []
    robot.node.create_subscription(
        DiagnosticArray, "/diagnostics", lambda m: states.extend(m.status), 10
    )
    images = [photograph(view(step)) for step in range(7)]
    node = start_localizer(child, write_painted_map(tmp_path), robot)
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
    before = [(ns in robot.poses, status.message) for ns, status in answers[1 : noticed - 1]]
    assert all(has or "calibration may be wrong" in reason for has, reason in before)
    assert any("calibration may be wrong: standard deviation" in one for one in reasons[:noticed])
    assert wait_for(lambda: states and "calibration disagrees" in states[-1].message)
    right = [send(robot, image, CAMERA) for image in images[:2]]
    assert all(status.message == "localized" for _, status in right), right
    assert wait_for(lambda: right[-1][0] in robot.poses)
    assert "no pose: /camera/camera_info: calibration disagrees" in node.text()


def test_an_alarm_discards_poses_that_wait_for_odometry_and_map_to_odom(robot, child, tmp_path):
    node = start_localizer(
        child,
        write_painted_map(tmp_path),
        robot,
        **FRAMES,
        transform_timeout_s=10.0,
        max_deviation_m=10.0,
    )

    def send_odometry(stamp_ns):
        robot.send_transform(robot.tf, stamp_ns, "odom", "base_link", T_odom_base)

    T_odom_base = view(0) @ invert(T_BASE_CAM)
    images = [photograph(view(step)) for step in range(7)]
    started_ns = robot.node.get_clock().now().nanoseconds
    send_odometry(started_ns)
    first_ns = publish(robot, images[0], CAMERA)
    send_odometry(first_ns + 100_000_000)
    assert wait_for(lambda: robot.broadcasts and first_ns in robot.poses)
    wrong = replace(CAMERA, fx=1.1 * CAMERA.fx, fy=1.1 * CAMERA.fy)
    time.sleep(0.2)  # to images after the last odometry
    waiting = []
    for image in images * 2:  # their odometry does not come: they have no status until the alarm
        waiting.append(publish(robot, image, wrong))
        if wait_for(lambda: waiting[-1] in robot.statuses, 0.5):
            break
    assert "calibration disagrees" in robot.statuses[waiting[-1]].message
    assert len(waiting) > 2
    broadcasts = len(robot.broadcasts)
    send_odometry(robot.node.get_clock().now().nanoseconds + 100_000_000)
    time.sleep(0.5)
    assert not any(ns in robot.statuses for ns in waiting[:-1])
    assert not any(ns in robot.poses for ns in waiting)
    assert len(robot.broadcasts) <= broadcasts + 2  # on their way
    right_ns = publish(robot, images[0], CAMERA)
    send_odometry(right_ns + 100_000_000)
    assert wait_for(lambda: right_ns in robot.poses and len(robot.broadcasts) > broadcasts + 2)
    assert node.end() == 0
