"""Triangulated points that one frame sees."""

from dataclasses import dataclass

import numpy as np

from mote_localization.camera import Camera


@dataclass(frozen=True)
class FramePoints:
    """Triangulated points that one frame sees, in its camera frame."""

    ray_k2: np.ndarray  # x and y at z = 1, without distortion
    depth_k: np.ndarray  # m, along the optical axis
    sigma_k: np.ndarray  # m, expected error of the depth

    def rays_k3(self) -> np.ndarray:
        """Return the rays of the points (k, 3), z = 1."""
        return np.concatenate([self.ray_k2, np.ones_like(self.ray_k2[:, :1])], axis=1)

    def scaled(self, scale: float) -> "FramePoints":
        """Return the points with their depths multiplied by a factor."""
        return FramePoints(self.ray_k2, scale * self.depth_k, scale * self.sigma_k)

    def in_cells(self, grid: Camera, stride: int) -> tuple[np.ndarray, np.ndarray]:
        """Return depth and sigma (h, w) of the most accurate point in each cell, metres.

        The depth is taken at the cell's centre. There it differs where the surface is slanted:
        sigma also has the difference at a slope of 45 degrees. Cells without a point have depth
        NaN and sigma infinite.

        Args:
            grid: Undistorted camera of the cells.
            stride: Side of a cell, px.
        """
        rows, columns = grid.height // stride, grid.width // stride
        depth_hw, sigma_hw = np.full((rows, columns), np.nan), np.full((rows, columns), np.inf)
        pixels_k2 = self.ray_k2 * (grid.fx, grid.fy) + (grid.cx, grid.cy)
        cells_k2 = np.floor((pixels_k2 + 0.5) / stride).astype(int)
        column_k, row_k = cells_k2.T
        from_centre_k2 = (pixels_k2 - stride * cells_k2 - (stride - 1) / 2) / (grid.fx, grid.fy)
        offset_k = self.depth_k * np.linalg.norm(from_centre_k2, axis=1)
        all_sigma_k = np.hypot(self.sigma_k, offset_k)
        inside_k = (column_k >= 0) & (column_k < columns) & (row_k >= 0) & (row_k < rows)
        usable = np.flatnonzero(inside_k & (self.depth_k > 0) & np.isfinite(all_sigma_k))
        # The last assignment to a cell stays: the most accurate point comes last.
        usable = usable[np.argsort(-all_sigma_k[usable], kind="stable")]
        depth_hw[row_k[usable], column_k[usable]] = self.depth_k[usable]
        sigma_hw[row_k[usable], column_k[usable]] = all_sigma_k[usable]
        return depth_hw, sigma_hw


NO_POINTS = FramePoints(np.zeros((0, 2)), np.zeros(0), np.zeros(0))
