"""Time stamps as numbers."""

from typing import Any

import numpy as np


def nanoseconds(stamp: Any) -> int:
    """Return a stamp (builtin_interfaces/Time) in nanoseconds."""
    return stamp.sec * 1_000_000_000 + stamp.nanosec


def stamp_seconds(stamp_ns: int) -> float:
    """Return nanoseconds as float seconds; equal stamps give equal floats."""
    return stamp_ns / 1e9


def nearest(stamps_n: np.ndarray, others_m: np.ndarray) -> np.ndarray:
    """Return the index of the nearest of the other stamps for each stamp, int (n,).

    Args:
        stamps_n: Stamps in any order and unit.
        others_m: Other stamps, in any order and the same unit; at least one.
    """
    order_m = np.argsort(others_m, kind="stable")
    sorted_m = others_m[order_m]
    after_n = np.searchsorted(sorted_m, stamps_n).clip(0, len(others_m) - 1)
    before_n = (after_n - 1).clip(0)
    is_before_n = stamps_n - sorted_m[before_n] <= sorted_m[after_n] - stamps_n
    return order_m[np.where(is_before_n, before_n, after_n)]
