"""TensorRT: from a map to an engine for one GPU. `tensorrt` and `tensorrt_rtx` are used alike."""

import hashlib
import importlib
import logging
import time
from collections import deque
from dataclasses import dataclass
from functools import cache
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
_PROGRESS_S = 3.0  # between two words on a build
_MOST_ERRORS = 20  # of a library that are kept
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Gpu:
    """A GPU that an engine is for."""

    capability: tuple[int, int]  # compute capability, major and minor
    name: str = ""  # empty: any of that capability

    @classmethod
    def parse(cls, text: str) -> "Gpu":
        """Read a capability written as sm_86.

        Raises:
            BackendError: It is written otherwise.
        """
        digits = text.removeprefix("sm_")
        if digits == text or not digits.isdecimal() or not 2 <= len(digits) <= 3:
            raise BackendError(f"found GPU '{text}', expected its compute capability, as in sm_86")
        return cls((int(digits[:-1]), int(digits[-1])))

    def __str__(self) -> str:
        """Return capability and name, for people and as a key."""
        return "sm_{}{}".format(*self.capability) + (f" {self.name}" if self.name else "")


def load_library(library: Library) -> Any:
    """Return the module of a library.

    Raises:
        BackendError: It is not installed.
    """
    try:
        return importlib.import_module(library)
    except (ImportError, OSError) as error:  # OSError: a shared library is missing
        raise BackendError(f"backend {library}: {error}; {_INSTALL[library]}") from error


def engine_for(
    map_file: MapFile, library: Library, gpu: Gpu, precision: Precision, anew: bool = False
) -> bytes:
    """Return the engine of a map for a GPU, the kept one or one built now.

    Args:
        map_file: The map.
        library: What builds it.
        gpu: What it is for.
        precision: What the trunk computes in, unless the map itself says 8-bit integers.
        anew: Build it even where one is kept, and keep the new one.

    Raises:
        BackendError: The library is not installed, or cannot build it for that GPU.
    """
    trt = load_library(library)
    model = onnx.load_model_from_string(map_file.model)
    integers = is_quantized(model)
    if integers:
        typed = with_signed_integers(model)
    else:
        typed = in_half_precision(model) if precision == "fp16" else model
    # what tensorrt_rtx builds is finished on the GPU, and serves all of a capability
    of_gpu = f"{Gpu(gpu.capability)}" if library == "tensorrt_rtx" else f"{gpu}"
    key = EngineKey(
        hashlib.sha256(typed.SerializeToString(deterministic=True)).hexdigest(),
        f"{library} {trt.__version__}",
        of_gpu,
        "int8" if integers else precision,
    )

    def build() -> bytes:
        return _build(trt, library, typed, gpu, map_file)

    return load_or_build(key, build, anew)


def _build(
    trt: Any, library: Library, model: onnx.ModelProto, gpu: Gpu, map_file: MapFile
) -> bytes:
    """Build an engine of a graph whose types are what is computed in; see `engine_for`."""
    path = map_file.path
    logger = library_log(trt)
    logger.errors.clear()
    builder = trt.Builder(logger)
    typed = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = builder.create_network(typed)
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(model.SerializeToString()):
        wrong = parser.get_error(0)
        raise BackendError(
            f"{path}: {library} cannot take its graph: {wrong.desc()} (layer "
            f"{wrong.node_name() or wrong.node()}, {wrong.node_operator()}); take another backend"
        )
    _check_tensors(trt, library, network, map_file)
    config = builder.create_builder_config()
    config.progress_monitor = _monitor(trt, path)
    if library == "tensorrt_rtx":
        config.num_compute_capabilities = 1
        config.set_compute_capability(_capability(trt, gpu), 0)
    built = builder.build_serialized_network(network, config)
    if built is None:
        raise BackendError(f"{path}: {library} cannot build an engine for {gpu}: {why(logger)}")
    return bytes(built)


def _check_tensors(trt: Any, library: Library, network: Any, map_file: MapFile) -> None:
    """Refuse a network that reads or writes something else than the map says: buffers are sized so.

    Raises:
        BackendError: It does.
    """
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
            f"{map_file.path}: {library} makes of its graph {found}, expected {expected}"
        )


def _capability(trt: Any, gpu: Gpu) -> Any:
    """Return the library's name of a capability.

    Raises:
        BackendError: It builds for others only.
    """
    known = {name: value for name, value in trt.ComputeCapability.__members__.items()}
    wanted = "SM{}{}".format(*gpu.capability)
    if wanted not in known:
        others = ", ".join(f"sm_{name[2:]}" for name in known if name.startswith("SM"))
        raise BackendError(f"tensorrt_rtx builds no engines for {gpu}, only for {others}")
    return known[wanted]


@cache
def library_log(trt: Any) -> Any:
    """Return the logger of a library, which takes one in a process: to Python's logging."""
    levels = {
        trt.ILogger.Severity.INTERNAL_ERROR: logging.ERROR,
        trt.ILogger.Severity.ERROR: logging.ERROR,
        trt.ILogger.Severity.WARNING: logging.WARNING,
        trt.ILogger.Severity.INFO: logging.DEBUG,  # hundreds of lines
    }

    class Logger(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: deque[str] = deque(maxlen=_MOST_ERRORS)

        def log(self, severity: Any, text: str) -> None:
            level = levels.get(severity)
            if level == logging.ERROR:
                self.errors.append(text)
            if level is not None:
                _log.log(level, "%s", text)

    return Logger()


def why(logger: Any) -> str:
    """Return what a library's logger has heard of errors, for people."""
    return "; ".join(logger.errors) or "it does not say why"


def _monitor(trt: Any, path: Path) -> Any:
    """Return what tells every few seconds that a build goes on."""

    class Monitor(trt.IProgressMonitor):
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._started = self._said = time.monotonic()

        def phase_start(self, name: str, parent: str | None, steps: int) -> None:
            now = time.monotonic()
            if now - self._said > _PROGRESS_S:
                self._said = now
                _log.warning(
                    "%s: building its engine for %.0f s: %s", path, now - self._started, name
                )

        def step_complete(self, name: str, step: int) -> bool:
            return True  # go on

        def phase_finish(self, name: str) -> None:
            pass

    return Monitor()
