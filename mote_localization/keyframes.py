"""Keyframes: training images that a map stores, each with its pose and the depth of its cells."""

from dataclasses import dataclass, replace
from typing import cast

import cv2
import numpy as np

from mote_localization.errors import ImageError, MapFileError
from mote_localization.geometry import check_pose, depth_in_camera, transform
from mote_localization.image_files import decode_image, encode_png, encode_webp, encoded_size
from mote_localization.image_headers import image_format

MAX_KEYFRAMES = 512
ATLAS_COLUMNS = 16  # of the atlas, one image that holds all keyframes side by side
_MAX_SIDE_PX = 32767  # of the atlas: largest image size of OpenCV's remap
_MAX_PIXELS = 160_000_000  # of all keyframes together; 512 of 640x480 have as many
_MAX_CELLS = 1 << 22  # of all keyframes together
_MAX_ABS_M = 1e6  # distance from the origin: larger ones lose too many digits
_FORMATS = ("WebP", "JPEG", "PNG")  # of images; maps of format version 3 contain JPEG
_WEBP_QUALITY = 60
_LOG_STEP = 0.0025  # of the natural logarithm of a stored depth, so steps of 0.25 %
_ONE_METRE = 1 << 15  # the stored value of 1 m; smaller values are nearer, and 0 is unknown
_Row = tuple[float, float, float, float]
Rows = tuple[_Row, _Row, _Row, _Row]  # of a matrix


@dataclass(frozen=True)
class Keyframe:
    """One canonical image with its pose and the depth of its cells."""

    T_map_cam: Rows  # adjusted pose
    image: bytes  # WebP, grey, of the canonical camera; in old maps JPEG
    # of the cells, along the optical axis: PNG of 16 bits, the logarithm in steps of 0.25 %; in old
    # maps float16, little-endian, (rows, columns), m
    depth: bytes

    @classmethod
    def record(
        cls, T_map_cam: np.ndarray, image_hw3: np.ndarray, points_hw3: np.ndarray
    ) -> "Keyframe":
        """Return the keyframe of a canonical image, RGB uint8, and its pointmap.

        The pointmap is in metres in the map frame, NaN where unknown.
        """
        grey_hw = cv2.cvtColor(image_hw3, cv2.COLOR_RGB2GRAY)
        return cls(
            rows_of(T_map_cam),
            encode_webp(grey_hw, _WEBP_QUALITY),
            _encode_depth(depth_in_camera(points_hw3, T_map_cam)),
        )

    def with_depth(self, depth_hw: np.ndarray) -> "Keyframe":
        """Return the keyframe with another depth of its cells (rows, columns), m; NaN: unknown."""
        return replace(self, depth=_encode_depth(depth_hw))

    @property
    def pose_44(self) -> np.ndarray:
        """T_map_cam as an array (4, 4)."""
        return np.array(self.T_map_cam, np.float64)

    def grey_hw(self) -> np.ndarray:
        """Return the decoded image, uint8.

        Raises:
            MapFileError: It cannot be decoded.
        """
        return _decode(self.image, cv2.IMREAD_GRAYSCALE, "image")

    def depth_m(self) -> np.ndarray:
        """Return the depth of the cells (rows * columns,), float64, m; NaN where unknown.

        Raises:
            MapFileError: It cannot be decoded.
        """
        if image_format(self.depth) != "PNG":
            depth = np.frombuffer(self.depth, "<f2").astype(np.float64)
            return np.where((depth > 0) & np.isfinite(depth), depth, np.nan)
        stored_hw = _decode(self.depth, cv2.IMREAD_GRAYSCALE | cv2.IMREAD_ANYDEPTH, "depth")
        if stored_hw.dtype != np.uint16:
            raise MapFileError("found a keyframe with a depth of 8 bits, expected 16")
        depth_hw = np.exp((stored_hw.astype(np.float64) - _ONE_METRE) * _LOG_STEP)
        return np.where(stored_hw > 0, depth_hw, np.nan).reshape(-1)

    def cell_points(self, rays_n3: np.ndarray) -> np.ndarray:
        """Return the points (rows * columns, 3) of the cells, m, map frame; NaN where unknown.

        Args:
            rays_n3: Of the cells, camera frame, with a depth of 1.

        Raises:
            MapFileError: The depth cannot be decoded.
        """
        return transform(self.pose_44, rays_n3 * self.depth_m()[:, None])


