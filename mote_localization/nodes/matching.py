"""Pairs images with the CameraInfo of equal stamp."""

from __future__ import annotations

from typing import Generic, TypeVar

ImageT = TypeVar("ImageT")
InfoT = TypeVar("InfoT")


class StampMatcher(Generic[ImageT, InfoT]):
    """Pairs each image with the CameraInfo of exactly its stamp, in any order of arrival.

    Few messages wait for their partner. A pair discards all older images.
    """

    def __init__(self, max_images: int = 4, max_infos: int = 30) -> None:
        self._max_images, self._max_infos = max_images, max_infos
        self._images: dict[int, ImageT] = {}  # by stamp, ns; oldest arrival first
        self._infos: dict[int, InfoT] = {}
        self._dropped: set[int] = set()  # stamps of dropped images without a CameraInfo so far

    def add_image(self, stamp_ns: int, image: ImageT) -> tuple[ImageT, InfoT] | None:
        """Add an image; return it with its CameraInfo if that has arrived."""
        info = self._infos.pop(stamp_ns, None)
        if info is not None:
            self._dropped.update(self._images)
            self._images.clear()
            return image, info
        self._images.pop(stamp_ns, None)
        self._images[stamp_ns] = image
        if len(self._images) > self._max_images:
            self._drop_oldest_image()
        return None

    def add_info(self, stamp_ns: int, info: InfoT) -> tuple[ImageT, InfoT] | None:
        """Add a CameraInfo; return it with its image if that has arrived."""
        self._dropped.discard(stamp_ns)
        image = self._images.get(stamp_ns)
        if image is not None:
            while next(iter(self._images)) != stamp_ns:
                self._drop_oldest_image()
            del self._images[stamp_ns]
            return image, info
        self._infos.pop(stamp_ns, None)
        self._infos[stamp_ns] = info
        if len(self._infos) > self._max_infos:
            del self._infos[next(iter(self._infos))]
        return None

    def take_unmatched(self) -> int:
        """Return the number of images dropped without a CameraInfo since the last call."""
        unmatched = len(self._dropped)
        self._dropped.clear()
        return unmatched

    def _drop_oldest_image(self) -> None:
        stamp_ns = next(iter(self._images))
        del self._images[stamp_ns]
        self._dropped.add(stamp_ns)
