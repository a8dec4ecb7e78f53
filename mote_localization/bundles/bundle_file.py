"""The bundle: the maps of the parts of a large place, its submaps, as one file or one folder.

    bundle.json        description: format version, name of the place, names of the other entries
    HASH.onnx          the map of a submap; all of them have one map frame
    HASH.index         descriptors of the keyframes of all submaps, see `place_index`

Entries are named by the SHA-256 of their content: a bundle that is made again contains those of
unchanged submaps as they were. A file is a zip archive without compression. Nothing is unpacked.
"""

import hashlib
import os
import struct
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, BinaryIO

import msgspec
import numpy as np

from mote_localization.bundles.place_index import PlaceIndex
from mote_localization.errors import MapFileError
from mote_localization.files import atomic_write
from mote_localization.image_features import image_features
from mote_localization.input_files import open_input, read_input
from mote_localization.keyframes import Keyframe
from mote_localization.map_file import BUNDLE_SUFFIX, MAX_MAP_BYTES, MapFile, MapInfo, parse_map

FORMAT_VERSION = 1
MAX_SUBMAPS = 1000
_DESCRIPTION = "bundle.json"
_MAX_DESCRIPTION_BYTES = 1 << 20
_MAX_INDEX_BYTES = 1 << 28
_MAX_DIRECTORY_BYTES = 1 << 20
_END = struct.Struct("<4s4H2LH")  # end of the directory of a zip archive without a comment
_LARGE_BYTES = 20  # before it, if the directory has larger sizes elsewhere (ZIP64)
_ADVICE = "; copy the bundle again, or make it again"
_DATE = (1980, 1, 1, 0, 0, 0)  # of entries, so that the same submaps give the same bytes

_Hash = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
NAME_PATTERN = r"^\w[\w .-]{0,99}\Z"  # of place and submaps
_Name = Annotated[str, msgspec.Meta(pattern=NAME_PATTERN)]


