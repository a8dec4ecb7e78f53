"""Executors run tasks after those that they need, and survive what fails or is killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from node_processes import wait_for

from distill_training.submaps import executors, local_executor
from distill_training.submaps.local_executor import LocalExecutor
from distill_training.submaps.tasks import Task

SUBMAPS = tuple(f"submap-{n}" for n in range(4))


def tasks(allow_missing=False):
    return [
        Task("reconstruct", ()),
        *(Task(name, ("reconstruct",)) for name in SUBMAPS),
        Task("bundle", SUBMAPS, needs_all=not allow_missing),
    ]


@pytest.fixture
def processes(monkeypatch):
    """Replace the processes of tasks: each notes when it runs; `failing` ones print an error."""
    failing: set[str] = set()

    def start(task, folder, threads=0):
        code = (
            "import pathlib, sys, time\n"
            f"file = pathlib.Path({str(folder)!r}) / 'order.txt'\n"
            "def note(word):\n"
            f"    file.open('a').write(f'{task} {{word}}\\n')\n"
            "note('begins'); time.sleep(0.1); note('ends')\n"
            f"sys.exit({f'error: {task} has no frames' if task in failing else 0!r})"
        )
        with (folder / f"{task}.txt").open("wb") as log:
            return subprocess.Popen([sys.executable, "-c", code], stderr=log)

    monkeypatch.setattr(local_executor, "start_process", start)
    monkeypatch.setattr(
        executors.WorkFolder, "log_of", lambda self, name: self.path / f"{name}.txt"
    )
    return failing


def order(folder: Path) -> list[str]:
    return (folder / "order.txt").read_text().splitlines()


@pytest.mark.parametrize("workers", [1, 3])
def test_tasks_run_after_those_that_they_need(processes, tmp_path, workers):
    states = []
    failed = LocalExecutor(workers).run(tasks(), tmp_path, lambda *state: states.append(state))
    assert failed == {}
    lines = order(tmp_path)
    assert lines[:2] == ["reconstruct begins", "reconstruct ends"]
    assert lines[-2:] == ["bundle begins", "bundle ends"] and len(lines) == 12
    at_once, most = 0, 0
    for line in lines:
        at_once += 1 if line.endswith("begins") else -1
        most = max(most, at_once)
    assert most <= workers and (workers == 1 or most > 1)
    assert {name for name, state in states if state == "done"} == {t.name for t in tasks()}


def test_a_task_that_fails_is_named_with_its_error(processes, tmp_path):
    processes.add("submap-2")
    failed = LocalExecutor(2).run(tasks(), tmp_path, lambda *_: None)
    assert failed.keys() == {"submap-2", "bundle"}
    assert failed["submap-2"].startswith("submap-2 has no frames (see ")
    assert failed["bundle"] == "needs submap-2"
    assert "submap-3 ends" in order(tmp_path)  # the others go on


def test_missing_submaps_can_be_allowed_unless_all_are(processes, tmp_path):
    processes.add("submap-2")
    failed = LocalExecutor(2).run(tasks(allow_missing=True), tmp_path, lambda *_: None)
    assert failed.keys() == {"submap-2"} and order(tmp_path)[-1] == "bundle ends"
    processes.update(SUBMAPS)
    failed = LocalExecutor(2).run(tasks(allow_missing=True), tmp_path, lambda *_: None)
    assert failed.keys() == {*SUBMAPS, "bundle"}


def test_nothing_runs_where_the_first_task_fails(processes, tmp_path):
    processes.add("reconstruct")
    failed = LocalExecutor(2).run(tasks(), tmp_path, lambda *_: None)
    assert failed["submap-0"] == "needs reconstruct" and failed["bundle"].startswith("needs submap")
    assert len(order(tmp_path)) == 2


DRIVER = """
import signal, sys
from pathlib import Path
from distill_training.submaps import executors, local_executor
from distill_training.submaps.tasks import Task

def command(task, folder):
    return ["mote-distill", "-c", "import time; print('begins', flush=True); time.sleep(60)"]

signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in the background of a script
executors._MODULE = []
executors.command_of = command
try:
    local_executor.LocalExecutor(1).run([Task("long", ())], Path(sys.argv[1]), lambda *_: None)
except KeyboardInterrupt:
    sys.exit(130)
"""


def test_an_interrupted_driver_ends_its_tasks(tmp_path):
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, str(tmp_path)])
    log = tmp_path / "logs/long.log"
    assert wait_for(lambda: log.exists() and "begins" in log.read_text(), 30)
    tasks_of_driver = Path(f"/proc/{driver.pid}/task").iterdir()
    children = " ".join((path / "children").read_text() for path in tasks_of_driver).split()
    assert len(children) == 1
    started = time.monotonic()
    driver.send_signal(signal.SIGINT)
    assert driver.wait(30) == 130 and time.monotonic() - started < 5
    with pytest.raises(ProcessLookupError):
        os.kill(int(children[0]), 0)
