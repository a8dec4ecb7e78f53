"""The pose of each image of a recording: from topics of poses, or from /tf."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mote_localization.errors import BagError
from mote_localization.scenes.bags.bag_files import BagTopic, join_names
from mote_localization.scenes.bags.bag_messages import (
    MAP_FRAME,
    ODOMETRY,
    POSE,
    POSE_TOPIC,
    POSES,
    TRANSFORMS,
    stamp_ns,
)
from mote_localization.scenes.bags.bag_topics import only_one, requested
from mote_localization.scenes.bags.bag_transforms import PoseSamples, TransformTree
from mote_localization.scenes.recording_options import NO_TOPIC, RecordingOptions
from mote_localization.transform_messages import frame_name

_log = logging.getLogger(__name__)
_TF, _TF_STATIC = "/tf", "/tf_static"
_FIXED_FRAMES = (MAP_FRAME, "odom")  # that are chosen by themselves, in this order
_FEWEST = 0.05  # messages per image of a topic that is chosen by itself
_REACH_NS = 200_000_000  # from an image to the poses before and after it


@dataclass(frozen=True)
class ImageTimes:
    """When the images of a recording were taken, and which clock is used."""

    stamps_n: np.ndarray  # ns, in recorded order
    by_recording: bool  # recording times are used: the stamps of the headers are all equal


@dataclass(frozen=True)
class ImagePoses:
    """The poses of the images."""

    source: str  # for tables, as "/tf map -> camera"
    T_map_cam_n44: np.ndarray
    known_n: np.ndarray


class RecordedPoses:
    """Collects the poses and transforms of a recording, then gives each image its pose."""

    def __init__(
        self, path: Path, topics: list[BagTopic], options: RecordingOptions, image_frame: str
    ) -> None:
        """Decide what to read.

        Args:
            path: The recording, for messages.
            topics: All its topics.
            options: Topic and frames that are given.
            image_frame: Frame of the images.

        Raises:
            BagError: The given topic does not exist, or options exclude each other.
        """
        self._path, self._options = path, options
        self._camera_frame = frame_name(options.camera_frame or image_frame)
        self._tree = TransformTree()
        self._samples: dict[str, PoseSamples] = {}
        self._types: dict[str, str] = {}
        self._child_frames: dict[str, str] = {}  # of topics of odometry
        tf = [t.name for t in topics if t.msgtype == TRANSFORMS and t.count]
        if _TF in tf:  # others are those of other robots
            tf = [name for name in tf if name in (_TF, _TF_STATIC)]
        poses = [t.name for t in topics if t.msgtype in POSES and t.count]
        self._static = {name for name in tf if name.endswith(_TF_STATIC)}
        name = options.pose_topic
        if name == NO_TOPIC:
            tf = poses = []
        elif name is not None and options.fixed_frame and name != _TF:
            raise BagError(
                f"{path}: found --fixed-frame with --pose-topic {name[:60]}, expected one"
            )
        elif name is not None:
            chosen = requested(path, name, [*poses, *([_TF] if tf else [])], "pose-topic")
            poses = [chosen] if chosen in poses else []
        self.topics = {*tf, *poses}  # to be read

    def add(self, topic: str, msgtype: str, recorded_ns: int, message: Any) -> None:
        """Add a message of one of the topics."""
        if msgtype == TRANSFORMS:
            self._tree.add(message, recorded_ns, topic in self._static)
            return
        samples = self._samples.setdefault(topic, PoseSamples())
        self._types[topic] = msgtype
        if msgtype == ODOMETRY:
            self._child_frames[topic] = frame_name(message.child_frame_id)
        pose = message.pose if msgtype == POSE else message.pose.pose
        samples.add(stamp_ns(message), recorded_ns, pose.position, pose.orientation)

    def of_images(self, times: ImageTimes) -> ImagePoses | None:
        """Return the poses of the images; None: the recording has no poses.

        Raises:
            BagError: Several sources fit, a frame does not exist, or no image has a pose.
        """
        topic, fixed = self._source(len(times.stamps_n))
        if topic is None:
            fixed = next((frame for frame in _FIXED_FRAMES if frame in self._tree.frames()), "")
            if fixed and self._options.pose_topic != NO_TOPIC:
                _log.warning("%s; images have no pose", self._no_chain(fixed))
            return None
        if topic == _TF:
            found = self._by_transforms(fixed, times)
            rejected = self._tree.rejected
        else:
            found = self._by_topic(topic, times)
            rejected = self._samples[topic].rejected
        if rejected:
            _log.warning(
                "%s: %d messages of %s hold no pose (a quaternion without unit length, or NaN); "
                "they are left out",
                self._path,
                rejected,
                topic[:60],
            )
        missing = int(np.count_nonzero(~found.known_n))
        if 0 < missing < len(found.known_n):
            _log.warning(
                "%s: %d of %d images have no pose in %s",
                self._path,
                missing,
                len(found.known_n),
                found.source[:120],
            )
        return found

    def _source(self, images: int) -> tuple[str | None, str]:
        """Return the topic of the poses, and the fixed frame of /tf; None: no poses.

        Topics with few messages, as goals and initial poses of a navigation, are only used by name.
        """
        options, tree, camera = self._options, self._tree, self._camera_frame
        above = tree.ancestors(camera)[1:]
        if options.camera_frame and len(tree) and camera not in tree.frames():
            raise self._no_chain(options.fixed_frame or MAP_FRAME)
        if options.fixed_frame or options.pose_topic == _TF:
            default = self._default_frame(above) or MAP_FRAME
            fixed = frame_name(options.fixed_frame or default)
            known = {fixed, camera} <= tree.frames()
            if not known or not tree.is_connected(fixed, camera):
                raise self._no_chain(fixed)
            return _TF, fixed
        named = options.pose_topic or POSE_TOPIC
        if named in self._samples:
            return named, ""
        fixed = self._default_frame(above)
        # Below another root, a chain may place the camera on the robot and no more.
        by_tf = fixed in _FIXED_FRAMES or bool(fixed) and tree.moves(fixed, camera)
        if by_tf and fixed == MAP_FRAME:
            return _TF, fixed
        dense = [
            name
            for name, samples in self._samples.items()
            if len(samples) + samples.rejected >= _FEWEST * images
        ]
        topic = only_one(self._path, dense, "poses", "pose-topic")
        if topic is None and by_tf:
            return _TF, fixed
        if topic is not None and self._types[topic] != ODOMETRY and above:
            _log.warning(
                "%s: poses of %s are taken as those of the camera; if they are those of the robot, "
                "record /tf, or use --pose-topic none",
                self._path,
                topic[:60],
            )
        return topic, ""

    @staticmethod
    def _default_frame(above: list[str]) -> str:
        """Return the fixed frame among those above the camera; empty: none is."""
        preferred = [frame for frame in _FIXED_FRAMES if frame in above]
        return (preferred or above[-1:] or [""])[0]

    def _no_chain(self, fixed: str) -> BagError:
        return BagError(
            f"{self._path}: no transforms lead from '{fixed[:40]}' to '{self._camera_frame[:40]}'; "
            f"/tf has {join_names(self._tree.frames()) or 'no frames'}; choose others by "
            "--fixed-frame and --camera-frame"
        )

    def _by_transforms(self, fixed: str, times: ImageTimes) -> ImagePoses:
        camera = self._camera_frame
        T_n44, known_n = self._tree.lookup(fixed, camera, times.stamps_n, times.by_recording)
        if not known_n.any():
            raise self._no_overlap(_TF, times, self._tree.span_s(fixed, camera, times.by_recording))
        return ImagePoses(f"{_TF} {fixed} -> {camera}", T_n44, known_n)

    def _by_topic(self, topic: str, times: ImageTimes) -> ImagePoses:
        samples = self._samples[topic]
        trajectory = samples.trajectory(times.by_recording)
        T_n44, known_n = trajectory.at(times.stamps_n, _REACH_NS, 2 * _REACH_NS)
        if len(samples) and not known_n.any():
            raise self._no_overlap(topic, times, samples.span_s(times.by_recording))
        child, camera = self._child_frames.get(topic, ""), self._camera_frame
        if self._types[topic] != ODOMETRY or child == camera:
            return ImagePoses(topic, T_n44, known_n)
        if not self._tree.is_connected(child, camera):
            raise BagError(
                f"{self._path}: no transforms lead from '{child[:40]}' of {topic[:60]} to "
                f"'{camera[:40]}' of the images; record /tf_static, choose another source by "
                "--pose-topic (none: no poses), or give --camera-frame if the images are of that "
                "frame"
            )
        T_child_cam, has_n = self._tree.lookup(child, camera, times.stamps_n, times.by_recording)
        return ImagePoses(f"{topic} {child} -> {camera}", T_n44 @ T_child_cam, known_n & has_n)

    def _no_overlap(self, topic: str, times: ImageTimes, span_s: tuple[float, float]) -> BagError:
        start_s, end_s = (1e-9 * float(t) for t in (times.stamps_n.min(), times.stamps_n.max()))
        return BagError(
            f"{self._path}: no image has a pose: images are from {start_s:.3f} to {end_s:.3f} s, "
            f"poses of {topic[:60]} from {span_s[0]:.3f} to {span_s[1]:.3f} s; record them with "
            "one clock, or use no poses (--pose-topic none)"
        )
