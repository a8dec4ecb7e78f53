"""Conversion of messages to arrays and back, without a node."""

from array import array
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2 messages")

from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticStatus
from make_map import CAMERA, T_MAP_CAM, write_constant_map
from sensor_msgs.msg import CameraInfo, Image, RegionOfInterest
from std_msgs.msg import Header

from mote_localization.backends import Chosen
from mote_localization.camera_infos import camera_of_info
from mote_localization.errors import CameraError, ImageError
from mote_localization.geometry import pose_from
from mote_localization.localizer import Localizer
from mote_localization.map_cloud import MapCloud
from mote_localization.nodes import conversions

HEADER = Header(stamp=Time(sec=7, nanosec=8), frame_id="map")
RGB_HW3 = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)


def message(encoding: str, pixels: np.ndarray, padding: int = 0) -> Image:
    """Return an image message of pixels (h, w) or (h, w, channels), with padded rows."""
    height, width = pixels.shape[:2]
    rows = np.pad(pixels.reshape(height, -1), ((0, 0), (0, padding)), constant_values=99)
    data = array("B", rows.tobytes())
    return Image(
        encoding=encoding, height=height, width=width, step=rows.shape[1], data=data, header=HEADER
    )


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """A localization by a camera that covers only the middle of the canonical image."""
    path = write_constant_map(tmp_path_factory.mktemp("map") / "room.onnx")
    narrow = CAMERA.from_K(
        320, 240, CAMERA.K_33 * [[1.5], [1.5], [1]] - [[0, 0, 79.75], [0, 0, 59.75], [0, 0, 0]]
    )
    image_hw3 = np.full((240, 320, 3), (200, 100, 50), np.uint8)
    return Localizer.open(path, threads=1).localize(image_hw3, narrow)


def test_an_rgb_image_is_not_copied():
    image = message("rgb8", RGB_HW3)
    assert np.shares_memory(
        conversions.image_from_message(image), np.frombuffer(image.data, np.uint8)
    )


@pytest.mark.parametrize("padding", [0, 5])
@pytest.mark.parametrize(
    ("encoding", "channels"),
    [("rgb8", [0, 1, 2]), ("bgr8", [2, 1, 0]), ("rgba8", [0, 1, 2, 0]), ("bgra8", [2, 1, 0, 0])],
)
def test_channels_are_reordered_and_padding_is_removed(encoding, channels, padding):
    image = message(encoding, RGB_HW3[..., channels], padding)
    np.testing.assert_array_equal(conversions.image_from_message(image), RGB_HW3)


@pytest.mark.parametrize("encoding", ["", "rgb9", "32FC1", "x" * 1000])
def test_the_error_for_an_unknown_encoding_names_it(encoding):
    with pytest.raises(ImageError, match=f"encoding '{encoding[:10]}"):
        conversions.image_from_message(message(encoding, RGB_HW3))


@pytest.mark.parametrize(
    "encoding", ["bgr8", "bgra8", "mono8", "mono16", "bayer_rggb8", "bayer_gbrg8"]
)
def test_cv_bridge_gives_the_same_image(encoding):
    cv_bridge = pytest.importorskip("cv_bridge", reason="cv_bridge comes with a ROS 2 installation")
    channels = {"bgr8": 3, "bgra8": 4}.get(encoding, 1)
    kind = np.uint16 if encoding.endswith("16") else np.uint8
    pixels = np.random.default_rng(1).integers(0, np.iinfo(kind).max, (6, 8, channels), kind)
    image = message(encoding, pixels.view(np.uint8))
    image.width = 8
    expected = cv_bridge.CvBridge().imgmsg_to_cv2(image, "rgb8")
    np.testing.assert_allclose(conversions.image_from_message(image), expected, atol=1)


def test_camera_info_keeps_every_coefficient():
    coefficients = [0.1, -0.2, 0.001, 0.002, 0.03, 0.1, 0.02, 0.01]
    info = CameraInfo(
        width=320, height=240, k=CAMERA.K_33.reshape(9), d=coefficients,
        distortion_model="rational_polynomial",
    )  # fmt: skip
    camera = camera_of_info(info, (320, 240))
    assert camera.distortion == tuple(coefficients)
    assert (camera.width, camera.height, camera.fx, camera.cx) == (320, 240, CAMERA.fx, CAMERA.cx)


