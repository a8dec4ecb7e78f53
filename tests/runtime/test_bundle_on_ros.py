"""A node with a bundle: places that look alike have no pose until something decides."""

import time
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")
pytest.importorskip("tf2_msgs", reason="needs tf2_msgs")

from geometry_msgs.msg import PoseWithCovarianceStamped
from make_bundle import COPY, view, write_rooms
from make_map import CAMERA
from make_painted_room import photograph
from node_processes import wait_for
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import PointCloud2
from simulated_robot import send, start_localizer

from mote_localization.geometry import quaternion_xyzw
from mote_localization.localizer import Tracking
from mote_localization.nodes.active_localizer import ActiveLocalizer, LastPose

pytestmark = [pytest.mark.ros, pytest.mark.usefixtures("ros_env")]


def initial_pose(T_map_cam):
    message = PoseWithCovarianceStamped()
    message.header.frame_id = "map"
    position, orientation = message.pose.pose.position, message.pose.pose.orientation
    position.x, position.y, position.z = map(float, T_map_cam[:3, 3])
    orientation.x, orientation.y, orientation.z, orientation.w = map(
        float, quaternion_xyzw(T_map_cam[:3, :3])
    )
    return message


@pytest.mark.parametrize(("stamp_ns", "decides"), [(0, False), (1, True), (2_000_000_000, False)])
def test_a_last_pose_decides_only_if_it_is_known_to_be_recent(stamp_ns, decides):
    """Without stamps, all poses have the same one, however old they are."""
    tracking = Tracking(view(0), np.zeros((1, 1, 3)))
    node = SimpleNamespace(_last=LastPose(0, 0, tracking))
    found = ActiveLocalizer._recent_tracking(node, stamp_ns, 0)
    assert found is (tracking if decides else None)


def test_places_that_look_alike_have_no_pose_until_a_user_gives_one(robot, child, tmp_path):
    clouds, latched = [], QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    robot.node.create_subscription(PointCloud2, "/localizer/map_points", clouds.append, latched)
    node = start_localizer(child, write_rooms(tmp_path), robot, base_frame="camera_optical")
    given = robot.node.create_publisher(PoseWithCovarianceStamped, "/initialpose", 1)
    image_hw3 = photograph(view(0.05))
    stamp_ns, status = send(robot, image_hw3, CAMERA)
    assert status.message == "ambiguous: front and copy explain the image, 20.0 m apart"
    assert stamp_ns not in robot.poses
    assert wait_for(given.get_subscription_count)
    given.publish(initial_pose(COPY @ view(0.0)))
    time.sleep(0.3)
    for _ in range(4):  # for over a second: once, the image is localized without the last pose
        stamp_ns, status = send(robot, image_hw3, CAMERA)
        assert status.message == "localized", node.text()
        assert wait_for(lambda stamp_ns=stamp_ns: stamp_ns in robot.poses)
        np.testing.assert_allclose(robot.poses[stamp_ns], COPY @ view(0.05), atol=0.01)
        time.sleep(0.4)
    assert wait_for(lambda: clouds) and clouds[0].width > 1000  # of all submaps
