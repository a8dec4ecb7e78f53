"""Which photographs a map carries as keyframes."""

import math
from collections.abc import Sequence

from distill_training.reconstruction import Reconstruction
from mote_localization.keyframes import Keyframe


def choose_keyframes(
    reconstruction: Reconstruction, names: Sequence[str], most: int
) -> tuple[Keyframe, ...]:
    """Return at most so many keyframes, spread evenly over the recording.

    Args:
        reconstruction: Where they are read.
        names: The frames to choose from, in recording order: those that are trained with.
        most: How many; 0: none.
    """
    if not most:
        return ()
    keyframes = []
    for name in names[:: math.ceil(len(names) / most)]:
        frame = reconstruction.read_frame(name)
        keyframes.append(
            Keyframe.record(reconstruction.poses[name], frame.image_hw3, frame.points_hw3)
        )
    return tuple(keyframes)
