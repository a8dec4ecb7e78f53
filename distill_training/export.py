"""From a trained student to the map file, checked to predict the same."""

import io
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import nn

from mote_localization.backends import create_backend
from mote_localization.errors import MapFileError
from mote_localization.map_file import MapFile, MapInfo, write_map

_OPSET = 17
_PARITY_M = 1e-3  # m, largest difference allowed between the student and its map


def export_map(network: nn.Module, info: MapInfo, images_bhw3: np.ndarray, path: Path) -> float:
    """Write a student as a map, after ONNX Runtime has given the same points.

    Args:
        network: The student, float32, in evaluation mode, on the CPU.
        info: The map's description.
        images_bhw3: A few canonical images, uint8, to compare on.
        path: Where the map goes; an older map survives a failure.

    Returns:
        The largest difference of a point, metres.

    Raises:
        MapFileError: The two differ by more than 1 mm, or the file cannot be written.
    """
    model = to_onnx(network, info)
    backend = create_backend(MapFile(path, info, model.SerializeToString()))
    worst_m = 0.0
    for image_hw3 in images_bhw3:
        with torch.inference_mode():
            points_bhw3, _ = network(torch.from_numpy(image_hw3)[None])
        exported_hw3, _ = backend.predict(image_hw3)
        worst_m = max(worst_m, float(np.abs(points_bhw3[0].numpy() - exported_hw3).max()))
    if worst_m > _PARITY_M:
        raise MapFileError(
            f"{path}: not written: ONNX Runtime's points differ from the student's by "
            f"{worst_m * 1000:.2f} mm, expected at most {_PARITY_M * 1000:g} mm"
        )
    write_map(path, model, info)
    return worst_m


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
