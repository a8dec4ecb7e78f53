"""The files beside the code: DDS profiles, parameters, RViz configuration."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from mote_localization.errors import MoteError

_PACKAGE = "mote_localization"


def share_file(name: str) -> Path:
    """Return a shared file, such as `config/fastdds.xml`, of the source tree or the installation.

    Raises:
        MoteError: it is in neither.
    """
    prefixes = [*os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep), sys.prefix]
    folders = [
        Path(__file__).resolve().parents[1],
        *(Path(prefix) / "share" / _PACKAGE for prefix in prefixes if prefix),
    ]
    for folder in folders:
        if (folder / name).is_file():
            return folder / name
    raise MoteError(
        f"{name}: not found in {', '.join(map(str, folders))}; install {_PACKAGE} again, or source "
        "its workspace"
    )
