"""The TensorRT backend for NVIDIA GPUs, with the library `tensorrt` or `tensorrt_rtx`."""

import ctypes
import math
import weakref
from typing import Any

import numpy as np

from mote_localization.backends.engine_builder import (
    Gpu,
    Library,
    Precision,
    engine_for,
    library_log,
    load_library,
    logged_errors,
)
from mote_localization.errors import BackendError
from mote_localization.map_file import MapFile

_DTYPES = {"image": np.uint8, "points": np.float32, "sigma": np.float32}


class TensorRtBackend:
    """A map's engine, one CUDA stream, and buffers that are allocated once."""

    def __init__(self, map_file: MapFile, library: Library, precision: Precision = "fp16") -> None:
        """Load the cached engine, or build and load it.

        Raises:
            BackendError: The library or the CUDA bindings are not installed, there is no GPU, or
                the engine cannot be built or loaded.
        """
        trt = load_library(library)
        cuda = _Cuda(library)
        gpu = cuda.gpu()
        self._path, self._cuda = map_file.path, cuda
        self._runtime = trt.Runtime(library_log(trt))
        for rebuild in (False, True):  # a new driver may refuse an engine of an older one
            engine = engine_for(map_file, library, gpu, precision, rebuild)
            self._engine = self._runtime.deserialize_cuda_engine(engine)
            if self._engine is not None:
                break
        else:
            raise BackendError(
                f"{map_file.path}: {library} cannot load its engine on {gpu}: "
                f"{logged_errors(library_log(trt))}"
            )
        self._context = self._engine.create_execution_context()
        if self._context is None:  # for example for lack of memory
            raise BackendError(
                f"{map_file.path}: {library} cannot run its engine on {gpu}: "
                f"{logged_errors(library_log(trt))}"
            )
        self._stream = cuda.call("cudaStreamCreate")
        cuda.call_on_deletion(self, "cudaStreamDestroy", self._stream)
        self._buffers = {
            name: _Buffer(cuda, shape, np.dtype(_DTYPES[name]))
            for name, shape in map_file.info.tensors.items()
        }
        for name, buffer in self._buffers.items():
            self._context.set_tensor_address(name, buffer.device)

    def predict(self, image_hw3: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Predict points_hw3 and sigma_hw of one canonical image; see `Backend.predict`.

        Raises:
            BackendError: TensorRT or CUDA fails.
        """
        image, points, sigma = (self._buffers[name] for name in ("image", "points", "sigma"))
        image.host[0] = image_hw3
        image.upload(self._stream)
        if not self._context.execute_async_v3(int(self._stream)):
            raise BackendError(f"{self._path}: TensorRT cannot run it; see the log")
        points.download(self._stream)
        sigma.download(self._stream)
        self._cuda.call("cudaStreamSynchronize", self._stream)
        return points.host[0].copy(), sigma.host[0].copy()


class _Cuda:
    """The CUDA runtime; errors become exceptions."""

    def __init__(self, library: Library) -> None:
        try:
            from cuda.bindings import runtime
        except ImportError as error:
            raise BackendError(f"backend {library}: {error}; pip install cuda-bindings") from error
        self._runtime: Any = runtime
        self._library = library
        self.copy = runtime.cudaMemcpyKind

    def call(self, name: str, *arguments: Any) -> Any:
        """Return the result of a function of the CUDA runtime; raise `BackendError` if it fails."""
        error, *results = getattr(self._runtime, name)(*arguments)
        if int(error):
            _, text = self._runtime.cudaGetErrorString(error)
            raise BackendError(f"backend {self._library}: {name}: {text.decode()}")
        return results[0] if results else None

    def call_on_deletion(self, owner: object, name: str, *arguments: Any) -> None:
        """Call a function when an object is deleted, but not at exit: CUDA may be unloaded then."""
        weakref.finalize(owner, self.call, name, *arguments).atexit = False

    def gpu(self) -> Gpu:
        """Return the current GPU of CUDA; raise `BackendError` if there is none."""
        properties = self.call("cudaGetDeviceProperties", self.call("cudaGetDevice"))
        return Gpu((properties.major, properties.minor), properties.name.decode())


class _Buffer:
    """Memory of a tensor on the GPU, and pinned memory of the same size on the host."""

    def __init__(self, cuda: _Cuda, shape: tuple[int, ...], dtype: np.dtype) -> None:
        self._cuda, self._bytes = cuda, math.prod(shape) * dtype.itemsize
        self.device = cuda.call("cudaMalloc", self._bytes)
        cuda.call_on_deletion(self, "cudaFree", self.device)
        pinned = cuda.call("cudaMallocHost", self._bytes)
        cuda.call_on_deletion(self, "cudaFreeHost", pinned)
        memory = (ctypes.c_uint8 * self._bytes).from_address(pinned)
        self.host = np.ctypeslib.as_array(memory).view(dtype).reshape(shape)

    def upload(self, stream: Any) -> None:
        """Copy from host to GPU, in the order of the stream."""
        to_device = self._cuda.copy.cudaMemcpyHostToDevice
        self._cuda.call(
            "cudaMemcpyAsync", self.device, self.host.ctypes.data, self._bytes, to_device, stream
        )

    def download(self, stream: Any) -> None:
        """Copy from GPU to host, in the order of the stream."""
        to_host = self._cuda.copy.cudaMemcpyDeviceToHost
        self._cuda.call(
            "cudaMemcpyAsync", self.host.ctypes.data, self.device, self._bytes, to_host, stream
        )
