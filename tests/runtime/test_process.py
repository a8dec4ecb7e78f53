"""Signals end a ROS process properly whatever thread receives them; this needs no ROS 2."""

import signal
import subprocess
import sys

import pytest

PROGRAM = """
import os, signal, threading, time
from mote_localization.nodes import process

signal.signal(signal.SIGINT, signal.SIG_IGN)  # as in the background of a shell's script
ended = threading.Event()
threading.Thread(target=ended.wait).start()  # does not block signals
process.block_signals()
os.kill(os.getpid(), signal.{name})
time.sleep(0.2)  # the thread receives it meanwhile
print(process.stop_requested(5.0))
ended.set()
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda n: n.name)
def test_a_signal_that_an_earlier_thread_receives_is_not_lost(number):
    program = PROGRAM.format(name=number.name)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("True\n", 0), done.stderr
