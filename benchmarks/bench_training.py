"""Measure how fast students are trained, beside the machine's peak and an earlier version.

Usage: `python benchmarks/bench_training.py cnn mobilenet vit:width=192`. Prints Markdown: training
steps per second, the time of each part of a step, and the fraction of the machine's peak speed in
matrix products. `--against COMMIT` also trains that version, in alternation with this one, each
time in a new process. COMMIT 603d3a3 is the first version that was measured.
"""

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
import yaml
from training_worker import CHUNK, PARTS, Job, Times

import demo_room as room
from demo_room.record import write_scene
from distill_training.poses.scene_poses import find_poses
from distill_training.reconstruction import open_reconstruction
from distill_training.teachers import rgbd
from distill_training.teachers.teacher_config import RgbdConfig
from mote_localization.camera import Camera
from mote_localization.command_line import one_line_errors
from mote_localization.errors import MoteError
from mote_localization.progress import progress_bar
from mote_localization.scenes.folder import FolderScene

_ROOT = Path(__file__).resolve().parents[1]
_WORKER = Path(__file__).with_name("training_worker.py")
_CAMERA = Camera(320, 240, 240.0, 240.0, 159.5, 119.5)
_DRIVE_S, _DRIVE_HZ = 8.0, 5.0  # length and rate of the drive through the synthetic room
_PRODUCT_S = 1.0  # time of matrix products in each round
_PASSES = 3  # multiply-adds of a step over those of a forward pass: backward takes two
_SAME_NETWORK = 0.01  # largest relative difference of the multiply-adds of two versions
_TARGET = 1.5  # times the steps per second of the other version


@dataclass(frozen=True)
class Bench:
    """Measure how fast students are trained."""

    # family of each student, with settings, as cnn:size=l,stem=24
    students: tyro.conf.Positional[tuple[str, ...]] = ("cnn", "mobilenet", "vit")
    against: str | None = None  # commit of the version to compare with
    # students of that version, where the same networks need other settings there
    against_students: tuple[str, ...] = ()
    # folder made by `mote-distill reconstruct`; default: 40 views of the synthetic room
    reconstruction: Path | None = None
    batch: int = 8  # views per step
    loss: Literal["distill", "distill+reprojection"] = "distill"  # what is minimized
    seconds: float = 8.0  # measured time of each training
    rounds: int = 2  # number of trainings of each student and version

    def run(self) -> None:
        """Train all students and print the table.

        Raises:
            MoteError: A version, a student or the reconstruction cannot be used.
        """
        before = self.against_students or self.students
        if len(before) != len(self.students) or self.rounds < 1:
            raise MoteError(
                f"found {len(self.students)} students, {len(before)} in --against-students and "
                f"--rounds {self.rounds}, expected equal numbers of students and 1 round or more"
            )
        version = _git("log", "-1", "--format=%h of %cs", self.against) if self.against else ""
        compared = _worktree(self.against) if self.against else nullcontext()
        with tempfile.TemporaryDirectory() as folder, compared as tree:
            path = self.reconstruction or _synthetic(Path(folder))
            size = open_reconstruction(path).camera
            columns = {}
            for student, older in zip(self.students, before, strict=True):
                columns[student] = _Column(self._job(_ROOT, path, student))
                if tree:
                    columns[f"{older}, {version}"] = _Column(self._job(tree, path, older))
            peaks = self._measure(list(columns.values()))
        for name, column in columns.items():
            if column.refused:
                print(f"{name}: skipped, {column.refused}")
        self._print({n: c for n, c in columns.items() if not c.refused}, size, peaks)
        if self.against:
            names = list(columns)
            for new, old in zip(names[::2], names[1::2], strict=True):
                _compare(new, columns[new], old, columns[old])

    def _job(self, tree: Path, reconstruction: Path, student: str) -> Job:
        family, settings = _parse(student)
        config = {"batch": self.batch, "loss": self.loss}
        path = f"{reconstruction.resolve()}"
        return Job(f"{tree}", path, family, settings, config, self.seconds)

    def _measure(self, columns: list["_Column"]) -> dict[str, float]:
        """Train all columns, once per round; return the peaks of matrix products, MAC/s."""
        peaks: dict[str, float] = {}
        with progress_bar() as bar:
            task = bar.add_task("training", total=self.rounds * len(columns))
            for _ in range(self.rounds):
                for name, macs_per_s in _products().items():
                    peaks[name] = max(macs_per_s, peaks.get(name, 0))
                for column in columns:
                    column.measure()
                    bar.advance(task)
        return peaks

    def _print(
        self, columns: dict[str, "_Column"], camera: Camera, peaks: dict[str, float]
    ) -> None:
        """Print the machine, the settings and the table."""
        device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
        products = ", ".join(f"{name} {peak / 1e9:.0f} GMAC/s" for name, peak in peaks.items())
        print(
            f"{platform.machine()}, {torch.get_num_threads()} threads, {device}, torch "
            f"{torch.__version__}; matrix products: {products}. {self.rounds} rounds of "
            f"{self.seconds:g} s, medians of {CHUNK} steps.\n"
        )
        title = f"batches of {self.batch}, {camera.width}x{camera.height} px"
        print(f"| {title} | " + " | ".join(columns) + " |\n" + "|---" * (1 + len(columns)) + "|")
        rows = [column.rows(self.batch, peaks) for column in columns.values()]
        for row in rows[0] if rows else ():
            print(f"| {row} | " + " | ".join(each[row] for each in rows) + " |")
        print("")


