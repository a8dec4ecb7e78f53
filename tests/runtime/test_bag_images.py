"""Images and depths of recordings: raw and compressed, and which depth belongs to an image."""

import struct

import cv2
import numpy as np
import pytest
from make_bag import (
    a_compressed,
    a_compressed_depth,
    a_depth,
    a_packed,
    an_image,
    an_info,
    depth,
    image,
    record,
)

from mote_localization.errors import BagError, SceneError
from mote_localization.scenes import RecordingOptions
from mote_localization.scenes.bags import BagScene

MS = 1_000_000


def frames(path, *messages, **options):
    scene = BagScene(record(path / "b", *messages), RecordingOptions(**options))
    return list(scene.frames("all"))


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
@pytest.mark.parametrize("form", ["png", "rgb8; png compressed bgr8"])
def test_png_images_are_read_exactly(tmp_path, storage, form):
    images = [a_compressed(n, n, form) for n in range(3)]
    scene = BagScene(record(tmp_path / "b", an_info(), *images, storage=storage))
    for index, frame in enumerate(scene.frames("all")):
        assert frame.size() == (64, 48)
        np.testing.assert_array_equal(frame.image(), image(index))
    assert index == 2


@pytest.mark.parametrize("form", ["jpeg", "rgb8; jpeg compressed bgr8", ""])
def test_jpeg_images_are_read_whatever_their_format_states(tmp_path, form):
    jpeg = cv2.imencode(".jpg", np.full((48, 64, 3), (30, 90, 200), np.uint8))[1].tobytes()
    (frame,) = frames(tmp_path, an_info(), a_packed(0, "/cam/image", form, jpeg))
    assert np.abs(frame.image() - np.array([200.0, 90, 30])).max() < 4  # OpenCV's order is BGR


def test_without_a_calibration_the_size_is_that_of_the_image(tmp_path):
    compressed, raw = a_compressed(0, 0, "png"), an_image(0)
    for name, message in (("packed", compressed), ("raw", raw)):
        (frame,) = frames(tmp_path / name, message)
        assert frame.camera is None
        assert frame.size() == (64, 48)


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (an_image(encoding="jpeg"), "'jpeg' is not supported"),
        (an_image(step=10), "step is 10 bytes"),
        (an_image(height=24), "64x24 px, expected 64x48 px as in its CameraInfo"),
        (a_packed(0, "/cam/image", "jpeg", b"no image"), "damaged or no image"),
        (a_packed(0, "/cam/image", "h264", b"video"), "the format 'h264', expected jpeg or png"),
    ],
)
def test_unusable_images_raise_an_error_that_names_the_image(tmp_path, message, words):
    (frame,) = frames(tmp_path, an_info(), message)
    with pytest.raises(BagError, match=f"/cam/image, image 000000: .*{words}"):
        frame.image()


@pytest.mark.parametrize("make", [a_depth, a_compressed_depth])
@pytest.mark.parametrize(("encoding", "tolerance"), [("16UC1", 1e-6), ("32FC1", 4e-3)])
def test_depth_is_in_metres(tmp_path, make, encoding, tolerance):
    (frame,) = frames(tmp_path, an_info(), an_image(0), make(0, depth(1), encoding))
    found_hw = frame.depth()
    assert found_hw.dtype == np.float32
    if make is a_depth:
        tolerance = 1e-6
    np.testing.assert_allclose(found_hw, depth(1), rtol=tolerance)
    assert (found_hw[0] == 0).all() and (found_hw[1:] > 0).all()


def test_depths_that_are_not_finite_are_none(tmp_path):
    depth_hw = np.full((48, 64), 2, np.float32)
    depth_hw[0, :4] = np.nan, np.inf, -np.inf, -1
    (frame,) = frames(tmp_path, an_info(), an_image(0), a_depth(0, depth_hw, "32FC1"))
    np.testing.assert_array_equal(frame.depth()[0, :5], [0, 0, 0, 0, 2])


