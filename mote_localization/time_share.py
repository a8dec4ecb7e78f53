"""Limits work that delays other work to a share of the time."""


class TimeShare:
    """Allows work at once, then no more before it has taken at most a share of the time.

    Times are seconds of one clock that never goes back.
    """

    def __init__(self, share: float) -> None:
        """Limit work to a share of the time, over 0 and at most 1."""
        self._share = share
        self.reset()

    def reset(self) -> None:
        """Allow the next work at once."""
        self._next_s = float("-inf")

    def allows(self, now_s: float) -> bool:
        """Return whether work may begin."""
        return now_s >= self._next_s

    def add(self, duration_s: float, now_s: float) -> None:
        """Count work that took `duration_s` and has just ended."""
        self._next_s = now_s + duration_s * (1 / self._share - 1)
