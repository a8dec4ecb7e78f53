"""Random views of a reconstructed frame: the image is augmented, its points stay exact.

The image is warped by a random affine map, then blurred, recoloured and given noise. The pointmap
is not warped: each cell's point is looked up on its pixel's ray in the unaugmented image, where
depth is interpolated. A view may also be rendered from a novel pose first, see `novel_views`.
"""

import math
from copy import copy
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from distill_training.reconstruction import ReconstructedFrame
from distill_training.training import novel_views
from mote_localization.camera import Camera, cell_pixels
from mote_localization.errors import MoteError
from mote_localization.geometry import invert, transform

_NOISE_LEVELS = 32.0  # standard deviation of the stored noise: uint8 holds 4 of them on each side
_NOISE_OFFSETS = 1 << 16  # start positions of a view's noise in the stored noise


@dataclass(frozen=True)
class AugmentConfig:
    """How views are augmented."""

    rotation_deg: float = 30.0  # largest rotation about the optical axis, degrees
    zoom: float = 1.5  # largest zoom factor, in or out
    shift: float = 0.1  # largest shift, fraction of the image width
    brightness: float = 0.2  # largest change of brightness, fraction of the full range
    contrast: float = 0.3  # largest relative change of contrast
    colour: float = 0.1  # largest relative change of each colour channel
    noise: float = 0.02  # largest standard deviation of pixel noise, fraction of the full range
    # largest standard deviation of the blur, px; half of the views get a Gaussian blur, half a
    # motion blur
    blur: float = 1.0
    # largest ratio of the zooms along two perpendicular directions, as on slanted surfaces; 1: none
    stretch: float = 1.0
    # largest side of a random rectangle that covers part of the image, fraction of the image
    # width; 0: none
    cutout: float = 0.0
    # fraction of views that are rendered from a novel pose, one without a photograph
    novel_view_fraction: float = 0.0
    # standard deviation of a novel pose's shift along each axis, fraction of the median depth
    novel_view_shift: float = 0.06
    # standard deviation of a novel pose's rotation about the x and the y axis, degrees
    novel_view_rotation_deg: float = 3.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            option = f"--augment.{name.replace('_', '-')}"
            least = 1 if name in ("zoom", "stretch") else 0
            if not least <= value < math.inf:
                raise MoteError(f"found {option} {value:g}, expected {least} or more")
            if name == "novel_view_fraction" and value > 1:
                raise MoteError(f"found {option} {value:g}, expected 0 to 1")


@dataclass(frozen=True)
class View:
    """One training example."""

    image_hw3: np.ndarray  # RGB uint8
    points_hw3: np.ndarray  # float32, m, map frame; 0 where not valid
    valid_hw: np.ndarray  # bool, the cell has a teacher's point
    pixels_hw2: np.ndarray  # float32, position of each cell in the unaugmented image
    inside_hw: np.ndarray  # bool, the cell shows part of the unaugmented image
    T_cam_map: np.ndarray  # (4, 4) float32, of the unaugmented image
    T_near_map: np.ndarray  # (4, 4) float32, of a neighbouring image that shows the same points
    sigma_hw: np.ndarray  # float32, m, expected error of the teacher's point; 0 where unknown


