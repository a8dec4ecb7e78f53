"""Progress bars, all in one style."""

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


@contextmanager
def busy(description: str) -> Iterator[None]:
    """Show a progress bar of unknown length while the block runs."""
    with progress_bar() as bar:
        bar.add_task(description, total=None)
        yield
