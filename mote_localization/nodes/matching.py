"""Images and their CameraInfo, paired by equal stamps."""

from __future__ import annotations

from typing import Generic, TypeVar

ImageT = TypeVar("ImageT")
InfoT = TypeVar("InfoT")


class StampMatcher(Generic[ImageT, InfoT]):
    """Pairs each image with the CameraInfo of exactly its stamp, whichever comes first.

    Few of either are kept: an image that meets its CameraInfo makes all older ones stale.
    """

    def __init__(self, images: int = 4, infos: int = 30) -> None:
        """Keep at most so many of either that wait for their partner."""
        self._limits = images, infos
        self._images: dict[int, ImageT] = {}  # by stamp, ns; oldest arrival first
        self._infos: dict[int, InfoT] = {}
        self._given_up: set[int] = set()  # stamps of images whose CameraInfo has not come

    def add_image(self, stamp_ns: int, image: ImageT) -> tuple[ImageT, InfoT] | None:
        """Take an image; return it with its CameraInfo where that is here already."""
        info = self._infos.pop(stamp_ns, None)
        if info is not None:
            self._given_up.update(self._images)
            self._images.clear()
            return image, info
        self._images.pop(stamp_ns, None)
        self._images[stamp_ns] = image
        if len(self._images) > self._limits[0]:
            self._give_up_oldest()
        return None

    def add_info(self, stamp_ns: int, info: InfoT) -> tuple[ImageT, InfoT] | None:
        """Take a CameraInfo; return it with its image where that is here already."""
        self._given_up.discard(stamp_ns)
        image = self._images.get(stamp_ns)
        if image is not None:
            while next(iter(self._images)) != stamp_ns:
                self._give_up_oldest()
            del self._images[stamp_ns]
            return image, info
        self._infos.pop(stamp_ns, None)
        self._infos[stamp_ns] = info
        if len(self._infos) > self._limits[1]:
            del self._infos[next(iter(self._infos))]
        return None

    def take_unmatched(self) -> int:
        """Return how many images were given up since the last call and never got a CameraInfo."""
        unmatched = len(self._given_up)
        self._given_up.clear()
        return unmatched

    def _give_up_oldest(self) -> None:
        stamp_ns = next(iter(self._images))
        del self._images[stamp_ns]
        self._given_up.add(stamp_ns)
