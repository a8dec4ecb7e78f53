"""`mote replay`: plays a rosbag2 recording through ROS 2, without `ros2 bag`."""

from __future__ import annotations

import json
import os
import re
import struct
import sys
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

import tyro

from mote_localization.command_line import one_line_errors, say
from mote_localization.errors import BagError, ReplayError
from mote_localization.nodes import process
from mote_localization.progress import progress_bar
from mote_localization.scenes.bags import IMAGES, join_names, open_bag

if TYPE_CHECKING:
    from rclpy.node import Node
    from rclpy.publisher import Publisher

    from mote_localization.scenes.bags.bag_files import BagTopic

_READ_AHEAD = 16  # messages read before they are published
_DISCOVERY_S = 0.5  # from the first subscriber of an image topic to those of other topics
_FLUSH_S = 0.5  # for the delivery of the last messages before the publishers are destroyed
_CLOCK_PERIOD_S = 0.01
_MIN_PASS_GAP_S = 0.001  # between the passes of a loop: a pass of one image has no duration
_MESSAGE_TYPE = re.compile(r"(?P<package>[a-z][a-z0-9_]*)/msg/(?P<name>[A-Z][A-Za-z0-9]*)")

T = TypeVar("T")


@dataclass(frozen=True)
class Replay:
    """Play a rosbag2 recording through ROS 2, with the timing of the recording."""

    bag: tyro.conf.Positional[Path]  # folder of the recording, or one .mcap or .db3 file
    rate: float = 1.0  # speed; 2 is twice as fast as recorded
    loop: tyro.conf.FlagCreatePairsOff[bool] = False  # repeat until interrupted
    start_delay: float = 0.0  # s, delay before the first message
    wait: float = 10.0  # s, maximum wait for a subscriber of an image topic; 0: do not wait
    remap: tuple[str, ...] = ()  # topics to rename, each as from:=to
    # publish the time of the recording on /clock, for nodes with use_sim_time
    clock: tyro.conf.FlagCreatePairsOff[bool] = False
    log: Path | None = None  # write the time of publishing of each image to this file, JSON lines

    def run(self) -> None:
        """Play the recording until its end, SIGINT or SIGTERM."""
        if not 0 < self.rate < float("inf"):
            raise ReplayError(f"--rate {self.rate:g}: expected a number above 0")
        process.block_signals()
        topics = self._topics()
        arguments = [word for rule in self.remap for word in ("--remap", rule)]
        with ExitStack() as stack:
            log = stack.enter_context(_open_log(self.log)) if self.log else None
            stack.enter_context(
                process.ros_context(["--ros-args", *arguments] if arguments else [])
            )

            import rclpy

            node = rclpy.create_node("player")
            stack.callback(node.destroy_node)
            if self.clock:
                topics = [topic for topic in topics if topic.name != "/clock"]
            publishers = _publishers(node, topics)
            clock = _Clock(node) if self.clock else None
            # answers the services of the node, such as those of `ros2 param list`
            stack.enter_context(process.spin_in_thread(node))
            if not self._wait_for_subscriber(publishers) or process.stop_requested(
                self.start_delay
            ):
                return
            played, seconds = self._play(publishers, topics, log, clock)
            process.stop_requested(_FLUSH_S)
        say(f"played {played} messages in {seconds:.1f} s")

    def _topics(self) -> list[BagTopic]:
        """Return the topics of the recording; a recording without images is an error."""
        with open_bag(self.bag) as bag:
            topics = bag.topics
        if not any(topic.msgtype in IMAGES and topic.count for topic in topics):
            found = join_names(f"{topic.name} ({topic.msgtype})" for topic in topics)
            raise BagError(f"{self.bag}: no images ({IMAGES[0]}); it has {found or 'no topics'}")
        return topics

    def _wait_for_subscriber(self, publishers: dict[str, Publisher]) -> bool:
        """Wait until an image topic has a subscriber; return False if interrupted."""
        if self.wait <= 0:
            return True
        images = {
            publisher.topic_name: publisher
            for publisher in publishers.values()
            if publisher.msg_type.__name__ in ("Image", "CompressedImage")
        }
        deadline = time.monotonic() + self.wait
        while not any(publisher.get_subscription_count() for publisher in images.values()):
            if time.monotonic() > deadline:
                raise ReplayError(
                    f"{self.bag}: {join_names(images)} had no subscriber for {self.wait:g} s; "
                    "start the localizer, rename topics (--remap from:=to) or use --wait 0"
                )
            if process.stop_requested(0.05):
                return False
        return not process.stop_requested(_DISCOVERY_S)

    def _play(
        self,
        publishers: dict[str, Publisher],
        topics: list[BagTopic],
        log: TextIO | None,
        clock: _Clock | None,
    ) -> tuple[int, float]:
        """Publish every message at its time; return the number of messages and the duration (s)."""
        images = {topic.name for topic in topics if topic.msgtype in IMAGES}
        total = sum(topic.count for topic in topics if topic.name in publishers)
        played = 0
        started = time.monotonic()
        with progress_bar() as bar:
            task = bar.add_task("playing", total=None if self.loop else total)
            while True:
                # All times are relative to the start of the pass, so delays do not accumulate.
                first_ns, pass_started, image_count = None, time.monotonic(), 0
                for topic, recorded_ns, raw in _read_ahead(self._messages(set(publishers))):
                    first_ns = recorded_ns if first_ns is None else first_ns
                    due = pass_started + (recorded_ns - first_ns) * 1e-9 / self.rate
                    if clock:
                        clock.advance(recorded_ns, due, self.rate)
                    if process.stop_requested(due - time.monotonic()):
                        return played, time.monotonic() - started
                    published_ns = time.monotonic_ns()
                    publishers[topic].publish(raw)
                    image_count += topic in images
                    if log and topic in images:
                        line = {"topic": topic, "stamp_ns": _stamp_ns(raw)}
                        log.write(json.dumps({**line, "published_ns": published_ns}) + "\n")
                    played += 1
                    bar.update(task, completed=played)
                # The time between passes is the mean time between images.
                gap_s = (due - pass_started) / (image_count - 1) if image_count > 1 else 0
                if not self.loop or process.stop_requested(max(gap_s, _MIN_PASS_GAP_S)):
                    return played, time.monotonic() - started

    def _messages(self, topics: set[str]) -> Iterator[tuple[str, int, bytes]]:
        """Yield (topic, recording time in ns, serialized message)."""
        with open_bag(self.bag) as bag:
            for topic, _, recorded_ns, raw in bag.messages(topics):
                yield topic, recorded_ns, bytes(raw)


