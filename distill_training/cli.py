"""`mote-distill`: the trainer's command line."""

import os
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import tyro

from demo_room.building.building_command import Building
from demo_room.record import Room
from distill_training.common.processes import processes
from distill_training.common.renamed_options import refuse_renamed_flags
from distill_training.experiments.ablation.ablate_command import Ablate
from distill_training.reconstruction import Reconstruction, open_reconstruction
from distill_training.student_options import StudentOptions
from distill_training.submaps.make_place import ExecutorOptions, check_place_output
from distill_training.submaps.plan_command import Plan
from distill_training.submaps.update_command import Update
from distill_training.teachers.teacher_options import Teacher
from mote_localization.bundles import is_bundle
from mote_localization.command_line import (
    File,
    Flat,
    one_line_errors,
    print_table,
    run_command,
    say,
)
from mote_localization.errors import MoteError
from mote_localization.files import check_output
from mote_localization.nodes.process import end_with_parent
from mote_localization.scenes import RecordingOptions

Output = Annotated[Path, tyro.conf.arg(aliases=["-o"])]


@dataclass(frozen=True)
class InspectionOptions:
    """Files and viewers that show a reconstruction."""

    save_ply: File = None  # write the point cloud and the cameras there, for any viewer (.ply)
    picture: File = None  # draw the place from above and from the side there (.png)
    rerun: tyro.conf.FlagCreatePairsOff[bool] = False  # open the rerun viewer, where installed
    save_rrd: File = None  # write a recording for the rerun viewer there (.rrd)

    def check(self) -> None:
        """Check the options before any work is done.

        Raises:
            MoteError: A file cannot be written, or rerun is not installed.
        """
        check_output(self.save_ply, "--save-ply")
        check_output(self.picture, "--picture")
        check_output(self.save_rrd, "--save-rrd")
        if self.rerun or self.save_rrd:
            from distill_training.reconstruction.cloud_export import import_rerun

            import_rerun()

    def show(self, reconstruction: Reconstruction) -> None:
        """Write the files and open the viewer.

        Raises:
            ReconstructionError: A frame is damaged, no cell has a point, a file cannot be written,
                or the viewer does not start.
        """
        if not (self.save_ply or self.picture or self.save_rrd or self.rerun):
            return
        from distill_training.reconstruction import cloud_export  # matplotlib takes a second

        if self.save_ply:
            cloud_export.save_ply(reconstruction, self.save_ply)
            say(f"cloud and cameras: {self.save_ply}")
        if self.picture:
            cloud_export.picture(reconstruction, self.picture)
            say(f"picture: {self.picture}")
        if self.save_rrd:
            cloud_export.show_rerun(reconstruction, self.save_rrd)
            say(f"recording: {self.save_rrd}; open it with `rerun {self.save_rrd}`")
        if self.rerun:
            cloud_export.show_rerun(reconstruction)


@dataclass(frozen=True)
class Reconstruct:
    """Compute a 3-D point for every cell of every training image.

    On a finished reconstruction, the same command takes seconds: use it to inspect the result.
    """

    scene: tyro.conf.Positional[Path]  # recording of any layout, see docs/recordings.md
    output: Output  # folder for the reconstruction; an interrupted one is completed
    # print what is found and what would be done, and stop
    dry_run: tyro.conf.FlagCreatePairsOff[bool] = False
    recording: Annotated[RecordingOptions, Flat] = field(default_factory=RecordingOptions)
    teacher: Annotated[Teacher, Flat] = field(default_factory=Teacher)
    inspection: Annotated[InspectionOptions, Flat] = field(default_factory=InspectionOptions)

    def run(self) -> None:
        """Reconstruct the scene and show the result."""
        self.inspection.check()
        plan = self.teacher.plan(self.scene, self.recording)
        print_table(plan.described, str(self.scene), stderr=True)
        if self.dry_run:
            return
        reconstruction = plan.reconstruct(self.output)
        say(
            f"reconstruction: {self.output} ({len(reconstruction.poses)} frames); make a map of it "
            f"with `mote-distill distill {self.output} -o NAME.onnx`"
        )
        self.inspection.show(reconstruction)


@dataclass(frozen=True)
class Distill:
    """Train a student on a reconstruction and write the map."""

    reconstruction: tyro.conf.Positional[Path]  # folder made by `mote-distill reconstruct`
    output: Output  # map file (.onnx)
    student: Annotated[StudentOptions, Flat] = field(default_factory=StudentOptions)

    def run(self) -> None:
        """Train, calibrate and export."""
        self.student.check(self.output)
        self.student.make_map(open_reconstruction(self.reconstruction), self.output)


