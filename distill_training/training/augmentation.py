"""Random views of a reconstructed frame: moved, turned, zoomed, stretched; less sharp and clean.

Some are drawn from where no photograph was taken, see `novel_views`. Then and otherwise, an affine
map of the image plane keeps every pixel's 3-D point exactly, so the pointmap is not approximated
but looked up where the pixel came from: depth is interpolated along the pixel's own ray.
"""

import math
from copy import copy
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from distill_training.reconstruction import ReconstructedFrame
from distill_training.training.novel_views import SAME_SURFACE, MovableFrame, random_motion
from mote_localization.camera import Camera, cell_pixels
from mote_localization.errors import MoteError
from mote_localization.geometry import invert, transform

_NOISE_LEVELS = 32.0  # standard deviation of the stored noise: 8 bits hold four of them either way
_NOISE_OFFSETS = 1 << 16  # places where a view's noise may start


@dataclass(frozen=True)
class AugmentConfig:
    """How far views are changed."""

    rotation_deg: float = 30.0  # deg, at most, about the optical axis, either way
    zoom: float = 1.5  # at most, in or out
    shift: float = 0.1  # share of the image's width, at most, either way
    brightness: float = 0.2  # share of the full range, at most, either way
    contrast: float = 0.3  # share, at most, either way
    colour: float = 0.1  # share per channel, at most, either way
    noise: float = 0.02  # share of the full range, standard deviation of each pixel's, at most
    # px, standard deviation, at most; half of the views are out of focus, half moved while exposed
    blur: float = 1.0
    # ratio, at most, of two zooms at right angles, as of surfaces seen at a slant; 1: none
    stretch: float = 1.0
    # share of the image's width, at most, of the sides of a rectangle that hides what is behind it
    cutout: float = 0.0
    # fraction of views that are rendered from a pose at which no photograph was taken
    novel_view_fraction: float = 0.0
    # share of the median depth, standard deviation along each axis of how far away from one
    novel_view_shift: float = 0.06
    novel_view_rotation_deg: float = (
        3.0  # deg, likewise of the turn about each axis but the optical one
    )

    def __post_init__(self) -> None:
        """Refuse what no view can be made of."""
        for name, value in vars(self).items():
            least = 1 if name in ("zoom", "stretch") else 0
            if not least <= value < math.inf:
                raise MoteError(f"found {name} {value:g} of views, expected {least} or more")
        if self.novel_view_fraction > 1:
            raise MoteError(
                f"found novel_view_fraction {self.novel_view_fraction:g}, expected 0 to 1"
            )


@dataclass(frozen=True)
class View:
    """One training example."""

    image_hw3: np.ndarray  # RGB uint8
    points_hw3: np.ndarray  # float32, m, map frame; 0 where not valid
    valid_hw: np.ndarray  # bool, the teacher knows the cell's point
    pixels_hw2: np.ndarray  # float32, where each cell stands in the unaugmented image
    inside_hw: np.ndarray  # bool, the cell shows the unaugmented image
    T_cam_map: np.ndarray  # (4, 4) float32, of the unaugmented image
    T_near_map: np.ndarray  # (4, 4) float32, of an image that sees the same from beside it
    sigma_hw: np.ndarray  # float32, m, expected error of the teacher's point; 0 where none is said


