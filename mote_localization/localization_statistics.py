"""Rates, latencies and losses of a running localizer, in bounded memory; no ROS."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

Outcome = Literal["localized", "lost", "held back", "refused"]

_MINUTE_S = 60.0
_RECENT_S = 10.0  # of rates and latencies
_MAX_ANSWERS = 7200  # a minute at 120 Hz


@dataclass(frozen=True)
class Answered:
    """What became of one image."""

    time_s: float  # monotonic
    outcome: Outcome
    reason: str = ""  # why it has no pose
    seconds: Mapping[str, float] = field(default_factory=dict)  # by stage
    inliers: int = 0


class LocalizationStatistics:
    """Counts the images of the last minute."""

    def __init__(self) -> None:
        """Start without images."""
        self._received_s: deque[float] = deque(maxlen=_MAX_ANSWERS)  # monotonic times
        self._answers: deque[Answered] = deque(maxlen=_MAX_ANSWERS)
        self._dropped = 0

    def add_received(self, time_s: float) -> None:
        """Count an image that arrived with its calibration."""
        self._received_s.append(time_s)

    def add_dropped(self) -> None:
        """Count an image that a newer one replaced before it was localized."""
        self._dropped += 1

    def add_answer(self, answered: Answered) -> None:
        """Count an image that was localized, or not."""
        self._answers.append(answered)

    def problem(self, now_s: float, period_s: float) -> str:
        """Return why no image was localized in a period; empty if one was.

        Args:
            now_s: Monotonic time.
            period_s: Length of the period up to now, s.
        """
        recent = [one for one in list(self._answers) if now_s - one.time_s <= period_s]
        if not recent:
            return f"no image was localized for {period_s:g} s"
        if any(one.outcome == "localized" for one in recent):
            return ""
        kinds = Counter(one.outcome for one in recent)
        found = ", ".join(f"{count} {outcome}" for outcome, count in kinds.items())
        return f"none of the last {len(recent)} images has a pose ({found}): {recent[-1].reason}"

    def values(self, now_s: float) -> dict[str, str]:
        """Return the figures, by name; names end in the unit.

        Args:
            now_s: Monotonic time.
        """
        minute = [one for one in list(self._answers) if now_s - one.time_s <= _MINUTE_S]
        recent = [one for one in minute if now_s - one.time_s <= _RECENT_S]
        received = sum(now_s - time_s <= _RECENT_S for time_s in list(self._received_s))
        localized = [one for one in recent if one.outcome == "localized"]
        values = {
            "received_hz": f"{received / _RECENT_S:.1f}",
            "localized_hz": f"{len(localized) / _RECENT_S:.1f}",
            "dropped": str(self._dropped),
        }
        if minute:
            kinds = Counter(one.outcome for one in minute)
            for outcome in ("localized", "lost", "held back", "refused"):
                name = f"{outcome.replace(' ', '_')}_last_minute_percent"
                values[name] = f"{100 * kinds[outcome] / len(minute):.1f}"
        if localized:
            values["inliers_median"] = f"{np.median([one.inliers for one in localized]):.0f}"
        for stage in dict.fromkeys(stage for one in recent for stage in one.seconds):
            ms_n = [1e3 * one.seconds[stage] for one in recent if stage in one.seconds]
            p50, p95 = np.percentile(ms_n, (50, 95))
            values[f"{stage}_ms"] = f"p50 {p50:.1f}, p95 {p95:.1f}, max {max(ms_n):.1f}"
        return values
