"""A photograph that a map carries, with where its cells lie: any backend must say the same."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import cv2
import numpy as np

from mote_localization.errors import ImageError, MapFileError
from mote_localization.image_files import decode_image, encoded_size

if TYPE_CHECKING:
    from mote_localization.backends import Backend

_JPEG_QUALITY = 90


@dataclass(frozen=True)
class SelfTest:
    """One canonical image and its points, as ONNX Runtime gave them when the map was made."""

    image: bytes  # JPEG
    points: bytes  # float32, little-endian, (rows, columns, 3), m

    @classmethod
    def record(cls, image_hw3: np.ndarray, backend: Backend) -> SelfTest:
        """Keep a canonical image, RGB uint8, and what a backend says of it once it is decoded."""
        options = [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]
        encoded = cv2.imencode(".jpg", cv2.cvtColor(image_hw3, cv2.COLOR_RGB2BGR), options)[1]
        blank = cls(encoded.tobytes(), b"")
        points_hw3, _ = backend.predict(blank.image_hw3())
        return replace(blank, points=points_hw3.astype("<f4").tobytes())

    def check(self, size: tuple[int, int], cells_hw: tuple[int, int]) -> None:
        """Refuse what does not fit a map.

        Args:
            size: Width and height of the canonical camera.
            cells_hw: Rows and columns of the pointmap.

        Raises:
            MapFileError: The image or the points are of another size, or no such thing.
        """
        found = encoded_size(self.image)
        if found != size:
            raise MapFileError(f"found a self-test with an image of {found} px, expected {size}")
        count, expected = len(self.points), 4 * 3 * cells_hw[0] * cells_hw[1]
        if count != expected or not np.isfinite(np.frombuffer(self.points, "<f4")).all():
            raise MapFileError(
                f"found a self-test with {count} bytes of points, expected {expected}, all finite"
            )

    def difference_m(self, backend: Backend) -> float:
        """Return how far a backend's points are from those expected, median, metres; maybe NaN.

        Raises:
            MapFileError: The image cannot be decoded.
            BackendError: The backend fails.
        """
        points_hw3, _ = backend.predict(self.image_hw3())
        expected_hw3 = np.frombuffer(self.points, "<f4").reshape(points_hw3.shape)
        return float(np.median(np.linalg.norm(points_hw3 - expected_hw3, axis=-1)))

    def image_hw3(self) -> np.ndarray:
        """Return the photograph, RGB uint8.

        Raises:
            MapFileError: It cannot be decoded.
        """
        try:
            return cv2.cvtColor(decode_image(self.image, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
        except ImageError as error:
            raise MapFileError(f"the map's own photograph {error}; make the map anew") from error
