"""Atomic file writing: a file is replaced completely or not at all."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from mote_localization.errors import MoteError


@contextmanager
def atomic_write(
    path: Path | str, error: type[MoteError] = MoteError, advice: str = ""
) -> Iterator[BinaryIO]:
    """Open a temporary file in the folder of `path`; rename it to `path` when the block succeeds.

    After an error inside the block, such as a full disk or an interruption, `path` is unchanged and
    the temporary file is removed.

    Args:
        path: The file to write.
        error: Raised if the file cannot be written.
        advice: End of the error's message.

    Raises:
        MoteError: The file cannot be written.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            mask = os.umask(0)  # reading it requires setting it
            os.umask(mask)
            os.chmod(temporary, 0o666 & ~mask)
            os.replace(temporary, path)
        finally:
            Path(temporary).unlink(missing_ok=True)  # exists after an error only
    except OSError as cause:
        raise error(f"{path}: cannot be written ({cause.strerror or cause}){advice}") from cause
