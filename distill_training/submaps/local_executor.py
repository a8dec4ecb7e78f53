"""Runs tasks on this machine, several at a time."""

import os
import subprocess
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from threading import Lock

from distill_training.submaps.executors import (
    Report,
    reason_of_failure,
    reason_to_leave_out,
    start_process,
)
from distill_training.submaps.tasks import Task

_END_S = 10.0  # in which a process ends after SIGTERM


class LocalExecutor:
    """Runs tasks on this machine; they share its cores."""

    def __init__(self, workers: int) -> None:
        """Run at most `workers` tasks at a time, each with its share of the cores."""
        self._workers = workers
        self._threads = max(1, (os.cpu_count() or 1) // workers)
        self._lock = Lock()
        self._running: set[subprocess.Popen[bytes]] = set()
        self._stopped = False

    def run(self, tasks: Sequence[Task], folder: Path, report: Report) -> dict[str, str]:
        """Run all tasks, see `Executor.run`; when interrupted, end those that run."""
        reasons: dict[str, Future[str]] = {}
        pool = ThreadPoolExecutor(self._workers, "mote_tasks")
        try:
            for task in tasks:  # a task waits for earlier ones only, so one of them always runs
                needed = {name: reasons[name] for name in task.needs}
                reasons[task.name] = pool.submit(self._run, task, needed, folder, report)
            found = {name: future.result() for name, future in reasons.items()}
        finally:
            self._stop()
            pool.shutdown(cancel_futures=True)
        return {name: reason for name, reason in found.items() if reason}

    def _run(self, task: Task, needed: dict[str, Future[str]], folder: Path, report: Report) -> str:
        """Run a task after those that it needs; return why it failed, or nothing."""
        failed = {name: future.result() for name, future in needed.items() if future.result()}
        if reason := reason_to_leave_out(task, failed):
            report(task.name, "left out")
            return reason
        report(task.name, "running")
        with self._lock:
            if self._stopped:
                return "stopped"
            process = start_process(task.name, folder, self._threads)
            self._running.add(process)
        code = process.wait()
        with self._lock:
            self._running.discard(process)
        reason = reason_of_failure(code, task.name, folder)
        report(task.name, "failed" if reason else "done")
        return reason

    def _stop(self) -> None:
        """End all processes that still run."""
        with self._lock:
            self._stopped = True
            running = list(self._running)
        for process in running:
            process.terminate()
        for process in running:
            try:
                process.wait(_END_S)
            except subprocess.TimeoutExpired:
                process.kill()
