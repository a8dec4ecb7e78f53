"""ROS time stamps as numbers."""

from typing import Any


def nanoseconds(stamp: Any) -> int:
    """Return a stamp (builtin_interfaces/Time) in nanoseconds."""
    return stamp.sec * 1_000_000_000 + stamp.nanosec


def stamp_seconds(stamp_ns: int) -> float:
    """Return nanoseconds as float seconds; equal stamps give equal floats."""
    return stamp_ns / 1e9
