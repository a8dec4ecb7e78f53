"""Moves small arrays to the training device together."""

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch

_Arrays = TypeVar("_Arrays", bound="DeviceArrays")


@dataclass(frozen=True)
class DeviceArrays:
    """Base class of dataclasses of float32 tensors that are computed on the host as arrays."""

    @classmethod
    def on(cls: type[_Arrays], device: torch.device, **arrays: np.ndarray) -> _Arrays:
        """Move arrays to the device in one copy, without waiting for it.

        Integers must be below 2^24 to remain exact.

        Args:
            device: Of the tensors.
            arrays: The fields, by name.
        """
        packed = torch.from_numpy(
            np.concatenate([array.ravel() for array in arrays.values()], dtype=np.float32)
        )
        if device.type == "cuda":
            packed = packed.pin_memory()  # otherwise the copy is not asynchronous
        parts = packed.to(device, non_blocking=True).split([a.size for a in arrays.values()])
        shaped = zip(arrays.items(), parts, strict=True)
        return cls(**{name: part.view(array.shape) for (name, array), part in shaped})