class _Column:
    """A student of one version, and the measurements of its trainings."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.refused = ""  # why this version cannot train the student; empty: it can
        self.rounds: list[Times] = []

    def measure(self) -> None:
        """Train for the measured time in a new process.

        Raises:
            MoteError: The training failed.
        """
        if self.refused:
            return
        done = subprocess.run(
            [sys.executable, _WORKER, json.dumps(asdict(self.job))],
            env=os.environ | {"PYTHONPATH": self.job.tree},
            capture_output=True,
            text=True,
        )
        if done.returncode:
            tail = "\n  ".join(done.stderr.strip().splitlines()[-8:])
            raise MoteError(f"training {self.job.family} in {self.job.tree} failed:\n  {tail}")
        found = json.loads(done.stdout.splitlines()[-1])
        self.refused = found.get("refused", "")
        if not self.refused:
            self.rounds.append(Times(**found))

    def rate(self) -> float:
        """Return the median of the steps per second, over all rounds."""
        return statistics.median(rate for times in self.rounds for rate in times.steps_per_s)

    def round_rates(self) -> list[float]:
        """Return the steps per second of each round."""
        return [statistics.median(times.steps_per_s) for times in self.rounds]

    def rows(self, batch: int, peaks: dict[str, float]) -> dict[str, str]:
        """Return the column of the table."""
        first, rate, slowest = self.rounds[0], self.rate(), min(self.round_rates())
        macs = _PASSES * batch * first.macs
        parts = zip(*(times.parts_ms for times in self.rounds), strict=True)
        alone_ms = statistics.median(times.batch_alone_ms for times in self.rounds)
        return {
            "parameters": f"{first.parameters / 1e6:.2f} M",
            "a step, three times the forward pass": f"{macs / 1e9:.1f} GMAC",
            "precision": first.precision,
            "steps per second (slowest, fastest round)": (
                f"{rate:.2f} ({slowest:.2f}, {max(self.round_rates()):.2f})"
            ),
            "images per second": f"{batch * rate:.0f}",
            "multiply-adds": f"{macs * rate / 1e9:.0f} GMAC/s",
            **{
                f"fraction of {name} products": f"{macs * rate / peak:.0%}"
                for name, peak in peaks.items()
            },
            **{
                f"{part}, ms": f"{statistics.median(values):.1f}"
                for part, values in zip(PARTS, parts, strict=True)
            },
            "making a batch without training, ms": f"{alone_ms:.1f}",
        }


def _compare(new: str, new_column: _Column, old: str, old_column: _Column) -> None:
    """Print the ratio of the speeds of two versions."""
    if new_column.refused or old_column.refused:
        return
    ratio = new_column.rate() / old_column.rate()
    pairs = zip(new_column.round_rates(), old_column.round_rates(), strict=True)
    ratios = [one / other for one, other in pairs]
    print(
        f"{new} against {old}: {ratio:.2f} times the steps per second (rounds: "
        f"{min(ratios):.2f} to {max(ratios):.2f}); at least {_TARGET:g}: "
        + ("yes" if ratio >= _TARGET else "no")
    )
    macs = new_column.rounds[0].macs / old_column.rounds[0].macs
    if abs(macs - 1) > _SAME_NETWORK:
        print(f"The networks differ: {macs:.2f} times the multiply-adds.")


def _products() -> dict[str, float]:
    """Return the multiply-adds per second of large matrix products, by precision."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    side = 8192 if device == "cuda" else 2048
    found = {}
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        a, b = (torch.rand(side, side, device=device).to(dtype) for _ in range(2))
        times_s: list[float] = []
        while len(times_s) < 3 or sum(times_s) < _PRODUCT_S:
            start_s = time.perf_counter()
            a @ b
            if device == "cuda":
                torch.cuda.synchronize()
            times_s.append(time.perf_counter() - start_s)
        found[name] = side**3 / min(times_s)
    return found


def _synthetic(folder: Path) -> Path:
    """Reconstruct a drive through the synthetic room from its depth; return the folder."""
    write_scene(folder / "room", room.drive(_DRIVE_S, _DRIVE_HZ)[1], _CAMERA)
    path = folder / "reconstruction"
    scene = FolderScene(folder / "room")
    rgbd.reconstruct(scene, find_poses(scene), path, RgbdConfig())
    return path


def _parse(student: str) -> tuple[str, dict[str, Any]]:
    """Return the family and the settings in a text like cnn:size=l,stem=24."""
    family, _, text = student.partition(":")
    pairs = [pair.partition("=") for pair in text.split(",") if pair]
    try:
        return family, {name: yaml.safe_load(value) for name, _, value in pairs}
    except yaml.YAMLError as error:
        raise MoteError(f"found '{student[:60]}', expected as cnn:size=l,stem=24") from error


@contextmanager
def _worktree(commit: str) -> Iterator[Path]:
    """Check out a commit in a temporary worktree; yield its folder."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder).resolve() / "tree"
        _git("worktree", "add", "--detach", f"{tree}", commit)
        try:
            yield tree
        finally:
            _git("worktree", "remove", "--force", f"{tree}")


def _git(*arguments: str) -> str:
    """Return the output of a git command.

    Raises:
        MoteError: The command fails, for example because a commit does not exist.
    """
    done = subprocess.run(["git", "-C", _ROOT, *arguments], capture_output=True, text=True)
    if done.returncode:
        raise MoteError(f"git {' '.join(arguments)}: {done.stderr.splitlines()[0][:100]}")
    return done.stdout.strip()


if __name__ == "__main__":
    with one_line_errors():
        tyro.cli(Bench, description=__doc__).run()