@dataclass(frozen=True)
class Map:
    """Make a map of a scene: reconstruct, then distill; the same command resumes."""

    scene: tyro.conf.Positional[Path]  # recording of any layout, see docs/recordings.md
    output: Output  # map file (.onnx), or that of a large place, with several submaps (.mote)
    # print what is found and what would be done, and stop
    dry_run: tyro.conf.FlagCreatePairsOff[bool] = False
    recording: Annotated[RecordingOptions, Flat] = field(default_factory=RecordingOptions)
    teacher: Annotated[Teacher, Flat] = field(default_factory=Teacher)
    student: Annotated[StudentOptions, Flat] = field(default_factory=StudentOptions)
    execution: Annotated[ExecutorOptions, Flat] = field(default_factory=ExecutorOptions)

    def run(self) -> None:
        """Reconstruct, train, calibrate and export."""
        if processes() > 1:
            raise MoteError(
                f"found {processes()} processes, expected one: run `mote-distill reconstruct` in "
                "one process, then `mote-distill distill` in all of them"
            )
        place = is_bundle(self.output)
        self._check(place)
        plan = self.teacher.plan(self.scene, self.recording)
        rows = {**plan.described, "student": self.student.plan()}
        print_table(rows, str(self.scene), stderr=True)
        if self.dry_run:
            return
        if place:
            self._make_place()
            return
        folder = self.student.folder(self.output) / "reconstruction"
        self.student.make_map(plan.reconstruct(folder), self.output)

    def _check(self, place: bool) -> None:
        """Check the options before any work is done."""
        if not place:
            self.student.check(self.output)
            if self.execution != ExecutorOptions():
                raise MoteError(
                    f"--output {self.output}: found options of a map with several submaps, "
                    "expected a name that ends in .mote"
                )
            return
        self.execution.check()
        self.student.check(self.output.with_suffix(".onnx"))
        check_place_output(self.output)
        if self.student.frame.given or not self.student.train.keyframes:
            raise MoteError(
                "found --level, --anchor or --keyframes 0 with a map of several submaps, expected "
                "the frame of the recording, and keyframes, by which places are recognized"
            )

    def _make_place(self) -> None:
        """Make a map with several submaps."""
        from distill_training.submaps.make_place import make_place
        from distill_training.submaps.work_folder import PlaceOptions, WorkFolder

        options = PlaceOptions(
            self.scene.absolute(),
            self.output.absolute(),
            self.recording,
            self.teacher,
            replace(self.student, work=None),  # each submap has its own folder in the work folder
            self.execution.allow_missing,
        )
        work = WorkFolder(self.student.folder(self.output).absolute())
        make_place(work, options, self.execution)


@dataclass(frozen=True)
class RunTask:
    """Run one task of a map with several submaps; `mote-distill map --print-tasks` lists them."""

    folder: tyro.conf.Positional[Path]  # the --work folder of `mote-distill map`
    name: tyro.conf.Positional[str]  # of the task

    def run(self) -> None:
        """Run the task, or go on with it."""
        from distill_training.submaps.executors import PARENT
        from distill_training.submaps.tasks import run_task

        if parent := os.environ.get(PARENT):
            end_with_parent(int(parent))
        run_task(self.folder, self.name)


@dataclass(frozen=True)
class Benchmark:
    """Make and evaluate a map of each scene of a folder; the same command resumes.

    Prints a table: fractions of the test frames within bounds, median errors, lost frames, time to
    make the map, size of the map, and time of a frame.
    """

    scenes: tyro.conf.Positional[Path]  # folder of scenes with training and test frames
    output: Output  # folder for maps, figures and table
    # true poses of the test frames in place of the scenes': a file, or a folder with SCENE.txt or
    # SCENE_test.txt for each scene
    truth: File = None
    teacher: Annotated[Teacher, Flat] = field(default_factory=Teacher)
    student: Annotated[StudentOptions, Flat] = field(default_factory=StudentOptions)

    def run(self) -> None:
        """Run the scenes that are not finished; write and print the table."""
        if processes() > 1:
            raise MoteError(f"found {processes()} processes, expected one; run it without torchrun")
        if self.student.work or self.student.frame.given:
            raise MoteError(
                "found --work, --level or --anchor, expected none of them: each map has its own "
                "folder and the frame of its true poses"
            )
        self.student.check(self.output / "scene.onnx")
        from distill_training.experiments.benchmark.benchmark_run import (
            check_options,
            option_values,
            run_benchmark,
        )
        from distill_training.experiments.benchmark.benchmark_scenes import (
            find_scenes,
            true_poses_of,
        )
        from distill_training.experiments.benchmark.scene_results import BenchmarkScene

        scenes = [
            BenchmarkScene(name, path, self.output, true_poses_of(name, self.truth))
            for name, path in find_scenes(self.scenes, self.output).items()
        ]
        options = option_values(teacher=self.teacher, student=self.student)
        check_options(options, self.output)
        run_benchmark(scenes, self._make_map, options, self.output)

    def _make_map(self, scene: Path, output: Path) -> None:
        Map(scene, output, teacher=self.teacher, student=self.student).run()


def main() -> None:
    """Run the `mote-distill` command."""
    with one_line_errors():
        refuse_renamed_flags(sys.argv[1:])
    run_command(
        {
            "map": Map,
            "reconstruct": Reconstruct,
            "distill": Distill,
            "task": RunTask,
            "plan": Plan,
            "update": Update,
            "ablate": Ablate,
            "benchmark": Benchmark,
            "room": Room,
            "building": Building,
        },
        "mote-distill",
        "Makes maps: a teacher reconstructs a place, a small network is distilled from it.",
    )
