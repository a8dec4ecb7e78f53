"""Chooses training frames of a recording: sharp ones, spread over the camera's motion."""

import logging
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import cv2
import numpy as np

from mote_localization.errors import SceneError
from mote_localization.scenes.scene import Frame

_log = logging.getLogger(__name__)
_UNREADABLE = -1.0  # sharpness of an image that cannot be read
_WIDTH_PX = 320  # most, of the images in which motion and sharpness are measured
_FEATURES = 200
_MIN_FEATURES = 20  # tracked from one image to the next; with fewer, the scene has changed
_BLUR_PX = 9  # side of the low-pass filter to which an image's sharpness is compared


class FrameStatistics(NamedTuple):
    """What decides whether a frame is chosen."""

    sharpness: float  # 0: blurred, 1: sharp, see `sharpness`
    motion: float  # median displacement since the frame before, fraction of the image's width


def frame_statistics(frames: Iterable[Frame]) -> Iterator[FrameStatistics]:
    """Yield the statistics of frames in recording order; one image is in memory at a time.

    Images that cannot be read are not sharp, and named by a warning.
    """
    before_hw: np.ndarray | None = None
    for frame in frames:
        try:
            grey_hw = cv2.cvtColor(frame.image(), cv2.COLOR_RGB2GRAY)
        except SceneError as error:
            _log.warning("frame %s is left out: %s", frame.name[:60], error)
            yield FrameStatistics(_UNREADABLE, 0.0)
            continue
        reduction = max(1.0, grey_hw.shape[1] / _WIDTH_PX)
        size = [max(1, round(side / reduction)) for side in grey_hw.shape[::-1]]
        grey_hw = cv2.resize(grey_hw, size, interpolation=cv2.INTER_AREA)
        motion = 0.0 if before_hw is None else _motion(before_hw, grey_hw)
        yield FrameStatistics(sharpness(grey_hw), motion)
        before_hw = grey_hw


def sharpness(grey_hw: np.ndarray) -> float:
    """Return the sharpness of a grey image, uint8, from 0 (blurred) to 1 (Crete et al. 2007).

    It is the fraction of the differences between neighbouring pixels that a low-pass filter
    removes. A blurred image has few such differences to lose.
    """
    values_hw = grey_hw.astype(np.float32)
    fractions = []
    for axis, size in ((1, (_BLUR_PX, 1)), (0, (1, _BLUR_PX))):
        own = np.abs(np.diff(values_hw, axis=axis))
        filtered = np.abs(np.diff(cv2.blur(values_hw, size), axis=axis))
        total = float(own.sum())
        fractions.append(float(np.maximum(own - filtered, 0).sum()) / total if total else 0.0)
    return min(fractions)


def choose_frames(statistics: list[FrameStatistics], most: int, spacing: float) -> list[int]:
    """Return the indices of the chosen frames, in order.

    The camera's path is divided into equal steps of image motion, and the sharpest frame of each
    step is chosen. A camera that stands still gives one frame.

    Args:
        statistics: Of all frames, in recording order.
        most: Largest number of chosen frames.
        spacing: Least motion from step to step, fraction of the image's width.
    """
    if not statistics:
        return []
    path = np.cumsum([0.0, *(one.motion for one in statistics[1:])])
    steps = int(np.clip(path[-1] / spacing, 1, most))
    step = np.minimum((path / max(path[-1], spacing) * steps).astype(int), steps - 1)
    chosen: dict[int, int] = {}
    for index, one in enumerate(statistics):
        if one.sharpness == _UNREADABLE:
            continue
        best = chosen.get(step[index])
        if best is None or one.sharpness > statistics[best].sharpness:
            chosen[step[index]] = index
    return sorted(chosen.values())


def _motion(before_hw: np.ndarray, after_hw: np.ndarray) -> float:
    """Return the median displacement of points, as a fraction of the width; 1 after a cut."""
    points: np.ndarray | None = cv2.goodFeaturesToTrack(before_hw, _FEATURES, 0.01, 8)
    if points is None:
        return 0.0  # nothing to see: no motion either
    found, status, _ = cv2.calcOpticalFlowPyrLK(before_hw, after_hw, points, points.copy())
    kept = status[:, 0] > 0
    if kept.sum() < min(_MIN_FEATURES, len(points) // 2):
        return 1.0
    moved_px = np.linalg.norm((found - points)[kept, 0], axis=1)
    return float(np.median(moved_px)) / before_hw.shape[1]
