"""The student, its training and its map, as the part of a command line that chooses them."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from distill_training.common.dependencies import training_packages
from distill_training.common.processes import rank
from distill_training.reconstruction import Reconstruction
from distill_training.training.train_config import TrainConfig
from mote_localization.command_line import File, Flat, say
from mote_localization.errors import MoteError
from mote_localization.files import check_output
from mote_localization.transform_command import FrameOptions
from mote_localization.validated_poses import validation_text

if TYPE_CHECKING:
    from distill_training.students.settings import Settings


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
