"""Exports a trained student as a map file, and checks that both predict the same.

A map computes in single precision and stores weights in half precision where that changes no point
by more than 2 mm; backends convert them once, when they load the map. Some tensors may stay in
single precision: the rounding of a layer with few channels moves every point.
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
_MAX_POINT_DIFFERENCE_M = 2e-3  # between student and map
_MAX_SIGMA_DIFFERENCE = 1e-2  # between student and map, as a fraction of sigma
_MIN_HALF_VALUES = 1 << 10  # of a tensor; smaller tensors, as the head's, stay in single precision
_MAX_INT8_DIFFERENCE = 0.25  # of points, as a fraction of sigma, median


def write_student(
    network: nn.Module, info: MapInfo, reconstruction: Reconstruction, path: Path, int8: bool
) -> str:
    """Write a calibrated student as a map, and return how much they differ, for the user.

    Calls `export_map`, or `export_int8_map` if the map is to compute in 8-bit integers, with images
    of the reconstruction.
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
    """Write a student as a map if ONNX Runtime predicts the same points from it.

    Args:
        network: The student, float32, in evaluation mode, on the CPU.
        info: The map's metadata.
        images_bhw3: A few canonical images, uint8, to compare on; the map stores the first one for
            its self-test.
        path: Path of the map; unchanged if the export fails.

    Returns:
        The largest difference of a point, metres.

    Raises:
        MapFileError: The two differ by more than 2 mm, or the file cannot be written.
    """
    single, student = to_onnx(network, info), TorchBackend(network)

    def candidate(halved: set[str]) -> _Candidate:
        model = _with_half_weights(single, halved)
        backend = _backend(model, info)
        return _Candidate(model, backend, *_differences(student, backend, images_bhw3))

    best = _smallest_equal(single, candidate)
    if best.is_equal:
        _write(best.model, best.backend, info, images_bhw3, path)
        return best.worst_m
    raise MapFileError(
        f"{path}: not written: ONNX Runtime's points differ from the student's by "
        f"{best.worst_m * 1000:.2f} mm and sigma by {best.worst_sigma:.1%}, expected at most "
        f"{_MAX_POINT_DIFFERENCE_M * 1000:g} mm and {_MAX_SIGMA_DIFFERENCE:.0%} (nan: the training "
        "has diverged)"
    )


def export_int8_map(
    network: nn.Module, info: MapInfo, images_bhw3: np.ndarray, path: Path
) -> float:
    """Write a student as a map that computes in 8-bit integers; arguments as in `export_map`.

    The images are of all parts of the place: their activations set the scales of the integers.

    Returns:
        How far 8-bit integers move the points, as a fraction of their sigma, median.

    Raises:
        MapFileError: They move by more than a quarter, or the file cannot be written.
    """
    model = quantized(to_onnx(network, info), images_bhw3)
    student, backend = TorchBackend(network), _backend(model, info)
    moved = float(np.median([_moved(student, backend, image) for image in images_bhw3]))
    if not moved <= _MAX_INT8_DIFFERENCE:  # NaN too
        raise MapFileError(
            f"{path}: not written: 8-bit integers move the points by {moved:.0%} of their sigma "
            f"(median), expected at most {_MAX_INT8_DIFFERENCE:.0%}; leave --int8 out"
        )
    info = replace(info, training={**info.training, "computes_in": "int8"})
    _write(model, backend, info, images_bhw3, path)
    return moved


def _moved(student: Backend, backend: Backend, image_hw3: np.ndarray) -> float:
    """Return the distance of a backend's points to the student's over sigma, median."""
    points_hw3, sigma_hw = student.predict(image_hw3)
    distance_hw = np.linalg.norm(backend.predict(image_hw3)[0] - points_hw3, axis=-1)
    return float(np.median(distance_hw / sigma_hw))


def _backend(model: onnx.ModelProto, info: MapInfo) -> Backend:
    return create_backend(MapFile(Path("export"), info, model.SerializeToString()))


