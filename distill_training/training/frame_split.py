"""Splits the frames of a recording into those to train with and those held out."""

import math
from collections.abc import Iterable
from typing import NamedTuple

from distill_training.training.train_config import TrainConfig
from mote_localization.errors import MoteError

_DEFAULT_HELD_OUT = 0.1  # fraction of the frames
_DEFAULT_MARGIN = 0.03  # fraction of the frames, on either side of each block
_MIN_TRAINING_FRACTION = 0.25  # of the frames; fewer are too few to train with


class FrameSplit(NamedTuple):
    """Names of frames, in recording order."""

    training: list[str]
    held_out: list[str]

    @property
    def tested(self) -> list[str]:
        """Training frames whose poses are tested: every other one."""
        return self.training[::2]

    @property
    def untested(self) -> list[str]:
        """Training frames that keyframes are tracked into: a tested one would look too accurate."""
        return self.training[1::2]


def split_frames(names: Iterable[str], config: TrainConfig) -> FrameSplit:
    """Return the split that a training's configuration asks for; see `split_held_out`.

    Raises:
        MoteError: Fewer than a quarter of the frames are left to train with.
    """
    names = list(names)
    if config.held_out_by_default:
        margin = round(_DEFAULT_MARGIN * len(names))
        return split_held_out(names, _DEFAULT_HELD_OUT, margin, config.held_out_blocks)
    return split_held_out(names, config.held_out, config.margin, config.held_out_blocks)


def split_held_out(
    names: list[str], fraction: float, margin: int = 0, blocks: int = 4
) -> FrameSplit:
    """Hold out contiguous blocks of frames.

    Args:
        names: The frames, in recording order.
        fraction: Of the frames, held out in all blocks together; each block has at least one.
        margin: Frames on either side of each block that are in neither part. Frames close in time
            look alike and would make the held-out frames easier than those of a robot.
        blocks: Number of blocks. Fewer blocks are longer, with viewpoints farther from training.

    Raises:
        MoteError: Fewer than a quarter of the frames are left to train with.
    """
    length = math.ceil(round(fraction * len(names)) / blocks)
    held_out: set[str] = set()
    excluded: set[str] = set()
    for block in range(blocks if length else 0):
        first = round((block + 0.5) * len(names) / blocks) - length // 2
        held_out.update(names[first : first + length])
        excluded.update(names[max(0, first - margin) : first + length + margin])
    training = [name for name in names if name not in held_out | excluded]
    if len(training) < _MIN_TRAINING_FRACTION * len(names):
        raise MoteError(
            f"found {len(training)} of {len(names)} frames left to train with, expected a quarter "
            f"or more: lower --held-out {fraction:g} or --margin {margin}"
        )
    return FrameSplit(training, [name for name in names if name in held_out])
