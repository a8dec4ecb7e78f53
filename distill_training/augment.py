"""Random views of a reconstructed frame: the image plane turned, zoomed, shifted; colours changed.

Turning about the optical axis and zooming keep every pixel's 3-D point exactly, so the pointmap is
not approximated but looked up where the pixel came from: depth is interpolated along the pixel's
own ray.
"""

from dataclasses import dataclass

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
        points_cam = transform(T_cam_map, frame.points_hw3.astype(np.float64))
        self._depth_hw = np.nan_to_num(points_cam[..., 2], nan=0.0).astype(np.float32)
        self._cells_hw2 = cell_pixels(camera.width, camera.height, stride)

    def plain(self) -> View:
        """Return the frame as it is."""
        return self._view(self.image_hw3, self._cells_hw2)

    def draw(self, rng: np.random.Generator, config: AugmentConfig) -> View:
        """Return a random view."""
        angle = np.radians(rng.uniform(-config.rotation_deg, config.rotation_deg))
        zoom = np.exp(rng.uniform(-1, 1) * np.log(config.zoom))
        centre = np.array([self._camera.cx, self._camera.cy])
        shift = rng.uniform(-config.shift, config.shift, 2) * self._camera.width
        cos, sin = np.cos(angle) / zoom, np.sin(angle) / zoom
        A = np.array([[cos, -sin], [sin, cos]])  # augmented pixel -> original pixel
        b = centre - A @ (centre + shift)
        size = (self._camera.width, self._camera.height)
        image = cv2.warpAffine(
            self.image_hw3,
            np.c_[A, b],
            size,
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_CONSTANT,
            borderValue=tuple(float(c) for c in rng.integers(0, 256, 3)),
        )
        return self._view(_recolour(image, rng, config), self._cells_hw2 @ A.T + b)

    def _view(self, image_hw3: np.ndarray, pixels_hw2: np.ndarray) -> View:
        """Look up the points of cells that stand at given pixels of the unaugmented image."""
        rows, columns = self._depth_hw.shape
        grid = (pixels_hw2 - (self._stride - 1) / 2) / self._stride
        limits = np.array([columns, rows]) - 0.5
        inside = np.all((grid > -0.5) & (grid < limits), axis=-1)
        # Half a cell beyond the outermost cells is extrapolated: fractions from -0.5 to 1.5.
        corner = np.floor(grid).astype(int).clip(0, (columns - 2, rows - 2))
        fraction = (grid - corner).astype(np.float32)
        j, i = corner[..., 0], corner[..., 1]
        near = np.stack([self._depth_hw[i + di, j + dj] for di in (0, 1) for dj in (0, 1)], axis=-1)
        x, y = fraction[..., 0], fraction[..., 1]
        weight = np.stack([(1 - y) * (1 - x), (1 - y) * x, y * (1 - x), y * x], axis=-1)
        one_surface = (near.min(axis=-1) > 0) & (
            near.max(axis=-1) < _SAME_SURFACE * near.min(axis=-1)
        )
        with np.errstate(divide="ignore", invalid="ignore"):
            # 1/z of a plane is linear in the pixel: exact on planes.
            smooth = 1 / (weight / near).sum(axis=-1)
        nearest = np.take_along_axis(near, weight.argmax(axis=-1)[..., None], axis=-1)[..., 0]
        depth = np.where(one_surface, smooth, nearest)
        points = transform(self.T_map_cam, self._camera.rays(pixels_hw2) * depth[..., None])
        valid = inside & (depth > 0)
        return View(
            image_hw3,
            np.where(valid[..., None], points, 0).astype(np.float32),
            valid,
            pixels_hw2.astype(np.float32),
            inside,
            self._T_cam_map,
        )


def _recolour(image_hw3: np.ndarray, rng: np.random.Generator, config: AugmentConfig) -> np.ndarray:
    """Change brightness, contrast and the balance of colours, by one table per channel."""
    gain = (1 + rng.uniform(-config.contrast, config.contrast)) * (
        1 + rng.uniform(-config.colour, config.colour, 3)
    )
    offset = 127.5 + 255 * rng.uniform(-config.brightness, config.brightness)
    levels = (np.arange(256)[:, None] - 127.5) * gain + offset
    return cv2.LUT(image_hw3, levels.clip(0, 255).astype(np.uint8)[None])
