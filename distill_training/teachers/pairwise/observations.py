"""What all pairs say of a few cells of every image: enough to align the images."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from distill_training.common.robust import weighted_median
from distill_training.teachers.pairwise.predictions import DirectedPair
from mote_localization.camera import Camera, cell_pixels

_SIDE = 12  # cells along each side of an image that stand for all
_NEAREST = 1e-6  # of a pair's own unit: what lies nearer, or behind, counts as this near


@dataclass(frozen=True)
class Observations:
    """Directed pairs e = (first, second), each at an unknown scale of its own, at n cells.

    `own` are cells of the first image, `other` those of the second, both in the frame of the first.
    """

    rays_in3: np.ndarray  # of each image's cells, z = 1, with the focal lengths as first assumed
    first_e: np.ndarray
    second_e: np.ndarray
    own_en3: np.ndarray  # pair units
    own_weight_en: np.ndarray  # confidence, 0 where there is no point
    other_en3: np.ndarray  # pair units
    other_weight_en: np.ndarray  # likewise

    @property
    def images(self) -> int:
        """How many images there are."""
        return len(self.rays_in3)


def sampled_cells(rows: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
    """Return rows and columns (n,) of the cells that stand for an image of any size."""
    i, j = (np.linspace(0, n - 1, _SIDE).round().astype(int) for n in (rows, columns))
    return np.repeat(i, _SIDE), np.tile(j, _SIDE)


def observe(pairs: Iterable[DirectedPair], grids: list[Camera], stride: int) -> Observations:
    """Read the sampled cells of all pairs, one pair in memory at a time.

    Args:
        pairs: Directed pairs, both orders of each.
        grids: The camera of each image's cells.
        stride: Pixels per cell side.
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
        own, other = cells[pair.i], cells[pair.j]
        maps.append(
            np.concatenate(
                [
                    pair.own_hw3[own],
                    pair.own_confidence_hw[own][:, None],
                    pair.other_hw3[other],
                    pair.other_confidence_hw[other][:, None],
                ],
                axis=1,
                dtype=np.float32,
            )
        )
    ends_e2 = np.array(ends, int).reshape(-1, 2)
    maps_en8 = np.array(maps, np.float32).reshape(len(ends_e2), _SIDE**2, 8)
    seen_en = np.all(np.isfinite(maps_en8), axis=-1, keepdims=True)
    maps_en8 = np.where(seen_en, maps_en8, 0)
    return Observations(
        rays_in3,
        ends_e2[:, 0],
        ends_e2[:, 1],
        maps_en8[..., :3],
        maps_en8[..., 3],
        maps_en8[..., 4:7],
        maps_en8[..., 7],
    )


def depth_along(rays: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Return the z (...) of the place on each ray (..., 3), z = 1, nearest to its point."""
    return np.maximum((points * rays).sum(axis=-1) / (rays**2).sum(axis=-1), _NEAREST)


def agree_on_scales(
    observations: Observations, rays_in3: np.ndarray, steps: int = 4
) -> tuple[np.ndarray, np.ndarray]:
    """Bring all that is said of an image in its own frame to one unit: its median depth.

    Returns:
        log_scales_e: Logarithm of the first image's unit per unit of the pair.
        depth_in: Depth of each image's cells, in its unit; NaN where no pair sees it.
    """
    first_e, weight_en = observations.first_e, observations.own_weight_en
    log_en = np.log(depth_along(rays_in3[first_e], observations.own_en3))
    # All pairs of an image by the same cells: their medians differ by nothing but their scales.
    trust_in = np.zeros(rays_in3.shape[:2])
    np.add.at(trust_in, first_e, weight_en)
    log_scales_e = -weighted_median(log_en, np.where(weight_en > 0, trust_in[first_e], 0), axis=1)
    log_depth_in = np.full(rays_in3.shape[:2], np.nan)
    by_first = pairs_by_image(first_e, observations.images)
    for _ in range(steps):
        for image, mine in enumerate(by_first):
            if len(mine):
                said = log_scales_e[mine, None] + log_en[mine]
                log_depth_in[image] = weighted_median(said, weight_en[mine], axis=0)
        log_scales_e = fit_scales(observations, rays_in3, np.exp(log_depth_in))
    return log_scales_e, np.exp(log_depth_in)


def fit_scales(
    observations: Observations, rays_in3: np.ndarray, depth_in: np.ndarray
) -> np.ndarray:
    """Return the log of the first image's unit per pair unit (e,) that fits its depth best."""
    log_en = np.log(depth_along(rays_in3[observations.first_e], observations.own_en3))
    difference_en = np.log(depth_in)[observations.first_e] - log_en
    weight_en = np.where(np.isfinite(difference_en), observations.own_weight_en, 0)
    return weighted_median(difference_en, weight_en, axis=1)


def pairs_by_image(image_e: np.ndarray, images: int) -> list[np.ndarray]:
    """Return, for every image, the directed pairs of which it is that end."""
    order = np.argsort(image_e, kind="stable")
    return np.split(order, np.searchsorted(image_e[order], np.arange(1, images)))
