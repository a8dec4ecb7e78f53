"""Warnings that many images cause are not repeated for each of them."""

import itertools
from types import SimpleNamespace

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")

from mote_localization.nodes import warning_log
from mote_localization.nodes.warning_log import WarningLog


def test_the_same_warning_with_other_numbers_is_logged_once_a_minute(monkeypatch):
    lines, clock = [], SimpleNamespace(now=0.0)
    logger = SimpleNamespace(warning=lambda text: lines.append((clock.now, text)))
    monkeypatch.setattr(warning_log.time, "monotonic", lambda: clock.now)
    log = WarningLog(SimpleNamespace(get_logger=lambda: logger))
    for clock.now in range(130):
        log.warn("lost", f"lost: {clock.now} inliers, expected at least 40")
    assert lines == [(s, f"lost: {s} inliers, expected at least 40") for s in (0, 60, 120)]
    lines.clear()
    for clock.now, reason in zip(range(200, 220), itertools.cycle("ab"), strict=False):
        log.warn("lost", f"lost: {reason}")
    assert [text for _, text in lines] == ["lost: a", "lost: b", "lost: a", "lost: b"]


def test_keys_of_messages_take_bounded_memory(monkeypatch):
    lines = []
    logger = SimpleNamespace(warning=lines.append)
    log = WarningLog(SimpleNamespace(get_logger=lambda: logger))
    for i in range(1000):
        log.warn(f"/camera/image_raw: encoding {i}", "not supported")
    assert len(lines) == 1000 and len(log._logged) <= 100
