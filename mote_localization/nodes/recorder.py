"""Records poses and statuses of a localizer node as JSON lines for `mote evaluate --ros`."""

from __future__ import annotations

import json
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import tyro

from mote_localization.command_line import one_line_errors
from mote_localization.errors import ReplayError
from mote_localization.nodes import process
from mote_localization.stamps import nanoseconds

if TYPE_CHECKING:
    from diagnostic_msgs.msg import DiagnosticArray
    from geometry_msgs.msg import PoseWithCovarianceStamped

_STATUS = {b"\x00": "localized", b"\x01": "lost", b"\x02": "refused"}  # by DiagnosticStatus level
_MAX_INCOMPLETE = 1000  # images that wait for pose or status; beyond, the oldest is written


@dataclass(frozen=True)
class Record:
    """Record poses and statuses of a localizer node until interrupted.

    Writes one line per image: stamp_ns, received_ns (CLOCK_MONOTONIC, of the pose if there is one),
    status (localized, lost, refused), reason, values (inliers, times, ...). Lines of localized
    images also contain frame_id, position, orientation (x y z w) and covariance.
    """

    output: tyro.conf.Positional[Path]  # lines are appended to this file
    node: str = "/localizer"  # name of the localizer node

    def run(self) -> None:
        """Record until SIGINT or SIGTERM."""
        process.block_signals()
        try:
            self._record()
        except OSError as error:
            raise ReplayError(f"{self.output}: cannot be written ({error.strerror})") from error

    def _record(self) -> None:
        with ExitStack() as stack:
            file = stack.enter_context(self.output.open("a", encoding="utf-8", buffering=1))
            stack.enter_context(process.ros_context())

            import rclpy
            from diagnostic_msgs.msg import DiagnosticArray
            from geometry_msgs.msg import PoseWithCovarianceStamped

            node = rclpy.create_node("recorder")
            stack.callback(node.destroy_node)
            answers = _AnswerWriter(file)
            stack.callback(answers.close)
            topics = {"pose": f"{self.node}/pose", "status": f"{self.node}/status"}
            node.create_subscription(
                PoseWithCovarianceStamped, topics["pose"], answers.add_pose, 100
            )
            node.create_subscription(DiagnosticArray, topics["status"], answers.add_status, 100)
            callbacks = stack.enter_context(process.spin_in_thread(node))
            waiting = True
            while not process.stop_requested(0.1):
                if callbacks.done():
                    callbacks.result()  # raises the exception of the callback
                if waiting and all(node.count_publishers(topic) for topic in topics.values()):
                    node.get_logger().info(f"recording {self.node} to {self.output}")
                    waiting = False


@dataclass
class _AnswerWriter:
    """Joins the pose and the status of each image, in any order of arrival, and writes them."""

    file: TextIO
    incomplete: dict[int, dict[str, Any]] = field(default_factory=dict)  # by stamp, ns

    def add_pose(self, pose: PoseWithCovarianceStamped) -> None:
        p, q = pose.pose.pose.position, pose.pose.pose.orientation
        self._add(
            pose.header.stamp,
            frame_id=pose.header.frame_id,
            position=[p.x, p.y, p.z],
            orientation=[q.x, q.y, q.z, q.w],
            covariance=pose.pose.covariance.tolist(),
        )

    def add_status(self, diagnostics: DiagnosticArray) -> None:
        for status in diagnostics.status[:1]:  # the first is of the image, others are of the node
            self._add(
                diagnostics.header.stamp,
                status=_STATUS.get(status.level, "refused"),
                reason=status.message,
                values={value.key: _number(value.key, value.value) for value in status.values},
            )

    def close(self) -> None:
        """Write the images that still wait for a pose or a status."""
        for stamp_ns, answer in self.incomplete.items():
            self._write(stamp_ns, answer)
        self.incomplete.clear()

    def _add(self, stamp: Any, **part: Any) -> None:
        received_ns = time.monotonic_ns()
        stamp_ns = nanoseconds(stamp)
        answer = self.incomplete.setdefault(stamp_ns, {})
        if "position" in part or "received_ns" not in answer:
            answer["received_ns"] = received_ns
        answer.update(part)
        if "status" in answer and (answer["status"] != "localized" or "position" in answer):
            self._write(stamp_ns, self.incomplete.pop(stamp_ns))
        elif len(self.incomplete) > _MAX_INCOMPLETE:
            oldest_ns = next(iter(self.incomplete))
            self._write(oldest_ns, self.incomplete.pop(oldest_ns))

    def _write(self, stamp_ns: int, answer: dict[str, Any]) -> None:
        self.file.write(json.dumps({"stamp_ns": stamp_ns, **answer}) + "\n")


def _number(key: str, text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise ReplayError(
            f"found '{text[:40]}' as value of {key[:40]} in a status, expected a number; "
            "is the publisher another node?"
        ) from error


if __name__ == "__main__":
    with one_line_errors():
        tyro.cli(Record).run()
