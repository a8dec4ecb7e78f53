"""Start of a command line whose imports take a second: SIGINT ends them without a traceback."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module


def import_and_run(name: str) -> None:
    """Import the module of a command line, and run its `main`."""
    with quiet_imports():
        module = import_module(name)
    module.main()


@contextmanager
def quiet_imports() -> Iterator[None]:
    """Let SIGINT end the process at once in the block, unless the process ignores SIGINT."""
    handler = signal.getsignal(signal.SIGINT)
    if handler is not signal.default_int_handler:  # as in the background of a shell's script
        yield
        return
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
