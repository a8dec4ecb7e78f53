"""Stored predictions of a pair predictor for the images of a scene, in a folder.

    predictions.json         predictor, its settings, frames, cameras, stride
    features/000012.npz      features float16, descriptor_d float32
    pairs/000012-000034.npz  four pointmaps float16 (h, w, 4): point in the camera frame of one
                             image, in the unit of the pair, and confidence; NaN and 0 = none

Each file is written completely or not at all, so that an interrupted run resumes. Memory does not
grow with the number of images.
"""

import json
import logging
import shutil
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from distill_training.common.array_folder import begin_folder, read_arrays, write_arrays
from distill_training.poses.image_pairs import Pair
from distill_training.teachers.pairwise.cells import reduce_to_cells
from distill_training.teachers.pairwise.pair_predictor import Encoded, PairPredictor, Pointmap
from distill_training.teachers.pairwise.photo import Photo
from mote_localization.camera import Camera, CanonicalView
from mote_localization.errors import ImageError, ReconstructionError, SceneError
from mote_localization.progress import progress_bar
from mote_localization.scenes import Frame

_log = logging.getLogger(__name__)
_FORMAT_VERSION = 1
_INDEX = "predictions.json"
_CACHED_IMAGES = 64  # images whose features stay in memory, or twice the batch if that is more
_FLOAT16_MAX = float(np.finfo(np.float16).max)
_undistorting_view = lru_cache(4)(CanonicalView)


@dataclass(frozen=True)
class DirectedPair:
    """Pointmaps of images i and j in the camera frame of i, in the unit of the pair."""

    i: int
    j: int
    own_hw3: np.ndarray  # float32, cells of i, NaN = none
    own_confidence_hw: np.ndarray  # float32, 0 = none
    other_hw3: np.ndarray  # float32, cells of j, NaN = none
    other_confidence_hw: np.ndarray  # float32, 0 = none


