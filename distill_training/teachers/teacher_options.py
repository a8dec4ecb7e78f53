"""The teacher and its settings, as the part of a command line that chooses them."""

from collections.abc import Iterator
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from distill_training.common.dependencies import training_packages
from distill_training.reconstruction import Reconstruction, begun_reconstruction
from distill_training.teachers.teacher_config import (
    CellsConfig,
    PhotographsConfig,
    RgbdConfig,
    SimulatedConfig,
)
from mote_localization.command_line import print_table
from mote_localization.errors import MoteError
from mote_localization.scenes import Scene, open_scene

if TYPE_CHECKING:
    from distill_training.poses.scene_poses import ScenePoses

Flat = tyro.conf.arg(name="")  # fields become flags of the command itself


@dataclass(frozen=True)
class Dust3rConfig:
    """The DUSt3R network and its device."""

    # published weights of the network for dust3r, NAME.pth; CC BY-NC-SA 4.0, non-commercial
    checkpoint: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    device: str = "auto"  # of dust3r: cpu, cuda; auto: the GPU where there is one


@dataclass(frozen=True)
class Teacher:
    """What measures the 3-D points that a student learns."""

    # rgbd: measured depth and poses; dust3r: a network that predicts pointmaps of pairs of
    # photographs; simulated: measured depth with the errors of such a network, to test alignment
    teacher: Literal["rgbd", "dust3r", "simulated"] = "rgbd"
    cells: Annotated[CellsConfig, Flat] = field(default_factory=CellsConfig)
    rgbd: Annotated[RgbdConfig, Flat] = field(default_factory=RgbdConfig)
    dust3r: Annotated[Dust3rConfig, Flat] = field(default_factory=Dust3rConfig)
    photographs: Annotated[PhotographsConfig, Flat] = field(default_factory=PhotographsConfig)
    # size of the simulated network's errors
    simulated: SimulatedConfig = field(default_factory=SimulatedConfig)

    def __post_init__(self) -> None:
        """Reject flags of other teachers, and dust3r without its checkpoint."""
        for config, prefix, users in (
            (self.rgbd, "--", ("rgbd",)),
            (self.dust3r, "--", ("dust3r",)),
            (self.photographs, "--", ("dust3r", "simulated")),
            (self.simulated, "--simulated.", ("simulated",)),
        ):
            given = ", ".join(_changed_flags(config, prefix))
            if given and self.teacher not in users:
                raise MoteError(
                    f"found {given} with --teacher {self.teacher}, expected --teacher "
                    f"{' or '.join(users)}"
                )
        if self.teacher == "dust3r" and self.dust3r.checkpoint is None:
            raise MoteError(
                "--teacher dust3r needs --checkpoint FILE: download "
                "DUSt3R_ViTLarge_BaseDecoder_512_dpt.pth yourself, see github.com/naver/dust3r "
                "(CC BY-NC-SA 4.0, non-commercial)"
            )

    def reconstruct(self, scene: Path, folder: Path) -> Reconstruction:
        """Reconstruct a scene, or resume an interrupted run; print a table for photographs.

        Raises:
            MoteError: The scene or the checkpoint cannot be used, torch is missing, or the folder
                holds another reconstruction.
        """
        opened = open_scene(scene)
        # These imports load scipy, which would delay the help of a command line.
        from distill_training.poses.scene_poses import find_poses
        from distill_training.teachers import rgbd

        if self.teacher != "rgbd":
            return self._from_photographs(
                opened, find_poses(opened, self.photographs.poses), folder
            )
        refine_m = refined = None
        if self.rgbd.adjust_poses:
            refine_m = (self.rgbd.min_depth_m, self.rgbd.max_depth_m)
            begun = begun_reconstruction(folder)
            refined = begun.poses if begun else None
        poses = find_poses(opened, "given", refine_m, refined)
        return rgbd.reconstruct(opened, poses, folder, self.rgbd, self.cells)

    def _from_photographs(self, scene: Scene, poses: "ScenePoses", folder: Path) -> Reconstruction:
        with training_packages():
            from distill_training.teachers.dust3r import Dust3r
            from distill_training.teachers.pairwise.pair_predictor import PairPredictor
            from distill_training.teachers.pairwise.photographs import reconstruct
            from distill_training.teachers.simulated import Simulated
        predictor: PairPredictor
        if self.teacher == "dust3r" and self.dust3r.checkpoint is not None:
            predictor = Dust3r.open(self.dust3r.checkpoint, self.dust3r.device)
        else:
            predictor = Simulated(self.simulated)
        reconstruction, summary = reconstruct(
            scene, poses, folder, predictor, self.photographs, self.cells
        )
        described = {"scene": reconstruction.scene}
        if summary is None:
            described["was there already"] = f"{len(reconstruction.poses)} frames"
        else:
            described |= summary.described()
        described["licence of the teacher"] = reconstruction.teacher_licence or "none"
        print_table(described, str(folder), stderr=True)
        return reconstruction


def _changed_flags(config: Any, prefix: str) -> Iterator[str]:
    """Yield the flags of a configuration whose values differ from their defaults."""
    for one in fields(config):
        value = getattr(config, one.name)
        if is_dataclass(value):
            yield from _changed_flags(value, f"{prefix}{one.name}.")
        elif value != one.default:
            yield f"{prefix}{one.name}".replace("_", "-")
