"""Checkpoints: the state of a training on disk, identified by all that determines it."""

import math
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from mote_localization.errors import CheckpointError, first_line
from mote_localization.files import atomic_write
from mote_localization.input_files import check_input

_NAME = "checkpoint.pt"


@dataclass
class TrainState:
    """Everything that changes during a training, and that a checkpoint stores."""

    network: nn.Module
    optimizer: torch.optim.Optimizer
    averaged: AveragedModel | None = None  # running average of the weights, if --ema is set
    step: int = 0
    elapsed_s: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)  # one row per check

    @property
    def student(self) -> nn.Module:
        """The network that is measured and exported: the averaged one, if there is one."""
        return self.averaged.module if self.averaged else self.network


def make_folder(folder: Path) -> None:
    """Create the folder of a training.

    Raises:
        CheckpointError: The folder cannot be created, or is not writable.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise CheckpointError(
            f"{folder}: cannot be written to ({error.strerror}); choose another with --work"
        ) from error


def save_checkpoint(folder: Path, identity: str, state: TrainState) -> None:
    """Write the state of a training.

    Raises:
        CheckpointError: The file cannot be written; an existing checkpoint stays as it is.
    """
    content = {
        "identity": identity,
        "network": state.network.state_dict(),
        "optimizer": state.optimizer.state_dict(),
        "averaged": state.averaged.state_dict() if state.averaged else None,
        "step": state.step,
        "elapsed_s": state.elapsed_s,
        "history": state.history,
    }
    advice = "; free some space and run again"
    try:
        with atomic_write(folder / _NAME, CheckpointError, advice) as file:
            torch.save(content, file)
    except RuntimeError as error:  # of torch, while it handles that of the full disk
        cause = error.__context__
        reason = cause.strerror if isinstance(cause, OSError) else first_line(error, 100)
        raise CheckpointError(f"{folder / _NAME}: cannot be written ({reason}){advice}") from error


def load_checkpoint(folder: Path, identity: str, state: TrainState) -> None:
    """Restore the state of a training, if the folder holds a checkpoint.

    Raises:
        CheckpointError: The checkpoint is damaged, or of another training.
    """
    path = folder / _NAME
    if not path.exists():
        return
    advice = f"delete {folder} to train from the beginning, or choose another folder"
    try:
        check_input(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
        found = content["identity"]
    except Exception as error:  # a damaged pickle may raise anything
        raise CheckpointError(f"{path}: is damaged ({first_line(error, 100)}); {advice}") from error
    if found != identity:
        raise CheckpointError(
            f"{path}: belongs to a training with other settings or another reconstruction; {advice}"
        )
    try:
        state.network.load_state_dict(content["network"])
        state.optimizer.load_state_dict(content["optimizer"])
        if state.averaged:
            state.averaged.load_state_dict(content["averaged"])
        state.step, state.elapsed_s = int(content["step"]), float(content["elapsed_s"])
        if state.step < 0 or not 0 <= state.elapsed_s < math.inf:
            raise ValueError(f"found step {state.step} after {state.elapsed_s:g} s")
        state.history = [
            {str(name): float(value) for name, value in row.items()} for row in content["history"]
        ]
    except Exception as error:
        raise CheckpointError(f"{path}: is damaged ({first_line(error, 100)}); {advice}") from error
