"""Opens the files of recordings, with or without metadata.yaml, and reads their messages."""

from __future__ import annotations

import errno
import os
import re
import threading
import weakref
from collections.abc import Collection, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from natsort import natsorted
from rosbags.interfaces import Connection
from rosbags.rosbag2 import Reader

from mote_localization.errors import BagError, MoteError, first_line
from mote_localization.input_files import check_yaml, open_input, read_input
from mote_localization.scenes.bags.bag_limits import MAX_YAML_BYTES, MAX_YAML_VALUES, check_chunks

STORAGES = {".mcap": "mcap", ".db3": "sqlite3"}  # by the suffix of a file
_MCAP_MAGIC = b"\x89MCAP0\r\n"  # at the begin and at the end of a file
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_ADVICE_ON_SIZE = (
    "; move a part of the storage files to another folder and run `ros2 bag reindex` in both, or "
    "rename metadata.yaml: storage files that are not compressed are read without it"
)
_MAX_SKIPPED = 8  # messages that a cursor skips to the next one, rather than starting again


@dataclass(frozen=True, order=True)
class BagTopic:
    """A topic of a recording."""

    name: str
    msgtype: str  # as sensor_msgs/msg/Image
    count: int  # messages
    latched: bool  # recorded with the durability TRANSIENT_LOCAL, as /tf_static


class BagReader:
    """An open recording: one folder with metadata.yaml, or one or several storage files."""

    def __init__(self, readers: list[Reader], storage: str) -> None:
        self._readers = readers
        self.storage = storage  # for tables, as "mcap"
        filled = [reader for reader in readers if reader.message_count]
        self.message_count = sum(reader.message_count for reader in filled)
        start_ns = min((reader.start_time for reader in filled), default=0)
        self.duration_s = (max((r.end_time for r in filled), default=start_ns) - start_ns) * 1e-9

    @property
    def topics(self) -> list[BagTopic]:
        """The topics, in alphabetical order; those of a name and type are one."""
        found: dict[tuple[str, str], BagTopic] = {}
        for connection in (c for reader in self._readers for c in reader.connections):
            key = (connection.topic, connection.msgtype)
            before = found.get(key, BagTopic(*key, 0, False))
            count = before.count + connection.msgcount
            found[key] = BagTopic(*key, count, before.latched or _is_latched(connection))
        return sorted(found.values())

    def messages(
        self, topics: Collection[str], start_ns: int | None = None
    ) -> Iterator[tuple[str, str, int, bytes]]:
        """Yield (topic, message type, recording time in ns, serialized message) in recorded order.

        Args:
            topics: Names of the topics to read.
            start_ns: Recording time of the first message; None: from the start.
        """
        for reader in self._readers:
            chosen = [c for c in reader.connections if c.topic in topics]
            if not chosen:
                continue
            for connection, recorded_ns, raw in reader.messages(chosen, start_ns):
                if raw[:4] == _ZSTD_MAGIC:  # CDR begins with a zero
                    raise BagError(
                        f"{reader.path}: holds compressed messages, expected a metadata.yaml that "
                        "names the compression; run `ros2 bag reindex` on its folder"
                    )
                yield connection.topic, connection.msgtype, recorded_ns, raw


def _is_latched(connection: Connection) -> bool:
    profiles: Any = getattr(connection.ext, "offered_qos_profiles", ())
    return any(profile.durability.name == "TRANSIENT_LOCAL" for profile in profiles)


@contextmanager
def open_bag(path: Path) -> Iterator[BagReader]:
    """Open a recording; exceptions of rosbags become a `BagError`.

    Args:
        path: Folder of the recording, with or without metadata.yaml, or one .mcap or .db3 file.

    Raises:
        BagError: The recording is missing, incomplete, damaged, or of another format.
    """
    files, storage = _storage_files(path)
    try:
        with ExitStack() as stack:
            readers = [stack.enter_context(Reader(file)) for file in files]
            for reader in readers:
                check_chunks(reader)
            yield BagReader(readers, storage)
    except MoteError:
        raise
    except Exception as error:  # of struct, zstd, apsw, yaml and assert: no common base
        detail = " ".join(str(error).split()) or type(error).__name__
        if os.strerror(errno.EMFILE) in detail:
            raise BagError(
                f"{path}: has more storage files than may be open; raise the limit: ulimit -n 20000"
            ) from error
        raise BagError(f"{path}: damaged or no rosbag2 recording ({detail[:160]})") from error


