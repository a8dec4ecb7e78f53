"""Random views of a reconstructed frame: the image plane turned, zoomed, shifted; colours changed.

Turning about the optical axis and zooming keep every pixel's 3-D point exactly, so the pointmap is
not approximated but looked up where the pixel came from: depth is interpolated along the pixel's
own ray.
"""

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from distill_training.reconstruction import ReconstructedFrame
from mote_localization.camera import Camera, cell_pixels
from mote_localization.geometry import invert, transform

# Neighbouring cells farther apart than this, as a ratio of depths, lie on different surfaces.
_SAME_SURFACE = 1.1


@dataclass(frozen=True)
class AugmentConfig:
    """How far views are changed."""

    rotation_deg: float = 30.0  # deg, at most, about the optical axis, either way
    zoom: float = 1.5  # at most, in or out
    shift: float = 0.1  # share of the image's width, at most, either way
    brightness: float = 0.2  # share of the full range, at most, either way
    contrast: float = 0.3  # share, at most, either way
    colour: float = 0.1  # share per channel, at most, either way


@dataclass(frozen=True)
class View:
    """One training example."""

    image_hw3: np.ndarray  # RGB uint8
    points_hw3: np.ndarray  # float32, m, map frame; 0 where not valid
    valid_hw: np.ndarray  # bool, the teacher knows the cell's point
    pixels_hw2: np.ndarray  # float32, where each cell stands in the unaugmented image
    inside_hw: np.ndarray  # bool, the cell stands on the unaugmented image
    T_cam_map: np.ndarray  # (4, 4) float32, of the unaugmented image


class FrameViews:
    """A reconstructed frame from which views are drawn."""

    def __init__(
        self, frame: ReconstructedFrame, T_map_cam: np.ndarray, camera: Camera, stride: int
    ) -> None:
        """Keep the image and each cell's depth: its point lies that far along the cell's ray."""
        self.image_hw3 = frame.image_hw3
        self.T_map_cam = T_map_cam
        self._camera, self._stride = camera, stride
        T_cam_map = invert(T_map_cam)
        self._T_cam_map = T_cam_map.astype(np.float32)
        self._map_rays_33 = T_map_cam[:3, :3] @ np.linalg.inv(camera.K_33)  # pixel -> ray, map axes
        points_cam = transform(T_cam_map, frame.points_hw3.astype(np.float64))
        self._depth_hw = np.nan_to_num(points_cam[..., 2], nan=0.0).astype(np.float32)
        self._surface_n4 = _surfaces(self._depth_hw)

    def plain(self) -> View:
        """Return the frame as it is."""
        return self._view(self.image_hw3, np.eye(2, 3))

    def draw(self, rng: np.random.Generator, config: AugmentConfig) -> View:
        """Return a random view."""
        A_23 = _random_map(rng, config, self._camera)
        image_hw3 = cv2.warpAffine(
            self.image_hw3,
            A_23,
            (self._camera.width, self._camera.height),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_CONSTANT,
            borderValue=rng.integers(0, 256, 3).tolist(),
        )
        return self._view(_recoloured(image_hw3, rng, config), A_23)

    def _view(self, image_hw3: np.ndarray, A_23: np.ndarray) -> View:
        """Look up the points of an image whose pixels A takes to the unaugmented image's.

        Arrays are flat and their axes x, y, z apart: what is computed is then contiguous.
        """
        rows, columns = self._depth_hw.shape
        cells_3n = _cells(self._camera.width, self._camera.height, self._stride)
        pixels_2n = A_23.astype(np.float32) @ cells_3n
        x, y = (pixels_2n - (self._stride - 1) / 2) / self._stride  # in cells
        inside = (x > -0.5) & (x < columns - 0.5) & (y > -0.5) & (y < rows - 0.5)
        # Half a cell beyond the outermost cells is extrapolated: fractions from -0.5 to 1.5.
        j, i = _floor(x, columns - 2), _floor(y, rows - 2)
        one, by_x, by_y, by_xy = self._surface_n4.take(i * (columns - 1) + j, axis=0).T
        smooth = one + by_x * (x - j) + (by_y + by_xy * (x - j)) * (y - i)
        nearest = _floor(y + 0.5, rows - 1) * columns + _floor(x + 0.5, columns - 1)
        depth = self._depth_hw.take(nearest)
        np.divide(1, smooth, out=depth, where=inside & ~np.isnan(smooth))
        valid = inside & (depth > 0)
        map_rays_33 = self._map_rays_33 @ np.r_[A_23, [[0, 0, 1]]]
        points_3n = (map_rays_33.astype(np.float32) @ cells_3n) * depth
        points_3n += self.T_map_cam[:3, 3:].astype(np.float32)
        points_3n *= valid
        return View(
            image_hw3,
            np.ascontiguousarray(points_3n.T).reshape(rows, columns, 3),
            valid.reshape(rows, columns),
            np.ascontiguousarray(pixels_2n.T).reshape(rows, columns, 2),
            inside.reshape(rows, columns),
            self._T_cam_map,
        )


