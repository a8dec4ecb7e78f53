"""ONNX Runtime: on the CPU everywhere, on an NVIDIA GPU where its package for CUDA is installed."""

import numpy as np
import onnxruntime

from mote_localization.errors import BackendError
from mote_localization.map_file import MapFile

_CPU, _CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"


def knows_cuda() -> bool:
    """Return whether the installed package can use a GPU, if there is one."""
    return _CUDA in onnxruntime.get_available_providers()


class OnnxRuntimeBackend:
    """A map loaded into ONNX Runtime."""

    def __init__(self, map_file: MapFile, threads: int = 0, cuda: bool = False) -> None:
        """Load the map.

        Args:
            map_file: The map.
            threads: CPU threads; 0: one per core.
            cuda: On the GPU.

        Raises:
            BackendError: ONNX Runtime cannot run the map's graph, there is no GPU for it, or
                threads is negative.
        """
        if threads < 0:
            raise BackendError(f"found {threads} threads, expected a number, or 0 for one per core")
        if cuda and not knows_cuda():
            raise BackendError(
                "backend onnxruntime_cuda: this onnxruntime is the one for the CPU; pip install "
                "onnxruntime-gpu in its place"
            )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # Spinning workers burn a core between images: 42 ms of CPU an image against 12.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._path = map_file.path
        try:
            self._session = onnxruntime.InferenceSession(
                map_file.model, options, providers=[_CUDA, _CPU] if cuda else [_CPU]
            )
        except Exception as error:  # its exceptions share no base class
            raise BackendError(f"{map_file.path}: ONNX Runtime cannot load it ({error})") from error
        # What a graph says of its outputs may not be what it computes.
        found = {value.name: tuple(value.shape) for value in self._session.get_outputs()}
        if any(shape != map_file.info.tensors[name] for name, shape in found.items()):
            raise BackendError(
                f"{map_file.path}: its graph computes {found}, expected {map_file.info.tensors}"
            )
        if cuda and _CUDA not in self._session.get_providers():  # it says so in its log alone
            raise BackendError(
                "backend onnxruntime_cuda: ONNX Runtime finds no GPU, or not the CUDA and cuDNN it "
                "was built for; its log says which"
            )

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
