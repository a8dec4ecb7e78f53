"""Logs warnings that many images cause, without repeating them for each image."""

from __future__ import annotations

import re
import time

from rclpy.node import Node

_PERIOD_S = 5.0  # between two warnings of the same key
_REPEATED_S = 60.0  # and between two that differ in their numbers only
_MAX_KEYS = 100  # some keys come from messages


class WarningLog:
    """Logs a warning at most every 5 s per key, and the same one at most once a minute."""

    def __init__(self, node: Node) -> None:
        """Start with nothing logged."""
        self._node = node
        self._logged: dict[str, tuple[float, str]] = {}  # monotonic time, s, and kind; by key

    def warn(self, key: str, text: str) -> None:
        """Log a warning, unless one of its key or kind was logged just before."""
        now_s, kind = time.monotonic(), without_numbers(text)
        last = self._logged.get(key)  # another thread may clear them
        if last:
            logged_s, last_kind = last
            if now_s - logged_s < (_REPEATED_S if kind == last_kind else _PERIOD_S):
                return
        elif len(self._logged) >= _MAX_KEYS:
            self._logged.clear()
        self._logged[key] = now_s, kind
        self._node.get_logger().warning(text)


def without_numbers(text: str) -> str:
    """Return a text without its numbers, which differ in warnings of the same kind."""
    return re.sub(r"\d[\d.]*", "", text)
