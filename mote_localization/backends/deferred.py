"""A backend that loads a map when it is first used."""

from collections.abc import Callable
from threading import Lock

import numpy as np

from mote_localization.backends import Backend


class DeferredBackend:
    """Loads a map with its first image, for maps of which often only the keyframes are used."""

    def __init__(self, load: Callable[[], Backend]) -> None:
        """Load by `load`, once; its exceptions are those of the first `predict`."""
        self._load = load
        self._lock = Lock()
        self._backend: Backend | None = None

    def predict(self, image_hw3: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Predict the pointmap of one canonical image, see `Backend.predict`."""
        with self._lock:
            if self._backend is None:
                self._backend = self._load()
                del self._load  # and what it holds, such as the bytes of the map
        return self._backend.predict(image_hw3)
