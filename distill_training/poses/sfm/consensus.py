"""Groups of cameras whose relative poses agree in two models of the same images."""

from collections.abc import Iterator

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from mote_localization.geometry import mean_rotation, rigid
from mote_localization.similarity import similarity

_HYPOTHESES = 1000  # random pairs of cameras, each of which determines a similarity
_REFINEMENTS = 5
_BLOCK = 256  # hypotheses that are evaluated at once


def agreeing_groups(
    T_one_n44: np.ndarray,
    T_other_n44: np.ndarray,
    tolerance_n: np.ndarray,
    tolerance_deg: float,
    covisible_nn: csr_array,
    least: int,
) -> np.ndarray:
    """Return the group (n,) of each camera, -1: none; the largest group is 0.

    Within a group one similarity transform maps the poses of one model to those of the other.
    Groups are found one after the other by RANSAC (Fischler and Bolles 1981) with the similarity of
    two cameras, refined by least squares (Umeyama 1991). A group is connected by covisible points.

    Args:
        T_one_n44: Camera poses of one model.
        T_other_n44: Poses of the same cameras in the other model, in its own frame and unit.
        tolerance_n: Largest distance of two positions of each camera, units of the first model.
        tolerance_deg: Largest angle between two rotations of a camera.
        covisible_nn: Not zero where two cameras share points.
        least: Cameras of the smallest group.
    """
    n = len(T_one_n44)
    group_n = np.full(n, -1)
    rng = np.random.default_rng(0)
    count = 0
    while True:
        free = np.flatnonzero(group_n < 0)
        members = _largest_group(
            T_one_n44[free],
            T_other_n44[free],
            tolerance_n[free],
            tolerance_deg,
            covisible_nn[free][:, free],
            rng,
        )
        if len(members) < least:
            return group_n
        group_n[free[members]] = count
        count += 1


def connected_parts(group_n: np.ndarray, covisible_nn: csr_array, least: int) -> list[np.ndarray]:
    """Return the members of each group, split where no covisible points connect them.

    Args:
        group_n: Group of each camera, -1: none.
        covisible_nn: Not zero where two cameras share points.
        least: Cameras of the smallest part.

    Returns:
        The indices of each part, the largest part first.
    """
    parts = []
    for group in np.unique(group_n[group_n >= 0]):
        members = np.flatnonzero(group_n == group)
        count, label = connected_components(covisible_nn[members][:, members], directed=False)
        parts += [members[label == k] for k in range(count)]
    return sorted((part for part in parts if len(part) >= least), key=len, reverse=True)


def align_poses(T_source_n44: np.ndarray, T_target_n44: np.ndarray) -> tuple[float, np.ndarray]:
    """Return scale and rigid transform (4, 4) that map poses best to others, by least squares.

    The rotation follows from the rotations, because positions on one line do not determine it.
    """
    source_n3, target_n3 = T_source_n44[:, :3, 3], T_target_n44[:, :3, 3]
    scale, _ = similarity(source_n3, target_n3)
    R = mean_rotation(T_target_n44[:, :3, :3] @ np.swapaxes(T_source_n44[:, :3, :3], 1, 2))
    return scale, rigid(R, (target_n3 - scale * source_n3 @ R.T).mean(axis=0))


