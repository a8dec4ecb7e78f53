"""Training data: frames of a reconstruction in bounded memory, and batches of random views."""

from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from distill_training.common.sampling import thinned
from distill_training.reconstruction import Reconstruction
from distill_training.training.augmentation import FrameViews, View
from distill_training.training.neighbours import neighbours
from distill_training.training.train_config import TrainConfig

_CACHE_BYTES = 1 << 30
_CELL_BYTES = 64  # of a frame in memory: depth, sigma, surface coefficients, novel-view samples
_NEIGHBOUR_CANDIDATES = 500  # frames among which neighbours are searched


class FrameStore:
    """Reads frames of a reconstruction and keeps a bounded number of them in memory."""

    def __init__(self, reconstruction: Reconstruction, among: Sequence[str] = ()) -> None:
        """Create an empty cache; frames are read when they are first asked for.

        Args:
            reconstruction: The frames' source.
            among: Frames among which neighbours are searched; none: frames have no neighbours.
        """
        self._reconstruction = reconstruction
        candidates = thinned([reconstruction.poses[name] for name in among], _NEIGHBOUR_CANDIDATES)
        self._candidates_n44 = np.array(candidates).reshape(-1, 4, 4)
        camera = reconstruction.camera
        cells = (camera.width // reconstruction.stride) * (camera.height // reconstruction.stride)
        frame_bytes = camera.width * camera.height * 3 + cells * _CELL_BYTES
        self.frame = lru_cache(maxsize=max(1, _CACHE_BYTES // frame_bytes))(self._read)

    def clear(self) -> None:
        """Free the memory now: cache and store refer to each other."""
        self.frame.cache_clear()

    def _read(self, name: str) -> FrameViews:
        source = self._reconstruction
        frame, pose = source.read_frame(name), source.poses[name]
        chosen = neighbours(frame.points_hw3, pose, self._candidates_n44, source.camera)
        return FrameViews(frame, pose, source.camera, source.stride, self._candidates_n44[chosen])


def random_batches(
    store: FrameStore,
    names: list[str],
    config: TrainConfig,
    step: int,
    rank: int = 0,
    ranks: int = 1,
) -> Generator[dict[str, Tensor], None, None]:
    """Yield batches of random views without end; a thread prepares the next one.

    Every frame appears once an epoch. Seed and step determine a batch, so that a resumed training
    continues with the batches of an uninterrupted one.

    Args:
        store: Source of the frames.
        names: The frames to sample.
        config: Views per step and process, their augmentations, and the seed of all choices.
        step: The first step.
        rank: Index of this process in a distributed training.
        ranks: Number of processes.

    Yields:
        The fields of `View` as tensors with a leading batch axis.
    """

    @lru_cache(maxsize=1)
    def order(epoch: int) -> np.ndarray:
        return np.random.default_rng((config.seed, 1, epoch)).permutation(len(names))

    def draw(index: int) -> View:
        epoch, position = divmod(index, len(names))
        rng = np.random.default_rng((config.seed, 2, index))
        return store.frame(names[order(epoch)[position]]).draw(rng, config.augment)

    def make(step: int) -> dict[str, Tensor]:
        first = (step * ranks + rank) * config.batch
        drawn = [draw(index) for index in range(first, first + config.batch)]
        return {
            f.name: torch.from_numpy(np.stack([getattr(view, f.name) for view in drawn]))
            for f in fields(View)
        }

    with ThreadPoolExecutor(1) as pool:
        upcoming = pool.submit(make, step)
        while True:
            ready = upcoming.result()
            step += 1
            upcoming = pool.submit(make, step)
            yield ready
