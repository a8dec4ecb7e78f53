"""Training examples: frames of a reconstruction in bounded memory, batches of random views."""

import math
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from distill_training.reconstruction import Reconstruction
from distill_training.students.head import SceneNormalization
from distill_training.training.augmentation import AugmentConfig, FrameViews, View
from distill_training.training.neighbours import neighbours
from mote_localization.errors import ReconstructionError

_CACHE_BYTES = 1 << 30
_CELL_BYTES = 64  # of a frame in memory: depth, sigma, the surface around, samples for novel views
_SAMPLED_FRAMES = 200  # frames that say where the place lies
_SOUGHT_FRAMES = 500  # frames that may be neighbours


class FrameStore:
    """The frames of a reconstruction, a bounded number of them kept in memory."""

    def __init__(self, reconstruction: Reconstruction, among: Sequence[str] = ()) -> None:
        """Open the store; frames are read when first asked for.

        Args:
            reconstruction: Where they are read.
            among: Frames in which neighbours are looked for; none: frames have none.
        """
        self._reconstruction = reconstruction
        poses = [reconstruction.poses[name] for name in among]
        thinned = poses[:: max(1, math.ceil(len(poses) / _SOUGHT_FRAMES))]
        self._among_n44 = np.array(thinned).reshape(-1, 4, 4)
        camera = reconstruction.camera
        cells = (camera.width // reconstruction.stride) * (camera.height // reconstruction.stride)
        frame_bytes = camera.width * camera.height * 3 + cells * _CELL_BYTES
        self.frame = lru_cache(maxsize=max(1, _CACHE_BYTES // frame_bytes))(self._read)

    def _read(self, name: str) -> FrameViews:
        source = self._reconstruction
        frame, pose = source.read_frame(name), source.poses[name]
        chosen = neighbours(frame.points_hw3, pose, self._among_n44, source.camera)
        return FrameViews(frame, pose, source.camera, source.stride, self._among_n44[chosen])


def random_batches(
    store: FrameStore,
    names: list[str],
    batch: int,
    augment: AugmentConfig,
    seed: int,
    step: int,
    rank: int = 0,
    ranks: int = 1,
) -> Generator[dict[str, Tensor], None, None]:
    """Give batches of random views for ever, made one step ahead in a thread.

    Every frame comes once an epoch. Seed and step alone decide what is drawn, so that a resumed
    training sees what an uninterrupted one would have seen.

    Args:
        store: Where frames come from.
        names: The frames to draw from.
        batch: Views per step.
        augment: How views are changed.
        seed: Of everything that is random.
        step: The first step.
        rank: Which of the processes that train together this one is.
        ranks: How many there are; a step's views are shared out among them, `batch` to each.

    Yields:
        The fields of `View` as tensors with a leading batch axis.
    """

    @lru_cache(maxsize=1)
    def order(epoch: int) -> np.ndarray:
        return np.random.default_rng((seed, 1, epoch)).permutation(len(names))

    def draw(index: int) -> View:
        epoch, position = divmod(index, len(names))
        return store.frame(names[order(epoch)[position]]).draw(
            np.random.default_rng((seed, 2, index)), augment
        )

    def make(step: int) -> dict[str, Tensor]:
        first = (step * ranks + rank) * batch
        drawn = [draw(index) for index in range(first, first + batch)]
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


def scene_frame(
    reconstruction: Reconstruction, names: list[str]
) -> tuple[SceneNormalization, np.ndarray, np.ndarray]:
    """Return where the points lie, and two corners (3,) of the mapped volume, metres.

    The corners are the 1st and 99th percentile of the points along each axis, widened to hold every
    camera: a few flying points do not enlarge the place.

    Raises:
        ReconstructionError: No cell of these frames has a point.
    """
    sampled = []
    for name in names[:: math.ceil(len(names) / _SAMPLED_FRAMES)]:
        points_hw3 = reconstruction.read_frame(name).points_hw3
        sampled.append(points_hw3[np.isfinite(points_hw3).all(axis=-1)])
    points = np.concatenate(sampled).astype(np.float64) if sampled else np.zeros((0, 3))
    if not len(points):
        raise ReconstructionError(
            f"{reconstruction.folder}: found no cell with a point in {len(names)} training frames, "
            "expected some"
        )
    x, y, z = points.mean(axis=0)
    spread = float(np.sqrt(points.var(axis=0).mean()))
    cameras = np.array([T[:3, 3] for T in reconstruction.poses.values()])
    low, high = np.percentile(points, (1, 99), axis=0)
    return (
        SceneNormalization((float(x), float(y), float(z)), max(spread, 1e-3)),
        np.minimum(low, cameras.min(axis=0)),
        np.maximum(high, cameras.max(axis=0)),
    )
