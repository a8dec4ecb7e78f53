"""Divides a graph in two where few and weak links are cut."""

from collections.abc import Iterator

import numpy as np
from scipy.linalg import eigh_tridiagonal
from scipy.sparse import csr_array, diags_array
from scipy.sparse.csgraph import connected_components

TOLERANCE = 0.2  # of the size of a part: the largest has 1.5 times as many nodes as the smallest

_MOST_STEPS = 300  # of the Lanczos iteration
_CHECKED_EVERY = 20  # steps
_RESIDUAL = 1e-5  # of the eigenvector; eigenvalues are at most 1
_DIGITS = 6  # of the eigenvector that count, so that rounding errors do not change the order
_VECTORS = 4  # along which nodes are ordered; the first ones cut least
_NOTHING = 1e-12  # length of a vector of rounding errors
_ATTEMPTS = 60  # divisions that are checked for connection


def bisect(weight_nn: csr_array, mean: float, seed: int) -> np.ndarray:
    """Return which nodes (n,), bool, are on the first side of the best division of a graph.

    Nodes are ordered along the second eigenvector of the random walk, and along the next ones, and
    divided where the normalized cut is smallest (Shi and Malik 2000). Both sides are connected.

    Args:
        weight_nn: Symmetric weights of the links of a connected graph of two nodes or more.
        mean: Number of nodes of the parts into which both sides will be divided, see `misfit`.
            Where no division fits, the nearest one is taken.
        seed: Of the start of the iteration.
    """
    n = weight_nn.shape[0]
    orders = _eigenvectors(weight_nn, seed).argsort(axis=1, kind="stable")
    size_m = np.arange(1, n)
    cost_om = np.round([_cut_costs(weight_nn, order) for order in orders], _DIGITS)
    misfit_m = np.maximum(misfit(size_m, mean), misfit(n - size_m, mean))
    best_n, best_misfit = np.zeros(n, bool), np.inf
    for number, size in _candidates(cost_om, misfit_m):
        first_n = np.zeros(n, bool)
        first_n[orders[number, :size]] = True
        first_n = _connected_sides(weight_nn, first_n)
        sizes = np.array([first_n.sum(), (~first_n).sum()])
        found = float(misfit(sizes, mean).max())
        if found < best_misfit and sizes.min():
            best_n, best_misfit = first_n, found
        if not best_misfit:
            break
    return best_n


def misfit(size: np.ndarray, mean: float) -> np.ndarray:
    """Return by how many nodes sizes miss those that can be divided into parts of about the mean.

    Parts have 0.8 to 1.2 times the mean. The more parts are still to be divided, the closer to
    their mean they must be together, so that each division has some choice.
    """
    parts = np.maximum(np.round(size / mean), 1)
    return (np.abs(size - parts * mean) - TOLERANCE * np.sqrt(parts) * mean).clip(0)


def _candidates(cost_om: np.ndarray, misfit_m: np.ndarray) -> Iterator[tuple[int, int]]:
    """Yield divisions, as numbers of orders and sizes of first sides, the best first.

    Of each order, no two sizes are close to each other.

    Args:
        cost_om: Cost behind each node, but the last, of each order.
        misfit_m: Misfit of the sizes on both sides.
    """
    is_near_om = np.zeros_like(cost_om, bool)
    apart = cost_om.shape[1] // _ATTEMPTS
    misfit_om = np.broadcast_to(misfit_m, cost_om.shape)
    attempts = 0
    for at in np.lexsort((cost_om.ravel(), misfit_om.ravel())).tolist():
        number, m = divmod(at, cost_om.shape[1])
        if not is_near_om[number, m]:
            yield number, m + 1
            is_near_om[number, max(0, m - apart) : m + apart + 1] = True
            attempts += 1
        if attempts == _ATTEMPTS:
            return


def cut_fraction(weight_nn: csr_array, part_n: np.ndarray) -> float:
    """Return the fraction of the weight of all links that are between parts (n,)."""
    links = weight_nn.tocoo()
    between = part_n[links.row] != part_n[links.col]
    return float(links.data[between].sum(dtype=float) / links.data.sum(dtype=float))


