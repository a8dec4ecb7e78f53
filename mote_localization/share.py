"""The package's share folder: DDS profiles, parameters, RViz configuration."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from mote_localization.errors import MoteError

_PACKAGE = "mote_localization"


def share_file(name: str) -> Path:
    """Return the path of a file such as `config/fastdds.xml`, in the source tree or installed.

    Raises:
        MoteError: It is in neither place.
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
        f"{name}: not found in {', '.join(map(str, folders))[:160]}; install {_PACKAGE} again, or "
        "source its workspace"
    )
