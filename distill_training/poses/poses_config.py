"""Settings of the poses stage. Imports little, so that a command line shows its help quickly."""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from distill_training.poses.known_lengths import parse_known_length
from mote_localization.errors import ReconstructionError

# Whether intrinsics are taken from the scene or estimated; auto: taken where they are known.
Known = Literal["auto", "given", "estimate"]
Poses = Literal["auto", "given", "refine", "sfm", "dust3r", "files"]


@dataclass(frozen=True)
class SfmConfig:
    """Structure from motion: its features, and what its checks demand."""

    max_px: int = 1600  # px, long side to which larger images are reduced
    max_features: int = 3000  # per image, at different positions
    peak_threshold: float = 0.004  # least contrast of a feature; lower ones find more
    per_image: int = 24  # approximate number of pairs per image
    exhaustive_images: int = 400  # largest number of images of which all pairs may be matched
    # largest difference of a camera between two solutions that agree
    tolerance: float = 0.01  # of the median depth of the camera's points
    tolerance_deg: float = 1.0  # deg
    min_images: int = 5  # of an accepted part

    def __post_init__(self) -> None:
        for name, fits, expected in (
            ("max_px", self.max_px >= 320, "320 px or more"),
            ("max_features", 100 <= self.max_features <= 1 << 15, "100 to 32768"),
            ("peak_threshold", 0 < self.peak_threshold < 1, "above 0 and below 1"),
            ("per_image", self.per_image >= 2, "2 or more"),
            ("exhaustive_images", self.exhaustive_images >= 0, "0 or more"),
            ("tolerance", 0 < self.tolerance < 1, "above 0 and below 1"),
            ("tolerance_deg", 0 < self.tolerance_deg < 180, "above 0 and below 180"),
            ("min_images", self.min_images >= 3, "3 or more"),
        ):
            if not fits:
                option = "--sfm." + name.replace("_", "-")
                raise ReconstructionError(
                    f"found {option} {getattr(self, name)}, expected {expected}"
                )


@dataclass(frozen=True)
class PosesConfig:
    """Where the poses and the intrinsics of the training frames come from."""

    # camera poses; given: those of the scene, unchanged; refine: given ones, adjusted so that
    # matching features of the images agree; sfm: structure from motion, given ones fix the map
    # frame; dust3r: the alignment of DUSt3R's pairs; files: those in the folder of --files; auto:
    # given where all frames have one (for rgbd and sfm, refine if the images disagree with them);
    # otherwise files where these have poses and the scene has none, else sfm, or dust3r for that
    # teacher where sfm places less than half of the images
    poses: Poses = "auto"
    intrinsics: Known = "auto"  # focal lengths; auto: given where they are known
    # known lengths that fix the scale, where poses are estimated and at most one is given:
    # FRAME,FRAME=METRES (two cameras) or FRAME:X:Y,FRAME:X:Y=METRES (two pixels)
    scale_from: tuple[str, ...] = ()
    sfm: SfmConfig = field(default_factory=SfmConfig)  # structure from motion

    def __post_init__(self) -> None:
        for text in self.scale_from:
            parse_known_length(text)


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