def _storage_files(path: Path) -> tuple[list[Path], str]:
    """Return what rosbags opens, a folder with metadata or the storage files, and the storage."""
    if not path.exists():
        raise BagError(f"{path}: no such recording; check the path")
    if path.is_dir() and (storage := _storage_of_folder(path)):
        for file in path.iterdir():
            if file.suffix in STORAGES:
                _check_file(file)
        return [path], storage
    files = natsorted(path.iterdir(), key=str) if path.is_dir() else [path]
    found = [file for file in files if file.suffix in STORAGES]
    for file in found or files:
        if file.suffix == ".bag":
            raise BagError(
                f"{file}: is a ROS 1 bag, expected rosbag2; convert it: pip install rosbags, "
                f"rosbags-convert --src {file.name[:40]} --dst {file.stem[:40]}"
            )
        if file.suffix == ".zstd":
            raise BagError(
                f"{file}: is compressed, and there is no metadata.yaml that names the compression; "
                f"decompress it: unzstd {file.name[:40]}"
            )
    if not found:
        raise BagError(
            f"{path}: found no metadata.yaml and no .mcap or .db3 file, expected a rosbag2 "
            "recording"
        )
    for file in found:
        _check_file(file)
    return found, STORAGES[found[0].suffix]


def _storage_of_folder(path: Path) -> str:
    """Return the storage that a folder's metadata.yaml states, after checking it; empty: none."""
    metadata = path / "metadata.yaml"
    try:
        if not metadata.exists():
            return ""
        text = read_input(metadata, MAX_YAML_BYTES).decode(errors="replace")
        check_yaml(text, MAX_YAML_VALUES)
    except OSError as error:
        advice = _ADVICE_ON_SIZE if error.errno == errno.EFBIG else ""
        raise BagError(f"{metadata}: cannot be read ({error.strerror}){advice}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise BagError(f"{metadata}: damaged ({first_line(error, 100)})") from error
    named = re.search(r"^\s*storage_identifier:[ \t]*[\"']?(\w*)", text, re.MULTILINE)
    if named is None and "relative_file_paths" not in text:
        return "damaged"  # rosbags states what is missing
    return named[1] if named else ""


def _check_file(file: Path) -> None:
    """Raise `BagError` if a storage file is no regular file, or an mcap file has no end."""
    try:
        with open_input(file) as content:
            begin = content.read(len(_MCAP_MAGIC))
            content.seek(max(0, file.stat().st_size - len(_MCAP_MAGIC)))
            end = content.read()
    except OSError as error:
        raise BagError(f"{file}: cannot be read ({error.strerror})") from error
    if file.suffix == ".mcap" and begin == _MCAP_MAGIC and end != _MCAP_MAGIC:
        raise BagError(
            f"{file}: damaged, the file has no end: the recorder was killed, or the copy is "
            "incomplete; repair it: mcap recover FILE -o REPAIRED.mcap (tool of mcap.dev)"
        )


def join_names(names: Iterable[str], max_length: int = 120) -> str:
    """Return sorted names as text for an error message, cut to a maximum length."""
    text = ", ".join(sorted(set(names)))
    return text if len(text) <= max_length else f"{text[:max_length]}..."


class MessageCursor:
    """Reads messages of one topic by their number; it keeps none.

    Reading in order continues where the last message was. Any other message is found by its
    recording time.
    """

    def __init__(self, path: Path, topic: str, recorded_n: np.ndarray) -> None:
        """Prepare; the recording is opened with the first message.

        Args:
            path: The recording.
            topic: The topic.
            recorded_n: Recording times of all its messages, ns, in recorded order.
        """
        self.path, self.topic, self._recorded_n = path, topic, recorded_n
        self._lock = threading.Lock()
        self._bag: BagReader | None = None
        self._messages: Iterator[tuple[str, str, int, bytes]] = iter(())
        self._next = -1  # number of the next message of the iterator; -1: it has not begun

    def read(self, index: int) -> tuple[str, bytes]:
        """Return type and serialized bytes of a message.

        Args:
            index: Its number.

        Raises:
            BagError: The recording is damaged, or was changed.
        """
        with self._lock:
            try:
                if self._next < 0 or not 0 <= index - self._next <= _MAX_SKIPPED:
                    self._start(index)
                while True:
                    _, msgtype, _, raw = next(self._messages)
                    self._next += 1
                    if self._next > index:
                        return msgtype, raw
            except BagError:
                raise
            except Exception as error:  # StopIteration too
                self._next = -1
                detail = " ".join(str(error).split()) or type(error).__name__
                raise BagError(
                    f"{self.path}: message {index} of {self.topic[:60]} cannot be read "
                    f"({detail[:120]}); the recording is damaged"
                ) from error

    def _start(self, index: int) -> None:
        """Begin at the recording time of a message."""
        if self._bag is None:
            stack = ExitStack()
            self._bag = stack.enter_context(open_bag(self.path))
            weakref.finalize(self, stack.close)
        time_ns = int(self._recorded_n[index])
        self._messages = self._bag.messages([self.topic], time_ns)
        # Messages with the same time, or with a later one in an earlier file, come first.
        earlier = np.count_nonzero(self._recorded_n[:index] >= time_ns)
        self._next = index - int(earlier)
