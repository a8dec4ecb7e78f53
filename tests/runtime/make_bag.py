"""Recordings as other recorders write them, message by message."""

import struct
from pathlib import Path

import cv2
import numpy as np
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from mote_localization.geometry import pose_from, quaternion_xyzw, rigid

STORE = get_typestore(Stores.ROS2_JAZZY)
SIZE_HW = (48, 64)
_TYPES = STORE.types


def image(index: int) -> np.ndarray:
    return np.random.default_rng(index).integers(0, 256, (*SIZE_HW, 3), np.uint8)


def depth(index: int) -> np.ndarray:
    """Depths in metres; the first row has none."""
    depth_hw = np.random.default_rng(index).integers(500, 5000, SIZE_HW) / np.float32(1000)
    depth_hw[0] = 0
    return depth_hw.astype(np.float32)


def pose(index: float) -> np.ndarray:
    """T_map_cam of a smooth motion."""
    angle = 0.1 * index
    q_xyzw = np.array([0.0, 0.0, np.sin(angle), np.cos(angle)])
    return pose_from(np.array([0.1 * index, 0.5, -1.0]), q_xyzw)


def record(path, *messages, storage="mcap", compression="NONE", version=9, qos=()) -> Path:
    """Write (topic, type, recording time in ns, message) tuples."""
    writer = Writer(path, version=version, storage_plugin=StoragePlugin[storage.upper()])
    writer.set_compression(CompressionMode[compression], CompressionFormat.ZSTD)
    with writer:
        connections = {}
        for topic, kind, recorded_ns, message in messages:
            if topic not in connections:
                connections[topic] = writer.add_connection(
                    topic, kind, typestore=STORE, offered_qos_profiles=qos
                )
            serialized = STORE.serialize_cdr(message, kind)
            writer.write(connections[topic], recorded_ns, serialized)
    return path


def header(stamp_ns, frame_id="camera"):
    stamp = _TYPES["builtin_interfaces/msg/Time"](*divmod(int(stamp_ns), 10**9))
    return _TYPES["std_msgs/msg/Header"](stamp=stamp, frame_id=frame_id)


def an_image(stamp_ns=0, topic="/cam/image", index=0, frame_id="camera", at=None, **fields):
    default = dict(height=48, width=64, encoding="bgr8", is_bigendian=0, step=192)
    default["data"] = image(index)[..., ::-1].reshape(-1)
    kind = "sensor_msgs/msg/Image"
    message = _TYPES[kind](header=header(stamp_ns, frame_id), **{**default, **fields})
    return topic, kind, stamp_ns if at is None else at, message


def a_packed(stamp_ns, topic, form, content, frame_id="camera", at=None):
    """A CompressedImage of any content."""
    kind, data = "sensor_msgs/msg/CompressedImage", np.frombuffer(content, np.uint8)
    message = _TYPES[kind](header(stamp_ns, frame_id), form, data)
    return topic, kind, stamp_ns if at is None else at, message


def a_compressed(stamp_ns, index=0, form="jpeg", topic="/cam/image/compressed"):
    suffix = ".png" if "png" in form else ".jpg"
    content = cv2.imencode(suffix, image(index)[..., ::-1])[1].tobytes()
    return a_packed(stamp_ns, topic, form, content)


def a_depth(stamp_ns, depth_hw, encoding="16UC1", topic="/cam/depth", frame_id="camera"):
    values = np.round(1000 * depth_hw).astype("<u2") if encoding == "16UC1" else depth_hw
    data = values.reshape(-1).view(np.uint8)
    height, width = depth_hw.shape
    fields = dict(height=height, width=width, encoding=encoding, step=values.itemsize * width)
    return an_image(stamp_ns, topic, frame_id=frame_id, data=data, **fields)


def a_compressed_depth(stamp_ns, depth_hw, encoding="16UC1", topic="/cam/depth/compressedDepth"):
    """Depth as compressed_depth_image_transport packs it (codec.cpp)."""
    quant_a = quant_b = 0.0
    values_hw = np.round(1000 * depth_hw).astype(np.uint16)
    if encoding == "32FC1":
        z0, farthest = 100.0, 10.0  # its parameters depth_quantization, depth_max
        quant_a = z0 * (z0 + 1)
        quant_b = 1 - quant_a / farthest
        with np.errstate(divide="ignore"):
            inverse_hw = quant_a / depth_hw + quant_b
        values_hw = np.where(depth_hw > 0, inverse_hw, 0).astype(np.uint16)
    content = (
        struct.pack("<iff", 0, quant_a, quant_b) + cv2.imencode(".png", values_hw)[1].tobytes()
    )
    return a_packed(stamp_ns, topic, f"{encoding}; compressedDepth png", content)


