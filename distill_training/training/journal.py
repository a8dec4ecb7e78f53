"""What is kept of a training as it goes: measurements, curves, checkpoints; and what is shown."""

import math
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from distill_training.calibration.validation import HeldOutError
from distill_training.training.checkpoint import TrainState, save_checkpoint
from distill_training.training.history import write_history
from distill_training.training.train_config import TrainConfig
from mote_localization.errors import MoteError
from mote_localization.progress import progress_bar

_CHECKS = 20  # times over a training that the student is measured and a checkpoint written
_CURVE_STEPS = 20  # steps between points of the loss curves

# The error on held-out frames, and that of the points on some training frames, cm.
Measure = Callable[[nn.Module], tuple[HeldOutError, float]]


class Journal:
    """Measures the student at every check, and keeps and shows how the training goes."""

    def __init__(
        self,
        folder: Path,
        fingerprint: str,
        state: TrainState,
        measure: Measure,
        config: TrainConfig,
        done: float,
        steps_per_epoch: float,
    ) -> None:
        """Measure the student as it is; it is left in evaluation mode.

        Args:
            folder: Where history, curves and checkpoints go.
            fingerprint: What the checkpoint belongs to.
            state: The training; its history grows.
            measure: How the student is measured.
            config: How long the training is.
            done: Share of it that is over.
            steps_per_epoch: Steps in which every training frame is seen once.
        """
        self._folder, self._fingerprint, self._state = folder, fingerprint, state
        self._measure, self._steps_per_epoch = measure, steps_per_epoch
        self._budget = config.steps or 60 * config.minutes
        self._name = "distill, steps" if config.steps else "distill, s"
        self._checks = math.floor(done * _CHECKS)
        self._loss_sum, self._loss_steps = torch.zeros(()), 0  # since the last check
        self._open = ExitStack()
        self.error, train_cell_cm = measure(state.student)
        if not state.history:
            self._record(train_cell_cm)

    def __enter__(self) -> "Journal":
        """Open the curves, and show the bar."""
        self._curves = self._open.enter_context(
            SummaryWriter(self._folder, purge_step=self._state.step)
        )
        self._bar = self._open.enter_context(
            progress_bar("loss {task.fields[loss]:.3f}", "held-out {task.fields[error]}")
        )
        self._task = self._bar.add_task(
            self._name, total=self._budget, loss=math.nan, error=self.error
        )
        return self

    def __exit__(self, *raised: Any) -> None:
        """Close both."""
        self._open.close()

    def note(self, done: float, losses: dict[str, Tensor]) -> None:
        """Take note of a step; where a check is due, measure, and write the checkpoint.

        Args:
            done: Share of the training that is over.
            losses: Each by name, `total` among them.

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
        if math.floor(done * _CHECKS) > self._checks or done >= 1:
            self._checks = math.floor(done * _CHECKS)
            self._check()
            self._show(done, losses["total"])

    def _check(self) -> None:
        if not self._loss_sum.isfinite():
            raise MoteError(
                f"found a loss that is no number before step {self._state.step}: the training has "
                "diverged; run it again with a lower --learning-rate"
            )
        self.error, train_cell_cm = self._measure(self._state.student)
        for name, figure in self.error.figures().items():
            self._curves.add_scalar(f"held_out/{name}", figure, self._state.step)
        self._record(train_cell_cm)
        save_checkpoint(self._folder, self._fingerprint, self._state)

    def _record(self, train_cell_cm: float) -> None:
        """Add a row to the history, and write it."""
        loss = self._loss_sum.item() / self._loss_steps if self._loss_steps else math.nan
        self._loss_sum, self._loss_steps = torch.zeros(()), 0
        held_out = {f"held_out_{name}": value for name, value in asdict(self.error).items()}
        self._state.history.append(
            {
                "step": self._state.step,
                "epoch": self._state.step / self._steps_per_epoch,
                "minutes": self._state.elapsed_s / 60,
                "loss": loss,
                "train_cell_cm": train_cell_cm,
                **held_out,
            }
        )
        write_history(self._folder, self._state.history)

    def _show(self, done: float, loss: Tensor) -> None:
        self._bar.update(
            self._task,
            completed=min(done, 1) * self._budget,
            loss=loss.item(),
            error=self.error,
        )
