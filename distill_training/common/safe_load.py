"""Reads files of torch.save without executing code in them."""

import argparse
from pathlib import Path
from typing import Any, TypeGuard

import torch
from torch import Tensor


def load_plain(path: Path, mmap: bool) -> Any:
    """Return the content of a file of torch.save, on the CPU.

    Only tensors, plain values and the `Namespace` of DUSt3R's checkpoints are created. A damaged or
    hostile file can raise any exception.

    Args:
        path: The file.
        mmap: Keep the tensors on disk until they are used; only for a zip archive.
    """
    with torch.serialization.safe_globals([argparse.Namespace]):
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)


def are_named_tensors(value: object) -> TypeGuard[dict[str, Tensor]]:
    """Return whether a value is a dictionary of tensors by their names."""
    return isinstance(value, dict) and all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in value.items()
    )
