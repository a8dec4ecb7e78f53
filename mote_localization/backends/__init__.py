"""Inference backends: each runs a map's network on this machine, all behind one interface."""

import logging
from collections.abc import Iterator
from importlib.util import find_spec
from typing import NamedTuple, Protocol

import numpy as np

from mote_localization.backends.engine_builder import Library
from mote_localization.errors import BackendError
from mote_localization.map_file import MapFile

_LIBRARIES: tuple[Library, ...] = ("tensorrt", "tensorrt_rtx")
_CUDA = "onnxruntime_cuda"
BACKENDS = ("onnxruntime", *_LIBRARIES, _CUDA, "auto")
_SELF_TEST_M = 5e-3  # m
_log = logging.getLogger(__name__)


def on_processor(name: str) -> bool:
    """Return whether a backend needs no GPU."""
    return name == "onnxruntime"


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


class Chosen(NamedTuple):
    """A backend that runs a map."""

    backend: Backend
    name: str  # one of `BACKENDS` but auto
    refusals: tuple[str, ...]  # why those that auto tried before do not run it


def create_backend(map_file: MapFile, name: str = "onnxruntime", threads: int = 0) -> Backend:
    """Return the backend that `choose_backend` chooses."""
    return choose_backend(map_file, name, threads).backend


def choose_backend(map_file: MapFile, name: str = "onnxruntime", threads: int = 0) -> Chosen:
    """Load a map into the backend of that name, and let it pass the map's self-test.

    Args:
        map_file: The map.
        name: One of `BACKENDS`; `auto`: the first of those installed that can, fastest first.
        threads: CPU threads; 0: one per core.

    Raises:
        BackendError: The backend is unknown, not installed, cannot run the map, or fails its
            self-test.
    """
    if name not in BACKENDS:
        raise BackendError(f"found backend '{name}', expected one of {', '.join(BACKENDS)}")
    if name != "auto":
        return Chosen(_tested(_load(map_file, name, threads), name, map_file), name, ())
    refusals: list[str] = []
    for one in _installed_for_gpu():
        try:
            chosen = choose_backend(map_file, one, threads)
            break
        except BackendError as error:
            refusals.append(str(error))
    else:
        chosen = choose_backend(map_file, "onnxruntime", threads)
    for refusal in refusals:
        _log.warning("%s; %s takes its place", refusal, chosen.name)
    return chosen._replace(refusals=tuple(refusals))


def _installed_for_gpu() -> Iterator[str]:
    """Give the backends that run on a GPU, if there is one, fastest first."""
    yield from filter(find_spec, _LIBRARIES)
    if find_spec("onnxruntime"):
        from mote_localization.backends.onnx_runtime import knows_cuda

        if knows_cuda():
            yield _CUDA


def _load(map_file: MapFile, name: str, threads: int) -> Backend:
    """Load a map into a backend."""
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


def _tested(backend: Backend, name: str, map_file: MapFile) -> Backend:
    """Return a backend that says what the map's self-test expects."""
    if map_file.info.self_test:
        difference_m = map_file.info.self_test.difference_m(backend.predict)
        if not difference_m <= _SELF_TEST_M:  # nor a number
            raise BackendError(
                f"{map_file.path}: backend {name} puts the points of the map's own photograph "
                f"{1000 * difference_m:.1f} mm from where they were when the map was made (median)"
                f", expected at most {1000 * _SELF_TEST_M:g}: copy the map again, or take another "
                "backend"
            )
    return backend
