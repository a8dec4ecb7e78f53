"""Conversion between `MapInfo` and the metadata entries of an ONNX file."""

import json
from typing import Any, get_type_hints

import msgspec

from mote_localization.errors import CameraError, MapFileError, SceneError
from mote_localization.map_info import MapInfo
from mote_localization.pose_calibration import PoseCalibration

FORMAT_VERSION = 4
PREFIX = "mote."  # of the entries' keys
_MAX_ENTRY_CHARS = 1 << 20
_MAX_KEYFRAMES_CHARS = 1 << 25  # of the entry that holds all keyframes
_OPTIONAL = {
    "metric",
    "drift",
    "keyframes",
    "self_test",
    "validation",
}  # older maps lack these entries
_SINCE = {"drift": 2, "keyframes": 3, "pose_calibration": 4}  # format versions of later entries

_TYPES = get_type_hints(MapInfo)
_OLDER_TYPES = {"covariance_scale": float}


def metadata_entries(info: MapInfo) -> dict[str, str]:
    """Return the entries of a map: strings as they are, all other values as JSON.

    Raises:
        MapFileError: An entry is too long.
    """
    values = msgspec.to_builtins(info, enc_hook=float)  # NumPy's numbers as float, bytes as base64
    values["format_version"] = FORMAT_VERSION
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
    early = [name for name, since in _SINCE.items() if int(version) < since and _given(named, name)]
    if early:
        raise MapFileError(
            f"found `{PREFIX}{early[0]}` in a map of format version {version}, expected version "
            f"{_SINCE[early[0]]} or later; copy the map again, or make it again"
        )
    older = int(version) < _SINCE["pose_calibration"]  # with `covariance_scale` in its place
    required = _TYPES.keys() - _OPTIONAL - ({"pose_calibration"} if older else set())
    required |= {"covariance_scale"} if older else set()
    missing = sorted(required - named.keys())
    if missing:
        raise MapFileError(
            f"its metadata lacks `{PREFIX}{missing[0]}`: truncated, or not made by Mote; copy the "
            "map again, or make it again"
        )
    try:
        values = {name: _decode(name, named[name]) for name in _TYPES if name in named}
        if older:
            scale = _decode("covariance_scale", named["covariance_scale"])
            values["pose_calibration"] = PoseCalibration.of_scale(scale)
        return MapInfo(**values)
    except (CameraError, SceneError, ValueError) as error:  # of the values' own checks
        raise MapFileError(f"{str(error)[:200]}; copy the map again, or make it again") from error


def _given(entries: dict[str, str], name: str) -> bool:
    """Return whether there is an entry with a value."""
    return entries.get(name, "null") not in ("null", "[]")


def _decode(name: str, text: str) -> Any:
    """Return the value of an entry; raise `MapFileError` if the text has another type."""
    expected = (_TYPES | _OLDER_TYPES)[name]
    if expected is str:
        return text
    try:
        if name == "training":  # its figures may be NaN, which Python writes but msgspec refuses
            return msgspec.convert(json.loads(text), expected)
        return msgspec.json.decode(text, type=expected)
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
