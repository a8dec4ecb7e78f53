"""Measure by features alone what adjusted poses bring, and how well the drift is told back.

`python tools/bench_drift.py SCENE` holds blocks of the training frames out, adjusts the poses of
the rest, localizes the held-out frames by SIFT matches with them and PnP, and prints Markdown: how
far these poses are from the given ones, when the points they follow from stand where the given
poses put them, where the adjusted ones do, and with the drift told back. No student is trained, and
test frames are not read. Which frames are matched, the given poses of all of them say: this is no
measure of finding the way, only of where it ends.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

from distill_training.calibration.validation import split_held_out
from distill_training.poses.features import FeatureFinder, Matches, match
from distill_training.poses.image_pairs import overlapping_pairs
from distill_training.poses.refinement import find_consistent_poses
from distill_training.teachers.teacher_config import PairsConfig, RgbdConfig
from mote_localization.camera import Camera
from mote_localization.command_line import one_line_errors
from mote_localization.drift import Kriging
from mote_localization.geometry import local_coordinates, transform
from mote_localization.pose import PoseConfig, solve_pose
from mote_localization.progress import track
from mote_localization.scenes import open_scene

_PAIRS = PairsConfig(method="overlap", per_image=40)
_SIGMA_M = 0.02  # of measured points
_WITHIN_M, _WITHIN_RAD = 0.05, np.radians(5)


@dataclass(frozen=True)
class Bench:
    """Measure what adjusted poses bring, on frames held out of the training frames."""

    scene: tyro.conf.Positional[Path]  # scene folder with depth and poses
    held_out: float = 0.2  # share of the training frames
    blocks: int = 3  # contiguous pieces of the recording in which they are
    margin: int = 8  # frames on either side of each that are not used either

    def run(self) -> None:
        """Print the tables; a scene that is not there is skipped, and says so.

        Raises:
            MoteError: The scene cannot be used.
        """
        if not self.scene.exists():
            print(f"{self.scene}: skipped, it is not there")
            return
        scene, depths = open_scene(self.scene), RgbdConfig()
        frames = {frame.name: frame for frame in scene.frames("train")}
        given = {name: frame.known_pose() for name, frame in frames.items()}
        training, held_out = split_held_out(list(given), self.held_out, self.margin, self.blocks)
        near_m, far_m = depths.min_depth_m, depths.max_depth_m
        known = {name: given[name] for name in training}
        found = find_consistent_poses(scene, known, near_m, far_m)
        print(f"| {scene.name}, {len(training)} training frames | |\n|---|---|")
        for row in found.described().items():
            print("| {} | {} |".format(*row))

        finder = FeatureFinder(frames[training[0]].known_camera(), near_m, far_m)
        names = training + held_out
        features = [finder.find(frames[n]) for n in track(names, "features", len(names))]
        T_given_n44 = np.array([given[name] for name in names])
        pairs = overlapping_pairs(T_given_n44, [finder.live] * len(names), _PAIRS)
        first = len(training)  # of the held-out frames
        matches = match(features, [pair for pair in pairs if pair[0] < first <= pair[1]])
        kriging = Kriging(found.fitted.drift)
        T_adjusted_n44 = np.array(list(found.T_map_cam.values()))
        rows: dict[str, list[np.ndarray]] = {}
        for i, name in enumerate(held_out, first):
            adjusted = _localize(matches, i, T_adjusted_n44, finder.live)
            for row, T in (
                ("given", _localize(matches, i, T_given_n44[:first], finder.live)),
                ("adjusted", adjusted),
                ("told back", adjusted if adjusted is None else kriging.predict(adjusted)[0]),
            ):
                miss = np.full(6, np.inf) if T is None else local_coordinates(given[name], T)
                rows.setdefault(row, []).append(miss)
        _print(rows, self.blocks)


def _localize(
    matches: Matches, image: int, T_map_cam_n44: np.ndarray, camera: Camera
) -> np.ndarray | None:
    """Return the pose (4, 4) of an image by points measured in the first n, at their poses."""
    chosen = (matches.seen_m == image) & (matches.measured_m < len(T_map_cam_n44))
    measured = zip(matches.measured_m[chosen], matches.points_m3[chosen], strict=True)
    points = np.array([transform(T_map_cam_n44[i], point) for i, point in measured])
    if not len(points):
        return None
    pixels = matches.rays_m3[chosen][:, :2] * (camera.fx, camera.fy) + (camera.cx, camera.cy)
    sigma = np.full(len(points), _SIGMA_M)
    solution = solve_pose(points, pixels, sigma, camera, PoseConfig())
    return solution.T_map_cam if solution else None


def _print(rows: Mapping[str, list[np.ndarray]], blocks: int) -> None:
    heads = " | ".join(f"block {block + 1}" for block in range(blocks))
    print(f"\n| held-out frames, poses off by | median | within 5 cm, 5° | {heads} |")
    print("|---" * (3 + blocks) + "|")
    for row, misses in rows.items():
        metres, radians = np.linalg.norm(np.reshape(misses, (-1, 2, 3)), axis=2).T
        within = np.mean((metres < _WITHIN_M) & (radians < _WITHIN_RAD))
        cells = [
            f"{_centimetres(metres)}, {np.degrees(np.median(radians)):.2f}°",
            f"{within:.0%}",
            *map(_centimetres, np.array_split(metres, blocks)),
        ]
        print(f"| {row} | " + " | ".join(cells) + " |")


def _centimetres(metres: np.ndarray) -> str:
    """Return the median in words; infinite is what was not found."""
    median = np.median(metres)
    return f"{100 * median:.1f} cm" if np.isfinite(median) else "not found"


if __name__ == "__main__":
    with one_line_errors():
        tyro.cli(Bench, description=__doc__).run()
