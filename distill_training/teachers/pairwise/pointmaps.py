"""The pointmaps of all photographs, fused one by one."""

from collections.abc import Sequence

import numpy as np

from distill_training.teachers.pairwise.alignment import Alignment
from distill_training.teachers.pairwise.depth_map import DepthMap
from distill_training.teachers.pairwise.fusion import PairEstimate, fuse
from distill_training.teachers.pairwise.photo import Photo
from distill_training.teachers.pairwise.predictions import Predictions
from mote_localization.camera import cell_pixels
from mote_localization.progress import track

_UNSURE = 0.15  # of the distance: cells whose point is less sure have none


def fuse_photos(
    photos: Sequence[Photo],
    predictions: Predictions,
    directed: Sequence[tuple[int, int]],
    alignment: Alignment,
    stride: int,
) -> dict[int, DepthMap]:
    """Return the fused pointmap of each aligned image, one image's pairs in memory at a time."""
    number = {ends: e for e, ends in enumerate(directed) if alignment.used_e[e]}
    partners: dict[int, list[int]] = {}
    for i, j in number:
        partners.setdefault(i, []).append(j)
    maps = {}
    aligned = np.flatnonzero(alignment.aligned_i).tolist()
    for i in track(aligned, "fuse pairs", len(aligned)):
        grid = photos[i].grid
        rays_hw3 = grid.rays(cell_pixels(grid.width, grid.height, stride))
        said: list[PairEstimate] = []
        for j in partners[i]:
            forth, back = predictions.read(i, j)
            said += [
                alignment.estimate(number[i, j], i, i, forth.own_hw3, forth.own_confidence_hw),
                alignment.estimate(number[j, i], j, i, back.other_hw3, back.other_confidence_hw),
            ]
        depth_hw, sigma_hw = fuse(said, rays_hw3)
        distance_hw = depth_hw * np.linalg.norm(rays_hw3, axis=-1)
        sigma_hw = np.hypot(sigma_hw, alignment.unit_sigma_i[i] * distance_hw)
        with np.errstate(invalid="ignore"):
            depth_hw = np.where(sigma_hw <= _UNSURE * distance_hw, depth_hw, np.nan)
        maps[i] = DepthMap(
            grid,
            stride,
            alignment.cameras.pose(i),
            depth_hw.astype(np.float32),
            np.where(np.isfinite(depth_hw), sigma_hw, np.inf).astype(np.float32),
        )
    return maps
