"""Training data: batches of random views of all frames, in random order."""

from collections.abc import Iterator
from functools import lru_cache

import numpy as np

from distill_training.training.frame_bank import FrameBank
from distill_training.training.train_config import TrainConfig
from distill_training.training.training_views import ViewMaker, Views
from distill_training.training.view_parameters import Draws


def random_batches(
    bank: FrameBank,
    names: list[str],
    config: TrainConfig,
    step: int,
    rank: int = 0,
    ranks: int = 1,
) -> Iterator[Views]:
    """Yield batches of random views without end.

    Every frame appears once an epoch. Seed and step determine a batch, so that a resumed training
    continues with the batches of an uninterrupted one.

    Args:
        bank: Source of the frames.
        names: The frames to sample.
        config: Views per step and process, their augmentations, and the seed of all choices.
        step: The first step.
        rank: Index of this process in a distributed training.
        ranks: Number of processes.
    """
    maker = ViewMaker(bank, config.augment)
    views = config.batch * ranks  # of a step
    own = slice(rank * config.batch, (rank + 1) * config.batch)

    @lru_cache(maxsize=1)
    def order(epoch: int) -> np.ndarray:
        return np.random.default_rng((config.seed, 1, epoch)).permutation(len(names))

    def frame(index: int) -> str:
        epoch, position = divmod(index, len(names))
        return names[order(epoch)[position]]

    while True:
        chosen = [frame(index) for index in range(step * views, (step + 1) * views)[own]]
        yield maker.make(chosen, Draws((config.seed, 2, step), views, own))
        step += 1
