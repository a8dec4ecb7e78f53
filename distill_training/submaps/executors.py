"""Executors run the tasks of a place: on this machine, or on those of a Ray cluster.

All of them run a task as a process, `mote-distill task FOLDER NAME`, so that what one loses another
process can go on with.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal, Protocol

from distill_training.submaps.tasks import Task
from distill_training.submaps.work_folder import WorkFolder
from mote_localization.errors import MoteError

State = Literal["waiting", "running", "done", "failed", "left out"]
Report = Callable[[str, State], None]  # is given a task's name and its new state; from any thread
_MODULE = ["-m", "distill_training"]  # of `mote-distill`
PARENT = "MOTE_TASK_PARENT"  # process with which a task ends
_ERROR = "error: "  # of the last line that a failed command prints
_MAX_REASON = 500  # characters


class Executor(Protocol):
    """Runs tasks in an order in which each finds the results that it needs."""

    def run(self, tasks: Sequence[Task], folder: Path, report: Report) -> dict[str, str]:
        """Run all tasks; return why some of them failed or were left out, by their names.

        Args:
            tasks: Each comes after those that it needs.
            folder: See `WorkFolder`.
            report: Called at each change of a task's state.

        Raises:
            MoteError: The executor itself fails.
        """
        ...


def command_of(task: str, folder: Path) -> list[str]:
    """Return the command line of a task, for any other scheduler."""
    return ["mote-distill", "task", str(folder), task]


def reason_to_leave_out(task: Task, failed: Mapping[str, str]) -> str:
    """Return why a task cannot run after others failed; empty if it can.

    Args:
        task: The task.
        failed: Reasons of the tasks before that failed, by their names.
    """
    lacking = [name for name in task.needs if name in failed]
    if lacking and (task.needs_all or len(lacking) == len(task.needs)):
        return f"needs {', '.join(lacking[:3])}"
    return ""


def start_process(task: str, folder: Path, threads: int = 0) -> subprocess.Popen[bytes]:
    """Start a task as a process that ends with this one; what it prints is in its log.

    Args:
        task: Name of the task.
        folder: See `WorkFolder`.
        threads: CPU threads of it; 0: as many as it wants.

    Raises:
        MoteError: The log cannot be written.
    """
    log = WorkFolder(folder).log_of(task)
    limit = {"OMP_NUM_THREADS": str(threads)} if threads else {}
    arguments = command_of(task, folder)[1:]
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as file:
            return subprocess.Popen(
                [sys.executable, *_MODULE, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=os.environ | limit | {PARENT: str(os.getpid()), "PYTHONSAFEPATH": "1"},
            )
    except OSError as error:
        raise MoteError(f"{log}: cannot be written ({error.strerror})") from error


def reason_of_failure(exit_code: int, task: str, folder: Path) -> str:
    """Return why a process of a task failed, from its log; empty if it did not."""
    if exit_code == 0:
        return ""
    log = WorkFolder(folder).log_of(task)
    ended = f"signal {-exit_code}" if exit_code < 0 else f"exit code {exit_code}"
    try:
        lines = log.read_text(errors="replace").strip().splitlines()
    except OSError:
        return ended
    errors = [line.removeprefix(_ERROR) for line in lines if line.startswith(_ERROR)]
    return f"{(errors[-1] if errors else ended)[:_MAX_REASON]} (see {log})"
