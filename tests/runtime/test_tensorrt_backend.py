"""The TensorRT backend without a GPU: its calls of CUDA and TensorRT, and their order.

The CPU simulates both libraries. GPU memory is host memory. An engine is a session of ONNX Runtime
that reads and writes at the given addresses when the stream is synchronized.
"""

import ctypes
import gc
import importlib.util
import sys
from enum import IntEnum
from types import ModuleType, SimpleNamespace

import numpy as np
import onnxruntime
import pytest
from make_map import CAMERA, write_constant_map

from mote_localization.backends import create_backend, tensorrt_backend
from mote_localization.errors import BackendError
from mote_localization.map_file import MapFile, read_map


class Error(IntEnum):
    cudaSuccess = 0
    cudaErrorMemoryAllocation = 2
    cudaErrorNoDevice = 100


class Cuda(ModuleType):
    """The CUDA runtime: operations of a stream run when it is synchronized."""

    cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2)

    def __init__(self) -> None:
        super().__init__("cuda.bindings.runtime")
        self.device, self.host, self.streams = {}, {}, set()
        self.queue: list = []
        self.fails: str | None = None

    def __getattribute__(self, name: str):
        if name.startswith("cuda") and name == object.__getattribute__(self, "fails"):
            return lambda *_: (Error.cudaErrorMemoryAllocation, None)
        return super().__getattribute__(name)

    def cudaGetDevice(self):
        return Error.cudaSuccess, 0

    def cudaGetDeviceProperties(self, device: int):
        return Error.cudaSuccess, SimpleNamespace(major=8, minor=6, name=b"a card")

    def cudaGetErrorString(self, error: Error):
        return Error.cudaSuccess, error.name.encode()

    def _allocate(self, kept: dict, count: int):
        memory = (ctypes.c_uint8 * count)()
        kept[ctypes.addressof(memory)] = memory
        return Error.cudaSuccess, ctypes.addressof(memory)

    def cudaMalloc(self, count: int):
        return self._allocate(self.device, count)

    def cudaMallocHost(self, count: int):
        return self._allocate(self.host, count)

    def cudaFree(self, address: int):
        del self.device[address]
        return (Error.cudaSuccess,)

    def cudaFreeHost(self, address: int):
        del self.host[address]
        return (Error.cudaSuccess,)

    def cudaStreamCreate(self):
        self.streams.add(7)
        return Error.cudaSuccess, 7

    def cudaStreamDestroy(self, stream: int):
        self.streams.remove(stream)
        return (Error.cudaSuccess,)

    def cudaMemcpyAsync(self, to: int, of: int, count: int, kind: int, stream: int):
        here, there = (self.device, self.host) if kind == 1 else (self.host, self.device)
        assert len(here[to]) == len(there[of]) == count
        self.queue.append(lambda: ctypes.memmove(to, of, count))
        return (Error.cudaSuccess,)

    def cudaStreamSynchronize(self, stream: int):
        assert stream in self.streams
        while self.queue:
            self.queue.pop(0)()
        return (Error.cudaSuccess,)


class Context:
    """The execution context of an engine."""

    works = True

    def __init__(self, engine: bytes, cuda: Cuda) -> None:
        self.session = onnxruntime.InferenceSession(engine, providers=["CPUExecutionProvider"])
        self.cuda, self.at = cuda, {}

    def set_tensor_address(self, name: str, address: int) -> None:
        self.at[name] = address

    def execute_async_v3(self, stream: int) -> bool:
        self.cuda.queue.append(self.run)
        return self.works

    def run(self) -> None:
        (image,) = self.session.get_inputs()
        shown = np.frombuffer(self.cuda.device[self.at["image"]], np.uint8).reshape(image.shape)
        for name, value in zip(
            ("points", "sigma"),
            self.session.run(["points", "sigma"], {"image": shown}),
            strict=True,
        ):
            ctypes.memmove(self.at[name], value.ctypes.data, value.nbytes)


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Cuda:
    """Install simulated CUDA bindings and a simulated TensorRT for a test."""
    made, library = Cuda(), ModuleType("tensorrt")
    library.__spec__ = importlib.util.spec_from_loader("tensorrt", loader=None)
    bindings = ModuleType("cuda.bindings")
    bindings.runtime = made
    for name, module in (("cuda", ModuleType("cuda")), ("cuda.bindings", bindings)):
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setitem(sys.modules, "tensorrt", library)
    library.refused, library.contexts = 0, True

    class Runtime:
        def __init__(self, log: object) -> None:
            pass

        def deserialize_cuda_engine(self, engine: bytes):
            if library.refused:
                library.refused -= 1
                return None
            return SimpleNamespace(
                create_execution_context=lambda: library.contexts and Context(engine, made)
            )

    library.Runtime = Runtime
    made.library = library
    log = SimpleNamespace(errors=["this driver is too old"])
    monkeypatch.setattr(tensorrt_backend, "library_log", lambda trt: log)
    made.built = []

    def engine_for(map_file: MapFile, *arguments: object) -> bytes:
        made.built.append(arguments)
        return map_file.model

    monkeypatch.setattr(tensorrt_backend, "engine_for", engine_for)
    return made


