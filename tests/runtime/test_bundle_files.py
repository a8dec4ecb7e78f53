"""Bundles that are damaged, hostile or contradict themselves are refused with one error."""

import json
import os
import shutil
import struct
import zipfile
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
from make_bundle import map_at, write_rooms
from make_map import write_constant_map

from mote_localization.bundles import place_index, read_bundle, write_bundle
from mote_localization.bundles.place_index import PlaceIndex
from mote_localization.errors import MapFileError
from mote_localization.map_file import read_map, write_map


@pytest.fixture(scope="module")
def rooms(tmp_path_factory):
    return write_rooms(tmp_path_factory.mktemp("rooms"))


def entries_of(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write(path: Path, entries: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return path


def refused(path: Path) -> str:
    with pytest.raises(MapFileError) as raised:
        read_bundle(path)
    assert str(raised.value).startswith(f"{path}: ")
    return str(raised.value)


def described(entries: dict[str, bytes], **changes) -> bytes:
    return json.dumps(json.loads(entries["bundle.json"]) | changes).encode()


def test_a_folder_of_the_entries_is_the_same_bundle(rooms, tmp_path):
    folder = tmp_path / "rooms.mote"
    with zipfile.ZipFile(rooms) as archive:
        archive.extractall(folder)
    one, other = read_bundle(rooms), read_bundle(folder)
    assert [s.name for s in one.submaps] == [s.name for s in other.submaps]
    assert one.map_file(1).model == other.map_file(1).model


def test_a_map_that_changes_on_the_disk_is_noticed(rooms, tmp_path):
    folder = tmp_path / "rooms.mote"
    with zipfile.ZipFile(rooms) as archive:
        archive.extractall(folder)
    bundle = read_bundle(folder)
    maps = sorted(folder.glob("*.onnx"))
    shutil.copy(maps[0], maps[1])
    shutil.copy(maps[0], maps[2])
    with pytest.raises(MapFileError, match="has another content"):
        bundle.map_file(0), bundle.map_file(1), bundle.map_file(2)


@pytest.mark.parametrize("kept", [0, 3, 100, -1, -30])
def test_a_truncated_bundle_is_refused(rooms, tmp_path, kept):
    (tmp_path / "cut.mote").write_bytes(rooms.read_bytes()[:kept])
    assert "is no bundle, or is truncated" in refused(tmp_path / "cut.mote")


def test_what_is_no_regular_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe.mote")
    assert "is no regular file" in refused(tmp_path / "pipe.mote")
    assert "No such file" in refused(tmp_path / "missing.mote")
    (tmp_path / "folder.mote").mkdir()
    assert "bundle.json: No such file" in refused(tmp_path / "folder.mote")


def test_another_content_than_its_name_says_is_refused(rooms, tmp_path):
    entries = entries_of(rooms)
    first, second, *_ = (name for name in entries if name.endswith(".onnx"))
    entries[first] = entries[second]
    assert f"{first} has another content" in refused(write(tmp_path / "swapped.mote", entries))


def test_a_missing_entry_is_named(rooms, tmp_path):
    entries = entries_of(rooms)
    name = next(name for name in entries if name.endswith(".index"))
    del entries[name]
    assert name in refused(write(tmp_path / "incomplete.mote", entries))


def test_compressed_entries_are_refused(rooms, tmp_path):
    """A small file could unpack to any size."""
    path = write(tmp_path / "bomb.mote", entries_of(rooms), zipfile.ZIP_DEFLATED)
    assert "is compressed" in refused(path)


def test_an_archive_of_many_entries_is_refused_before_they_are_read(rooms, tmp_path):
    entries = entries_of(rooms) | {f"../../{n}": b"" for n in range(2000)}
    assert "a directory of 2005 entries" in refused(write(tmp_path / "many.mote", entries))


def test_a_directory_whose_size_is_stated_elsewhere_is_refused(rooms, tmp_path):
    """Python's zipfile reads as many bytes as ZIP64 states."""
    content = rooms.read_bytes()
    size, at = struct.unpack("<LL", content[-10:-2])
    end = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, 5, 5, size, at)
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, len(content) - 22, 1)
    (tmp_path / "zip64.mote").write_bytes(content[:-22] + end + locator + content[-22:])
    assert len(zipfile.ZipFile(tmp_path / "zip64.mote").namelist()) == 5
    assert "a directory of ZIP64" in refused(tmp_path / "zip64.mote")


