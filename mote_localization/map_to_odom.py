"""Corrects odometry by poses in the map, and holds back poses that disagree with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from mote_localization.geometry import (
    covariance_at,
    invert,
    is_explained,
    local_coordinates,
    rotation_angle,
)

_MAX_DISORDER_NS = 1_000_000_000  # an older pose is of a clock that has jumped back


@dataclass(frozen=True)
class OdometryConfig:
    """The expected errors of odometry (standard deviations), and how a jump is accepted."""

    position_error: float = 0.1  # per metre moved
    rotation_error: float = 0.1  # per radian turned
    drift_m_s: float = 0.01  # m per second, also at rest: wheels slip, clocks differ
    drift_rad_s: float = 0.01  # rad per second, also at rest
    confirmations: int = 3  # poses that must agree before a jump from odometry is accepted
    # they must also span a motion or a time: images of one place from one pose err alike
    confirming_m: float = 0.05  # m, motion by odometry
    confirming_rad: float = 0.05  # rad, rotation by odometry
    confirming_s: float = 1.0  # s


class Fix(NamedTuple):
    """A pose in the map, and the odometry of the same time."""

    stamp_ns: int
    T_map_base: np.ndarray  # (4, 4)
    covariance_66: np.ndarray  # of T_map_base, see `local_coordinates`
    T_odom_base: np.ndarray  # (4, 4)

    @property
    def T_map_odom(self) -> np.ndarray:
        """The correction of odometry (4, 4)."""
        return self.T_map_base @ invert(self.T_odom_base)


class _Held(NamedTuple):
    """Poses that are held back and agree with each other."""

    first: Fix
    last: Fix
    number: int


class MapToOdom:
    """The correction of odometry, T_map_odom.

    The first pose is accepted. A later one is accepted if it agrees with the last accepted one and
    the odometry since then. One that does not is held back, until `confirmations` poses in a row
    agree with each other, from several places or during a second: then the robot was moved, or
    odometry has failed.
    """

    def __init__(self, config: OdometryConfig) -> None:
        """Start without a pose."""
        self._config = config
        self._accepted: Fix | None = None
        self._held: _Held | None = None

    @property
    def T_map_odom(self) -> np.ndarray | None:
        """The correction of the last accepted pose; None before the first one."""
        return self._accepted.T_map_odom if self._accepted else None

    @property
    def held(self) -> int:
        """Number of poses that are held back and agree with each other."""
        return self._held.number if self._held else 0

    def add(self, fix: Fix) -> str:
        """Add a pose; return why it is held back, empty if it is accepted.

        Poses are added in the order of their stamps. One of an earlier time is held back; one that
        is over a second earlier is of a clock that has jumped back, and the state starts again.
        """
        if self._accepted and fix.stamp_ns < self._accepted.stamp_ns:
            if fix.stamp_ns >= self._accepted.stamp_ns - _MAX_DISORDER_NS:
                return "held back: older than the last pose"
            self.reset()
        if self._accepted is None or self._agree(self._accepted, fix):
            self._accepted, self._held = fix, None
            return ""
        expected = self._expected(self._accepted, fix)
        error_6 = local_coordinates(expected, fix.T_map_base)
        if self._held and self._agree(self._held.last, fix):
            self._held = _Held(self._held.first, fix, self._held.number + 1)
        else:
            self._held = _Held(fix, fix, 1)
        if self._is_confirmed(self._held):
            self._accepted, self._held = fix, None
            return ""
        metres = np.linalg.norm(error_6[:3])
        degrees = np.degrees(np.linalg.norm(error_6[3:]))
        return (
            f"held back: {metres:.2f} m and {degrees:.0f} degrees from where odometry expects it; "
            f"{self._held.number} of {self._config.confirmations} poses agree"
        )

    def reset(self) -> None:
        """Forget all poses: the next one is accepted as the first."""
        self._accepted, self._held = None, None

    def _is_confirmed(self, held: _Held) -> bool:
        """Return whether enough poses agree, and whether they span a motion or a time."""
        config, (first, last, number) = self._config, held
        if number < config.confirmations:
            return False
        moved = invert(first.T_odom_base) @ last.T_odom_base
        return bool(
            np.linalg.norm(moved[:3, 3]) >= config.confirming_m
            or rotation_angle(moved[:3, :3]) >= config.confirming_rad
            or (last.stamp_ns - first.stamp_ns) * 1e-9 >= config.confirming_s
        )

    def _expected(self, before: Fix, after: Fix) -> np.ndarray:
        return before.T_map_odom @ after.T_odom_base

    def _agree(self, before: Fix, after: Fix) -> bool:
        """Return whether two poses differ as odometry does, within the errors of all three."""
        config = self._config
        expected = self._expected(before, after)
        moved = invert(before.T_odom_base) @ after.T_odom_base
        seconds = (after.stamp_ns - before.stamp_ns) * 1e-9
        position_m = config.position_error * np.linalg.norm(moved[:3, 3])
        position_m += config.drift_m_s * seconds
        rotation_rad = config.rotation_error * rotation_angle(moved[:3, :3])
        rotation_rad += config.drift_rad_s * seconds
        odometry_66 = np.diag([position_m**2] * 3 + [rotation_rad**2] * 3)
        lever_3 = expected[:3, 3] - before.T_map_base[:3, 3]
        covariance_66 = covariance_at(before.covariance_66, lever_3)
        covariance_66 += after.covariance_66 + odometry_66
        return is_explained(local_coordinates(expected, after.T_map_base), covariance_66)
