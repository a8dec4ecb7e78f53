"""Views that no photograph was taken from: its pixels, moved to where a near camera sees them.

The teacher's points say where every pixel lies, so what a camera some decimetres beside the
photograph's sees can be drawn. What the photograph does not show stays unknown.
"""

from functools import lru_cache

import cv2
import numpy as np

from mote_localization.camera import Camera
from mote_localization.geometry import exp_rotation, invert

_SAME_SURFACE = 1.1  # ratio of depths between neighbouring samples up to which a surface goes on
_NEAREST = 0.1  # of the median depth: nothing nearer is drawn
_SQUARE = np.ones((3, 3), np.uint8)
_SAMPLES = 2  # samples of depth across a cell in which what hides what is decided


def random_motion(
    rng: np.random.Generator, depth: float, shift: float, turn_deg: float
) -> np.ndarray:
    """Return T_cam_moved (4, 4) of a camera beside the photograph's.

    Args:
        rng: Says where.
        depth: Median depth of what the photograph shows, metres.
        shift: Standard deviation of the position along each axis, as a share of the depth.
        turn_deg: Standard deviation of the turn about each axis but the optical one, degrees.
    """
    T_cam_moved = np.eye(4)
    turn = np.radians(turn_deg) * rng.standard_normal(3) * (1, 1, 0)
    T_cam_moved[:3, :3] = exp_rotation(turn)
    T_cam_moved[:3, 3] = shift * depth * rng.standard_normal(3)
    return T_cam_moved


