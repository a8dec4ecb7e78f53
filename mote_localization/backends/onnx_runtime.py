"""ONNX Runtime on the CPU: runs everywhere."""

import numpy as np
import onnxruntime

from mote_localization.errors import BackendError
from mote_localization.map_file import MapFile


class OnnxRuntimeBackend:
    """A map loaded into ONNX Runtime's CPU provider."""

    def __init__(self, map_file: MapFile, threads: int = 0) -> None:
        """Load the map.

        Args:
            map_file: The map.
            threads: CPU threads; 0: one per core.

        Raises:
            BackendError: ONNX Runtime cannot run the map's graph, or threads is negative.
        """
        if threads < 0:
            raise BackendError(f"found {threads} threads, expected a number, or 0 for one per core")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # Spinning workers burn a core between images: 42 ms of CPU an image against 12.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._path = map_file.path
        try:
            self._session = onnxruntime.InferenceSession(
                map_file.model, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # its exceptions share no base class
            raise BackendError(f"{map_file.path}: ONNX Runtime cannot load it ({error})") from error

    def predict(self, image_hw3: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Predict points_hw3 and sigma_hw of one canonical image; see `Backend.predict`.

        Raises:
            BackendError: ONNX Runtime fails, as without memory.
        """
        try:
            points_bhw3, sigma_bhw = self._session.run(
                ["points", "sigma"], {"image": image_hw3[None]}
            )
        except Exception as error:  # its exceptions share no base class
            raise BackendError(f"{self._path}: ONNX Runtime cannot run it ({error})") from error
        return points_bhw3[0], sigma_bhw[0]
