"""Measured depth at pixels of an image."""

import numpy as np


def depth_at(depth_hw: np.ndarray, pixels_n2: np.ndarray) -> np.ndarray:
    """Return the depth (n,) at pixels, m; 0 outside the image and where none was measured."""
    columns, rows = np.floor(pixels_n2.reshape(-1, 2) + 0.5).T
    height, width = depth_hw.shape
    inside = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
    depth_n = np.zeros(len(columns))
    depth_n[inside] = depth_hw[rows[inside].astype(int), columns[inside].astype(int)]
    return depth_n
