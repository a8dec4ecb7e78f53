"""`mote-distill update`: trains again those submaps of a map that a new recording shows."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from rich.console import Console
from rich.table import Table

from distill_training.submaps.make_place import (
    ExecutorOptions,
    check_place_output,
    make_place,
)
from mote_localization.bundles import is_bundle
from mote_localization.command_line import Flat, say
from mote_localization.errors import MoteError
from mote_localization.scenes import RecordingOptions, open_scene

if TYPE_CHECKING:
    from distill_training.submaps.new_frames import NewFrames
    from distill_training.submaps.plan_file import SubmapPlan
    from distill_training.submaps.work_folder import PlaceOptions, WorkFolder


@dataclass(frozen=True)
class Update:
    """Update a map with several submaps by a new recording; the same command resumes.

    Submaps with at least ten frames of the recording are trained again, on their frames and the new
    ones; the maps of the others stay as they are, byte for byte.
    """

    map: tyro.conf.Positional[Path]  # map made by `mote-distill map RECORDING -o NAME.mote`
    # recording of any layout, see docs/recordings.md
    new_recording: Annotated[Path, tyro.conf.arg(name="with", metavar="RECORDING")]
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])]  # the updated map (.mote)
    # poses of the recording's frames; localized: in the map, frames without a pose are left out;
    # given: those of the recording, which are in the map's frame
    poses: Literal["localized", "given"] = "localized"
    before: Path | None = None  # --work folder of the map; default: beside it, NAME.training
    work: Path | None = None  # folder of the updated map; default: beside it, NAME.training
    recording: Annotated[RecordingOptions, Flat] = field(default_factory=RecordingOptions)
    execution: Annotated[ExecutorOptions, Flat] = field(default_factory=ExecutorOptions)

    def run(self) -> None:
        """Find the submaps of the new frames, train them again, and write the map."""
        self._check()
        from distill_training.submaps.work_folder import UpdateOptions, WorkFolder

        before = WorkFolder((self.before or self.map.with_suffix(".training")).absolute())
        work = WorkFolder((self.work or self.output.with_suffix(".training")).absolute())
        options = replace(
            before.options(),
            scene=self.new_recording.absolute(),
            output=self.output.absolute(),
            recording=self.recording,
            allow_missing=self.execution.allow_missing,
            update=UpdateOptions(self.map.absolute(), before.path, self.poses),
        )
        if not work.begun:
            self._prepare(work, options, before)
        make_place(work, options, self.execution)

    def _check(self) -> None:
        """Check the options before any work is done."""
        self.execution.check()
        if self.execution.plan:
            raise MoteError("found --plan, expected none: the plan is that of the map")
        for path, name in ((self.map, "map"), (self.output, "--output")):
            if not is_bundle(path):
                raise MoteError(f"{name} {path}: expected a map of several submaps, NAME.mote")
        if self.output.absolute() == self.map.absolute():
            raise MoteError(f"--output {self.output}: is the map itself, expected another name")
        check_place_output(self.output)

    def _prepare(self, work: "WorkFolder", options: "PlaceOptions", before: "WorkFolder") -> None:
        """Write the work folder."""
        from distill_training.reconstruction import open_reconstruction
        from distill_training.submaps.new_frames import LEAST_FRAMES, find_new_frames
        from distill_training.submaps.updating import check_place, teacher_of, write_updated

        scene = open_scene(self.new_recording, self.recording)
        check_place(self.map, before)
        plan, old = before.plan(), open_reconstruction(before.reconstruction)
        teacher_of(options, old, scene)  # its error comes before frames are localized
        known = {name: old.given_pose(name) for name in old.poses}
        bundle = self.map if self.poses == "localized" else None
        new = find_new_frames(scene, bundle, plan, known)
        if not new.by_submap:
            raise MoteError(
                f"{self.new_recording}: no submap has {LEAST_FRAMES} of its frames: "
                f"{new.left_out_text()}. A new part of the place needs `mote-distill plan` and "
                "`map` again"
            )
        Console(stderr=True).print(_table(plan, new))
        if new.left_out:
            say(new.left_out_text())
        write_updated(work, options, before, scene, new)


def _table(plan: "SubmapPlan", new: "NewFrames") -> Table:
    """Return which submaps are trained again."""
    table = Table()
    for name in ("submap", "frames", "new frames", ""):
        table.add_column(name, justify="right" if "frames" in name else "left")
    for submap in plan.submaps:
        count = len(new.by_submap.get(submap.name, []))
        state = "trained again" if count else "kept"
        table.add_row(submap.name, str(len(submap.own)), str(count or ""), state)
    return table