class FrameViews:
    """A reconstructed frame from which views are drawn."""

    def __init__(
        self,
        frame: ReconstructedFrame,
        T_map_cam: np.ndarray,
        camera: Camera,
        stride: int,
        near_n44: np.ndarray | None = None,
    ) -> None:
        """Keep the image and each cell's depth: its point lies that far along the cell's ray.

        Args:
            frame: Image and points.
            T_map_cam: Its pose.
            camera: Canonical.
            stride: Pixels per cell side.
            near_n44: Poses T_map_cam of neighbouring frames; none: itself.
        """
        self._camera, self._stride = camera, stride
        self._movable: MovableFrame | None = None
        near_n44 = T_map_cam[None] if near_n44 is None or not len(near_n44) else near_n44
        self._near_n44 = np.stack([invert(T) for T in near_n44]).astype(np.float32)
        points_cam = transform(invert(T_map_cam), frame.points_hw3.astype(np.float64))
        depth_hw = np.nan_to_num(points_cam[..., 2], nan=0.0).astype(np.float32)
        sigma_hw = np.where(np.isfinite(frame.sigma_hw), frame.sigma_hw, 0).astype(np.float32)
        self._stand(T_map_cam, frame.image_hw3, depth_hw, sigma_hw, np.ones_like(depth_hw, bool))

    def _stand(
        self,
        T_map_cam: np.ndarray,
        image_hw3: np.ndarray,
        depth_hw: np.ndarray,
        sigma_hw: np.ndarray,
        shown_hw: np.ndarray,
    ) -> None:
        """Set the pose and what is seen from there; cells that are not shown see nothing."""
        self.T_map_cam, self.image_hw3 = T_map_cam, image_hw3
        self._depth_hw, self._sigma_hw, self._shown_hw = depth_hw, sigma_hw, shown_hw
        self._T_cam_map = invert(T_map_cam).astype(np.float32)
        # pixel -> ray, map axes
        self._map_rays_33 = T_map_cam[:3, :3] @ np.linalg.inv(self._camera.K_33)
        self._surface_n4 = _surfaces(depth_hw)

    def plain(self) -> View:
        """Return the frame as it is."""
        return self._view(self.image_hw3, np.eye(2, 3), self._near_n44[0])

    def draw(self, rng: np.random.Generator, config: AugmentConfig) -> View:
        """Return a random view."""
        if config.novel_view_fraction and rng.random() < config.novel_view_fraction:
            return self._moved(rng, config)._drawn(rng, config)
        return self._drawn(rng, config)

    def _moved(self, rng: np.random.Generator, config: AugmentConfig) -> "FrameViews":
        """Return what a camera beside the frame's sees; itself where no depth is known."""
        if self._movable is None:
            self._movable = MovableFrame(
                self.image_hw3, self._depth_hw, self._sigma_hw, self._camera
            )
        if not self._movable.depth:
            return self
        T_cam_moved = random_motion(
            rng, self._movable.depth, config.novel_view_shift, config.novel_view_rotation_deg
        )
        image_hw3, depth_hw, sigma_hw = self._movable.seen_from(
            T_cam_moved, rng.integers(0, 256, 3).tolist()
        )
        moved = copy(self)
        moved._stand(self.T_map_cam @ T_cam_moved, image_hw3, depth_hw, sigma_hw, depth_hw > 0)
        return moved

    def _drawn(self, rng: np.random.Generator, config: AugmentConfig) -> View:
        """Return a random view in the frame's own image plane."""
        A_23 = _random_map(rng, config, self._camera)
        image_hw3 = cv2.warpAffine(
            self.image_hw3,
            A_23,
            (self._camera.width, self._camera.height),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_CONSTANT,
            borderValue=rng.integers(0, 256, 3).tolist(),
        )
        hidden_n = self._hide(image_hw3, rng, config.cutout) if config.cutout else None
        image_hw3 = _blurred(image_hw3, rng, config.blur)
        image_hw3 = _recoloured(image_hw3, rng, config)
        image_hw3 = _noisy(image_hw3, rng, config.noise)
        T_near_map = self._near_n44[rng.integers(len(self._near_n44))]
        return self._view(image_hw3, A_23, T_near_map, hidden_n)

    def _hide(self, image_hw3: np.ndarray, rng: np.random.Generator, share: float) -> np.ndarray:
        """Fill a random rectangle of the image, in place; return which cells (n,) it hides."""
        size = np.array([self._camera.width, self._camera.height])
        side = rng.uniform(0, share, 2) * self._camera.width
        corner = rng.uniform(0, size) - side / 2
        low, high = corner.clip(0, size).astype(int), (corner + side).clip(0, size).astype(int)
        image_hw3[low[1] : high[1], low[0] : high[0]] = rng.integers(0, 256, 3)
        cells_2n = _cells(self._camera.width, self._camera.height, self._stride)[:2]
        # A pixel reaches half a pixel beyond its centre.
        covered = (cells_2n > low[:, None] - 0.5) & (cells_2n < high[:, None] - 0.5)
        return covered[0] & covered[1]

    def _view(
        self,
        image_hw3: np.ndarray,
        A_23: np.ndarray,
        T_near_map: np.ndarray,
        hidden_n: np.ndarray | None = None,
    ) -> View:
        """Look up the points of an image whose pixels A takes to the unaugmented image's.

        Arrays are flat and their axes x, y, z apart: what is computed is then contiguous.
        """
        rows, columns = self._depth_hw.shape
        cells_3n = _cells(self._camera.width, self._camera.height, self._stride)
        pixels_2n = A_23.astype(np.float32) @ cells_3n
        x, y = (pixels_2n - (self._stride - 1) / 2) / self._stride  # in cells
        inside = (x > -0.5) & (x < columns - 0.5) & (y > -0.5) & (y < rows - 0.5)
        if hidden_n is not None:
            inside &= ~hidden_n
        # Half a cell beyond the outermost cells is extrapolated: fractions from -0.5 to 1.5.
        j, i = _floor(x, columns - 2), _floor(y, rows - 2)
        one, by_x, by_y, by_xy = self._surface_n4.take(i * (columns - 1) + j, axis=0).T
        smooth = one + by_x * (x - j) + (by_y + by_xy * (x - j)) * (y - i)
        nearest = _floor(y + 0.5, rows - 1) * columns + _floor(x + 0.5, columns - 1)
        inside &= self._shown_hw.take(nearest)
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
            T_near_map,
            self._sigma_hw.take(nearest).reshape(rows, columns),
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
    one_surface = (nearest > 0) & (farthest < SAME_SURFACE * nearest)
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
    stretch, along = config.stretch ** rng.uniform(0, 1), rng.uniform(0, np.pi)
    zooms_22 = np.diag([stretch**-0.5, stretch**0.5]) / zoom
    A_22 = _rotation(along) @ zooms_22 @ _rotation(angle - along)
    centre = np.array([camera.cx, camera.cy])
    return np.c_[A_22, centre - A_22 @ (centre + shift)]


