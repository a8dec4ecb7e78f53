"""Checkpoints: the state of a training on disk, tied to the settings that made it."""

import hashlib
import json
import pickle
import tempfile
from pathlib import Path

import torch
from torch import nn

from mote_localization.errors import CheckpointError
from mote_localization.files import atomic_write

_NAME = "checkpoint.pt"


def identity(**settings: object) -> str:
    """Return a fingerprint of everything that must be equal for a training to be gone on with."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


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


def save_checkpoint(
    folder: Path,
    fingerprint: str,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    step: int,
    elapsed_s: float,
) -> None:
    """Write the state of a training.

    Raises:
        CheckpointError: The disk is full or the folder cannot be written; the older checkpoint
            survives.
    """
    state = {
        "identity": fingerprint,
        "network": network.state_dict(),
        "optimizer": optimizer.state_dict(),
        "step": step,
        "elapsed_s": elapsed_s,
    }
    try:
        with atomic_write(folder / _NAME) as file:
            torch.save(state, file)
    except (OSError, RuntimeError) as error:
        raise CheckpointError(
            f"{folder / _NAME}: cannot be written ({error}); free some space and run again"
        ) from error


def load_checkpoint(
    folder: Path, fingerprint: str, network: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[int, float]:
    """Restore a training into network and optimizer.

    Returns:
        Its step and elapsed seconds; 0 and 0 where there is no checkpoint.

    Raises:
        CheckpointError: The checkpoint is damaged or of a training with other settings.
    """
    path = folder / _NAME
    if not path.exists():
        return 0, 0.0
    advice = f"delete {folder} to train anew, or choose another folder"
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        found = state["identity"]
    except (OSError, RuntimeError, EOFError, KeyError, TypeError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"{path}: is damaged ({error}); {advice}") from error
    if found != fingerprint:
        raise CheckpointError(
            f"{path}: belongs to a training with other settings or another reconstruction; {advice}"
        )
    try:
        network.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
        return int(state["step"]), float(state["elapsed_s"])
    except (RuntimeError, KeyError, ValueError, TypeError) as error:
        raise CheckpointError(f"{path}: is damaged ({error}); {advice}") from error
