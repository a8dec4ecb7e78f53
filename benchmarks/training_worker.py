"""Train a student for some steps with the trainer on the Python path, and print the times as JSON.

`bench_training.py` starts this program in a new process for each training, with a JSON object of
the fields of `Job`. It prints the fields of `Times`, or `{"refused": reason}`. The trainer may be
of any version: it runs unchanged, and the functions that it calls are wrapped to record times.
"""

import importlib.util
import json
import math
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch.optim.optimizer import register_optimizer_step_post_hook

from distill_training.reconstruction import open_reconstruction
from mote_localization.errors import MoteError

try:
    from distill_training.pipeline import train_student
    from distill_training.training import trainer
    from distill_training.training.train_config import TrainConfig
except ModuleNotFoundError:  # an earlier version
    trainer = importlib.import_module("distill_training.train")
    TrainConfig, train_student = trainer.TrainConfig, trainer.train

CHUNK = 5  # steps that are timed together
_MIN_CHUNKS = 2
_ENDLESS = 10**9  # steps: so many that no check interrupts the measurement
_BATCHES_ALONE = 12
_COST = Path(__file__).parents[1] / "distill_training/students/cost.py"
PARTS = (
    "making the batch, or waiting for it",
    "forward and loss",
    "backward",
    "clip and optimizer",
    "the rest",
)


@dataclass(frozen=True)
class Job:
    """A training to measure."""

    tree: str  # folder of the version, which must be on the Python path
    reconstruction: str  # folder
    family: str  # of the student
    settings: dict[str, Any]  # of the student
    config: dict[str, Any]  # fields that differ from the defaults of TrainConfig
    seconds: float  # measured time of the training


@dataclass(frozen=True)
class Times:
    """Times of a training, and the size of its student."""

    steps_per_s: list[float]  # of each CHUNK steps
    parts_ms: list[float]  # median of each of PARTS
    batch_alone_ms: float  # time to make a batch without training
    parameters: int
    macs: int  # multiply-adds of a forward pass of one image
    precision: str


class _MeasuredEnough(Exception):
    """Ends the training."""


class _Recorder:
    """Records when each part of each step ends."""

    def __init__(self, seconds: float) -> None:
        self.warm_up = 0  # steps that are not measured; set when the trainer requests batches
        self.batch_makers: list[Callable[[], Generator]] = []
        self.networks: list[torch.nn.Module] = []
        self.precision = ""
        self._seconds = seconds
        self._steps: list[list[float]] = []

    def mark(self, *_: Any) -> None:
        """Record the end of a part of this step."""
        self._steps[-1].append(time.perf_counter())

    def begin_step(self) -> None:
        """Record the beginning of a step; raise _MeasuredEnough after the measured time."""
        timed = len(self._steps) - self.warm_up
        if timed >= 0 and timed % CHUNK == 0:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            now = time.perf_counter()
            if timed == 0:
                self._started = now
            elif timed >= _MIN_CHUNKS * CHUNK and now - self._started > self._seconds:
                self._steps.append([now])
                raise _MeasuredEnough
        self._steps.append([time.perf_counter()])

    def rates(self) -> list[float]:
        """Return the steps per second of each CHUNK steps."""
        starts = np.array([step[0] for step in self._steps[self.warm_up :: CHUNK]])
        return (CHUNK / np.diff(starts)).tolist()

    def parts_ms(self) -> list[float]:
        """Return the median time of each part."""
        steps = self._steps[self.warm_up :]
        marks = [[*step, after[0]] for step, after in zip(steps[:-1], steps[1:], strict=True)]
        if any(len(step) != len(PARTS) + 1 for step in marks):
            raise SystemExit(
                f"found {len(marks[0]) - 1} parts in a step of this trainer, expected "
                f"{', '.join(PARTS)}; adapt {Path(__file__).name}"
            )
        return (1000 * np.median(np.diff(marks, axis=1), axis=0)).tolist()


def _record_trainer(recorder: _Recorder) -> None:
    """Wrap the functions that the trainer calls, so that they record times.

    Raises:
        SystemExit: The trainer of this version calls other functions.
    """
    for name in ("Fabric", "create_student", "random_batches"):
        if not hasattr(trainer, name):
            raise SystemExit(f"{trainer.__file__}: calls no {name}; adapt {Path(__file__).name}")
    make_batches, make_student = trainer.random_batches, trainer.create_student

    class RecordingFabric(Fabric):
        def __init__(self, *args: Any, precision: Any = None, **kwargs: Any) -> None:
            super().__init__(*args, precision=precision, **kwargs)
            recorder.precision = str(precision)

        def backward(self, *args: Any, **kwargs: Any) -> None:
            recorder.mark()
            super().backward(*args, **kwargs)
            recorder.mark()

    def create_student(*args: Any, **kwargs: Any) -> torch.nn.Module:
        recorder.networks.append(make_student(*args, **kwargs))
        return recorder.networks[-1]

    def random_batches(frames: Any, names: list[str], config: Any, *args: Any, **kwargs: Any):
        batch = getattr(config, "batch", config)  # an earlier version passes the number
        recorder.warm_up = 5 + math.ceil(len(names) / batch)  # an epoch: all frames are cached
        recorder.batch_makers.append(lambda: make_batches(frames, names, config, *args, **kwargs))
        with closing(recorder.batch_makers[-1]()) as batches:
            while True:
                recorder.begin_step()
                ready = next(batches)
                recorder.mark()
                yield ready

    trainer.Fabric, trainer.create_student = RecordingFabric, create_student  # type: ignore[misc]
    trainer.random_batches = random_batches
    register_optimizer_step_post_hook(recorder.mark)


def _batch_alone_ms(batches: Iterator) -> float:
    """Return the median time to make a batch, without the first two: a version makes them ahead."""
    times_s = []
    for _ in range(2 + _BATCHES_ALONE):
        start_s = time.perf_counter()
        next(batches)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times_s.append(time.perf_counter() - start_s)
    return 1000 * float(np.median(times_s[2:]))


def _load_describe() -> Callable:
    """Return `describe` of this version's students/cost.py, to count all versions in one way."""
    spec = importlib.util.spec_from_file_location("cost", _COST)
    assert spec and spec.loader
    cost = importlib.util.module_from_spec(spec)
    sys.modules["cost"] = cost
    spec.loader.exec_module(cost)
    return cost.describe


def main(job: Job) -> dict[str, Any]:
    """Train, and return the fields of `Times`, or the reason why the student is refused."""
    if not Path(str(trainer.__file__)).is_relative_to(job.tree):
        raise SystemExit(f"found the trainer {trainer.__file__}, expected one in {job.tree}")
    reconstruction = open_reconstruction(job.reconstruction)
    recorder = _Recorder(job.seconds)
    _record_trainer(recorder)
    with tempfile.TemporaryDirectory() as folder:
        try:
            config = TrainConfig(steps=_ENDLESS, **job.config)
            train_student(reconstruction, Path(folder), job.family, job.settings, config)
        except _MeasuredEnough:
            pass
        except (MoteError, TypeError) as error:  # settings that this version does not have
            if recorder.networks:
                raise
            return {"refused": str(error)}
    with closing(recorder.batch_makers[-1]()) as batches:
        alone_ms = _batch_alone_ms(batches)
    cost = _load_describe()(recorder.networks[0], reconstruction.camera)
    rates, parts_ms = recorder.rates(), recorder.parts_ms()
    return asdict(Times(rates, parts_ms, alone_ms, cost.parameters, cost.macs, recorder.precision))


if __name__ == "__main__":
    print(json.dumps(main(Job(**json.loads(sys.argv[1])))))
