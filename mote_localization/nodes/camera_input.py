"""The images of a camera with their calibration, as the node receives them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, qos_profile_sensor_data
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from mote_localization.nodes.conversions import calibration_of
from mote_localization.nodes.entities import Entities
from mote_localization.nodes.matching import InfoMatcher
from mote_localization.stamps import nanoseconds

AnyImage: TypeAlias = Image | CompressedImage

TRANSPORTS = {"raw": Image, "compressed": CompressedImage}  # by the name of the image transport
_LATCHED_PERIOD_S = 1.0  # between two checks for publishers that keep their last CameraInfo
_SHARED_MEMORY_BYTES = 16 << 20  # segment_size in config/fastdds.xml
_MIN_ARRIVED = 0.95  # fraction of the images that arrive with a CameraInfo; fewer are reported
_ENDING = "/compressed"  # of the topics of image_transport's plug-in


class CameraInput:
    """Subscribes to images and CameraInfo, and reports what is missing."""

    def __init__(
        self,
        node: Node,
        entities: Entities,
        transport: str,
        tolerance_s: float,
        on_frame: Callable[[AnyImage, CameraInfo], None],
        prefix: str = "",
    ) -> None:
        """Subscribe to the topics `image` and `camera_info`.

        Args:
            node: The node that subscribes.
            entities: To which its subscriptions belong.
            transport: raw or compressed. The images of `compressed` are on the topic below `image`
                that image_transport publishes, unless `image` is remapped to that one already.
            tolerance_s: How much later than its image a CameraInfo may be stamped, s.
            on_frame: Is called with each image and its CameraInfo.
            prefix: Of the names of the topics, such as `front/`.
        """
        self._node, self._on_frame = node, on_frame
        self._type = TRANSPORTS[transport]
        topic = node.resolve_topic_name(f"{prefix}image")
        if transport == "compressed" and not topic.endswith(_ENDING):
            topic += _ENDING
        self._matcher: InfoMatcher[AnyImage, CameraInfo] = InfoMatcher(
            calibration_of, round(tolerance_s * 1e9)
        )
        self._received = {"image": 0, "camera_info": 0}  # since the last check
        self._image_bytes = 0  # of a raw image, by the last CameraInfo
        self._image = entities.subscription(
            self._type, topic, self._on_image, qos_profile_sensor_data
        )
        self._info = entities.subscription(
            CameraInfo, f"{prefix}camera_info", self._on_info, qos_profile_sensor_data
        )
        self._prefix = prefix
        self._entities, self._has_latched = entities, False
        entities.timer(_LATCHED_PERIOD_S, self._subscribe_latched)

    @property
    def image_topic(self) -> str:
        """Full name of the topic of the images."""
        return str(self._image.topic_name)

    @property
    def info_topic(self) -> str:
        """Full name of the topic of the CameraInfo."""
        return str(self._info.topic_name)

    def missing(self, period_s: float) -> str:
        """Return what has been missing since the last call; empty: nothing.

        Args:
            period_s: Time since the last call, s.
        """
        images, infos = self._received["image"], self._received["camera_info"]
        self._received = {"image": 0, "camera_info": 0}
        unmatched = self._matcher.take_unmatched()
        if images == 0:
            return f"no image on {self.image_topic} for {period_s:g} s; {self._hint()}"
        if unmatched and infos == 0:
            return (
                f"images on {self.image_topic}, but no camera_info on {self.info_topic} for "
                f"{period_s:g} s (remap it: -r {self._prefix}camera_info:=/camera/camera_info)"
            )
        if unmatched > (1 - _MIN_ARRIVED) * images:
            return (
                f"{unmatched} of {images} images on {self.image_topic} dropped: no message on "
                f"{self.info_topic} is valid at their stamp; the driver stamps them differently"
            )
        if images < _MIN_ARRIVED * infos and (hint := self._size_hint()):
            return f"{infos} camera_info, but only {images} images on {self.image_topic}; {hint}"
        return ""

    def _hint(self) -> str:
        """Return why there may be no images."""
        topic = self.image_topic
        publishers = self._node.get_publishers_info_by_topic(topic)
        expected = f"sensor_msgs/msg/{self._type.__name__}"
        others = sorted({publisher.topic_type for publisher in publishers} - {expected})
        if others:
            fitting = {
                f"sensor_msgs/msg/{kind.__name__}": name for name, kind in TRANSPORTS.items()
            }
            hint = f"its publisher has the type {', '.join(others)[:100]}, expected {expected}"
            names = [fitting[other] for other in others if other in fitting]
            return f"{hint}; set image_transport to {names[0]}" if names else hint
        if publishers and (hint := self._size_hint()):
            return hint
        if publishers:
            return (
                f"it has {len(publishers)} publisher(s), which may have stopped, or DDS loses "
                "large messages (set FASTDDS_DEFAULT_PROFILES_FILE to config/fastdds.xml on both "
                "sides)"
            )
        if self._type is CompressedImage:
            base = topic.removesuffix(_ENDING)
            if self._node.count_publishers(base):
                return f"it has no publisher, but {base} has; set image_transport to raw"
        return f"it has no publisher (remap it: -r {self._prefix}image:=/camera/image_raw)"

    def _size_hint(self) -> str:
        """Return what to do if images are too large for shared memory; empty: they are not."""
        if self._image_bytes <= _SHARED_MEMORY_BYTES / 2 or self._type is not Image:
            return ""
        return (
            f"its images take {self._image_bytes / 1e6:.0f} MB, too much for shared memory of "
            f"{_SHARED_MEMORY_BYTES >> 20} MB: raise segment_size in a copy of "
            f"config/fastdds.xml to {4 * self._image_bytes} on both sides, or set "
            "image_transport to compressed"
        )

    def _subscribe_latched(self) -> None:
        """Subscribe to a CameraInfo that was published before, if its publisher keeps it.

        Other publishers would warn of a subscription that asks for it.
        """
        publishers = self._node.get_publishers_info_by_topic(self.info_topic)
        kept = DurabilityPolicy.TRANSIENT_LOCAL
        if not self._has_latched and any(p.qos_profile.durability == kept for p in publishers):
            self._has_latched = True
            qos = QoSProfile(depth=1, durability=kept)
            self._entities.subscription(CameraInfo, self.info_topic, self._on_info, qos)

    def _on_image(self, image: AnyImage) -> None:
        self._received["image"] += 1
        frame = self._matcher.add_image(nanoseconds(image.header.stamp), image)
        if frame is not None:
            self._on_frame(*frame)

    def _on_info(self, info: CameraInfo) -> None:
        self._image_bytes = 3 * info.width * info.height
        self._received["camera_info"] += 1
        frame = self._matcher.add_info(nanoseconds(info.header.stamp), info)
        if frame is not None:
            self._on_frame(*frame)
