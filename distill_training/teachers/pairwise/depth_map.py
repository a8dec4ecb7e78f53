"""Depth map of one image: the depth along the rays of its cells, and the pose."""

from dataclasses import dataclass, replace

import numpy as np

from distill_training.poses.gauge import Gauge
from mote_localization.camera import Camera
from mote_localization.geometry import on_same_surface

SAME_SURFACE = 0.1  # fraction of the depth: larger differences are between two surfaces


@dataclass(frozen=True)
class DepthMap:
    """Depth and sigma of the cells of one image."""

    grid: Camera  # undistorted, the camera of the cells
    stride: int  # px of the grid camera per cell side
    T_map_cam: np.ndarray
    depth_hw: np.ndarray  # along the optical axis, map units, NaN = none
    sigma_hw: np.ndarray  # expected error of the point, map units

    def rays_hw3(self) -> np.ndarray:
        """Return the rays of the cells (h, w, 3), z = 1."""
        return self.grid.cell_rays(self.stride)

    def in_gauge(self, gauge: Gauge) -> "DepthMap":
        """Return the depth map in the frame and unit of a gauge."""
        return replace(
            self,
            T_map_cam=gauge.apply(self.T_map_cam),
            depth_hw=gauge.scale * self.depth_hw,
            sigma_hw=gauge.scale * self.sigma_hw,
        )

    def sample(self, rays: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return depth and sigma (...) along rays (..., 3) of this camera, z above 0.

        Inverse depth is interpolated between cells of one surface, which is exact on planes. Across
        the border of surfaces and outside of the image, the result is NaN.
        """
        cells = (self.grid.project(rays) - (self.stride - 1) / 2) / self.stride
        last = np.array(self.depth_hw.shape[::-1]) - 1
        inside = np.all((cells >= -0.5) & (cells <= last + 0.5), axis=-1)
        cells = np.where(inside[..., None], cells, 0).clip(0, last)
        corner = np.minimum(cells.astype(int), np.maximum(last - 1, 0))
        fraction = cells - corner
        weights, depths, sigmas = [], [], []
        for dx, dy in ((0, 0), (1, 0), (0, 1), (1, 1)):
            column, row = np.minimum(corner + (dx, dy), last).T
            weights.append(
                np.where(dx, fraction[..., 0], 1 - fraction[..., 0])
                * np.where(dy, fraction[..., 1], 1 - fraction[..., 1])
            )
            depths.append(self.depth_hw[row.T, column.T])
            sigmas.append(self.sigma_hw[row.T, column.T])
        weight, depth, sigma = np.stack(weights), np.stack(depths), np.stack(sigmas)
        counts = weight > 1e-6  # the ray of a cell needs no neighbour
        nearest = depth.min(axis=0, where=counts, initial=np.inf)
        farthest = depth.max(axis=0, where=counts, initial=0)
        with np.errstate(invalid="ignore"):
            one_surface = on_same_surface(farthest, nearest, SAME_SURFACE)
        known = inside & one_surface & np.isfinite(sigma).all(axis=0, where=counts)
        depth, sigma = np.where(known & counts, depth, 1), np.where(known & counts, sigma, 0)
        return (
            np.where(known, 1 / (weight / depth).sum(axis=0), np.nan),
            np.where(known, (weight * sigma).sum(axis=0), np.nan),
        )