class _Submap(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: _Name
    map: _Hash


class _Version(msgspec.Struct, frozen=True):
    """What later formats have too."""

    format_version: Annotated[int, msgspec.Meta(ge=1)]


class _Description(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Content of `bundle.json`."""

    format_version: int
    scene: _Name
    submaps: Annotated[tuple[_Submap, ...], msgspec.Meta(min_length=1, max_length=MAX_SUBMAPS)]
    index: _Hash


@dataclass(frozen=True)
class Submap:
    """A submap of a bundle, without its network and the images of its keyframes."""

    name: str
    info: MapInfo  # without keyframes
    keyframe_poses_k44: np.ndarray  # T_map_cam


@dataclass(frozen=True)
class Bundle:
    """A bundle that was read and checked."""

    path: Path
    scene: str
    submaps: tuple[Submap, ...]
    index: PlaceIndex
    hashes: tuple[str, ...]  # SHA-256 of the map of each submap

    def map_file(self, number: int) -> MapFile:
        """Read the map of a submap.

        Raises:
            MapFileError: The bundle was changed since it was read.
        """
        with _Entries(self.path) as entries:
            return _map_of(entries, self.hashes[number], self.submaps[number].name, self.path)

    def map_infos(self) -> Iterator[MapInfo]:
        """Yield the description of each submap, with its keyframes.

        Raises:
            MapFileError: As of `map_file`.
        """
        for number in range(len(self.submaps)):
            yield self.map_file(number).info


def is_bundle(path: Path | str) -> bool:
    """Return whether a path has the form of a bundle: the suffix .mote, file or folder."""
    return Path(path).suffix == BUNDLE_SUFFIX


def read_bundle(path: Path | str) -> Bundle:
    """Read a bundle and check all of it.

    Raises:
        MapFileError: It is missing, truncated, no bundle, of a newer format; or a submap cannot be
            used, or does not fit the others.
    """
    path = Path(path)
    with _Entries(path) as entries:
        described = _parse_description(entries.read(_DESCRIPTION, _MAX_DESCRIPTION_BYTES), path)
        submaps = []
        for one in described.submaps:
            info = _map_of(entries, one.map, one.name, path).info
            submaps.append(_submap_of(one.name, info))
        index = entries.read_hashed(described.index, ".index", _MAX_INDEX_BYTES)
    try:
        _check_together(submaps)
        decoded = PlaceIndex.decoded(index, [len(one.keyframe_poses_k44) for one in submaps])
    except MapFileError as error:
        raise MapFileError(f"{path}: {error}{_ADVICE}") from error
    hashes = tuple(one.map for one in described.submaps)
    return Bundle(path, described.scene, tuple(submaps), decoded, hashes)


def write_bundle(path: Path | str, scene: str, maps: dict[str, bytes]) -> None:
    """Write maps of one map frame as a bundle.

    The same maps give the same bytes.

    Args:
        path: The file to write, with the suffix .mote.
        scene: Name of the place.
        maps: Content of the map file of each submap, by the submap's name, 1 to `MAX_SUBMAPS`.

    Raises:
        MapFileError: A map cannot be used or does not fit the others, or the file cannot be
            written; an existing file is unchanged.
    """
    path = Path(path)
    if not is_bundle(path):
        raise MapFileError(f"{path}: expected a name that ends in {BUNDLE_SUFFIX}")
    if not 1 <= len(maps) <= MAX_SUBMAPS:
        raise MapFileError(f"{path}: found {len(maps)} submaps, expected 1 to {MAX_SUBMAPS}")
    submaps, keyframes = [], []
    for name, content in maps.items():
        info = parse_map(content, Path(name)).info
        submaps.append(_submap_of(name, info))
        keyframes.append(info.keyframes)
    try:
        _check_together(submaps)
        index = PlaceIndex.made(keyframes, _descriptors_of).encoded()
        PlaceIndex.decoded(index, [len(one) for one in keyframes])  # checks its size
    except MapFileError as error:
        raise MapFileError(f"{path}: {error}") from error
    hashes = {name: _hash(content) for name, content in maps.items()}
    described = _Description(
        FORMAT_VERSION,
        scene,
        tuple(_Submap(name, found) for name, found in hashes.items()),
        _hash(index),
    )
    description = msgspec.json.format(msgspec.json.encode(described), indent=1)
    _parse_description(description, path)  # checks names and maps
    contents = {
        _DESCRIPTION: description,
        f"{described.index}.index": index,
        **{f"{hashes[name]}.onnx": content for name, content in maps.items()},
    }
    with (
        atomic_write(path, MapFileError, "; an existing file is unchanged") as file,
        zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive,
    ):
        for name, content in contents.items():
            archive.writestr(zipfile.ZipInfo(name, _DATE), content)


class _Entries:
    """The entries of a bundle, in a zip archive or in a folder."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._archive: zipfile.ZipFile | None = None

    def __enter__(self) -> "_Entries":
        try:
            if not self._path.is_dir():
                file = open_input(self._path)
                _check_directory(file)
                self._archive = zipfile.ZipFile(file)
        except (OSError, zipfile.BadZipFile, NotImplementedError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise MapFileError(
                f"{self._path}: is no bundle, or is truncated ({reason}){_ADVICE}"
            ) from error
        return self

    def __exit__(self, *_: object) -> None:
        if self._archive:
            self._archive.close()

    def read(self, name: str, max_bytes: int) -> bytes:
        """Return an entry.

        Raises:
            MapFileError: It is missing, damaged, compressed, or larger than `max_bytes`.
        """
        try:
            if self._archive is None:
                return read_input(self._path / name, max_bytes)
            entry = self._archive.getinfo(name)
            if entry.compress_type != zipfile.ZIP_STORED or entry.file_size > max_bytes:
                raise MapFileError(
                    f"{self._path}: {name} has {entry.file_size} bytes, or is compressed; expected "
                    f"at most {max_bytes} bytes as they are{_ADVICE}"
                )
            with self._archive.open(entry) as file:
                return file.read(max_bytes)
        except (OSError, EOFError, KeyError, ValueError, RuntimeError, zipfile.BadZipFile) as error:
            reason = getattr(error, "strerror", None) or str(error)[:200]
            raise MapFileError(f"{self._path}: {name}: {reason}{_ADVICE}") from error

    def read_hashed(self, digest: str, suffix: str, max_bytes: int) -> bytes:
        """Return the entry of a content with this SHA-256.

        Raises:
            MapFileError: As of `read`, or it has another content.
        """
        content = self.read(digest + suffix, max_bytes)
        if _hash(content) != digest:
            raise MapFileError(f"{self._path}: {digest}{suffix} has another content{_ADVICE}")
        return content


def _check_directory(file: BinaryIO) -> None:
    """Check the size of a zip archive's directory before it is read.

    Raises:
        ValueError: It is missing, or has more entries than a bundle.
    """
    end = file.seek(0, os.SEEK_END)
    file.seek(max(0, end - _END.size - _LARGE_BYTES))
    before, fields = file.read(_LARGE_BYTES), file.read(_END.size)
    file.seek(0)
    if len(fields) < _END.size or fields[:4] != b"PK\5\6":
        raise ValueError("no directory at its end")
    if before.startswith(b"PK\6\7"):
        raise ValueError("a directory of ZIP64, for more than 4 GB")
    _, _, _, _, entries, size, _, _ = _END.unpack(fields)
    if entries > MAX_SUBMAPS + 2 or size > _MAX_DIRECTORY_BYTES:
        raise ValueError(f"a directory of {entries} entries in {size} bytes")


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _descriptors_of(keyframe: Keyframe) -> np.ndarray:
    return image_features(keyframe.grey_hw()).descriptors_md


def _submap_of(name: str, info: MapInfo) -> Submap:
    poses_k44 = np.array([keyframe.pose_44 for keyframe in info.keyframes]).reshape(-1, 4, 4)
    return Submap(name, replace(info, keyframes=()), poses_k44)


def _map_of(entries: _Entries, digest: str, name: str, path: Path) -> MapFile:
    return parse_map(entries.read_hashed(digest, ".onnx", MAX_MAP_BYTES), path / name)


def _parse_description(content: bytes, path: Path) -> _Description:
    try:
        version = msgspec.json.decode(content, type=_Version).format_version
        if version > FORMAT_VERSION:
            raise MapFileError(
                f"{path}: is a bundle of format version {version}, expected {FORMAT_VERSION}: "
                "update mote_localization on this machine"
            )
        described = msgspec.json.decode(content, type=_Description)
        maps = {one.map for one in described.submaps}
        if len(maps) < len(described.submaps):  # a small file could have a thousand large maps
            raise ValueError("two submaps have the same map")
        return described
    except (TypeError, ValueError, RecursionError) as error:
        raise MapFileError(f"{path}: {_DESCRIPTION}: {str(error)[:200]}{_ADVICE}") from error


def _check_together(submaps: Sequence[Submap]) -> None:
    """Check that submaps can be one map.

    Raises:
        MapFileError: One has no keyframes or no known scale, they have different canonical cameras,
            or two have the same name.
    """
    first = submaps[0]
    for one in submaps:
        if not one.info.metric:
            raise MapFileError(f"submap {one.name} has no known scale, expected metres")
        if not len(one.keyframe_poses_k44):
            raise MapFileError(
                f"submap {one.name} has no keyframes, expected some: places are recognized by them"
            )
        for what, found, expected in (
            ("canonical camera", one.info.camera, first.info.camera),
            ("stride", one.info.stride, first.info.stride),
        ):
            if found != expected:
                raise MapFileError(
                    f"submap {one.name} has the {what} {found}, expected that of {first.name}: "
                    f"{expected}"
                )
    names = [one.name for one in submaps]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise MapFileError(f"found two submaps {repeated[0]}, expected different names")
