"""Measured depth of frames, and at pixels of an image."""

import logging
from collections.abc import Sequence

import numpy as np

from mote_localization.errors import SceneError
from mote_localization.scenes import Frame

_log = logging.getLogger(__name__)
_MOST = 0.8  # of the frames


def have_depth(frames: Sequence[Frame]) -> bool:
    """Return whether most frames have depth."""
    return bool(frames) and sum(frame.has_depth() for frame in frames) >= _MOST * len(frames)


def readable_depth(frame: Frame) -> np.ndarray | None:
    """Return depth_hw as `Frame.depth`, where other frames can replace it: None if it is damaged.

    A warning names damaged depth.
    """
    try:
        return frame.depth()
    except SceneError as error:
        _log.warning("frame %s: its depth is not used: %s", frame.name, error)
        return None


def depth_at(depth_hw: np.ndarray, pixels_n2: np.ndarray) -> np.ndarray:
    """Return the depth (n,) at pixels, m; 0 outside the image and where none was measured."""
    columns, rows = np.floor(pixels_n2.reshape(-1, 2) + 0.5).T
    height, width = depth_hw.shape
    inside = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
    depth_n = np.zeros(len(columns))
    depth_n[inside] = depth_hw[rows[inside].astype(int), columns[inside].astype(int)]
    return depth_n
