"""Where the points of a reconstruction lie and how far they spread."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from distill_training.common.sampling import thinned
from distill_training.reconstruction.format import Reconstruction
from mote_localization.errors import ReconstructionError

_SAMPLED_FRAMES = 200
_MIN_SPREAD_M = 1e-3


@dataclass(frozen=True)
class SceneExtent:
    """Mean, spread and bounds of the points, in the map frame."""

    mean: tuple[float, float, float]  # m
    spread: float  # m, root mean square of the standard deviations along the axes
    bounds_min: tuple[float, float, float]  # m, corner of the mapped volume
    bounds_max: tuple[float, float, float]  # m, opposite corner


def measure_extent(reconstruction: Reconstruction, names: Sequence[str]) -> SceneExtent:
    """Return the extent of the points of some frames; of many frames, a sample is read.

    The bounds are the 1st and 99th percentile of the points along each axis, widened to hold every
    camera: a few outlying points do not enlarge the mapped volume.

    Raises:
        ReconstructionError: No cell of these frames has a point.
    """
    sampled = [np.zeros((0, 3), np.float32)]
    for name in thinned(names, _SAMPLED_FRAMES):
        points_hw3 = reconstruction.read_frame(name).points_hw3
        sampled.append(points_hw3[np.isfinite(points_hw3).all(axis=-1)])
    points_n3 = np.concatenate(sampled).astype(np.float64)
    if not len(points_n3):
        raise ReconstructionError(
            f"{reconstruction.folder}: found no cell with a point in {len(names)} training frames, "
            "expected some"
        )
    cameras_n3 = np.array([T[:3, 3] for T in reconstruction.poses.values()])
    low_3, high_3 = np.percentile(points_n3, (1, 99), axis=0)
    low_3 = np.minimum(low_3, cameras_n3.min(axis=0)).round(3)
    high_3 = np.maximum(high_3, cameras_n3.max(axis=0)).round(3)
    spread = float(np.sqrt(points_n3.var(axis=0).mean()))
    return SceneExtent(
        mean=tuple(points_n3.mean(axis=0).tolist()),
        spread=max(spread, _MIN_SPREAD_M),
        bounds_min=tuple(low_3.tolist()),
        bounds_max=tuple(high_3.tolist()),
    )
