"""Several processes that train together, each on a device of its own, as `torchrun` starts them.

`fabric run` starts them by it, too.
"""

import os


def started_together() -> bool:
    """Return whether this process has been started as one of several, or might have been."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def rank() -> int:
    """Return which of them this process is; 0: the one that measures, writes and shows."""
    return int(os.environ["RANK"]) if started_together() else 0


def processes() -> int:
    """Return how many there are."""
    return int(os.environ["WORLD_SIZE"]) if started_together() else 1
