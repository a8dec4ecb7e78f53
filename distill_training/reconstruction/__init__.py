"""The value that teachers hand over to training: one pointmap per frame, in a folder."""

from distill_training.reconstruction.format import (
    FORMAT_VERSION,
    ReconstructedFrame,
    Reconstruction,
    begun_reconstruction,
    open_reconstruction,
)

__all__ = [
    "FORMAT_VERSION",
    "ReconstructedFrame",
    "Reconstruction",
    "begun_reconstruction",
    "open_reconstruction",
]