def _largest_group(
    T_one_n44: np.ndarray,
    T_other_n44: np.ndarray,
    tolerance_n: np.ndarray,
    tolerance_deg: float,
    covisible_nn: csr_array,
    rng: np.random.Generator,
) -> np.ndarray:
    """Return the indices of the largest connected group of cameras that one similarity fits."""
    n = len(T_one_n44)
    if n < 2:
        return np.zeros(0, int)
    best = np.zeros(0, int)
    least_cosine = np.cos(np.radians(tolerance_deg))
    for scale_k, R_k33, t_k3 in _hypotheses(T_one_n44, T_other_n44, covisible_nn, rng):
        fits_kn = _fits(scale_k, R_k33, t_k3, T_one_n44, T_other_n44, tolerance_n, least_cosine)
        for k in np.argsort(-fits_kn.sum(axis=1), kind="stable")[:2]:
            if fits_kn[k].sum() <= len(best):
                break
            members = _largest_component(np.flatnonzero(fits_kn[k]), covisible_nn)
            if len(members) > len(best):
                best = members
    for _ in range(_REFINEMENTS):
        if len(best) < 3:
            break
        scale, T = align_poses(T_other_n44[best], T_one_n44[best])
        fits_n = _fits(
            np.array([scale]),
            T[None, :3, :3],
            T[None, :3, 3],
            T_one_n44,
            T_other_n44,
            tolerance_n,
            least_cosine,
        )[0]
        refined = _largest_component(np.flatnonzero(fits_n), covisible_nn)
        if len(refined) < len(best):
            break
        best = refined
    return best


def _hypotheses(
    T_one_n44: np.ndarray,
    T_other_n44: np.ndarray,
    covisible_nn: csr_array,
    rng: np.random.Generator,
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield blocks of similarities (scale, rotation, translation) of two cameras each."""
    n = len(T_one_n44)
    i, j = covisible_nn.nonzero()
    some = rng.permutation(len(i))[: _HYPOTHESES // 2]
    random_2k = rng.integers(0, n, (2, _HYPOTHESES // 2))
    i, j = np.concatenate([[i[some], j[some]], random_2k], axis=1)
    apart_one = T_one_n44[i, :3, 3] - T_one_n44[j, :3, 3]
    apart_other = T_other_n44[i, :3, 3] - T_other_n44[j, :3, 3]
    length_one, length_other = (np.linalg.norm(v, axis=1) for v in (apart_one, apart_other))
    valid = (length_one > 0) & (length_other > 0)
    i, j, scale = i[valid], j[valid], length_one[valid] / length_other[valid]
    for start in range(0, len(i), _BLOCK):
        block = slice(start, start + _BLOCK)
        a, b, s = i[block], j[block], scale[block]
        R_k33 = T_one_n44[a, :3, :3] @ np.swapaxes(T_other_n44[a, :3, :3], 1, 2)
        middle_one = (T_one_n44[a, :3, 3] + T_one_n44[b, :3, 3]) / 2
        middle_other = (T_other_n44[a, :3, 3] + T_other_n44[b, :3, 3]) / 2
        t_k3 = middle_one - s[:, None] * (R_k33 @ middle_other[..., None])[..., 0]
        yield s, R_k33, t_k3


def _fits(
    scale_k: np.ndarray,
    R_k33: np.ndarray,
    t_k3: np.ndarray,
    T_one_n44: np.ndarray,
    T_other_n44: np.ndarray,
    tolerance_n: np.ndarray,
    least_cosine: float,
) -> np.ndarray:
    """Return whether (k, n) each similarity maps each camera's pose of the other model."""
    mapped_kn3 = scale_k[:, None, None] * (T_other_n44[:, :3, 3] @ np.swapaxes(R_k33, 1, 2))
    mapped_kn3 += t_k3[:, None]
    near_kn = np.linalg.norm(mapped_kn3 - T_one_n44[:, :3, 3], axis=-1) < tolerance_n
    relative_n33 = T_one_n44[:, :3, :3] @ np.swapaxes(T_other_n44[:, :3, :3], 1, 2)
    trace_kn = np.einsum("nij,kij->kn", relative_n33, R_k33)
    return near_kn & ((trace_kn - 1) / 2 > least_cosine)


def _largest_component(members: np.ndarray, covisible_nn: csr_array) -> np.ndarray:
    """Return the members of the largest connected component."""
    if not len(members):
        return members
    _, label = connected_components(covisible_nn[members][:, members], directed=False)
    return members[label == np.bincount(label).argmax()]
