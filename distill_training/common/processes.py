"""Rank and number of processes that train together, one per device.

`torchrun` starts them, and `fabric run` uses it.
"""

import os


def started_together() -> bool:
    """Return whether `torchrun` started this process, as one of several or alone."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def rank() -> int:
    """Return the rank of this process; rank 0 measures, writes files and prints."""
    return int(os.environ["RANK"]) if started_together() else 0


def processes() -> int:
    """Return the number of processes."""
    return int(os.environ["WORLD_SIZE"]) if started_together() else 1
