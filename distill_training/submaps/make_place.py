"""Makes the map of a large place: plan, tasks, bundle."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

from mote_localization.bundles import NAME_PATTERN
from mote_localization.command_line import File, say
from mote_localization.errors import MoteError
from mote_localization.files import check_output
from mote_localization.scenes import open_scene

_MAX_NAMED = 5

if TYPE_CHECKING:
    from distill_training.submaps.executors import Executor
    from distill_training.submaps.work_folder import PlaceOptions, WorkFolder


@dataclass(frozen=True)
class ExecutorOptions:
    """Where the tasks of a large place run; only of maps NAME.mote."""

    # submaps of the place, made by `mote-distill plan`; default: a plan with its defaults
    plan: File = None
    executor: Literal["local", "ray"] = "local"  # tasks run on this machine, or on a Ray cluster
    workers: int = 1  # with the executor local: tasks at a time, which share the cores
    address: str = "auto"  # of the Ray cluster; local: one on this machine alone
    task_cpus: float = 1.0  # with the executor ray: CPU cores of each task
    task_gpus: float = 0.0  # with the executor ray: GPUs of each task; a fraction shares one
    # print the command of each task, for another scheduler, and stop
    print_tasks: tyro.conf.FlagCreatePairsOff[bool] = False
    # write the bundle even if the tasks of some submaps fail
    allow_missing: tyro.conf.FlagCreatePairsOff[bool] = False

    def check(self) -> None:
        """Check the options before any work is done.

        Raises:
            MoteError: A number is out of range, or an option is one of the other executor.
        """
        if self.workers < 1 or not self.task_cpus > 0 or not self.task_gpus >= 0:
            raise MoteError(
                f"found --workers {self.workers}, --task-cpus {self.task_cpus:g} and --task-gpus "
                f"{self.task_gpus:g}, expected 1 or more, above 0, and 0 or more"
            )
        unused = ("workers",) if self.executor == "ray" else ("address", "task_cpus", "task_gpus")
        given = [name for name in unused if getattr(self, name) != getattr(type(self), name)]
        if given:
            flags = ", ".join(f"--{name.replace('_', '-')}" for name in given)
            raise MoteError(
                f"found {flags} with --executor {self.executor}, expected options of that executor"
            )

    def chosen(self) -> "Executor":
        """Return the executor.

        Raises:
            MoteError: Ray is not installed, or not at its address.
        """
        if self.executor == "ray":
            from distill_training.submaps.ray_executor import RayExecutor

            return RayExecutor(self.address, self.task_cpus, self.task_gpus)
        from distill_training.submaps.local_executor import LocalExecutor

        return LocalExecutor(self.workers)


def check_place_output(output: Path) -> None:
    """Check the name of a bundle before any work is done.

    Raises:
        MoteError: It cannot be written, or is no name of a place.
    """
    check_output(output, "--output")
    if not re.match(NAME_PATTERN, output.stem):
        raise MoteError(
            f"--output {output}: is also the name of the place, expected at most 100 letters, "
            "digits, spaces and . _ -"
        )


def make_place(work: "WorkFolder", options: "PlaceOptions", execution: ExecutorOptions) -> None:
    """Make the bundle of a place, or go on with an interrupted run.

    Args:
        work: Folder of plan, options and results.
        options: How the maps are made.
        execution: Where the tasks run.

    Raises:
        MoteError: The folder holds another place, the plan cannot be made or used, or tasks failed.
    """
    from distill_training.submaps.executors import command_of
    from distill_training.submaps.task_table import task_table
    from distill_training.submaps.tasks import missing_text, tasks_of

    work.begin(options)
    _prepare_plan(work, options, execution.plan)
    tasks = tasks_of(work.plan(), options.allow_missing)
    if execution.print_tasks:
        for task in tasks:
            needs = f"  # after {', '.join(task.needs)}" if task.needs else ""
            print(shlex.join(command_of(task.name, work.path)) + needs)
        return
    executor = execution.chosen()
    with task_table(tasks) as report:
        failed = executor.run(tasks, work.path, report)
    for name, reason in list(failed.items())[:_MAX_NAMED]:
        say(f"{name}: {reason}")
    if tasks[-1].name in failed:
        raise MoteError(
            f"{len(failed)} of {len(tasks)} tasks failed; the same command goes on with them"
        )
    if failed:
        say(missing_text(options.output, failed))
    say(f"map: {options.output} ({options.output.stat().st_size / 2**20:.1f} MiB)")


def _prepare_plan(work: "WorkFolder", options: "PlaceOptions", given: Path | None) -> None:
    """Write the plan to the folder: the given one, that of an earlier run, or a new one."""
    from distill_training.submaps.partition import PartitionConfig
    from distill_training.submaps.place import read_place
    from distill_training.submaps.plan_file import read_plan, write_plan
    from distill_training.submaps.planning import make_plan

    if given is None and work.plan_path.exists():
        return
    values = options.recording.given_values()
    scene = open_scene(options.scene, options.recording)
    if given is not None:
        plan = read_plan(given)
        if plan.options != values:
            raise MoteError(
                f"--plan {given}: was made with {_text(plan.options)}, found {_text(values)}; "
                "expected the same options of the recording in both commands"
            )
        lacking = plan.frames.keys() - {frame.name for frame in scene.frames("train")}
        if lacking:
            raise MoteError(
                f"{given}: names {len(lacking)} of {len(plan.frames)} frames that are no training "
                f"frames of {options.scene}, such as {min(lacking)[:60]}; make the plan again"
            )
    else:
        config = PartitionConfig(seed=options.student.train.seed)
        plan = make_plan(read_place(scene), config, str(options.scene), values)
    write_plan(work.plan_path, plan)


def _text(values: dict[str, str]) -> str:
    return " ".join(f"{flag} {value}" for flag, value in values.items()) or "no options"
