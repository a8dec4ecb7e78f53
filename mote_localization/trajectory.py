"""Poses over time: interpolation."""

from dataclasses import dataclass

import numpy as np

from mote_localization.geometry import poses_from


@dataclass(frozen=True)
class Trajectory:
    """Poses over time, one per stamp, in the order of their stamps."""

    stamps_n: np.ndarray  # ns, int64, increasing
    positions_n3: np.ndarray  # m
    quaternions_n4: np.ndarray  # x y z w, unit length

    def at(self, stamps_m: np.ndarray, reach_ns: int, gap_ns: int) -> tuple[np.ndarray, np.ndarray]:
        """Return poses T_m44 at stamps, and which of them are known (m,).

        A pose at a recorded stamp is the recorded one. Between two stamps, the position is linear
        in time and the rotation follows the shortest arc (Shoemake 1985).

        Args:
            stamps_m: Stamps, ns, in any order.
            reach_ns: Longest time between a stamp and each of its two neighbours.
            gap_ns: Longest time between these neighbours.
        """
        T_m44 = np.tile(np.eye(4), (len(stamps_m), 1, 1))
        if not len(self.stamps_n):
            return T_m44, np.zeros(len(stamps_m), bool)
        last = len(self.stamps_n) - 1
        after_m = np.searchsorted(self.stamps_n, stamps_m).clip(0, last)
        exact_m = self.stamps_n[after_m] == stamps_m
        before_m = np.where(exact_m, after_m, (after_m - 1).clip(0))
        from_before_m = stamps_m - self.stamps_n[before_m]
        to_after_m = self.stamps_n[after_m] - stamps_m
        gaps_m = from_before_m + to_after_m
        known_m = (np.minimum(from_before_m, to_after_m) >= 0) & (gaps_m <= gap_ns)
        known_m &= np.maximum(from_before_m, to_after_m) <= reach_ns
        ratio_m1 = (from_before_m / np.maximum(gaps_m, 1)).clip(0, 1)[:, None]
        start_m3, end_m3 = self.positions_n3[before_m], self.positions_n3[after_m]
        positions_m3 = start_m3 + ratio_m1 * (end_m3 - start_m3)
        quaternions_m4 = _slerp(
            self.quaternions_n4[before_m], self.quaternions_n4[after_m], ratio_m1
        )
        T_m44[known_m] = poses_from(positions_m3[known_m], quaternions_m4[known_m])
        return T_m44, known_m


def _slerp(start_n4: np.ndarray, end_n4: np.ndarray, ratio_n1: np.ndarray) -> np.ndarray:
    """Return unit quaternions on the shortest arcs between two rotations (Shoemake 1985)."""
    cosine_n1 = (start_n4 * end_n4).sum(axis=1, keepdims=True)
    end_n4 = np.where(cosine_n1 < 0, -end_n4, end_n4)
    angle_n1 = np.arccos(np.abs(cosine_n1).clip(0, 1))
    sine_n1 = np.sin(angle_n1)
    near_n1 = sine_n1 < 1e-6  # the chord differs from the arc by less than rounding errors
    sine_n1 = np.where(near_n1, 1, sine_n1)
    weight_n1 = np.where(near_n1, 1 - ratio_n1, np.sin((1 - ratio_n1) * angle_n1) / sine_n1)
    other_n1 = np.where(near_n1, ratio_n1, np.sin(ratio_n1 * angle_n1) / sine_n1)
    return weight_n1 * start_n4 + other_n1 * end_n4
