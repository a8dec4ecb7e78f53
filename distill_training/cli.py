"""`mote-distill`: the trainer's command line."""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from demo_room.record import Room
from distill_training.common.dependencies import training_packages
from distill_training.common.processes import processes, rank
from distill_training.common.renamed_options import refuse_renamed_flags
from distill_training.experiments.ablation.ablate_command import Ablate
from distill_training.reconstruction import Reconstruction, open_reconstruction
from distill_training.teachers.teacher_options import Teacher
from distill_training.training.train_config import TrainConfig
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
from mote_localization.scenes import RecordingOptions
from mote_localization.transform_command import FrameOptions
from mote_localization.validated_poses import validation_text

if TYPE_CHECKING:
    from distill_training.students.settings import Settings

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
class StudentOptions:
    """The student, its training and its map."""

    student: Literal["cnn", "mobilenet", "vit"] = "cnn"  # family of the network
    # published weights for the backbone of a mobilenet or vit
    pretrained: File = None
    # blocks of a pretrained backbone that are not trained
    freeze: Annotated[str, tyro.conf.arg(metavar="none|all|all-but-last-N")] = "none"
    # more settings of the family, as size=l fine-blocks=3; an unknown one lists the known ones
    set: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME=VALUE ...")] = ()
    # the map computes in 8-bit integers: three times as fast without a GPU, and smaller
    int8: tyro.conf.FlagCreatePairsOff[bool] = False
    # folder for checkpoint, history and reconstruction; default: beside the map, NAME.training
    work: Path | None = None
    train: Annotated[TrainConfig, Flat] = field(default_factory=TrainConfig)
    frame: Annotated[FrameOptions, Flat] = field(default_factory=FrameOptions)

    def check(self, output: Path) -> None:
        """Check the options before any work is done.

        Raises:
            MoteError: The output cannot be a map file, torch is missing, or settings do not fit the
                student.
        """
        if output.suffix != ".onnx":
            raise MoteError(f"--output {output}: expected the name of a map file, NAME.onnx")
        check_output(output, "--output")
        if self.pretrained and not self.pretrained.is_file():
            raise MoteError(f"--pretrained {self.pretrained}: expected a file of weights")
        if self.int8 and self.student == "vit":
            raise MoteError(
                "found --int8 with --student vit, expected cnn or mobilenet: 8-bit integers do not "
                "speed up attention"
            )
        self.frame.check()
        if self.frame.level != "no" and not self.train.keyframes:
            raise MoteError(
                f"found --level {self.frame.level} without keyframes, expected --keyframes 20 or "
                "more: the direction up is found in them"
            )
        with training_packages():
            import distill_training.export.onnx_export
            import distill_training.pipeline  # noqa: F401
        self._settings()

    def folder(self, output: Path) -> Path:
        """Return the folder for the files of a map's training."""
        return self.work or output.with_suffix(".training")

    def plan(self) -> str:
        """Return student and training, as text."""
        train = self.train
        length = f"{train.steps} steps" if train.steps else f"{train.minutes:g} minutes"
        keyframes = f", at most {train.keyframes} keyframes" if train.keyframes else ""
        return f"{self.student}, {length} of training{keyframes}"

    def make_map(self, reconstruction: Reconstruction, output: Path) -> None:
        """Train the student on a reconstruction, calibrate it, and write its map.

        Raises:
            MoteError: The reconstruction or the pretrained file cannot be used, the folder holds
                another training, or a file cannot be written.
        """
        from distill_training.export.onnx_export import write_student
        from distill_training.pipeline import train_student

        frames = {name: reconstruction.given_pose(name) for name in reconstruction.poses}
        self.frame.check_fit(frames, reconstruction.metric)
        student = train_student(
            reconstruction, self.folder(output), self.student, self._settings(), self.train
        )
        if rank():
            return  # in a distributed training the first process writes the map
        written = self.folder(output) / "map.onnx" if self.frame.given else output
        parity = write_student(student.network, student.info, reconstruction, written, self.int8)
        if self.frame.given:
            self.frame.write(written, output, frames)
            written.unlink()
        say(
            f"map: {output} ({output.stat().st_size / 2**20:.1f} MiB), {parity}; inspect it with "
            f"`mote inspect {output}`"
        )
        if student.info.validation:
            say(f"validation: {validation_text(student.info.validation, student.info.unit)}")
        if student.info.keyframes:
            say(
                f"{output} contains {len(student.info.keyframes)} photographs of the place; "
                "--keyframes 0 leaves them out"
            )

    def _settings(self) -> "Settings":
        from distill_training.students.settings import split_settings, student_settings

        given: dict[str, object] = dict(split_settings(self.set))
        if self.pretrained:
            given["pretrained"] = str(self.pretrained)
        if self.freeze != "none":
            given["freeze"] = self.freeze
        return student_settings(self.student, given)


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
    output: Output  # map file (.onnx)
    # print what is found and what would be done, and stop
    dry_run: tyro.conf.FlagCreatePairsOff[bool] = False
    recording: Annotated[RecordingOptions, Flat] = field(default_factory=RecordingOptions)
    teacher: Annotated[Teacher, Flat] = field(default_factory=Teacher)
    student: Annotated[StudentOptions, Flat] = field(default_factory=StudentOptions)

    def run(self) -> None:
        """Reconstruct, train, calibrate and export."""
        if processes() > 1:
            raise MoteError(
                f"found {processes()} processes, expected one: run `mote-distill reconstruct` in "
                "one process, then `mote-distill distill` in all of them"
            )
        self.student.check(self.output)
        plan = self.teacher.plan(self.scene, self.recording)
        rows = {**plan.described, "student": self.student.plan()}
        print_table(rows, str(self.scene), stderr=True)
        if self.dry_run:
            return
        folder = self.student.folder(self.output) / "reconstruction"
        self.student.make_map(plan.reconstruct(folder), self.output)


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
            "ablate": Ablate,
            "benchmark": Benchmark,
            "room": Room,
        },
        "mote-distill",
        "Makes maps: a teacher reconstructs a place, a small network is distilled from it.",
    )
