"""Videos: their frames, the choice of training frames, test frames by time, damaged files."""

import logging
import struct

import cv2
import numpy as np
import pytest

from mote_localization.errors import SceneError
from mote_localization.scenes import Frame, RecordingOptions, open_scene
from mote_localization.scenes.frame_choice import (
    FrameStatistics,
    choose_frames,
    frame_statistics,
    sharpness,
)

SIZE = (160, 120)
RATE_HZ = 10
STEP_PX = 4  # the texture moves this far from frame to frame
TEXTURE = cv2.GaussianBlur(
    np.random.default_rng(0).integers(0, 256, (120, 1200, 3), np.uint8), (0, 0), 1.0
)
TEXTURE = cv2.normalize(TEXTURE, None, 0, 255, cv2.NORM_MINMAX)


def moving(number):
    return TEXTURE[:, STEP_PX * number : STEP_PX * number + SIZE[0]]


def write_video(path, images, rate_hz=RATE_HZ):
    images = list(images)
    size = images[0].shape[1::-1]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), rate_hz, size)
    for image_hw3 in images:
        writer.write(np.ascontiguousarray(image_hw3[..., ::-1]))
    writer.release()
    return path


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """A video of 60 frames, 6 s, of a camera that moves sideways."""
    return write_video(tmp_path_factory.mktemp("video") / "walk.mp4", map(moving, range(60)))


def names(scene, split):
    return [int(frame.name) for frame in scene.frames(split)]


def test_frames_have_images_names_and_times_in_order(video):
    scene = open_scene(video)
    frames = list(scene.frames("all"))
    assert scene.name == "walk" and scene.count("all") == len(frames) == 60
    assert np.allclose([frame.stamp_s for frame in frames], np.arange(60) / RATE_HZ)
    for number in (0, 7, 59, 30):  # also backwards
        difference = np.abs(frames[number].image().astype(int) - moving(number))
        assert frames[number].size() == SIZE and difference.mean() < 12
        assert np.abs(frames[number].image().astype(int) - moving(number + 2)).mean() > 20


def test_what_a_video_holds_is_described(video):
    rows = open_scene(video).described()
    assert rows["recording"] == "video, 5.9 s" and rows["images"] == "60 at 10.0 Hz, 160x120 px"
    assert rows["intrinsics"] == "unknown"


def test_a_rotation_in_the_metadata_is_applied(video, tmp_path):
    content = bytearray(video.read_bytes())
    # The track header's matrix: 3 x 3, fixed point, 40 bytes after the version.
    start = content.index(b"tkhd") + 4 + 40
    one, w = 1 << 16, 1 << 30
    struct.pack_into(">9i", content, start, 0, one, 0, -one, 0, 0, SIZE[1] * one, 0, w)
    (tmp_path / "portrait.mp4").write_bytes(content)
    frame = next(open_scene(tmp_path / "portrait.mp4").frames("all"))
    assert frame.size() == SIZE[::-1]
    upright = cv2.rotate(moving(0), cv2.ROTATE_90_CLOCKWISE)
    assert np.abs(frame.image().astype(int) - upright).mean() < 12


def test_a_calibration_gives_the_camera_if_it_has_the_size(video, tmp_path):
    path = tmp_path / "camera.yaml"
    path.write_text(
        "image_width: 160\nimage_height: 120\ndistortion_model: plumb_bob\n"
        "camera_matrix: {data: [100, 0, 80, 0, 100, 60, 0, 0, 1]}\n"
    )
    frame = next(open_scene(video, RecordingOptions(camera=path)).frames("test"))
    assert frame.known_camera().fx == 100
    path.write_text(path.read_text().replace("160", "320"))
    with pytest.raises(SceneError, match="160x120 px, expected 320x120 px as in its calibration"):
        open_scene(video, RecordingOptions(camera=path))


def test_training_frames_are_sharp_ones(tmp_path):
    images = [cv2.GaussianBlur(moving(k), (0, 0), 3) if k % 3 else moving(k) for k in range(30)]
    scene = open_scene(write_video(tmp_path / "v.mp4", images), RecordingOptions(max_frames=10))
    chosen = names(scene, "train")
    assert 8 <= len(chosen) <= 10 and sum(k % 3 == 0 for k in chosen) >= len(chosen) - 1


