"""Settings of the poses stage. Imports little, so that a command line shows its help quickly."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from mote_localization.errors import ReconstructionError

# Whether poses or focal lengths are taken from the scene or estimated; auto: taken where complete.
Known = Literal["auto", "given", "estimate"]


@dataclass(frozen=True)
class PairsConfig:
    """Which pairs of images are compared."""

    # complete: all pairs; video: neighbours in time and loop closures; retrieval: images with
    # similar descriptors; overlap: images that overlap by their known poses, plus a few similar
    # ones to check the poses; auto: complete for a few images, else overlap where all poses are
    # known, else video for a recording in order, else retrieval
    method: Literal["auto", "complete", "video", "retrieval", "overlap"] = "auto"
    per_image: int = 10  # approximate number of pairs per image
    max_gap: int = 16  # images, largest gap between neighbours in time
    depth_m: float = 2.5  # m, approximate distance of the scene, to predict overlap
    min_overlap: float = 0.3  # fraction of the image that a pair must have in common
    max_angle_deg: float = 60.0  # deg, largest angle between the viewing directions of a pair

    def __post_init__(self) -> None:
        if self.method not in ("auto", "complete", "video", "retrieval", "overlap"):
            raise ReconstructionError(
                f"found pair choice '{self.method[:60]}', expected auto, complete, video, "
                "retrieval or overlap"
            )
        if min(self.per_image - 1, self.max_gap) < 1:
            raise ReconstructionError(
                f"found {self.per_image} pairs per image with a gap of {self.max_gap}, expected 2 "
                "pairs or more, and a gap of 1 or more"
            )
        if not (0 < self.depth_m < np.inf and 0 < self.min_overlap <= 1):
            raise ReconstructionError(
                f"found a typical depth of {self.depth_m:g} m and an overlap of "
                f"{self.min_overlap:g}, expected a depth above 0 and a fraction up to 1"
            )
        if not 0 < self.max_angle_deg <= 180:
            raise ReconstructionError(
                f"found a largest angle of {self.max_angle_deg:g} deg, expected 0 to 180"
            )
