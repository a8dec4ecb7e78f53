"""Free disk space, checked because COLMAP does not report that a disk is full.

Its database then ends the process, and the files of its models are truncated.
"""

import shutil
from pathlib import Path

from mote_localization.errors import ReconstructionError

_RESERVE_BYTES = 64 << 20  # that stay free, for small files


def check_free_space(folder: Path, needed_bytes: int = 0) -> None:
    """Check that a folder's disk has space.

    Args:
        folder: An existing folder.
        needed_bytes: That will be written, besides small files.

    Raises:
        ReconstructionError: It has less.
    """
    free, needed = shutil.disk_usage(folder).free, needed_bytes + _RESERVE_BYTES
    if free < needed:
        raise ReconstructionError(
            f"{folder}: found {free >> 20} MiB of free disk space, expected {needed >> 20} MiB or "
            "more; delete other files and run the command again: it resumes"
        )
