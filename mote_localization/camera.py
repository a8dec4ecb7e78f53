"""Cameras: their lens models, and the remap of live images into the map's canonical camera."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import ArrayLike

from mote_localization.errors import CameraError, ImageError
from mote_localization.images import MAX_SIDE_PX

_log = logging.getLogger(__name__)
# Allowed numbers of coefficients of each model, in the order of sensor_msgs/CameraInfo.
DISTORTION_MODELS = {
    "plumb_bob": (0, 4, 5),
    "rational_polynomial": (0, 8, 12, 14),
    "equidistant": (0, 4),
}
MODEL_ALIASES = {"fisheye": "equidistant", "radtan": "plumb_bob"}  # of OpenCV and Kalibr
_CALIBRATE = (
    "calibrate it (ros2 run camera_calibration cameracalibrator), or let its driver load the "
    "calibration"
)
_MAX_SKEW = 5e-3  # relative to fx: half a degree between the axes of the pixels is 9e-3
_MAX_CANONICAL_PIXELS = 1 << 22  # as 2048x2048; maps have 320x240 by default
_MAX_CELLS = 1 << 17
_FOLD_STEPS, _FOLD_DIRECTIONS = 512, 8


@dataclass(frozen=True)
class Camera:
    """Image size, pinhole parameters and distortion; (0, 0) is the centre of the first pixel."""

    width: int  # px
    height: int  # px
    fx: float  # px
    fy: float  # px
    cx: float  # px
    cy: float  # px
    distortion_model: str = "plumb_bob"
    distortion: tuple[float, ...] = ()  # empty: none

    def __post_init__(self) -> None:
        if not (0 < self.width <= MAX_SIDE_PX and 0 < self.height <= MAX_SIDE_PX):
            raise CameraError(
                f"found an image size of {f'{self.width}x{self.height}'[:40]} px, expected 1 to "
                f"{MAX_SIDE_PX}"
            )
        numbers = (self.fx, self.fy, self.cx, self.cy, *self.distortion)
        if not np.isfinite(numbers).all() or self.fx <= 0 or self.fy <= 0:
            raise CameraError(
                f"found focal lengths {self.fx:g}, {self.fy:g} px, principal point {self.cx:g}, "
                f"{self.cy:g} px, expected finite values and focal lengths above 0; {_CALIBRATE}"
            )
        if self.distortion_model not in DISTORTION_MODELS:
            raise CameraError(
                f"found distortion model '{self.distortion_model[:40]}', expected one of "
                f"{', '.join(DISTORTION_MODELS)}"
            )
        if len(self.distortion) not in DISTORTION_MODELS[self.distortion_model]:
            raise CameraError(
                f"found {len(self.distortion)} coefficients of distortion model "
                f"{self.distortion_model}, expected one of "
                f"{DISTORTION_MODELS[self.distortion_model]}"
            )

    @classmethod
    def from_K(
        cls,
        width: int,
        height: int,
        K: ArrayLike,
        distortion_model: str | None = None,
        distortion: Iterable[float] = (),
    ) -> "Camera":
        """Return the camera of a matrix K (3, 3), or of its 9 values row by row, in pixels.

        A small skew of K is dropped with a warning, and so are zeros that pad the coefficients.

        Args:
            width: Of the image, px.
            height: Of the image, px.
            K: The matrix.
            distortion_model: One of `DISTORTION_MODELS`, fisheye (equidistant) or radtan
                (plumb_bob). None or empty: plumb_bob up to 5 coefficients, else
                rational_polynomial.
            distortion: Its coefficients in the order of sensor_msgs/CameraInfo.

        Raises:
            CameraError: K is zero (no calibration), not finite or not a pinhole matrix; the
                distortion model is unknown; or an image size is out of range.
        """
        K = np.asarray(K, np.float64)
        if K.size != 9:
            raise CameraError(f"found a camera matrix of {K.size} values, expected 9")
        K = K.reshape(3, 3)
        if not K.any():
            raise CameraError(
                f"found a camera matrix K of zeros: the camera is not calibrated; {_CALIBRATE}"
            )
        pinhole = np.allclose(K[[1, 2, 2, 2], [0, 0, 1, 2]], (0, 0, 0, 1), atol=1e-6)
        if not (pinhole and abs(K[0, 1]) <= _MAX_SKEW * abs(K[0, 0])):  # also for NaN
            raise CameraError(
                f"found K = {str(K.tolist())[:200]}, expected [fx 0 cx; 0 fy cy; 0 0 1]"
            )
        if abs(K[0, 1]) > 1e-6:
            _warn_of_skew(float(K[0, 1]), abs(float(K[0, 1] / K[1, 1])) * height / 2)
        coefficients = tuple(float(d) for d in distortion)
        model = MODEL_ALIASES.get(distortion_model or "", distortion_model)
        if not model:
            used = _used_count(coefficients)
            model = "plumb_bob" if used <= 5 else "rational_polynomial"
        return cls(
            int(width),
            int(height),
            float(K[0, 0]),
            float(K[1, 1]),
            float(K[0, 2]),
            float(K[1, 2]),
            model,
            _without_padding(model, coefficients),
        )

    @property
    def K_33(self) -> np.ndarray:
        """The pinhole matrix (3, 3) in pixels."""
        return np.array([[self.fx, 0, self.cx], [0, self.fy, self.cy], [0, 0, 1]], np.float64)

    def resized(
        self, width: int, height: int, window: tuple[float, float, float, float] | None = None
    ) -> "Camera":
        """Return the camera with another image size, in px.

        Args:
            width: Of the new image.
            height: Of the new image.
            window: Left, top, right and bottom edge of the part of the image that it shows; None:
                the whole image.
        """
        left, top, right, bottom = window or (0, 0, self.width, self.height)
        sx, sy = width / (right - left), height / (bottom - top)
        return replace(
            self,
            width=width,
            height=height,
            fx=self.fx * sx,
            fy=self.fy * sy,
            cx=(self.cx + 0.5 - left) * sx - 0.5,
            cy=(self.cy + 0.5 - top) * sy - 0.5,
        )

    def read_out(
        self,
        offset: tuple[int, int] = (0, 0),
        size: tuple[int, int] = (0, 0),
        binning: tuple[int, int] = (0, 0),
    ) -> "Camera":
        """Return the camera of images that show a part of the sensor, or binned pixels of it.

        The arguments are those of sensor_msgs/CameraInfo, x first: ROI and binning refer to the
        full sensor, for which the camera is calibrated.

        Args:
            offset: Left and top edge of the ROI, px.
            size: Of the ROI, px; 0: the size of the camera.
            binning: Sensor pixels that are averaged to one; 0: 1.

        Raises:
            CameraError: No pixel is left.
        """
        columns, rows = (max(1, pixels) for pixels in binning)
        width, height = (size[0] or self.width) // columns, (size[1] or self.height) // rows
        if width < 1 or height < 1:
            raise CameraError(
                f"found a binning of {columns}x{rows}"[:80] + ", expected at most the image's size"
            )
        left, top = offset
        window = (left, top, left + width * columns, top + height * rows)
        return self.resized(width, height, window)

    def rays(self, pixels: np.ndarray) -> np.ndarray:
        """Return the viewing rays (..., 3), z = 1, of pixels (..., 2) of an undistorted camera."""
        xy = (pixels - (self.cx, self.cy)) / (self.fx, self.fy)
        return np.concatenate([xy, np.ones_like(xy[..., :1])], axis=-1)

    def cell_rays(self, stride: int) -> np.ndarray:
        """Return the rays (h, w, 3) of the centres of its cells; see `rays` and `cell_pixels`.

        Args:
            stride: Side of a cell, px.
        """
        return self.rays(cell_pixels(self.width, self.height, stride))

    def corner_rays(self) -> np.ndarray:
        """Return the rays (4, 3), z = 1, of the image corners, clockwise from the top left."""
        right, bottom = self.width - 0.5, self.height - 0.5
        corners = [[-0.5, -0.5], [right, -0.5], [right, bottom], [-0.5, bottom]]
        return self.rays(np.array(corners))

    def project(self, rays: np.ndarray) -> np.ndarray:
        """Return the distorted pixels (..., 2) of camera-frame points (..., 3), z above 0.

        ROS's plumb_bob and rational_polynomial are OpenCV's pinhole model, equidistant is its
        fisheye model.
        """
        fisheye = self.distortion_model == "equidistant" and self.distortion
        if not fisheye and not any(self.distortion):  # ten times faster than OpenCV
            return rays[..., :2] / rays[..., 2:] * (self.fx, self.fy) + (self.cx, self.cy)
        points = np.ascontiguousarray(rays, np.float64).reshape(-1, 1, 3)
        project = cv2.fisheye.projectPoints if fisheye else cv2.projectPoints
        zero = np.zeros(3)
        pixels = project(points, zero, zero, self.K_33, np.array(self.distortion))[0]
        return pixels.reshape(*rays.shape[:-1], 2)


@lru_cache(maxsize=16)  # once for each camera, not for each of its messages
def _warn_of_skew(skew: float, shift_px: float) -> None:
    _log.warning(
        "found a skew of %g px in K, which is dropped: the top and bottom of the image move by "
        "%.1f px",
        skew,
        shift_px,
    )


def _used_count(coefficients: tuple[float, ...]) -> int:
    """Return the number of coefficients up to the last one that is not 0."""
    return max((i for i, value in enumerate(coefficients, 1) if value), default=0)


def _without_padding(model: str, coefficients: tuple[float, ...]) -> tuple[float, ...]:
    """Return the coefficients without zeros that pad them beyond a number the model can have."""
    used = _used_count(coefficients)
    if used == 0:
        return ()
    counts = DISTORTION_MODELS.get(model, ())
    fitting = [count for count in counts if used <= count <= len(coefficients)]
    return coefficients[: fitting[-1]] if fitting else coefficients


def frustum_edges(camera: Camera, depth: float) -> np.ndarray:
    """Return the edges (8, 2, 3) of a view, camera frame: 4 at a depth, 4 from the centre."""
    corners_43 = depth * camera.corner_rays()
    sides = np.stack([corners_43, np.roll(corners_43, 1, axis=0)], axis=1)
    from_centre = np.stack([np.zeros_like(corners_43), corners_43], axis=1)
    return np.concatenate([sides, from_centre])


def cell_pixels(width: int, height: int, stride: int) -> np.ndarray:
    """Return the pixel at the centre of each pointmap cell, (height/stride, width/stride, 2)."""
    half = (stride - 1) / 2
    x = stride * np.arange(width // stride) + half
    y = stride * np.arange(height // stride) + half
    return np.stack(np.meshgrid(x, y), axis=-1)


def cell_index(pixels: np.ndarray, camera: Camera, stride: int) -> np.ndarray:
    """Return the index (...), row by row, of the cells nearest to pixels.

    Args:
        pixels: Columns and rows of pixels (2, ...), finite.
        camera: The camera whose image is divided into cells.
        stride: Side of a cell, px.
    """
    last = camera.width // stride - 1, camera.height // stride - 1
    column, row = (
        ((x + 0.5) / stride).astype(np.intp).clip(0, most)
        for x, most in zip(pixels, last, strict=True)
    )
    return row * (last[0] + 1) + column


class CanonicalView:
    """Remaps images of a live camera into the map's canonical camera.

    Images of a higher resolution are first reduced by area averaging with a whole-number factor:
    remapping alone would skip pixels, which causes aliasing.
    """

    def __init__(self, live: Camera, canonical: Camera, stride: int) -> None:
        """Build the remap table, which undistorts, scales and crops.

        Args:
            live: The camera that takes the images, distorted or not.
            canonical: The undistorted camera that the student was trained for.
            stride: Pixels of the canonical image per cell side.

        Raises:
            CameraError: The two cameras' views do not overlap.
        """
        self.live, self.canonical = live, canonical
        shrink = max(1, round(min(live.fx / canonical.fx, live.fy / canonical.fy)))
        self._size = (max(1, live.width // shrink), max(1, live.height // shrink))
        self._crop = (self._size[0] * shrink, self._size[1] * shrink)
        columns, rows = np.meshgrid(np.arange(canonical.width), np.arange(canonical.height))
        rays = canonical.rays(np.stack([columns, rows], axis=-1).astype(np.float64))
        source = (live.project(rays) + 0.5) / shrink - 0.5
        last = np.array(self._size) - 1
        inside = ((source >= -0.5) & (source <= last + 0.5)).all(axis=-1)
        inside &= np.hypot(rays[..., 0], rays[..., 1]) < np.tan(_fold_angle(live, rays))
        if not inside.any():
            raise CameraError(
                f"the camera ({live.width}x{live.height} px, fx {live.fx:g}) sees nothing of what "
                f"the map's camera ({canonical.width}x{canonical.height} px, fx {canonical.fx:g}) "
                "sees: check its calibration"
            )
        # The outer half of a border pixel takes the value of its centre; unseen pixels are black.
        source = np.where(inside[..., None], source.clip(0, last), -2).astype(np.float32)
        self._table = cv2.convertMaps(source[..., 0], source[..., 1], cv2.CV_16SC2)
        # An undistorted camera with the same field of view only needs the reduction.
        moved_px = np.abs(source - np.stack([columns, rows], axis=-1)).max()
        same_size = self._size == (canonical.width, canonical.height)
        self._needs_no_remap = same_size and moved_px < 1 / cv2.INTER_TAB_SIZE
        cells = cell_pixels(canonical.width, canonical.height, stride).round().astype(int)
        self.covered_hw: np.ndarray = inside[cells[..., 1], cells[..., 0]]

    def check(self, image_hw3: np.ndarray) -> None:
        """Check an image of the live camera.

        Raises:
            ImageError: The image is not uint8 or has another size than the live camera.
        """
        expected = (self.live.height, self.live.width, 3)
        if image_hw3.shape != expected or image_hw3.dtype != np.uint8:
            raise ImageError(
                f"found an image of shape {image_hw3.shape} {image_hw3.dtype}, expected {expected} "
                "uint8 as in its calibration; image and CameraInfo do not belong together"
            )

    def warp(self, image_hw3: np.ndarray) -> np.ndarray:
        """Return the canonical image (H, W, 3), uint8, of a live image (live size, 3), uint8.

        Raises:
            ImageError: The image is not uint8 or has another size than the live camera.
        """
        self.check(image_hw3)
        if self._size != (self.live.width, self.live.height):
            image_hw3 = image_hw3[: self._crop[1], : self._crop[0]]
            image_hw3 = cv2.resize(image_hw3, self._size, interpolation=cv2.INTER_AREA)
        if self._needs_no_remap:
            return np.ascontiguousarray(image_hw3)
        return cv2.remap(image_hw3, *self._table, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)


def _fold_angle(camera: Camera, rays: np.ndarray) -> float:
    """Return the angle from the optical axis, rad, up to which the lens model is one to one.

    Distortion polynomials are calibrated inside the image. Farther out some fold back: rays that
    the camera cannot see then project into the image.
    """
    widest = np.arctan(np.hypot(rays[..., 0], rays[..., 1]).max())
    angles = np.linspace(0, 1.01 * widest, _FOLD_STEPS)
    around = np.linspace(0, 2 * np.pi, _FOLD_DIRECTIONS, endpoint=False)
    directions = np.stack([np.cos(around), np.sin(around)], axis=-1)
    fan = np.tan(angles)[:, None, None] * directions  # (angles, directions, 2)
    pixels = camera.project(np.concatenate([fan, np.ones_like(fan[..., :1])], axis=-1))
    radii = np.linalg.norm((pixels - (camera.cx, camera.cy)) / (camera.fx, camera.fy), axis=-1)
    folded = ~(np.diff(radii, axis=0) > 0).all(axis=1)  # true for NaN
    return float(angles[folded.argmax()]) if folded.any() else np.pi / 2


def check_canonical_size(width: int, height: int, stride: int) -> None:
    """Check the size of a canonical camera: a map can state any, and buffers have that size.

    Raises:
        CameraError: It has too many pixels or cells.
    """
    cells = width * height // stride**2
    if width * height > _MAX_CANONICAL_PIXELS or cells > _MAX_CELLS:
        raise CameraError(
            f"found a canonical camera of {width}x{height} px and {cells} cells, expected at most "
            f"{_MAX_CANONICAL_PIXELS / 1e6:.1f} million px and {_MAX_CELLS} cells"
        )


def canonical_camera(live: Camera, width: int, stride: int) -> Camera:
    """Return the undistorted camera, `width` px wide, of the maps made with a live camera.

    Both axes have the same scale. The height is cropped to whole cells, evenly at top and bottom.

    Raises:
        CameraError: The width is not a multiple of the stride, the height is below one cell, or
            there are too many pixels or cells.
    """
    if width % stride:
        raise CameraError(
            f"found a map width of {width} px, expected a multiple of the stride, {stride} px"
        )
    scale = width / live.width
    scaled_height = live.height * scale
    height = int(scaled_height // stride) * stride
    check_canonical_size(width, height, stride)
    return Camera(
        width,
        height,
        live.fx * scale,
        live.fy * scale,
        (live.cx + 0.5) * scale - 0.5,
        (live.cy + 0.5) * scale - 0.5 - (scaled_height - height) / 2,
    )
