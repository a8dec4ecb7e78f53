"""Gives each image the CameraInfo that belongs to it, and finds images of the same moment."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

ImageT = TypeVar("ImageT")
InfoT = TypeVar("InfoT")


class InfoMatcher(Generic[ImageT, InfoT]):
    """Gives each image the CameraInfo of its stamp, or else the one that was valid then.

    An image waits for the CameraInfo of exactly its stamp. If that has not arrived when the next
    image arrives, images wait no longer: they take the last CameraInfo up to `tolerance_ns` after
    their stamp, or a later one if there is only one calibration. This serves drivers that stamp the
    two differently, or publish CameraInfo rarely or once. As soon as a CameraInfo of an image's
    stamp arrives, images wait again.
    """

    def __init__(
        self,
        calibration: Callable[[InfoT], Hashable],
        tolerance_ns: int = 50_000_000,
        max_infos: int = 30,
    ) -> None:
        """Create a matcher.

        Args:
            calibration: Returns what is equal for two CameraInfo of the same calibration.
            tolerance_ns: How much later than its image a CameraInfo may be stamped.
            max_infos: Number of CameraInfo that are kept.
        """
        self._calibration, self._tolerance_ns = calibration, tolerance_ns
        self._max_infos = max_infos
        self._infos: dict[int, InfoT] = {}  # by stamp, ns; oldest arrival first
        self._waiting: tuple[int, ImageT] | None = None  # stamp, image
        self._inexact_ns: int | None = None  # stamp of the last image without its own CameraInfo
        self._waits = True  # images wait for the CameraInfo of their stamp
        self._unmatched = 0

    def add_image(self, stamp_ns: int, image: ImageT) -> tuple[ImageT, InfoT] | None:
        """Add an image; return it with its CameraInfo if that is known."""
        info = self._infos.get(stamp_ns)
        if info is not None:
            self._drop_waiting(stamp_ns)
            return image, info
        if self._waiting and self._waiting[0] != stamp_ns:
            self._waits = False
        self._drop_waiting(stamp_ns)
        if not self._waits:
            info = self._valid_at(stamp_ns)
        if info is not None:
            self._inexact_ns = stamp_ns
            return image, info
        self._waiting = stamp_ns, image
        return None

    def add_info(self, stamp_ns: int, info: InfoT) -> tuple[ImageT, InfoT] | None:
        """Add a CameraInfo; return it with its image if that waits for it."""
        self._infos.pop(stamp_ns, None)
        self._infos[stamp_ns] = info
        if len(self._infos) > self._max_infos:
            del self._infos[next(iter(self._infos))]
        if stamp_ns == self._inexact_ns:
            self._waits = True
        if self._waiting and (stamp_ns == self._waiting[0] or not self._waits):
            waiting_ns, image = self._waiting
            known = info if stamp_ns == waiting_ns else self._valid_at(waiting_ns)
            if known is not None:
                self._waiting = None
                return image, known
        return None

    def take_unmatched(self) -> int:
        """Return the number of images dropped without a CameraInfo since the last call."""
        unmatched, self._unmatched = self._unmatched, 0
        return unmatched

    def _drop_waiting(self, stamp_ns: int) -> None:
        """Drop the image that waits, as another has arrived; one of the same stamp is its copy."""
        if self._waiting and self._waiting[0] != stamp_ns:
            self._unmatched += self._valid_at(self._waiting[0]) is None
        self._waiting = None

    def _valid_at(self, stamp_ns: int) -> InfoT | None:
        """Return the CameraInfo that was valid at a time; None if that is not known."""
        before = [stamp for stamp in self._infos if stamp <= stamp_ns + self._tolerance_ns]
        if before:
            return self._infos[max(before)]
        later = list(self._infos.values())
        if len({self._calibration(info) for info in later}) == 1:
            return later[-1]
        return None


class MomentMatcher(Generic[ImageT]):
    """Collects the images that several cameras take at the same moment.

    Images belong together if their stamps differ by at most `tolerance_ns`. A camera is waited for
    until the next image of another one; then it is missing, and no image waits for it until one of
    its images is in time again.
    """

    def __init__(self, cameras: int, tolerance_ns: int) -> None:
        """Wait for all cameras.

        Args:
            cameras: Number of cameras.
            tolerance_ns: Largest difference of stamps.
        """
        self._cameras, self._tolerance_ns = range(cameras), tolerance_ns
        self._newest: dict[int, tuple[int, ImageT]] = {}  # stamp, image; by camera
        self._last_ns: int | None = None  # stamp of the last moment
        self.missing: set[int] = set()  # cameras that images do not wait for

    def add(self, camera: int, stamp_ns: int, image: ImageT) -> dict[int, ImageT] | None:
        """Add an image; return those of its moment by camera, in order, if none is waited for."""
        late = self._last_ns is not None and abs(stamp_ns - self._last_ns) <= self._tolerance_ns
        if late and camera in self.missing:
            self.missing.discard(camera)  # in time for the next moment
            return None
        if camera in self._newest:  # the image before was waiting
            in_time = self._near(self._newest[camera][0])
            self.missing = set(self._cameras) - in_time
            for one in in_time:  # their moment has passed
                del self._newest[one]
        self._newest[camera] = stamp_ns, image
        near = self._near(stamp_ns)
        if set(self._cameras) - near - self.missing:
            return None
        self._last_ns = stamp_ns
        found = {one: self._newest[one][1] for one in sorted(near)}
        later = {one: frame for one, frame in self._newest.items() if frame[0] > stamp_ns}
        self._newest = {one: frame for one, frame in later.items() if one not in near}
        return found

    def _near(self, stamp_ns: int) -> set[int]:
        """Return the cameras whose newest image is of this moment."""
        return {
            camera
            for camera, (other_ns, _) in self._newest.items()
            if abs(other_ns - stamp_ns) <= self._tolerance_ns
        }
