"""How a ROS process of Mote starts, waits and ends: SIGINT and SIGTERM end it well at any time.

Imports no ROS, so that a process holds its signals before the slow imports begin.
"""

from __future__ import annotations

import logging
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from mote_localization.errors import MoteError, RosError

if TYPE_CHECKING:
    from rclpy.node import Node

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def hold_signals() -> None:
    """Keep SIGINT and SIGTERM pending until `stopped` asks for them, in later threads too."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)


def stopped(wait_s: float = 0.0) -> bool:
    """Sleep at most `wait_s` seconds and return whether a signal asked the process to end."""
    return signal.sigtimedwait(_SIGNALS, max(wait_s, 0.0)) is not None


def ros_not_found(error: ImportError) -> RosError:
    """Return the error of a process that cannot import a module of ROS 2."""
    return RosError(
        f"ROS 2 is not found ({error}); source it (source /opt/ros/<distro>/setup.bash), or "
        "install it from PyPI: pip install 'ros-rclpy[fastrtps]' ros-common-interfaces"
    )


@contextmanager
def ros(arguments: Sequence[str] = ()) -> Iterator[None]:
    """Start ROS 2 in this process and shut it down again.

    Args:
        arguments: command line whose `--ros-args` ROS 2 reads.

    Raises:
        RosError: ROS 2 is not installed, or does not understand its arguments.
    """
    try:
        import rclpy
        from rclpy.signals import SignalHandlerOptions
    except ImportError as error:
        raise ros_not_found(error) from error
    try:
        # The first argument is the program's name to rclpy.
        rclpy.init(args=["mote", *arguments], signal_handler_options=SignalHandlerOptions.NO)
    except Exception as error:  # rclpy's own exceptions have no public names
        raise RosError(f"ROS 2 does not start: {_first_line(error)}") from error
    try:
        yield
    finally:
        rclpy.shutdown()


@contextmanager
def spinning(node: Node) -> Iterator[Future[None]]:
    """Run a node's callbacks in a thread, which is joined before the node may be destroyed.

    The future given is done where a callback has failed, and holds its exception.
    """
    from rclpy.executors import SingleThreadedExecutor

    executor = SingleThreadedExecutor()
    executor.add_node(node)
    ending = threading.Event()
    # A callback of its own wakes the executor: to shut it down while it waits is a race.
    wake = node.create_guard_condition(lambda: None)

    def spin() -> None:
        while not ending.is_set():
            executor.spin_once()

    try:
        with ThreadPoolExecutor(1, "callbacks") as pool:
            try:
                yield pool.submit(spin)
            finally:
                ending.set()
                wake.trigger()
    finally:
        executor.shutdown()


def run(make_node: Callable[[], Node], arguments: Sequence[str]) -> int:
    """Run a node until SIGINT or SIGTERM.

    Args:
        make_node: makes the node; its `close()`, if any, is called before it is destroyed.
        arguments: command line without the program's name.

    Returns:
        The exit code: 0 after a signal, 1 where the node cannot start.
    """
    logging.basicConfig(level=logging.WARNING, format="[%(levelname)s] [%(name)s]: %(message)s")
    try:
        with ros(arguments):
            if stopped():  # while it was importing
                return 0
            node = _make(make_node)
            try:
                with spinning(node) as callbacks:
                    while not stopped(0.5):
                        if callbacks.done():
                            callbacks.result()  # raises what a callback raised
                return 0
            finally:
                close = getattr(node, "close", None)
                if close is not None:
                    close()
                node.destroy_node()
    except MoteError as error:
        report(error)
        return 1


def main(command: type[Any]) -> int:
    """Run the command that a dataclass with `run()` describes; return the exit code."""
    import tyro

    try:
        tyro.cli(command).run()
    except MoteError as error:
        report(error)
        return 1
    return 0


def report(error: MoteError) -> None:
    """Write an error where the user sees it, whether or not ROS 2 runs."""
    with suppress(BrokenPipeError):
        print(f"error: {error}", file=sys.stderr, flush=True)


def _make(make_node: Callable[[], Node]) -> Node:
    """Make the node; parameters that rclpy refuses become one clear error."""
    from rclpy.exceptions import ParameterException

    try:
        return make_node()
    except ParameterException as error:
        raise RosError(_first_line(error)) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
