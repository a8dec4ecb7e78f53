"""Which frames see the same: a sparse graph of all frames."""

from collections.abc import Sequence

import numpy as np
from scipy.sparse import csr_array

from mote_localization.progress import track_if_slow

LEAST_SHARED = 0.1  # of what two frames see, to be linked; walls let a few voxels through
_MOST_LINKS = 128  # that a frame draws; they bound the memory
_CANDIDATES = 1024  # about, with which a frame is compared where many frames see the same
_BLOCK = 256  # frames whose links are computed at once


def incidence(seen: Sequence[np.ndarray]) -> tuple[csr_array, np.ndarray]:
    """Return which frames see what.

    Args:
        seen: For each of n frames the sorted numbers of what it sees.

    Returns:
        A matrix (n, m) of ones, and the number (m,) of each column.
    """
    number_m, column_k = np.unique(np.concatenate(seen), return_inverse=True)
    ends = np.cumsum([0, *map(len, seen)])
    ones = np.ones(len(column_k), np.float32)
    return csr_array((ones, column_k.ravel(), ends), (len(seen), len(number_m))), number_m


def covisibility_graph(seen_nv: csr_array) -> csr_array:
    """Return the weight (n, n), from 0 to 1, of each pair of frames that see the same; symmetric.

    The weight is the number of shared voxels over the geometric mean of the numbers that each of
    the two sees. Weak links are left out. Of a frame with many links, some are drawn at random, the
    strong ones more often (Efraimidis and Spirakis 2006): then cuts remain proportional. Where very
    many frames see the same, each is compared with some of them.

    Args:
        seen_nv: Which frame sees which voxel.
    """
    n = seen_nv.shape[0]
    scale_n = 1 / np.sqrt(np.diff(seen_nv.indptr).clip(1))
    scaled_nv = seen_nv.multiply(scale_n[:, None].astype(np.float32)).tocsr()
    seen_by_n = (seen_nv @ seen_nv.sum(axis=0, dtype=float)) * scale_n**2  # mean of its voxels
    chance_n = (_CANDIDATES / seen_by_n.clip(1)).clip(max=1)
    rows, columns, weights = [], [], []
    starts = range(0, n, _BLOCK)
    for start in track_if_slow(starts, "compare frames", len(starts)):
        rng = np.random.default_rng(start)
        candidates = np.flatnonzero(rng.random(n) < chance_n)
        block = (scaled_nv[start : start + _BLOCK] @ scaled_nv[candidates].T).tocoo()
        row, column, weight = block.row + start, candidates[block.col], block.data
        kept = (weight >= LEAST_SHARED) & (row != column)
        row, column, weight = row[kept], column[kept], weight[kept]
        drawn = rng.exponential(size=len(weight)) / weight * chance_n[column]
        order = np.lexsort((column, drawn, row))
        row, column, weight = row[order], column[order], weight[order]
        rank = np.arange(len(row)) - np.searchsorted(row, row)
        few = rank < _MOST_LINKS
        rows.append(row[few])
        columns.append(column[few])
        weights.append(weight[few])
    entries = np.concatenate(weights), (np.concatenate(rows), np.concatenate(columns))
    directed_nn = csr_array(entries, (n, n))
    return csr_array(directed_nn.maximum(directed_nn.T))