def test_camera_info_with_padded_coefficients_is_a_camera():
    info = CameraInfo(
        width=320, height=240, k=CAMERA.K_33.reshape(9), distortion_model="plumb_bob",
        d=[-0.0306, 0.0352, -0.000138, -0.0001459, -0.01204, 0.0, 0.0, 0.0],
    )  # fmt: skip
    assert camera_of_info(info, (320, 240)).distortion == tuple(info.d[:5])


def test_binning_and_region_of_camera_info_give_the_camera_of_the_images():
    info = CameraInfo(width=320, height=240, k=CAMERA.K_33.reshape(9), binning_x=2, binning_y=2)
    assert camera_of_info(info, (160, 120)) == CAMERA.resized(160, 120)
    region = CameraInfo(width=320, height=240, k=CAMERA.K_33.reshape(9))
    region.roi = RegionOfInterest(x_offset=40, y_offset=20, width=200, height=100)
    cropped = camera_of_info(region, (200, 100))
    assert (cropped.width, cropped.cx, cropped.cy) == (200, CAMERA.cx - 40, CAMERA.cy - 20)


def test_rectified_images_are_those_of_P_without_distortion():
    P_34 = np.hstack([CAMERA.K_33 * [[0.9], [0.9], [1]], np.zeros((3, 1))])
    info = CameraInfo(width=320, height=240, k=CAMERA.K_33.reshape(9), d=[0.1, -0.2, 0, 0, 0])
    info.distortion_model = "plumb_bob"
    with pytest.raises(CameraError, match="P is zero, so the driver does not rectify"):
        camera_of_info(info, (320, 240), rectified=True)
    info.p = P_34.reshape(12)
    camera = camera_of_info(info, (320, 240), rectified=True)
    assert not any(camera.distortion)
    np.testing.assert_allclose(camera.K_33, P_34[:, :3])
    assert any(camera_of_info(info, (320, 240)).distortion)


def test_camera_info_without_calibration_is_an_error():
    with pytest.raises(CameraError, match="not calibrated"):
        camera_of_info(CameraInfo(width=320, height=240), (320, 240))


def test_pose_transform_and_odometry_are_equal():
    covariance_66 = np.arange(36.0).reshape(6, 6)
    pose = conversions.pose_message(HEADER, T_MAP_CAM, covariance_66)
    transform = conversions.transform_message(HEADER, "camera", T_MAP_CAM)
    odometry = conversions.odometry_message(pose, "camera")
    assert (odometry.pose.pose, odometry.header) == (pose.pose.pose, HEADER)
    assert odometry.child_frame_id == "camera" and min(odometry.twist.covariance[::7]) == 1e6
    p, q = pose.pose.pose.position, pose.pose.pose.orientation
    np.testing.assert_allclose(
        pose_from([p.x, p.y, p.z], [q.x, q.y, q.z, q.w]), T_MAP_CAM, atol=1e-12
    )
    assert transform.transform.rotation == q
    assert (transform.transform.translation.x, transform.transform.translation.z) == (p.x, p.z)
    assert (transform.header, transform.child_frame_id) == (HEADER, "camera")
    np.testing.assert_array_equal(pose.pose.covariance, covariance_66.reshape(36))


def test_odometry_remains_a_covariance_where_a_filter_replaces_variances_out_of_the_plane():
    deviations = np.array([0.05, 0.05, 0.05, 0.03, 0.03, 0.03])
    covariance_66 = (0.9 + 0.1 * np.eye(6)) * np.outer(deviations, deviations)
    pose = conversions.pose_message(HEADER, T_MAP_CAM, covariance_66)
    found_66 = conversions.odometry_message(pose, "camera").pose.covariance.reshape(6, 6)
    in_plane = np.ix_([0, 1, 5], [0, 1, 5])
    np.testing.assert_array_equal(found_66[in_plane], covariance_66[in_plane])
    np.testing.assert_array_equal(np.diag(found_66), deviations**2)
    found_66[[2, 3, 4], [2, 3, 4]] = 1e-6  # as two_d_mode of robot_localization
    assert np.linalg.eigvalsh(found_66).min() > 0


