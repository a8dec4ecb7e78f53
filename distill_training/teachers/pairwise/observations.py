"""Pair predictions at sampled cells of every image, which are enough to align the images."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from distill_training.common.robust import weighted_median
from distill_training.teachers.pairwise.predictions import DirectedPair
from mote_localization.camera import Camera, cell_pixels

_SIDE = 12  # sampled cells along each side of an image
_MIN_DEPTH = 1e-6  # pair units; nearer points and points behind the camera get this depth


@dataclass(frozen=True)
class Observations:
    """Predictions of directed pairs e = (first, second) at n cells, each pair in an unknown unit.

    `own` are cells of the first image and `other` cells of the second image. Points of both are in
    the camera frame of the first image.
    """

    rays_in3: np.ndarray  # rays of the cells, z = 1, with the initial focal lengths
    first_e: np.ndarray  # image index
    second_e: np.ndarray  # image index
    own_en3: np.ndarray  # pair units
    own_weight_en: np.ndarray  # confidence, 0 = no point
    other_en3: np.ndarray  # pair units
    other_weight_en: np.ndarray  # confidence, 0 = no point

    @property
    def images(self) -> int:
        """Number of images."""
        return len(self.rays_in3)


def sampled_cells(rows: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
    """Return rows and columns (n,) of the sampled cells; n is the same for every image size."""
    i, j = (np.linspace(0, n - 1, _SIDE).round().astype(int) for n in (rows, columns))
    return np.repeat(i, _SIDE), np.tile(j, _SIDE)


def observe(pairs: Iterable[DirectedPair], grids: list[Camera], stride: int) -> Observations:
    """Return the predictions at the sampled cells; one pair is in memory at a time.

    Args:
        pairs: Directed pairs, both orders of each.
        grids: Camera of each image's cells.
        stride: Side of a cell, px.
    """
    cells = [sampled_cells(grid.height // stride, grid.width // stride) for grid in grids]
    rays_in3 = np.array(
        [
            grid.rays(cell_pixels(grid.width, grid.height, stride)[at])
            for grid, at in zip(grids, cells, strict=True)
        ],
        np.float32,
    )
    ends, maps = [], []
    for pair in pairs:
        ends.append((pair.i, pair.j))
        i, j = cells[pair.i], cells[pair.j]
        own = pair.own_hw3[i], pair.own_confidence_hw[i]
        other = pair.other_hw3[j], pair.other_confidence_hw[j]
        maps.append(np.column_stack([*own, *other]))
    ends_e2 = np.array(ends, int).reshape(-1, 2)
    maps_en8 = np.array(maps, np.float32).reshape(len(ends_e2), _SIDE**2, 8)
    valid_en = np.all(np.isfinite(maps_en8), axis=-1, keepdims=True)
    maps_en8 = np.where(valid_en, maps_en8, 0)
    first_e, second_e = ends_e2.T
    own_en3, other_en3 = maps_en8[..., :3], maps_en8[..., 4:7]
    return Observations(
        rays_in3, first_e, second_e, own_en3, maps_en8[..., 3], other_en3, maps_en8[..., 7]
    )


def depth_along(rays: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Return the depth z (...) at which rays (..., 3), z = 1, are nearest to points (..., 3)."""
    return np.maximum((points * rays).sum(axis=-1) / (rays**2).sum(axis=-1), _MIN_DEPTH)


def estimate_pair_scales(
    observations: Observations, rays_in3: np.ndarray, steps: int = 4
) -> tuple[np.ndarray, np.ndarray]:
    """Estimate the scale of each pair so that all predictions of an image in its own frame agree.

    The unit of an image is its median depth.

    Args:
        observations: Pair predictions.
        rays_in3: Rays of the cells, z = 1.
        steps: Alternations between scales and depth.

    Returns:
        log_scales_e: Log of the first image's units per pair unit.
        depth_in: Depth of each image's cells, in its unit; NaN where no pair has a point.
    """
    first_e, weight_en = observations.first_e, observations.own_weight_en
    log_en = np.log(depth_along(rays_in3[first_e], observations.own_en3))
    # All pairs of an image have the same weights: their medians differ only by their scales.
    total_weight_in = np.zeros(rays_in3.shape[:2])
    np.add.at(total_weight_in, first_e, weight_en)
    shared_weight_en = np.where(weight_en > 0, total_weight_in[first_e], 0)
    log_scales_e = -weighted_median(log_en, shared_weight_en, axis=1)
    log_depth_in = np.full(rays_in3.shape[:2], np.nan)
    by_first = pairs_by_image(first_e, observations.images)
    for _ in range(steps):
        for image, own in enumerate(by_first):
            if len(own):
                scaled = log_scales_e[own, None] + log_en[own]
                log_depth_in[image] = weighted_median(scaled, weight_en[own], axis=0)
        log_scales_e = fit_scales(observations, rays_in3, np.exp(log_depth_in))
    return log_scales_e, np.exp(log_depth_in)


def fit_scales(
    observations: Observations, rays_in3: np.ndarray, depth_in: np.ndarray
) -> np.ndarray:
    """Return the log of the first image's units per pair unit (e,) that fits its depth best."""
    log_en = np.log(depth_along(rays_in3[observations.first_e], observations.own_en3))
    difference_en = np.log(depth_in)[observations.first_e] - log_en
    weight_en = np.where(np.isfinite(difference_en), observations.own_weight_en, 0)
    return weighted_median(difference_en, weight_en, axis=1)


def pairs_by_image(image_e: np.ndarray, images: int) -> list[np.ndarray]:
    """Return the indices of the directed pairs that have each image at one end, `image_e`."""
    order = np.argsort(image_e, kind="stable")
    return np.split(order, np.searchsorted(image_e[order], np.arange(1, images)))
