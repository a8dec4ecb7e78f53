"""Chooses the topics of a recording that show one camera: images, calibration, depth."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mote_localization.errors import BagError
from mote_localization.scenes.bags.bag_files import BagReader, BagTopic, join_names
from mote_localization.scenes.bags.bag_images import ImageKind, kind_of
from mote_localization.scenes.bags.bag_messages import (
    IMAGE,
    IMAGE_TOPIC,
    IMAGES,
    INFO,
    read_message,
)
from mote_localization.scenes.recording_options import NO_TOPIC, RecordingOptions

_log = logging.getLogger(__name__)
_VARIANTS = ("/compressed", "/compressedDepth")  # endings that image_transport adds
_MAIN_CAMERA = 2.0  # times as many images as any other camera
_MAX_K_DIFFERENCE = 2e-3  # of two cameras' K relative to their image size: they see the same
_MAX_OFFSET_M = 2e-3  # of two cameras along x and y


class FirstMessages(NamedTuple):
    """What the first messages of the topics of images and calibrations hold."""

    images: dict[str, ImageKind]
    infos: dict[str, Any]  # sensor_msgs/CameraInfo


@dataclass(frozen=True)
class CameraTopics:
    """The topics of one camera."""

    image: str
    image_type: str
    frame_id: str  # of the images
    image_size: tuple[int, int] | None  # of the first image, px; None: not known
    info: str | None  # None: intrinsics are not known
    depth: str | None


def first_messages(bag: BagReader) -> FirstMessages:
    """Read the first message of each topic of images and calibrations."""
    found = FirstMessages({}, {})
    for topic in bag.topics:
        if topic.count and topic.msgtype in (*IMAGES, INFO):
            for name, msgtype, _, raw in bag.messages([topic.name]):
                message = read_message(raw, msgtype)
                if msgtype == INFO:
                    found.infos[name] = message
                else:
                    found.images[name] = kind_of(message, msgtype, name)
                break
    return found


def choose_topics(
    path: Path, topics: Sequence[BagTopic], first: FirstMessages, options: RecordingOptions
) -> CameraTopics:
    """Return the topics of the camera that the options name, or of the only one that fits.

    Args:
        path: The recording, for messages.
        topics: All its topics.
        first: Their first messages.
        options: Topics that are given; of others, those of one camera are searched.

    Raises:
        BagError: There are no images, a given topic does not exist, or several fit.
    """
    image = _image_topic(path, topics, first, options.image_topic)
    kind = first.images[image.name]
    info = _info_topic(path, image.name, first, options.info_topic)
    return CameraTopics(
        image.name,
        image.msgtype,
        kind.frame_id,
        kind.size,
        info,
        _depth_topic(path, image.name, topics, first, first.infos.get(info or ""), options),
    )


def requested(path: Path, name: str, found: Collection[str], option: str) -> str:
    """Return the name of a topic that an option gives; raise `BagError` if it does not exist."""
    if name not in found:
        raise BagError(
            f"{path}: found no usable topic {name[:60]} (--{option}), expected one of: "
            f"{join_names(found) or 'none'}"
        )
    return name


def only_one(path: Path, found: Collection[str], what: str, option: str) -> str | None:
    """Return the only topic, or None; raise `BagError` where several topics fit."""
    if len(found) > 1:
        raise BagError(
            f"{path}: several topics of {what} ({join_names(found)}); choose one by --{option}"
        )
    return next(iter(found), None)


def _image_topic(
    path: Path, topics: Sequence[BagTopic], first: FirstMessages, name: str | None
) -> BagTopic:
    images = {t.name: t for t in topics if t.msgtype in IMAGES and t.name in first.images}
    if name is not None:
        return images[requested(path, name, images, "image-topic")]
    cameras = {n: t for n, t in images.items() if not _shows_depth(n, first.images[n])}
    found = _cameras(cameras)
    if not found:
        others = join_names(f"{t.name} ({t.count})" for t in topics) or "no topics"
        raise BagError(
            f"{path}: found no images (sensor_msgs Image or CompressedImage that is not depth); it "
            f"has, with numbers of messages: {others}"
        )
    by_base = {_base(n): n for n in found}
    if IMAGE_TOPIC in by_base:
        return images[by_base[IMAGE_TOPIC]]
    # Several images beside one calibration are of one camera: image_raw is the one it describes.
    raw = {n for n in found if _base(n).endswith("/image_raw")}
    found = [n for n in found if n in raw or not {_folder(n)} & {_folder(r) for r in raw}]
    calibrated = [n for n in found if _beside(n) in first.infos]
    found = calibrated or found
    for most in found:
        others_count = max((images[n].count for n in found if n != most), default=0)
        if calibrated and images[most].count >= _MAIN_CAMERA * others_count:
            return images[most]
    chosen = only_one(path, found, "images", "image-topic")
    assert chosen is not None
    return images[chosen]


def _info_topic(path: Path, image: str, first: FirstMessages, name: str | None) -> str | None:
    if name == NO_TOPIC:
        return None
    if name is not None:
        return requested(path, name, first.infos, "info-topic")
    if _beside(image) in first.infos:
        return _beside(image)
    return only_one(path, first.infos, "sensor_msgs/CameraInfo", "info-topic")


def _depth_topic(
    path: Path,
    image: str,
    topics: Sequence[BagTopic],
    first: FirstMessages,
    info: Any | None,
    options: RecordingOptions,
) -> str | None:
    if options.depth_topic == NO_TOPIC:
        return None
    depths = {t.name: t for t in topics if t.name != image and t.name in first.images}
    depths = {n: t for n, t in depths.items() if first.images[n].holds_depth}
    if options.depth_topic is not None:
        found = [requested(path, options.depth_topic, depths, "depth-topic")]
    else:
        found = _cameras(depths)
        found = [n for n in found if "depth" in n.lower()] or found

    def is_registered(name: str) -> bool:
        same_frame = first.images[name].frame_id == first.images[image].frame_id
        return same_frame or _same_view(info, first.infos.get(_beside(name)))

    registered = [name for name in found if is_registered(name)]
    if found and not registered:
        _log.warning(
            "%s: depth is not used: %s is of frame '%s', the images are of frame '%s'; record "
            "depth that is registered to the images",
            path,
            found[0][:60],
            first.images[found[0]].frame_id[:40],
            first.images[image].frame_id[:40],
        )
    return only_one(path, registered, "depth", "depth-topic")


def _cameras(topics: dict[str, BagTopic]) -> list[str]:
    """Return one topic per camera: of raw images and their compressed variants, the raw ones."""
    chosen: dict[str, str] = {}
    for name in sorted(topics, key=lambda name: (topics[name].msgtype != IMAGE, name)):
        chosen.setdefault(_base(name), name)
    return list(chosen.values())


def _shows_depth(name: str, kind: ImageKind) -> bool:
    return kind.holds_depth or "depth" in name.lower()


def _base(topic: str) -> str:
    """Return the topic without the ending of a compressed variant."""
    ending = next((v for v in _VARIANTS if topic.endswith(v)), "")
    return topic.removesuffix(ending)


def _folder(topic: str) -> str:
    return _base(topic).rsplit("/", 1)[0]


def _beside(topic: str) -> str:
    """Return the topic of the calibration beside a topic of images."""
    return f"{_folder(topic)}/camera_info"


def _same_view(info: Any | None, other: Any | None) -> bool:
    """Return whether two CameraInfo have the same K, up to the size of their images, and place."""
    if info is None or other is None or not (info.width and other.width):
        return False
    if not (info.height and other.height):
        return False

    def relative(message: Any) -> np.ndarray:
        fx, _, cx, _, fy, cy = message.k[:6]
        width, height = message.width, message.height
        return np.array([fx / width, fy / height, (cx + 0.5) / width, (cy + 0.5) / height])

    def offset_m(message: Any) -> np.ndarray:
        """Place in a stereo pair: P holds -fx' Tx of the right camera (sensor_msgs/CameraInfo)."""
        fx, _, _, tx, _, fy, _, ty = message.p[:8]
        return np.array([tx / fx, ty / fy]) if fx and fy else np.zeros(2)

    same_K = np.abs(relative(info) - relative(other)).max() < _MAX_K_DIFFERENCE
    return bool(same_K and np.abs(offset_m(info) - offset_m(other)).max() < _MAX_OFFSET_M)
