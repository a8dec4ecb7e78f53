"""Progress bars, all in one style."""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

T = TypeVar("T")


def progress_bar(*columns: str) -> Progress:
    """Return a progress bar on stderr: description, bar, count, times, then `columns`.

    Args:
        columns: Templates of additional columns, as `rich.progress.TextColumn` takes them.
    """
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        *(TextColumn(c) for c in columns),
        console=Console(stderr=True),
    )


def track(items: Iterable[T], description: str, total: int) -> Iterator[T]:
    """Yield the items and show a progress bar."""
    with progress_bar() as bar:
        yield from bar.track(items, total=total, description=description)


def track_if_slow(
    items: Iterable[T], description: str, total: int, after_s: float = 2.0
) -> Iterator[T]:
    """Yield the items; show a progress bar if they take longer than `after_s` seconds."""
    remaining, started, done = iter(items), time.monotonic(), 0
    for item in remaining:
        yield item
        done += 1
        if time.monotonic() - started > after_s:
            break
    else:
        return
    with progress_bar() as bar:
        task = bar.add_task(description, total=total, completed=done)
        for item in remaining:
            yield item
            bar.advance(task)


@contextmanager
def status(description: str) -> Iterator[None]:
    """Show a text on a terminal while the block runs, and remove it."""
    with Console(stderr=True).status(description):
        yield


@contextmanager
def busy(description: str) -> Iterator[None]:
    """Show a progress bar of unknown length while the block runs."""
    with progress_bar() as bar:
        bar.add_task(description, total=None)
        yield
