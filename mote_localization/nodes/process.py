"""Start and end of a ROS process: SIGINT and SIGTERM end it with exit code 0 at any time.

This module does not import ROS, so that a process can block its signals before slow imports.
"""

from __future__ import annotations

import ctypes
import gc
import logging
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakSet

from mote_localization.errors import MoteError, RosError, first_line

if TYPE_CHECKING:
    from rclpy.node import Node

T = TypeVar("T")

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_PR_SET_PDEATHSIG = 1  # of linux/prctl.h
_POLL_S = 0.05
_stopping = threading.Event()  # SIGINT or SIGTERM has arrived
_work: WeakSet[Future[Any]] = WeakSet()  # of `in_thread`
_MAX_LINE = 280  # characters of a message of rclpy
_ROS_PACKAGE = re.compile(
    r"rclpy|rpyutils|ament_index_python|rosidl_\w+|\w+_(msgs|srvs|interfaces)"
)
_DISTRIBUTIONS = {"cv2": "opencv-python-headless", "PIL": "pillow", "yaml": "PyYAML"}


def free_memory() -> None:
    """Return memory that is no longer used to the system.

    Subscriptions and their callbacks are reference cycles. glibc keeps what they held: without
    `malloc_trim`, a node grows by a map's memory with each of the first changes of its map.
    """
    gc.collect()
    with suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


def block_signals() -> None:
    """Block SIGINT and SIGTERM, also in later threads; `stop_requested` receives them.

    Earlier threads, such as those of OpenBLAS, do not block them and pass them on.
    """
    for number in _SIGNALS:
        signal.signal(number, _pass_to_main_thread)
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)


def _pass_to_main_thread(number: int, _: object) -> None:
    signal.pthread_kill(threading.main_thread().ident or 0, number)


def stop_requested(wait_s: float = 0.0) -> bool:
    """Wait at most `wait_s` seconds; return whether SIGINT or SIGTERM arrived."""
    arrived = signal.sigtimedwait(_SIGNALS, max(wait_s, 0.0))
    # after SIGSTOP and SIGCONT, or under a debugger, CPython may return a result of no signal
    if arrived is None or arrived.si_signo not in _SIGNALS:
        return False
    _stopping.set()
    return True


def stop_pending() -> bool:
    """Return whether SIGINT or SIGTERM has arrived, or waits for `stop_requested`."""
    return _stopping.is_set() or bool(signal.sigpending() & set(_SIGNALS))


@contextmanager
def exit_on_signal() -> Iterator[None]:
    """Exit with 0 when SIGINT or SIGTERM arrives in the block, such as during slow imports."""
    over = threading.Event()

    def watch() -> None:
        while not over.is_set():
            if stop_requested(_POLL_S):
                os._exit(0)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


class StoppedError(MoteError):
    """SIGINT or SIGTERM arrived before some work was done."""


def in_thread(work: Callable[[], T]) -> Future[T]:
    """Start work that cannot be interrupted; after a signal, `run_node` does not wait for it."""
    pool = ThreadPoolExecutor(1, "mote_work")
    future = pool.submit(work)
    pool.shutdown(wait=False)  # the thread ends with the work
    _work.add(future)
    return future


def unless_stopped(work: Callable[[], T]) -> T:
    """Return what a function returns, or raise what it raises.

    Raises:
        StoppedError: SIGINT or SIGTERM arrived; the function still runs.
    """
    future = in_thread(work)
    while not wait([future], _POLL_S).done:
        if stop_pending():
            raise StoppedError("stopped by a signal")
    return future.result()


def end_with_parent(parent: int) -> None:
    """Let the system send SIGTERM to this process when its parent ends, also if it is killed.

    Args:
        parent: The process that started this one; it may have ended already.
    """
    with suppress(OSError, AttributeError):  # not Linux
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        os._exit(1)


