"""The submaps of a bundle that are in memory: those that were used last."""

from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from threading import Lock

from mote_localization.localizer import Localizer


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
        self._worker = ThreadPoolExecutor(1, "mote_submaps")

    def __getitem__(self, number: int) -> Localizer:
        """Return a submap; load it if necessary, in place of the one unused for longest."""
        with self._lock:
            future = self._futures.get(number)
            missing = future is None
            if future is None:
                future = self._futures[number] = Future()
                if len(self._futures) > self._most:
                    # another thread may still use it: see `close_retired`
                    self._retired.append(self._futures.popitem(last=False)[1])
            self._futures.move_to_end(number)
        if missing:
            try:
                future.set_result(self._load(number))
            except BaseException as error:
                with self._lock:
                    if self._futures.get(number) is future:
                        del self._futures[number]
                future.set_exception(error)
        return future.result()

    def __contains__(self, number: int) -> bool:
        """Return whether a submap is in memory, or being loaded."""
        with self._lock:
            return number in self._futures

    def load_ahead(self, number: int) -> None:
        """Load a submap and its network in the background, if it is not in memory."""
        if number not in self:
            with suppress(RuntimeError):  # closed meanwhile
                self._worker.submit(lambda: self[number].warm_up())

    def close_retired(self) -> None:
        """Close the submaps that are not in memory any more; nobody may use them now."""
        with self._lock:
            retired, self._retired = self._retired, []
        _close(retired)

    def close(self) -> None:
        """Close all submaps."""
        self._worker.shutdown(cancel_futures=True)
        with self._lock:
            kept = list(self._futures.values())
            self._futures.clear()
        _close(kept)
        self.close_retired()


def _close(futures: list[Future[Localizer]]) -> None:
    for future in futures:
        if future.exception() is None:
            future.result().close()