class _Clock:
    """Publishes the time of the recording on /clock, at least at 100 Hz."""

    def __init__(self, node: Node) -> None:
        from rosgraph_msgs.msg import Clock

        self._message, self._publisher = Clock, node.create_publisher(Clock, "/clock", 10)

    def advance(self, recorded_ns: int, due_s: float, rate: float) -> None:
        """Publish the time up to that of the next message, while waiting for it.

        Args:
            recorded_ns: Time of the next message.
            due_s: Monotonic time at which it is published.
            rate: Speed of the replay.
        """
        while (left_s := due_s - time.monotonic()) > _CLOCK_PERIOD_S:
            self._publish(recorded_ns - round(left_s * rate * 1e9))
            if process.stop_pending():
                return
            time.sleep(_CLOCK_PERIOD_S)
        self._publish(recorded_ns)

    def _publish(self, time_ns: int) -> None:
        message = self._message()
        message.clock.sec, message.clock.nanosec = divmod(time_ns, 1_000_000_000)
        self._publisher.publish(message)


def _publishers(node: Node, topics: list[BagTopic]) -> dict[str, Publisher]:
    """Create a publisher for each topic with an installed message type.

    All are reliable: they match reliable and best-effort subscribers.
    """
    from rclpy.qos import DurabilityPolicy, QoSProfile

    publishers: dict[str, Publisher] = {}
    for topic in topics:
        message_class = _message_class(topic.msgtype)
        if message_class is None:
            node.get_logger().warning(
                f"{topic.name[:60]} is not played: {topic.msgtype[:60]} is not installed"
            )
        elif topic.name not in publishers:
            qos = QoSProfile(depth=10)
            if topic.latched:
                qos.durability = DurabilityPolicy.TRANSIENT_LOCAL  # such as /tf_static and /map
            publishers[topic.name] = node.create_publisher(message_class, topic.name, qos)
    return publishers


def _message_class(msgtype: str) -> type | None:
    """Return the class of a type such as sensor_msgs/msg/Image; None: not installed.

    The type is from the recording: only packages of ROS 2 are imported.
    """
    parts = _MESSAGE_TYPE.fullmatch(msgtype)
    if not parts or not _is_ros_package(parts["package"]):
        return None
    try:
        found = getattr(import_module(f"{parts['package']}.msg"), parts["name"])
    except (ImportError, AttributeError):
        return None
    return found if hasattr(found, "get_fields_and_field_types") else None


def _is_ros_package(name: str) -> bool:
    """Return whether the index of ROS 2, or that of its wheels, lists a package."""
    prefixes = [
        *filter(None, os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep)),
        sys.prefix,
    ]
    index = "share/ament_index/resource_index/packages"
    return any(Path(prefix, index, name).is_file() for prefix in prefixes)


def _stamp_ns(raw: bytes) -> int:
    """Return the stamp (ns) of a serialized message that begins with a Header."""
    # CDR: 4 bytes of encapsulation, the second is the byte order; then sec and nanosec
    seconds, nanoseconds = struct.unpack_from("<iI" if raw[1] & 1 else ">iI", raw, 4)
    return seconds * 1_000_000_000 + nanoseconds


def _read_ahead(items: Iterator[T]) -> Iterator[T]:
    """Yield the items of an iterator; a thread reads some items ahead."""
    end: Any = object()
    with ThreadPoolExecutor(1) as pool:
        ahead = deque(pool.submit(next, items, end) for _ in range(_READ_AHEAD))
        try:
            while (item := ahead.popleft().result()) is not end:
                ahead.append(pool.submit(next, items, end))
                yield item
        finally:
            pool.submit(getattr(items, "close", lambda: None))


@contextmanager
def _open_log(path: Path) -> Iterator[TextIO]:
    try:
        file = path.open("w", encoding="utf-8", buffering=1)
    except OSError as error:
        raise ReplayError(f"--log {path}: cannot be written ({error.strerror})") from error
    with file:
        yield file


if __name__ == "__main__":
    with one_line_errors():
        tyro.cli(Replay).run()
