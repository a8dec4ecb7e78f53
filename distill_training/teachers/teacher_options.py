"""Which teacher, and its settings: the part of a command line that chooses one."""

from collections.abc import Iterator
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from distill_training.common.dependencies import training_packages
from distill_training.reconstruction import Reconstruction
from distill_training.teachers.teacher_config import (
    CellsConfig,
    PhotographsConfig,
    RgbdConfig,
    SimulatedConfig,
)
from mote_localization.command_line import print_table
from mote_localization.errors import MoteError
from mote_localization.scenes import Scene, open_scene

Flat = tyro.conf.arg(name="")  # fields become flags of the command itself


@dataclass(frozen=True)
class Dust3rConfig:
    """Which network, and where it runs."""

    # the network of dust3r as published, NAME.pth; CC BY-NC-SA 4.0, non-commercial
    checkpoint: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    device: str = "auto"  # that dust3r runs on: cpu, cuda; auto: the GPU where there is one


@dataclass(frozen=True)
class Teacher:
    """Who says where things are."""

    # rgbd: measured depth and poses; dust3r: a network that looks at pairs of photographs;
    # simulated: like dust3r, but what it says is measured depth, spoilt; to measure the alignment
    teacher: Literal["rgbd", "dust3r", "simulated"] = "rgbd"
    cells: Annotated[CellsConfig, Flat] = field(default_factory=CellsConfig)
    rgbd: Annotated[RgbdConfig, Flat] = field(default_factory=RgbdConfig)
    dust3r: Annotated[Dust3rConfig, Flat] = field(default_factory=Dust3rConfig)
    photographs: Annotated[PhotographsConfig, Flat] = field(default_factory=PhotographsConfig)
    # how far the simulated network is off
    simulated: SimulatedConfig = field(default_factory=SimulatedConfig)

    def __post_init__(self) -> None:
        """Refuse flags that mean nothing to the teacher, and dust3r without its checkpoint."""
        for config, prefix, users in (
            (self.rgbd, "--", ("rgbd",)),
            (self.dust3r, "--", ("dust3r",)),
            (self.photographs, "--", ("dust3r", "simulated")),
            (self.simulated, "--simulated.", ("simulated",)),
        ):
            given = ", ".join(_given(config, prefix))
            if given and self.teacher not in users:
                raise MoteError(
                    f"{given}: for --teacher {' or '.join(users)}, found --teacher {self.teacher}"
                )
        if self.teacher == "dust3r" and self.dust3r.checkpoint is None:
            raise MoteError(
                "--teacher dust3r needs --checkpoint FILE: download "
                "DUSt3R_ViTLarge_BaseDecoder_512_dpt.pth yourself, see github.com/naver/dust3r "
                "(CC BY-NC-SA 4.0, non-commercial)"
            )

    def reconstruct(self, scene: Path, folder: Path) -> Reconstruction:
        """Reconstruct a scene, or go on with it, and print what became of photographs.

        Raises:
            MoteError: The scene or the checkpoint cannot be used, torch is missing, or the folder
                holds something else.
        """
        opened = open_scene(scene)
        if self.teacher == "rgbd":
            # loads scipy, which a command line that asks for help has no time for
            from distill_training.teachers.rgbd import reconstruct

            return reconstruct(opened, folder, self.rgbd, self.cells)
        return self._from_photographs(opened, folder)

    def _from_photographs(self, scene: Scene, folder: Path) -> Reconstruction:
        with training_packages():
            from distill_training.teachers.dust3r import Dust3r
            from distill_training.teachers.pairwise.pair_predictor import PairPredictor
            from distill_training.teachers.pairwise.photographs import reconstruct
            from distill_training.teachers.simulated import Simulated
        predictor: PairPredictor = Simulated(self.simulated)
        if self.dust3r.checkpoint is not None:
            predictor = Dust3r.open(self.dust3r.checkpoint, self.dust3r.device)
        reconstruction, summary = reconstruct(
            scene, folder, predictor, self.photographs, self.cells
        )
        described = {"scene": reconstruction.scene}
        if summary is None:
            described["was there already"] = f"{len(reconstruction.poses)} frames"
        else:
            described |= summary.described()
        described["licence of the teacher"] = reconstruction.teacher_licence or "none"
        print_table(described, str(folder), stderr=True)
        return reconstruction


def _given(config: Any, prefix: str) -> Iterator[str]:
    """Go through the flags of a configuration whose values are not the usual ones."""
    for one in fields(config):
        value = getattr(config, one.name)
        if is_dataclass(value):
            yield from _given(value, f"{prefix}{one.name}.")
        elif value != one.default:
            yield f"{prefix}{one.name}".replace("_", "-")