def _connected_sides(weight_nn: csr_array, first_n: np.ndarray) -> np.ndarray:
    """Return a division (n,), bool, in which what is loose on a side has moved to the other."""
    first_n = first_n.copy()
    for side in (True, False):
        members = np.flatnonzero(first_n == side)
        _, label = connected_components(weight_nn[members][:, members], directed=False)
        first_n[members[label != np.bincount(label).argmax()]] = not side
    return first_n


def _cut_costs(weight_nn: csr_array, order: np.ndarray) -> np.ndarray:
    """Return the normalized cut (n - 1,) behind each but the last node of an order."""
    n = len(order)
    rank_n = np.empty(n, int)
    rank_n[order] = np.arange(n)
    links = weight_nn.tocoo()
    low, high = rank_n[links.row], rank_n[links.col]
    once = low < high
    opened_n = np.bincount(low[once], links.data[once], n)
    closed_n = np.bincount(high[once], links.data[once], n)
    cut_n = (opened_n - closed_n).cumsum()
    volume_n = (opened_n + closed_n).cumsum()
    other_n = volume_n[-1] - volume_n
    return (cut_n[:-1] / volume_n[:-1] + cut_n[:-1] / other_n[:-1]).clip(0)


def _eigenvectors(weight_nn: csr_array, seed: int) -> np.ndarray:
    """Return the second and the next eigenvectors (v, n) of the random walk on a graph.

    By the Lanczos iteration, without BLAS, whose rounding depends on its number of threads.
    """
    degree_n = weight_nn.sum(axis=1, dtype=float)
    root_n = np.sqrt(degree_n)
    scaling = diags_array(1 / root_n)
    adjacency_nn = csr_array(scaling @ weight_nn.astype(float) @ scaling)
    n = len(root_n)
    basis_kn = np.empty((min(_MOST_STEPS, n - 1) + 1, n))
    basis_kn[0] = root_n / np.sqrt(degree_n.sum())  # the first eigenvector
    next_n = _orthogonal(np.random.default_rng(seed).standard_normal(n), basis_kn[:1])
    diagonal: list[float] = []
    beside = [_norm(next_n)]
    while len(diagonal) < len(basis_kn) - 1 and beside[-1] > _NOTHING:
        k = len(diagonal) + 1
        basis_kn[k] = next_n / beside[-1]
        next_n = adjacency_nn @ basis_kn[k]
        diagonal.append(float(np.einsum("n,n->", next_n, basis_kn[k])))
        next_n = _orthogonal(next_n, basis_kn[: k + 1])
        beside.append(_norm(next_n))
        if k % _CHECKED_EVERY == 0:
            last_v = _largest(diagonal, beside[1:-1])[:, -1]
            if abs(last_v[0]) * beside[-1] < _RESIDUAL:
                break
    largest_vk = _largest(diagonal, beside[1:-1])
    vectors_vn = np.einsum("vk,kn->vn", largest_vk, basis_kn[1 : len(diagonal) + 1]) / root_n
    extreme_v1 = vectors_vn[np.arange(len(vectors_vn)), np.abs(vectors_vn).argmax(axis=1), None]
    return np.round(vectors_vn / extreme_v1, _DIGITS)


def _orthogonal(vector_n: np.ndarray, basis_kn: np.ndarray) -> np.ndarray:
    """Return a vector (n,) without its components along an orthonormal basis (k, n)."""
    for _ in range(2):  # the second time removes the rounding errors of the first
        along_k = np.einsum("kn,n->k", basis_kn, vector_n)
        vector_n = vector_n - np.einsum("k,kn->n", along_k, basis_kn)
    return vector_n


def _largest(diagonal: list[float], beside: list[float]) -> np.ndarray:
    """Return the eigenvectors (v, k) of the largest eigenvalues of a tridiagonal matrix."""
    k = len(diagonal)
    span = max(0, k - _VECTORS), k - 1
    return eigh_tridiagonal(diagonal, beside, select="i", select_range=span)[1].T[::-1]


def _norm(vector_n: np.ndarray) -> float:
    return float(np.sqrt(np.einsum("n,n->", vector_n, vector_n)))
