"""A backend that loads a map when it is first used."""

from collections.abc import Callable
from threading import Lock

import numpy as np

from mote_localization.backends import Backend
from mote_localization.errors import BackendError


class DeferredBackend:
    """Loads a map with its first image, for maps of which often only the keyframes are used.

    Threads may predict at the same time: they wait for each other.
    """

    def __init__(self, load: Callable[[], Backend]) -> None:
        """Load by `load`, once; each `predict` raises the `BackendError` that it raised."""
        self._load: Callable[[], Backend] | None = load
        self._lock = Lock()
        self._backend: Backend | BackendError | None = None

    def predict(self, image_hw3: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Predict the pointmap of one canonical image, see `Backend.predict`."""
        with self._lock:
            if self._load:
                load, self._load = self._load, None  # it holds the bytes of the map
                try:
                    self._backend = load()
                except BackendError as error:
                    self._backend = error
            if isinstance(self._backend, BackendError):
                raise self._backend
            assert self._backend
            return self._backend.predict(image_hw3)
