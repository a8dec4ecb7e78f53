"""Files to write: checked before the work, replaced completely or not at all."""

import fcntl
import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from mote_localization.errors import MoteError

_SPECIAL = "is no regular file, expected a file or a new name"


def check_output(path: Path | None, option: str) -> None:
    """Check that a file can be written, before the work whose result it will hold.

    Args:
        path: The file; None: nothing is checked.
        option: The command-line option that names it, for the message.

    Raises:
        MoteError: The path is a folder, a device or a pipe, or its folder is not writable.
    """
    if path is None:
        return
    try:
        if path.is_dir():
            raise MoteError(f"{option} {path}: is a folder, expected the name of a file")
        if _is_special(path):
            raise MoteError(f"{option} {path}: {_SPECIAL}")
        existing = next(folder for folder in path.absolute().parents if folder.exists())
        with tempfile.TemporaryFile(prefix=path.name, dir=existing):
            pass
    except OSError as error:
        raise MoteError(f"{option} {path}: cannot be written ({error.strerror})") from error


def _is_special(path: Path) -> bool:
    """Return whether a path, or what it links to, is a device, a pipe or a socket."""
    return path.exists() and not (path.is_file() or path.is_dir())


@contextmanager
def atomic_write(
    path: Path | str, error: type[MoteError] = MoteError, advice: str = ""
) -> Iterator[BinaryIO]:
    """Open a temporary file in the folder of `path`; rename it to `path` when the block succeeds.

    After an error inside the block, such as a full disk or an interruption, `path` is unchanged and
    the temporary file is removed. That of a killed process is overwritten by the next one.

    Args:
        path: The file to write.
        error: Raised if the file cannot be written.
        advice: End of the error's message.

    Raises:
        MoteError: The file cannot be written, or is a device or a pipe.
    """
    path = Path(path)
    if _is_special(path):
        raise error(f"{path}: {_SPECIAL}{advice}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        opened, temporary = _open_alone(path)
        with opened as file:
            try:
                yield file
                file.flush()
                os.fsync(file.fileno())
                os.replace(temporary, path)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
    except OSError as cause:
        raise error(f"{path}: cannot be written ({cause.strerror or cause}){advice}") from cause


def _open_alone(path: Path) -> tuple[BinaryIO, Path]:
    """Open the temporary file of a path, which no other process writes; return it and its path."""
    temporary = path.with_name(f".{path.name}.part")
    while True:
        file = _open(temporary)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if temporary.exists() and os.path.samestat(os.fstat(file.fileno()), temporary.stat()):
                file.truncate()
                return file, temporary
        except BlockingIOError:  # another process writes it
            file.close()
            break
        except OSError:  # the file system has no locks
            file.close()
            temporary.unlink(missing_ok=True)
            break
        file.close()  # another process has renamed it
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.part")
    return _open(temporary), temporary


def _open(path: Path) -> BinaryIO:
    flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    return os.fdopen(os.open(path, flags, 0o666), "wb")
