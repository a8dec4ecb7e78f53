"""Publishers, subscriptions, services and timers of a node that end together."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from rclpy.clock import Clock, ClockType, JumpThreshold
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile
from rclpy.subscription import Subscription


class Entities:
    """Creates what a node offers, and destroys all of it at once."""

    def __init__(self, node: Node) -> None:
        """Start with nothing."""
        self._node, self._stack = node, ExitStack()

    def publisher(self, kind: type, topic: str, qos: QoSProfile | int) -> Publisher:
        """Create a publisher."""
        publisher: Publisher = self._node.create_publisher(kind, topic, qos)
        self._stack.callback(self._node.destroy_publisher, publisher)
        return publisher

    def subscription(
        self, kind: type, topic: str, callback: Callable[[Any], None], qos: QoSProfile | int
    ) -> Subscription:
        """Create a subscription."""
        subscription = self._node.create_subscription(kind, topic, callback, qos)
        self._stack.callback(self._node.destroy_subscription, subscription)
        return subscription

    def service(self, kind: type, name: str, callback: Callable[[Any, Any], Any]) -> None:
        """Create a service."""
        service = self._node.create_service(kind, name, callback)
        self._stack.callback(self._node.destroy_service, service)

    def timer(self, period_s: float, callback: Callable[[], None]) -> None:
        """Create a timer on a steady clock: it also runs without /clock."""
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        timer = self._node.create_timer(period_s, callback, clock=steady)
        self._stack.callback(self._node.destroy_timer, timer)

    def clock_jump(self, callback: Callable[[Any], None]) -> None:
        """Call a function when the ROS clock jumps back or changes its source."""
        backward = Duration(nanoseconds=-1)
        threshold = JumpThreshold(min_forward=None, min_backward=backward, on_clock_change=True)
        handle = self._node.get_clock().create_jump_callback(threshold, post_callback=callback)
        self._stack.callback(handle.unregister)

    def close(self) -> None:
        """Destroy everything, the last first."""
        self._stack.close()
