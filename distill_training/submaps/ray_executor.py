"""Runs tasks on a Ray cluster; its machines share the folder of the work."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from distill_training.submaps.executors import (
    Report,
    reason_of_failure,
    reason_to_leave_out,
    start_process,
)
from distill_training.submaps.tasks import Task
from mote_localization.errors import MoteError

_RETRIES = 5  # of a task whose worker or machine is lost


class RayExecutor:
    """Runs each task as a Ray task: it goes on elsewhere when a worker or a machine is lost."""

    def __init__(self, address: str, cpus: float, gpus: float) -> None:
        """Connect to a cluster.

        Args:
            address: Of the cluster, `auto`, or `local` for one on this machine alone.
            cpus: CPU cores of each task.
            gpus: GPUs of each task; fractions share one.

        Raises:
            MoteError: Ray is not installed, or there is no cluster at the address.
        """
        try:
            import ray
        except ImportError as error:
            raise MoteError(
                "--executor ray needs Ray: pip install 'mote_distill[cluster]'"
            ) from error
        self._ray, self._cpus, self._gpus = ray, cpus, gpus
        try:
            ray.init(
                address, ignore_reinit_error=True, include_dashboard=False, log_to_driver=False
            )
        except (ray.exceptions.RayError, ConnectionError, ValueError, RuntimeError) as error:
            raise MoteError(f"--address {address}: {str(error)[:300]}") from error

    def run(self, tasks: Sequence[Task], folder: Path, report: Report) -> dict[str, str]:
        """Run all tasks, see `Executor.run`."""
        ray = self._ray
        remote = ray.remote(num_cpus=self._cpus, num_gpus=self._gpus, max_retries=_RETRIES)(_run)
        found: dict[str, str] = {}
        names: dict[Any, str] = {}
        references: dict[str, Any] = {}
        for task in tasks:
            needed = [references[name] for name in task.needs]
            references[task.name] = remote.options(name=task.name).remote(
                task, str(folder.absolute()), max(1, int(self._cpus)), *needed
            )
            names[references[task.name]] = task.name
            report(task.name, "running" if not needed else "waiting")
        waiting = list(names)
        while waiting:
            for task in tasks:  # those that Ray may have started
                if task.name not in found and task.needs and found.keys() >= set(task.needs):
                    report(task.name, "running")
            (done,), waiting = ray.wait(waiting, num_returns=1)
            try:
                reason = ray.get(done)
            except ray.exceptions.RayError as error:
                reason = f"{type(error).__name__}: {str(error)[:200]}"
            found[names[done]] = reason
            report(names[done], "failed" if reason else "done")
        return {name: reason for name, reason in found.items() if reason}


def _run(task: Task, folder: str, threads: int, *reasons: str) -> str:
    """Run a task after those that it needs; return why it failed, or nothing."""
    failed = {name: reason for name, reason in zip(task.needs, reasons, strict=True) if reason}
    if reason := reason_to_leave_out(task, failed):
        return reason
    process = start_process(task.name, Path(folder), threads)
    return reason_of_failure(process.wait(), task.name, Path(folder))
