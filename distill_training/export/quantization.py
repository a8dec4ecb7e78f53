"""Quantizes networks to 8-bit integers: on a CPU they take a third of the time.

Quantization is explicit, by nodes of the graph, so that every backend computes the same. The head
stays in single precision: coordinates need more than 8 bits.
"""

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from mote_localization.backends.precision import single_precision_nodes

_LAYERS = ["Conv", "Add", "Relu", "Resize", "Concat"]


def quantized(model: onnx.ModelProto, images_bhw3: np.ndarray) -> onnx.ModelProto:
    """Return a graph that computes in 8-bit integers, except in its first and last layers.

    Weights have 7 bits: CPUs without 8-bit dot products would overflow otherwise.

    Args:
        model: A student in single precision.
        images_bhw3: Canonical images, uint8, of the place; the ranges of their activations set the
            scales of the integers.
    """
    kept = [node.name for node in single_precision_nodes(model.graph)]
    with tempfile.TemporaryDirectory() as folder, _without_logging():
        path = Path(folder) / "quantized.onnx"
        quantize_static(
            model,
            path,
            _Images(images_bhw3),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=_LAYERS,
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=kept,
            extra_options={"QuantizeBias": False},  # TensorRT has no 32-bit biases
        )
        made = onnx.load(path)
    standard = [entry for entry in made.opset_import if not entry.domain]
    del made.opset_import[:]
    made.opset_import.extend(standard)
    return made


class _Images(CalibrationDataReader):
    """Yields images as the inputs of the network."""

    def __init__(self, images_bhw3: np.ndarray) -> None:
        self._images = iter(images_bhw3)

    def get_next(self) -> dict[str, np.ndarray] | None:
        image_hw3 = next(self._images, None)
        return None if image_hw3 is None else {"image": image_hw3[None]}


@contextmanager
def _without_logging() -> Iterator[None]:
    """Suppress the library's log: its advice on the graph does not concern users."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
