"""Measure accuracy, time and size of maps of one scene, beside a baseline, on the same CPU cores.

Usage: `python benchmarks/bench_students.py SCENE --maps A.onnx B.onnx --baseline script.py`.
Prints a Markdown table, or writes it into a document (`--write`).

Each map localizes the scene's test frames as `mote evaluate` does: two passes without tracking,
one with it. The baseline script runs between the two passes, so that all share the same conditions.
True poses and depth of the test frames are used only to measure errors.
"""

import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import onnx
import tyro
from rich.console import Console
from scipy.stats import spearmanr

from distill_training.poses.scene_poses import find_poses
from distill_training.reconstruction import Reconstruction
from distill_training.teachers import rgbd
from distill_training.teachers.teacher_config import CellsConfig, RgbdConfig
from mote_localization.backends import create_backend, runs_on_cpu
from mote_localization.command_line import one_line_errors
from mote_localization.errors import MoteError
from mote_localization.evaluation.localize_frames import localize_frames
from mote_localization.evaluation.machine import (
    graph_macs,
    machine,
    matrix_product_macs_per_s,
    versions,
)
from mote_localization.evaluation.metrics import (
    STAGES,
    Answer,
    accuracy_rows,
    evaluate_answers,
    percent,
    percentiles_ms,
)
from mote_localization.files import atomic_write
from mote_localization.localizer import Localizer
from mote_localization.map_file import read_map
from mote_localization.progress import track
from mote_localization.scenes import Frame, Scene, Split, open_scene

_WARM_UP = 5  # frames that are localized before times are measured
_TIMES = 5  # a query should be that many times faster, and a map smaller, than the baseline's
# The whole output of a baseline script: figures of all test frames.
_PRINTED = re.compile(
    r".+: (?P<frames>\d+) queries, median (?P<cm>[\d.]+|inf) cm (?P<deg>[\d.]+) deg\n"
    r"  within 10 cm 5 deg: (?P<at_10>[\d.]+) %\n"
    r"  within 5 cm 5 deg: (?P<at_5>[\d.]+) %\n"
    r"  within 2 cm 2 deg: (?P<at_2>[\d.]+) %\n"
    r"  within 1 cm 1 deg: (?P<at_1>[\d.]+) %\n"
    r"  query (?P<ms>\d+) ms median; mapping \d+ s; map (?P<mib>[\d.]+) MiB \(.*\)\n"
)
# The baseline's column, by the groups of _PRINTED.
_BASELINE_ROWS = {
    "median error": "{cm:.2f} cm, {deg:.2f}°",
    "within 10 cm, 5°": "{at_10:.1f} %",
    "within 5 cm, 5°": "{at_5:.1f} %",
    "within 2 cm, 2°": "{at_2:.1f} %",
    "within 1 cm, 1°": "{at_1:.1f} %",
    "query with the image read, p50": "{ms:.0f} ms",
    "map": "{mib:.1f} MiB",
}


