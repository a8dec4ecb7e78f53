"""Divides a recording into training and test frames, and chooses the training frames."""

import logging
from collections.abc import Iterator
from functools import cached_property
from itertools import compress

import numpy as np

from mote_localization.errors import SceneError
from mote_localization.progress import track
from mote_localization.scenes.frame_choice import choose_frames, frame_statistics
from mote_localization.scenes.recording_options import BLOCK_S, RecordingOptions
from mote_localization.scenes.scene import Frame, Scene, SceneSelection, Split

_log = logging.getLogger(__name__)

SPACING = 0.01  # least image motion between two chosen frames, fraction of the width
_BLURRED = 0.3  # sharpness below which a frame counts as blurred


class DividedScene(SceneSelection):
    """A recording, of which some frames are for training and some for tests.

    Without options that choose test frames, all frames are test frames, and the training frames
    are chosen from all of them: the recording is used either for a map or for its evaluation.
    """

    def __init__(
        self, recording: Scene, options: RecordingOptions, always_choose: bool = False
    ) -> None:
        """Divide a recording; images are only read where training frames must be chosen.

        Args:
            recording: All frames, whatever the split.
            options: Which frames are test frames, and the largest number of training frames.
            always_choose: Choose training frames by motion even where there are not too many, as
                the frames of a video show nearly the same.

        Raises:
            SceneError: The options leave no test frames, or no training frames.
        """
        super().__init__(recording)
        self._options, self._always_choose = options, always_choose
        stamps = np.array([frame.stamp_s for frame in recording.frames("all")])
        seconds = stamps - stamps[0] if len(stamps) else stamps
        if options.test_every:
            self._is_test = (seconds // BLOCK_S).astype(int) % options.test_every == (
                options.test_every - 1
            )
        else:
            start_s, end_s = options.test_span_s
            self._is_test = (seconds >= start_s) & (seconds < end_s)
        if options.divides and (not self._is_test.any() or self._is_test.all()):
            which = "no" if not self._is_test.any() else "all"
            raise SceneError(
                f"{self.name[:60]}: {which} frames are test frames by {options.division}, expected "
                f"some of {len(stamps)} frames in {seconds.max():.1f} s"
            )

    def frames(self, split: Split) -> Iterator[Frame]:
        """Iterate over the frames of a split, in recording order.

        The first time that training frames are needed, all images are read to choose them.
        """
        if split == "all":
            return self.whole.frames("all")
        wanted = self._is_test if split == "test" else self._is_train
        return compress(self.whole.frames("all"), wanted)

    def count(self, split: Split) -> int:
        """Return the number of frames of a split."""
        if split == "all":
            return len(self._is_test)
        return int((self._is_test if split == "test" else self._is_train).sum())

    def described(self) -> dict[str, str]:
        """Return what the recording holds, and how it is divided."""
        test = f"{self.count('test')} for tests" if self._options.divides else "all for tests"
        train, usable = self.count("train"), int(self._is_usable.sum())
        chosen = f", chosen from {usable} by sharpness and motion" if train < usable else ""
        return {
            **super().described(),
            "frames": f"{train} for training{chosen}; {test}",
        }

    @property
    def _is_usable(self) -> np.ndarray:
        """Whether each frame (n,) may be chosen for training."""
        return ~self._is_test if self._options.divides else np.ones_like(self._is_test)

    @cached_property
    def _is_train(self) -> np.ndarray:
        """Whether each frame is for training (n,)."""
        usable = self._is_usable
        most = self._options.max_frames
        if usable.sum() <= most and not self._always_choose:
            return usable
        frames = compress(self.whole.frames("all"), usable)
        tracked = track(frames, "choose frames", int(usable.sum()))
        statistics = list(frame_statistics(tracked))
        chosen = choose_frames(statistics, most, SPACING)
        blurred = sum(statistics[i].sharpness < _BLURRED for i in chosen)
        if blurred > len(chosen) / 2:
            _log.warning(
                "%s: %d of %d chosen frames are blurred: move more slowly, or with more light",
                self.name[:60],
                blurred,
                len(chosen),
            )
        is_train = np.zeros_like(usable)
        is_train[np.flatnonzero(usable)[chosen]] = True
        return is_train
