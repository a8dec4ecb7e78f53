"""Draws a pointmap as tiles between neighbouring cells, with the colours of its image."""

from typing import Any

import cv2
import numpy as np
from matplotlib.collections import PolyCollection

from mote_localization.geometry import exp_rotation

_BREAK_CELLS = 5.0  # neighbours farther apart, in widths of a cell, are on different surfaces
_SUBDIVISION = 4  # parts into which the side of a tile is divided for the colours


def view_rotation(yaw_deg: float, pitch_deg: float) -> np.ndarray:
    """Return the rotation (3, 3) from a camera to a view from beside and above it, degrees."""
    yaw, pitch = np.radians((yaw_deg, pitch_deg))
    return exp_rotation(np.array([pitch, 0, 0])) @ exp_rotation(np.array([0, yaw, 0]))


def surface_tiles(points_hw3: np.ndarray, cell_angle: float) -> np.ndarray:
    """Return which tiles between four neighbouring cells are one surface, bool (h - 1, w - 1).

    Args:
        points_hw3: Points of the cells, camera frame; NaN where unknown.
        cell_angle: Width of a cell at depth 1: its side in px over the focal length in px.
    """
    tiles_hw43 = _corners(points_hw3)
    edges_hw = np.linalg.norm(tiles_hw43 - np.roll(tiles_hw43, 1, axis=2), axis=-1).max(-1)
    with np.errstate(invalid="ignore"):
        return edges_hw < _BREAK_CELLS * cell_angle * tiles_hw43[..., 2].mean(-1)


def cloud_collection(
    points_hw3: np.ndarray, shown_hw: np.ndarray, image_hw3: np.ndarray, stride: int, **options: Any
) -> PolyCollection:
    """Return the tiles, farthest first, in orthographic projection along z.

    Args:
        points_hw3: Points of the cells, finite, in axes with x to the right, y down, z forward.
        shown_hw: Which tiles to draw (h - 1, w - 1).
        image_hw3: Image of the colours, uint8 RGB.
        stride: Side of a cell, px.
        options: Further options of the collection.
    """
    shown_hw = shown_hw.repeat(_SUBDIVISION, 0).repeat(_SUBDIVISION, 1)
    rows, columns = np.mgrid[: shown_hw.shape[0] + 1, : shown_hw.shape[1] + 1].astype(np.float32)
    rows, columns = rows / _SUBDIVISION, columns / _SUBDIVISION
    points_hw3 = cv2.remap(points_hw3.astype(np.float32), columns, rows, cv2.INTER_LINEAR)
    tiles_n43 = _corners(points_hw3)[shown_hw]
    centre_px = stride * 0.5 / _SUBDIVISION + (stride - 1) / 2
    colours_hw3 = cv2.remap(
        image_hw3,
        stride * columns[:-1, :-1] + centre_px,
        stride * rows[:-1, :-1] + centre_px,
        cv2.INTER_LINEAR,
    )
    farthest_first = np.argsort(-tiles_n43[..., 2].mean(-1))
    return PolyCollection(
        list(tiles_n43[farthest_first][..., :2] * (1, -1)),
        facecolors=colours_hw3[shown_hw][farthest_first] / 255,
        linewidths=0,
        antialiased=False,
        **options,
    )


def _corners(points_hw3: np.ndarray) -> np.ndarray:
    """Return the corners (h - 1, w - 1, 4, 3) of the tiles between neighbouring cells."""
    corners = (np.s_[:-1, :-1], np.s_[:-1, 1:], np.s_[1:, 1:], np.s_[1:, :-1])
    return np.stack([points_hw3[c] for c in corners], axis=2)
