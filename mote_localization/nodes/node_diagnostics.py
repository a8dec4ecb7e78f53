"""Publishes the state of the node on /diagnostics, by the conventions of diagnostic_updater."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Mapping

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.clock import ROSClock
from rclpy.node import Node

from mote_localization.localization_statistics import LocalizationStatistics
from mote_localization.nodes.entities import Entities

_PERIOD_S = 1.0
_SILENT_S = 5.0  # without a pose for so long, the node reports a problem
_PAGE_BYTES = resource.getpagesize()


class NodeDiagnostics:
    """Publishes once a second, also where no image and no /clock arrives."""

    def __init__(
        self,
        node: Node,
        entities: Entities,
        hardware: str,
        constants: Mapping[str, str],
        statistics: LocalizationStatistics,
        faults: Callable[[], list[str]],
    ) -> None:
        """Start to publish.

        Args:
            node: The node that publishes.
            entities: To which its publisher and its timer belong.
            hardware: Hardware id of the status: the scene of the map.
            constants: Values that do not change.
            statistics: Of the images.
            faults: Returns what the node cannot do at present.
        """
        self._node, self._hardware, self._constants = node, hardware, constants
        self._statistics, self._faults = statistics, faults
        self._publisher = entities.publisher(DiagnosticArray, "/diagnostics", 10)
        entities.timer(_PERIOD_S, self._publish)

    def _publish(self) -> None:
        now_s = time.monotonic()
        faults = self._faults()
        problem = self._statistics.problem(now_s, _SILENT_S)
        level, message = DiagnosticStatus.OK, "localized"
        if faults:
            level, message = DiagnosticStatus.ERROR, "; ".join(faults)
        elif problem:
            level, message = DiagnosticStatus.WARN, problem
        values = {**self._statistics.values(now_s), **self._constants, "memory_mb": _memory_mb()}
        array = DiagnosticArray(
            status=[
                DiagnosticStatus(
                    level=level,
                    name=f"{self._node.get_fully_qualified_name()}: state",
                    hardware_id=self._hardware,
                    message=message,
                    values=[KeyValue(key=key, value=value) for key, value in values.items()],
                )
            ]
        )
        array.header.stamp = self._node.get_clock().now().to_msg()
        self._publisher.publish(array)


def clock_fault(node: Node) -> str:
    """Return that the node waits for /clock in vain; empty: it does not."""
    clock = node.get_clock()
    if isinstance(clock, ROSClock) and clock.ros_time_is_active and clock.now().nanoseconds == 0:
        return "use_sim_time is set, and nothing publishes /clock (mote replay --clock does)"
    return ""


def _memory_mb() -> str:
    with open("/proc/self/statm", encoding="ascii") as file:
        return f"{int(file.read().split()[1]) * _PAGE_BYTES / 1e6:.0f}"
