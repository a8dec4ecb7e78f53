"""Checks of a model: which parts of it are consistent with others."""

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.linalg import eigh

from distill_training.poses.image_pairs import Pair
from distill_training.poses.poses_config import SfmConfig
from distill_training.poses.sfm.consensus import agreeing_groups, connected_parts
from distill_training.poses.sfm.feature_database import TwoView
from distill_training.poses.sfm.sfm_model import Model
from mote_localization.geometry import rotation_angle
from mote_localization.progress import track

_SEED = 0
_MIN_PAIR_INLIERS = 30  # of a two-view geometry that is compared with a model


def groups_that_agree(model: Model, others: Sequence[Model], config: SfmConfig) -> np.ndarray:
    """Return the group (n,) of each image: the images of one agree with one of the other models.

    Other models may have images in common; an image belongs to the largest group that it is in.

    Args:
        model: The model whose images are grouped.
        others: Independent models of the same images.
        config: What counts as agreement.
    """
    covisible_nn = model.covisible_nn()
    tolerance_n = config.tolerance * np.nan_to_num(model.median_depth_n())
    found = []
    for other in others:
        common, own, others_own = np.intersect1d(model.images, other.images, return_indices=True)
        if len(common) < config.min_images:
            continue
        group_k = agreeing_groups(
            model.T_model_cam_n44[own],
            other.T_model_cam_n44[others_own],
            tolerance_n[own],
            config.tolerance_deg,
            covisible_nn[own][:, own],
            config.min_images,
        )
        found += [own[group_k == k] for k in range(group_k.max(initial=-1) + 1)]
    group_n = np.full(len(model.images), -1)
    # Larger groups overwrite smaller ones.
    for k, members in enumerate(sorted(found, key=len)):
        group_n[members] = k
    return group_n


def halves(model: Model) -> list[Model]:
    """Return the model adjusted with each half of its points, divided at random.

    Where few points, or points without parallax, connect two parts of a model, the halves place
    them differently: their difference is as large as the standard deviation of the whole.
    """
    ids = np.array(sorted(model.reconstruction.point3D_ids()))
    first = np.random.default_rng(_SEED).random(len(ids)) < 0.5
    divided = track((first, ~first), "check halves", 2)
    return [model.adjusted(ids[half].tolist()) for half in divided]


def consistent_parts(
    model: Model, others: Sequence[Sequence[Model]], config: SfmConfig
) -> list[np.ndarray]:
    """Return the parts of a model that agree with every list of other models.

    Args:
        model: The model.
        others: Lists of models, each from another solution.
        config: What counts as agreement.

    Returns:
        Positions of the images of each part, the largest part first.
    """
    labels_ns = np.stack([groups_that_agree(model, models, config) for models in others], axis=1)
    held_n = (labels_ns >= 0).all(axis=1)
    group_n = np.full(len(model.images), -1)
    if held_n.any():
        group_n[held_n] = np.unique(labels_ns[held_n], axis=0, return_inverse=True)[1].ravel()
    return connected_parts(group_n, model.covisible_nn(), config.min_images)


def weakest_connection(model: Model) -> tuple[int, int]:
    """Return the points that connect the two least connected halves of a model, and the smaller.

    The cut is the best of those along the second eigenvector of the normalized Laplacian of the
    covisibility graph (Shi and Malik 2000).

    Returns:
        The number of points seen from both sides, and of images on the smaller side.
    """
    shared_nn = model.covisible_nn().toarray()
    np.fill_diagonal(shared_nn, 0)
    degree_n = shared_nn.sum(axis=1).clip(min=1)
    scale_n = 1 / np.sqrt(degree_n)
    laplacian_nn = np.eye(len(degree_n)) - scale_n[:, None] * shared_nn * scale_n
    second_n = eigh(laplacian_nn, subset_by_index=(1, 1))[1][:, 0] * scale_n
    order = np.argsort(second_n, kind="stable")
    ordered_nn, volume_n = shared_nn[order][:, order], degree_n[order].cumsum()
    inside_n = np.diagonal(ordered_nn.cumsum(axis=0).cumsum(axis=1))
    smaller_n = np.minimum(volume_n, volume_n[-1] - volume_n)[:-1]
    cost_n = (volume_n - inside_n)[:-1] / smaller_n.clip(min=1)
    split = int(cost_n.argmin()) + 1
    first = np.zeros(len(order), bool)
    first[order[:split]] = True
    visible_nm = model.visible_nm()
    seen_by_first, seen_by_second = (visible_nm[side].sum(axis=0) > 0 for side in (first, ~first))
    return int((seen_by_first & seen_by_second).sum()), min(split, len(order) - split)


def two_view_agreement(model: Model, pairs: Mapping[Pair, TwoView], max_deg: float) -> np.ndarray:
    """Return the fraction (n,) of each image's pairs whose rotation agrees with the model's.

    Where the scene is flat or the baseline short, a two-view geometry may be wrong though its
    matches are right. So even in a correct model a quarter of the pairs may disagree.
    """
    position = {int(image): k for k, image in enumerate(model.images)}
    agreeing_n, count_n = np.zeros(len(model.images)), np.zeros(len(model.images))
    for (i, j), pair in pairs.items():
        if pair.inliers < _MIN_PAIR_INLIERS or not (i in position and j in position):
            continue
        first, second = position[i], position[j]
        count_n[[first, second]] += 1
        agreeing_n[[first, second]] += (
            rotation_difference_deg(model, first, second, pair) <= max_deg
        )
    return np.divide(agreeing_n, count_n, np.full(len(count_n), np.nan), where=count_n > 0)


def rotation_difference_deg(model: Model, first: int, second: int, pair: TwoView) -> float:
    """Return the angle between the relative rotation of a pair and that of a model, degrees."""
    R_first, R_second = (model.T_model_cam_n44[k, :3, :3] for k in (first, second))
    return float(np.degrees(rotation_angle(R_second.T @ R_first @ pair.R_second_first.T)))