@dataclass(frozen=True)
class Bench:
    """Measure maps of one scene, beside a baseline."""

    scene: tyro.conf.Positional[Path]  # scene folder or recording with true poses
    maps: tuple[Path, ...]  # map files (.onnx) of that scene
    # script that localizes the test frames of the scene folder it is given; default: no baseline
    baseline: Path | None = None
    backends: tuple[str, ...] = ("onnxruntime",)  # each map runs on each backend
    threads: int = 2  # number of CPU threads and cores that are used
    # Markdown file in which the table replaces the part about this scene; default: print the table
    write: Path | None = None

    def run(self) -> None:
        """Print or write the table; a scene or baseline that does not exist is skipped.

        Raises:
            MoteError: A map or the scene cannot be used, or the baseline's output has another form.
        """
        if not self.scene.exists():
            print(f"{self.scene}: skipped, not found")
            return
        _use_cores(self.threads)
        scene = open_scene(self.scene)
        first = next(scene.frames("test"), None)
        if first is None or first.T_map_cam is None:
            raise MoteError(f"{self.scene}: found no test frames with poses, expected some")
        runs = [_Run(path, one, self.threads) for path in self.maps for one in self.backends]
        peak = matrix_product_macs_per_s(self.threads)
        for run in runs:
            run.localize(scene)
        baseline = self._measure_baseline(scene)
        for run in reversed(runs):
            run.localize(scene)
        for run in runs:
            run.localize_tracked(scene)
        peak = max(peak, matrix_product_macs_per_s(self.threads))
        sigmas = _sigma_rows(scene, runs)
        columns = {
            name: run.rows(baseline, peak) | sigma_rows
            for name, run, sigma_rows in zip(self._names(), runs, sigmas, strict=True)
        }
        if baseline:
            columns["baseline"] = {k: v.format(**baseline) for k, v in _BASELINE_ROWS.items()}
        title = f"{scene.name}, {scene.count('test')} test frames"
        text = "\n".join([*self._conditions(peak), "", *_table(title, columns)])
        if self.write:
            _replace_part(self.write, scene.name, text)
            print(f"{self.write}: written")
        else:
            print(text)

    def _names(self) -> list[str]:
        """Return the heading of each column: map, and backend where there are several."""
        stems = [path.stem for path in self.maps]
        names = stems if len(set(stems)) == len(stems) else [f"{path}" for path in self.maps]
        if len(self.backends) == 1:
            return names
        return [f"{name}, {backend}" for name in names for backend in self.backends]

    def _conditions(self, peak: float) -> list[str]:
        """Return lines with the command, the date, the machine and the versions of libraries."""
        files = [path.name for path in self.maps]
        command = ["python", "benchmarks/bench_students.py", self.scene.name, "--maps", *files]
        if self.baseline:
            command += ["--baseline", self.baseline.name]
        if self.backends != Bench.backends:
            command += ["--backends", *self.backends]
        if self.threads != Bench.threads:
            command += ["--threads", f"{self.threads}"]
        libraries = ", ".join(f"{name} {version}" for name, version in versions().items())
        return [
            f"    {shlex.join(command)}",
            "",
            f"{time.strftime('%d %B %Y', time.gmtime()).lstrip('0')}; {machine()}, "
            f"{self.threads} threads, {peak / 1e9:.0f} GMAC/s of float32 products; {libraries}.",
        ]

    def _measure_baseline(self, scene: Scene) -> dict[str, float] | None:
        """Run the baseline script; return the groups of _PRINTED, None without a script.

        Raises:
            MoteError: The script failed, or its output does not have the expected form.
        """
        if self.baseline is None:
            return None
        if not self.baseline.exists():
            print(f"{self.baseline}: skipped, not found\n")
            return None
        with Console(stderr=True).status(f"{self.baseline.name} maps and localizes {scene.name}"):
            done = subprocess.run(
                [sys.executable, self.baseline, self.scene], capture_output=True, text=True
            )
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise MoteError(f"{self.baseline}: failed on {self.scene} ({last[:100]})")
        printed = _PRINTED.fullmatch(done.stdout)
        if not printed or int(printed["frames"]) != scene.count("test"):
            print(done.stdout[:2000], file=sys.stderr)
            raise MoteError(
                f"{self.baseline}: found the output above, expected the medians of "
                f"{scene.count('test')} queries, the fractions within four bounds, times and the "
                f"size of the map; see _PRINTED in {Path(__file__).name}"
            )
        return {name: float(value) for name, value in printed.groupdict().items()}


class _ReadFrame(Frame):
    """A frame that records how long its image takes to read."""

    def __init__(self, frame: Frame, read_s: list[float]) -> None:
        self.name, self.stamp_s = frame.name, frame.stamp_s
        self.camera, self.T_map_cam = frame.camera, frame.T_map_cam
        self._frame, self._read_s = frame, read_s

    def image(self) -> np.ndarray:
        start_s = time.perf_counter()
        image_hw3 = self._frame.image()
        self._read_s.append(time.perf_counter() - start_s)
        return image_hw3


