"""Cache of TensorRT engines: each network is compiled once per GPU on a machine."""

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from filelock import FileLock, Timeout
from platformdirs import user_cache_path

from mote_localization.errors import MoteError
from mote_localization.files import atomic_write

_log = logging.getLogger(__name__)
_FORMAT = 1
_MAX_HEADER_BYTES = 4096
_MAX_ENGINE_BYTES = 1 << 30
_MAX_ENGINES = 32  # in the cache; the least recently used ones are removed


@dataclass(frozen=True)
class EngineKey:
    """Everything that an engine depends on."""

    graph_sha256: str  # of the graph that is compiled, after the conversion of its types
    builder: str  # library and version
    gpu: str  # compute capability, and the name if the engine is for that model only
    precision: str

    def file_name(self) -> str:
        """Return the name of the engine's file in the cache."""
        return f"{hashlib.sha256(json.dumps(asdict(self)).encode()).hexdigest()[:32]}.engine"


def cache_folder() -> Path:
    """Return the folder of the cache: `$XDG_CACHE_HOME/mote`, by default `~/.cache/mote`."""
    return user_cache_path("mote", appauthor=False)


def load_or_build(key: EngineKey, build: Callable[[], bytes], rebuild: bool = False) -> bytes:
    """Return an engine from the cache, or build it and store it there.

    Processes that need the same engine at the same time build it once. If the cache cannot be
    written, a warning is logged and the engine is built each time.

    Args:
        key: Identifies the engine.
        build: Builds the engine.
        rebuild: Build the engine even if the cache has it.

    Raises:
        Exception: Any error of `build`; nothing is stored then.
    """
    path = cache_folder() / key.file_name()
    engine = None if rebuild else _read(path, key)
    if engine is None:
        with _locked(path.with_suffix(".lock")):
            if not rebuild:
                engine = _read(path, key)  # another process may have built it meanwhile
            if engine is None:
                engine = build()
                _store(path, key, engine)
    return engine


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock between processes; without it where the file system does not allow locks."""
    lock = FileLock(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            _log.warning("another process builds the same engine; waiting for it")
            lock.acquire()
    except (OSError, NotImplementedError) as error:
        _log.warning("%s: no lock (%s): other processes may build the engine too", path, error)
    try:
        yield
    finally:
        lock.release()


def _read(path: Path, key: EngineKey) -> bytes | None:
    """Return an engine from the cache; None if it is missing, damaged, or has another key."""
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
        _log.warning(
            "%s: the cached engine cannot be used (%s); it is built again", path, str(error)[:120]
        )
        return None
    with suppress(OSError):  # the file may belong to another user
        os.utime(path)  # marks it as recently used
    return engine


def _store(path: Path, key: EngineKey, engine: bytes) -> None:
    """Write an engine to the cache and remove the least recently used ones beyond the limit."""
    header = _header(key, hashlib.sha256(engine).hexdigest())
    try:
        with atomic_write(path) as file:
            file.write(json.dumps(header).encode() + b"\n" + engine)
    except MoteError as error:
        _log.warning(
            "the engine cannot be stored: %s; it is built at every start: set XDG_CACHE_HOME to a "
            "writable folder",
            error,
        )
    with suppress(OSError):  # another process may remove files at the same time
        stored = sorted(path.parent.glob("*.engine"), key=lambda p: p.stat().st_mtime, reverse=True)
        for old in stored[_MAX_ENGINES:]:
            old.unlink(missing_ok=True)  # its lock file stays: another process may hold it


def _header(key: EngineKey, sha256: str) -> dict[str, object]:
    """Return the first line of an engine's file, as a dictionary."""
    return {"mote_engine": _FORMAT, **asdict(key), "sha256": sha256}
