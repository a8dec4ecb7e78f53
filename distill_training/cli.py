"""`mote-distill`: the trainer's command line."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import tyro
from rich.console import Console

from distill_training.config import TrainConfig
from distill_training.reconstruction import Reconstruction, open_reconstruction
from distill_training.room.record import Room
from distill_training.teacher import rgbd as rgbd_teacher
from mote_localization.commands import run_command
from mote_localization.errors import MoteError
from mote_localization.scenes import open_scene

_COMPARED_IMAGES = 4  # on which the map must predict what the student does

Output = Annotated[Path, tyro.conf.arg(aliases=["-o"])]
Flat = tyro.conf.arg(name="")  # fields become flags of the command itself


@dataclass(frozen=True)
class Reconstruct:
    """Let a teacher say where every cell of every training image lies."""

    scene: tyro.conf.Positional[Path]  # scene folder
    output: Output  # folder for the reconstruction; an interrupted one is completed
    teacher: Literal["rgbd"] = "rgbd"  # rgbd: measured depth and poses
    rgbd: Annotated[rgbd_teacher.RgbdConfig, Flat] = field(default_factory=rgbd_teacher.RgbdConfig)

    def run(self) -> None:
        """Reconstruct the scene.

        Raises:
            MoteError: The scene cannot be used, or the folder holds something else.
        """
        reconstruction = rgbd_teacher.reconstruct(open_scene(self.scene), self.output, self.rgbd)
        _say(f"reconstruction: {self.output} ({len(reconstruction.poses)} frames)")


@dataclass(frozen=True)
class Distill:
    """Train a student on a reconstruction and write the map."""

    reconstruction: tyro.conf.Positional[Path]  # folder made by `mote-distill reconstruct`
    output: Output  # map file (.onnx)
    student: Literal["cnn"] = "cnn"  # family of the network
    work: Path | None = (
        None  # folder for checkpoint and curves; default: beside the map, NAME.training
    )
    train: Annotated[TrainConfig, Flat] = field(default_factory=TrainConfig)

    def run(self) -> None:
        """Train and export.

        Raises:
            MoteError: The reconstruction cannot be used, torch is missing, or the map cannot be
                written.
        """
        _check_first(self.output)
        work = self.work or self.output.with_suffix(".training")
        _distill(
            open_reconstruction(self.reconstruction), self.output, self.student, work, self.train
        )


@dataclass(frozen=True)
class Map:
    """Make a map of a scene: reconstruct, then distill; an interrupted run is gone on with."""

    scene: tyro.conf.Positional[Path]  # scene folder
    output: Output  # map file (.onnx)
    teacher: Literal["rgbd"] = "rgbd"  # rgbd: measured depth and poses
    student: Literal["cnn"] = "cnn"  # family of the network
    # folder for reconstruction, checkpoint and curves; default: beside the map, NAME.training
    work: Path | None = None
    rgbd: Annotated[rgbd_teacher.RgbdConfig, Flat] = field(default_factory=rgbd_teacher.RgbdConfig)
    train: Annotated[TrainConfig, Flat] = field(default_factory=TrainConfig)

    def run(self) -> None:
        """Reconstruct, train and export.

        Raises:
            MoteError: The scene cannot be used, torch is missing, or a file cannot be written.
        """
        _check_first(self.output)
        work = self.work or self.output.with_suffix(".training")
        reconstruction = rgbd_teacher.reconstruct(
            open_scene(self.scene), work / "reconstruction", self.rgbd
        )
        _distill(reconstruction, self.output, self.student, work, self.train)


def _check_first(output: Path) -> None:
    """Refuse before any work is done what would fail when it is."""
    if output.is_dir() or output.suffix != ".onnx":
        raise MoteError(f"--output {output}: expected the name of a map file, NAME.onnx")
    try:
        import distill_training.export
        import distill_training.train  # noqa: F401
    except ImportError as error:
        raise MoteError(
            f"training needs a package that is not installed ({error}); install it with "
            "`pip install -r requirements/train.txt -c requirements/constraints.txt`"
        ) from error


def _distill(
    reconstruction: Reconstruction, output: Path, student: str, work: Path, config: TrainConfig
) -> None:
    """Train a student and write its map."""
    from distill_training.export import export_map
    from distill_training.train import train

    network, info = train(reconstruction, work, student, {}, config)
    names = list(reconstruction.poses)
    compared = names[:: max(1, len(names) // _COMPARED_IMAGES)]
    images_bhw3 = np.stack([reconstruction.read_frame(name).image_hw3 for name in compared])
    worst_m = export_map(network, info, images_bhw3, output)
    _say(
        f"map: {output} ({output.stat().st_size / 2**20:.1f} MiB), equal to the student within "
        f"{1000 * worst_m:.3f} mm; see it with `mote inspect {output}`"
    )


def _say(text: str) -> None:
    Console(stderr=True).print(text, highlight=False, soft_wrap=True)


def main() -> None:
    """Run the `mote-distill` command."""
    run_command(
        {"map": Map, "reconstruct": Reconstruct, "distill": Distill, "room": Room},
        "mote-distill",
        "Makes maps: a teacher reconstructs a place, a small network learns it.",
    )
