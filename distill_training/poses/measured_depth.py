"""Measured depth of frames, and at pixels of an image."""

from collections.abc import Sequence

import numpy as np

from distill_training.common.sampling import thinned
from mote_localization.scenes import Frame

_DEPTHS_READ = 8  # images whose depth decides whether there is depth


def has_depth(frames: Sequence[Frame]) -> bool:
    """Return whether frames have depth; that of a few is read, spread evenly."""
    sample = thinned(frames, _DEPTHS_READ)
    return bool(sample) and all(frame.depth() is not None for frame in sample)


def depth_at(depth_hw: np.ndarray, pixels_n2: np.ndarray) -> np.ndarray:
    """Return the depth (n,) at pixels, m; 0 outside the image and where none was measured."""
    columns, rows = np.floor(pixels_n2.reshape(-1, 2) + 0.5).T
    height, width = depth_hw.shape
    inside = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
    depth_n = np.zeros(len(columns))
    depth_n[inside] = depth_hw[rows[inside].astype(int), columns[inside].astype(int)]
    return depth_n