def an_info(stamp_ns=0, topic="/cam/camera_info", fx=60.0, roi=(0, 0, 0, 0), at=None, **fields):
    default = dict(
        header=header(stamp_ns), height=48, width=64, distortion_model="plumb_bob",
        d=np.zeros(5), k=np.array([fx, 0, 31.5, 0, 60, 23.5, 0, 0, 1.0]), r=np.eye(3).reshape(-1),
        p=np.zeros(12), binning_x=0, binning_y=0,
        roi=_TYPES["sensor_msgs/msg/RegionOfInterest"](*roi, False),
    )  # fmt: skip
    kind = "sensor_msgs/msg/CameraInfo"
    return topic, kind, stamp_ns if at is None else at, _TYPES[kind](**{**default, **fields})


def _pose(T, quaternion=None):
    point = _TYPES["geometry_msgs/msg/Point"](*T[:3, 3].tolist())
    q = quaternion_xyzw(T[:3, :3]).tolist() if quaternion is None else quaternion
    return _TYPES["geometry_msgs/msg/Pose"](point, _TYPES["geometry_msgs/msg/Quaternion"](*q))


def a_pose(stamp_ns, T_map_cam, topic="/truth", quaternion=None, at=None):
    kind = "geometry_msgs/msg/PoseStamped"
    message = _TYPES[kind](header(stamp_ns, "map"), _pose(T_map_cam, quaternion))
    return topic, kind, stamp_ns if at is None else at, message


def a_pose_with_covariance(stamp_ns, T_map_cam, topic="/truth"):
    kind = "geometry_msgs/msg/PoseWithCovarianceStamped"
    inner = _TYPES["geometry_msgs/msg/PoseWithCovariance"](_pose(T_map_cam), np.zeros(36))
    return topic, kind, stamp_ns, _TYPES[kind](header(stamp_ns, "map"), inner)


def an_odometry(stamp_ns, T_odom_child, child="base_link", topic="/odom"):
    kind, zero = "nav_msgs/msg/Odometry", _TYPES["geometry_msgs/msg/Vector3"](0.0, 0.0, 0.0)
    twist = _TYPES["geometry_msgs/msg/Twist"](zero, zero)
    message = _TYPES[kind](
        header(stamp_ns, "odom"),
        child,
        _TYPES["geometry_msgs/msg/PoseWithCovariance"](_pose(T_odom_child), np.zeros(36)),
        _TYPES["geometry_msgs/msg/TwistWithCovariance"](twist, np.zeros(36)),
    )
    return topic, kind, stamp_ns, message


def a_transform(stamp_ns, T_parent_child, parent, child, topic="/tf", quaternion=None):
    kind = "tf2_msgs/msg/TFMessage"
    vector = _TYPES["geometry_msgs/msg/Vector3"](*T_parent_child[:3, 3].tolist())
    q = quaternion_xyzw(T_parent_child[:3, :3]).tolist() if quaternion is None else quaternion
    moved = _TYPES["geometry_msgs/msg/Transform"](
        vector, _TYPES["geometry_msgs/msg/Quaternion"](*q)
    )
    stamped = _TYPES["geometry_msgs/msg/TransformStamped"](header(stamp_ns, parent), child, moved)
    return topic, kind, stamp_ns, _TYPES[kind]([stamped])


def a_static(T_parent_child, parent, child):
    return a_transform(0, T_parent_child, parent, child, "/tf_static")


def a_text(stamp_ns=0, topic="/chatter"):
    kind = "std_msgs/msg/String"
    return topic, kind, stamp_ns, _TYPES[kind]("hello")


# base_link -> optical frame of a camera that looks forward, 0.3 m above it
T_BASE_CAM = rigid(np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]]), np.array([0.1, 0.0, 0.3]))
