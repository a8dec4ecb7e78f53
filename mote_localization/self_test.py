"""The map's self-test: one image with its expected points, which every backend must reproduce."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from mote_localization.errors import ImageError, MapFileError
from mote_localization.image_files import decode_image, encode_jpeg, encoded_size

_JPEG_QUALITY = 90

# Predicts points_hw3 and sigma_hw of one canonical image, as `Backend.predict` does.
Predict = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class SelfTest:
    """One canonical image and the points that ONNX Runtime predicted when the map was made."""

    image: bytes  # JPEG
    points: bytes  # float32, little-endian, (rows, columns, 3), m

    @classmethod
    def record(cls, image_hw3: np.ndarray, predict: Predict) -> SelfTest:
        """Return the self-test of a canonical image, RGB uint8.

        The points are predicted from the decoded JPEG, so that a later check sees the same pixels.
        """
        jpeg = encode_jpeg(cv2.cvtColor(image_hw3, cv2.COLOR_RGB2BGR), _JPEG_QUALITY)
        points_hw3, _ = predict(cls(jpeg, b"").image_hw3())
        return cls(jpeg, points_hw3.astype("<f4").tobytes())

    def check(self, size: tuple[int, int], cells_hw: tuple[int, int]) -> None:
        """Check that image and points fit a map.

        Args:
            size: Width and height of the canonical camera.
            cells_hw: Rows and columns of the pointmap.

        Raises:
            MapFileError: The image is no image or of another size; the points are of another count
                or not finite.
        """
        found = encoded_size(self.image)
        if found != size:
            raise MapFileError(f"found a self-test with an image of {found} px, expected {size}")
        count, expected = len(self.points), 4 * 3 * cells_hw[0] * cells_hw[1]
        if count != expected or not np.isfinite(np.frombuffer(self.points, "<f4")).all():
            raise MapFileError(
                f"found a self-test with {count} bytes of points, expected {expected}, all finite"
            )

    def difference_m(self, predict: Predict) -> float:
        """Return the median distance of the predicted from the expected points, metres or NaN.

        Raises:
            MapFileError: The image cannot be decoded.
            BackendError: The prediction fails.
        """
        points_hw3, _ = predict(self.image_hw3())
        expected_hw3 = np.frombuffer(self.points, "<f4").reshape(points_hw3.shape)
        return float(np.median(np.linalg.norm(points_hw3 - expected_hw3, axis=-1)))

    def image_hw3(self) -> np.ndarray:
        """Return the decoded image, RGB uint8.

        Raises:
            MapFileError: It cannot be decoded.
        """
        try:
            flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
            return cv2.cvtColor(decode_image(self.image, flags), cv2.COLOR_BGR2RGB)
        except ImageError as error:
            raise MapFileError(f"the map's self-test image {error}; make the map again") from error
