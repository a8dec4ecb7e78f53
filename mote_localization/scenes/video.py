"""Videos of one camera, without poses and depth.

Frames are rotated as the file's metadata states. OpenCV's FFmpeg decodes them.
"""

import logging
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from mote_localization.camera import Camera
from mote_localization.errors import SceneError
from mote_localization.images import MAX_SIDE_PX
from mote_localization.progress import progress_bar
from mote_localization.scenes.scene import Frame, Scene, Split

_MAX_FRAMES = 1_000_000
_COMPLETE = 0.95  # of the frames that the file states; containers count some frames too many
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class VideoFrame(Frame):
    """One image of a video; it is decoded when it is needed."""

    name: str
    stamp_s: float
    camera: Camera | None
    index: int
    video: "_Decoder" = field(repr=False, compare=False)
    T_map_cam: None = None

    def image(self) -> np.ndarray:
        """Return image_hw3 RGB uint8, upright; see `Frame.image`."""
        where = f"{self.video.path}, frame {self.name}"
        return self._with_size_of_camera(self.video.read(self.index), where, "its calibration")

    def size(self) -> tuple[int, int]:
        """Return width and height in px, upright."""
        return self.video.size


class VideoScene(Scene):
    """A video file; every frame is in every split."""

    def __init__(self, path: Path | str, camera: Camera | None = None) -> None:
        """Open the file and read the times of its frames, which decodes it once.

        Args:
            path: Video file.
            camera: Calibration of the upright images; None: not known.

        Raises:
            SceneError: The file cannot be decoded or has no frames, or the calibration is for
                another size.
        """
        self.path = Path(path)
        self.name = self.path.stem
        self._decoder = _Decoder(self.path)
        self._stamps_s = self._decoder.stamps_s()
        size = self._decoder.size
        if camera is not None and size != (camera.width, camera.height):
            raise SceneError(
                f"{self.path}: found frames of {size[0]}x{size[1]} px, expected "
                f"{camera.width}x{camera.height} px as in its calibration"
            )
        self._camera = camera

    def frames(self, split: Split) -> Iterator[VideoFrame]:
        """Iterate over all frames, in order."""
        for index, stamp_s in enumerate(self._stamps_s):
            yield VideoFrame(f"{index:06d}", stamp_s, self._camera, index, self._decoder)

    def count(self, split: Split) -> int:
        """Return the number of frames."""
        return len(self._stamps_s)

    def described(self) -> dict[str, str]:
        """Return what the video holds, as rows to print."""
        (width, height), count = self._decoder.size, len(self._stamps_s)
        length_s = self._stamps_s[-1] - self._stamps_s[0]
        rate = f" at {(count - 1) / length_s:.1f} Hz" if length_s > 0 else ""
        return {
            "recording": f"video, {length_s:.1f} s",
            "images": f"{count}{rate}, {width}x{height} px",
            "intrinsics": "given" if self._camera else "unknown",
            "poses": "none",
            "depth": "none",
        }


class _Decoder:
    """Decodes the frames of a video; fast in their order, from the start where it goes back."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._open()
        sides = (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT)
        width, height = (int(self._capture.get(side)) for side in sides)
        if not (0 < width <= MAX_SIDE_PX and 0 < height <= MAX_SIDE_PX):
            raise SceneError(
                f"{path}: found frames of {width}x{height} px, expected 1 to {MAX_SIDE_PX}"
            )
        first = self.read(0)
        self.size = (first.shape[1], first.shape[0])

    def _open(self) -> None:
        self._capture: Any = cv2.VideoCapture(str(self.path), cv2.CAP_FFMPEG)
        self._next = 0
        if not self._capture.isOpened():
            raise SceneError(
                f"{self.path}: cannot be decoded, expected a complete video; copy it again, or "
                "convert it: `ffmpeg -i FILE converted.mp4`"
            )

    def stamps_s(self) -> list[float]:
        """Return the times of all frames, seconds, increasing."""
        stamps_s: list[float] = []
        with self._lock, progress_bar() as bar:
            self._open()
            expected = self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
            rate = self._capture.get(cv2.CAP_PROP_FPS)
            period_s = 1 / rate if 1 <= rate <= 1000 else 1 / 30
            task = bar.add_task("open video", total=expected if expected > 0 else None)
            while self._capture.grab():
                if len(stamps_s) == _MAX_FRAMES:
                    raise SceneError(f"{self.path}: has over {_MAX_FRAMES} frames, cut it")
                stamp_s = self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
                # Some files do not have the time of every frame.
                if stamps_s and not stamp_s > stamps_s[-1]:
                    stamp_s = stamps_s[-1] + period_s
                stamps_s.append(stamp_s)
                bar.update(task, completed=len(stamps_s))
            self._next = len(stamps_s)
        if len(stamps_s) < _COMPLETE * expected:
            _log.warning(
                "%s: %d of %d frames can be decoded; the file is cut",
                self.path,
                len(stamps_s),
                expected,
            )
        return stamps_s

    def read(self, index: int) -> np.ndarray:
        """Return image_hw3, RGB uint8, of a frame.

        Raises:
            SceneError: It cannot be decoded.
        """
        with self._lock:
            if index < self._next:
                self._open()
            while self._next < index and self._capture.grab():
                self._next += 1
            read, image_hw3 = self._capture.read()
            self._next += 1
        if not read or image_hw3 is None or image_hw3.ndim != 3:
            raise SceneError(
                f"{self.path}: frame {index} cannot be decoded, expected a complete video"
            )
        return cv2.cvtColor(image_hw3, cv2.COLOR_BGR2RGB)
