"""Measure what a map answers where images are changed: light, colours, dirt, wrong calibration.

Usage: `python benchmarks/bench_perturbed.py SCENE MAP [--rows NAME ...] [--foreign SCENE ...]`

Prints Markdown.

The scene's test frames are localized one by one, without a prior: with the keyframes, and by the
student alone. A pose is wrong where it is off by more than 25 cm or 10 degrees, or where no pose
explains the image.
"""

import itertools
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tyro
from perturbations import CLEAN, PERTURBATIONS, perturbed
from scipy.stats import binom

from mote_localization.command_line import one_line_errors
from mote_localization.errors import MoteError
from mote_localization.evaluation.localize_frames import localize_frames
from mote_localization.evaluation.metrics import Answer, are_wrong, evaluate_answers, pose_errors
from mote_localization.localizer import Localizer
from mote_localization.map_file import read_map
from mote_localization.progress import track
from mote_localization.scenes import Frame, open_scene

_COVERED = 0.95  # fraction of the true poses that their ellipsoids should hold


class Frames(NamedTuple):
    """What was found for the frames of a row."""

    answers: Sequence[Answer]
    right: np.ndarray  # bool (n,)
    wrong: np.ndarray  # bool (n,)
    within: np.ndarray  # bool (n,), 5 cm and 5 degrees


@dataclass(frozen=True)
class Bench:
    """Measure a map on changed images of its scene."""

    scene: tyro.conf.Positional[Path]  # scene or recording with true poses
    map: tyro.conf.Positional[Path]  # map file of that scene
    frames: int = 100  # largest number of test frames, evenly spaced
    rows: tuple[str, ...] = tuple(PERTURBATIONS)  # perturbations, after the clean images
    # other places: all their images are localized in the map, and none of them has a pose there
    foreign: tuple[Path, ...] = ()
    processes: int = 2  # rows that are measured at once

    def run(self) -> None:
        """Print the tables; a scene that does not exist is skipped.

        Raises:
            MoteError: The map or the scene cannot be used, or a row is unknown.
        """
        if not self.scene.exists():
            print(f"{self.scene}: skipped, not found")
            return
        unknown = set(self.rows) - set(PERTURBATIONS)
        if unknown:
            raise MoteError(
                f"found --rows {', '.join(sorted(unknown))}, expected {', '.join(PERTURBATIONS)}"
            )
        info = read_map(self.map).info
        modes = {"with keyframes": False} if info.keyframes else {}
        names = list(dict.fromkeys([CLEAN, *self.rows]))
        with ProcessPoolExecutor(self.processes, get_context("spawn")) as pool:
            for mode, alone in {**modes, "student alone": True}.items():
                rows = pool.map(partial(_measure, self, alone), names)
                self._print(mode, dict(zip(names, track(rows, mode, len(names)), strict=True)))
                places = [(place, part) for place in self.foreign for part in range(self.processes)]
                found = list(pool.map(partial(_foreign, self, alone), *zip(*places, strict=True)))
                images, published = np.sum(found, axis=0) if found else (0, 0)
                if images:
                    print(f"\n{mode}: {published} of {images} images of other places published")

    def _print(self, mode: str, rows: Mapping[str, Frames]) -> None:
        """Print the table of a mode."""
        clean = rows[CLEAN]
        print(
            f"\n| {self.scene.name}, {self.map.stem}, {mode} | published | wrong | right of those "
            "right when clean | within 5 cm, 5° | of clean | in 95 % ellipsoid | median |\n"
            "|---|---|---|---|---|---|---|---|"
        )
        for name, row in rows.items():
            print(f"| {name} | " + " | ".join(_cells(row, clean)) + " |")
        frames, published, wrong = np.sum(
            [
                (len(row.answers), (row.right | row.wrong).sum(), row.wrong.sum())
                for row in rows.values()
            ],
            axis=0,
        )
        print(f"| total | {published} of {frames} | {wrong} | | | | | |", flush=True)


def _cells(row: Frames, clean: Frames) -> list[str]:
    """Return the cells of a row of the table; ! marks a share that chance does not explain."""
    evaluation = evaluate_answers(row.answers)
    published_n = row.right | row.wrong
    published = int(published_n.sum())
    held = round(evaluation.summary.within_95.get("pose", 0) * published)
    low, high = binom.interval(0.95, published, _COVERED) if published else (0, 0)
    share = row.within.sum() / max(clean.within.sum(), 1)
    kept = (row.right & clean.right).sum() / max(clean.right.sum(), 1)
    return [
        f"{published} of {len(row.answers)}",
        f"{row.wrong.sum()}",
        f"{kept:.0%}",
        f"{row.within.sum()}",
        f"{share:.0%}",
        f"{held} of {published}{'' if low <= held <= high else ' !'}",
        f"{100 * np.median(evaluation.errors_m[published_n]):.1f} cm" if published else "-",
    ]


def _measure(bench: Bench, alone: bool, name: str) -> Frames:
    """Localize the frames after a perturbation."""
    localizer = _opened(bench, alone)
    every = list(open_scene(bench.scene).frames("test"))
    chosen = np.linspace(0, len(every) - 1, min(bench.frames, len(every))).round().astype(int)
    frames = [_ChangedFrame(every[k], name, seed) for seed, k in enumerate(chosen)]
    answers = list(localize_frames(localizer, frames))
    errors_m, errors_deg = pose_errors(answers)
    published = np.array([answer.T_map_cam is not None for answer in answers])
    has_pose = PERTURBATIONS[name].has_pose
    wrong = are_wrong(errors_m, errors_deg) if has_pose else published
    return Frames(answers, published & ~wrong, wrong, (errors_m < 0.05) & (errors_deg < 5))


def _opened(bench: Bench, alone: bool) -> Localizer:
    localizer = Localizer.open(bench.map, threads=1)
    return localizer.student_alone() if alone else localizer


def _foreign(bench: Bench, alone: bool, place: Path, part: int) -> tuple[int, int]:
    """Localize a part of the images of another place; return how many, and how many published."""
    localizer = _opened(bench, alone)
    images = published = 0
    for frame in itertools.islice(open_scene(place).frames("all"), part, None, bench.processes):
        found = localizer.localize(frame.image(), frame.known_camera())
        images, published = images + 1, published + (found.T_map_cam is not None)
    return images, published


class _ChangedFrame(Frame):
    """A frame after a perturbation of its image or of its camera."""

    def __init__(self, frame: Frame, name: str, seed: int) -> None:
        self.name, self.stamp_s, self.T_map_cam = frame.name, frame.stamp_s, frame.T_map_cam
        self.camera = PERTURBATIONS[name].camera(frame.known_camera())
        self._frame, self._change, self._seed = frame, name, seed

    def image(self) -> np.ndarray:
        """Return image_hw3, RGB uint8."""
        frame = self._frame
        return perturbed(self._change, frame.image(), frame.known_camera(), self._seed)[0]


if __name__ == "__main__":
    with one_line_errors():
        tyro.cli(Bench, description=__doc__).run()
