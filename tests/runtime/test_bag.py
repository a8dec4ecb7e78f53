"""Rosbag2 recordings: writing, reading, and errors of damaged ones."""

import tracemalloc
from itertools import chain

import numpy as np
import pytest
from make_bag import (
    a_compressed,
    a_pose,
    a_text,
    an_image,
    an_info,
    image,
    pose,
    record,
)
from rosbags.interfaces import (
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
from rosbags.rosbag2 import Reader

from mote_localization.camera import Camera
from mote_localization.errors import BagError, ImageError
from mote_localization.evaluation.over_ros import _make_recording
from mote_localization.nodes.player import Replay
from mote_localization.scenes import open_scene
from mote_localization.scenes.bags import (
    IMAGE_TOPIC,
    INFO_TOPIC,
    POSE_TOPIC,
    BagScene,
    BagWriter,
    open_bag,
)
from mote_localization.scenes.bags.bag_files import MessageCursor
from mote_localization.scenes.bags.bag_limits import _LimitedYaml
from mote_localization.stamps import stamp_seconds

CAMERA = Camera(64, 48, 60.0, 61.0, 31.5, 23.5, "plumb_bob", (0.1, -0.05, 0.001, 0.002, 0.0))
START_NS = 1_700_000_000_123_456_789
STEP_NS = 33_333_333


def write(path, count=5, storage="mcap", poses=True, camera=CAMERA):
    with BagWriter(path, storage) as bag:
        for i in range(count):
            bag.write(START_NS + i * STEP_NS, image(i), camera, pose(i) if poses else None)
    return path


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_a_written_recording_is_read_back_equal(tmp_path, storage):
    scene = BagScene(write(tmp_path / "drive", storage=storage))
    assert scene.name == "drive"
    assert [scene.count(split) for split in ("train", "test", "all")] == [5, 5, 5]
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

    monkeypatch.setattr("mote_localization.scenes.bags.bag_writer.Writer", refuse)
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


def test_a_frame_has_the_calibration_of_its_stamp_or_the_newest_before(tmp_path):
    bag = record(
        tmp_path / "b",
        an_image(0), an_info(1, fx=50.0), an_image(1), an_image(5),
        an_image(9), an_info(9, fx=70.0), an_image(12),
    )  # fmt: skip
    focal = [frame.camera.fx for frame in BagScene(bag).frames("test")]
    assert focal == [50, 50, 50, 70, 70]


def test_frames_of_a_recording_without_ground_truth_have_no_pose(tmp_path):
    bag = write(tmp_path / "drive", poses=False)
    assert all(frame.T_map_cam is None for frame in BagScene(bag).frames("test"))


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
    with pytest.raises(BagError, match=r"no images.*/camera/image_raw \(0\)"):
        BagScene(write(tmp_path / "drive", count=0))


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


def three(path, **options):
    """A recording of three images with calibrations and poses."""
    messages = [(an_info(n), an_image(n, index=n), a_pose(n, pose(n))) for n in range(3)]
    return record(path, *chain(*messages), **options)


def numbers(path):
    return [float(frame.T_map_cam[0, 3]) for frame in BagScene(path).frames("all")]


@pytest.mark.parametrize(
    ("storage", "compression"),
    [("mcap", "STORAGE"), ("mcap", "MESSAGE"), ("sqlite3", "MESSAGE"), ("sqlite3", "FILE")],
)
def test_compressed_recordings_are_read(tmp_path, storage, compression):
    bag = three(tmp_path / "b", storage=storage, compression=compression)
    for index, frame in enumerate(open_scene(bag).frames("all")):
        np.testing.assert_array_equal(frame.image(), image(index))
    assert index == 2


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_a_folder_without_metadata_is_opened(tmp_path, storage):
    bag = three(tmp_path / "b", storage=storage)
    (bag / "metadata.yaml").unlink()
    assert isinstance(open_scene(bag).whole, BagScene)
    assert numbers(bag) == pytest.approx([0, 0.1, 0.2])


def test_several_files_without_metadata_are_one_recording_in_the_order_of_their_numbers(tmp_path):
    for number, stamp in ((2, 2), (10, 10)):
        part = record(tmp_path / f"part_{number}", an_info(stamp), an_image(stamp))
        (part / f"part_{number}.mcap").rename(tmp_path / f"part_{number}.mcap")
    assert [f.stamp_s for f in BagScene(tmp_path).frames("all")] == [2e-9, 10e-9]


@pytest.mark.parametrize("line", ["storage_identifier: ''", "other: 1"])
def test_a_storage_that_metadata_does_not_name_is_inferred_from_the_file(tmp_path, line):
    metadata = three(tmp_path / "b", storage="sqlite3") / "metadata.yaml"
    text = metadata.read_text()
    assert "storage_identifier: sqlite3" in text
    metadata.write_text(text.replace("storage_identifier: sqlite3", line))
    assert len(numbers(tmp_path / "b")) == 3


@pytest.mark.parametrize(
    ("name", "words"),
    [("walk.bag", "ROS 1 bag.*rosbags-convert"), ("walk_0.db3.zstd", "compressed.*unzstd")],
)
def test_files_of_other_formats_are_errors_that_name_the_tool(tmp_path, name, words):
    (tmp_path / name).write_bytes(b"#ROSBAG V2.0")
    for path in (tmp_path, tmp_path / name):
        with pytest.raises(BagError, match=words) as caught:
            open_scene(path)
        assert len(str(caught.value).replace(str(tmp_path), "")) < 300


def test_a_file_of_compressed_messages_alone_is_an_error(tmp_path):
    bag = three(tmp_path / "b", storage="sqlite3", compression="MESSAGE")
    with pytest.raises(BagError, match="compressed messages.*metadata.yaml"):
        BagScene(bag / "b.db3")


@pytest.mark.parametrize("metadata", [True, False])
def test_a_file_without_its_end_is_an_error_that_names_the_repair(tmp_path, metadata):
    bag = three(tmp_path / "b")
    if not metadata:
        (bag / "metadata.yaml").unlink()
    file = bag / "b.mcap"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(BagError, match="has no end.*mcap recover"):
        BagScene(bag)


def test_a_missing_recording_is_an_error(tmp_path):
    with pytest.raises(BagError, match="no such recording"):
        BagScene(tmp_path / "walk")


def test_equal_stamps_are_replaced_by_recording_times(tmp_path, caplog):
    messages = []
    for index in range(4):
        at = 10**9 + index * 10**8
        info = an_info(0, fx=50.0 + index, at=at)
        messages += [info, an_image(0, at=at), a_pose(0, pose(index), at=at)]
    scene = BagScene(record(tmp_path / "b", *messages))
    frames = list(scene.frames("all"))
    assert [frame.stamp_s for frame in frames] == pytest.approx([1, 1.1, 1.2, 1.3])
    assert [frame.camera.fx for frame in frames] == [50, 51, 52, 53]
    assert numbers(tmp_path / "b") == pytest.approx([0, 0.1, 0.2, 0.3])
    assert "times of recording are used" in caplog.text
    assert not scene.is_raw


def test_an_image_that_is_older_than_the_first_is_a_test_frame(tmp_path):
    messages = [an_image(stamp, at=at) for at, stamp in enumerate((10**9, 0, 2 * 10**9))]
    scene = open_scene(record(tmp_path / "b", an_info(), *messages))
    assert scene.count("test") == scene.count("all") == 3


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_images_are_read_in_any_order(tmp_path, storage):
    # two images have one recording time, and chunks of 1 MB hold several of these images
    times = [0, 5, 5, 9, *range(20, 400)]
    messages = [an_image(stamp, index=i, at=at) for i, (stamp, at) in enumerate(enumerate(times))]
    scene = BagScene(record(tmp_path / "b", an_info(), *messages, storage=storage))
    frames = list(scene.frames("all"))
    for index in (3, 2, 1, 0, 383, 100, 101, 105, 130, 2):
        np.testing.assert_array_equal(frames[index].image(), image(index))


def test_images_in_order_are_read_in_one_pass(tmp_path, monkeypatch):
    starts, start = [], MessageCursor._start
    monkeypatch.setattr(
        MessageCursor, "_start", lambda self, index: (starts.append(index), start(self, index))
    )
    frames = list(BagScene(three(tmp_path / "b")).frames("all"))
    for index in (0, 1, 2, 0, 2):  # the last skips one
        frames[index].image()
    assert starts == [0, 0]


def test_frames_keep_no_images(tmp_path):
    data = np.zeros(48 * 192, np.uint8)
    images = (an_image(n, data=data) for n in range(2000))
    bag = record(tmp_path / "b", an_info(), *images)  # 18 MB
    tracemalloc.start()
    frames = list(BagScene(bag).frames("all"))
    for frame in frames:
        frame.image()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(frames) == 2000
    assert peak < 6e6


def test_a_recording_that_changes_while_it_is_used_is_an_error(tmp_path):
    first, *_ = BagScene(three(tmp_path / "b")).frames("all")
    (tmp_path / "b/b.mcap").unlink()
    with pytest.raises(BagError, match="damaged"):
        first.image()


def test_the_table_of_a_recording_names_what_is_used(tmp_path):
    scene = BagScene(record(tmp_path / "b", an_info(), an_image(0), an_image(10**8), a_text()))
    assert scene.described() == {
        "recording": "rosbag2 recording (mcap), 0.1 s",
        "images": "/cam/image, 2, 10.0 Hz, 64x48 px",
        "intrinsics": "/cam/camera_info",
        "poses": "none",
        "depth": "none",
    }


def test_a_recording_that_a_node_cannot_use_is_written_anew(tmp_path):
    images = [a_compressed(stamp, stamp, "png") for stamp in (5, 9)]
    packed = BagScene(record(tmp_path / "b", an_info(), *images))
    made = _make_recording(packed, "all", 1, tmp_path)
    written = BagScene(made.bag)
    assert written.is_raw and not packed.is_raw
    assert [stamp_s for stamp_s, _ in made.frames] == [5e-9, 9e-9]
    repeated = _make_recording(packed, "all", 2, tmp_path / "again")
    assert repeated.frames[1][0] == pytest.approx(2 / 30)
    for (stamp_s, frame), other in zip(made.frames, written.frames("all"), strict=True):
        assert other.stamp_s == stamp_s
        np.testing.assert_array_equal(other.image(), frame.image())


def test_a_recording_that_a_node_can_use_is_played_as_it_is(tmp_path):
    bag = three(tmp_path / "b")
    made = _make_recording(BagScene(bag), "all", 1, tmp_path)
    assert (made.bag, made.image_topic, made.info_topic) == (bag, "/cam/image", "/cam/camera_info")


def test_a_recording_of_compressed_images_can_be_played(tmp_path):
    bag = record(tmp_path / "b", a_text(), a_compressed(0))
    assert [topic.name for topic in Replay(bag)._topics()] == ["/cam/image/compressed", "/chatter"]
    with pytest.raises(BagError, match="no images.*/chatter"):
        Replay(record(tmp_path / "text", a_text()))._topics()


@pytest.mark.parametrize("version", [8, 9])  # with profiles as a text, and as YAML
def test_profiles_of_qos_are_read(tmp_path, version):
    second = QosTime(1, 0)
    qos = Qos(
        QosHistory.KEEP_LAST, 1, QosReliability.RELIABLE, QosDurability.TRANSIENT_LOCAL,
        second, second, QosLiveliness.AUTOMATIC, second, False,
    )  # fmt: skip
    path = record(tmp_path / "b", an_info(), version=version, qos=[qos])
    with open_bag(path) as bag:
        assert [topic.latched for topic in bag.topics] == [True]
        (reader,) = bag._readers
        assert reader.connections[0].ext.offered_qos_profiles == [qos]


def test_values_of_metadata_are_those_of_yaml():
    text = "{a: null, b: ~, c: , d: 'null', e: True, f: false, g: 12, h: -1, i: 1.5x, j: '1'}"
    expected = {"a": None, "b": None, "c": None, "d": "null", "e": True, "f": False}
    assert _LimitedYaml().load(text) == expected | {"g": 12, "h": -1, "i": "1.5x", "j": "1"}
