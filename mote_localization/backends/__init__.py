"""Inference backends: each runs a map's network, all with the same interface."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from mote_localization.errors import BackendError
from mote_localization.map_file import MapFile

if TYPE_CHECKING:
    from mote_localization.backends.engine_builder import Library

_LIBRARIES: tuple[Library, ...] = ("tensorrt", "tensorrt_rtx")
_CUDA = "onnxruntime_cuda"
BACKENDS = ("onnxruntime", *_LIBRARIES, _CUDA, "auto")
BACKEND_HELP = f"runs the network: {', '.join(BACKENDS[:-1])}; auto: a GPU backend if one works"
_MAX_SELF_TEST_M = 5e-3  # largest median distance of predicted from expected points
_log = logging.getLogger(__name__)


def runs_on_cpu(name: str) -> bool:
    """Return whether the backend of that name runs on the CPU."""
    return name == "onnxruntime"


class Backend(Protocol):
    """Runs a map's network."""

    def predict(self, image_hw3: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Predict the pointmap of one canonical image.

        Args:
            image_hw3: RGB uint8, the canonical camera's size.

        Returns:
            points_hw3 float32, metres in the map frame, and sigma_hw float32, metres: one point and
            one sigma per cell.
        """
        ...


class Chosen(NamedTuple):
    """A backend with a map, and why others were not chosen."""

    backend: Backend
    name: str  # one of `BACKENDS` except auto
    refusals: tuple[str, ...]  # errors of the backends that auto tried before


def create_backend(map_file: MapFile, name: str = "onnxruntime", threads: int = 0) -> Backend:
    """Load a map into a backend; see `choose_backend`."""
    return choose_backend(map_file, name, threads).backend


def choose_backend(map_file: MapFile, name: str = "onnxruntime", threads: int = 0) -> Chosen:
    """Load a map into a backend and run the map's self-test.

    Args:
        map_file: The map.
        name: One of `BACKENDS`. `auto` tries the installed GPU backends, fastest first, and then
            the CPU.
        threads: CPU threads; 0: one per core.

    Raises:
        BackendError: The backend is unknown, not installed, cannot run the map, or fails its
            self-test.
    """
    if name not in BACKENDS:
        raise BackendError(f"found backend '{name[:40]}', expected one of {', '.join(BACKENDS)}")
    if name != "auto":
        return Chosen(_self_tested(_load(map_file, name, threads), name, map_file), name, ())
    refusals: list[str] = []
    for candidate in _installed_gpu_backends():
        try:
            chosen = choose_backend(map_file, candidate, threads)
            break
        except BackendError as error:
            refusals.append(str(error))
    else:
        chosen = choose_backend(map_file, "onnxruntime", threads)
    for refusal in refusals:
        _log.warning("%s; using %s instead", refusal, chosen.name)
    return chosen._replace(refusals=tuple(refusals))


def _installed_gpu_backends() -> Iterator[str]:
    """Yield the names of the installed GPU backends, fastest first."""
    yield from filter(find_spec, _LIBRARIES)
    if find_spec("onnxruntime"):
        from mote_localization.backends.onnx_runtime import supports_cuda

        if supports_cuda():
            yield _CUDA


def _load(map_file: MapFile, name: str, threads: int) -> Backend:
    """Return the backend of that name with a map."""
    if name in _LIBRARIES:
        from mote_localization.backends.tensorrt_backend import TensorRtBackend

        return TensorRtBackend(map_file, name)
    try:
        from mote_localization.backends.onnx_runtime import OnnxRuntimeBackend
    except ImportError as error:
        raise BackendError(
            f"backend {name}: {error}; install it (pip install onnxruntime)"
        ) from error
    return OnnxRuntimeBackend(map_file, threads, cuda=name == _CUDA)


def _self_tested(backend: Backend, name: str, map_file: MapFile) -> Backend:
    """Return the backend if it passes the map's self-test; otherwise raise `BackendError`."""
    if map_file.info.self_test:
        difference_m = map_file.info.self_test.difference_m(backend.predict)
        if not difference_m <= _MAX_SELF_TEST_M:  # true for NaN
            raise BackendError(
                f"{map_file.path}: backend {name} fails the map's self-test: its points are "
                f"{1000 * difference_m:.1f} mm (median) from the recorded ones, expected at most "
                f"{1000 * _MAX_SELF_TEST_M:g}: copy the map again, or choose another backend"
            )
    return backend
