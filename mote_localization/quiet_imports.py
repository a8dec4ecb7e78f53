"""Imports of a command line, which take a second: SIGINT ends them without a traceback."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet_imports() -> Iterator[None]:
    """Let SIGINT end the process at once in the block, unless the process ignores SIGINT."""
    handler = signal.getsignal(signal.SIGINT)
    if handler is not signal.default_int_handler:  # as in the background of a shell's script
        yield
        return
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGINT, handler)