@pytest.fixture
def room(tmp_path) -> MapFile:
    return read_map(write_constant_map(tmp_path / "room.onnx", colour_shift_m=2.0))


def images() -> list[np.ndarray]:
    shape = (CAMERA.height, CAMERA.width, 3)
    return [np.random.default_rng(i).integers(20 * i, 255, shape, np.uint8) for i in range(3)]


def test_predictions_are_those_of_the_engine(room: MapFile, cuda: Cuda):
    backend, plain = create_backend(room, "tensorrt"), create_backend(room)
    predictions = [backend.predict(image) for image in images()]
    for image, (points_hw3, sigma_hw) in zip(images(), predictions, strict=True):
        expected_hw3, expected_hw = plain.predict(image)
        assert np.array_equal(points_hw3, expected_hw3) and np.array_equal(sigma_hw, expected_hw)
    ((library, gpu, precision, rebuild),) = cuda.built
    assert (library, str(gpu), precision, rebuild) == ("tensorrt", "sm_86 a card", "fp16", False)


def test_memory_is_allocated_once_and_freed(room: MapFile, cuda: Cuda):
    backend = create_backend(room, "tensorrt")
    assert len(cuda.device) == len(cuda.host) == 3 and len(cuda.streams) == 1
    for image in images():
        backend.predict(image)
    assert len(cuda.device) == len(cuda.host) == 3
    del backend
    gc.collect()
    assert not cuda.device and not cuda.host and not cuda.streams


def test_engine_that_cannot_be_loaded_is_built_again_once(room: MapFile, cuda: Cuda):
    cuda.library.refused = 1
    create_backend(room, "tensorrt").predict(images()[0])
    assert [rebuild for *_, rebuild in cuda.built] == [False, True]
    cuda.library.refused = 2
    with pytest.raises(BackendError, match="cannot load its engine on sm_86 a card: this driver"):
        create_backend(room, "tensorrt")


def test_lack_of_memory_is_one_error(room: MapFile, cuda: Cuda):
    cuda.library.contexts = None
    with pytest.raises(BackendError, match="cannot run its engine on sm_86 a card: this driver"):
        create_backend(room, "tensorrt")


@pytest.mark.parametrize("what", ["cudaGetDevice", "cudaMalloc", "cudaStreamCreate"])
def test_error_of_cuda_is_one_error(room: MapFile, cuda: Cuda, what: str):
    cuda.fails = what
    with pytest.raises(BackendError, match=f"backend tensorrt: {what}: cudaErrorMemoryAllocation"):
        create_backend(room, "tensorrt")


def test_failed_execution_is_one_error(room: MapFile, cuda: Cuda, monkeypatch):
    backend = create_backend(room, "tensorrt")
    monkeypatch.setattr(Context, "works", False)
    with pytest.raises(BackendError, match="room.onnx: TensorRT cannot run it"):
        backend.predict(images()[0])


def test_message_about_missing_cuda_bindings_explains_how_to_install_them(
    room: MapFile, cuda: Cuda, monkeypatch
):
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    with pytest.raises(BackendError, match="backend tensorrt: .*pip install cuda-bindings"):
        create_backend(room, "tensorrt")


def test_auto_chooses_the_gpu_if_there_is_one(room: MapFile, cuda: Cuda, caplog):
    assert type(create_backend(room, "auto")).__name__ == "TensorRtBackend"
    assert not caplog.text
    cuda.fails = "cudaGetDevice"
    assert type(create_backend(room, "auto")).__name__ == "OnnxRuntimeBackend"
    assert "backend tensorrt: cudaGetDevice: " in caplog.text
    assert "using onnxruntime instead" in caplog.text
