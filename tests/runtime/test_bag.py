"""Rosbag2 recordings: writing, reading, and errors of damaged ones."""

import tracemalloc

import numpy as np
import pytest
from rosbags.rosbag2 import Reader, StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from mote_localization.camera import Camera
from mote_localization.errors import BagError, ImageError
from mote_localization.geometry import pose_from
from mote_localization.scenes import open_scene
from mote_localization.scenes.bag import (
    IMAGE_TOPIC,
    INFO_TOPIC,
    POSE_TOPIC,
    BagScene,
    BagWriter,
)
from mote_localization.stamps import stamp_seconds

CAMERA = Camera(64, 48, 60.0, 61.0, 31.5, 23.5, "plumb_bob", (0.1, -0.05, 0.001, 0.002, 0.0))
START_NS = 1_700_000_000_123_456_789
STEP_NS = 33_333_333
STORE = get_typestore(Stores.ROS2_JAZZY)


def image(index):
    return np.random.default_rng(index).integers(0, 256, (48, 64, 3), np.uint8)


def pose(index):
    return pose_from(
        np.array([index, 0.5, -1.0]), np.array([0.0, 0.0, np.sin(index), np.cos(index)])
    )


def write(path, count=5, storage="mcap", poses=True, camera=CAMERA):
    with BagWriter(path, storage) as bag:
        for i in range(count):
            bag.write(START_NS + i * STEP_NS, image(i), camera, pose(i) if poses else None)
    return path


def record(path, *messages):
    """Write (topic, type, log time, message) tuples as another recorder could write them."""
    with Writer(path, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        connections = {}
        for topic, kind, stamp_ns, message in messages:
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, kind, typestore=STORE)
            writer.write(connections[topic], stamp_ns, STORE.serialize_cdr(message, kind))
    return path


def image_message(stamp_ns, **fields):
    types = STORE.types
    stamp = types["builtin_interfaces/msg/Time"](*divmod(stamp_ns, 10**9))
    header = types["std_msgs/msg/Header"](stamp=stamp, frame_id="camera")
    default = dict(height=48, width=64, encoding="bgr8", is_bigendian=0, step=192)
    default["data"] = image(0)[..., ::-1].copy().reshape(-1)
    return types["sensor_msgs/msg/Image"](header=header, **{**default, **fields})


def info_message(stamp_ns, fx=60.0, **fields):
    types = STORE.types
    default = dict(
        header=image_message(stamp_ns).header, height=48, width=64, distortion_model="plumb_bob",
        d=np.zeros(5), k=np.array([fx, 0, 31.5, 0, 60, 23.5, 0, 0, 1.0]), r=np.eye(3).reshape(-1),
        p=np.zeros(12), binning_x=0, binning_y=0,
        roi=types["sensor_msgs/msg/RegionOfInterest"](0, 0, 0, 0, False),
    )  # fmt: skip
    return types["sensor_msgs/msg/CameraInfo"](**{**default, **fields})


def pose_message(stamp_ns, quaternion):
    types = STORE.types
    return types["geometry_msgs/msg/PoseStamped"](
        header=image_message(stamp_ns).header,
        pose=types["geometry_msgs/msg/Pose"](
            types["geometry_msgs/msg/Point"](1.0, 2.0, 3.0),
            types["geometry_msgs/msg/Quaternion"](*quaternion),
        ),
    )


def an_image(stamp_ns=0, topic="/cam/image", **fields):
    return topic, "sensor_msgs/msg/Image", stamp_ns, image_message(stamp_ns, **fields)


def an_info(stamp_ns=0, topic="/cam/camera_info", **fields):
    return topic, "sensor_msgs/msg/CameraInfo", stamp_ns, info_message(stamp_ns, **fields)


def a_pose(log_ns, message):
    return "/truth", "geometry_msgs/msg/PoseStamped", log_ns, message


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_a_written_recording_is_read_back_equal(tmp_path, storage):
    scene = open_scene(write(tmp_path / "drive", storage=storage))
    assert isinstance(scene, BagScene)
    assert (scene.name, scene.count("test"), scene.count("all"), scene.count("train")) == (
        "drive",
        5,
        5,
        0,
    )
    assert not list(scene.frames("train"))
    for index, frame in enumerate(scene.frames("test")):
        assert frame.stamp_s == stamp_seconds(START_NS + index * STEP_NS)
        assert frame.camera == CAMERA
        np.testing.assert_allclose(frame.T_map_cam, pose(index), atol=1e-12)
        np.testing.assert_array_equal(frame.image(), image(index))
        assert frame.depth() is None
    assert index == 4