@dataclass
class _Run:
    """A map on a backend, and the results of localizing the test frames."""

    path: Path
    backend: str
    threads: int
    answers: list[Answer] = field(default_factory=list)  # of both passes without tracking
    read_s: list[float] = field(default_factory=list)  # time to read the image, for each answer
    tracked: list[Answer] = field(default_factory=list)

    def __post_init__(self) -> None:
        map_file = read_map(self.path)
        self.macs = graph_macs(onnx.load_model_from_string(map_file.model))
        self.localizer = Localizer(map_file, create_backend(map_file, self.backend, self.threads))

    def localize(self, scene: Scene) -> None:
        """Localize all test frames, and add the answers."""
        for _ in localize_frames(self.localizer, islice(scene.frames("test"), _WARM_UP)):
            pass
        frames = (_ReadFrame(frame, self.read_s) for frame in scene.frames("test"))
        self.answers += track(
            localize_frames(self.localizer, frames), self.path.stem, scene.count("test")
        )

    def localize_tracked(self, scene: Scene) -> None:
        """Localize all test frames, each tracked from the previous one."""
        frames = track(scene.frames("test"), f"{self.path.stem}, tracked", scene.count("test"))
        self.tracked += localize_frames(self.localizer, frames, tracking=True)

    def _utilization(self, network_ms: float, peak: float) -> dict[str, str]:
        """Return the row with the network's speed over that of matrix products; empty on a GPU."""
        if not runs_on_cpu(self.backend):
            return {}
        fraction = 1e3 * self.macs / network_ms / peak
        return {"network, of the machine's matrix products": percent(fraction)}

    def rows(self, baseline: dict[str, float] | None, peak: float) -> dict[str, str]:
        """Return the column of the table, without the rows about sigmas.

        Args:
            baseline: Figures to compare with, if there are any.
            peak: Multiply-adds per second of the machine's matrix products.
        """
        summary = evaluate_answers(self.answers).summary
        tracked = evaluate_answers(self.tracked).summary
        network = summary.milliseconds["network"]
        query_s = [
            read_s + sum(answer.seconds[stage] for stage in STAGES)
            for answer, read_s in zip(self.answers, self.read_s, strict=True)
        ]
        query_ms = 1000 * float(np.median(query_s))
        size = self.path.stat().st_size
        info = self.localizer.info
        rows = {
            "student": info.student,
            **dict(
                accuracy_rows(summary)[1:]
            ),  # without the number of frames, which counts both passes
            **{
                f"{stage}, p50 / p95 / p99": _percentiles(summary.milliseconds[stage])
                for stage in STAGES
            },
            "all but the network": _percentiles(_all_but_network_ms(self.answers)),
            "the same, tracked": _percentiles(_all_but_network_ms(self.tracked)),
            "tracked: median error, lost": (
                f"{dict(accuracy_rows(tracked))['median error']}, "
                f"{percent(tracked.lost / tracked.frames)}"
            ),
            "multiply-adds of the network": f"{self.macs / 1e9:.2f} GMAC",
            **self._utilization(network["p50"], peak),
            "query, p50": f"{summary.milliseconds['total']['p50']:.1f} ms",
            "query with the image read, p50": f"{query_ms:.1f} ms",
            "map": f"{size / 2**20:.2f} MiB",
            "map, bytes": f"{size:,}",
        }
        if baseline:
            faster, smaller = baseline["ms"] / query_ms, baseline["mib"] / (size / 2**20)
            better = (
                100 * summary.within["5 cm, 5 deg"] > baseline["at_5"]
                and 100 * summary.within["10 cm, 5 deg"] > baseline["at_10"]
            )
            rows |= {
                "query faster than the baseline's": f"{faster:.1f} times",
                "map smaller than the baseline's": f"{smaller:.1f} times",
                f"better within 5 and 10 cm, and {_TIMES} times faster and smaller": "yes"
                if better and min(faster, smaller) >= _TIMES
                else "no",
            }
        return rows


def _all_but_network_ms(answers: Sequence[Answer]) -> dict[str, float]:
    """Return percentiles of the time of all stages but the network, in milliseconds."""
    return percentiles_ms([sum(a.seconds.values()) - a.seconds["network"] for a in answers])


def _percentiles(milliseconds: dict[str, float]) -> str:
    return " / ".join(f"{ms:.1f}" for ms in milliseconds.values()) + " ms"


def _table(title: str, columns: dict[str, dict[str, str]]) -> list[str]:
    """Return the lines of a Markdown table; a column may lack rows."""
    rows = dict.fromkeys(row for column in columns.values() for row in column)
    lines = [f"| {title} | " + " | ".join(columns) + " |", "|---" * (1 + len(columns)) + "|"]
    for row in rows:
        lines.append(f"| {row} | " + " | ".join(c.get(row, "") for c in columns.values()) + " |")
    return lines