def test_training_frames_are_spread_over_the_motion(tmp_path):
    stops = [0] * 20 + list(range(20)) + [19] * 20  # stands still, moves, stands still
    scene = open_scene(write_video(tmp_path / "v.mp4", map(moving, stops)))
    chosen = names(scene, "train")
    assert (
        len(chosen) >= 15 and sum(k < 19 for k in chosen) <= 2 and sum(k > 41 for k in chosen) <= 2
    )


def test_choice_by_motion_and_sharpness():
    statistics = [
        FrameStatistics(s, m) for s, m in [(1, 0), (3, 0.4), (2, 0.5), (1, 0.5), (4, 0.6)]
    ]
    assert choose_frames(statistics, most=2, spacing=0.1) == [1, 4]
    assert choose_frames(statistics, most=9, spacing=0.5) == [1, 2, 3, 4]
    assert choose_frames([FrameStatistics(1, 0)] * 5, most=3, spacing=0.1) == [0]
    assert choose_frames([], most=3, spacing=0.1) == []


def test_sharpness_falls_with_blur():
    grey_hw = cv2.cvtColor(moving(0), cv2.COLOR_RGB2GRAY)
    values = [sharpness(cv2.GaussianBlur(grey_hw, (0, 0), sigma)) for sigma in (0.1, 1, 2, 4)]
    assert values == sorted(values, reverse=True) and values[0] > 2 * values[-1]
    assert sharpness(np.zeros((20, 20), np.uint8)) == 0


def test_a_blurred_video_is_named(tmp_path, caplog):
    large = (cv2.resize(moving(k), (640, 480)) for k in range(10))
    blurred = (cv2.GaussianBlur(image_hw3, (0, 0), 14) for image_hw3 in large)
    images = [cv2.normalize(image_hw3, None, 0, 255, cv2.NORM_MINMAX) for image_hw3 in blurred]
    scene = open_scene(write_video(tmp_path / "v.mp4", images))
    with caplog.at_level(logging.WARNING):
        scene.count("train")
    assert "chosen frames are blurred: move more slowly" in caplog.text


def test_without_options_all_frames_are_test_frames(video):
    assert names(open_scene(video), "test") == list(range(60))


def test_test_frames_by_time_are_not_for_training(video):
    scene = open_scene(video, RecordingOptions(test_from="2s", test_to="3.5"))
    assert names(scene, "test") == list(range(20, 35))
    assert not set(names(scene, "train")) & set(range(20, 35))
    assert scene.count("test") == 15


def test_every_nth_block_is_for_tests(tmp_path):
    path = write_video(tmp_path / "v.mp4", (moving(k % 60) for k in range(60)), rate_hz=1)
    scene = open_scene(path, RecordingOptions(test_every=3))
    assert names(scene, "test") == [*range(20, 30), *range(50, 60)]
    assert not set(names(scene, "train")) & {*range(20, 30), *range(50, 60)}


@pytest.mark.parametrize(("start", "which"), [("60s", "no"), ("0s", "all")])
def test_a_division_without_training_or_test_frames_is_refused(video, start, which):
    with pytest.raises(SceneError, match=f"{which} frames are test frames.*60 frames in 5.9 s"):
        open_scene(video, RecordingOptions(test_from=start))


def test_damaged_videos_are_one_error(video, tmp_path):
    for name, content in (("cut.mp4", video.read_bytes()[:3000]), ("text.mov", b"no video")):
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(
            SceneError, match=f"{name}: cannot be decoded, expected a complete video"
        ):
            open_scene(path)


def test_topics_are_not_an_option_of_videos(video):
    with pytest.raises(SceneError, match="--pose-topic with a video.*--camera, --max-frames"):
        open_scene(video, RecordingOptions(pose_topic="/pose"))


class Damaged(Frame):
    """A frame whose image cannot be read."""

    name, stamp_s, camera, T_map_cam = "broken", 0.0, None, None

    def image(self):
        raise SceneError("broken.jpg: is damaged")


def test_images_that_cannot_be_read_are_not_chosen(video, caplog):
    first, second = list(open_scene(video).frames("all"))[::59]
    statistics = list(frame_statistics([first, Damaged(), second]))
    assert choose_frames(statistics, most=3, spacing=0.001) == [0, 2]
    assert "frame broken is left out: broken.jpg: is damaged" in caplog.text