class FrameViews:
    """Makes views of one reconstructed frame."""

    def __init__(
        self,
        frame: ReconstructedFrame,
        T_map_cam: np.ndarray,
        camera: Camera,
        stride: int,
        near_n44: np.ndarray | None = None,
    ) -> None:
        """Store the image and the depth of each cell, along the cell's ray.

        Args:
            frame: Image and points.
            T_map_cam: Pose of the frame.
            camera: Canonical camera.
            stride: Pixels per cell side.
            near_n44: Poses T_map_cam of neighbouring frames; none: the frame's own pose.
        """
        self._camera, self._stride = camera, stride
        self._renderer: novel_views.NovelViewRenderer | None = None
        near_n44 = T_map_cam[None] if near_n44 is None or not len(near_n44) else near_n44
        self._near_n44 = np.stack([invert(T) for T in near_n44]).astype(np.float32)
        points_cam = transform(invert(T_map_cam), frame.points_hw3.astype(np.float64))
        depth_hw = np.nan_to_num(points_cam[..., 2], nan=0.0).astype(np.float32)
        sigma_hw = np.where(np.isfinite(frame.sigma_hw), frame.sigma_hw, 0).astype(np.float32)
        shown_hw = np.ones_like(depth_hw, bool)
        self._set_content(T_map_cam, frame.image_hw3, depth_hw, sigma_hw, shown_hw)

    def _set_content(
        self,
        T_map_cam: np.ndarray,
        image_hw3: np.ndarray,
        depth_hw: np.ndarray,
        sigma_hw: np.ndarray,
        shown_hw: np.ndarray,
    ) -> None:
        """Set the pose, the image and its cells; cells outside `shown_hw` have no image content."""
        self.T_map_cam, self.image_hw3 = T_map_cam, image_hw3
        self._depth_hw, self._sigma_hw, self._shown_hw = depth_hw, sigma_hw, shown_hw
        self._T_cam_map = invert(T_map_cam).astype(np.float32)
        # pixel -> ray in map axes
        self._map_rays_33 = T_map_cam[:3, :3] @ np.linalg.inv(self._camera.K_33)
        self._inverse_depth_n4 = _inverse_depth_patches(depth_hw)

    def plain(self) -> View:
        """Return the frame without augmentation."""
        return self._make_view(self.image_hw3, np.eye(2, 3), self._near_n44[0])

    def draw(self, rng: np.random.Generator, config: AugmentConfig) -> View:
        """Return a random view."""
        if config.novel_view_fraction and rng.random() < config.novel_view_fraction:
            return self._novel(rng, config)._augment(rng, config)
        return self._augment(rng, config)

    def _novel(self, rng: np.random.Generator, config: AugmentConfig) -> "FrameViews":
        """Return the frame as seen from a random pose nearby; itself where no depth is known."""
        if self._renderer is None:
            self._renderer = novel_views.NovelViewRenderer(
                self.image_hw3, self._depth_hw, self._sigma_hw, self._camera
            )
        depth = self._renderer.median_depth
        if not depth:
            return self
        spread = config.novel_view_shift, config.novel_view_rotation_deg
        T_cam_novel = novel_views.random_nearby_pose(rng, depth, *spread)
        fill = rng.integers(0, 256, 3).tolist()
        image_hw3, depth_hw, sigma_hw = self._renderer.render(T_cam_novel, fill)
        novel = copy(self)
        novel._set_content(
            self.T_map_cam @ T_cam_novel, image_hw3, depth_hw, sigma_hw, depth_hw > 0
        )
        return novel

    def _augment(self, rng: np.random.Generator, config: AugmentConfig) -> View:
        """Return a view with random changes of geometry, sharpness, colour and noise."""
        A_23 = _random_affine(rng, config, self._camera)
        size, fill = (self._camera.width, self._camera.height), rng.integers(0, 256, 3).tolist()
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        image_hw3 = cv2.warpAffine(self.image_hw3, A_23, size, flags=flags, borderValue=fill)
        hidden_n = self._cut_out(image_hw3, rng, config.cutout) if config.cutout else None
        image_hw3 = _blur(image_hw3, rng, config.blur)
        image_hw3 = _change_colours(image_hw3, rng, config)
        image_hw3 = _add_noise(image_hw3, rng, config.noise)
        T_near_map = self._near_n44[rng.integers(len(self._near_n44))]
        return self._make_view(image_hw3, A_23, T_near_map, hidden_n)

    def _cut_out(
        self, image_hw3: np.ndarray, rng: np.random.Generator, max_side: float
    ) -> np.ndarray:
        """Fill a random rectangle of the image, in place; return a mask (n,) of the hidden cells.

        Its sides are at most the fraction `max_side` of the image width.
        """
        size = np.array([self._camera.width, self._camera.height])
        side = rng.uniform(0, max_side, 2) * self._camera.width
        corner = rng.uniform(0, size) - side / 2
        low, high = corner.clip(0, size).astype(int), (corner + side).clip(0, size).astype(int)
        image_hw3[low[1] : high[1], low[0] : high[0]] = rng.integers(0, 256, 3)
        cells_2n = _cells(self._camera.width, self._camera.height, self._stride)[:2]
        # A pixel extends half a pixel beyond its centre.
        covered = (cells_2n > low[:, None] - 0.5) & (cells_2n < high[:, None] - 0.5)
        return covered[0] & covered[1]

    def _make_view(
        self,
        image_hw3: np.ndarray,
        A_23: np.ndarray,
        T_near_map: np.ndarray,
        hidden_n: np.ndarray | None = None,
    ) -> View:
        """Return a view with the points of an image; A maps its pixels to the unaugmented image.

        Arrays are flat, with x, y and z on the first axis, so that operations are on contiguous
        memory.
        """
        rows, columns = self._depth_hw.shape
        cells_3n = _cells(self._camera.width, self._camera.height, self._stride)
        pixels_2n = A_23.astype(np.float32) @ cells_3n
        x, y = (pixels_2n - (self._stride - 1) / 2) / self._stride  # in cells
        inside = (x > -0.5) & (x < columns - 0.5) & (y > -0.5) & (y < rows - 0.5)
        if hidden_n is not None:
            inside &= ~hidden_n
        # Depth is extrapolated up to half a cell beyond the outermost cells.
        j, i = _clipped_floor(x, columns - 2), _clipped_floor(y, rows - 2)
        a, b, c, d = self._inverse_depth_n4.take(i * (columns - 1) + j, axis=0).T
        inverse_depth = a + b * (x - j) + (c + d * (x - j)) * (y - i)
        nearest = _clipped_floor(y + 0.5, rows - 1) * columns + _clipped_floor(x + 0.5, columns - 1)
        inside &= self._shown_hw.take(nearest)
        depth = self._depth_hw.take(nearest)
        np.divide(1, inverse_depth, out=depth, where=inside & ~np.isnan(inverse_depth))
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


