"""The submaps of a bundle that are in memory: those that were used last."""

import logging
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from threading import Lock

from mote_localization.errors import MoteError
from mote_localization.localizer import Localizer

_log = logging.getLogger(__name__)


class SubmapCache:
    """Loads submaps when they are needed, or in the background before.

    Threads may ask for submaps at the same time; one that is loaded does not delay the others.
    """

    def __init__(self, load: Callable[[int], Localizer], most: int) -> None:
        """Keep at most `most` submaps; `load` loads one by its number."""
        self._load, self._most = load, most
        self._lock = Lock()
        # least recently used first; each may still be loading
        self._futures: OrderedDict[int, Future[Localizer]] = OrderedDict()
        self._retired: list[Future[Localizer]] = []  # evicted, but perhaps still in use
        self._ahead: set[int] = set()  # those of `_futures` that were loaded with their networks
        self._worker = ThreadPoolExecutor(1, "mote_submaps")

    def __getitem__(self, number: int) -> Localizer:
        """Return a submap; load it if necessary, in place of the one unused for longest.

        Raises:
            MoteError: It cannot be loaded.
        """
        with self._lock:
            future = self._futures.get(number)
            missing = future is None
            if future is None:
                future = self._futures[number] = Future()
            self._futures.move_to_end(number)
        if missing:
            try:
                future.set_result(self._load(number))
            except BaseException as error:
                with self._lock:
                    self._futures.pop(number, None)
                future.set_exception(error)
            else:
                self._evict()
        return future.result()

    def __contains__(self, number: int) -> bool:
        """Return whether a submap is in memory, or being loaded."""
        with self._lock:
            return number in self._futures

    def load_ahead(self, number: int) -> None:
        """Load a submap and its network in the background, once while it is in memory."""
        with self._lock:
            if number in self._ahead:
                return
            self._ahead.add(number)
        with suppress(RuntimeError):  # closed meanwhile
            self._worker.submit(self._warm_up, number)

    def close_retired(self) -> None:
        """Close the submaps that are not in memory any more; nobody may use them now."""
        with self._lock:
            retired, self._retired = self._retired, []
        _close(retired)

    def close(self) -> None:
        """Close all submaps; nobody may use them now."""
        self._worker.shutdown(cancel_futures=True)
        with self._lock:
            kept = list(self._futures.values())
            self._futures.clear()
        _close(kept)
        self.close_retired()

    def _evict(self) -> None:
        """Retire the submaps that are too many; another thread may still use them."""
        with self._lock:
            while len(self._futures) > self._most:
                loaded = (n for n, future in self._futures.items() if future.done())
                oldest = next(loaded, None)
                if oldest is None:
                    break
                self._retired.append(self._futures.pop(oldest))
                self._ahead.discard(oldest)

    def _warm_up(self, number: int) -> None:
        try:
            self[number].warm_up()
        except MoteError as error:
            _log.warning("a submap that the camera comes near cannot be loaded: %s", error)


def _close(futures: list[Future[Localizer]]) -> None:
    for future in futures:
        if future.exception() is None:
            future.result().close()
