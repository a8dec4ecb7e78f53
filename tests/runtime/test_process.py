"""Signals end a ROS process properly whatever thread receives them; this needs no ROS 2."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from node_processes import wait_for

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


PAUSED = """
from mote_localization.nodes import process

process.block_signals()
print("begins", flush=True)
print(process.stop_requested(0.3), process.stop_requested(30))
"""


def test_a_process_that_is_paused_and_resumed_goes_on():
    process = subprocess.Popen([sys.executable, "-c", PAUSED], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "begins\n"
    process.send_signal(signal.SIGSTOP)
    time.sleep(0.5)  # longer than the process waits
    process.send_signal(signal.SIGCONT)
    time.sleep(0.2)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=30)[0] == "False True\n"


WAITS = """
import sys, time
from mote_localization.nodes import process

process.block_signals()
def create_node():
    print("begins", flush=True)
    return process.unless_stopped(lambda: time.sleep(60))
{run}
"""


@pytest.mark.parametrize(
    "run",
    [
        "with process.exit_on_signal(): create_node()",
        pytest.param("sys.exit(process.run_node(create_node, []))", marks=pytest.mark.ros),
    ],
)
def test_a_signal_during_the_start_acts_at_once(run, ros_env):
    process = subprocess.Popen(
        [sys.executable, "-c", WAITS.format(run=run)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "begins\n"
    started = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
    assert time.monotonic() - started < 1


ORPHAN = """
import os, subprocess, sys, time
from mote_localization.evaluation import over_ros
code = over_ros._RUN_MODULE.format(os.getpid(), "mote_localization.nodes.recorder")
child = subprocess.Popen([sys.executable, "-c", code, "answers.jsonl"])
print(child.pid, flush=True)
time.sleep({lifetime_s})
os.kill(os.getpid(), 9)
"""


@pytest.mark.ros
def test_processes_end_with_a_parent_that_is_killed(tmp_path, ros_env):
    parents = [
        subprocess.Popen(
            [sys.executable, "-c", ORPHAN.format(lifetime_s=lifetime_s)],
            cwd=tmp_path, stdout=subprocess.PIPE, text=True,
        )
        for lifetime_s in (0, 0.7, 2)
    ]  # fmt: skip
    children = [Path(f"/proc/{int(parent.communicate()[0])}/status") for parent in parents]

    def have_ended() -> bool:
        return all(not one.exists() or "State:\tZ" in one.read_text() for one in children)

    assert wait_for(have_ended, 5)
