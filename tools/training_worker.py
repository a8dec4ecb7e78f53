"""Train some steps by the trainer that is on the path, of whatever version; print their times.

Started by tools/bench_training.py, in a process of its own, with a JSON object of `Job`'s fields;
prints a JSON object of `Times`' fields, or `{"refused": why}`. The trainer itself runs, watched
from outside: what it calls to get a batch, to make the student, to go backward and to step.
"""

import importlib.util
import json
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
from distill_training.training import trainer
from distill_training.training.train_config import TrainConfig
from mote_localization.errors import MoteError

CHUNK = 5  # steps that are timed as one
_FEWEST_CHUNKS = 2
_ENDLESS = 10**9  # steps: the checks that interrupt a training never come
_BATCHES_ALONE = 12
_FIGURES = Path(__file__).parents[1] / "distill_training/students/cost.py"
PARTS = (
    "waiting for the batch",
    "forward and loss",
    "backward",
    "clip and optimizer",
    "the rest",
)


@dataclass(frozen=True)
class Job:
    """What is trained, and for how long."""

    tree: str  # folder of the version, which must be on the path
    reconstruction: str  # folder
    family: str
    settings: dict[str, Any]
    config: dict[str, Any]  # what differs from the version's own TrainConfig
    seconds: float  # of training that are timed


@dataclass(frozen=True)
class Times:
    """How fast it was."""

    steps_per_s: list[float]  # of every few steps
    parts_ms: list[float]  # median of each of PARTS
    batch_alone_ms: float  # to make a batch while nothing else runs
    parameters: int
    macs: int  # multiply-adds of one image's way forward
    precision: str


class _Enough(Exception):
    """Ends the training."""


class _Watch:
    """Notes when each part of each step ends."""

    def __init__(self, seconds: float) -> None:
        self.warm_up = 0  # steps, known once the trainer asks for batches
        self.batch_makers: list[Callable[[], Generator]] = []
        self.networks: list[torch.nn.Module] = []
        self.precision = ""
        self._seconds = seconds
        self._steps: list[list[float]] = []

    def mark(self, *_: Any) -> None:
        """Note the end of a part of this step."""
        self._steps[-1].append(time.perf_counter())

    def begin_step(self) -> None:
        """Note the beginning of a step; raise where there were enough."""
        timed = len(self._steps) - self.warm_up
        if timed >= 0 and timed % CHUNK == 0:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            now = time.perf_counter()
            if timed == 0:
                self._started = now
            elif timed >= _FEWEST_CHUNKS * CHUNK and now - self._started > self._seconds:
                self._steps.append([now])
                raise _Enough
        self._steps.append([time.perf_counter()])

    def rates(self) -> list[float]:
        """Return the steps a second of every few steps."""
        begun = np.array([step[0] for step in self._steps[self.warm_up :: CHUNK]])
        return (CHUNK / np.diff(begun)).tolist()

    def parts_ms(self) -> list[float]:
        """Return the median time of each part."""
        steps = self._steps[self.warm_up :]
        marks = [[*step, after[0]] for step, after in zip(steps[:-1], steps[1:], strict=True)]
        if any(len(step) != len(PARTS) + 1 for step in marks):
            raise SystemExit(
                f"found {len(marks[0]) - 1} parts in a step of this trainer, expected "
                f"{', '.join(PARTS)}; adapt {__file__}"
            )
        return (1000 * np.median(np.diff(marks, axis=1), axis=0)).tolist()


def _watch_trainer(watch: _Watch) -> None:
    """Put what notes times around what the trainer calls.

    Raises:
        SystemExit: The trainer of this version calls something else.
    """
    for name in ("Fabric", "create_student", "random_batches"):
        if not hasattr(trainer, name):
            raise SystemExit(f"{trainer.__file__}: calls no {name}; adapt {__file__}")
    make_batches, make_student = trainer.random_batches, trainer.create_student

    class Watched(Fabric):
        def __init__(self, *args: Any, precision: Any = None, **kwargs: Any) -> None:
            super().__init__(*args, precision=precision, **kwargs)
            watch.precision = str(precision)

        def backward(self, *args: Any, **kwargs: Any) -> None:
            watch.mark()
            super().backward(*args, **kwargs)
            watch.mark()

    def create_student(*args: Any, **kwargs: Any) -> torch.nn.Module:
        watch.networks.append(make_student(*args, **kwargs))
        return watch.networks[-1]

    def random_batches(store: Any, names: list[str], batch: int, *args: Any, **kwargs: Any):
        watch.warm_up = 5 + -(-len(names) // batch)  # an epoch: every frame has been read
        watch.batch_makers.append(lambda: make_batches(store, names, batch, *args, **kwargs))
        with closing(watch.batch_makers[-1]()) as batches:
            while True:
                watch.begin_step()
                ready = next(batches)
                watch.mark()
                yield ready

    trainer.Fabric, trainer.create_student = Watched, create_student  # type: ignore[misc]
    trainer.random_batches = random_batches
    register_optimizer_step_post_hook(watch.mark)


def _batch_alone_ms(batches: Iterator) -> float:
    """Return the median time to make a batch; the first two were being made before."""
    times_s = []
    for _ in range(2 + _BATCHES_ALONE):
        start_s = time.perf_counter()
        next(batches)
        times_s.append(time.perf_counter() - start_s)
    return 1000 * float(np.median(times_s[2:]))


def _describe() -> Callable:
    """Return `students.describe` of the version that this tool is of: one count for all."""
    spec = importlib.util.spec_from_file_location("figures", _FIGURES)
    assert spec
    assert spec.loader
    figures = importlib.util.module_from_spec(spec)
    sys.modules["figures"] = figures
    spec.loader.exec_module(figures)
    return figures.describe


def main(job: Job) -> dict[str, Any]:
    """Train and return the times."""
    if not Path(str(trainer.__file__)).is_relative_to(job.tree):
        raise SystemExit(f"found the trainer {trainer.__file__}, expected one of {job.tree}")
    reconstruction = open_reconstruction(job.reconstruction)
    watch = _Watch(job.seconds)
    _watch_trainer(watch)
    with tempfile.TemporaryDirectory() as folder:
        try:
            config = TrainConfig(steps=_ENDLESS, **job.config)
            trainer.train(reconstruction, Path(folder), job.family, job.settings, config)
        except _Enough:
            pass
        except (MoteError, TypeError) as error:  # of settings that the version does not know
            if watch.networks:
                raise
            return {"refused": str(error)}
    with closing(watch.batch_makers[-1]()) as batches:
        alone_ms = _batch_alone_ms(batches)
    cost = _describe()(watch.networks[0], reconstruction.camera)
    return asdict(
        Times(
            watch.rates(),
            watch.parts_ms(),
            alone_ms,
            cost.parameters,
            cost.macs,
            watch.precision,
        )
    )


if __name__ == "__main__":
    print(json.dumps(main(Job(**json.loads(sys.argv[1])))))
