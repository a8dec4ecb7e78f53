"""Fit of a similarity transform to corresponding points."""

import numpy as np


def similarity(
    source_n3: np.ndarray, target_n3: np.ndarray, weights_n: np.ndarray | None = None
) -> tuple[float, np.ndarray]:
    """Fit target = R (scale * source) + t by weighted least squares (Umeyama 1991, eq. 39-42).

    Three or more points that are not on one line determine the rotation. With fewer, the returned
    rotation is one of many, and the caller must not use it.

    Returns:
        The scale, and R and t as a rigid transform (4, 4).
    """
    weights_n = np.ones(len(source_n3)) if weights_n is None else weights_n
    source_mean, target_mean = (
        np.average(p, axis=0, weights=weights_n) for p in (source_n3, target_n3)
    )
    source, target = source_n3 - source_mean, target_n3 - target_mean
    U, d, Vt = np.linalg.svd((weights_n[:, None] * target).T @ source)
    signs = np.array([1, 1, np.linalg.det(U) * np.linalg.det(Vt)])
    scale = float(d @ signs / (weights_n @ (source**2).sum(1)))
    T = np.eye(4)
    T[:3, :3] = U * signs @ Vt
    T[:3, 3] = target_mean - scale * T[:3, :3] @ source_mean
    return scale, T