def test_the_cloud_is_organized_and_has_nan_for_cells_that_are_not_seen(found):
    cloud = conversions.cloud_message(HEADER, found)
    rows, columns = found.covered_hw.shape
    assert (cloud.height, cloud.width, cloud.row_step, cloud.is_dense) == (
        rows,
        columns,
        16 * columns,
        False,
    )
    assert 0 < found.covered_hw.sum() < found.covered_hw.size
    cells = np.frombuffer(cloud.data, np.float32).reshape(rows, columns, 4)
    np.testing.assert_array_equal(np.isfinite(cells[..., :3]).all(-1), found.covered_hw)
    np.testing.assert_array_equal(cells[found.covered_hw, :3], found.points_hw3[found.covered_hw])
    colours = np.unique(
        cells.view(np.uint32)[rows // 3 : -rows // 3, columns // 3 : -columns // 3, 3]
    )
    assert colours.tolist() == [200 << 16 | 100 << 8 | 50]


def test_points_have_the_colours_of_their_cells(found):
    rows, columns = found.covered_hw.shape
    image_hw3 = np.zeros_like(found.image_hw3)
    image_hw3[: image_hw3.shape[0] // 2, :, 0] = 255  # upper half red
    image_hw3[:, : image_hw3.shape[1] // 2, 2] = 255  # left half blue
    painted = type(found)(**{**vars(found), "image_hw3": image_hw3})
    cells = np.frombuffer(conversions.cloud_message(HEADER, painted).data, np.uint32)
    rgb_hw = cells.reshape(rows, columns, 4)[..., 3]
    corners = rgb_hw[0, 0], rgb_hw[0, -1], rgb_hw[-1, 0], rgb_hw[-1, -1]
    assert corners == (0xFF00FF, 0xFF0000, 0x0000FF, 0)


def test_a_cloud_with_points_that_are_not_finite_is_not_dense(found):
    covered_hw = np.ones_like(found.covered_hw)
    points_hw3 = np.ones_like(found.points_hw3)
    dense = replace(found, covered_hw=covered_hw, points_hw3=points_hw3)
    assert conversions.cloud_message(HEADER, dense).is_dense
    points_hw3[0, 0, 2] = np.inf
    assert not conversions.cloud_message(HEADER, dense).is_dense


def test_sensor_msgs_py_reads_the_cloud(found):
    reader = pytest.importorskip(
        "sensor_msgs_py.point_cloud2", reason="comes with a ROS 2 installation"
    )
    points = reader.read_points_numpy(conversions.cloud_message(HEADER, found), ["x", "y", "z"])
    expected = np.where(found.covered_hw[..., None], found.points_hw3, np.nan)
    np.testing.assert_array_equal(points.reshape(-1, 3), expected.reshape(-1, 3))


def test_status_of_a_localized_and_of_a_rejected_image(found):
    good = conversions.status_message(HEADER.stamp, "localizer", "room", found)
    assert good.header.stamp == HEADER.stamp
    assert (good.status[0].level, good.status[0].message) == (DiagnosticStatus.OK, "localized")
    keys = {value.key for value in good.status[0].values}
    assert keys >= {"inliers", "cells", "reprojection_px", "remap_ms", "network_ms", "pose_ms"}
    bad = conversions.status_message(HEADER.stamp, "localizer", "room", None, "it is empty")
    assert (bad.status[0].level, bad.status[0].message) == (DiagnosticStatus.ERROR, "it is empty")


def test_status_of_a_backend_that_replaces_a_rejected_one():
    def status(*refusals):
        chosen = Chosen(None, "onnxruntime", refusals)
        return conversions.backend_status("localizer: backend", "room", chosen)

    assert (status().level, status().message) == (DiagnosticStatus.OK, "onnxruntime")
    rejected = status("backend tensorrt: there is no GPU")
    assert rejected.level == DiagnosticStatus.ERROR
    assert rejected.message == "onnxruntime; rejected: backend tensorrt: there is no GPU"


def test_points_of_a_map_are_a_cloud_with_their_brightness():
    points_n3 = np.arange(30.0).reshape(10, 3)
    message = conversions.map_points_message(HEADER, MapCloud(points_n3, np.arange(10, dtype="u1")))
    assert (message.height, message.width, message.is_dense) == (1, 10, True)
    values_n4 = np.frombuffer(message.data, np.float32).reshape(10, 4)
    np.testing.assert_allclose(values_n4[:, :3], points_n3)
    np.testing.assert_array_equal(values_n4.view(np.uint32)[:, 3], np.arange(10) * 0x010101)
