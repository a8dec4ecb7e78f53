"""The service ~/localize: one pose now, whose answer waits for the next image."""

from __future__ import annotations

import math
import threading
import time

from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.task import Future
from std_srvs.srv import Trigger

_TIMEOUT_S = 3.0  # without an image
_CHECK_S = 0.2


class PoseRequests:
    """Answers requests with what becomes of the next image that is localized after them.

    The service lives as long as its node, because a request may wait when the node is deactivated.
    """

    def __init__(self, node: Node) -> None:
        """Advertise the service."""
        self._node, self._lock = node, threading.Lock()
        self._waiting: list[tuple[float, Future]] = []  # monotonic time of the end, s; answer
        self._refusal = "the node is not active"
        # a waiting coroutine blocks the other callbacks of its group
        group = ReentrantCallbackGroup()
        node.create_service(Trigger, "~/localize", self._on_request, callback_group=group)
        node.create_timer(_CHECK_S, self._check, group, Clock(clock_type=ClockType.STEADY_TIME))

    @property
    def waiting(self) -> bool:
        """Whether an image is to be localized for a request."""
        return bool(self._waiting)

    def open(self) -> None:
        """Accept requests."""
        self._refusal = ""

    def close(self, reason: str) -> None:
        """Refuse all requests, those that wait and later ones, for a reason."""
        self._refusal = reason
        self.answer(False, reason)

    def answer(self, success: bool, message: str, asked_before_s: float = math.inf) -> None:
        """Answer those that wait since before a monotonic time, s; from any thread."""
        self._answer(success, message, asked_before_s + _TIMEOUT_S)

    def _answer(self, success: bool, message: str, before_s: float) -> None:
        """Answer those that wait, and whose end is before a monotonic time, s."""
        with self._lock:
            waiting = [one for one in self._waiting if one[0] < before_s]
            self._waiting = [one for one in self._waiting if one[0] >= before_s]
        for _, future in waiting:
            future.set_result((success, message))
        executor = self._node.executor
        if waiting and executor is not None:
            executor.wake()  # it does not notice results of other threads

    def abandon(self) -> None:
        """Leave those that wait without an answer: the service is about to be destroyed."""
        with self._lock:
            self._waiting = []

    async def _on_request(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        response.success, response.message = False, self._refusal
        if not self._refusal:
            future: Future = Future()
            with self._lock:
                self._waiting.append((time.monotonic() + _TIMEOUT_S, future))
            response.success, response.message = await future or (False, "")
        return response

    def _check(self) -> None:
        """Answer requests that have waited too long."""
        reason = f"no image was localized within {_TIMEOUT_S:g} s"
        self._answer(False, reason, time.monotonic())