def test_a_bundle_that_could_not_be_read_is_not_written(rooms, tmp_path, monkeypatch):
    monkeypatch.setattr(place_index, "MAX_KEYFRAMES", 5)
    maps = {name: (rooms.parent / f"{name}.onnx").read_bytes() for name in ("front", "rear")}
    with pytest.raises(MapFileError, match="6 keyframes, expected .* 1 to 5 keyframes"):
        write_bundle(tmp_path / "many.mote", "many", maps)


def test_a_size_that_the_archive_only_states_is_not_allocated(rooms, tmp_path):
    content = bytearray(rooms.read_bytes())
    at = content.rindex(b"PK\x01\x02", 0, content.rindex(b"bundle.json"))
    struct.pack_into("<LL", content, at + 20, 1 << 31, 1 << 31)
    (tmp_path / "large.mote").write_bytes(content)
    assert f"bundle.json has {1 << 31} bytes" in refused(tmp_path / "large.mote")


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"format_version": 2}, "is a bundle of format version 2, expected 1: update"),
        ({"format_version": 0}, "bundle.json: "),
        ({"submaps": []}, "bundle.json: "),
        ({"submaps": [{"name": "a", "map": "../../../etc/passwd"}]}, "bundle.json: "),
        ({"index": "/etc/passwd"}, "bundle.json: "),
        ({"scene": ""}, "bundle.json: "),
        ({"more": 1}, "bundle.json: "),
    ],
)
def test_another_description_is_refused(rooms, tmp_path, changes, text):
    entries = entries_of(rooms)
    entries["bundle.json"] = described(entries, **changes)
    assert text in refused(write(tmp_path / "changed.mote", entries))


def test_two_submaps_of_one_name_are_refused(rooms, tmp_path):
    entries = entries_of(rooms)
    submaps = json.loads(entries["bundle.json"])["submaps"]
    submaps[1]["name"] = submaps[0]["name"]
    entries["bundle.json"] = described(entries, submaps=submaps)
    assert "found two submaps front" in refused(write(tmp_path / "twice.mote", entries))


def test_two_submaps_of_one_map_are_refused(rooms, tmp_path):
    entries = entries_of(rooms)
    submaps = json.loads(entries["bundle.json"])["submaps"]
    submaps[1]["map"] = submaps[0]["map"]
    entries["bundle.json"] = described(entries, submaps=submaps)
    assert "two submaps have the same map" in refused(write(tmp_path / "twice.mote", entries))


def test_an_index_of_other_keyframes_is_refused(rooms):
    index = read_bundle(rooms).index.encoded()
    PlaceIndex.decoded(index, [3, 3, 3])
    for content, keyframes, text in (
        (index, [3, 3, 2], "other keyframes"),
        (index, [3, 3], "other keyframes"),
        (index, [3, 3, 3, 1], "other keyframes"),
        (b"\1\0\0\0\0\0\0\0" + b"\0" * 256, [3, 3, 3], "0 keyframes"),
        (index[:-1], [3, 3, 3], "expected"),
        (b"", [3, 3, 3], "expected a header"),
        (b"\xff" * 100, [3, 3, 3], "4096 words"),
        (b"\0" * 8, [3, 3, 3], "0 words"),
    ):
        with pytest.raises(MapFileError, match=text):
            PlaceIndex.decoded(content, keyframes)


def test_maps_that_cannot_be_one_place_are_not_written(tmp_path):
    one = map_at(tmp_path / "one.onnx", 0.0)
    plain = write_constant_map(tmp_path / "plain.onnx").read_bytes()
    found = read_map(tmp_path / "one.onnx")
    units = replace(found.info, metric=False)
    write_map(tmp_path / "units.onnx", onnx.load_model_from_string(found.model), units)
    scaled = (tmp_path / "units.onnx").read_bytes()
    path = tmp_path / "place.mote"
    for maps, text in (
        ({}, "found 0 submaps"),
        ({"one": one, "plain": plain}, "submap plain has no keyframes"),
        ({"one": one, "units": scaled}, "submap units has no known scale"),
        ({"one": one, "broken": one[:1000]}, "broken: is no ONNX file"),
        ({"one\x1b[2J": one}, r"bundle.json: .*regex"),
    ):
        with pytest.raises(MapFileError, match=text):
            write_bundle(path, "place", maps)
        assert not path.exists()
    with pytest.raises(MapFileError, match=r"ends in \.mote"):
        write_bundle(tmp_path / "place.onnx", "place", {"one": one})
