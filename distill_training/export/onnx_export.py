"""From a trained student to the map file, checked to predict the same.

The map computes in single precision but holds its weights in half, where that changes no point by
more than 2 mm: engines widen them once, when the map is loaded. Some tensors may stay in single:
thin layers pass all that is seen, and their rounding moves every point.
"""

import io
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import torch
from torch import nn

from distill_training.common.sampling import thinned
from distill_training.export.quantization import quantized
from distill_training.reconstruction import Reconstruction
from distill_training.students.torch_backend import TorchBackend
from mote_localization.backends import Backend, create_backend
from mote_localization.backends.precision import STORED_HALF
from mote_localization.errors import MapFileError
from mote_localization.map_file import MapFile, MapInfo, write_map
from mote_localization.progress import track
from mote_localization.self_test import SelfTest

_OPSET = 17
_INT8_SAMPLES = 64  # images whose activation ranges set the scales of the 8-bit integers
# largest differences allowed between student and map: of points, m; of sigma, as a share
_PARITY = (2e-3, 1e-2)
_LEAST_HALVED = 1 << 10  # numbers of a tensor that may be stored in half; the head's are fewer
_INT8_MOVES = 0.25  # of sigma: what 8-bit integers may move a point by, median


def write_student(
    network: nn.Module, info: MapInfo, reconstruction: Reconstruction, path: Path, int8: bool
) -> str:
    """Write a calibrated student as a map; see `export_map` and `export_int8_map`.

    Args:
        network: The student, float32, in evaluation mode, on the CPU.
        info: The map's metadata.
        reconstruction: Source of the images on which map and student are compared.
        path: Path of the map; an older map survives a failure.
        int8: The map computes in 8-bit integers.

    Returns:
        How much map and student differ, for the user.

    Raises:
        MapFileError: They differ too much, or the file cannot be written.
    """
    if int8:
        images_bhw3 = sample_images(reconstruction, _INT8_SAMPLES)
        moved = export_int8_map(network, info, images_bhw3, path)
        return f"8-bit integers move the points by {moved:.0%} of their sigma (median)"
    worst_m = export_map(network, info, sample_images(reconstruction), path)
    return f"equal to the student within {1000 * worst_m:.3f} mm"


def sample_images(reconstruction: Reconstruction, at_most: int = 4) -> np.ndarray:
    """Return a few canonical images (b, h, w, 3), uint8, spread evenly over the recording."""
    names = thinned(list(reconstruction.poses), at_most)
    return np.stack([reconstruction.read_frame(name).image_hw3 for name in names])


def export_map(network: nn.Module, info: MapInfo, images_bhw3: np.ndarray, path: Path) -> float:
    """Write a student as a map, after ONNX Runtime has given the same points.

    Args:
        network: The student, float32, in evaluation mode, on the CPU.
        info: The map's description.
        images_bhw3: A few canonical images, uint8, to compare on; the map carries the first one,
            for its self-test.
        path: Where the map goes; an older map survives a failure.

    Returns:
        The largest difference of a point, metres.

    Raises:
        MapFileError: The two differ by more than 2 mm, or the file cannot be written.
    """
    single, student = to_onnx(network, info), TorchBackend(network)

    def stored(halved: set[str]) -> _Stored:
        model = _halved(single, halved)
        backend = _backend(model, info)
        return _Stored(model, backend, *_differences(student, backend, images_bhw3))

    best = _with_most_halved(single, stored)
    if best.is_alike:
        _write(best.model, best.backend, info, images_bhw3, path)
        return best.worst_m
    raise MapFileError(
        f"{path}: not written: ONNX Runtime's points differ from the student's by "
        f"{best.worst_m * 1000:.2f} mm and sigma by {best.worst_sigma:.1%}, expected at most "
        f"{_PARITY[0] * 1000:g} mm and {_PARITY[1]:.0%} (nan: the training has diverged)"
    )


def export_int8_map(
    network: nn.Module, info: MapInfo, images_bhw3: np.ndarray, path: Path
) -> float:
    """Write a student as a map that computes in 8-bit integers; see `export_map`.

    Args:
        network: The student, float32, in evaluation mode, on the CPU.
        info: The map's description.
        images_bhw3: Canonical images, uint8, as many and as different as the place has.
        path: Where the map goes; an older map survives a failure.

    Returns:
        How far points move, median, as a share of the error that the student expects of them.

    Raises:
        MapFileError: They move by more than a quarter of it, or the file cannot be written.
    """
    model = quantized(to_onnx(network, info), images_bhw3)
    student, backend = TorchBackend(network), _backend(model, info)
    moved = float(np.median([_moved(student, backend, image) for image in images_bhw3]))
    if not moved <= _INT8_MOVES:  # nor a number
        raise MapFileError(
            f"{path}: not written: 8-bit integers move the points by {moved:.0%} of their sigma "
            f"(median), expected at most {_INT8_MOVES:.0%}; leave --int8 out"
        )
    told = replace(info, training={**info.training, "computes_in": "int8"})
    _write(model, backend, told, images_bhw3, path)
    return moved


