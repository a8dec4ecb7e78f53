"""Transforms between moving frames at the time of an image, from /tf and /tf_static; no ROS."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mote_localization.errors import MoteError
from mote_localization.geometry import invert
from mote_localization.stamps import nanoseconds
from mote_localization.trajectory import Trajectory
from mote_localization.transform_messages import ancestors, frame_name, pose_values

_MAX_GAP_NS = 1_000_000_000  # between two transforms to interpolate
_LENGTH_NS = 10_000_000_000  # older transforms than this before the newest are dropped
_MAX_DISORDER_NS = 1_000_000_000  # an older transform is of a clock that has jumped back
_MAX_SAMPLES = 10_000  # of one frame
_MAX_FRAMES = 1_000
_MAX_NAME = 60  # characters of a frame in a message


class TransformError(MoteError):
    """A transform between two frames is not known.

    Attributes:
        later: It may become known by messages that have not arrived yet.
    """

    def __init__(self, message: str, later: bool = False) -> None:
        """Create the error."""
        super().__init__(message)
        self.later = later


@dataclass
class _Link:
    """The transforms of a frame to its parent, in the order of their stamps."""

    parent: str
    static: bool
    stamps: list[int] = field(default_factory=list)  # ns
    values: list[tuple[float, ...]] = field(default_factory=list)  # x y z, quaternion x y z w

    def add(self, stamp_ns: int, values: tuple[float, ...]) -> None:
        if self.static or (self.stamps and stamp_ns < self.stamps[-1] - _MAX_DISORDER_NS):
            self.stamps, self.values = [], []  # a clock that has jumped back starts again
        index = bisect_left(self.stamps, stamp_ns)
        if index < len(self.stamps) and self.stamps[index] == stamp_ns:
            self.values[index] = values
            return
        self.stamps.insert(index, stamp_ns)
        self.values.insert(index, values)
        first = max(
            bisect_left(self.stamps, self.stamps[-1] - _LENGTH_NS), len(self.stamps) - _MAX_SAMPLES
        )
        if first > 0:
            del self.stamps[:first], self.values[:first]

    def at(self, stamp_ns: int) -> np.ndarray | None:
        """Return T_parent_child (4, 4); None between or outside of the transforms."""
        if self.static:
            stamp_ns = self.stamps[0]
        index = bisect_left(self.stamps, stamp_ns)
        around = slice(max(index - 1, 0), index + 1)
        values_nk = np.array(self.values[around]).reshape(-1, 7)
        quaternions_n4 = values_nk[:, 3:] / np.linalg.norm(values_nk[:, 3:], axis=1, keepdims=True)
        near = Trajectory(np.array(self.stamps[around]), values_nk[:, :3], quaternions_n4)
        T_144, known_1 = near.at(np.array([stamp_ns]), _MAX_GAP_NS, _MAX_GAP_NS)
        return T_144[0] if known_1[0] else None


class TransformBuffer:
    """The last ten seconds of all transforms.

    Of several parents of a frame, the last one counts. Memory is bounded: frames beyond 1000 are
    ignored.
    """

    def __init__(self) -> None:
        """Create an empty buffer."""
        self._links: dict[str, _Link] = {}  # by child

    def add(self, transforms: Iterable[Any], static: bool) -> None:
        """Add transforms; those that are no rotations are ignored.

        A frame with a static transform keeps it, whatever arrives on /tf.

        Args:
            transforms: geometry_msgs/TransformStamped, as rclpy or rosbags read them.
            static: They are valid at all times.
        """
        for transform in transforms:
            moved = transform.transform
            values = pose_values(moved.translation, moved.rotation)
            if values is None:
                continue
            parent = frame_name(transform.header.frame_id)
            child = frame_name(transform.child_frame_id)
            link = self._links.get(child)
            if link and link.static and not static:
                continue
            if link is None or (link.parent, link.static) != (parent, static):
                if link is None and len(self._links) >= _MAX_FRAMES:
                    continue
                link = self._links[child] = _Link(parent, static)
            link.add(nanoseconds(transform.header.stamp), values)

    def clear(self) -> None:
        """Forget all transforms that are not static: the clock has jumped."""
        self._links = {child: link for child, link in self._links.items() if link.static}

    def parent(self, frame: str) -> str | None:
        """Return the parent of a frame; None if it has none."""
        link = self._links.get(frame_name(frame))
        return link.parent if link else None

    def lookup(self, target: str, source: str, stamp_ns: int) -> np.ndarray:
        """Return T_target_source (4, 4), which takes points of the source frame to the target.

        Args:
            target: Name of a frame.
            source: Name of a frame.
            stamp_ns: Time, ns.

        Raises:
            TransformError: It is not known at that time; the message names the missing transform.
        """
        target, source = frame_name(target), frame_name(source)
        to_target, to_source = self._ancestors(target), self._ancestors(source)
        common = next((frame for frame in to_source if frame in to_target), None)
        if common is None:
            raise TransformError(self._not_connected(target, source), later=True)
        T_common_target = self._product(to_target[: to_target.index(common)], stamp_ns)
        T_common_source = self._product(to_source[: to_source.index(common)], stamp_ns)
        return invert(T_common_target) @ T_common_source

    def latest_ns(self, target: str, source: str) -> int | None:
        """Return the latest stamp at which `lookup` knows the transform, ns.

        None if the frames are not connected, or by static transforms only.
        """
        to_target = self._ancestors(frame_name(target))
        to_source = self._ancestors(frame_name(source))
        links = [self._links[f] for f in set(to_target) ^ set(to_source) if f in self._links]
        if not set(to_target) & set(to_source):
            return None
        return min((link.stamps[-1] for link in links if not link.static), default=None)

    def _product(self, frames: list[str], stamp_ns: int) -> np.ndarray:
        """Return T_ancestor_frame of a chain of frames, each the child of the next."""
        T = np.eye(4)
        for frame in frames:
            link = self._links[frame]
            T_parent_frame = link.at(stamp_ns)
            if T_parent_frame is None:
                raise self._not_known(frame, link, stamp_ns)
            T = T_parent_frame @ T
        return T

    def _ancestors(self, frame: str) -> list[str]:
        return ancestors(self.parent, frame)

    def _not_connected(self, target: str, source: str) -> str:
        known = self._links.keys() | {link.parent for link in self._links.values()}
        missing = [frame for frame in (target, source) if frame not in known]
        if missing:
            names = " and ".join(f"'{frame[:_MAX_NAME]}'" for frame in missing)
            return f"no transform on /tf or /tf_static has the frame {names}"
        roots = [self._ancestors(frame)[-1] for frame in (target, source)]
        return (
            f"'{target[:_MAX_NAME]}' and '{source[:_MAX_NAME]}' are not connected: their roots are "
            f"'{roots[0][:_MAX_NAME]}' and '{roots[1][:_MAX_NAME]}'"
        )

    def _not_known(self, frame: str, link: _Link, stamp_ns: int) -> TransformError:
        names = f"'{link.parent[:_MAX_NAME]}' -> '{frame[:_MAX_NAME]}'"
        after_s = (stamp_ns - link.stamps[-1]) / 1e9
        if after_s > 0:
            return TransformError(
                f"the transform {names} is not known yet: its newest is {after_s:.3g} s older than "
                "the image",
                later=True,
            )
        before_s = (link.stamps[0] - stamp_ns) / 1e9
        if before_s > 0:
            return TransformError(
                f"the transform {names} is known only from {before_s:.3g} s after the image on"
            )
        return TransformError(
            f"the transform {names} has a gap of over {_MAX_GAP_NS / 1e9:g} s at the image's time"
        )
