"""Cameras: calibrations as ROS writes them, and live images as the map's own camera sees them."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import yaml
from numpy.typing import ArrayLike

from mote_localization.errors import CameraError, ImageError
from mote_localization.images import MAX_SIDE_PX

# Number of coefficients each model may have, in the order of sensor_msgs/CameraInfo.
DISTORTION_MODELS = {
    "plumb_bob": (0, 4, 5),
    "rational_polynomial": (0, 8, 12, 14),
    "equidistant": (0, 4),
}
_CALIBRATE = (
    "calibrate it (ros2 run camera_calibration cameracalibrator), or have its driver load the "
    "calibration"
)
_FOLD_STEPS, _FOLD_DIRECTIONS = 512, 8
_MAX_CALIBRATION_BYTES = 1 << 20


@dataclass(frozen=True)
class Camera:
    """An image size, a pinhole and its distortion. Pixel (0, 0) is the first pixel's centre."""

    width: int  # px
    height: int  # px
    fx: float  # px
    fy: float  # px
    cx: float  # px
    cy: float  # px
    distortion_model: str = "plumb_bob"
    distortion: tuple[float, ...] = ()  # empty: none

    def __post_init__(self) -> None:
        """Refuse what no camera can have."""
        if not (0 < self.width <= MAX_SIDE_PX and 0 < self.height <= MAX_SIDE_PX):
            raise CameraError(
                f"found an image size of {self.width}x{self.height} px, expected 1 to {MAX_SIDE_PX}"
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
        distortion_model: str = "plumb_bob",
        distortion: tuple[float, ...] = (),
    ) -> "Camera":
        """Make a camera of K (3, 3), or its 9 values row by row, in pixels.

        Raises:
            CameraError: K is zero (no calibration), not finite, not a pinhole matrix, or the
                distortion is unknown.
        """
        K = np.asarray(K, np.float64)
        if K.size != 9:
            raise CameraError(f"found a camera matrix of {K.size} values, expected 9")
        K = K.reshape(3, 3)
        if not K.any():
            raise CameraError(
                f"found a camera matrix K of zeros: the camera is not calibrated; {_CALIBRATE}"
            )
        if not np.allclose(K[[0, 1, 2, 2, 2], [1, 0, 0, 1, 2]], (0, 0, 0, 0, 1), atol=1e-6):
            raise CameraError(f"found K = {K.tolist()}, expected [fx 0 cx; 0 fy cy; 0 0 1]")
        coefficients = tuple(float(d) for d in distortion)
        if not any(coefficients):
            coefficients = ()
        return cls(
            int(width),
            int(height),
            float(K[0, 0]),
            float(K[1, 1]),
            float(K[0, 2]),
            float(K[1, 2]),
            distortion_model or "plumb_bob",
            coefficients,
        )

    @property
    def K_33(self) -> np.ndarray:
        """The pinhole matrix (3, 3) in pixels."""
        return np.array([[self.fx, 0, self.cx], [0, self.fy, self.cy], [0, 0, 1]], np.float64)

    def resized(self, width: int, height: int) -> "Camera":
        """Return the camera of the same view at another image size, in px."""
        return self._scaled(width, height, width / self.width, height / self.height)

    def _scaled(self, width: int, height: int, sx: float, sy: float) -> "Camera":
        """Return the camera with its image scaled about the corner of the first pixel, then cut."""
        return replace(
            self,
            width=width,
            height=height,
            fx=self.fx * sx,
            fy=self.fy * sy,
            cx=(self.cx + 0.5) * sx - 0.5,
            cy=(self.cy + 0.5) * sy - 0.5,
        )

    def rays(self, pixels: np.ndarray) -> np.ndarray:
        """Return the viewing rays (..., 3) of pixels (..., 2), z = 1, of an undistorted camera."""
        xy = (pixels - (self.cx, self.cy)) / (self.fx, self.fy)
        return np.concatenate([xy, np.ones_like(xy[..., :1])], axis=-1)

    def project(self, rays: np.ndarray) -> np.ndarray:
        """Return the distorted pixels (..., 2) of camera-frame points (..., 3), z above 0.

        Models: the OpenCV pinhole and fisheye models, which plumb_bob, rational_polynomial and
            equidistant name in ROS.
        """
        fisheye = self.distortion_model == "equidistant" and self.distortion
        if not fisheye and not any(self.distortion):  # in a tenth of OpenCV's time
            return rays[..., :2] / rays[..., 2:] * (self.fx, self.fy) + (self.cx, self.cy)
        points = np.ascontiguousarray(rays, np.float64).reshape(-1, 1, 3)
        D = np.array(self.distortion)
        zero = np.zeros(3)
        if fisheye:
            pixels = cv2.fisheye.projectPoints(points, zero, zero, self.K_33, D)[0]
        else:
            pixels = cv2.projectPoints(points, zero, zero, self.K_33, D)[0]
        return pixels.reshape(*rays.shape[:-1], 2)


