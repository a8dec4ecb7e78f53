"""Files to write: checked before the work, replaced completely or not at all."""

import errno
import fcntl
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from mote_localization.errors import MoteError

# errors of file systems without locks
_LOCKS_UNSUPPORTED = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)
_NOT_REGULAR = "is no regular file, expected a file or a new name"


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
            raise MoteError(f"{option} {path}: {_NOT_REGULAR}")
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
        raise error(f"{path}: {_NOT_REGULAR}{advice}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        opened, temporary = _open_locked(path)
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


def _open_locked(path: Path) -> tuple[BinaryIO, Path]:
    """Open and lock a temporary file in the folder of a path; return the file and its own path.

    Its name is the same each time, so that the next process overwrites what a killed one has left.
    It has a random name instead if the file of that name is locked by another process, is a link,
    belongs to another user, or cannot be opened or locked.
    """
    temporary = path.with_name(f".{path.name}.part")
    flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    with suppress(OSError):
        while True:
            file = os.fdopen(os.open(temporary, flags, 0o666), "wb")
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                status = os.fstat(file.fileno())
                is_own = status.st_uid == os.geteuid() and status.st_nlink <= 1
                if not (stat.S_ISREG(status.st_mode) and is_own):
                    raise PermissionError
                with suppress(FileNotFoundError):
                    if os.path.samestat(status, os.stat(temporary, follow_symlinks=False)):
                        file.truncate()
                        return file, temporary
            except OSError as error:
                file.close()
                if error.errno in _LOCKS_UNSUPPORTED:
                    temporary.unlink(missing_ok=True)
                raise
            file.close()  # another process has renamed the file before it was locked
    handle, random_name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    mask = os.umask(0)  # reading it requires setting it
    os.umask(mask)
    os.fchmod(handle, 0o666 & ~mask)
    return os.fdopen(handle, "wb"), Path(random_name)
