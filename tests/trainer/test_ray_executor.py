"""Tasks on a Ray cluster of this machine: their order, and workers that are killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("ray", reason="needs Ray: the extra `cluster`")

import ray

from distill_training.submaps import ray_executor
from distill_training.submaps.executors import reason_to_leave_out
from distill_training.submaps.ray_executor import RayExecutor
from distill_training.submaps.tasks import Task

SUBMAPS = ("submap-0", "submap-1", "submap-2")
KILLED = 5  # times


def run(task, folder, threads, *reasons):
    """Note the attempt; kill the worker some times, or fail."""
    failed = {name: reason for name, reason in zip(task.needs, reasons, strict=True) if reason}
    if reason := reason_to_leave_out(task, failed):
        return reason
    note = Path(folder) / f"{task.name}.txt"
    attempts = len(note.read_text().split()) if note.exists() else 0
    with note.open("a") as file:
        file.write(f"{time.time_ns()} ")
    if task.name == "submap-1" and attempts < KILLED:
        os.kill(os.getpid(), signal.SIGKILL)
    return "has no frames" if task.name == "submap-2" and Path(folder).name == "fails" else ""


@pytest.fixture(scope="module")
def executor(tmp_path_factory):
    """Start Ray on this machine; its workers get `run` by value."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))  # of Ray's token
        patch.setattr(ray_executor, "_run", run)
        ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
        yield RayExecutor("local", 1.0, 0.0)
        ray.shutdown()
        ray.cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


def tasks():
    return [
        Task("reconstruct", ()),
        *(Task(name, ("reconstruct",)) for name in SUBMAPS),
        Task("bundle", SUBMAPS),
    ]


def times_of(folder, name):
    return [int(word) for word in (folder / f"{name}.txt").read_text().split()]


def test_tasks_run_in_order_and_go_on_after_their_worker_was_killed(executor, tmp_path):
    states = []
    failed = executor.run(tasks(), tmp_path, lambda *state: states.append(state))
    assert failed == {}
    first, last = times_of(tmp_path, "reconstruct"), times_of(tmp_path, "bundle")
    assert len(first) == len(last) == 1
    assert len(times_of(tmp_path, "submap-1")) == KILLED + 1
    for name in SUBMAPS:
        assert first[0] < times_of(tmp_path, name)[0] < last[0]
    assert {name for name, state in states if state == "done"} == {t.name for t in tasks()}


def test_a_task_that_fails_is_named_and_the_others_go_on(executor, tmp_path):
    (folder := tmp_path / "fails").mkdir()
    failed = executor.run(tasks(), folder, lambda *_: None)
    assert failed.keys() == {"submap-2", "bundle"} and failed["submap-2"] == "has no frames"
    assert len(times_of(folder, "submap-0")) == 1


def test_an_address_without_a_cluster_is_one_error(tmp_path):
    code = (
        "import sys; from distill_training.submaps.ray_executor import RayExecutor\n"
        "from mote_localization.errors import MoteError\n"
        "try: RayExecutor('auto', 1, 0)\n"
        "except MoteError as error: sys.exit(str(error))"
    )
    environment = os.environ | {"HOME": str(tmp_path), "RAY_ADDRESS": ""}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 1 and "--address auto: " in done.stderr.splitlines()[-1]