def read_camera_info(path: Path | str) -> Camera:
    """Read a calibration in the YAML form of camera_calibration and camera_info_manager.

    Raises:
        CameraError: The file is missing, is no such YAML, or holds no usable calibration.
    """
    path = Path(path)
    try:
        if path.stat().st_size > _MAX_CALIBRATION_BYTES:
            raise CameraError(
                f"{path}: over {_MAX_CALIBRATION_BYTES} bytes, expected a camera_info YAML"
            )
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CameraError(
            f"{path}: cannot be read ({error.strerror}), expected a camera_info YAML"
        ) from error
    # its constructors of dates and numbers raise what Python's do
    except (yaml.YAMLError, ValueError, AttributeError, RecursionError) as error:
        why = (str(error) or type(error).__name__).splitlines()[0]
        raise CameraError(f"{path}: is no YAML text ({why})") from error
    try:
        return Camera.from_K(
            content["image_width"],
            content["image_height"],
            _flat(content["camera_matrix"]["data"], "camera_matrix", 9),
            content.get("distortion_model", "plumb_bob"),
            _flat(
                content.get("distortion_coefficients", {}).get("data", []),
                "distortion_coefficients",
                max(map(max, DISTORTION_MODELS.values())),
            ),
        )
    except CameraError as error:
        raise CameraError(f"{path}: {error}") from error
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
        raise CameraError(
            f"{path}: {error!r} while reading; expected the keys image_width, image_height, "
            "camera_matrix.data, distortion_model, distortion_coefficients.data, as "
            "camera_calibration writes them"
        ) from error


def _flat(values: Any, name: str, most: int) -> tuple[float, ...]:
    """Return a list of numbers; YAML's aliases could hold more of them than fit in memory."""
    if not isinstance(values, list) or len(values) > most:
        found = f"{len(values)} values" if isinstance(values, list) else "no list"
        raise CameraError(f"found {found} in {name}.data, expected at most {most} numbers")
    if any(isinstance(value, (list, dict)) for value in values):
        raise CameraError(f"found lists in {name}.data, expected a flat list of numbers")
    return tuple(float(value) for value in values)


