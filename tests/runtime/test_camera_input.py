"""The images that the node receives: their topics, sizes and stamps."""

from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")

import rclpy
from node_processes import wait_for
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from mote_localization.camera import Camera
from mote_localization.localizer import Tracking
from mote_localization.nodes import process
from mote_localization.nodes.active_localizer import ActiveLocalizer, LastPose
from mote_localization.nodes.camera_input import CameraInput
from mote_localization.nodes.entities import Entities
from mote_localization.nodes.frame_reader import FrameReader

pytestmark = [pytest.mark.ros, pytest.mark.usefixtures("ros_env")]
UHD, VGA = CameraInfo(width=3840, height=2160), CameraInfo(width=640, height=480)


@pytest.fixture(scope="module")
def ros(ros_env):
    with process.ros_context():
        yield


@pytest.fixture
def camera_input(ros):
    """Create the input of a node whose topic of images is /camera/image_raw, or another one."""
    nodes = []

    def create(transport="raw", image="/camera/image_raw", on_frame=lambda *_: None):
        arguments = ["--ros-args", "-r", f"image:={image}", "-r", "camera_info:=/camera/info"]
        node = rclpy.create_node("one", cli_args=arguments)
        nodes.append(node)
        return node, CameraInput(node, Entities(node), transport, 0.05, on_frame)

    yield create
    for node in nodes:
        node.destroy_node()


@pytest.mark.parametrize("remapped", ["/camera/image_raw", "/camera/image_raw/compressed"])
def test_compressed_images_are_on_the_topic_below_the_image_or_on_the_given_one(
    camera_input, remapped
):
    frames = []
    node, source = camera_input("compressed", remapped, lambda *frame: frames.append(frame))
    assert source.image_topic == "/camera/image_raw/compressed"
    images = node.create_publisher(CompressedImage, "/camera/image_raw/compressed", 10)
    infos = node.create_publisher(CameraInfo, "/camera/info", 10)
    with process.spin_in_thread(node):
        assert wait_for(lambda: images.get_subscription_count() and infos.get_subscription_count())
        infos.publish(CameraInfo(width=2))
        images.publish(CompressedImage(format="jpeg"))
        assert wait_for(lambda: frames)
    assert (frames[0][0].format, frames[0][1].width) == ("jpeg", 2)


def test_images_that_are_too_large_for_shared_memory_are_named(camera_input):
    node, source = camera_input()
    node.create_publisher(Image, "/camera/image_raw", 10)
    assert wait_for(lambda: node.count_publishers("/camera/image_raw"))
    source._on_info(UHD)
    warning = source.missing(5.0)
    assert "no image on /camera/image_raw" in warning
    assert "images take 25 MB, too much for shared memory of 16 MB" in warning
    assert "segment_size" in warning and "to 99532800" in warning


@pytest.mark.parametrize(
    ("info", "images", "is_named"), [(UHD, 7, True), (UHD, 10, False), (VGA, 7, False)]
)
def test_large_images_of_which_some_are_lost_are_named(camera_input, info, images, is_named):
    _, source = camera_input()
    for stamp in range(10):
        info.header.stamp.sec = stamp
        source._on_info(info)
    for stamp in range(images):
        image = Image()
        image.header.stamp.sec = stamp
        source._on_image(image)
    warning = source.missing(5.0)
    assert ("10 camera_info, but only 7 images" in warning) == is_named
    assert ("too much for shared memory" in warning) == is_named


def test_a_rectified_topic_with_a_distortion_is_named():
    log = []
    node = SimpleNamespace(
        _node=SimpleNamespace(get_logger=lambda: SimpleNamespace(warning=log.append)),
        _rectified_faults={},
    )
    topic = "/camera/image_rect_color/compressed"
    check = partial(FrameReader._check_rectified, node, topic)
    for _ in range(2):
        check(Camera(640, 480, 500.0, 500.0, 320.0, 240.0, "plumb_bob", (0.1,) * 5))
    assert (
        "is rectified by its name, but its CameraInfo has a distortion"
        in node._rectified_faults[topic]
    )
    assert len(log) == 1
    check(Camera(640, 480, 500.0, 500.0, 320.0, 240.0))  # as with the parameter `rectified`
    assert not node._rectified_faults[topic]


def test_images_without_stamps_are_localized_without_the_last_pose():
    last, requests = Tracking(np.eye(4), np.zeros((30, 40, 3))), SimpleNamespace(waiting=False)
    node = SimpleNamespace(_last=LastPose(0, 0, last), _searched_ns=0, _requests=requests)
    tracking = partial(ActiveLocalizer._tracking, node, camera=0)
    assert tracking(0) is None and tracking(0) is None
    assert tracking(10**8).points_hw3 is last.points_hw3
