"""The ONNX Runtime backend: on the CPU, and on NVIDIA GPUs if onnxruntime-gpu is installed."""

import numpy as np
import onnxruntime

from mote_localization.errors import BackendError
from mote_localization.map_file import MapFile

_CPU, _CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"


def supports_cuda() -> bool:
    """Return whether the installed package can use an NVIDIA GPU."""
    return _CUDA in onnxruntime.get_available_providers()


class OnnxRuntimeBackend:
    """A map loaded into ONNX Runtime."""

    def __init__(self, map_file: MapFile, threads: int = 0, cuda: bool = False) -> None:
        """Load the map.

        Args:
            map_file: The map.
            threads: CPU threads; 0: one per core.
            cuda: Run on the GPU.

        Raises:
            BackendError: ONNX Runtime cannot run the map's graph, finds no GPU, or threads is
                negative.
        """
        if threads < 0:
            raise BackendError(f"found {threads} threads, expected a number, or 0 for one per core")
        if cuda and not supports_cuda():
            raise BackendError(
                "backend onnxruntime_cuda: found the onnxruntime package for the CPU; pip install "
                "onnxruntime-gpu in its place"
            )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # Without spinning of idle threads, an image costs 12 ms of CPU time instead of 42 ms.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # Some bytes are a map and, in the format of ONNX Runtime, another model, unchecked.
        options.add_session_config_entry("session.load_model_format", "ONNX")
        self._path = map_file.path
        try:
            self._session = onnxruntime.InferenceSession(
                map_file.model, options, providers=[_CUDA, _CPU] if cuda else [_CPU]
            )
        except Exception as error:  # ONNX Runtime's exceptions have no common base class
            raise BackendError(
                f"{map_file.path}: ONNX Runtime cannot load it ({_short(error)})"
            ) from error
        # The declared output shapes may differ from the computed ones.
        found = {value.name: tuple(value.shape) for value in self._session.get_outputs()}
        if any(shape != map_file.info.tensors[name] for name, shape in found.items()):
            raise BackendError(
                f"{map_file.path}: its graph computes {str(found)[:120]}, expected "
                f"{map_file.info.tensors}"
            )
        if cuda and _CUDA not in self._session.get_providers():  # it only logs the reason
            raise BackendError(
                "backend onnxruntime_cuda: ONNX Runtime finds no GPU, or not the CUDA and cuDNN it "
                "was built for; see its log"
            )

    def predict(self, image_hw3: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Predict points_hw3 and sigma_hw of one canonical image; see `Backend.predict`.

        Raises:
            BackendError: ONNX Runtime fails, for example for lack of memory.
        """
        try:
            points_bhw3, sigma_bhw = self._session.run(
                ["points", "sigma"], {"image": image_hw3[None]}
            )
        except Exception as error:  # ONNX Runtime's exceptions have no common base class
            raise BackendError(
                f"{self._path}: ONNX Runtime cannot run it ({_short(error)})"
            ) from error
        return points_bhw3[0], sigma_bhw[0]


def _short(error: Exception) -> str:
    """Return the text of an error, which may contain names from the graph, in one short line."""
    return " ".join(str(error).split())[:200]