@pytest.mark.parametrize(("storage", "suffix"), [("mcap", "mcap"), ("sqlite3", "db3")])
def test_a_storage_file_alone_is_a_recording(tmp_path, storage, suffix):
    write(tmp_path / "drive", storage=storage)
    scene = open_scene(tmp_path / f"drive/drive.{suffix}")
    assert (scene.name, len(list(scene.frames("all")))) == ("drive", 5)


def test_a_failed_recording_leaves_no_files(tmp_path):
    with pytest.raises(RuntimeError), BagWriter(tmp_path / "drive") as bag:
        bag.write(START_NS, image(0), CAMERA)
        raise RuntimeError
    assert not list(tmp_path.iterdir())


def test_a_recording_that_cannot_start_leaves_no_files(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mote_localization.scenes.bag.Writer", refuse)
    with pytest.raises(BagError, match="cannot be written"), BagWriter(tmp_path / "drive"):
        pass
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_a_bag_error_and_leaves_no_files(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    with pytest.raises(BagError, match="cannot be written.*No space left"):
        with BagWriter(tmp_path / "drive") as bag:
            monkeypatch.setattr(bag._writer, "write", full)
            bag.write(START_NS, image(0), CAMERA)
    assert not list(tmp_path.iterdir())


def test_messages_about_many_topics_are_short(tmp_path):
    images = [an_image(topic=f"/{'x' * 100}{i}/image") for i in range(20)]
    with pytest.raises(BagError, match="several topics") as caught:
        BagScene(record(tmp_path / "b", an_info(), *images))
    assert len(str(caught.value)) - len(str(tmp_path)) < 300


def test_an_existing_recording_is_not_overwritten(tmp_path):
    write(tmp_path / "drive", count=1)
    with pytest.raises(BagError, match="exists already"):
        BagWriter(tmp_path / "drive")


def test_an_image_of_another_size_is_not_recorded(tmp_path):
    with (
        pytest.raises(ImageError, match="expected .* the size of its camera"),
        BagWriter(tmp_path / "d") as bag,
    ):
        bag.write(START_NS, image(0)[:-1], CAMERA)


def test_standard_message_definitions_are_embedded(tmp_path):
    with Reader(write(tmp_path / "drive", count=1)) as reader:
        topics = {c.topic: (c.msgtype, c.msgdef.data.splitlines()[0]) for c in reader.connections}
    assert set(topics) == {IMAGE_TOPIC, INFO_TOPIC, POSE_TOPIC}
    assert topics[IMAGE_TOPIC] == ("sensor_msgs/msg/Image", "std_msgs/Header header")


def test_frames_are_streamed_with_little_memory(tmp_path):
    camera = Camera(640, 480, 500, 500, 319.5, 239.5)
    with BagWriter(tmp_path / "drive") as bag:
        for i in range(40):
            bag.write(START_NS + i * STEP_NS, np.full((480, 640, 3), i, np.uint8), camera, pose(i))
    scene = open_scene(tmp_path / "drive")
    tracemalloc.start()
    for frame in scene.frames("test"):
        frame.image()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 12e6  # of 37 MB recorded; one storage chunk and its copies


def test_rgb8_images_are_views(tmp_path):
    frame = next(open_scene(write(tmp_path / "drive")).frames("test"))
    assert np.shares_memory(frame.image(), frame.message.data)


def test_a_frame_has_the_calibration_of_its_stamp_or_the_newest_before(tmp_path):
    bag = record(
        tmp_path / "b",
        an_image(0), an_info(1, fx=50.0), an_image(1), an_image(5),
        an_image(9), an_info(9, fx=70.0), an_image(12),
    )  # fmt: skip
    focal = [frame.camera.fx for frame in BagScene(bag).frames("test")]
    assert focal == [50, 50, 50, 70, 70]


def test_poses_match_images_of_equal_stamp_only(tmp_path):
    late = a_pose(11, pose_message(10, (0.0, 0, 0, 1)))
    bag = record(tmp_path / "b", an_info(), an_image(0), an_image(10), late)
    first, second = BagScene(bag).frames("test")
    assert first.T_map_cam is None
    np.testing.assert_array_equal(second.T_map_cam[:3, 3], [1, 2, 3])


def test_frames_of_a_recording_without_ground_truth_have_no_pose(tmp_path):
    bag = write(tmp_path / "drive", poses=False)
    assert all(frame.T_map_cam is None for frame in BagScene(bag).frames("test"))


def test_the_calibration_topic_beside_the_image_topic_is_used(tmp_path):
    bag = record(tmp_path / "b", an_info(topic="/depth/camera_info", fx=1.0), an_info(), an_image())
    assert next(BagScene(bag).frames("test")).camera.fx == 60


def test_topics_can_be_chosen_by_name(tmp_path):
    bag = record(
        tmp_path / "b", an_info(), an_image(topic="/left/image"), an_image(topic="/right/image")
    )
    with pytest.raises(BagError, match="several topics.*/left/image, /right/image.*image_topic"):
        BagScene(bag)
    assert BagScene(bag, image_topic="/right/image").image_topic == "/right/image"
    with pytest.raises(BagError, match="no topic /up of type sensor_msgs/msg/Image"):
        BagScene(bag, image_topic="/up")


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ([an_info()], r"no images.*it has /cam/camera_info"),
        ([an_image()], "no sensor_msgs/msg/CameraInfo topic beside /cam/image"),
        ([an_info(k=np.zeros(9)), an_image()], "/cam/camera_info.*not calibrated"),
        (
            [an_info(), an_image(), a_pose(0, pose_message(0, (0.0, 0, 0, 0)))],
            "/truth at 0.000000 s.*not a rotation",
        ),
        (
            [an_info(), an_image(), a_pose(0, pose_message(0, (np.nan, 0, 0, 1)))],
            "/truth at 0.000000 s.*not a rotation",
        ),
    ],
)
def test_unusable_recordings_raise_an_error_that_names_the_cause(tmp_path, messages, words):
    with pytest.raises(BagError, match=words):
        BagScene(record(tmp_path / "b", *messages))