def import_error(error: ImportError) -> MoteError:
    """Return the error for a package that cannot be imported: its name, and what to install.

    Raises:
        ImportError: The module is Mote's own.
    """
    package, reason = (error.name or "").split(".")[0], first_line(error, 100)
    if package == __name__.split(".")[0]:
        raise error
    ros = _ROS_PACKAGE.fullmatch(package)
    if ros and (package == "rclpy" or not find_spec("rclpy")):
        return RosError(
            f"ROS 2 is not found ({reason}); source it "
            "(source /opt/ros/<distro>/setup.bash), or install it from PyPI: "
            "pip install 'ros-rclpy[fastrtps]' ros-common-interfaces"
        )
    if ros:
        name, distro = package.replace("_", "-"), os.environ.get("ROS_DISTRO")
        remedy = (
            f"sudo apt-get install ros-{distro}-{name}" if distro else f"pip install ros-{name}"
        )
        return RosError(f"a package of ROS 2 cannot be imported ({reason}); install it: {remedy}")
    if not package:  # as of a shared library that is missing
        return MoteError(f"a package cannot be imported ({reason}); install it again, by pip")
    return MoteError(
        f"a package cannot be imported ({reason}); install it for {sys.executable}: pip install "
        f"{_DISTRIBUTIONS.get(package, package)}, or all packages: pip install . in the repository"
    )


@contextmanager
def ros_context(arguments: Sequence[str] = ()) -> Iterator[None]:
    """Initialize ROS 2 in this process, and shut it down at the end of the block.

    Args:
        arguments: Command line with `--ros-args` for ROS 2.

    Raises:
        RosError: ROS 2 is not installed, or does not accept its arguments.
    """
    try:
        import rclpy
        from rclpy.signals import SignalHandlerOptions
    except ImportError as error:
        raise import_error(error) from error
    try:
        # rclpy takes the first argument as the name of the program.
        rclpy.init(args=["mote", *arguments], signal_handler_options=SignalHandlerOptions.NO)
    except Exception as error:  # the exceptions of rclpy have no public names
        raise RosError(f"ROS 2 does not start: {first_line(error, _MAX_LINE)}") from error
    try:
        yield
    finally:
        rclpy.shutdown()


@contextmanager
def spin_in_thread(node: Node) -> Iterator[Future[None]]:
    """Run the callbacks of a node in a thread, which is joined at the end of the block.

    Yields a future. It is done if a callback failed, and holds the exception.
    """
    from rclpy.executors import SingleThreadedExecutor

    executor = SingleThreadedExecutor()
    executor.add_node(node)
    ending = threading.Event()
    # A guard condition wakes the executor: shutting it down while it waits is a race.
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


def run_node(create_node: Callable[[], Node], arguments: Sequence[str]) -> int:
    """Run a node until SIGINT or SIGTERM.

    Args:
        create_node: Returns the node.
        arguments: Command line without the name of the program.

    Returns:
        The exit code: 0 after a signal, 1 if the node cannot start.
    """
    code = _run_node(create_node, arguments)
    if not all(work.done() for work in _work):
        gc.collect()  # destroys what is left of the node, which holds shared memory
        os._exit(code)  # else the interpreter would wait for the work
    return code


def _run_node(create_node: Callable[[], Node], arguments: Sequence[str]) -> int:
    logging.basicConfig(level=logging.WARNING, format="[%(levelname)s] [%(name)s]: %(message)s")
    try:
        with ros_context(arguments):
            if stop_requested():  # during the imports
                return 0
            from rclpy.exceptions import ParameterException

            try:
                node = create_node()
            except ParameterException as error:
                raise RosError(first_line(error, _MAX_LINE)) from error
            try:
                with spin_in_thread(node) as callbacks:
                    while not stop_requested(0.5):
                        if callbacks.done():
                            callbacks.result()  # raises what a callback raised
                return 0
            finally:
                node.destroy_node()
    except StoppedError:
        return 0
    except MoteError as error:
        print_error(error)
        return 1


def print_error(error: MoteError) -> None:
    """Print an error on stderr; this also works without ROS 2."""
    with suppress(BrokenPipeError):
        print(f"error: {error}", file=sys.stderr, flush=True)
