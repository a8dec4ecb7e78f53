"""One image's pointmap while it is being made: depth along its cells' rays."""

from dataclasses import dataclass

import numpy as np

from mote_localization.camera import Camera, cell_pixels

SAME_SURFACE = 0.1  # of the depth: what is farther apart lies on different surfaces


@dataclass(frozen=True)
class DepthMap:
    """Depth of an image's cells, and where the image was taken."""

    grid: Camera  # undistorted, of the cells
    stride: int  # px of the grid camera per cell side
    T_map_cam: np.ndarray
    depth_hw: np.ndarray  # z, units of the map, NaN = none
    sigma_hw: np.ndarray  # expected error of the point, same units

    def rays_hw3(self) -> np.ndarray:
        """Return the cells' rays, z = 1."""
        return self.grid.rays(cell_pixels(self.grid.width, self.grid.height, self.stride))

    def along(self, rays: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return depth and sigma (...) on rays (..., 3), z above 0, of this camera.

        Between cells of one surface inverse depth is interpolated, which is exact on planes; across
        the border of surfaces, and outside, there is none: NaN.
        """
        cells = (self.grid.project(rays) - (self.stride - 1) / 2) / self.stride
        last = np.array(self.depth_hw.shape[::-1]) - 1
        inside = np.all((cells >= -0.5) & (cells <= last + 0.5), axis=-1)
        cells = np.where(inside[..., None], cells, 0).clip(0, last)
        corner = np.minimum(cells.astype(int), np.maximum(last - 1, 0))
        share = cells - corner
        weights, depths, sigmas = [], [], []
        for dx, dy in ((0, 0), (1, 0), (0, 1), (1, 1)):
            column, row = np.minimum(corner + (dx, dy), last).T
            weights.append(
                np.where(dx, share[..., 0], 1 - share[..., 0])
                * np.where(dy, share[..., 1], 1 - share[..., 1])
            )
            depths.append(self.depth_hw[row.T, column.T])
            sigmas.append(self.sigma_hw[row.T, column.T])
        weight, depth, sigma = np.stack(weights), np.stack(depths), np.stack(sigmas)
        counts = weight > 1e-6  # a cell's own ray needs no neighbour
        nearest = depth.min(axis=0, where=counts, initial=np.inf)
        farthest = depth.max(axis=0, where=counts, initial=0)
        with np.errstate(invalid="ignore"):
            one_surface = farthest - nearest <= SAME_SURFACE * nearest
        known = inside & one_surface & np.isfinite(sigma).all(axis=0, where=counts)
        depth, sigma = np.where(known & counts, depth, 1), np.where(known & counts, sigma, 0)
        return (
            np.where(known, 1 / (weight / depth).sum(axis=0), np.nan),
            np.where(known, (weight * sigma).sum(axis=0), np.nan),
        )
