"""Files of published weights, read without running what is in them."""

import argparse
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from mote_localization.errors import CheckpointError

_STATISTIC = "num_batches_tracked"  # counted by batch normalization; older files lack it


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return the named tensors of a file of torch.save, alone or under 'model'.

    Raises:
        CheckpointError: The file is missing, damaged, or holds something else.
    """
    try:
        with open(path, "rb") as file:
            archive = zipfile.is_zipfile(file)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error})") from error
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):  # beside DUSt3R's model
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=archive)
    except Exception as error:  # a damaged or hostile pickle can raise anything
        raise CheckpointError(
            f"{path}: is damaged or no file of weights (expected one of torch.save that holds "
            "tensors alone)"
        ) from error
    state = content.get("model", content) if isinstance(content, dict) else content
    if not isinstance(state, dict) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in state.items()
    ):
        raise CheckpointError(
            f"{path}: holds something other than named tensors, expected a state dict, alone or "
            "under 'model'"
        )
    return state


def load_weights(module: nn.Module, state: Mapping[str, Tensor], path: Path, expected: str) -> None:
    """Give a module its weights from a file's; further ones in the file are left alone.

    Args:
        module: What to fill.
        state: Tensors by the module's names.
        path: The file, for the message.
        expected: What it should be, for the message.

    Raises:
        CheckpointError: A weight is missing or of another shape.
    """
    own = module.state_dict()
    missing = [name for name in own if name not in state and not name.endswith(_STATISTIC)]
    if missing:
        raise CheckpointError(
            f"{path}: {len(missing)} of {len(own)} weights are missing ({missing[0]}, …), expected "
            f"{expected}"
        )
    found = {name: state[name] for name in own if name in state}
    for name, value in found.items():
        if value.shape != own[name].shape or value.is_meta:
            raise CheckpointError(
                f"{path}: found {name} of shape {tuple(value.shape)}, not "
                f"{tuple(own[name].shape)}, expected {expected}"
            )
    module.load_state_dict({**own, **found})
