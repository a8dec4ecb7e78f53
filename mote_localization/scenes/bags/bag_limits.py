"""Limits for rosbags and apsw, which read recordings and have no limits of their own.

A recording of some KB can state or contain gigabytes: as a compressed file, a chunk, a message or
a row of a database. Importing this module replaces functions and classes of rosbags by ones with
limits. Their names are not public, so `pyproject.toml` pins the versions of rosbags.
"""

import os
import re
import shutil
import tempfile
from importlib import import_module
from importlib.metadata import version
from io import BytesIO
from types import ModuleType, SimpleNamespace
from typing import Any

import yaml
from rosbags.rosbag2 import Reader, metadata, reader, storage_mcap, storage_sqlite3

from mote_localization.errors import BagError
from mote_localization.input_files import check_yaml

_MAX_BYTES = 64 << 20  # of a message, and of a chunk of messages
_MAX_OVERLAPPING_BYTES = 256 << 20  # of chunks of the same time, which are read together
_MAX_RATIO = 100  # of the size of a file to its compressed size, beyond `_MAX_BYTES`
_MIN_FREE_BYTES = 1 << 30  # that a decompressed file leaves on the disk
MAX_YAML_BYTES = 3 << 20  # of metadata.yaml
MAX_YAML_VALUES = 150_000  # of 10,000 storage files; they take some seconds


def _private(module: ModuleType, name: str) -> Any:
    """Return a name of a module of rosbags that is not public.

    Raises:
        ImportError: The module has no such name; without the limits, no recording is opened.
    """
    if not hasattr(module, name):
        raise ImportError(
            f"{module.__name__} of rosbags {version('rosbags')} has no {name}, which Mote limits; "
            "install another version: pip install 'rosbags>=0.11,<0.12'"
        )
    return getattr(module, name)


def _replace(name: str, limited: Any, *modules: ModuleType) -> None:
    """Replace a name of modules of rosbags; raise `ImportError` where there is none."""
    for module in modules:
        _private(module, name)
        setattr(module, name, limited)


_Yaml: Any = _private(reader, "YAML")
_zstd: Any = _private(reader, "zstd")
_lz4: Any = import_module("lz4.frame")
_apsw: Any = _private(storage_sqlite3, "apsw")


class _MetadataLoader(getattr(yaml, "CBaseLoader", yaml.BaseLoader)):  # type: ignore[misc]
    """A loader of texts, integers, booleans and null, much faster than the parser of rosbags."""


_MetadataLoader.add_implicit_resolver("int", re.compile(r"[-+]?\d{1,20}\Z"), [*"-+0123456789"])
_MetadataLoader.add_implicit_resolver(
    "bool", re.compile(r"(true|True|TRUE|false|False|FALSE)\Z"), [*"tTfF"]
)
_MetadataLoader.add_implicit_resolver("null", re.compile(r"(null|Null|NULL|~|)\Z"), [*"nN~", ""])
_MetadataLoader.add_constructor("null", lambda _, node: None)
_MetadataLoader.add_constructor("int", lambda _, node: int(node.value))
_MetadataLoader.add_constructor("bool", lambda _, node: node.value.lower() == "true")


class _LimitedYaml(_Yaml):
    """A parser of metadata.yaml, and of the profiles of QoS in it and in storage files."""

    def load(self, text: str) -> Any:
        """Return the values; raise `ValueError` if there are too many."""
        if len(text) > MAX_YAML_BYTES:
            raise ValueError(f"its YAML is larger than {MAX_YAML_BYTES >> 20} MiB")
        check_yaml(text, MAX_YAML_VALUES)
        return yaml.load(text, _MetadataLoader)


class _LimitedZstdFile(_zstd.ZstdFile):
    """A compressed file that ends with an error where it becomes too large for the disk."""

    def __init__(self, file: Any, mode: str) -> None:
        super().__init__(file, mode)
        max_bytes = _MAX_BYTES + _MAX_RATIO * os.fstat(file.fileno()).st_size
        disk = shutil.disk_usage(tempfile.gettempdir())
        free = disk.free - min(_MIN_FREE_BYTES, disk.total // 10)
        self._left, self._name = min(max_bytes, free), file.name

    def read(self, size: int | None = -1) -> bytes:
        """Return the next bytes, decompressed."""
        content: bytes = super().read(size)
        self._left -= len(content)
        if self._left < 0:
            raise BagError(
                f"{self._name}: is too large when decompressed; if you trust it, decompress it: "
                "unzstd, on a disk with enough space, and `ros2 bag reindex` on its folder"
            )
        return content


def _read_all(file: Any) -> bytes:
    """Return the decompressed content of a chunk or a message."""
    with file:
        content: bytes = file.read(_MAX_BYTES + 1)
    if len(content) > _MAX_BYTES:
        raise ValueError(f"a message or chunk has over {_MAX_BYTES >> 20} MiB, expected less")
    return content


def _decompress_zstd(content: bytes) -> bytes:
    return _read_all(_zstd.ZstdFile(BytesIO(content)))


def _decompress_lz4(content: bytes) -> bytes:
    return _read_all(_lz4.open(BytesIO(content)))


def check_chunks(opened: Reader) -> None:
    """Check the chunks of an open recording: those of the same time are in memory together.

    Raises:
        BagError: They are too large.
    """
    for storage in getattr(opened.storage, "storages", [opened.storage]):
        events = []
        for chunk in getattr(storage, "chunks", ()):
            size = max(chunk.uncompressed_size, chunk.compressed_size)
            events.append((chunk.message_start_time, 1, size))
            events.append((chunk.message_end_time, 2, -size))
        live = 0
        for _, _, size in sorted(events):
            live += size
            if size > _MAX_BYTES or live > _MAX_OVERLAPPING_BYTES:
                raise BagError(
                    f"{storage.path}: found chunks of {live >> 20} MiB for the same time, expected "
                    f"at most {_MAX_OVERLAPPING_BYTES >> 20} MiB, and {_MAX_BYTES >> 20} MiB each"
                )


def _limit_values(connection: Any) -> None:
    connection.limit(_apsw.SQLITE_LIMIT_LENGTH, _MAX_BYTES)


_replace("YAML", _LimitedYaml, reader, metadata)
_limited_zstd = SimpleNamespace(
    **{**vars(_zstd), "open": _LimitedZstdFile, "decompress": _decompress_zstd}
)  # the writer uses the other names of the module
_replace("zstd", _limited_zstd, reader, storage_mcap)
_replace("lz4_decompress", _decompress_lz4, storage_mcap)
_apsw.connection_hooks.append(_limit_values)