def _rotation(angle: float) -> np.ndarray:
    """Return the rotation (2, 2) by an angle, rad."""
    cos, sin = math.cos(angle), math.sin(angle)
    return np.array([[cos, -sin], [sin, cos]])


def _blurred(image_hw3: np.ndarray, rng: np.random.Generator, most_px: float) -> np.ndarray:
    """Blur by a Gaussian or along a line, of up to `most_px` px standard deviation."""
    sigma, moved, angle = rng.uniform(0, most_px), rng.random() < 0.5, rng.uniform(0, np.pi)
    if sigma < 0.2:  # px: changes nothing
        return image_hw3
    if not moved:
        return cv2.GaussianBlur(image_hw3, (0, 0), sigma)
    return cv2.filter2D(image_hw3, -1, _line(math.sqrt(12) * sigma, angle))


def _line(length_px: float, angle: float) -> np.ndarray:
    """Return a line through the middle of a square, of sum 1: float32, as large as it needs."""
    along = length_px * np.linspace(-0.5, 0.5, 1 + 2 * math.ceil(length_px))
    radius = math.ceil(length_px / 2)
    at = np.arange(-radius, radius + 1)[:, None]
    # Each of the line's points is shared out among the four pixels around it.
    x, y = (np.maximum(0, 1 - np.abs(at - f(angle) * along)) for f in (math.cos, math.sin))
    return (y @ x.T / len(along)).astype(np.float32)


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


def _noisy(image_hw3: np.ndarray, rng: np.random.Generator, most: float) -> np.ndarray:
    """Add Gaussian noise of up to `most` of the full range, drawn once and for all beforehand."""
    share, start = rng.uniform(0, most), rng.integers(_NOISE_OFFSETS)
    noise_hw3 = _noise(image_hw3.size)[start:][: image_hw3.size].reshape(image_hw3.shape)
    gain = 255 * share / _NOISE_LEVELS
    return cv2.addWeighted(image_hw3, 1, noise_hw3, gain, -128 * gain)


@lru_cache(maxsize=4)
def _noise(size: int) -> np.ndarray:
    """Return uint8 noise about 128, enough for an image of so many numbers at any offset."""
    noise = np.random.default_rng(0).normal(128, _NOISE_LEVELS, size + _NOISE_OFFSETS)
    return noise.round().clip(0, 255).astype(np.uint8)
