"""Files that two folders share."""

import os
import shutil
from pathlib import Path

from mote_localization.errors import MoteError


def link_or_copy(source: Path, target: Path) -> None:
    """Give a file a second name, or copy it where the file system has no links.

    A file that is replaced by `atomic_write` later does not change the other one.

    Raises:
        MoteError: The file cannot be copied.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(source, target)
        except OSError:
            shutil.copyfile(source, target)
    except OSError as error:
        raise MoteError(f"{target}: cannot be written ({error.strerror or error})") from error
