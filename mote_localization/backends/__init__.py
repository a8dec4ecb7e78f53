"""Inference backends: each runs a map's network on this machine, all behind one interface."""

from typing import Protocol

import numpy as np

from mote_localization.errors import BackendError
from mote_localization.map_file import MapFile


class Backend(Protocol):
    """Runs a map's network."""

    def predict(self, image_hw3: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Predict the pointmap of one canonical image.

        Args:
            image_hw3: RGB uint8, the canonical camera's size.

        Returns:
            points_hw3 float32, metres in the map frame, and sigma_hw float32, metres; one entry per
            cell.
        """
        ...


def create_backend(map_file: MapFile, name: str = "onnxruntime", threads: int = 0) -> Backend:
    """Load a map into the backend of that name.

    Args:
        map_file: The map.
        name: `onnxruntime`.
        threads: CPU threads; 0: one per core.

    Raises:
        BackendError: The backend is unknown, not installed, or cannot run the map.
    """
    if name == "onnxruntime":
        try:
            from mote_localization.backends.onnx_runtime import OnnxRuntimeBackend
        except ImportError as error:
            raise BackendError(
                f"backend onnxruntime: {error}; install it (pip install onnxruntime)"
            ) from error
        return OnnxRuntimeBackend(map_file, threads)
    raise BackendError(f"found backend '{name}', expected: onnxruntime")
