"""Makes and evaluates the map of one scene; what is finished is not repeated.

NAME.onnx        the map
NAME.training    reconstruction and training, to resume
NAME.seconds     time that making the map took
NAME.json        figures, as `mote evaluate --json` writes them
NAME.txt         named poses, see `mote_localization.evaluation.pose_files`
"""

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec

from mote_localization.errors import MoteError, SceneError
from mote_localization.evaluation.evaluate import Evaluate, true_poses
from mote_localization.evaluation.pose_files import write_named_poses
from mote_localization.files import atomic_write
from mote_localization.scenes import open_scene

MakeMap = Callable[[Path, Path], None]  # of a scene, as a map file

_MAX_FIGURES_BYTES = 256 << 20
_TICK_S = 5.0  # a process that is killed loses this time at most


@dataclass(frozen=True)
class BenchmarkScene:
    """A scene and the files of its results."""

    name: str
    path: Path
    output: Path  # folder of the benchmark
    truth: Path | None  # file of true poses; None: those of the scene

    @property
    def has_figures(self) -> bool:
        """Whether there are figures, of these true poses or others."""
        return self._file("json").exists()

    def result(self, make_map: MakeMap) -> dict[str, float]:
        """Return the figures of the scene; make and evaluate its map where that is not done.

        Raises:
            MoteError: The scene has no training frames, no test frames or no true poses; a stage
                fails; or a file is damaged.
        """
        if not self._is_finished():
            self._check()
            if not self._file("onnx").exists():
                self._file("json").unlink(missing_ok=True)  # of an earlier map
                self._file("txt").unlink(missing_ok=True)
                with added_time(self._file("seconds")):
                    make_map(self.path, self._file("onnx"))
            command = Evaluate(
                self.path, self._file("onnx"), truth=self.truth, json=self._file("json")
            )
            answers = command.evaluate().answers
            write_named_poses(self._file("txt"), ((a.name, a.T_map_cam) for a in answers))
        summary = self._read().summary
        return {
            **summary.within,
            "median_cm": _or_infinite(summary.median_cm),
            "median_deg": _or_infinite(summary.median_deg),
            "lost": 1 - summary.localized / summary.frames,
            "minutes": _read_seconds(self._file("seconds")) / 60,
            "megabytes": self._file("onnx").stat().st_size / 1e6,
            "milliseconds": summary.milliseconds.get("total", {}).get("p50", math.nan),
        }

    def _file(self, suffix: str) -> Path:
        return self.output / f"{self.name}.{suffix}"

    def _is_finished(self) -> bool:
        """Return whether all files are there, and the errors are those to the same true poses."""
        if not all(self._file(suffix).exists() for suffix in ("onnx", "json", "txt")):
            return False
        return self._read().subject.get("truth") == (str(self.truth) if self.truth else None)

    def _check(self) -> None:
        """Raise `SceneError` if the scene cannot be evaluated, before its map is made."""
        scene = open_scene(self.path)
        for split, use in (("train", "training"), ("test", "test")):
            if not scene.count(split):  # type: ignore[arg-type]
                raise SceneError(f"{self.path}: has no {use} frames, expected some of both kinds")
        if self.truth:
            true_poses(scene, "test", self.truth)
        elif all(frame.T_map_cam is None for frame in scene.frames("test")):
            raise SceneError(f"{self.path}: no test frame has a pose; give true poses by --truth")

    def _read(self) -> "_Figures":
        path = self._file("json")
        try:
            if path.stat().st_size > _MAX_FIGURES_BYTES:
                raise ValueError("it is too large")
            return msgspec.json.decode(path.read_bytes(), type=_Figures)
        except (OSError, ValueError, RecursionError) as error:  # msgspec's errors are ValueErrors
            raise MoteError(
                f"{path}: is damaged ({str(error)[:80]}); delete it to evaluate the map again"
            ) from error


class _Summary(msgspec.Struct):
    """Some of the figures of `mote_localization.evaluation.metrics.Summary`."""

    frames: int
    localized: int
    within: dict[str, float]
    milliseconds: dict[str, dict[str, float]]
    median_cm: float | None  # None: infinite
    median_deg: float | None


class _Figures(msgspec.Struct):
    subject: dict[str, str]
    summary: _Summary


def _or_infinite(value: float | None) -> float:
    return math.inf if value is None else value


@contextmanager
def added_time(path: Path) -> Iterator[None]:
    """Add the time that the block takes to the seconds in a file, also if the process is killed.

    Raises:
        MoteError: The file cannot be written.
    """
    before_s, started, ended = _read_seconds(path), time.perf_counter(), threading.Event()

    def write() -> None:
        with atomic_write(path) as file:
            file.write(f"{before_s + time.perf_counter() - started:.1f}\n".encode())

    def write_often() -> None:
        while not ended.wait(_TICK_S):
            with suppress(MoteError):  # the last one raises it
                write()

    thread = threading.Thread(target=write_often, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        write()


def _read_seconds(path: Path) -> float:
    """Return the seconds in a file; 0 without one."""
    try:
        return float(path.read_bytes()[:40])
    except FileNotFoundError:
        return 0.0
    except (OSError, ValueError) as error:
        raise MoteError(f"{path}: is damaged ({str(error)[:60]}); delete it") from error