def _inverse_depth_patches(depth_hw: np.ndarray) -> np.ndarray:
    """Return coefficients of 1/depth (1/m) between each four cells: a + b x + c y + d x y.

    x and y are in [0, 1]; (a, b, c, d) is ((h - 1) (w - 1), 4) float32, NaN where the four cells
    are not on one surface. 1/depth of a plane is linear in the pixel, so this is exact on planes.
    """
    here, after = slice(None, -1), slice(1, None)
    corners = np.stack([depth_hw[i, j] for i in (here, after) for j in (here, after)])
    one_surface = novel_views.same_surface(corners.min(axis=0), corners.max(axis=0))
    q00, q01, q10, q11 = 1 / np.where(one_surface, corners, np.nan)
    patches_hw4 = np.stack([q00, q01 - q00, q10 - q00, q11 - q10 - q01 + q00], axis=-1)
    return patches_hw4.reshape(-1, 4).astype(np.float32)


@lru_cache(maxsize=4)
def _cells(width: int, height: int, stride: int) -> np.ndarray:
    """Return the homogeneous pixels of the cells: (3, cells) float32."""
    x, y = cell_pixels(width, height, stride).reshape(-1, 2).T
    return np.stack([x, y, np.ones_like(x)]).astype(np.float32)


def _clipped_floor(x: np.ndarray, last: int) -> np.ndarray:
    """Return x rounded down and clipped to 0..last, int32."""
    return np.clip(x, 0, last).astype(np.int32)


