"""Builds TensorRT engines of maps, with the library `tensorrt` or `tensorrt_rtx`."""

import hashlib
import importlib
import logging
import time
from collections import deque
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

import onnx

from mote_localization.backends.engines import EngineKey, load_or_build
from mote_localization.backends.precision import (
    in_half_precision,
    is_quantized,
    with_signed_integers,
)
from mote_localization.errors import BackendError
from mote_localization.map_file import MapFile

Library = Literal["tensorrt", "tensorrt_rtx"]
Precision = Literal["fp16", "fp32"]
_INSTALL = {
    "tensorrt": "it comes with JetPack; elsewhere pip install tensorrt",
    "tensorrt_rtx": "pip install tensorrt-rtx-cu13",
}
_PROGRESS_S = 3.0  # between two log messages on a build
_MAX_ERRORS = 20  # last errors of a library that messages show
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Gpu:
    """A GPU model."""

    capability: tuple[int, int]  # compute capability, major and minor
    name: str = ""  # empty: any model of that capability

    @classmethod
    def parse(cls, text: str) -> "Gpu":
        """Return the GPU of a compute capability written like sm_86.

        Raises:
            BackendError: The text has another form.
        """
        digits = text.removeprefix("sm_")
        if digits == text or not digits.isdecimal() or not 2 <= len(digits) <= 3:
            raise BackendError(
                f"found GPU '{text[:40]}', expected its compute capability, as in sm_86"
            )
        return cls((int(digits[:-1]), int(digits[-1])))

    def __str__(self) -> str:
        """Return capability and name, for messages and as part of a cache key."""
        return "sm_{}{}".format(*self.capability) + (f" {self.name}" if self.name else "")


def load_library(library: Library) -> Any:
    """Import a library; raise `BackendError` if it is not installed."""
    try:
        return importlib.import_module(library)
    except (ImportError, OSError) as error:  # OSError: a shared library is missing
        raise BackendError(f"backend {library}: {error}; {_INSTALL[library]}") from error


def engine_for(
    map_file: MapFile, library: Library, gpu: Gpu, precision: Precision, rebuild: bool = False
) -> bytes:
    """Return the engine of a map for a GPU, from the cache or newly built.

    Args:
        map_file: The map.
        library: Builds the engine.
        gpu: Runs the engine.
        precision: Precision of the backbone; ignored if the map computes in 8-bit integers.
        rebuild: Build the engine even if the cache has it, and replace it there.

    Raises:
        BackendError: The library is not installed, or cannot build the engine for that GPU.
    """
    trt = load_library(library)
    model = onnx.load_model_from_string(map_file.model)
    del model.training_info[:]  # the keyframes
    integers = is_quantized(model)
    if integers:
        typed = with_signed_integers(model)
    else:
        typed = in_half_precision(model) if precision == "fp16" else model
    # tensorrt_rtx completes an engine on the GPU: one engine serves all GPUs of a capability
    target = Gpu(gpu.capability) if library == "tensorrt_rtx" else gpu
    key = EngineKey(
        hashlib.sha256(typed.SerializeToString(deterministic=True)).hexdigest(),
        f"{library} {trt.__version__}",
        f"{target}",
        "int8" if integers else precision,
    )
    return load_or_build(key, partial(_build, trt, library, typed, gpu, map_file), rebuild)


def _build(
    trt: Any, library: Library, model: onnx.ModelProto, gpu: Gpu, map_file: MapFile
) -> bytes:
    """Build the engine of a graph with explicit types; see `engine_for`."""
    path = map_file.path
    logger = library_log(trt)
    logger.errors.clear()
    builder = trt.Builder(logger)
    typed = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = builder.create_network(typed)
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(model.SerializeToString()):
        error = parser.get_error(0)
        layer = str(error.node_name() or error.node())
        raise BackendError(
            f"{path}: {library} cannot take its graph: {error.desc()[:120]} (layer {layer[:40]}, "
            f"{error.node_operator()[:40]}); choose another backend"
        )
    _check_tensors(trt, library, network, map_file)
    config = builder.create_builder_config()
    config.progress_monitor = _monitor(trt, path)
    if library == "tensorrt_rtx":
        config.num_compute_capabilities = 1
        config.set_compute_capability(_capability(trt, gpu), 0)
    built = builder.build_serialized_network(network, config)
    if built is None:
        raise BackendError(
            f"{path}: {library} cannot build an engine for {gpu}: {logged_errors(logger)}"
        )
    return bytes(built)


def _check_tensors(trt: Any, library: Library, network: Any, map_file: MapFile) -> None:
    """Raise `BackendError` if inputs and outputs differ from those of the map."""
    tensors = [network.get_input(i) for i in range(network.num_inputs)]
    tensors += [network.get_output(i) for i in range(network.num_outputs)]
    found = {tensor.name: (*tensor.shape, tensor.dtype) for tensor in tensors}
    types = {"image": trt.DataType.UINT8}
    expected = {
        name: (*shape, types.get(name, trt.DataType.FLOAT))
        for name, shape in map_file.info.tensors.items()
    }
    if found != expected:
        raise BackendError(
            f"{map_file.path}: {library} gives its graph the inputs and outputs "
            f"{str(found)[:160]}, expected {expected}"
        )


def _capability(trt: Any, gpu: Gpu) -> Any:
    """Return the library's constant of a capability; raise `BackendError` if it has none."""
    supported = dict(trt.ComputeCapability.__members__.items())
    name = "SM{}{}".format(*gpu.capability)
    if name not in supported:
        others = ", ".join(f"sm_{other[2:]}" for other in supported if other.startswith("SM"))
        raise BackendError(f"tensorrt_rtx builds no engines for {gpu}, only for {others}")
    return supported[name]


@cache
def library_log(trt: Any) -> Any:
    """Return a logger that passes a library's messages to Python's logging.

    A library accepts one logger per process.
    """
    levels = {
        trt.ILogger.Severity.INTERNAL_ERROR: logging.ERROR,
        trt.ILogger.Severity.ERROR: logging.ERROR,
        trt.ILogger.Severity.WARNING: logging.WARNING,
        trt.ILogger.Severity.INFO: logging.DEBUG,  # hundreds of lines
    }

    class Logger(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: deque[str] = deque(maxlen=_MAX_ERRORS)

        def log(self, severity: Any, text: str) -> None:
            level = levels.get(severity)
            if level == logging.ERROR:
                self.errors.append(text)
            if level is not None:
                _log.log(level, "%s", text)

    return Logger()


def logged_errors(logger: Any) -> str:
    """Return the last errors that a library has logged, shortened for a message."""
    return "; ".join(logger.errors)[:200] or "the library gives no reason"


def _monitor(trt: Any, path: Path) -> Any:
    """Return a progress monitor that logs every few seconds that a build is running."""

    class Monitor(trt.IProgressMonitor):
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._started = self._logged = time.monotonic()

        def phase_start(self, name: str, parent: str | None, steps: int) -> None:
            now = time.monotonic()
            if now - self._logged > _PROGRESS_S:
                self._logged = now
                _log.warning(
                    "%s: building its engine for %.0f s: %s", path, now - self._started, name
                )

        def step_complete(self, name: str, step: int) -> bool:
            return True  # continue

        def phase_finish(self, name: str) -> None:
            pass

    return Monitor()
