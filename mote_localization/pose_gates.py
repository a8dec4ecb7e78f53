"""The gates that a pose must pass before it is given to anybody."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np

from mote_localization.errors import ConfigError
from mote_localization.keyframe_matcher import KeyframeConfig
from mote_localization.map_info import MapInfo
from mote_localization.pose import PoseConfig, PoseSolution
from mote_localization.wrong_poses import WrongPoses

_SPREAD_GRID = (4, 3)  # columns and rows of the grid in which the spread of inliers is counted


@dataclass(frozen=True)
class LocalizerConfig:
    """Which cells are used, and the gates that a pose must pass."""

    max_cells: int = 800  # cells given to the pose solver, those with the smallest sigma
    max_sigma_m: float = 0.5  # m, cells with a larger sigma are not used
    min_inliers: int = 40  # gate: cells that agree with the pose
    min_inlier_ratio: float = 0.2  # gate: fraction of the used cells that agree with the pose
    min_spread: float = 0.25  # gate: fraction of a 4 x 3 grid over the image that contains inliers
    max_reprojection_px: float = 7.0  # gate: median error of the inliers, canonical pixels
    max_deviation_m: float = 0.5  # m, gate: standard deviation of the position
    # gate in maps without keyframes: fraction of the accepted poses of usual images that may be
    # wrong, as estimated when the map was made
    max_wrong_rate: float = 0.005
    # m, gate in its place in maps without that measurement: standard deviation of the position;
    # half of an error that is called wrong
    max_student_deviation_m: float = 0.125
    bounds_margin_m: float = 1.0  # m, gate: largest distance outside the mapped volume
    pose: PoseConfig = field(default_factory=PoseConfig)
    keyframes: KeyframeConfig = field(default_factory=KeyframeConfig)

    def __post_init__(self) -> None:
        """Check that a pose can pass the gates.

        Raises:
            ConfigError: More inliers are needed than cells are used.
        """
        if self.min_inliers > self.max_cells:
            raise ConfigError(
                f"found min_inliers {self.min_inliers} above max_cells {self.max_cells}: no pose "
                "would be accepted"
            )

    def with_parameters(self, values: Mapping[str, Any]) -> "LocalizerConfig":
        """Return the configuration with the values of ROS parameters; others are ignored.

        Parameters of `keyframes` have the prefix `keyframe_`.

        Raises:
            ConfigError: The values contradict each other.
        """
        own = {f.name: values[f.name] for f in fields(self) if f.name in values}
        names = {f.name: f"keyframe_{f.name}" for f in fields(self.keyframes)}
        changed = {name: values[key] for name, key in names.items() if key in values}
        solver = {f.name: values[f.name] for f in fields(self.pose) if f.name in values}
        return replace(
            self,
            **own,
            keyframes=replace(self.keyframes, **changed),
            pose=replace(self.pose, **solver),
        )

    def least_ratio(self, by_keyframes: bool) -> float:
        """Return the fraction of the matches that must agree with a pose.

        Args:
            by_keyframes: They are points of keyframes, otherwise cells of the student.
        """
        if by_keyframes:
            return max(self.min_inlier_ratio, self.keyframes.min_inlier_ratio)
        return self.min_inlier_ratio

    def rejection_reason(
        self,
        solution: PoseSolution | None,
        pixels_n2: np.ndarray,
        image_n: np.ndarray,
        info: MapInfo,
        by_keyframes: bool,
    ) -> str:
        """Return which gate rejects a pose; empty if it passes all.

        Args:
            solution: The pose in the frame of the map; None: the matches determine none.
            pixels_n2: Pixels of the matches that it is solved from.
            image_n: Index of the image of each match.
            info: The map.
            by_keyframes: The matches are points of its keyframes, otherwise cells of its student.
        """
        unit = info.unit
        least_ratio = self.least_ratio(by_keyframes)
        if by_keyframes:
            least = max(self.min_inliers, self.keyframes.min_matches)
            counted = "points of the keyframes found in the image"
        else:
            least = self.min_inliers
            counted = f"cells seen with sigma under {self.max_sigma_m:g} {unit}"
        if len(pixels_n2) < least:
            return f"{len(pixels_n2)} {counted}, expected at least {least}"
        if solution is None:
            return "the matches determine no pose"
        inliers = int(solution.inliers_n.sum())
        if inliers < self.min_inliers:
            return f"{inliers} inliers, expected at least {self.min_inliers}"
        ratio = inliers / len(pixels_n2)
        if ratio < least_ratio:
            return f"inlier ratio {ratio:.2f}, expected at least {least_ratio:g}"
        size = np.array([info.camera.width, info.camera.height])
        columns, rows = (pixels_n2[solution.inliers_n] / size * _SPREAD_GRID).astype(int).T
        rows += _SPREAD_GRID[1] * image_n[solution.inliers_n]
        count_of_tiles = np.bincount(rows * _SPREAD_GRID[0] + columns)
        spread = np.count_nonzero(count_of_tiles) / math.prod(_SPREAD_GRID)
        if spread < self.min_spread:
            return f"inliers on {spread:.0%} of the image, expected at least {self.min_spread:.0%}"
        if solution.reprojection_px > self.max_reprojection_px:
            return (
                f"reprojection {solution.reprojection_px:.1f} px, "
                f"expected at most {self.max_reprojection_px:g}"
            )
        deviation_m = float(np.sqrt(np.trace(solution.covariance_66[:3, :3])))
        most_m = self.max_deviation_m
        if info.metric and not by_keyframes and not info.wrong_poses:
            most_m = min(most_m, self.max_student_deviation_m)
        if not deviation_m <= most_m:  # true for NaN
            return (
                f"standard deviation of the position {deviation_m:.2f} {unit}, "
                f"expected at most {most_m:g}"
            )
        position = solution.T_map_cam[:3, 3]
        margin = self.bounds_margin_m
        low, high = np.array(info.bounds_min) - margin, np.array(info.bounds_max) + margin
        if not ((position >= low) & (position <= high)).all():
            return f"position {position.round(1).tolist()} {unit} is outside the mapped volume"
        return ""

    def wrong_pose_reason(self, wrong_poses: WrongPoses, features_4: np.ndarray) -> str:
        """Return why a pose of the student alone is rejected; empty if its probability allows it.

        Args:
            wrong_poses: As measured when the map was made.
            features_4: `pose_features` of the pose.
        """
        found, most = wrong_poses.probability(features_4), wrong_poses.limit(self.max_wrong_rate)
        if found <= most:
            return ""
        return (
            f"probability of a wrong pose {100 * found:.3g} %, expected at most {100 * most:.3g} % "
            f"(max_wrong_rate {self.max_wrong_rate:g})"
        )