def _random_affine(rng: np.random.Generator, config: AugmentConfig, camera: Camera) -> np.ndarray:
    """Return a random affine map (2, 3) from the view's pixels to the unaugmented image's."""
    angle = np.radians(rng.uniform(-config.rotation_deg, config.rotation_deg))
    zoom = config.zoom ** rng.uniform(-1, 1)
    shift = rng.uniform(-config.shift, config.shift, 2) * camera.width
    stretch, direction = config.stretch ** rng.uniform(0, 1), rng.uniform(0, np.pi)
    zooms_22 = np.diag([stretch**-0.5, stretch**0.5]) / zoom
    A_22 = _rotation(direction) @ zooms_22 @ _rotation(angle - direction)
    centre = np.array([camera.cx, camera.cy])
    return np.c_[A_22, centre - A_22 @ (centre + shift)]


def _rotation(angle: float) -> np.ndarray:
    """Return the rotation (2, 2) by an angle, rad."""
    cos, sin = math.cos(angle), math.sin(angle)
    return np.array([[cos, -sin], [sin, cos]])


def _blur(image_hw3: np.ndarray, rng: np.random.Generator, max_px: float) -> np.ndarray:
    """Return the image with Gaussian or motion blur, of a standard deviation up to `max_px`."""
    sigma, motion, angle = rng.uniform(0, max_px), rng.random() < 0.5, rng.uniform(0, np.pi)
    if sigma < 0.2:  # px: no visible change
        return image_hw3
    if not motion:
        return cv2.GaussianBlur(image_hw3, (0, 0), sigma)
    return cv2.filter2D(image_hw3, -1, _motion_blur_kernel(math.sqrt(12) * sigma, angle))


def _motion_blur_kernel(length_px: float, angle: float) -> np.ndarray:
    """Return a square float32 kernel with a line through its centre, of sum 1."""
    along = length_px * np.linspace(-0.5, 0.5, 1 + 2 * math.ceil(length_px))
    radius = math.ceil(length_px / 2)
    at = np.arange(-radius, radius + 1)[:, None]
    # Bilinear: each point of the line is distributed over the four pixels around it.
    x, y = (np.maximum(0, 1 - np.abs(at - f(angle) * along)) for f in (math.cos, math.sin))
    return (y @ x.T / len(along)).astype(np.float32)


def _change_colours(
    image_hw3: np.ndarray, rng: np.random.Generator, config: AugmentConfig
) -> np.ndarray:
    """Return the image with random brightness, contrast and colour balance."""
    gain = (1 + rng.uniform(-config.contrast, config.contrast)) * (
        1 + rng.uniform(-config.colour, config.colour, 3)
    )
    offset = 127.5 + 255 * rng.uniform(-config.brightness, config.brightness)
    levels = (np.arange(256)[:, None] - 127.5) * gain + offset
    return cv2.LUT(image_hw3, levels.clip(0, 255).astype(np.uint8)[None])


def _add_noise(image_hw3: np.ndarray, rng: np.random.Generator, max_sigma: float) -> np.ndarray:
    """Return the image with Gaussian noise, of a standard deviation up to that fraction of 255.

    The noise is a random section of noise that is stored once, which is faster than new noise.
    """
    sigma, start = rng.uniform(0, max_sigma), rng.integers(_NOISE_OFFSETS)
    noise_hw3 = _stored_noise(image_hw3.size)[start:][: image_hw3.size].reshape(image_hw3.shape)
    gain = 255 * sigma / _NOISE_LEVELS
    return cv2.addWeighted(image_hw3, 1, noise_hw3, gain, -128 * gain)


@lru_cache(maxsize=4)
def _stored_noise(size: int) -> np.ndarray:
    """Return uint8 noise about 128, long enough for `size` values from any start position."""
    noise = np.random.default_rng(0).normal(128, _NOISE_LEVELS, size + _NOISE_OFFSETS)
    return noise.round().clip(0, 255).astype(np.uint8)
