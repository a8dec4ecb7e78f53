"""Records a training: measurements, history, TensorBoard curves, checkpoints, progress bar."""

import math
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from distill_training.training.checkpoint import TrainState, save_checkpoint
from distill_training.training.history import write_history
from distill_training.training.train_config import TrainConfig
from mote_localization.errors import MoteError
from mote_localization.progress import progress_bar

_CHECKS = 20  # per training, at most: the student is measured and a checkpoint written
_MEASURED_SHARE = 0.1  # of the time of a training of some minutes, at most
_CURVE_STEPS = 20  # steps between points of the loss curves


class _Measurement(Protocol):
    """The outcome of a measurement; `str` gives the text of the progress bar."""

    def history_row(self) -> dict[str, float]:
        """Return the columns of the history."""

    def curves(self) -> dict[str, float]:
        """Return the values of the TensorBoard curves, by name."""


Measured = TypeVar("Measured", bound=_Measurement)
Measure = Callable[[nn.Module], Measured]


class Journal(Generic[Measured]):
    """Measures the student at every check, writes the training's files, shows a progress bar."""

    def __init__(
        self,
        folder: Path,
        identity: str,
        state: TrainState,
        measure: Measure[Measured],
        config: TrainConfig,
        done: float,
        steps_per_epoch: float,
    ) -> None:
        """Measure the student as it is; it is left in evaluation mode.

        Args:
            folder: For history, curves and checkpoints.
            identity: Identifies the training in its checkpoints.
            state: The training; its history grows.
            measure: Measures the student.
            config: The length of the training.
            done: Fraction of the training that is over.
            steps_per_epoch: Steps that show every training frame once.
        """
        self._folder, self._identity, self._state = folder, identity, state
        self._measure, self._steps_per_epoch = measure, steps_per_epoch
        self._budget = config.steps or 60 * config.minutes
        self._name = "distill, steps" if config.steps else "distill, s"
        self._checks = math.floor(done * _CHECKS)
        self._loss_sum, self._loss_steps = torch.zeros(()), 0  # since the last check
        self._open = ExitStack()
        self._shortest_s = 0.0  # time between two checks, at least
        self._by_time = not config.steps
        self._take_measurement()
        if not state.history:
            self._record()

    def __enter__(self) -> "Journal[Measured]":
        self._curves = self._open.enter_context(
            SummaryWriter(self._folder, purge_step=self._state.step)
        )
        self._bar = self._open.enter_context(
            progress_bar("loss {task.fields[loss]:.3f}", "{task.fields[error]}")
        )
        self._task = self._bar.add_task(
            self._name, total=self._budget, loss=math.nan, error=self.measurement
        )
        return self

    def __exit__(self, *raised: Any) -> None:
        self._open.close()

    def note(self, done: float, losses: dict[str, Tensor]) -> None:
        """Record a step; where a check is due, measure and write the checkpoint.

        Args:
            done: Fraction of the training that is over.
            losses: By name, `total` among them.

        Raises:
            CheckpointError: The disk is full or the folder cannot be written.
            MoteError: The training has diverged; the last checkpoint is from before.
        """
        step = self._state.step
        self._loss_sum = self._loss_sum.to(losses["total"].device) + losses["total"].detach()
        self._loss_steps += 1
        if step % _CURVE_STEPS == 0:
            for name, value in losses.items():
                self._curves.add_scalar(f"loss/{name}", value.item(), step)
            self._show(done, losses["total"])
        waited = not self._by_time or time.monotonic() - self._measured_s >= self._shortest_s
        if (math.floor(done * _CHECKS) > self._checks and waited) or done >= 1:
            self._checks = math.floor(done * _CHECKS)
            self._check()
            self._show(done, losses["total"])

    def _check(self) -> None:
        if not self._loss_sum.isfinite():
            raise MoteError(
                f"found a loss that is not finite before step {self._state.step}: the training has "
                "diverged; run it again with a lower --learning-rate"
            )
        self._take_measurement()
        for name, value in self.measurement.curves().items():
            self._curves.add_scalar(name, value, self._state.step)
        self._record()
        save_checkpoint(self._folder, self._identity, self._state)

    def _take_measurement(self) -> None:
        started_s = time.monotonic()
        self.measurement = self._measure(self._state.student)
        self._measured_s = time.monotonic()
        self._shortest_s = (self._measured_s - started_s) / _MEASURED_SHARE

    def _record(self) -> None:
        """Add a row to the history and write it."""
        loss = self._loss_sum.item() / self._loss_steps if self._loss_steps else math.nan
        self._loss_sum, self._loss_steps = torch.zeros(()), 0
        self._state.history.append(
            {
                "step": self._state.step,
                "epoch": self._state.step / self._steps_per_epoch,
                "minutes": self._state.elapsed_s / 60,
                "loss": loss,
                **self.measurement.history_row(),
            }
        )
        write_history(self._folder, self._state.history)

    def _show(self, done: float, loss: Tensor) -> None:
        self._bar.update(
            self._task,
            completed=min(done, 1) * self._budget,
            loss=loss.item(),
            error=self.measurement,
        )
