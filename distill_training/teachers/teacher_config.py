"""Settings of the teachers. Needs no torch, so that a command line shows its help without it."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from distill_training.poses.poses_config import PairsConfig
from mote_localization.errors import ReconstructionError


@dataclass(frozen=True)
class CellsConfig:
    """The canonical camera and its cells, for every teacher."""

    width: int = 320  # px, width of the canonical camera
    stride: int = 8  # px of the canonical image per cell side

    def __post_init__(self) -> None:
        if min(self.width, self.stride) < 1 or self.width % self.stride:
            raise ReconstructionError(
                f"found width {self.width}, stride {self.stride} px, expected 1 or more, and a "
                "width that is a multiple of the stride"
            )


USUAL_CELLS = CellsConfig()


@dataclass(frozen=True)
class RgbdConfig:
    """How depth images become pointmaps."""

    # px of the depth image, side of the window; its median depth is the depth of a cell
    window_px: int = 4
    min_depth_m: float = 0.1  # m, nearer depths count as not measured
    max_depth_m: float = 20.0  # m, farther depths count as not measured

    def __post_init__(self) -> None:
        if self.window_px < 1:
            raise ReconstructionError(f"found a window of {self.window_px} px, expected 1 or more")
        if not 0 <= self.min_depth_m < self.max_depth_m:
            raise ReconstructionError(
                f"found depths of {self.min_depth_m:g} to {self.max_depth_m:g} m, expected a range"
            )


@dataclass(frozen=True)
class PhotographsConfig:
    """How pairs of photographs are predicted."""

    pair_batch: int = 16  # pairs that the network takes at once
    pairs: PairsConfig = field(default_factory=PairsConfig)

    def __post_init__(self) -> None:
        if self.pair_batch < 1:
            raise ReconstructionError(
                f"found a batch of {self.pair_batch} pairs, expected 1 or more"
            )


@dataclass(frozen=True)
class FilesConfig:
    """Depth that another network wrote."""

    # folder of depth for files: index.json and one NAME.npz an image, see docs/depth_files.md
    files: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None


@dataclass(frozen=True)
class SimulatedConfig:
    """Size of the simulated network's errors."""

    width: int = 160  # px, width of its images
    pair_scale: float = 0.3  # standard deviation of the logarithm of a pair's scale
    noise: float = 0.02  # of the depth, standard deviation along each axis, independent per pixel
    warp: float = 0.03  # of the depth, standard deviation along each axis, smooth over the image
    wrong_pairs: float = 0.05  # fraction of the pairs with a wrong relative pose
    seed: int = 0  # of the errors

    def __post_init__(self) -> None:
        if self.width < 16 or min(self.pair_scale, self.noise, self.warp) < 0:
            raise ReconstructionError(
                f"found a simulated image width of {self.width} px, errors of {self.pair_scale:g}, "
                f"{self.noise:g}, {self.warp:g}, expected 16 px or more and errors of 0 or more"
            )