class Predictions:
    """Features and pair predictions of the images of a scene, stored in a folder.

    Images are numbered by their position in the list that the constructor takes.
    """

    def __init__(
        self,
        folder: Path,
        predictor: PairPredictor,
        photos: Sequence[Photo],
        stride: int,
        batch: int = 16,
    ) -> None:
        """Create the folder, or resume with an existing one.

        Args:
            folder: Folder for the predictions alone.
            predictor: Predicts pointmaps of image pairs.
            photos: The images; pointmaps are reduced to the cells of their grids.
            stride: Side of a cell, px of a grid.
            batch: Pairs predicted at once; halved when they do not fit into the memory of the GPU.

        Raises:
            ReconstructionError: The folder holds predictions of other frames or settings, or cannot
                be written.
        """
        self.folder, self._predictor, self._batch = folder, predictor, batch
        self._photos, self._stride = photos, stride
        self._network = [predictor.camera(replace(photo.live, distortion=())) for photo in photos]
        index = {
            "format_version": _FORMAT_VERSION,
            "predictor": predictor.name,
            "settings": predictor.settings,
            "stride": stride,
            "frames": [
                {"name": one.frame.name, "live": asdict(one.live), "grid": asdict(one.grid)}
                for one in photos
            ],
        }
        begin_folder(folder / _INDEX, json.loads(json.dumps(index)))

    def encode(self) -> dict[int, str]:
        """Compute the features of every image that has none yet.

        Returns:
            The reason for each image that cannot be used: it is unreadable, or lacks what the
            predictor needs. All other images have features.

        Raises:
            SceneError: No image can be used.
            ReconstructionError: A file cannot be written, or an image does not fit into the memory
                of the GPU.
        """
        unusable: dict[int, str] = {}
        with _rate_bar("encode images", "images", len(self._photos)) as advance:
            for k, photo in enumerate(self._photos):
                if new := not self._features_path(k).exists():
                    try:
                        self._encode(k, photo.frame, photo.live)
                    except (SceneError, ImageError) as error:
                        _log.warning("frame %s is left out: %s", photo.frame.name, error)
                        unusable[k] = str(error)
                    except torch.cuda.OutOfMemoryError as error:
                        raise _out_of_memory("an image") from error
                advance(1, new)
        if unusable and len(unusable) == len(self._photos):
            last = list(unusable.values())[-1]
            raise SceneError(f"none of {len(unusable)} images can be used; the last one: {last}")
        return unusable

    def descriptors(self, images: Sequence[int]) -> np.ndarray:
        """Return the descriptors (len(images), d) float32 of images that have features.

        Raises:
            ReconstructionError: A file is missing or damaged.
        """
        expected = {"descriptor_d": (None, np.float32)}
        return np.stack(
            [
                read_arrays(self._features_path(k), expected, "descriptor")["descriptor_d"]
                for k in images
            ]
        )

    def decode(self, pairs: Iterable[Pair]) -> None:
        """Predict every pair (i, j), i < j, that is not predicted yet; both images need features.

        A batch that does not fit into the memory of the GPU is halved for the rest of the run.

        Raises:
            ReconstructionError: A file is damaged or cannot be written, or a single pair does not
                fit into the memory of the GPU.
        """
        groups = defaultdict(list)
        sizes = [(camera.width, camera.height) for camera in self._network]
        for i, j in sorted(pairs):
            groups[sizes[i], sizes[j]].append((i, j))
        batch = self._batch
        encoded = lru_cache(max(_CACHED_IMAGES, 2 * batch))(self._encoded)
        with _rate_bar("predict pairs", "pairs", sum(map(len, groups.values()))) as advance:
            for group in groups.values():
                done = 0
                while done < len(group):
                    # The same batches as in an uninterrupted run: the rounding of a network
                    # depends on the batch.
                    some = group[done : done + batch]
                    new = not all(self._pair_path(*pair).exists() for pair in some)
                    if new and not self._decode(some, encoded):
                        batch = len(some) // 2
                        torch.cuda.empty_cache()
                        _log.warning("out of GPU memory: continuing with batches of %d", batch)
                        continue
                    done += len(some)
                    advance(len(some), new)

    def read(self, i: int, j: int) -> tuple[DirectedPair, DirectedPair]:
        """Return the predictions for two images: directed pairs (i, j) and (j, i).

        Raises:
            ReconstructionError: The file is missing or damaged, or has other sizes.
        """
        if i > j:
            return self.read(j, i)[::-1]
        grids, stride = (self._photos[i].grid, self._photos[j].grid), self._stride
        i_hw4, j_hw4 = ((grid.height // stride, grid.width // stride, 4) for grid in grids)
        path = self._pair_path(i, j)
        shapes = {"own_ij": i_hw4, "other_ij": j_hw4, "own_ji": j_hw4, "other_ji": i_hw4}
        arrays = read_arrays(path, {key: (s, np.float16) for key, s in shapes.items()}, "pair")
        maps = {key: packed_hw4.astype(np.float32) for key, packed_hw4 in arrays.items()}
        for key, packed_hw4 in maps.items():
            valid_hw = packed_hw4[..., 3] > 0
            if not (np.isfinite(packed_hw4).all(axis=-1) == valid_hw).all():
                raise ReconstructionError(
                    f"{path}: {key} has points without confidence or the reverse; delete it and "
                    "run `mote-distill reconstruct` again"
                )
        first, second = (
            DirectedPair(*pair, own[..., :3], own[..., 3], other[..., :3], other[..., 3])
            for pair, own, other in (
                ((i, j), maps["own_ij"], maps["other_ij"]),
                ((j, i), maps["own_ji"], maps["other_ji"]),
            )
        )
        return first, second

    def remove(self) -> None:
        """Delete all stored predictions, and the folder if it is empty then.

        Raises:
            ReconstructionError: A file cannot be deleted.
        """
        try:
            for kind in ("features", "pairs"):
                if (self.folder / kind).exists():
                    shutil.rmtree(self.folder / kind)
            # Last: without the index, another run could take these files for its own.
            (self.folder / _INDEX).unlink(missing_ok=True)
            if not any(self.folder.iterdir()):
                self.folder.rmdir()
        except OSError as error:
            raise ReconstructionError(
                f"{self.folder}: cannot be deleted ({error.strerror}); delete it by hand"
            ) from error

    def _encode(self, k: int, frame: Frame, live: Camera) -> None:
        """Compute and write the features of one image."""
        image_hw3 = frame.image()
        if image_hw3.shape[:2] != (live.height, live.width):
            raise SceneError(
                f"frame {frame.name[:60]}: is {image_hw3.shape[1]}x{image_hw3.shape[0]} px, "
                f"expected {live.width}x{live.height} px as its camera"
            )
        undistorted = replace(live, distortion=())
        if live.distortion:
            image_hw3 = _undistorting_view(live, undistorted, 1).warp(image_hw3)
        encoded = self._predictor.encode(frame, image_hw3, undistorted)
        write_arrays(
            self._features_path(k),
            {"features": encoded.features, "descriptor_d": self._predictor.descriptor(encoded)},
        )

    def _encoded(self, k: int) -> Encoded:
        """Read the features of one image."""
        expected = {"features": (None, np.float16)}
        arrays = read_arrays(self._features_path(k), expected, "image")
        return Encoded(arrays["features"], self._network[k])

    @torch.inference_mode()
    def _decode(self, pairs: list[Pair], encoded: Callable[[int], Encoded]) -> bool:
        """Predict pairs of images of equal sizes and write them; return False if out of memory."""
        ones, others = zip(*pairs, strict=True)
        try:
            forward, backward = self._predictor.decode(
                [encoded(i) for i in ones], [encoded(j) for j in others]
            )
            maps = {
                "own_ij": self._reduced(forward.first, ones),
                "other_ij": self._reduced(forward.second, others),
                "own_ji": self._reduced(backward.first, others),
                "other_ji": self._reduced(backward.second, ones),
            }
        except torch.cuda.OutOfMemoryError as error:
            if len(pairs) == 1:
                raise _out_of_memory("a pair of images") from error
            return False
        for k, pair in enumerate(pairs):
            write_arrays(self._pair_path(*pair), {key: packed[k] for key, packed in maps.items()})
        return True

    def _reduced(self, pointmap: Pointmap, images: Sequence[int]) -> list[np.ndarray]:
        """Return the cells (h, w, 4) float16 of each image of a batch of dense pointmaps."""
        rows_of = defaultdict(list)
        for row, k in enumerate(images):
            rows_of[self._network[k], self._photos[k].grid].append(row)
        packed: dict[int, np.ndarray] = {}
        for (network, grid), rows in rows_of.items():
            # A slice does not copy: dense pointmaps are large.
            part = slice(None) if len(rows) == len(images) else rows
            some = Pointmap(pointmap.points_bhw3[part], pointmap.confidence_bhw[part])
            cells = _packed(*reduce_to_cells(some, network, grid, self._stride))
            packed.update(zip(rows, cells, strict=True))
        return [packed[row] for row in range(len(images))]

    def _features_path(self, k: int) -> Path:
        return self.folder / f"features/{k:06d}.npz"

    def _pair_path(self, i: int, j: int) -> Path:
        return self.folder / f"pairs/{i:06d}-{j:06d}.npz"


def _packed(points_bhw3: Tensor, confidence_bhw: Tensor) -> np.ndarray:
    """Return points and confidence (b, h, w, 4) in half precision; overflowing cells get none."""
    confidence_bhw1 = confidence_bhw.clamp(max=_FLOAT16_MAX)[..., None]
    packed_bhw4 = torch.cat([points_bhw3, confidence_bhw1], dim=-1).half()
    valid_bhw = packed_bhw4.isfinite().all(dim=-1) & (packed_bhw4[..., 3] > 0)
    none_4 = packed_bhw4.new_tensor([torch.nan, torch.nan, torch.nan, 0])
    return torch.where(valid_bhw[..., None], packed_bhw4, none_4).cpu().numpy()


def _out_of_memory(what: str) -> ReconstructionError:
    return ReconstructionError(
        f"{what} does not fit into the memory of the GPU; free memory, or use a smaller network or "
        "the CPU"
    )


@contextmanager
def _rate_bar(description: str, unit: str, total: int) -> Iterator[Callable[[int, bool], None]]:
    """Show a progress bar with the rate of new items, not counting those of an earlier run."""
    with progress_bar("{task.fields[rate]:.1f} " + f"{unit}/s") as bar:
        task = bar.add_task(description, total=total, rate=0.0)
        count, start_s = 0, time.perf_counter()

        def advance(more: int, new: bool) -> None:
            nonlocal count, start_s
            count += more if new else 0
            start_s = start_s if count else time.perf_counter()
            rate = count / max(time.perf_counter() - start_s, 1e-9) if count else 0.0
            bar.update(task, advance=more, rate=rate)

        yield advance
