"""The images of structure from motion, and their cameras, known or not."""

from dataclasses import dataclass, replace

import cv2
import numpy as np

from distill_training.poses.lenses import lens_key, take_frames
from distill_training.poses.poses_config import Known
from mote_localization.camera import Camera, CanonicalView
from mote_localization.scenes import Frame, Scene


@dataclass(frozen=True)
class SfmImage:
    """An image and its cameras; unknown intrinsics have initial values."""

    frame: Frame
    live: Camera  # of the image as the frame returns it
    working: Camera  # undistorted and reduced, the camera of the features
    lens: int  # images with the same number have the same intrinsics
    known: bool  # the intrinsics are given


def take_images(
    scene: Scene, intrinsics: Known, max_px: int
) -> tuple[list[SfmImage], dict[str, str]]:
    """Return the usable training frames, and the reason for each other frame, by name.

    Args:
        scene: Its training frames are used.
        intrinsics: See `take_frames`.
        max_px: Larger images are reduced to this size of their long side.

    Raises:
        SceneError: Given intrinsics are required and missing.
    """
    lenses: dict[object, int] = {}

    def take(frame: Frame, live: Camera, known: bool) -> SfmImage:
        # Portrait images have their own principal point: they are another camera of pycolmap.
        key = (lens_key(frame, live, known), live.width)
        working = replace(live, distortion=()) if known else live
        factor = min(1, max_px / max(live.width, live.height))
        if factor < 1:
            working = working.resized(round(live.width * factor), round(live.height * factor))
        return SfmImage(frame, live, working, lenses.setdefault(key, len(lenses)), known)

    return take_frames(scene, intrinsics, take)


class WorkingView:
    """Reduces images of a live camera to its working camera."""

    def __init__(self, live: Camera, working: Camera, known: bool) -> None:
        """Prepare the view.

        Args:
            live: Camera of the images.
            working: Its working camera.
            known: The distortion is known; otherwise the working image keeps it.
        """
        self._size = (working.width, working.height)
        self._view = CanonicalView(live, working, 1) if known and any(live.distortion) else None

    @property
    def covered_hw(self) -> np.ndarray:
        """Pixels inside the field of view of the lens."""
        if self._view:
            return self._view.covered_hw
        return np.ones(self._size[::-1], bool)

    def warp(self, image_hw3: np.ndarray) -> np.ndarray:
        """Return the grey working image (h, w), uint8, of an image (H, W, 3), uint8."""
        if self._view:
            image_hw3 = self._view.warp(image_hw3)
        grey_hw = cv2.cvtColor(image_hw3, cv2.COLOR_RGB2GRAY)
        if grey_hw.shape[::-1] == self._size:
            return grey_hw
        return cv2.resize(grey_hw, self._size, interpolation=cv2.INTER_AREA)
