"""Small files that state, or expand to, something large: refused before it is in memory."""

import os
import re
import resource
import shutil
import time
from collections import namedtuple
from io import BytesIO

import cv2
import numpy as np
import onnx
import pytest
from make_bag import an_image, an_info, record
from make_map import write_constant_map
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from rosbags.rosbag2 import storage_mcap
from test_colmap_model import write_model

from mote_localization import image_files
from mote_localization.errors import ImageError, MapFileError, MoteError
from mote_localization.image_files import decode_image, read_image
from mote_localization.map_file import read_map
from mote_localization.scenes import open_scene
from mote_localization.scenes.bags import bag_limits, open_bag
from mote_localization.scenes.datasets import colmap_model


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return write_constant_map(tmp_path_factory.mktemp("map") / "room.onnx")


@pytest.fixture(autouse=True)
def _small_and_quick():
    """Each file takes at most 5 s, and 300 MB beyond what the tests had before."""
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    yield
    assert time.monotonic() - started < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000


def refused(good, tmp_path, change, complaint):
    """Check that the good map is refused after `change` has modified its model."""
    model = onnx.load(good)
    change(model)
    path = tmp_path / "changed.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(MapFileError, match=complaint) as caught:
        read_map(path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


def described(**entries):
    """Return a change of the map's metadata."""

    def change(model):
        texts = {p.key: p.value for p in model.metadata_props}
        helper.set_model_props(model, texts | {f"mote.{k}": v for k, v in entries.items()})

    return change


def computing(*nodes, **constants):
    """Return a change that adds nodes in front of the graph's, and what they read."""

    def change(model):
        for name, value in constants.items():
            model.graph.initializer.append(numpy_helper.from_array(np.array(value), name))
        before = list(model.graph.node)
        del model.graph.node[:]
        model.graph.node.extend([*nodes, *before])

    return change


CAMERA = (
    '{"width": %d, "height": %d, "fx": 260.0, "fy": 260.0, "cx": 159.5, "cy": 119.5, '
    '"distortion_model": "plumb_bob", "distortion": []}'
)


@pytest.mark.parametrize(
    ("entries", "complaint"),
    [
        ({"camera": CAMERA % (16384, 16384)}, "16384x16384 px and 4194304 cells, expected at most"),
        ({"camera": CAMERA % (2048, 1024), "stride": "1"}, "2097152 cells, expected at most"),
        ({"stride": "16"}, "found inputs and outputs .*expected"),
        ({"camera": CAMERA % (240, 320)}, "found inputs and outputs .*expected"),
        ({"keyframes": "[" + ",".join(['{"image":""}'] * 2_000_000) + "]"}, "found over 512 obj"),
        ({"keyframes": '[{"T_map_cam":[[' + "1.5," * 8_000_000}, "array` of length 4"),
    ],
)
def test_description_of_something_large_is_refused(good, tmp_path, entries, complaint):
    refused(good, tmp_path, described(**entries), complaint)


def field(number, content):
    """Return a field of protobuf."""
    size, length = len(content), b""
    while size > 127:
        size, length = size >> 7, length + bytes([size & 127 | 128])
    return bytes([number << 3 | 2]) + length + bytes([size]) + content


MANY = 3 << 19
PARTS = {
    "nodes": field(7, b"\x0a\x00" * (MANY // 2)),
    "dimensions": field(7, field(5, field(1, b"\x01" * MANY))),
    "values": field(7, field(5, field(4, b"\x01" * MANY))),
    "entries": b"\x72\x00" * (MANY // 2),
}


@pytest.mark.parametrize("kind", PARTS)
def test_graph_of_many_small_parts_is_refused_before_it_is_parsed(good, tmp_path, kind):
    path = tmp_path / "parts.onnx"
    path.write_bytes(good.read_bytes() + PARTS[kind])
    with pytest.raises(MapFileError, match="has over 1 MiB beside the values of its weights"):
        read_map(path)


def test_group_of_protobuf_which_could_hide_many_parts_is_refused(good, tmp_path):
    path = tmp_path / "group.onnx"
    path.write_bytes(good.read_bytes() + b"\x1b\x1c")
    onnx.load(path)
    with pytest.raises(MapFileError, match="is no ONNX file"):
        read_map(path)


def node(kind, *inputs, output="vast", **attributes):
    return helper.make_node(kind, inputs, [output], **attributes)


SHAPE = [1, 30_000, 30_000]
VAST = {
    "Expand": computing(node("Expand", "dark", "shape"), shape=SHAPE),
    "ConstantOfShape": computing(node("ConstantOfShape", "shape"), shape=SHAPE),
    "Tile": computing(node("Tile", "sigma_clear", "times"), times=[1, 1000, 1000]),
    "Pad": computing(node("Pad", "sigma_clear", "pads"), pads=[0, 0, 0, 0, 30_000, 30_000]),
    "Resize": computing(
        node("Resize", "sigma_clear", "", "", "shape"), shape=[1, 30_000, 30_000]
    ),
    "several": computing(
        *(node("Expand", "dark", "shape", output=f"a{i}") for i in range(5)),
        node("Sum", *(f"a{i}" for i in range(5))),
        shape=[4000, 4000],
    ),
    "MatMul": computing(
        node("Expand", "dark", "shape", output="a"), node("MatMul", "a", "a"), shape=[5000, 5000]
    ),
    "MaxPool": computing(
        node("Expand", "dark", "shape", output="a"),
        node("MaxPool", "a", kernel_shape=[999, 999]),
        shape=[1, 1, 2000, 2000],
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", VAST)
def test_graph_that_takes_much_memory_or_time_is_refused(good, tmp_path, kind):
    refused(good, tmp_path, VAST[kind], "its graph takes .* expected at most")


UNKNOWN = {
    "NonZero": computing(node("NonZero", "image")),
    "Range": computing(
        node("Cast", "image", to=TensorProto.INT64, output="a"),
        node("ReduceMax", "a", keepdims=0, output="limit"),
        node("Range", "zero", "limit", "one"),
        zero=0, one=1,
    ),
    "a growing shape": computing(
        node("Slice", "shape", "from", "to", output="a0"),
        *(node("Concat", f"a{i}", f"a{i}", output=f"a{i + 1}", axis=0) for i in range(40)),
        node("Shape", "image", output="from"), node("Shape", "image", output="to"),
        shape=[1, 2],
    ),
    "no type": computing(node("Cast", "sigma_clear", to=0)),
    "a text": computing(node("Expand", "word", "shape"), word=np.array(["a" * 999], object),
                        shape=[1000]),
}  # fmt: skip


@pytest.mark.parametrize("kind", UNKNOWN)
def test_graph_whose_sizes_are_not_fixed_is_refused(good, tmp_path, kind):
    refused(good, tmp_path, UNKNOWN[kind], "without a fixed size|its graph is damaged")


def test_graph_that_returns_another_shape_than_it_declares_is_refused(good, tmp_path):
    def change(model):
        for one in model.graph.node:
            one.output[:] = ["half" if name == "points" else name for name in one.output]
        model.graph.node.append(node("Concat", "half", "half", output="points", axis=1))

    refused(good, tmp_path, change, "its graph is damaged|found inputs and outputs .*60, 40")


@pytest.mark.parametrize("dims", [[1, 30, 40, 30_000], [-1], [1, 30, -1, 3], [2**40, 2**40]])
def test_weights_whose_shape_does_not_fit_their_data_are_refused(good, tmp_path, dims):
    def change(model):
        (room,) = (tensor for tensor in model.graph.initializer if tensor.name == "room")
        room.dims[:] = dims

    refused(good, tmp_path, change, "found the weight room with data that do not fit its shape")


def test_progressive_jpeg_with_many_scans_is_refused():
    file = BytesIO()
    Image.new("RGB", (4000, 3000), (90, 80, 70)).save(file, "JPEG", progressive=True)
    content = file.getvalue()
    assert decode_image(content, cv2.IMREAD_COLOR).shape == (3000, 4000, 3)
    last = content.rindex(b"\xff\xda")
    many = content[:last] + content[last:-2] * 1000 + content[-2:]
    with pytest.raises(ImageError, match="progressive JPEG of 4000x3000 px with 1009 scans"):
        decode_image(many, cv2.IMREAD_COLOR)


def test_what_follows_a_jpeg_in_its_file_counts_no_scans():
    """Phones append videos and further images."""
    file = BytesIO()
    Image.new("RGB", (4000, 3000), (90, 80, 70)).save(file, "JPEG")
    appended = file.getvalue() + b"\xff\xda" * 1000
    assert decode_image(appended, cv2.IMREAD_COLOR).shape == (3000, 4000, 3)


def tiff(height, width, rows_per_strip):
    """Return an uncompressed TIFF of 16 bits."""
    options = cv2.IMWRITE_TIFF_COMPRESSION, 1, cv2.IMWRITE_TIFF_ROWSPERSTRIP, rows_per_strip
    return cv2.imencode(".tiff", np.zeros((height, width), np.uint16), options)[1].tobytes()


def test_tiff_of_a_large_camera_is_read(tmp_path):
    path = tmp_path / "large.tiff"
    path.write_bytes(tiff(5700, 6000, 16))
    assert path.stat().st_size > 64 << 20
    assert read_image(path).shape == (5700, 6000, 3)


def test_tiff_whose_strips_take_much_memory_is_refused(monkeypatch):
    in_one, in_many = tiff(600, 600, 600), tiff(600, 600, 16)
    monkeypatch.setattr(image_files, "_MAX_DECODING_BYTES", 4 * 600 * 600)
    assert decode_image(in_many, cv2.IMREAD_COLOR, ["TIFF"]).shape == (600, 600, 3)
    with pytest.raises(ImageError, match="600x600 px in strips of 0 MiB, .*smaller strips"):
        decode_image(in_one, cv2.IMREAD_COLOR, ["TIFF"])


def of_zeros(megabytes, **fields):
    data = np.zeros(megabytes << 20, np.uint8)
    return an_image(height=1, width=1, step=3, data=data, **fields)


@pytest.mark.parametrize(
    ("storage", "compression", "complaint"),
    [
        ("sqlite3", "FILE", "b.db3.zstd: is too large when decompressed"),
        ("sqlite3", "MESSAGE", "b: damaged .*a message or chunk has over 1 MiB"),
        ("sqlite3", "NONE", "b: damaged .*too big"),
        ("mcap", "STORAGE", "b.mcap: found chunks of 5 MiB"),
    ],
)
def test_recording_that_expands_is_refused(tmp_path, monkeypatch, storage, compression, complaint):
    path = record(tmp_path / "b", an_info(), of_zeros(5), storage=storage, compression=compression)
    monkeypatch.setattr(bag_limits, "_MAX_BYTES", 1 << 20)
    with pytest.raises(MoteError, match=complaint), open_bag(path) as bag:
        for _ in bag.messages(["/cam/image"]):
            pass


@pytest.mark.parametrize("compression", ["zstd", "lz4"])
def test_chunk_that_expands_beyond_its_stated_size_is_refused(monkeypatch, compression):
    content = bytes(5 << 20)
    library = bag_limits._lz4 if compression == "lz4" else bag_limits._zstd
    packed = library.compress(content)
    assert storage_mcap.decompress(packed, compression, len(content), 0) == content
    monkeypatch.setattr(bag_limits, "_MAX_BYTES", 1 << 20)
    with pytest.raises(ValueError, match="over 1 MiB"):
        storage_mcap.decompress(packed, compression, 100, 0)


def test_chunks_of_the_same_time_are_bounded_together(tmp_path, monkeypatch):
    images = [of_zeros(5, at=10**9) for _ in range(4)]
    path = record(tmp_path / "b", *images, compression="STORAGE")
    with open_bag(path) as bag:
        assert len(list(bag.messages(["/cam/image"]))) == 4
    monkeypatch.setattr(bag_limits, "_MAX_OVERLAPPING_BYTES", 12 << 20)
    with pytest.raises(MoteError, match="found chunks of 1. MiB for the same time"), open_bag(path):
        pass


def test_recording_that_would_fill_the_disk_is_refused(tmp_path, monkeypatch):
    path = record(tmp_path / "b", an_info(), an_image(), storage="sqlite3", compression="FILE")
    usage = namedtuple("usage", "total used free")(1 << 40, 1 << 40, 1 << 30)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(MoteError, match="is too large when decompressed"), open_bag(path):
        pass


FILE = """
    - path: drive_{0}.mcap
      starting_time: {{nanoseconds_since_epoch: {1}}}
      duration: {{nanoseconds: 9999999999}}
      message_count: 300"""


def test_metadata_of_thousands_of_files_is_read(tmp_path):
    path = record(tmp_path / "b", an_info(), an_image(), storage="sqlite3")
    files = "".join(FILE.format(i, 1_690_000_000_000_000_000 + i) for i in range(4000))
    metadata = path / "metadata.yaml"
    text, count = re.subn(
        r"(?m)^  files:\n(    .*\n|  - .*\n)*", f"  files:{files}\n", metadata.read_text()
    )
    assert count == 1 and len(text) > 512 << 10
    metadata.write_text(text)
    with open_bag(path) as bag:
        assert bag.message_count == 2
    metadata.write_text(text * 6)
    with pytest.raises(MoteError, match="larger than 3 MiB.*; move .* `ros2 bag reindex`"):
        open_bag(path).__enter__()


def test_more_storage_files_than_may_be_open_are_one_error(tmp_path):
    path = record(tmp_path / "b", an_info(), an_image())
    (path / "metadata.yaml").unlink()
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = max(map(int, os.listdir("/proc/self/fd"))) + 10
    for i in range(most):
        (path / f"b_{i}.mcap").symlink_to("b.mcap")
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, limits[1]))
    try:
        with pytest.raises(MoteError, match="more storage files than may be open; .*ulimit -n"):
            open_bag(path).__enter__()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_another_version_of_rosbags_is_an_error_where_a_limited_name_is_missing():
    with pytest.raises(ImportError, match="storage_mcap .* has no other, which .*'rosbags>="):
        bag_limits._replace("other", None, storage_mcap)
    assert not hasattr(storage_mcap, "other")


def test_texts_of_errors_are_short():
    text = str(MoteError("a" * 30_000_000 + "\x1b" * 1000 + "; make it again"))
    assert len(text) <= 1000 and re.fullmatch(r"a+ \.\.\. .*; make it again", text)


@pytest.mark.parametrize("suffix", [".bin", ".txt"])
def test_model_of_too_many_images_is_refused(tmp_path, monkeypatch, suffix):
    write_model(tmp_path / "den", suffix)
    monkeypatch.setattr(colmap_model, "_MAX_IMAGES", 1)
    with pytest.raises(MoteError, match="holds more than 1 images or cameras"):
        open_scene(tmp_path / "den")