def test_the_error_for_compressed_images_names_the_topic_and_the_remedy(tmp_path):
    header = image_message(0).header
    packed = STORE.types["sensor_msgs/msg/CompressedImage"](header, "jpeg", np.zeros(3, np.uint8))
    bag = record(tmp_path / "b", ("/c", "sensor_msgs/msg/CompressedImage", 0, packed))
    with pytest.raises(BagError, match="/c is compressed.*republish"):
        BagScene(bag)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (dict(encoding="jpeg"), "'jpeg' is not supported"),
        (dict(step=10), "step is 10 bytes"),
        (dict(height=24), "64x24 px, expected 64x48 px as in its CameraInfo"),
    ],
)
def test_unusable_images_raise_an_error_that_names_the_image(tmp_path, fields, words):
    frame = next(BagScene(record(tmp_path / "b", an_info(), an_image(**fields))).frames("test"))
    with pytest.raises(BagError, match=f"/cam/image, image 000000: .*{words}"):
        frame.image()


def test_an_empty_recording_is_an_error(tmp_path):
    with pytest.raises(BagError, match="no images, /camera/image_raw is empty"):
        BagScene(write(tmp_path / "drive", count=0))


def test_a_recording_without_metadata_is_an_error(tmp_path):
    (write(tmp_path / "drive") / "metadata.yaml").unlink()
    with pytest.raises(BagError, match="no metadata.yaml.*reindex"):
        BagScene(tmp_path / "drive")
    with pytest.raises(BagError, match="no such recording"):
        BagScene(tmp_path / "walk")


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
@pytest.mark.parametrize("keep", [0.0, 0.3, 0.7, 0.99])
def test_a_truncated_recording_is_an_error(tmp_path, storage, keep):
    file = next(
        p for p in write(tmp_path / "drive", storage=storage).iterdir() if p.stem == "drive"
    )
    content = file.read_bytes()
    file.write_bytes(content[: int(keep * len(content))])
    with pytest.raises(BagError, match="damaged"):
        for frame in BagScene(tmp_path / "drive").frames("test"):
            frame.image()


def test_files_that_are_no_recordings_are_errors(tmp_path):
    (tmp_path / "x.mcap").write_bytes(b"not a recording at all")
    with pytest.raises(BagError, match="damaged"):
        open_scene(tmp_path / "x.mcap")
    folder = write(tmp_path / "drive")
    (folder / "metadata.yaml").write_text("rosbag2_bagfile_information: 3")
    with pytest.raises(BagError, match="damaged"):
        open_scene(folder)


def test_a_recording_can_be_renamed_but_not_lose_files(tmp_path):
    write(tmp_path / "drive")
    (tmp_path / "drive").rename(tmp_path / "walk")
    assert BagScene(tmp_path / "walk").count("test") == 5
    (tmp_path / "walk/drive.mcap").unlink()
    with pytest.raises(BagError, match="damaged.*missing"):
        BagScene(tmp_path / "walk")