class MovableFrame:
    """A photograph with the depth of its cells, as other cameras near it see it."""

    def __init__(
        self, image_hw3: np.ndarray, depth_hw: np.ndarray, sigma_hw: np.ndarray, camera: Camera
    ) -> None:
        """Spread its depth.

        Args:
            image_hw3: RGB uint8.
            depth_hw: Of each cell, metres; 0: not known.
            sigma_hw: Expected error of each cell's point, metres.
            camera: Canonical.
        """
        self._image_hw3, self._sigma_hw, self._camera = image_hw3, sigma_hw, camera
        self._stride = camera.width // depth_hw.shape[1]
        fine_hw = refined(depth_hw, _SAMPLES)
        rays_3n = _rays(camera, self._stride / _SAMPLES, fine_hw.shape)
        known_n = fine_hw.ravel() > 0
        self.depth = float(np.median(fine_hw[fine_hw > 0])) if known_n.any() else 0.0
        self._points_3n = rays_3n[:, known_n] * fine_hw.ravel()[known_n]
        self._fine_shape = fine_hw.shape

    def seen_from(
        self, T_cam_moved: np.ndarray, fill: tuple[int, int, int]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return what a moved camera sees: image_hw3, and depth_hw and sigma_hw of its cells.

        Args:
            T_cam_moved: Its pose in the axes of the photograph's.
            fill: Colour of what the photograph does not show; depth is 0 there.
        """
        camera = self._camera
        fine_hw = self._hidden_removed(invert(T_cam_moved))
        dense_hw = refined(fine_hw, self._stride // _SAMPLES)
        rays_3n = _rays(camera, 1, dense_hw.shape)
        points_3n = (T_cam_moved[:3, :3].astype(np.float32) @ rays_3n) * dense_hw.ravel()
        points_3n += T_cam_moved[:3, 3:].astype(np.float32)
        z = np.maximum(points_3n[2], 1e-6)
        seen = (dense_hw > 0) & (points_3n[2].reshape(dense_hw.shape) > 0)
        x_hw = (camera.fx * points_3n[0] / z + camera.cx).reshape(dense_hw.shape)
        y_hw = (camera.fy * points_3n[1] / z + camera.cy).reshape(dense_hw.shape)
        image_hw3 = cv2.remap(
            self._image_hw3,
            np.where(seen, x_hw, -9),
            np.where(seen, y_hw, -9),
            cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_CONSTANT,
            borderValue=fill,
        )
        # a cell's middle is the corner of its four middle samples; 1/depth is linear on planes
        rows, columns = (n // _SAMPLES for n in fine_hw.shape)
        grid = fine_hw.reshape(rows, _SAMPLES, columns, _SAMPLES)
        samples_hw4 = grid.swapaxes(1, 2).reshape(rows, columns, -1)
        nearest_hw = samples_hw4.min(axis=-1)
        one_surface = (nearest_hw > 0) & (samples_hw4.max(axis=-1) < _SAME_SURFACE * nearest_hw)
        mean_hw = 1 / (1 / np.where(one_surface[..., None], samples_hw4, 1)).mean(axis=-1)
        middle = slice(self._stride // 2, None, self._stride)
        sigma_hw = cv2.remap(
            self._sigma_hw,
            x_hw[middle, middle] / self._stride - 0.5,
            y_hw[middle, middle] / self._stride - 0.5,
            cv2.INTER_NEAREST,
            borderMode=cv2.BORDER_REPLICATE,
        )
        return image_hw3, np.where(one_surface, mean_hw, nearest_hw), sigma_hw

    def _hidden_removed(self, T_moved_cam: np.ndarray) -> np.ndarray:
        """Return the depth of what is nearest along each of the moved camera's rays; 0: nothing."""
        camera, size = self._camera, self._stride / _SAMPLES
        rows, columns = self._fine_shape
        R, t = T_moved_cam[:3, :3].astype(np.float32), T_moved_cam[:3, 3:].astype(np.float32)
        points_3n = R @ self._points_3n + t
        points_3n = points_3n[:, points_3n[2] > _NEAREST * self.depth]
        x, y, z = points_3n[:, np.argsort(-points_3n[2])]  # what is nearest is written last
        j = np.rint(((camera.fx / size) * x / z) + (camera.cx - (size - 1) / 2) / size)
        i = np.rint(((camera.fy / size) * y / z) + (camera.cy - (size - 1) / 2) / size)
        inside = (j >= 0) & (j < columns) & (i >= 0) & (i < rows)
        depth_hw = np.zeros(self._fine_shape, np.float32)
        depth_hw[i[inside].astype(np.int32), j[inside].astype(np.int32)] = z[inside]
        # Rounding leaves holes a sample wide; what stands farther away fills them.
        return np.where(
            depth_hw > 0, depth_hw, cv2.morphologyEx(depth_hw, cv2.MORPH_CLOSE, _SQUARE)
        )


def refined(depth_hw: np.ndarray, factor: int) -> np.ndarray:
    """Return depth sampled `factor` times as finely; 0: not known.

    1/depth is interpolated linearly, exact on planes, where neighbours lie on one surface; surfaces
    are not bridged.
    """
    depth_hw = depth_hw.astype(np.float32)
    size = (depth_hw.shape[1] * factor, depth_hw.shape[0] * factor)
    low_hw = cv2.erode(depth_hw, _SQUARE)
    one_surface = (low_hw > 0) & (cv2.dilate(depth_hw, _SQUARE) < _SAME_SURFACE * low_hw)
    inverse_hw = 1 / np.maximum(depth_hw, 1e-3)
    smooth_hw = 1 / cv2.resize(inverse_hw, size, interpolation=cv2.INTER_LINEAR)
    nearest_hw = cv2.resize(depth_hw, size, interpolation=cv2.INTER_NEAREST)
    on_surface = cv2.resize(one_surface.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
    return np.where(on_surface, smooth_hw, nearest_hw)


@lru_cache(maxsize=8)
def _rays(camera: Camera, size_px: float, shape: tuple[int, int]) -> np.ndarray:
    """Return the rays (3, n), of depth 1, of samples `size_px` px wide; float32."""
    y, x = np.indices(shape, np.float32).reshape(2, -1)
    u, v = (size_px * at + (size_px - 1) / 2 for at in (x, y))
    rays_3n = [(u - camera.cx) / camera.fx, (v - camera.cy) / camera.fy, np.ones_like(u)]
    return np.stack(rays_3n).astype(np.float32)
