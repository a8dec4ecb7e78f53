"""The tasks by which the map of a large place is made. Each can be repeated and is then resumed."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from distill_training.reconstruction import open_reconstruction
from distill_training.student_options import StudentOptions
from distill_training.submaps.plan_file import Submap, SubmapPlan
from distill_training.submaps.work_folder import PlaceOptions, WorkFolder
from mote_localization.bundles import write_bundle
from mote_localization.command_line import say
from mote_localization.errors import MoteError
from mote_localization.input_files import read_input
from mote_localization.map_file import MAX_MAP_BYTES

_LEAST_FRAMES = 0.5  # of a submap that the recording has, if the plan is of another one
RECONSTRUCT, BUNDLE = "reconstruct", "bundle"  # names of tasks; the others are those of submaps


class Task(NamedTuple):
    """A step of the work; it runs as `mote-distill task FOLDER NAME`."""

    name: str
    needs: tuple[str, ...]  # names of the tasks whose results it reads
    needs_all: bool = True  # whether it cannot run if one of them failed


def tasks_of(plan: SubmapPlan, allow_missing: bool) -> list[Task]:
    """Return the tasks of a plan; a task comes after those that it needs."""
    submaps = tuple(submap.name for submap in plan.submaps)
    return [
        Task(RECONSTRUCT, ()),
        *(Task(name, (RECONSTRUCT,)) for name in submaps),
        Task(BUNDLE, submaps, needs_all=not allow_missing),
    ]


def missing_text(output: Path, submaps: Iterable[str]) -> str:
    """Return the warning that a bundle lacks some submaps."""
    return f"warning: {output} lacks {', '.join(submaps)}: images from there are lost"


def run_task(folder: Path, name: str) -> None:
    """Run a task, or go on with it; a finished one takes seconds. Wait for a process that runs it.

    Args:
        folder: See `WorkFolder`.
        name: Of the task.

    Raises:
        MoteError: The task fails, what it needs is missing, or there is none of that name.
    """
    work = WorkFolder(folder)
    options, plan = work.options(), work.plan()
    names = [task.name for task in tasks_of(plan, False)]
    if name not in names:
        raise MoteError(f"found task '{name[:60]}', expected one of {', '.join(names)}")
    with work.locked(name):
        if name == RECONSTRUCT and options.update:
            open_reconstruction(work.reconstruction)
        elif name == RECONSTRUCT:
            teaching = options.teacher.plan(options.scene, options.recording)
            teaching.reconstruct(work.reconstruction)
        elif name == BUNDLE:
            _write_bundle(work, options, plan)
        else:
            submap = next(one for one in plan.submaps if one.name == name)
            _make_map(work, options.student, submap)


def _make_map(work: WorkFolder, student: StudentOptions, submap: Submap) -> None:
    """Make the map of a submap, unless there is one.

    Raises:
        MoteError: The training fails, or most frames are not those of the reconstruction.
    """
    output = work.map_of(submap)
    if output.exists():
        return
    student.check(output)
    reconstruction = open_reconstruction(work.reconstruction).of_frames(submap.frames)
    if len(reconstruction.poses) < _LEAST_FRAMES * len(submap.frames):
        raise MoteError(
            f"{submap.name}: found {len(reconstruction.poses)} of the plan's {len(submap.frames)} "
            "frames in the recording; expected a plan of this recording, made with the same "
            "options, such as --max-frames"
        )
    student.make_map(reconstruction, output)


def _write_bundle(work: WorkFolder, options: PlaceOptions, plan: SubmapPlan) -> None:
    """Write the bundle of all maps."""
    paths = {submap.name: work.map_of(submap) for submap in plan.submaps}
    missing = [name for name, path in paths.items() if not path.exists()]
    if missing and (not options.allow_missing or len(missing) == len(paths)):
        raise MoteError(
            f"the maps of {', '.join(missing[:5])} are missing ({len(missing)} of {len(paths)} "
            "submaps); run their tasks again, or leave them out with --allow-missing"
        )
    if missing:
        say(missing_text(options.output, missing))
    maps = {
        name: read_input(path, MAX_MAP_BYTES) for name, path in paths.items() if name not in missing
    }
    write_bundle(options.output, options.output.stem, maps)
