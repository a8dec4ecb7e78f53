"""The map file: one ONNX model, image in, points and sigma out, that carries its own description.

Inputs and outputs (fixed shapes, W x H the canonical camera's size, s the stride):

    image   uint8   (1, H, W, 3)       RGB of the canonical camera
    points  float32 (1, H/s, W/s, 3)   metres in the map frame; of a map with drift, in its
                                       consistent frame, see `mote_localization.drift`
    sigma   float32 (1, H/s, W/s)      metres, the expected error of each point

Where a map's scale is unknown, it has a unit of its own in place of the metre.
"""

import base64
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from mote_localization.camera import Camera
from mote_localization.drift import Drift
from mote_localization.errors import CameraError, MapFileError, SceneError
from mote_localization.files import atomic_write
from mote_localization.keyframes import MAX_KEYFRAMES, Keyframe, check_keyframes
from mote_localization.self_test import SelfTest

FORMAT_VERSION = 3
UNKNOWN_SCALE = "unknown: lengths are in units of the map's own, not in metres"
_PREFIX = "mote."
_MAX_MAP_BYTES = 128 << 20
_MAX_PROPERTY_CHARS = 1 << 20
_MAX_KEYFRAME_CHARS = 1 << 25  # of all of them
_MIN_OPSET = 17
_DOMAINS = {"", "ai.onnx"}  # of the standard operators
_DRIFT_KEYS = {"length_scale_m": "reach_m", "length_scale_deg": "reach_deg"}
_TENSOR_TYPES = {"image": onnx.TensorProto.UINT8}  # the others are float32


