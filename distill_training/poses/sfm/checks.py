"""Checks of a model: which parts of it are consistent with others."""

import math
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass

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
_MIN_COMMON_PAIRS = 3  # of an image, for their fraction to count
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


@dataclass(frozen=True)
class Connection:
    """What connects two sides of a model."""

    points: int  # seen from both sides
    images: int  # on the smaller side
    angle_deg: float  # median angle between the rays of a point from the two sides; NaN without one
    scale_sigma: float  # expected error of the scale between the sides, relative; infinite: none


def weakest_cut(model: Model) -> np.ndarray:
    """Return one side (n,), bool, of the two least connected halves of a model.

    The cut is the best of those along the second eigenvector of the normalized Laplacian of the
    covisibility graph (Shi and Malik 2000).
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
    first_n = np.zeros(len(order), bool)
    first_n[order[:split]] = True
    return first_n


def connection(model: Model, first_n: np.ndarray) -> Connection:
    """Return what connects some images of a model with the others.

    A point that two images of each side see has two depths, one from each side. Their ratio gives
    the scale between the sides; its error follows from the errors of the two depths.
    """
    rays, variances = [], []
    for side_n in (first_n, ~first_n):
        own_k = side_n[model.image_k]
        count_m = np.bincount(model.point_k[own_k], minlength=len(model.points_m3))
        ray_m3 = np.zeros((len(model.points_m3), 3))
        position_k3 = model.T_model_cam_n44[model.image_k, :3, 3]
        ray_k3 = model.points_m3[model.point_k] - position_k3
        np.add.at(ray_m3, model.point_k[own_k], ray_k3[own_k])
        ray_m3 /= count_m[:, None].clip(min=1)
        distance_m = np.linalg.norm(ray_m3, axis=1)
        covariance_m33, parallel_m = model.covariance_m33(own_k)
        unit_m3 = ray_m3 / distance_m[:, None].clip(np.finfo(float).tiny)
        variance_m = np.einsum("mi,mij,mj->m", unit_m3, covariance_m33, unit_m3)
        known_m = ~parallel_m & (count_m > 1) & (distance_m > 0)
        never = np.full(len(known_m), np.inf)
        variances.append(np.divide(variance_m, distance_m**2, never, where=known_m))
        rays.append(np.where(count_m[:, None] > 0, unit_m3, np.nan))
    cosine_m = (rays[0] * rays[1]).sum(axis=1)
    shared_m = np.isfinite(cosine_m)
    information = float((1 / (variances[0] + variances[1]))[shared_m].sum())
    angles_deg = np.degrees(np.arccos(cosine_m[shared_m].clip(-1, 1)))
    return Connection(
        int(shared_m.sum()),
        int(min(first_n.sum(), (~first_n).sum())),
        float(np.median(angles_deg)) if len(angles_deg) else math.nan,
        1 / math.sqrt(information) if information else math.inf,
    )


def two_view_agreement(model: Model, pairs: Mapping[Pair, TwoView], max_deg: float) -> np.ndarray:
    """Return the fraction (n,) of each image's pairs whose rotation agrees with the model's.

    Where the scene is flat or the baseline short, a two-view geometry may be wrong though its
    matches are right. So even in a correct model a quarter of the pairs may disagree.
    """
    position = {int(image): k for k, image in enumerate(model.images)}
    agrees = {}
    for (i, j), pair in pairs.items():
        if pair.inliers >= _MIN_PAIR_INLIERS and i in position and j in position:
            ends = position[i], position[j]
            agrees[ends] = rotation_difference_deg(model, *ends, pair) <= max_deg
    return _fraction_of_pairs(len(model.images), agrees, 1)


def overlap_agreement(n: int, pairs: Sequence[Pair], matched: Set[Pair]) -> np.ndarray:
    """Return the fraction (n,) of each image's pairs that match; NaN where it has few pairs.

    Where different places look alike, a model lays one over the other. Images that then should
    show nearly the same do not match. In correct models, 99 % of such pairs match.

    Args:
        n: Number of images.
        pairs: Pairs that should show nearly the same.
        matched: Pairs with verified matches.
    """
    return _fraction_of_pairs(n, {pair: pair in matched for pair in pairs}, _MIN_COMMON_PAIRS)


def _fraction_of_pairs(n: int, agrees: Mapping[Pair, bool], least: int) -> np.ndarray:
    """Return the fraction (n,) of each image's pairs that agree; NaN where it has fewer pairs."""
    count_n, agreeing_n = np.zeros(n), np.zeros(n)
    for pair, agree in agrees.items():
        count_n[list(pair)] += 1
        agreeing_n[list(pair)] += agree
    return np.divide(agreeing_n, count_n, np.full(n, np.nan), where=count_n >= least)


def rotation_difference_deg(model: Model, first: int, second: int, pair: TwoView) -> float:
    """Return the angle between the relative rotation of a pair and that of a model, degrees."""
    R_first, R_second = (model.T_model_cam_n44[k, :3, :3] for k in (first, second))
    return float(np.degrees(rotation_angle(R_second.T @ R_first @ pair.R_second_first.T)))
