"""Fused depth maps of all photographs."""

from collections.abc import Sequence

import numpy as np

from distill_training.teachers.pairwise.alignment import Alignment
from distill_training.teachers.pairwise.depth_map import DepthMap
from distill_training.teachers.pairwise.fusion import fused_depth_map
from distill_training.teachers.pairwise.photo import Photo
from distill_training.teachers.pairwise.predictions import Predictions
from mote_localization.progress import track


def fuse_photos(
    photos: Sequence[Photo], predictions: Predictions, alignment: Alignment, stride: int
) -> dict[int, DepthMap]:
    """Return the fused depth map of each aligned image; one pair is in memory at a time."""
    index_of = {ends: e for e, ends in enumerate(alignment.directed) if alignment.used_e[e]}
    partners: dict[int, list[int]] = {}
    for i, j in index_of:
        partners.setdefault(i, []).append(j)
    maps = {}
    aligned = np.flatnonzero(alignment.aligned_i).tolist()
    for i in track(aligned, "fuse pairs", len(aligned)):
        points, confidence = [], []
        for j in partners[i]:
            forward, backward = predictions.read(i, j)
            points.append(alignment.in_camera(i, index_of[i, j], i, forward.own_hw3))
            points.append(alignment.in_camera(i, index_of[j, i], j, backward.other_hw3))
            confidence += [forward.own_confidence_hw, backward.other_confidence_hw]
        maps[i] = fused_depth_map(
            photos[i].grid,
            stride,
            alignment.cameras.pose(i),
            points,
            confidence,
            alignment.unit_sigma_i[i],
        )
    return maps
