"""Conversion between `MapInfo` and the metadata of an ONNX file.

Keyframes are binary: as text, which metadata entries are, they would take a third more. They are a
tensor of uint8 in `training_info`, a part of ONNX files that no backend reads: their MessagePack.
"""

import hashlib
import json
from dataclasses import replace
from typing import Annotated, Any, get_type_hints

import msgspec
import numpy as np
import onnx

from mote_localization.errors import CameraError, MapFileError, SceneError
from mote_localization.keyframes import MAX_KEYFRAMES, Keyframe
from mote_localization.map_info import MapInfo
from mote_localization.pose_calibration import PoseCalibration

FORMAT_VERSION = 4
PREFIX = "mote."  # of the keys of entries, and of the name of the tensor
_MAX_ENTRY_CHARS = 1 << 20
_MAX_KEYFRAMES_BYTES = 1 << 25  # of all keyframes; format version 3 has them in an entry
_CHECKSUM = "checksum"  # name of the entry
_KEYFRAMES = PREFIX + "keyframes"  # name of the tensor
# entries that older maps lack
_OPTIONAL = {"metric", "drift", "keyframes", "self_test", "validation", "wrong_poses"}
_PACKED_SINCE = 4  # format version of the tensor of keyframes
_SINCE = {"drift": 2, "keyframes": 3, "pose_calibration": 4, "wrong_poses": 4}  # of later entries
_TYPES = get_type_hints(MapInfo)
_OLDER_TYPES = {"covariance_scale": float}
_Keyframes = Annotated[tuple[Keyframe, ...], msgspec.Meta(max_length=MAX_KEYFRAMES)]


def write_metadata(model: onnx.ModelProto, info: MapInfo) -> None:
    """Set the description of a map: strings as they are, keyframes apart, other values as JSON.

    Raises:
        MapFileError: An entry is too long, or the keyframes are too large.
    """
    # NumPy's numbers as float, bytes as base64
    values = msgspec.to_builtins(replace(info, keyframes=()), enc_hook=float)
    del values["keyframes"]
    values["format_version"] = FORMAT_VERSION
    entries = {
        name: value if isinstance(value, str) else json.dumps(value)
        for name, value in values.items()
    }
    _check_lengths(entries)
    onnx.helper.set_model_props(model, {PREFIX + name: text for name, text in entries.items()})
    del model.training_info[:]
    if info.keyframes:
        packed = msgspec.msgpack.encode(info.keyframes, enc_hook=float)
        _check_keyframes_size(packed)
        tensor = onnx.numpy_helper.from_array(np.frombuffer(packed, np.uint8), _KEYFRAMES)
        model.training_info.add().initialization.initializer.append(tensor)
    model.metadata_props.add(key=PREFIX + _CHECKSUM, value=_checksum(model))


def check_checksum(model: onnx.ModelProto) -> None:
    """Check the checksum of a map; maps of earlier versions have none.

    It finds damage that leaves a valid map, such as another focal length. It is no signature.

    Raises:
        MapFileError: The map is not as it was written.
    """
    stored = {entry.key: entry.value for entry in model.metadata_props}.get(PREFIX + _CHECKSUM)
    if stored is not None and stored != _checksum(model):
        raise MapFileError(
            "is damaged: its content does not match its checksum; copy the map again, or make it "
            "again"
        )


def _checksum(model: onnx.ModelProto) -> str:
    """Return the SHA-256 of description, keyframes and graph, as a hexadecimal number."""
    digest = hashlib.sha256()
    for entry in sorted(model.metadata_props, key=lambda entry: entry.key):
        if entry.key.startswith(PREFIX) and entry.key != PREFIX + _CHECKSUM:
            digest.update(f"{entry.key}\0{entry.value}\0".encode())
    for tensor in _keyframe_tensors(model):
        digest.update(tensor.raw_data)
    digest.update(model.graph.SerializeToString(deterministic=True))
    return digest.hexdigest()


def read_metadata(model: onnx.ModelProto) -> MapInfo:
    """Return the map description that `write_metadata` has set.

    Raises:
        MapFileError: An entry is missing, too long, or has a wrong type or value; keyframes are
            damaged; or the format is newer than this code.
    """
    entries = {entry.key: entry.value for entry in model.metadata_props}
    if any(isinstance(text, bytes) for text in (*entries, *entries.values())):
        raise MapFileError("its description is no UTF-8 text; copy the map again, or make it again")
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
    packed = _packed_keyframes(model)
    since = {name: needed for name, needed in _SINCE.items() if _given(named, name)}
    since |= {name: _PACKED_SINCE for name in packed}
    for name, needed in since.items():
        if int(version) < needed:
            raise MapFileError(
                f"found `{PREFIX}{name}` in a map of format version {version}, expected version "
                f"{needed} or later; copy the map again, or make it again"
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
        values = {name: _decode(name, named[name]) for name in _TYPES if name in named} | packed
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
        if name == "keyframes" and text.count("{") > MAX_KEYFRAMES:  # counted before they are made
            raise ValueError(f"found over {MAX_KEYFRAMES} objects")
        return msgspec.json.decode(text, type=expected)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise MapFileError(
            f"its metadata is damaged (`{PREFIX}{name}`: {str(error)[:120]}); copy the map again, "
            "or make it again"
        ) from error


def _packed_keyframes(model: onnx.ModelProto) -> dict[str, tuple[Keyframe, ...]]:
    """Return the keyframes beside the graph as a value of `MapInfo`; empty where there are none."""
    packed = next((tensor.raw_data for tensor in _keyframe_tensors(model)), None)
    if packed is None:
        return {}
    _check_keyframes_size(packed)
    try:
        return {"keyframes": msgspec.msgpack.decode(packed, type=_Keyframes)}
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise MapFileError(
            f"its keyframes are damaged ({str(error)[:120]}); copy the map again, or make it again"
        ) from error


def _keyframe_tensors(model: onnx.ModelProto) -> list[onnx.TensorProto]:
    tensors = [t for part in model.training_info for t in part.initialization.initializer]
    return [tensor for tensor in tensors if tensor.name == _KEYFRAMES]


def _check_keyframes_size(packed: bytes) -> None:
    if len(packed) > _MAX_KEYFRAMES_BYTES:
        raise MapFileError(
            f"found {len(packed) >> 20} MiB of keyframes, expected at most "
            f"{_MAX_KEYFRAMES_BYTES >> 20} MiB"
        )


def _check_lengths(entries: dict[str, str]) -> None:
    """Check the entries before they are parsed, because parsed values take far more memory."""
    for name, text in entries.items():
        most = _MAX_KEYFRAMES_BYTES if name == "keyframes" else _MAX_ENTRY_CHARS
        if len(text) > most:
            raise MapFileError(
                f"entry {name[:40]} has {len(text)} characters, expected at most {most}"
            )
