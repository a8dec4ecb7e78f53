"""Images of one camera, or of several on one rigid body, and their matches with the map."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np

from mote_localization.camera import Camera
from mote_localization.pose import (
    PoseConfig,
    PoseSolution,
    RigView,
    find_pose,
    parts_of,
    solve_pose,
)

MatchArrays: TypeAlias = tuple[np.ndarray, np.ndarray, np.ndarray]  # points, pixels, sigmas


class CanonicalImage(NamedTuple):
    """A canonical image before it is compared with the keyframes."""

    grey_hw: np.ndarray  # uint8
    covered_hw: np.ndarray  # bool: the live camera sees this cell
    T_first_cam: np.ndarray  # (4, 4), pose of its camera in the first one
    name: str  # of its camera


class Matches(NamedTuple):
    """3-D points and the pixels that show them, of all images."""

    points_n3: np.ndarray  # m, map frame
    pixels_n2: np.ndarray  # canonical camera
    sigma_n: np.ndarray  # m
    rig: tuple[RigView, ...]  # empty: one image

    @classmethod
    def joined(cls, found: Sequence[MatchArrays], T_first_cams: Sequence[np.ndarray]) -> "Matches":
        """Return the matches of all images from points, pixels and sigmas of each."""
        pairs = zip(T_first_cams, found, strict=True)
        rig = tuple(RigView(T, len(points_n3)) for T, (points_n3, _, _) in pairs)
        if len(rig) == 1 and rig[0].is_first:
            return cls(*found[0], ())
        points_n3, pixels_n2, sigma_n = map(np.concatenate, zip(*found, strict=True))
        return cls(points_n3, pixels_n2, sigma_n, rig)

    def solve(
        self, camera: Camera, config: PoseConfig, prior: np.ndarray | None = None
    ) -> PoseSolution | None:
        """Return the pose of the first camera, see `solve_pose`."""
        return solve_pose(*self._arrays, camera, config, prior, self.rig)

    def find(
        self, camera: Camera, config: PoseConfig, prior: np.ndarray | None = None
    ) -> np.ndarray | None:
        """Return the pose (4, 4) of the first camera without its covariance, see `find_pose`."""
        return find_pose(*self._arrays, camera, config, prior, self.rig)

    @property
    def _arrays(self) -> MatchArrays:
        return self.points_n3, self.pixels_n2, self.sigma_n

    def of_each_camera(self) -> Iterator["Matches"]:
        """Yield the matches of each camera."""
        for view, part in parts_of(self.rig):
            arrays = self.points_n3[part], self.pixels_n2[part], self.sigma_n[part]
            yield Matches.joined([arrays], [view.T_first_cam])

    @property
    def of_first(self) -> slice:
        """Which matches are of the first camera."""
        if not self.rig:
            return slice(None)
        return slice(self.rig[0].match_count if self.rig[0].is_first else 0)

    @property
    def image_n(self) -> np.ndarray:
        """Index of the image of each match."""
        counts = [view.match_count for view in self.rig] or [len(self.points_n3)]
        return np.repeat(np.arange(len(counts)), counts)


class Found(NamedTuple):
    """A pose and the matches that it is solved from."""

    solution: PoseSolution | None  # None: the matches determine no pose
    matches: Matches
