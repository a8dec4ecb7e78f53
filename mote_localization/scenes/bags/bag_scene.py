"""A recording as a scene: images, calibrations, depths and poses of one camera."""

from __future__ import annotations

import logging
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mote_localization.camera import Camera
from mote_localization.camera_infos import camera_of_info
from mote_localization.errors import BagError, CameraError, ImageError
from mote_localization.progress import track_if_slow
from mote_localization.scenes.bags.bag_files import BagReader, MessageCursor, open_bag
from mote_localization.scenes.bags.bag_images import depth_of, image_of, kind_of
from mote_localization.scenes.bags.bag_messages import IMAGE, IMAGES, INFO, read_message, stamp_ns
from mote_localization.scenes.bags.bag_poses import ImageTimes, RecordedPoses
from mote_localization.scenes.bags.bag_topics import choose_topics, first_messages
from mote_localization.scenes.depth_images import scaled_depth
from mote_localization.scenes.recording_options import NO_TOPIC, RecordingOptions
from mote_localization.scenes.scene import Frame, Scene, Split
from mote_localization.stamps import nearest, stamp_seconds

_log = logging.getLogger(__name__)
_MAX_DEPTH_NS = 20_000_000  # between an image and its depth


@dataclass(frozen=True)
class BagFrame(Frame):
    """A frame whose image and depth are read from the recording when they are used."""

    name: str
    stamp_s: float
    camera: Camera | None
    T_map_cam: np.ndarray | None
    images: MessageCursor
    image_number: int  # among the images of the topic
    depths: MessageCursor | None
    depth_number: int  # among the depths of the topic; -1: no depth

    def image(self) -> np.ndarray:
        """Return image_hw3 RGB uint8; see `Frame.image`."""
        where = self._where(self.images, self.image_number)
        image_hw3 = _read(self.images, self.image_number, image_of, where)
        return self._with_size_of_camera(image_hw3, where, "its CameraInfo", BagError)

    def size(self) -> tuple[int, int]:
        """Return width and height in px, from the header if it states them; see `Frame.size`."""
        if self.camera is not None:
            return super().size()
        where = self._where(self.images, self.image_number)
        kind = _read(self.images, self.image_number, kind_of, where)
        return kind.size or super().size()

    def has_depth(self) -> bool:
        """Return whether a depth belongs to the image; see `Frame.has_depth`."""
        return self.depth_number >= 0

    def depth(self) -> np.ndarray | None:
        """Return depth_hw in metres, or None; see `Frame.depth`."""
        if self.depths is None or self.depth_number < 0:
            return None
        where = self._where(self.depths, self.depth_number)
        depth_hw = _read(self.depths, self.depth_number, depth_of, where)
        return scaled_depth(depth_hw, self.size(), where)

    def _where(self, cursor: MessageCursor, number: int) -> str:
        return f"{cursor.path}: {cursor.topic[:60]}, image {number:06d}"


def _read(
    cursor: MessageCursor, number: int, convert: Callable[[Any, str], Any], where: str
) -> Any:
    """Return a converted message; any fault becomes a `BagError` that begins with `where`."""
    msgtype, raw = cursor.read(number)
    try:
        return convert(read_message(raw, msgtype), msgtype)
    except ImageError as error:
        raise BagError(f"{where}: {error}") from error
    except Exception as error:  # of the deserialization: no common base
        raise BagError(f"{where}: the message is damaged ({str(error)[:120]})") from error


