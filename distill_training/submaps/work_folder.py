"""The folder in which the map of a large place is made: options, plan, and results of the tasks.

options.json        recording, output, and the options of teacher and student
place.plan          the submaps, see `plan_file`
reconstruction/     points of all frames
maps/ID.onnx        the map of each submap, by the submap's id
maps/ID.training/   checkpoint and history of its training
logs/TASK.log       what each task printed
logs/TASK.lock      locked by the process that runs the task
"""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import msgspec

from distill_training.student_options import StudentOptions
from distill_training.submaps.plan_file import Submap, SubmapPlan, read_plan
from distill_training.teachers.teacher_options import Teacher
from mote_localization.errors import MoteError
from mote_localization.files import atomic_write
from mote_localization.input_files import read_input
from mote_localization.scenes import RecordingOptions

_MAX_BYTES = 1 << 20
_OPTIONS, _PLAN = "options.json", "place.plan"


@dataclass(frozen=True)
class UpdateOptions:
    """What a map is updated from."""

    map: Path  # the bundle before
    before: Path  # its work folder
    poses: Literal["given", "localized"]  # of the recording


@dataclass(frozen=True)
class PlaceOptions:
    """How the map of a place is made."""

    scene: Path
    output: Path  # the bundle
    recording: RecordingOptions
    teacher: Teacher
    student: StudentOptions
    allow_missing: bool  # of submaps whose task failed
    # the map that the recording updates; its reconstruction is complete, with the frames of both
    update: UpdateOptions | None = None


@dataclass(frozen=True)
class WorkFolder:
    """The folder in which the map of a place is made."""

    path: Path

    @property
    def reconstruction(self) -> Path:
        """Folder of the reconstruction of all frames."""
        return self.path / "reconstruction"

    @property
    def plan_path(self) -> Path:
        """File of the plan."""
        return self.path / _PLAN

    @property
    def begun(self) -> bool:
        """Whether it has options."""
        return (self.path / _OPTIONS).exists()

    def map_of(self, submap: Submap) -> Path:
        """Return the file of a submap's map."""
        return self.path / "maps" / f"{submap.id}.onnx"

    def log_of(self, task: str) -> Path:
        """Return the file for what a task prints."""
        return self.path / "logs" / f"{task}.log"

    @contextmanager
    def locked(self, task: str) -> Iterator[None]:
        """Wait until no other process runs a task, and let none run it in the block.

        After a lost worker or of two drivers, two processes could write the same files.

        Raises:
            MoteError: The lock cannot be written.
        """
        path = self.path / "logs" / f"{task}.lock"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = path.open("wb")
        except OSError as error:
            raise MoteError(f"{path}: cannot be written ({error.strerror})") from error
        with file:
            with suppress(OSError):  # a file system without locks
                fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def begin(self, options: PlaceOptions) -> None:
        """Write the options, or check that those of an earlier run are the same, to go on with it.

        Raises:
            MoteError: They are others, or cannot be read or written.
        """
        path = self.path / _OPTIONS
        if self.begun:
            # output and allow_missing change no result of a task
            before = replace(
                self.options(), output=options.output, allow_missing=options.allow_missing
            )
            if _encoded(before) != _encoded(options):
                raise MoteError(
                    f"{self.path}: holds maps made with other options; choose another --work, or "
                    "give the earlier options"
                )
        with atomic_write(path) as file:
            file.write(_encoded(options))

    def options(self) -> PlaceOptions:
        """Return the options.

        Raises:
            MoteError: They are missing or damaged.
        """
        path = self.path / _OPTIONS
        try:
            content = read_input(path, _MAX_BYTES)
            return msgspec.json.decode(content, type=PlaceOptions, dec_hook=_path)
        except (OSError, ValueError, TypeError, RecursionError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise MoteError(
                f"{path}: cannot be used ({reason[:160]}); expected the --work folder of "
                "`mote-distill map RECORDING -o NAME.mote`"
            ) from error

    def plan(self) -> SubmapPlan:
        """Return the plan; see `read_plan`."""
        return read_plan(self.plan_path)


def _encoded(options: PlaceOptions) -> bytes:
    """Return the stored form of options; tasks may run in any folder, so paths are absolute."""
    encoded = msgspec.json.encode(asdict(options), enc_hook=_absolute)
    return msgspec.json.format(encoded, indent=1) + b"\n"


def _absolute(value: Any) -> str:
    """Return the stored form of a path; msgspec knows no paths."""
    if isinstance(value, Path):
        return str(value.absolute())
    raise TypeError(f"found {type(value).__name__}, expected a path")


def _path(expected: type, value: Any) -> Any:
    """Return a path of its stored form."""
    if expected is Path and isinstance(value, str):
        return Path(value)
    raise ValueError(f"found {str(value)[:40]}, expected a path")
