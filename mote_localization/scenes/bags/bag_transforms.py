"""Recorded poses and /tf as arrays, and chains of transforms."""

from __future__ import annotations

from array import array
from typing import Any

import numpy as np

from mote_localization.stamps import nanoseconds, stamp_seconds
from mote_localization.trajectory import Trajectory
from mote_localization.transform_messages import ancestors, frame_name, pose_values

_MAX_TF_GAP_NS = 1_000_000_000  # between two transforms to interpolate
_COUNT = 7  # position x y z, quaternion x y z w


class PoseSamples:
    """Collects poses as numbers, with both of their times."""

    def __init__(self) -> None:
        self.rejected = 0  # poses that are not finite, or whose quaternion is no rotation
        self._times = array("q")  # of the header and of recording, ns, in turn
        self._values = array("d")

    def __len__(self) -> int:
        return len(self._times) // 2

    def add(self, stamp_ns: int, recorded_ns: int, position: Any, orientation: Any) -> None:
        """Append a pose of a message; count it as rejected if it is none."""
        values = pose_values(position, orientation)
        if values is None:
            self.rejected += 1
            return
        self._times.extend((stamp_ns, recorded_ns))
        self._values.extend(values)

    def span_s(self, by_recording: bool) -> tuple[float, float]:
        """Return the first and the last time of the poses, s; there must be one."""
        times_n = np.frombuffer(self._times, np.int64)[int(by_recording) :: 2]
        return stamp_seconds(int(times_n.min())), stamp_seconds(int(times_n.max()))

    def moves(self) -> bool:
        """Return whether the poses differ."""
        values_nk = np.frombuffer(self._values, np.float64).reshape(-1, _COUNT)
        return bool((values_nk != values_nk[:1]).any())

    def trajectory(self, by_recording: bool) -> Trajectory:
        """Return the poses; of several with one stamp, the last.

        Args:
            by_recording: Stamps are the recording times, not those of the headers.
        """
        times_n2 = np.frombuffer(self._times, np.int64).reshape(-1, 2)
        values_nk = np.frombuffer(self._values, np.float64).reshape(-1, _COUNT)
        newest_first_n = times_n2[::-1, int(by_recording)]
        stamps_n, places_n = np.unique(newest_first_n, return_index=True)
        values_nk = values_nk[::-1][places_n]
        quaternions_n4 = values_nk[:, 3:]
        norms_n1 = np.linalg.norm(quaternions_n4, axis=1, keepdims=True)
        return Trajectory(stamps_n, values_nk[:, :3], quaternions_n4 / norms_n1)


class TransformTree:
    """The transforms of /tf and /tf_static."""

    def __init__(self) -> None:
        self._samples: dict[tuple[str, str], PoseSamples] = {}  # by child and parent
        self._static: set[tuple[str, str]] = set()

    def __len__(self) -> int:
        return len(self._samples)

    @property
    def rejected(self) -> int:
        """Number of transforms that are not finite, or whose quaternion is no rotation."""
        return sum(samples.rejected for samples in self._samples.values())

    def add(self, message: Any, recorded_ns: int, static: bool) -> None:
        """Add the transforms of a tf2_msgs/TFMessage.

        Args:
            message: The message.
            recorded_ns: Its recording time.
            static: The transforms are valid at all times.
        """
        for transform in message.transforms:
            key = frame_name(transform.child_frame_id), frame_name(transform.header.frame_id)
            samples = self._samples.setdefault(key, PoseSamples())
            if static:
                self._static.add(key)
            stamp_ns = nanoseconds(transform.header.stamp)
            moved = transform.transform
            samples.add(stamp_ns, recorded_ns, moved.translation, moved.rotation)

    def frames(self) -> set[str]:
        """Return the names of all frames."""
        return {name for key in self._samples for name in key}

    def ancestors(self, frame: str) -> list[str]:
        """Return a frame and those above it, up to the root."""
        return ancestors(self._parents().get, frame)

    def is_connected(self, frame: str, other: str) -> bool:
        """Return whether a chain of transforms leads from one frame to the other."""
        return bool(set(self.ancestors(frame)) & set(self.ancestors(other)))

    def moves(self, frame: str, other: str) -> bool:
        """Return whether a chain leads from one frame to the other, and moves."""
        links = (set(self._links(frame)) ^ set(self._links(other))) - self._static
        return self.is_connected(frame, other) and any(self._samples[k].moves() for k in links)

    def span_s(self, target: str, source: str, by_recording: bool) -> tuple[float, float]:
        """Return the time span of all transforms between two frames that are not static, s."""
        links = (set(self._links(target)) ^ set(self._links(source))) - self._static
        spans = [self._samples[link].span_s(by_recording) for link in links] or [(0.0, 0.0)]
        return max(start for start, _ in spans), min(end for _, end in spans)

    def lookup(
        self, target: str, source: str, stamps_m: np.ndarray, by_recording: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return T_target_source (m, 4, 4) at stamps, and which of them are known (m,).

        Args:
            target: Frame into which the transforms take points.
            source: Frame of the points; `is_connected` with the target.
            stamps_m: Stamps, ns.
            by_recording: Compare stamps with recording times, not with those of the headers.
        """
        to_source, to_target = self._links(source), self._links(target)
        shared = set(to_source) & set(to_target)  # above the common ancestor
        known_m = np.ones(len(stamps_m), bool)
        products = []
        for links in (to_target, to_source):
            T_ancestor_frame = np.tile(np.eye(4), (len(stamps_m), 1, 1))
            for link in links:
                if link in shared:
                    break
                T_m44, is_known_m = self._at(link, stamps_m, by_recording)
                T_ancestor_frame = T_m44 @ T_ancestor_frame
                known_m &= is_known_m
            products.append(T_ancestor_frame)
        T_ancestor_target, T_ancestor_source = products
        return np.linalg.inv(T_ancestor_target) @ T_ancestor_source, known_m

    def _at(
        self, link: tuple[str, str], stamps_m: np.ndarray, by_recording: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return T_parent_child (m, 4, 4) of a link, and which of them are known (m,)."""
        trajectory = self._samples[link].trajectory(by_recording)
        if link in self._static:
            stamps_m = trajectory.stamps_n[-1:].repeat(len(stamps_m))
        return trajectory.at(stamps_m, _MAX_TF_GAP_NS, _MAX_TF_GAP_NS)

    def _parents(self) -> dict[str, str]:
        """Return the parent of each frame; of several, that of most transforms."""
        links = sorted(reversed(self._samples), key=lambda link: len(self._samples[link]))
        return {child: parent for child, parent in links if self._samples[child, parent]}

    def _links(self, frame: str) -> list[tuple[str, str]]:
        """Return the links (child, parent) from a frame up to the root."""
        chain = self.ancestors(frame)
        return list(zip(chain, chain[1:], strict=False))