def rows_of(T_44: np.ndarray) -> Rows:
    """Return a pose (4, 4) as tuples."""
    return cast(Rows, tuple(map(tuple, T_44.tolist())))


def _encode_depth(depth_hw: np.ndarray) -> bytes:
    """Return the stored form of depths, m; unknown are those that are not above 0 or infinite."""
    known_hw = (depth_hw > 0) & np.isfinite(depth_hw)
    log_hw = np.log(np.where(known_hw, depth_hw, 1)) / _LOG_STEP
    stored_hw = (np.round(log_hw) + _ONE_METRE).clip(1, 65535)
    return encode_png(np.where(known_hw, stored_hw, 0).astype(np.uint16))


def _decode(content: bytes, flags: int, what: str) -> np.ndarray:
    """Decode an image of a keyframe; raise `MapFileError` if it is damaged."""
    try:
        return decode_image(content, flags | cv2.IMREAD_IGNORE_ORIENTATION, _FORMATS)
    except ImageError as error:
        raise MapFileError(f"the {what} of a keyframe {error}; make the map again") from error


def check_keyframes(
    keyframes: tuple[Keyframe, ...], size: tuple[int, int], cells_hw: tuple[int, int]
) -> None:
    """Check that keyframes fit a map.

    Args:
        keyframes: All keyframes of the map.
        size: Width and height of the canonical camera.
        cells_hw: Rows and columns of the pointmap.

    Raises:
        MapFileError: There are too many keyframes, they are too large, or an image or a depth has
            another size.
        SceneError: A pose is not a rigid transform.
    """
    (width, height), (rows, columns) = size, cells_hw
    count = len(keyframes)
    atlas_rows = -(-count // ATLAS_COLUMNS)
    if (
        count > MAX_KEYFRAMES
        or count * width * height > _MAX_PIXELS
        or count * columns * rows > _MAX_CELLS
        or max(min(count, ATLAS_COLUMNS) * width, atlas_rows * height) > _MAX_SIDE_PX
        or (count and min(rows, columns) < 2)
    ):
        raise MapFileError(
            f"found {count} keyframes of {width}x{height} px and {columns}x{rows} cells, expected "
            f"at most {MAX_KEYFRAMES} of 2x2 cells or more, at most {_MAX_PIXELS // 10**6} "
            f"million px and {_MAX_CELLS >> 20} million cells in total, and an atlas of at most "
            f"{_MAX_SIDE_PX} px per side"
        )
    for keyframe in keyframes:
        T_map_cam = check_pose(keyframe.pose_44, "keyframe")
        if np.abs(T_map_cam).max() > _MAX_ABS_M:
            raise MapFileError(
                f"found a keyframe more than {_MAX_ABS_M:g} m from the map's origin, expected less"
            )
        found = encoded_size(keyframe.image, _FORMATS)
        if found != size:
            raise MapFileError(f"found a keyframe with an image of {found} px, expected {size}")
        found, depth_bytes = encoded_size(keyframe.depth, ["PNG"]), 2 * rows * columns
        if found != (columns, rows) and (found or len(keyframe.depth) != depth_bytes):
            raise MapFileError(
                f"found a keyframe with a depth of {found or 'unknown'} cells in "
                f"{len(keyframe.depth)} bytes, expected a PNG of {(columns, rows)} px, or "
                f"{depth_bytes} bytes of float16"
            )
