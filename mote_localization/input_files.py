"""Reading of files that may come from anybody: regular files, up to a size; limits of YAML."""

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

import yaml

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # faster, where it is installed
_MAX_VALUES = 1_000_000  # of YAML
_MAX_DEPTH = 20  # levels of lists and mappings; deep ones take very long to parse


def open_input(path: Path | str) -> BinaryIO:
    """Open a regular file for reading.

    Raises:
        OSError: It cannot be opened, or is a folder, a device or a pipe, also behind a link.
    """
    # without O_NONBLOCK, opening a pipe would wait for its writer
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    mode = os.fstat(handle).st_mode
    if not stat.S_ISREG(mode):
        os.close(handle)
        number = errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL
        reason = os.strerror(number) if stat.S_ISDIR(mode) else "is no regular file"
        raise OSError(number, reason, str(path))
    return os.fdopen(handle, "rb")


def check_input(path: Path | str) -> None:
    """Check that a path is a regular file, before a library opens it.

    Raises:
        OSError: As of `open_input`.
    """
    open_input(path).close()


def read_input(path: Path | str, max_bytes: int) -> bytes:
    """Return the content of a regular file.

    Raises:
        OSError: As of `open_input`, or it is larger than `max_bytes`.
    """
    with open_input(path) as file:
        size = os.fstat(file.fileno()).st_size
        content = file.read(min(size, max_bytes) + 1)
    if max(size, len(content)) > max_bytes:
        limit = f"{max_bytes >> 20} MiB" if max_bytes >> 20 else f"{max_bytes >> 10} KiB"
        raise OSError(errno.EFBIG, f"is larger than {limit}", str(path))
    return content


def check_yaml(text: str | bytes, max_values: int = _MAX_VALUES) -> None:
    """Check that YAML stays small when its aliases (*name) are expanded, and has no deep levels.

    Args:
        text: The YAML.
        max_values: Largest number of values, keys, lists and mappings.

    Raises:
        ValueError: It has.
        yaml.YAMLError: It is no YAML.
    """
    sizes: dict[str, int] = {}  # values of what has an anchor (&name), expanded
    levels: list[tuple[str | None, int]] = [(None, 0)]  # anchor and size of the open collections
    for event in yaml.parse(text, _LOADER):
        anchor, size = getattr(event, "anchor", None), 1
        if isinstance(event, yaml.CollectionStartEvent):
            levels.append((anchor, size))
            if len(levels) > _MAX_DEPTH:
                raise ValueError(f"found more than {_MAX_DEPTH} levels, expected fewer")
            continue
        if isinstance(event, yaml.CollectionEndEvent):
            anchor, size = levels.pop()
        elif isinstance(event, yaml.AliasEvent):
            size, anchor = sizes.get(anchor or "", 1), None
        elif not isinstance(event, yaml.ScalarEvent):
            continue
        if anchor:
            sizes[anchor] = size
        outer, before = levels[-1]
        levels[-1] = outer, before + size
        if before + size > max_values:
            raise ValueError(f"has over {max_values} values with its aliases, expected fewer")