def test_smaller_depth_is_scaled_to_the_image(tmp_path):
    small_hw = depth(0)[::2, ::2]
    (frame,) = frames(tmp_path, an_info(), an_image(0), a_depth(0, small_hw))
    np.testing.assert_allclose(frame.depth(), np.kron(small_hw, np.ones((2, 2))), rtol=1e-6)


def test_depth_of_another_shape_is_an_error(tmp_path):
    (frame,) = frames(tmp_path, an_info(), an_image(0), a_depth(0, depth(0)[:24]))
    with pytest.raises(SceneError, match="64x24 px beside an image of 64x48"):
        frame.depth()


@pytest.mark.parametrize(
    ("form", "content", "words"),
    [
        ("16UC1; compressedDepth rvl", b"0" * 50, "RVL, expected PNG"),
        ("16UC1; compressedDepth png", b"short", "5 bytes"),
        ("32FC1; compressedDepth png", struct.pack("<iff", 0, 1, 1) + b"x", "damaged or no image"),
    ],
)
def test_damaged_compressed_depth_is_an_error(tmp_path, form, content, words):
    packed = a_packed(0, "/cam/depth/compressedDepth", form, content)
    (frame,) = frames(tmp_path, an_info(), an_image(0), packed)
    with pytest.raises(BagError, match=f"/cam/depth.*{words}"):
        frame.depth()


def test_compressed_depth_of_8_bits_is_an_error(tmp_path):
    grey = a_compressed(0, 0, "png")[3].data.tobytes()
    packed = a_packed(0, "/cam/depth", "16UC1; compressedDepth png", bytes(12) + grey)
    (frame,) = frames(tmp_path, an_info(), an_image(0), packed)
    with pytest.raises(BagError, match="uint8.*16-bit"):
        frame.depth()


def test_an_image_has_the_depth_of_the_nearest_stamp_within_half_of_a_period(tmp_path):
    stamps = [-2, 31, 36, 49, 66 + 16, 99 + 17]  # ms; of 3 there is none, 17 is too far
    depths = [a_depth((200 + s) * MS, np.full((48, 64), 1 + k)) for k, s in enumerate(stamps)]
    images = [an_image((200 + 33 * n) * MS, index=n) for n in range(4)]
    found = frames(tmp_path, an_info(), *sorted([*images, *depths], key=lambda m: m[2]))
    values = [None if f.depth() is None else round(float(f.depth()[0, 0])) for f in found]
    assert values == [1, 2, 5, None]


def test_at_a_low_rate_depth_is_at_most_20_ms_from_its_image(tmp_path):
    depths = [a_depth(19 * MS, depth(0)), a_depth(1021 * MS, depth(0))]
    near, far = frames(tmp_path, an_info(), an_image(0), an_image(1000 * MS), *depths)
    assert near.depth() is not None
    assert far.depth() is None


def test_depth_of_another_camera_is_not_used(tmp_path, caplog):
    other = a_depth(0, depth(0), topic="/depth/image", frame_id="depth_camera")
    (frame,) = frames(tmp_path, an_info(), an_image(0), other)
    assert frame.depth() is None
    assert "depth is not used: /depth/image is of frame 'depth_camera'" in caplog.text


@pytest.mark.parametrize(("fx", "used"), [(30.0, True), (40.0, False)])
def test_depth_with_the_same_calibration_is_used(tmp_path, fx, used):
    half_k = np.array([fx, 0, 15.5, 0, 30, 11.5, 0, 0, 1.0])
    half_k[[2, 5]] = (31.5 + 0.5) / 2 - 0.5, (23.5 + 0.5) / 2 - 0.5
    other = a_depth(0, depth(0)[::2, ::2], topic="/depth/image", frame_id="other")
    info = an_info(0, "/depth/camera_info", width=32, height=24, k=half_k)
    (frame,) = frames(tmp_path, an_info(), info, an_image(0), other)
    assert (frame.depth() is not None) == used


def test_depth_can_be_left_out(tmp_path):
    (frame,) = frames(tmp_path, an_info(), an_image(), a_depth(0, depth(0)), depth_topic="none")
    assert frame.depth() is None
