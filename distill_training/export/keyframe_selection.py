"""Selects the training images that a map stores as keyframes."""

from collections.abc import Sequence

from distill_training.common.sampling import thinned
from distill_training.reconstruction import Reconstruction
from mote_localization.keyframes import Keyframe


def choose_keyframes(
    reconstruction: Reconstruction, names: Sequence[str], at_most: int
) -> tuple[Keyframe, ...]:
    """Return keyframes spread evenly over the recording.

    Args:
        reconstruction: Source of images, points and poses.
        names: The frames to choose from, in recording order.
        at_most: The largest number of keyframes; 0: none.
    """
    keyframes = []
    for name in thinned(names, at_most) if at_most else ():
        frame = reconstruction.read_frame(name)
        keyframes.append(
            Keyframe.record(reconstruction.poses[name], frame.image_hw3, frame.points_hw3)
        )
    return tuple(keyframes)
