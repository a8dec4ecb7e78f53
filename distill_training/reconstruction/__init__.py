"""Stage 3: the reconstruction, one pointmap per frame in a folder, which training reads."""

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