def _replace_part(path: Path, name: str, text: str) -> None:
    """Replace the text between the file's two marks of that name; without marks, append it.

    Raises:
        MoteError: The file cannot be read or written, or has only one of the marks.
    """
    begin, end = f"<!-- bench {name} -->", f"<!-- end of bench {name} -->"
    try:
        whole = path.read_text(encoding="utf-8") if path.exists() else ""
        before, found, rest = whole.partition(begin)
        _, closed, after = rest.partition(end)
        if bool(found) != bool(closed):
            raise MoteError(f"{path}: found {begin} without {end}, expected both or neither")
        if not found:
            before, after = f"{whole.rstrip()}\n\n## {name}\n\n".lstrip(), "\n"
        with atomic_write(path) as file:
            file.write(f"{before}{begin}\n\n{text}\n\n{end}{after}".encode())
    except (OSError, UnicodeDecodeError) as error:
        raise MoteError(f"{path}: cannot be read or written ({error})") from error


class _TestFrames(Scene):
    """The test frames of a scene as frames of every split, so that a teacher measures them."""

    def __init__(self, scene: Scene) -> None:
        self.name, self._scene = scene.name, scene

    def frames(self, split: Split) -> Iterator[Frame]:
        return self._scene.frames("test")

    def count(self, split: Split) -> int:
        return self._scene.count("test")


def _sigma_rows(scene: Scene, runs: Sequence[_Run]) -> list[dict[str, str]]:
    """Return each run's rows about errors and sigmas of cells; empty where depth is missing."""
    if next(scene.frames("test")).depth() is None:
        print(f"sigmas: skipped, the test frames of {scene.name} have no depth\n")
        return [{} for _ in runs]
    found = []
    truths: dict[CellsConfig, Reconstruction] = {}
    with tempfile.TemporaryDirectory() as folder:
        for run in runs:
            info = run.localizer.info
            cells = CellsConfig(info.camera.width, info.stride)
            if cells not in truths:
                frames, truth_folder = _TestFrames(scene), Path(folder, f"{len(truths)}")
                truths[cells] = rgbd.reconstruct(
                    frames, find_poses(frames), truth_folder, RgbdConfig(), cells
                )
            if truths[cells].camera != info.camera or not info.metric:
                print(
                    f"sigmas of {run.path}: skipped, the map has another camera than the scene or "
                    "no metric scale\n"
                )
                found.append({})
                continue
            found.append(_cell_errors(run.localizer, truths[cells], scene))
    return found


def _cell_errors(localizer: Localizer, truth: Reconstruction, scene: Scene) -> dict[str, str]:
    """Return rows that compare points with measured depth, and their errors with their sigmas."""
    errors, sigmas, ranks = [], [], []
    for frame in track(scene.frames("test"), "sigmas", scene.count("test")):
        found = localizer.localize(frame.image(), frame.known_camera())
        error_hw = np.linalg.norm(
            found.points_hw3 - truth.read_frame(frame.name).points_hw3, axis=-1
        )
        known_hw = np.isfinite(error_hw) & found.covered_hw
        errors.append(error_hw[known_hw])
        sigmas.append(found.sigma_hw[known_hw])
        ranks.append(float(spearmanr(errors[-1], sigmas[-1]).statistic))
    error_m, sigma_m = np.concatenate(errors), np.concatenate(sigmas)
    overall = float(spearmanr(error_m, sigma_m).statistic)
    return {
        "error of the cells, median": f"{100 * np.median(error_m):.2f} cm",
        "true errors of cells inside 2 sigma": percent(float((error_m < 2 * sigma_m).mean())),
        "Spearman of sigma and error: median of the frames, overall": (
            f"{np.nanmedian(ranks):.2f}, {overall:.2f}"
        ),
    }


def _use_cores(count: int) -> None:
    """Restrict this process and its children to that many cores."""
    if count < 1:
        raise MoteError(f"found --threads {count}, expected 1 or more")
    cv2.setNumThreads(count)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:count])


if __name__ == "__main__":
    with one_line_errors():
        if any(argument.startswith("--yardstick") for argument in sys.argv):
            raise MoteError("found --yardstick, which is now --baseline: same meaning, same values")
        tyro.cli(Bench, description=__doc__).run()
