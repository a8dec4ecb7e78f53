"""Engines: networks compiled for one GPU, kept so that a machine builds each of them once."""

import fcntl
import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from mote_localization.files import atomic_write

_log = logging.getLogger(__name__)
_FORMAT = 1
_MAX_HEADER_BYTES = 4096
_MAX_ENGINE_BYTES = 1 << 30
_MOST = 32  # engines that are kept; those used longest ago make room


@dataclass(frozen=True)
class EngineKey:
    """All that an engine depends on: where one of these differs, it is another engine."""

    graph_sha256: str  # as it is built: the map's, in other types perhaps
    builder: str  # library and version
    gpu: str  # compute capability, and name where the engine is for that very GPU
    precision: str

    def file_name(self) -> str:
        """Return the name of the file that holds the engine."""
        return f"{hashlib.sha256(json.dumps(asdict(self)).encode()).hexdigest()[:32]}.engine"


def cache_folder() -> Path:
    """Return where engines are kept: `$XDG_CACHE_HOME/mote`, by default `~/.cache/mote`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mote"


def load_or_build(key: EngineKey, build: Callable[[], bytes], anew: bool = False) -> bytes:
    """Return an engine: the kept one where it is sound, else one that is built now and kept.

    Processes that need the same engine at the same time build it once. Where it cannot be kept, a
    warning says so, and it is built anew the next time.

    Args:
        key: What is wanted.
        build: Builds it.
        anew: Build it even where one is kept.

    Raises:
        Exception: Whatever `build` raises; nothing is kept then.
    """
    path = cache_folder() / key.file_name()
    engine = None if anew else _read(path, key)
    if engine is None:
        with _alone(path.with_suffix(".lock")):
            if not anew:
                engine = _read(path, key)  # another process may have built it meanwhile
            if engine is None:
                engine = build()
                _keep(path, key, engine)
    return engine


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Keep other processes out; where nothing can be written, nobody else writes either."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = open(path, "w")
    except OSError:
        yield
        return
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _log.warning("another process builds the same engine; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError as error:  # a file system without locks
            _log.warning("%s: no lock (%s): others may build the engine too", path, error.strerror)
        yield


def _read(path: Path, key: EngineKey) -> bytes | None:
    """Return a kept engine; None where there is none, or it is torn or another."""
    try:
        with open(path, "rb") as file:
            header = json.loads(file.readline(_MAX_HEADER_BYTES))
            size = os.fstat(file.fileno()).st_size - file.tell()
            if header != _header(key, header["sha256"]) or not 0 < size <= _MAX_ENGINE_BYTES:
                raise ValueError("is another engine")
            engine = file.read()
        if hashlib.sha256(engine).hexdigest() != header["sha256"]:
            raise ValueError("is damaged")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        _log.warning("%s: the kept engine cannot be used (%s); it is built anew", path, error)
        return None
    with suppress(OSError):  # as where another user put it
        os.utime(path)  # it is in use
    return engine


def _keep(path: Path, key: EngineKey, engine: bytes) -> None:
    """Write an engine, whole or not at all, and remove those used longest ago beyond the most."""
    header = _header(key, hashlib.sha256(engine).hexdigest())
    try:
        with atomic_write(path) as file:
            file.write(json.dumps(header).encode() + b"\n" + engine)
    except OSError as error:
        _log.warning(
            "%s: the engine cannot be kept (%s): it is built anew at every start; set "
            "XDG_CACHE_HOME to a folder that can be written",
            path.parent,
            error.strerror,
        )
    with suppress(OSError):  # another process may do the same
        kept = sorted(path.parent.glob("*.engine"), key=lambda p: p.stat().st_mtime, reverse=True)
        for old in kept[_MOST:]:
            old.unlink(missing_ok=True)  # its lock stays: another process may hold it


def _header(key: EngineKey, sha256: str) -> dict[str, object]:
    """Return what the first line of an engine's file says."""
    return {"mote_engine": _FORMAT, **asdict(key), "sha256": sha256}