@dataclass(frozen=True)
class MapInfo:
    """What a map says of itself, stored as `mote.*` in the ONNX file's metadata."""

    scene: str  # name of the place
    camera: Camera  # the canonical camera
    stride: int  # px of the canonical image per cell side
    bounds_min: tuple[float, float, float]  # m, map frame, corner of the mapped volume
    bounds_max: tuple[float, float, float]  # m, map frame, opposite corner
    teacher: str  # who gave the 3-D points: rgbd, dust3r
    teacher_licence: str  # licence that the teacher puts on the map; empty: none
    student: str  # family of the network: cnn, mobilenet, vit
    # multiplies a pose's covariance, to be as large as this student's errors on frames kept from
    # training: the errors of one image's cells are more alike than they look
    covariance_scale: float = 1.0
    metric: bool = True  # False: the scale is unknown, lengths are in units of the map's own
    # how the frame of the poses that the map was given drifts against that of its points
    drift: Drift | None = None
    # photographs that confirm and refine each pose; none: poses are as the student says
    keyframes: tuple[Keyframe, ...] = field(default=(), repr=False)
    # what a backend must say of one photograph; older maps have none
    self_test: SelfTest | None = None
    training: dict[str, float | int | str] = field(default_factory=dict)  # figures of the training
    created: str = ""  # ISO 8601, UTC

    def __post_init__(self) -> None:
        """Refuse a description that no map can have."""
        if self.stride < 1 or self.camera.width % self.stride or self.camera.height % self.stride:
            raise MapFileError(
                f"found stride {self.stride} px on a canonical camera of {self.camera.width}x"
                f"{self.camera.height} px, expected a stride that divides both sides"
            )
        if self.camera.distortion:
            raise MapFileError(
                "found a distorted canonical camera, expected an undistorted pinhole"
            )
        if not 0 < self.covariance_scale < np.inf:
            raise MapFileError(
                f"found covariance scale {self.covariance_scale}, expected a number above 0"
            )
        bounds = np.array([self.bounds_min, self.bounds_max], np.float64)
        if bounds.shape != (2, 3) or not np.isfinite(bounds).all() or (bounds[0] > bounds[1]).any():
            raise MapFileError(
                f"found bounds {self.bounds_min} to {self.bounds_max}, expected two corners in m"
            )
        size = (self.camera.width, self.camera.height)
        if self.self_test:
            self.self_test.check(size, self.cells_hw)
        check_keyframes(self.keyframes, size, self.cells_hw)

    @property
    def format_version(self) -> int:
        """The least version whose readers understand it."""
        if self.keyframes:
            return 3
        return 2 if self.drift else 1

    @property
    def unit(self) -> str:
        """Unit of its lengths, for people."""
        return "m" if self.metric else "units"

    @property
    def cells_hw(self) -> tuple[int, int]:
        """Rows and columns of the pointmap."""
        return self.camera.height // self.stride, self.camera.width // self.stride

    @property
    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Shapes of what enters and leaves the graph, by name: image uint8, the others float32."""
        return {
            "image": (1, self.camera.height, self.camera.width, 3),
            "points": (1, *self.cells_hw, 3),
            "sigma": (1, *self.cells_hw),
        }


@dataclass(frozen=True)
class MapFile:
    """A map that was read and checked."""

    path: Path
    info: MapInfo
    model: bytes  # the ONNX model, for a backend


def write_map(path: Path | str, model: onnx.ModelProto, info: MapInfo) -> None:
    """Write a student and its description as one map file, whole or not at all.

    Raises:
        MapFileError: The model is not of a map's form, or the file cannot be written; an older file
            survives.
    """
    stamped = onnx.ModelProto()
    stamped.CopyFrom(model)
    properties = _to_properties(info)
    for name, text in properties.items():
        _check_length(name.removeprefix(_PREFIX), text)
    onnx.helper.set_model_props(stamped, properties)
    _check_graph(stamped, info, f"{path}")
    try:
        with atomic_write(path) as file:
            file.write(stamped.SerializeToString())
    except OSError as error:
        raise MapFileError(
            f"{path}: cannot be written ({error.strerror}); what was there before is untouched"
        ) from error


def read_map(path: Path | str) -> MapFile:
    """Read a map file and check all of it.

    Raises:
        MapFileError: Missing, truncated, no ONNX file, no map, a newer format, or not of a map's
            form.
    """
    path = Path(path)
    try:
        size = path.stat().st_size
        if not path.is_file():
            raise MapFileError(f"{path}: is no file, expected a map (.onnx)")
        if size > _MAX_MAP_BYTES:
            raise MapFileError(
                f"{path}: {size >> 20} MiB, expected a map of at most {_MAX_MAP_BYTES >> 20} MiB"
            )
        content = path.read_bytes()
    except OSError as error:
        raise MapFileError(
            f"{path}: cannot be read ({error.strerror}); expected a map made by `mote-distill map`"
        ) from error
    try:
        model = onnx.load_model_from_string(content)
    except Exception as error:  # protobuf's DecodeError has no stable import path
        raise MapFileError(
            f"{path}: is no ONNX file or is truncated ({size} bytes); copy it again, or make it "
            "anew with `mote-distill map`"
        ) from error
    properties = {
        entry.key.removeprefix(_PREFIX): entry.value
        for entry in model.metadata_props
        if entry.key.startswith(_PREFIX)
    }
    if "format_version" not in properties:
        raise MapFileError(
            f"{path}: has no `{_PREFIX}format_version`: an ONNX file, but not a map, or a "
            "truncated one; expected a map made by `mote-distill map`"
        )
    info = _from_properties(properties, path)
    _check_graph(model, info, f"{path}")
    return MapFile(path, info, content)


def _to_properties(info: MapInfo) -> dict[str, str]:
    """Return the description as ONNX metadata: plain text stays text, the rest is JSON."""
    values = {**asdict(info), "format_version": info.format_version}
    if info.drift:  # the names of the file format are older than those of the code
        drift = values["drift"]
        values["drift"] = {_DRIFT_KEYS.get(name, name): value for name, value in drift.items()}
    return {
        _PREFIX + key: value if isinstance(value, str) else json.dumps(value, default=_as_text)
        for key, value in values.items()
    }


def _check_length(name: str, text: str) -> None:
    """Refuse an entry before it is parsed: what comes of it takes far more memory."""
    most = _MAX_KEYFRAME_CHARS if name == "keyframes" else _MAX_PROPERTY_CHARS
    if len(text) > most:
        raise MapFileError(f"{name} has {len(text)} characters, expected at most {most}")


def _as_text(value: bytes) -> str:
    return base64.b64encode(value).decode("ascii")


def _from_properties(properties: dict[str, str], path: Path) -> MapInfo:
    """Return the description that `_to_properties` wrote."""
    version = properties["format_version"]
    if not version.isdecimal() or len(version) > 9 or int(version) < 1:
        raise MapFileError(
            f"{path}: found format version '{version[:20]}', expected {FORMAT_VERSION}"
        )
    if int(version) > FORMAT_VERSION:
        raise MapFileError(
            f"{path}: is a map of format version {version}, this Mote reads up to "
            f"{FORMAT_VERSION}: update mote_localization on this machine"
        )
    try:
        for name, text in properties.items():
            _check_length(name, text)
        camera = json.loads(properties["camera"])
        info = MapInfo(
            scene=properties["scene"],
            camera=Camera(
                _whole(camera["width"]),
                _whole(camera["height"]),
                _number(camera["fx"]),
                _number(camera["fy"]),
                _number(camera["cx"]),
                _number(camera["cy"]),
                camera["distortion_model"],
                tuple(_number(d) for d in camera["distortion"]),
            ),
            stride=_whole(json.loads(properties["stride"])),
            bounds_min=_corner(json.loads(properties["bounds_min"])),
            bounds_max=_corner(json.loads(properties["bounds_max"])),
            teacher=properties["teacher"],
            teacher_licence=properties["teacher_licence"],
            student=properties["student"],
            covariance_scale=_number(json.loads(properties["covariance_scale"])),
            # Older maps do not say: all were metric.
            metric=_flag(json.loads(properties.get("metric", "true"))),
            drift=_drift(json.loads(properties.get("drift", "null"))),
            keyframes=_keyframes(json.loads(properties.get("keyframes", "[]"))),
            self_test=_self_test(json.loads(properties.get("self_test", "null"))),
            training=_figures(json.loads(properties["training"])),
            created=properties["created"],
        )
        if info.format_version > int(version):
            raise ValueError(f"format version {version} knows no drift, or no keyframes")
        return info
    except (MapFileError, CameraError, SceneError) as error:
        raise MapFileError(f"{path}: {error}") from error
    except KeyError as error:
        raise MapFileError(
            f"{path}: its description lacks {error}: truncated, or not made by Mote; copy it "
            "again, or make the map anew"
        ) from error
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise MapFileError(
            f"{path}: its description is damaged ({error}); copy it again, or make the map anew"
        ) from error


def _number(value: Any) -> float:
    if type(value) not in (int, float):
        raise TypeError(f"found {str(value)[:40]!r}, expected a number")
    return float(value)


def _whole(value: Any) -> int:
    if type(value) is not int:
        raise TypeError(f"found {str(value)[:40]!r}, expected a whole number")
    return value


def _flag(value: Any) -> bool:
    if type(value) is not bool:
        raise TypeError(f"found {str(value)[:40]!r}, expected true or false")
    return value


def _corner(value: Any) -> tuple[float, float, float]:
    x, y, z = value
    return _number(x), _number(y), _number(z)


def _drift(value: Any) -> Drift | None:
    if value is None:
        return None
    return Drift(
        tuple(tuple(_number(number) for number in station) for station in value["stations"]),
        _number(value["reach_m"]),
        _number(value["reach_deg"]),
        _number(value["noise"]),
    )


def _self_test(value: Any) -> SelfTest | None:
    if value is None:
        return None
    image, points = (base64.b64decode(value[name], validate=True) for name in ("image", "points"))
    return SelfTest(image, points)


def _keyframes(value: Any) -> tuple[Keyframe, ...]:
    if type(value) is not list or len(value) > MAX_KEYFRAMES:
        raise ValueError(f"found no list of at most {MAX_KEYFRAMES} keyframes")
    return tuple(
        Keyframe(
            tuple(tuple(_number(number) for number in row) for row in keyframe["T_map_cam"]),
            *(base64.b64decode(keyframe[name], validate=True) for name in ("image", "depth")),
        )
        for keyframe in value
    )


def _figures(value: Any) -> dict[str, float | int | str]:
    if type(value) is not dict or any(type(v) not in (int, float, str) for v in value.values()):
        raise TypeError(f"found {str(value)[:40]!r}, expected names and figures")
    return value


def _check_graph(model: onnx.ModelProto, info: MapInfo, where: str) -> None:
    """Refuse a graph that is not of a map's form or could reach outside its own file."""
    weights = {tensor.name for tensor in model.graph.initializer}
    found = {}
    for value in (*(i for i in model.graph.input if i.name not in weights), *model.graph.output):
        tensor = value.type.tensor_type
        shape: tuple[int | str, ...] = tuple(d.dim_param or d.dim_value for d in tensor.shape.dim)
        right_type = tensor.elem_type == _TENSOR_TYPES.get(value.name, onnx.TensorProto.FLOAT)
        found[value.name] = shape if right_type else (*shape, "of another type")
    if found != info.tensors:
        raise MapFileError(f"{where}: found inputs and outputs {found}, expected {info.tensors}")
    opsets = {entry.domain: entry.version for entry in model.opset_import}
    domains = {*opsets, *(node.domain for node in model.graph.node)}
    if domains - _DOMAINS or max(opsets.values(), default=0) < _MIN_OPSET or model.functions:
        raise MapFileError(
            f"{where}: found operator sets {opsets or domains}, expected the standard one, "
            f"{_MIN_OPSET} or later, and no functions"
        )
    branching = sorted(
        {
            node.op_type
            for node in model.graph.node
            for attribute in node.attribute
            if attribute.HasField("g") or attribute.graphs
        }
    )
    if branching:
        raise MapFileError(
            f"{where}: found control flow ({', '.join(branching)}), expected a plain graph"
        )
    if any(onnx.external_data_helper.uses_external_data(t) for t in _tensors(model.graph)):
        raise MapFileError(
            f"{where}: its weights lie in another file; expected one self-contained file"
        )


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Go through all tensors that a graph without subgraphs holds."""
    attributes = [a for node in graph.node for a in node.attribute]
    yield from graph.initializer
    for attribute in attributes:
        yield attribute.t
        yield from attribute.tensors
    sparse = [*graph.sparse_initializer, *(a.sparse_tensor for a in attributes)]
    for tensor in (*sparse, *(t for a in attributes for t in a.sparse_tensors)):
        yield tensor.values
        yield tensor.indices