def _surfaces(depth_hw: np.ndarray) -> np.ndarray:
    """Return what 1/depth is between each four cells: a + b x + c y + d x y, x and y in [0, 1].

    1/depth of a plane is linear in the pixel: exact on planes.

    Args:
        depth_hw: Depths of the cells, m; 0: not known.

    Returns:
        (a, b, c, d) ((h - 1) (w - 1), 4) float32, 1/m; NaN where not all four lie on one surface.
    """
    near = np.stack(
        [depth_hw[i : i - 1 or None, j : j - 1 or None] for i in (0, 1) for j in (0, 1)]
    )
    nearest, farthest = near.min(axis=0), near.max(axis=0)
    one_surface = (nearest > 0) & (farthest < _SAME_SURFACE * nearest)
    q00, q01, q10, q11 = 1 / np.where(one_surface, near, np.nan)
    surfaces_hw4 = np.stack([q00, q01 - q00, q10 - q00, q11 - q10 - q01 + q00], axis=-1)
    return surfaces_hw4.reshape(-1, 4).astype(np.float32)


@lru_cache(maxsize=4)
def _cells(width: int, height: int, stride: int) -> np.ndarray:
    """Return the pixels of the cells, homogeneous: (3, cells) float32."""
    x, y = cell_pixels(width, height, stride).reshape(-1, 2).T
    return np.stack([x, y, np.ones_like(x)]).astype(np.float32)


def _floor(x: np.ndarray, last: int) -> np.ndarray:
    """Return the whole numbers at or below x, of 0 to last."""
    return np.clip(x, 0, last).astype(np.int32)


def _random_map(rng: np.random.Generator, config: AugmentConfig, camera: Camera) -> np.ndarray:
    """Return where a random view's pixels stand in the unaugmented image: an affine map (2, 3)."""
    angle = np.radians(rng.uniform(-config.rotation_deg, config.rotation_deg))
    zoom = config.zoom ** rng.uniform(-1, 1)
    shift = rng.uniform(-config.shift, config.shift, 2) * camera.width
    cos, sin = np.cos(angle) / zoom, np.sin(angle) / zoom
    A_22 = np.array([[cos, -sin], [sin, cos]])
    centre = np.array([camera.cx, camera.cy])
    return np.c_[A_22, centre - A_22 @ (centre + shift)]


def _recoloured(
    image_hw3: np.ndarray, rng: np.random.Generator, config: AugmentConfig
) -> np.ndarray:
    """Change brightness, contrast and the balance of colours, by one table per channel."""
    gain = (1 + rng.uniform(-config.contrast, config.contrast)) * (
        1 + rng.uniform(-config.colour, config.colour, 3)
    )
    offset = 127.5 + 255 * rng.uniform(-config.brightness, config.brightness)
    levels = (np.arange(256)[:, None] - 127.5) * gain + offset
    return cv2.LUT(image_hw3, levels.clip(0, 255).astype(np.uint8)[None])
