"""`mote-distill map`, and its two halves, `reconstruct` and `distill`."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from distill_training.common.dependencies import training_packages
from distill_training.common.processes import processes, rank
from distill_training.reconstruction import Reconstruction, open_reconstruction
from distill_training.teachers.teacher_options import Flat, Teacher
from distill_training.training.train_config import TrainConfig
from mote_localization.command_line import say
from mote_localization.errors import MoteError
from mote_localization.map_file import read_map

if TYPE_CHECKING:
    from distill_training.students.settings import Settings

_CALIBRATED_BY = 64  # images whose ranges become those of the 8-bit integers


Output = Annotated[Path, tyro.conf.arg(aliases=["-o"])]
File = Annotated[Path | None, tyro.conf.arg(metavar="FILE")]


@dataclass(frozen=True)
class Look:
    """Ways to look at a reconstruction."""

    save_ply: File = None  # write the cloud and the cameras there, for any viewer of clouds (.ply)
    picture: File = None  # draw the place from above and from the side there (.png)
    rerun: tyro.conf.FlagCreatePairsOff[bool] = False  # open the rerun viewer, where installed
    save_rrd: File = None  # write a recording for the rerun viewer there (.rrd)

    def check(self) -> None:
        """Refuse before any work is done what would fail when it is.

        Raises:
            MoteError: A file's name is a folder's, or rerun is not installed.
        """
        for path in (self.save_ply, self.picture, self.save_rrd):
            if path and path.is_dir():
                raise MoteError(f"{path}: is a folder, expected the name of a file")
        if self.rerun or self.save_rrd:
            from distill_training.reconstruction.cloud_export import import_rerun

            import_rerun()

    def at(self, reconstruction: Reconstruction) -> None:
        """Write and show what was asked for.

        Raises:
            ReconstructionError: A frame is damaged, nothing is known, a file cannot be written, or
                the viewer does not start.
        """
        if not (self.save_ply or self.picture or self.save_rrd or self.rerun):
            return
        from distill_training.reconstruction import cloud_export as cloud  # loads matplotlib

        if self.save_ply:
            cloud.save_ply(reconstruction, self.save_ply)
            say(f"cloud and cameras: {self.save_ply}")
        if self.picture:
            cloud.picture(reconstruction, self.picture)
            say(f"picture: {self.picture}")
        if self.save_rrd:
            cloud.show_rerun(reconstruction, self.save_rrd)
            say(f"recording: {self.save_rrd}; see it with `rerun {self.save_rrd}`")
        if self.rerun:
            cloud.show_rerun(reconstruction)


@dataclass(frozen=True)
class Reconstruct:
    """Let a teacher say where every cell of every training image lies.

    Where it has been done already, look at it: the same command again takes seconds.
    """

    scene: tyro.conf.Positional[Path]  # scene folder, or folder of photographs
    output: Output  # folder for the reconstruction; an interrupted one is completed
    teacher: Annotated[Teacher, Flat] = field(default_factory=Teacher)
    look: Annotated[Look, Flat] = field(default_factory=Look)

    def run(self) -> None:
        """Reconstruct the scene, and look at it.

        Raises:
            MoteError: The scene cannot be used, the folder holds something else, or a file cannot
                be written.
        """
        self.look.check()
        reconstruction = self.teacher.reconstruct(self.scene, self.output)
        say(
            f"reconstruction: {self.output} ({len(reconstruction.poses)} frames); make a map of it "
            f"with `mote-distill distill {self.output} -o NAME.onnx`"
        )
        self.look.at(reconstruction)


@dataclass(frozen=True)
class Learning:
    """Which student learns, and how."""

    student: Literal["cnn", "mobilenet", "vit"] = "cnn"  # family of the network
    # published weights that the trunk of a mobilenet or vit starts from
    pretrained: File = None
    # blocks of that trunk that stay as they are
    freeze: Annotated[str, tyro.conf.arg(metavar="none|all|all-but-last-N")] = "none"
    # further settings of the family, as size=l fine-blocks=3; an unknown one tells which there are
    set: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME=VALUE ...")] = ()
    # let the map compute in 8-bit integers: three times as fast where there is no GPU, and smaller
    int8: tyro.conf.FlagCreatePairsOff[bool] = False
    # folder for all that is kept of the work; default: beside the map, NAME.training
    work: Path | None = None
    train: Annotated[TrainConfig, Flat] = field(default_factory=TrainConfig)

    def check(self, output: Path) -> None:
        """Refuse before any work is done what would fail when it is.

        Raises:
            MoteError: The output is no map's name, torch is missing, the student makes no sense, or
                the map to calibrate by cannot be read.
        """
        if output.is_dir() or output.suffix != ".onnx":
            raise MoteError(f"--output {output}: expected the name of a map file, NAME.onnx")
        if self.pretrained and not self.pretrained.is_file():
            raise MoteError(f"--pretrained {self.pretrained}: expected a file of weights")
        if self.int8 and self.student == "vit":
            raise MoteError(
                "found --int8 with --student vit, expected cnn or mobilenet: attention gains "
                "nothing by 8-bit integers here"
            )
        if self.train.calibration_from:
            read_map(self.train.calibration_from)
        with training_packages():
            import distill_training.export.onnx_export
            import distill_training.training.trainer  # noqa: F401
        self._settings()

    def folder(self, output: Path) -> Path:
        """Return where the work on a map lies."""
        return self.work or output.with_suffix(".training")

    def make_map(self, reconstruction: Reconstruction, output: Path) -> None:
        """Train the student on a reconstruction, and write its map.

        Raises:
            MoteError: The reconstruction or the pretrained file cannot be used, the folder holds
                another training, or a file cannot be written.
        """
        from distill_training.export.onnx_export import export_int8_map, export_map, sample_images
        from distill_training.training.trainer import train

        network, info = train(
            reconstruction, self.folder(output), self.student, self._settings(), self.train
        )
        if rank():
            return  # of several processes, the first one writes
        if self.int8:
            images_bhw3 = sample_images(reconstruction, _CALIBRATED_BY)
            moved = export_int8_map(network, info, images_bhw3, output)
            equal = f"points moved by {moved:.0%} of their sigma (median) by 8-bit integers"
        else:
            worst_m = export_map(network, info, sample_images(reconstruction), output)
            equal = f"equal to the student within {1000 * worst_m:.3f} mm"
        say(
            f"map: {output} ({output.stat().st_size / 2**20:.1f} MiB), {equal}; see it with "
            f"`mote inspect {output}`"
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
    learning: Annotated[Learning, Flat] = field(default_factory=Learning)

    def run(self) -> None:
        """Train and export.

        Raises:
            MoteError: The reconstruction cannot be used, torch is missing, or the map cannot be
                written.
        """
        self.learning.check(self.output)
        self.learning.make_map(open_reconstruction(self.reconstruction), self.output)


@dataclass(frozen=True)
class Map:
    """Make a map of a scene: reconstruct, then distill; an interrupted run is gone on with."""

    scene: tyro.conf.Positional[Path]  # scene folder, or folder of photographs
    output: Output  # map file (.onnx)
    teacher: Annotated[Teacher, Flat] = field(default_factory=Teacher)
    learning: Annotated[Learning, Flat] = field(default_factory=Learning)

    def run(self) -> None:
        """Reconstruct, train and export.

        Raises:
            MoteError: The scene cannot be used, torch is missing, a file cannot be written, or
                several processes have been started.
        """
        if processes() > 1:
            raise MoteError(
                f"found {processes()} processes, expected one: let them `mote-distill distill` "
                "what one has reconstructed"
            )
        self.learning.check(self.output)
        folder = self.learning.folder(self.output) / "reconstruction"
        self.learning.make_map(self.teacher.reconstruct(self.scene, folder), self.output)
