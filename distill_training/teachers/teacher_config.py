"""The settings of the teachers, free of torch, so that a command line shows them without it."""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import tyro

from distill_training.poses.known_lengths import parse_known_length
from mote_localization.errors import ReconstructionError

Known = Literal["auto", "given", "estimate"]


@dataclass(frozen=True)
class CellsConfig:
    """The camera that a map is made for, and its cells, whoever the teacher is."""

    width: int = 320  # px, width of the canonical camera
    stride: int = 8  # px of the canonical image per cell side

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        if min(self.width, self.stride) < 1:
            raise ReconstructionError(
                f"found width {self.width}, stride {self.stride} px, expected 1 or more"
            )


USUAL_CELLS = CellsConfig()


@dataclass(frozen=True)
class RgbdConfig:
    """How depth images become pointmaps."""

    window_px: int = 4  # px of the depth image, side of the window whose median stands for a cell
    min_depth_m: float = 0.1  # m, nearer is taken as no measurement
    max_depth_m: float = 20.0  # m, farther is taken as no measurement
    # move the given poses to where images agree on what they see alike; what is localized with the
    # map is still told in the frame of the given ones
    adjust_poses: tyro.conf.FlagCreatePairsOff[bool] = False

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        if self.window_px < 1:
            raise ReconstructionError(f"found a window of {self.window_px} px, expected 1 or more")
        if not 0 <= self.min_depth_m < self.max_depth_m:
            raise ReconstructionError(
                f"found depths of {self.min_depth_m:g} to {self.max_depth_m:g} m, expected a range"
            )


@dataclass(frozen=True)
class PairsConfig:
    """Which images are looked at together."""

    # complete: all with all; video: neighbours in time and loops; retrieval: what looks alike;
    # overlap: what known poses say to see the same, and some that look alike, to check the poses;
    # auto: the first that can be of complete, overlap, video (of a recording in order), retrieval
    method: Literal["auto", "complete", "video", "retrieval", "overlap"] = "auto"
    per_image: int = 10  # pairs in which an image appears, about
    max_gap: int = 16  # images between the ends of the longest pair of neighbours in time
    depth_m: float = 2.5  # m, how far away things are, about, to foresee overlap
    min_overlap: float = 0.3  # share of the image that a pair must have in common
    max_angle_deg: float = 60.0  # deg, most between the viewing directions of a pair

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        if self.method not in ("auto", "complete", "video", "retrieval", "overlap"):
            raise ReconstructionError(
                f"found pair choice '{self.method}', expected auto, complete, video, retrieval or "
                "overlap"
            )
        if min(self.per_image - 1, self.max_gap) < 1:
            raise ReconstructionError(
                f"found {self.per_image} pairs an image with a gap of {self.max_gap}, expected 2 "
                "pairs or more, and a reach of 1 or more"
            )
        if not (0 < self.depth_m < np.inf and 0 < self.min_overlap <= 1):
            raise ReconstructionError(
                f"found a typical depth of {self.depth_m:g} m and an overlap of "
                f"{self.min_overlap:g}, expected a depth above 0 and a share up to 1"
            )
        if not 0 < self.max_angle_deg <= 180:
            raise ReconstructionError(
                f"found a largest angle of {self.max_angle_deg:g} deg, expected 0 to 180"
            )


@dataclass(frozen=True)
class PhotographsConfig:
    """How photographs become a reconstruction."""

    # camera poses; given: those of the scene, estimate: from the photographs, given ones then say
    # only where the map's frame lies; auto: given where all are
    poses: Known = "auto"
    intrinsics: Known = "auto"  # focal lengths; auto: given where they are
    # lengths that say how long a metre is, where poses are estimated and none is given:
    # FRAME,FRAME=METRES (two cameras) or FRAME:X:Y,FRAME:X:Y=METRES (two pixels)
    scale_from: tuple[str, ...] = ()
    pair_batch: int = 16  # pairs looked at in one go
    pairs: PairsConfig = field(default_factory=PairsConfig)

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        if self.pair_batch < 1:
            raise ReconstructionError(
                f"found a batch of {self.pair_batch} pairs, expected 1 or more"
            )
        for text in self.scale_from:
            parse_known_length(text)


@dataclass(frozen=True)
class SimulatedConfig:
    """How far the simulated network is off."""

    width: int = 160  # px of its images
    pair_scale: float = 0.3  # standard deviation of the logarithm of a pair's scale
    noise: float = 0.02  # of the depth, standard deviation along each axis, every pixel for itself
    warp: float = 0.03  # of the depth, standard deviation along each axis, smooth over the image
    wrong_pairs: float = 0.05  # share of the pairs that are plain wrong
    seed: int = 0  # of the errors

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        if self.width < 16 or min(self.pair_scale, self.noise, self.warp) < 0:
            raise ReconstructionError(
                f"found a simulated image width of {self.width} px, errors of {self.pair_scale:g}, "
                f"{self.noise:g}, {self.warp:g}, expected 16 px or more and errors of 0 or more"
            )
