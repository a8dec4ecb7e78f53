"""Measure the drift of a scene's given poses, and how well adjusted poses and kriging correct it.

Usage: `python benchmarks/bench_drift.py SCENE`, a scene with depth and poses. Prints Markdown.

Blocks of the training frames are held out, and the poses of the other frames are adjusted. Each
held-out frame is localized by PnP from SIFT matches with the other frames. Its pose error against
the given pose is printed for points at the given poses, for points at the adjusted poses, and for
the latter with the drift added back. No student is trained, and test frames are not read. The given
poses of all frames choose the pairs that are matched, so the figures do not include retrieval.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

from distill_training.poses.features import FeatureFinder, Matches, match
from distill_training.poses.image_pairs import overlapping_pairs
from distill_training.poses.poses_config import PairsConfig
from distill_training.poses.refinement import refine_poses
from distill_training.teachers.teacher_config import RgbdConfig
from distill_training.training.frame_split import split_held_out
from mote_localization.camera import Camera
from mote_localization.command_line import one_line_errors
from mote_localization.drift import Kriging
from mote_localization.geometry import local_coordinates, transform
from mote_localization.pose import PoseConfig, solve_pose
from mote_localization.progress import track
from mote_localization.scenes import open_scene

_PAIRS = PairsConfig(method="overlap", per_image=40)
_SIGMA_M = 0.02  # standard deviation of measured points
_WITHIN_M, _WITHIN_RAD = 0.05, np.radians(5)


@dataclass(frozen=True)
class Bench:
    """Measure drift and its correction on held-out training frames."""

    scene: tyro.conf.Positional[Path]  # scene folder with depth and poses
    held_out: float = 0.2  # fraction of the training frames that is held out
    blocks: int = 3  # number of contiguous blocks of held-out frames
    margin: int = 8  # unused frames on either side of each block

    def run(self) -> None:
        """Print the tables; a scene that does not exist is skipped.

        Raises:
            MoteError: The scene cannot be used.
        """
        if not self.scene.exists():
            print(f"{self.scene}: skipped, not found")
            return
        scene, depths = open_scene(self.scene), RgbdConfig()
        frames = {frame.name: frame for frame in scene.frames("train")}
        given = {name: frame.known_pose() for name, frame in frames.items()}
        training, held_out = split_held_out(list(given), self.held_out, self.margin, self.blocks)
        near_m, far_m = depths.min_depth_m, depths.max_depth_m
        known = {name: given[name] for name in training}
        found = refine_poses(scene, known, near_m, far_m)
        print(f"| {scene.name}, {len(training)} training frames | |\n|---|---|")
        for row in found.described().items():
            print("| {} | {} |".format(*row))

        finder = FeatureFinder(frames[training[0]].known_camera(), near_m, far_m)
        names = training + held_out
        features = [finder.find(frames[n]) for n in track(names, "features", len(names))]
        T_given_n44 = np.array([given[name] for name in names])
        pairs = overlapping_pairs(T_given_n44, [finder.live] * len(names), _PAIRS)
        first = len(training)  # index of the first held-out frame
        matches = match(features, [pair for pair in pairs if pair[0] < first <= pair[1]])
        kriging = Kriging(found.fitted.drift)
        T_adjusted_n44 = np.array(list(found.T_map_cam.values()))
        rows: dict[str, list[np.ndarray]] = {}
        for i, name in enumerate(held_out, first):
            adjusted = _localize(matches, i, T_adjusted_n44, finder.live)
            corrected = None if adjusted is None else kriging.predict(adjusted)[0]
            for row, T in (
                ("given poses", _localize(matches, i, T_given_n44[:first], finder.live)),
                ("adjusted poses", adjusted),
                ("adjusted poses, drift added back", corrected),
            ):
                error_6 = np.full(6, np.inf) if T is None else local_coordinates(given[name], T)
                rows.setdefault(row, []).append(error_6)
        _print(rows, self.blocks)


def _localize(
    matches: Matches, image: int, T_map_cam_n44: np.ndarray, camera: Camera
) -> np.ndarray | None:
    """Return the pose (4, 4) of an image by PnP, from points that the first n images measured."""
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
    """Print the pose errors; each row holds vectors (6,), infinite where there is no pose."""
    heads = " | ".join(f"block {block + 1}" for block in range(blocks))
    print(f"\n| held-out frames, error with points at | median | within 5 cm, 5° | {heads} |")
    print("|---" * (3 + blocks) + "|")
    for row, errors in rows.items():
        metres, radians = np.linalg.norm(np.reshape(errors, (-1, 2, 3)), axis=2).T
        within = np.mean((metres < _WITHIN_M) & (radians < _WITHIN_RAD))
        cells = [
            f"{_centimetres(metres)}, {np.degrees(np.median(radians)):.2f}°",
            f"{within:.0%}",
            *map(_centimetres, np.array_split(metres, blocks)),
        ]
        print(f"| {row} | " + " | ".join(cells) + " |")


def _centimetres(metres: np.ndarray) -> str:
    """Return the median as text; an infinite one is "not found"."""
    median = np.median(metres)
    return f"{100 * median:.1f} cm" if np.isfinite(median) else "not found"


if __name__ == "__main__":
    with one_line_errors():
        tyro.cli(Bench, description=__doc__).run()
