"""Conversion between `MapInfo` and the metadata entries of an ONNX file."""

import json
from typing import Any, get_type_hints

import msgspec

from mote_localization.errors import CameraError, MapFileError, SceneError
from mote_localization.map_info import MapInfo

FORMAT_VERSION = 3
PREFIX = "mote."  # of the entries' keys
_MAX_ENTRY_CHARS = 1 << 20
_MAX_KEYFRAMES_CHARS = 1 << 25  # of the entry that holds all keyframes
_OPTIONAL = {"metric", "drift", "keyframes", "self_test"}  # older maps lack these entries


_TYPES = get_type_hints(MapInfo)


def metadata_entries(info: MapInfo) -> dict[str, str]:
    """Return the entries of a map: strings as they are, all other values as JSON.

    Raises:
        MapFileError: An entry is too long.
    """
    values = msgspec.to_builtins(info, enc_hook=float)  # NumPy's numbers as float, bytes as base64
    values["format_version"] = info.format_version
    entries = {
        name: value if isinstance(value, str) else json.dumps(value)
        for name, value in values.items()
    }
    _check_lengths(entries)
    return {PREFIX + name: text for name, text in entries.items()}


def parse_metadata(entries: dict[str, str]) -> MapInfo:
    """Return the map description that `metadata_entries` has written.

    Raises:
        MapFileError: An entry is missing, too long, or has a wrong type or value; or the format is
            newer than this code.
    """
    named = {
        key.removeprefix(PREFIX): text for key, text in entries.items() if key.startswith(PREFIX)
    }
    version = named.get("format_version")
    if version is None:
        raise MapFileError(
            f"has no `{PREFIX}format_version`: an ONNX file, but not a map, or a truncated one; "
            "expected a map made by `mote-distill map`"
        )
    if not version.isdecimal() or len(version) > 9 or int(version) < 1:
        raise MapFileError(f"found format version '{version[:20]}', expected {FORMAT_VERSION}")
    if int(version) > FORMAT_VERSION:
        raise MapFileError(
            f"is a map of format version {version}, expected up to {FORMAT_VERSION}: update "
            "mote_localization on this machine"
        )
    _check_lengths(named)
    missing = [name for name in _TYPES if name not in named and name not in _OPTIONAL]
    if missing:
        raise MapFileError(
            f"its metadata lacks `{PREFIX}{missing[0]}`: truncated, or not made by Mote; copy the "
            "map again, or make it again"
        )
    try:
        info = MapInfo(**{name: _decode(name, named[name]) for name in _TYPES if name in named})
    except (CameraError, SceneError, ValueError) as error:  # of the values' own checks
        raise MapFileError(f"{str(error)[:200]}; copy the map again, or make it again") from error
    if info.format_version > int(version):
        raise MapFileError(
            f"found format version {version}, expected {info.format_version} or later for a map "
            "with drift or keyframes; copy the map again, or make it again"
        )
    return info


def _decode(name: str, text: str) -> Any:
    """Return the value of a `MapInfo` field; raise `MapFileError` if the text has another type."""
    if _TYPES[name] is str:
        return text
    try:
        if name == "training":  # its figures may be NaN, which Python writes but msgspec refuses
            return msgspec.convert(json.loads(text), _TYPES[name])
        return msgspec.json.decode(text, type=_TYPES[name])
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise MapFileError(
            f"its metadata is damaged (`{PREFIX}{name}`: {str(error)[:120]}); copy the map again, "
            "or make it again"
        ) from error


def _check_lengths(entries: dict[str, str]) -> None:
    """Check the entries before they are parsed, because parsed values take far more memory."""
    for name, text in entries.items():
        most = _MAX_KEYFRAMES_CHARS if name == "keyframes" else _MAX_ENTRY_CHARS
        if len(text) > most:
            raise MapFileError(
                f"entry {name[:40]} has {len(text)} characters, expected at most {most}"
            )
