"""Checkpoints: the state of a training on disk, tied to the settings that made it."""

import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from mote_localization.errors import CheckpointError
from mote_localization.files import atomic_write

_NAME = "checkpoint.pt"


@dataclass
class TrainState:
    """All that changes in a training, so all that a checkpoint keeps."""

    network: nn.Module
    optimizer: torch.optim.Optimizer
    averaged: AveragedModel | None = None  # of the weights of the steps, where that is wanted
    step: int = 0
    elapsed_s: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)  # a row a check

    @property
    def student(self) -> nn.Module:
        """What has been learned: the network that is measured, and becomes the map."""
        return self.averaged.module if self.averaged else self.network


def make_folder(folder: Path) -> None:
    """Make the folder of a training.

    Raises:
        CheckpointError: It cannot be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise CheckpointError(
            f"{folder}: cannot be written to ({error.strerror}); choose another with --work"
        ) from error


def save_checkpoint(folder: Path, fingerprint: str, state: TrainState) -> None:
    """Write the state of a training.

    Raises:
        CheckpointError: The disk is full or the folder cannot be written; the older checkpoint
            survives.
    """
    content = {
        "identity": fingerprint,
        "network": state.network.state_dict(),
        "optimizer": state.optimizer.state_dict(),
        "averaged": state.averaged.state_dict() if state.averaged else None,
        "step": state.step,
        "elapsed_s": state.elapsed_s,
        "history": state.history,
    }
    try:
        with atomic_write(folder / _NAME) as file:
            torch.save(content, file)
    except (OSError, RuntimeError) as error:
        raise CheckpointError(
            f"{folder / _NAME}: cannot be written ({error}); free some space and run again"
        ) from error


def load_checkpoint(folder: Path, fingerprint: str, state: TrainState) -> None:
    """Restore a training; where there is no checkpoint, it stays at its beginning.

    Raises:
        CheckpointError: The checkpoint is damaged or of a training with other settings.
    """
    path = folder / _NAME
    if not path.exists():
        return
    advice = f"delete {folder} to train anew, or choose another folder"
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        found = content["identity"]
    except Exception as error:  # what damaged pickles raise is not to be told beforehand
        raise CheckpointError(f"{path}: is damaged ({error}); {advice}") from error
    if found != fingerprint:
        raise CheckpointError(
            f"{path}: belongs to a training with other settings or another reconstruction; {advice}"
        )
    try:
        state.network.load_state_dict(content["network"])
        state.optimizer.load_state_dict(content["optimizer"])
        if state.averaged:
            state.averaged.load_state_dict(content["averaged"])
        state.step, state.elapsed_s = int(content["step"]), float(content["elapsed_s"])
        state.history = [
            {str(name): float(value) for name, value in row.items()} for row in content["history"]
        ]
    except Exception as error:
        raise CheckpointError(f"{path}: is damaged ({error}); {advice}") from error