def _write(
    model: onnx.ModelProto, backend: Backend, info: MapInfo, images_bhw3: np.ndarray, path: Path
) -> None:
    """Write a map with its self-test."""
    write_map(
        path, model, replace(info, self_test=SelfTest.record(images_bhw3[0], backend.predict))
    )


class _Candidate(NamedTuple):
    """A student's graph with some of its weights in half precision, compared with the student."""

    model: onnx.ModelProto
    backend: Backend
    worst_m: float  # largest difference of a point, metres
    worst_sigma: float  # largest difference of sigma, as a fraction of it

    @property
    def difference(self) -> float:
        """The larger of the two differences, over what is allowed."""
        return max(self.worst_m / _MAX_POINT_DIFFERENCE_M, self.worst_sigma / _MAX_SIGMA_DIFFERENCE)

    @property
    def is_equal(self) -> bool:
        """Whether both differences are allowed; NaN is not."""
        return self.worst_m <= _MAX_POINT_DIFFERENCE_M and self.worst_sigma <= _MAX_SIGMA_DIFFERENCE


def _differences(
    student: Backend, backend: Backend, images_bhw3: np.ndarray
) -> tuple[float, float]:
    """Return the largest differences of points (m) and of sigma (as a fraction of it)."""
    worst_m, worst_sigma = np.float32(0), np.float32(0)
    for image_hw3 in images_bhw3:
        points_hw3, sigma_hw = student.predict(image_hw3)
        exported_hw3, exported_sigma_hw = backend.predict(image_hw3)
        # np.maximum propagates the NaN of a diverged student
        worst_m = np.maximum(worst_m, np.linalg.norm(points_hw3 - exported_hw3, axis=-1).max())
        worst_sigma = np.maximum(worst_sigma, np.abs(exported_sigma_hw / sigma_hw - 1).max())
    return float(worst_m), float(worst_sigma)


def to_onnx(network: nn.Module, info: MapInfo) -> onnx.ModelProto:
    """Return the student as an ONNX graph with the fixed shapes of a map."""
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


def _smallest_equal(
    model: onnx.ModelProto, candidate: Callable[[set[str]], _Candidate]
) -> _Candidate:
    """Return the candidate with the most tensors in half precision that equals the student.

    If not all tensors can be halved, they are ordered by the difference each one makes alone, and
    the number of halved tensors is found by bisection. If even the candidate without any differs,
    it is returned.
    """
    names = [
        tensor.name
        for tensor in model.graph.initializer
        if tensor.data_type == onnx.TensorProto.FLOAT and math.prod(tensor.dims) >= _MIN_HALF_VALUES
    ]
    smallest = candidate(set(names))
    if smallest.is_equal:
        return smallest
    best = candidate(set())
    if not best.is_equal:
        return best
    tracked = track(names, "weights", len(names))
    alone = {name: candidate({name}).difference for name in tracked}
    ordered = sorted(names, key=lambda name: alone[name])
    equal, different = 0, len(ordered)
    while different - equal > 1:
        count = (equal + different) // 2
        tried = candidate(set(ordered[:count]))
        if tried.is_equal:
            best, equal = tried, count
        else:
            different = count
    return best


def _with_half_weights(model: onnx.ModelProto, names: set[str]) -> onnx.ModelProto:
    """Return a model that stores the named tensors as float16 and casts them to float32."""
    halved = onnx.ModelProto()
    halved.CopyFrom(model)
    casts = []
    for tensor in halved.graph.initializer:
        if tensor.name in names:
            name, stored = tensor.name, f"{tensor.name}{STORED_HALF}"
            with np.errstate(over="ignore"):  # the comparison of the points finds an overflow
                half = onnx.numpy_helper.to_array(tensor).astype(np.float16)
            tensor.CopyFrom(onnx.numpy_helper.from_array(half, stored))
            casts.append(onnx.helper.make_node("Cast", [stored], [name], to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *halved.graph.node]
    del halved.graph.node[:]
    halved.graph.node.extend(nodes)
    return halved
