"""Reads files of published weights without executing code in them."""

import zipfile
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from distill_training.common.safe_load import are_named_tensors, load_plain
from mote_localization.errors import CheckpointError
from mote_localization.input_files import open_input

_BATCH_COUNT = "num_batches_tracked"  # of batch normalization; missing in older files


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return the named tensors of a file of torch.save, at its top level or under 'model'.

    Raises:
        CheckpointError: The file is missing, damaged, or contains something else.
    """
    try:
        with open_input(path) as file:
            archive = zipfile.is_zipfile(file)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error})") from error
    try:
        content = load_plain(path, mmap=archive)
    except Exception as error:  # a damaged or hostile pickle can raise anything
        raise CheckpointError(
            f"{path}: is damaged or not a file of weights; expected a file of torch.save that "
            "contains only tensors"
        ) from error
    state = content.get("model", content) if isinstance(content, dict) else content
    if not are_named_tensors(state):
        raise CheckpointError(
            f"{path}: contains something other than named tensors, expected a state dict, at the "
            "top level or under 'model'"
        )
    return state


def load_weights(module: nn.Module, state: Mapping[str, Tensor], path: Path, expected: str) -> None:
    """Load a module's weights; further tensors of the file are ignored.

    Args:
        module: Module that takes the weights.
        state: Tensors by their names in the module.
        path: The file, for error messages.
        expected: Description of the expected file, for error messages.

    Raises:
        CheckpointError: A weight is missing or has another shape.
    """
    own = module.state_dict()
    missing = [name for name in own if name not in state and not name.endswith(_BATCH_COUNT)]
    if missing:
        raise CheckpointError(
            f"{path}: found no {missing[0]} ({len(missing)} of {len(own)} weights are missing), "
            f"expected {expected}"
        )
    found = {name: state[name] for name in own if name in state}
    for name, value in found.items():
        if value.shape != own[name].shape or value.is_meta:
            raise CheckpointError(
                f"{path}: found {name} of shape {tuple(value.shape)}, not "
                f"{tuple(own[name].shape)}, expected {expected}"
            )
    module.load_state_dict({**own, **found})