def _moved(student: Backend, backend: Backend, image_hw3: np.ndarray) -> float:
    """Return how far a backend's points are from the student's, median, as a share of sigma."""
    points_hw3, sigma_hw = student.predict(image_hw3)
    away_hw = np.linalg.norm(backend.predict(image_hw3)[0] - points_hw3, axis=-1)
    return float(np.median(away_hw / sigma_hw))


def _backend(model: onnx.ModelProto, info: MapInfo) -> Backend:
    return create_backend(MapFile(Path("export"), info, model.SerializeToString()))


def _write(
    model: onnx.ModelProto, backend: Backend, info: MapInfo, images_bhw3: np.ndarray, path: Path
) -> None:
    """Write a map with its self-test."""
    write_map(
        path, model, replace(info, self_test=SelfTest.record(images_bhw3[0], backend.predict))
    )


class _Stored(NamedTuple):
    """A student's graph with some of its weights in half precision, and what that changes."""

    model: onnx.ModelProto
    backend: Backend
    worst_m: float  # largest difference of a point, metres
    worst_sigma: float  # likewise of sigma, as a share of it

    @property
    def is_alike(self) -> bool:
        """Whether differences are as small as a map's must be; NaN is not."""
        return self.worst_m <= _PARITY[0] and self.worst_sigma <= _PARITY[1]


def _differences(
    student: Backend, backend: Backend, images_bhw3: np.ndarray
) -> tuple[float, float]:
    """Return by how much a backend differs: points at most, m, and sigma at most, as a share."""
    worst_m, worst_sigma = np.float32(0), np.float32(0)
    for image_hw3 in images_bhw3:
        points_hw3, sigma_hw = student.predict(image_hw3)
        exported_hw3, exported_sigma_hw = backend.predict(image_hw3)
        # np.maximum keeps NaN, which a diverged student predicts
        worst_m = np.maximum(worst_m, np.linalg.norm(points_hw3 - exported_hw3, axis=-1).max())
        worst_sigma = np.maximum(worst_sigma, np.abs(exported_sigma_hw / sigma_hw - 1).max())
    return float(worst_m), float(worst_sigma)


def to_onnx(network: nn.Module, info: MapInfo) -> onnx.ModelProto:
    """Return the student as a fixed-size ONNX graph of a map's form."""
    buffer = io.BytesIO()
    image_bhw3 = torch.zeros((1, info.camera.height, info.camera.width, 3), dtype=torch.uint8)
    torch.onnx.export(
        network,
        (image_bhw3,),
        buffer,  # type: ignore[arg-type]  # the exporter takes open files
        input_names=["image"],
        output_names=["points", "sigma"],
        opset_version=_OPSET,
        dynamo=False,
    )
    return onnx.load_model_from_string(buffer.getvalue())


def _with_most_halved(model: onnx.ModelProto, stored: Callable[[set[str]], _Stored]) -> _Stored:
    """Return a student with as many tensors stored in half as leave the points alike.

    Where not all of them do, those go first that alone move the points least. Where even none do,
    that is returned.
    """
    names = [
        tensor.name
        for tensor in model.graph.initializer
        if tensor.data_type == onnx.TensorProto.FLOAT and math.prod(tensor.dims) >= _LEAST_HALVED
    ]
    everything = stored(set(names))
    if everything.is_alike:
        return everything
    best = stored(set())
    if not best.is_alike:
        return best
    alone = {}
    for name in track(names, "weights", len(names)):
        _, _, worst_m, worst_sigma = stored({name})
        alone[name] = max(worst_m / _PARITY[0], worst_sigma / _PARITY[1])
    ordered = sorted(names, key=lambda name: alone[name])
    alike, unlike = 0, len(ordered)
    while unlike - alike > 1:
        count = (alike + unlike) // 2
        tried = stored(set(ordered[:count]))
        if tried.is_alike:
            best, alike = tried, count
        else:
            unlike = count
    return best


def _halved(model: onnx.ModelProto, names: set[str]) -> onnx.ModelProto:
    """Return a model some of whose tensors are stored as float16, and cast."""
    halved = onnx.ModelProto()
    halved.CopyFrom(model)
    casts = []
    for tensor in halved.graph.initializer:
        if tensor.name in names:
            name, stored = tensor.name, f"{tensor.name}{STORED_HALF}"
            with np.errstate(over="ignore"):  # an overflow is seen when the points are compared
                half = onnx.numpy_helper.to_array(tensor).astype(np.float16)
            tensor.CopyFrom(onnx.numpy_helper.from_array(half, stored))
            casts.append(onnx.helper.make_node("Cast", [stored], [name], to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *halved.graph.node]
    del halved.graph.node[:]
    halved.graph.node.extend(nodes)
    return halved
