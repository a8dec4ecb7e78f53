"""Divides frames into submaps by what they see together, and adds the frames of their overlap."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array

from distill_training.submaps.bisection import TOLERANCE, bisect
from mote_localization.errors import ConfigError
from mote_localization.progress import track_if_slow

_MOST_AREA = 1.5  # times the area; beyond, a submap is divided though others are larger


@dataclass(frozen=True)
class PartitionConfig:
    """How large submaps are."""

    frames: int = 300  # most frames of a submap, without those of its overlap
    area: float = 50.0  # m2, about; floor that the frames of a submap see
    overlap: float = 0.2  # frames of the neighbours that a submap gets, relative to its own
    seed: int = 0  # of the division, and of the trainings of the submaps

    def __post_init__(self) -> None:
        for name, fits, expected in (
            ("frames", self.frames >= 2, "2 or more"),
            ("area", 0 < self.area < math.inf, "m2 above 0"),
            ("overlap", 0 <= self.overlap <= 1, "a fraction from 0 to 1"),
            ("seed", 0 <= self.seed < 2**63, "0 or more"),
        ):
            if not fits:
                raise ConfigError(f"found --{name} {getattr(self, name):g}, expected {expected}")

    def parts(self, frames: int, area_m2: float) -> int:
        """Return in how many submaps frames that see an area must be divided, about."""
        needed = max(frames / self.frames, area_m2 / self.area)
        return math.ceil((1 + TOLERANCE) * needed) if needed > 1 else 1


def partition(weight_nn: csr_array, area_n: np.ndarray, config: PartitionConfig) -> np.ndarray:
    """Return the part (n,) of each frame, numbered by their first frames.

    The frames are divided in two again and again, into parts of 0.8 to 1.2 times their mean number,
    as far as there are such parts that are connected. Parts that then have more than 1.5 times the
    area are divided further. No part has more frames than allowed, and each is connected.

    Args:
        weight_nn: Co-visibility of the frames; they are connected.
        area_n: Floor that each frame sees, m2; where several see the same, its fraction.
        config: Limits of the parts.
    """
    part_n = np.zeros(len(area_n), int)
    parts = min(config.parts(len(area_n), float(area_n.sum())), len(area_n))
    divisions = _divisions(weight_nn, area_n, len(area_n) / parts, part_n, config)
    for _ in track_if_slow(divisions, "divide into submaps", parts - 1):
        pass
    _, first, part_n = np.unique(part_n, return_index=True, return_inverse=True)
    return first.argsort(kind="stable").argsort(kind="stable")[part_n]


def _divisions(
    weight_nn: csr_array,
    area_n: np.ndarray,
    mean: float,
    part_n: np.ndarray,
    config: PartitionConfig,
) -> Iterator[None]:
    """Divide all frames, in `part_n`, into parts of a mean number of frames; yield after each."""
    waiting = [(np.arange(len(part_n)), mean)]
    while waiting:
        members, mean = waiting.pop()
        if len(members) <= (1 + TOLERANCE) * mean:
            parts = config.parts(len(members), float(area_n[members].sum()) / _MOST_AREA)
            if parts == 1 or len(members) < parts:
                continue
            mean = len(members) / parts
        first_k = bisect(weight_nn[members][:, members], mean, config.seed)
        part_n[members[first_k]] = part_n.max() + 1
        waiting += [(members[first_k], mean), (members[~first_k], mean)]
        yield


def overlap_frames(weight_nn: csr_array, part_n: np.ndarray, overlap: float) -> list[np.ndarray]:
    """Return the frames, in order, that each part gets of the others.

    These are the frames with the largest fraction of their co-visibility with the part.

    Args:
        weight_nn: Co-visibility of the frames.
        part_n: Part of each frame.
        overlap: Their number, relative to the frames of the part.
    """
    n, parts = len(part_n), int(part_n.max()) + 1
    is_in_np = csr_array((np.ones(n), (np.arange(n), part_n)), (n, parts))
    shared_pn = csr_array((weight_nn @ is_in_np).T)
    degree_n = weight_nn.sum(axis=1, dtype=float)
    chosen = []
    for part in range(parts):
        row = shared_pn[[part]].tocoo()
        frames, fraction = row.coords[1], row.data / degree_n[row.coords[1]]
        outside = part_n[frames] != part
        frames, fraction = frames[outside], np.round(fraction[outside], 6)
        count = round(overlap * int((part_n == part).sum()))
        chosen.append(np.sort(frames[np.lexsort((frames, -fraction))[:count]]))
    return chosen
