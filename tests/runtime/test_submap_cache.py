"""The submaps in memory: bounded, loaded once, and never a hindrance to those that are loaded."""

from threading import Event, Thread

import pytest

from mote_localization.bundles.submap_cache import SubmapCache
from mote_localization.errors import MapFileError


class Submap:
    def __init__(self, number):
        self.number, self.closed, self.warm, self.times = number, False, Event(), 0

    def warm_up(self):
        self.times += 1
        self.warm.set()

    def close(self):
        self.closed = True


class Loader:
    """Loads submaps, and counts them."""

    def __init__(self):
        self.loaded, self.go_on, self.begun = [], Event(), Event()
        self.go_on.set()

    def __call__(self, number):
        self.loaded.append(number)
        if number == 9:
            self.begun.set()
            assert self.go_on.wait(10)
        if number == 8 and self.loaded.count(8) == 1:
            raise MapFileError("cannot be read")
        return Submap(number)


@pytest.fixture
def loader():
    return Loader()


@pytest.fixture
def cache(loader):
    made = SubmapCache(loader, most=3)
    yield made
    loader.go_on.set()
    made.close()


def test_the_submap_that_is_used_longest_ago_makes_room(cache, loader):
    first = [cache[number] for number in (0, 1, 2)]
    assert cache[0] is first[0] and loader.loaded == [0, 1, 2]
    cache[3]
    assert 0 in cache and 1 not in cache and 3 in cache
    assert not first[1].closed  # it may still be in use
    cache.close_retired()
    assert first[1].closed and not first[0].closed
    cache[1]
    assert loader.loaded == [0, 1, 2, 3, 1] and 2 not in cache


def test_a_submap_that_is_loaded_delays_no_other(cache, loader):
    cache[0]
    loader.go_on.clear()
    cache.load_ahead(9)
    cache.load_ahead(9)
    assert loader.begun.wait(10)
    assert cache[0].number == 0  # meanwhile
    found = []
    waiting = [Thread(target=lambda: found.append(cache[9])) for _ in range(3)]
    for thread in waiting:
        thread.start()
    loader.go_on.set()
    for thread in waiting:
        thread.join(10)
    assert len(found) == 3 and len({id(one) for one in found}) == 1
    assert loader.loaded.count(9) == 1
    assert found[0].warm.wait(10)
    cache.load_ahead(9)
    cache.close()
    assert found[0].times == 1


def test_a_submap_that_was_loaded_without_its_network_is_warmed_up(cache):
    one = cache[0]
    cache.load_ahead(0)
    assert one.warm.wait(10)


def test_a_submap_that_cannot_be_loaded_is_tried_again(cache, loader):
    with pytest.raises(MapFileError, match="cannot be read"):
        cache[8]
    assert 8 not in cache
    assert cache[8].number == 8


def test_a_failure_takes_no_other_submap_out_of_memory(cache, caplog):
    for number in (0, 1, 2):
        cache[number]
    cache.load_ahead(8)
    cache.close()  # waits for it
    assert "cannot be loaded: cannot be read" in caplog.text


def test_a_failed_submap_evicts_none(cache):
    for number in (0, 1, 2):
        cache[number]
    with pytest.raises(MapFileError):
        cache[8]
    assert all(number in cache for number in (0, 1, 2))


def test_a_closed_cache_has_closed_all_submaps(loader):
    cache = SubmapCache(loader, most=1)
    submaps = [cache[number] for number in (0, 1)]
    cache.close()
    assert all(one.closed for one in submaps)
    cache.load_ahead(2)
    assert loader.loaded == [0, 1]