def cell_pixels(width: int, height: int, stride: int) -> np.ndarray:
    """Return the pixels (height/stride, width/stride, 2) at which a pointmap's cells stand."""
    half = (stride - 1) / 2
    x = stride * np.arange(width // stride) + half
    y = stride * np.arange(height // stride) + half
    return np.stack(np.meshgrid(x, y), axis=-1)


class CanonicalView:
    """Shows a live camera's images as the map's canonical camera would see them.

    A live camera of higher resolution is first shrunk by whole-pixel area averaging, so that the
    table never skips pixels and the student sees no aliasing it was not trained on.
    """

    def __init__(self, live: Camera, canonical: Camera, stride: int) -> None:
        """Build the table that undistorts, scales and crops.

        Args:
            live: The camera whose images come in, distorted or not.
            canonical: The undistorted camera the student was trained for.
            stride: Pixels of the canonical image per cell side.

        Raises:
            CameraError: The live camera sees nothing of the canonical view.
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
        # The outer half of border pixels is drawn like their centres, what is not seen black.
        source = np.where(inside[..., None], source.clip(0, last), -2).astype(np.float32)
        self._table = cv2.convertMaps(source[..., 0], source[..., 1], cv2.CV_16SC2)
        # Undistorted and of the same field of view, as often where maps are made: nothing is moved.
        moved_px = np.abs(source - np.stack([columns, rows], axis=-1)).max()
        same_size = self._size == (canonical.width, canonical.height)
        self._is_shrunk_alone = same_size and moved_px < 1 / cv2.INTER_TAB_SIZE
        cells = cell_pixels(canonical.width, canonical.height, stride).round().astype(int)
        self.covered_hw: np.ndarray = inside[cells[..., 1], cells[..., 0]]

    def warp(self, image_hw3: np.ndarray) -> np.ndarray:
        """Return the canonical image (H, W, 3) uint8 of a live image (live size, 3) uint8.

        Raises:
            ImageError: The image's size or type is not the live camera's.
        """
        expected = (self.live.height, self.live.width, 3)
        if image_hw3.shape != expected or image_hw3.dtype != np.uint8:
            raise ImageError(
                f"found an image of shape {image_hw3.shape} {image_hw3.dtype}, expected {expected} "
                "uint8 by its camera calibration; image and CameraInfo do not belong together"
            )
        if self._size != (self.live.width, self.live.height):
            image_hw3 = image_hw3[: self._crop[1], : self._crop[0]]
            image_hw3 = cv2.resize(image_hw3, self._size, interpolation=cv2.INTER_AREA)
        if self._is_shrunk_alone:
            return np.ascontiguousarray(image_hw3)
        return cv2.remap(image_hw3, *self._table, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)


def _fold_angle(camera: Camera, rays: np.ndarray) -> float:
    """Return the angle from the axis, rad, up to which the lens model maps rays one to one.

    Calibrated polynomials hold inside the image; some fold back farther out, so that rays the
    camera cannot see seem to land in it.
    """
    widest = np.arctan(np.hypot(rays[..., 0], rays[..., 1]).max())
    angles = np.linspace(0, 1.01 * widest, _FOLD_STEPS)
    around = np.linspace(0, 2 * np.pi, _FOLD_DIRECTIONS, endpoint=False)
    directions = np.stack([np.cos(around), np.sin(around)], axis=-1)
    fan = np.tan(angles)[:, None, None] * directions  # (angles, directions, 2)
    pixels = camera.project(np.concatenate([fan, np.ones_like(fan[..., :1])], axis=-1))
    radii = np.linalg.norm((pixels - (camera.cx, camera.cy)) / (camera.fx, camera.fy), axis=-1)
    folded = ~(np.diff(radii, axis=0) > 0).all(axis=1)  # not a number counts as folded
    return float(angles[folded.argmax()]) if folded.any() else np.pi / 2


def canonical_camera(live: Camera, width: int, stride: int) -> Camera:
    """Return the undistorted camera, `width` px wide, that a live camera's maps are made for.

    Scale is the same along both axes; what exceeds a whole number of cells is cut off evenly at top
    and bottom.

    Raises:
        CameraError: The width is no multiple of the stride, or the image is flatter than one cell.
    """
    if width % stride:
        raise CameraError(
            f"found a map width of {width} px, expected a multiple of the stride, {stride} px"
        )
    scale = width / live.width
    scaled_height = live.height * scale
    height = int(scaled_height // stride) * stride
    scaled = live._scaled(width, height, scale, scale)
    return Camera(
        width,
        height,
        scaled.fx,
        scaled.fy,
        scaled.cx,
        scaled.cy - (scaled_height - height) / 2,
    )