class BagScene(Scene):
    """A rosbag2 recording: the images of one of its cameras, in recorded order.

    Stamps, calibrations and poses are read once on opening. Images and depths stay in the
    recording.
    """

    def __init__(
        self,
        path: Path | str,
        options: RecordingOptions | None = None,
        camera: Camera | None = None,
    ) -> None:
        """Open a recording, choose its topics, and read what belongs to the images.

        Args:
            path: Folder of the recording, or one .mcap or .db3 file.
            options: Topics and frames to use; None: those that fit.
            camera: Calibration in place of those of the recording; None: its CameraInfo.

        Raises:
            BagError: The recording is missing or damaged, has no images, or several topics fit.
        """
        self.path = Path(path)
        self.name = self.path.stem if self.path.is_file() else self.path.resolve().name
        options = options or RecordingOptions()
        if camera is not None:
            options = replace(options, info_topic=NO_TOPIC)
        self._camera_given = camera
        with open_bag(self.path) as bag:
            first = first_messages(bag)
            self._topics = choose_topics(self.path, bag.topics, first, options)
            poses = RecordedPoses(self.path, bag.topics, options, self._topics.frame_id)
            self._about = f"rosbag2 recording ({bag.storage}), {bag.duration_s:.1f} s"
            images, depths, infos = self._scan(bag, poses)
        by_recording = len(images) > 1 and len(set(images.stamps)) == 1
        if by_recording:
            _log.warning(
                "%s: all images of %s have the stamp %.3f s; times of recording are used",
                self.path,
                self.image_topic[:60],
                stamp_seconds(images.stamps[0]),
            )
        self._times = ImageTimes(images.times(by_recording), by_recording)
        self._images = MessageCursor(self.path, self.image_topic, images.times(True))
        self._infos = sorted(
            [(times[int(by_recording)], camera) for times, camera in infos], key=lambda i: i[0]
        )
        self._poses = poses.of_images(self._times)
        self._depths: MessageCursor | None = None
        self._depth_n = np.full(len(images), -1)
        if self._topics.depth is not None:
            self._depths = MessageCursor(self.path, self._topics.depth, depths.times(True))
            self._depth_n = _depth_numbers(self._times.stamps_n, depths.times(by_recording))

    @property
    def image_topic(self) -> str:
        """The topic of the images."""
        return self._topics.image

    @property
    def info_topic(self) -> str | None:
        """The topic of the calibrations; None: intrinsics are not known."""
        return self._topics.info

    @property
    def is_raw(self) -> bool:
        """Whether a node can use the messages as recorded: raw, calibrated, with stamps."""
        usable = self._topics.image_type == IMAGE and bool(self._infos)
        return usable and not self._times.by_recording

    def frames(self, split: Split) -> Iterator[BagFrame]:
        """Yield the frames in recorded order; every split has all of them."""
        poses, stamps_n = self._poses, self._times.stamps_n.tolist()
        for number, stamp in enumerate(stamps_n):
            yield BagFrame(
                name=f"{number:06d}",
                stamp_s=stamp_seconds(stamp),
                camera=self._camera_at(stamp),
                T_map_cam=poses.T_map_cam_n44[number] if poses and poses.known_n[number] else None,
                images=self._images,
                image_number=number,
                depths=self._depths,
                depth_number=int(self._depth_n[number]),
            )

    def count(self, split: Split) -> int:
        """Return the number of frames; every split has all of them."""
        return len(self._times.stamps_n)

    def described(self) -> dict[str, str]:
        """Return what is used of the recording, as rows of a table."""
        stamps_n, count = self._times.stamps_n, self.count("all")
        span_s = 1e-9 * float(stamps_n.max() - stamps_n.min())
        rate = f", {(count - 1) / span_s:.1f} Hz" if span_s > 0 else ""
        width, height = next(self.frames("all")).size()
        poses, depths = "none", "none"
        if self._poses is not None:
            known = np.count_nonzero(self._poses.known_n)
            poses = f"{self._poses.source}, {known} of {count} images"
        if self._topics.depth is not None:
            paired = np.count_nonzero(self._depth_n >= 0)
            depths = f"{self._topics.depth}, {paired} of {count} images"
        return {
            "recording": self._about,
            "images": f"{self.image_topic}, {count}{rate}, {width}x{height} px",
            "intrinsics": self.info_topic or ("given" if self._camera_given else "unknown"),
            "poses": poses,
            "depth": depths,
        }

    def _scan(
        self, bag: BagReader, poses: RecordedPoses
    ) -> tuple[_Times, _Times, list[tuple[tuple[int, int], Camera]]]:
        """Read every message of the topics once.

        Returns:
            Times of the images, times of the depths, and each new calibration with its times.
        """
        topics = self._topics
        images, depths = _Times(), _Times()
        infos: list[tuple[tuple[int, int], Camera]] = []
        wanted = {topics.image, topics.info, topics.depth, *poses.topics} - {None}
        total = sum(topic.count for topic in bag.topics if topic.name in wanted)
        messages = bag.messages({name for name in wanted if name})
        description = f"reading {self.path.name}"
        for topic, msgtype, recorded_ns, raw in track_if_slow(messages, description, total):
            message = read_message(raw, msgtype)
            if topic in poses.topics:
                poses.add(topic, msgtype, recorded_ns, message)
            elif msgtype in IMAGES:
                (images if topic == topics.image else depths).add(stamp_ns(message), recorded_ns)
            elif msgtype == INFO:
                camera = self._camera(message)
                if not infos or camera != infos[-1][1]:
                    infos.append(((stamp_ns(message), recorded_ns), camera))
        return images, depths, infos

    def _camera(self, message: Any) -> Camera:
        try:
            return camera_of_info(message, self._topics.image_size)
        except CameraError as error:
            raise BagError(
                f"{self.path}: {str(self.info_topic)[:60]}: {error}; or estimate the intrinsics "
                "(--info-topic none)"
            ) from error

    def _camera_at(self, stamp: int) -> Camera | None:
        """Return the calibration of this stamp, the newest one before it, or the first."""
        if not self._infos:
            return self._camera_given
        after = bisect_right(self._infos, stamp, key=lambda info: info[0])
        return self._infos[max(0, after - 1)][1]


class _Times:
    """Stamps and recording times of the messages of a topic, ns, in recorded order."""

    def __init__(self) -> None:
        self.stamps, self._recorded = array("q"), array("q")

    def __len__(self) -> int:
        return len(self.stamps)

    def add(self, stamp: int, recorded_ns: int) -> None:
        self.stamps.append(stamp)
        self._recorded.append(recorded_ns)

    def times(self, by_recording: bool) -> np.ndarray:
        return np.array(self._recorded if by_recording else self.stamps, np.int64)


def _depth_numbers(stamps_n: np.ndarray, depth_stamps_m: np.ndarray) -> np.ndarray:
    """Return the number of each image's depth (n,); -1: none is near enough."""
    if not len(depth_stamps_m):
        return np.full(len(stamps_n), -1)
    nearest_n = nearest(stamps_n, depth_stamps_m)
    period_ns = np.median(np.abs(np.diff(stamps_n))) if len(stamps_n) > 1 else np.inf
    apart_n = np.abs(stamps_n - depth_stamps_m[nearest_n])
    return np.where(apart_n <= min(_MAX_DEPTH_NS, period_ns / 2), nearest_n, -1)
