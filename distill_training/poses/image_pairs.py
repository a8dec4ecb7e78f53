"""Chooses which pairs of images are compared; their number grows linearly with the images'."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import combinations

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from distill_training.poses.poses_config import PairsConfig
from mote_localization.camera import Camera
from mote_localization.errors import ReconstructionError
from mote_localization.geometry import transform

Pair = tuple[int, int]  # indices of two images, the smaller first
# The best partner (n,) of each image in another component, and its score (n,); -inf: none.
Partners = tuple[np.ndarray, np.ndarray]

_JOINING_PAIRS = 3  # pairs that join two components: a single one may be wrong
_RANKS = 4  # times per_image: how far down the ranking of similar images partners are taken
_BLOCK = 256  # images whose products with all others are in memory at once
_GRID = (6, 5)  # rays across and down an image that represent it
_DEPTHS = (0.5, 1.0, 2.0)  # of the typical depth, for the points along each ray
_MIN_BASELINE = 0.05  # of the typical depth: shorter ones hardly determine the scale
_MIN_JOINING_OVERLAP = 0.05  # fraction of the image in common, for a pair that joins components
_LOOP_QUANTILE = 0.25  # of the similarities `max_gap` apart: loop closures are at least as similar
_COMMON_OVERLAP, _COMMON_ANGLE_DEG = 0.6, 20.0  # of images that show nearly the same
_SIMILAR_PER_IMAGE = 2  # pairs per image that are chosen by similarity, to check known poses


def choose_pairs(
    config: PairsConfig,
    descriptors_nd: np.ndarray,
    cameras: Sequence[Camera],
    poses: Sequence[np.ndarray | None],
    sequential: bool,
) -> list[Pair]:
    """Return the pairs of a scene, sorted; see `PairsConfig.method`.

    Args:
        config: How pairs are chosen.
        descriptors_nd: Unit vector of each image, from a predictor.
        cameras: Camera of each image.
        poses: T_map_cam (4, 4) of each image, None where unknown.
        sequential: The images are a recording, in order.

    Raises:
        ReconstructionError: Pairs are chosen by overlap and poses are missing.
    """
    n = len(descriptors_nd)
    known = [T for T in poses if T is not None]
    method = config.method
    if method == "overlap" and len(known) < n:
        raise ReconstructionError(
            f"{n - len(known)} of {n} images have no pose, expected one for each to choose pairs "
            "by overlap; choose them by retrieval"
        )
    if method == "complete" or (method == "auto" and n - 1 <= config.per_image):
        return list(combinations(range(n), 2))
    # The mean of all descriptors distinguishes no images. An image equal to it has no direction:
    # it has product 0 with all others.
    descriptors_nd = descriptors_nd - descriptors_nd.mean(axis=0)
    descriptors_nd /= np.linalg.norm(descriptors_nd, axis=1, keepdims=True).clip(min=1e-6)
    if method == "overlap" or (method == "auto" and len(known) == n):
        return overlapping_and_similar_pairs(np.stack(known), cameras, descriptors_nd, config)
    if method == "video" or (method == "auto" and sequential):
        return video_and_loop_pairs(descriptors_nd, config)
    return retrieval_pairs(descriptors_nd, config.per_image)


def video_pairs(n: int, per_image: int, max_gap: int) -> list[Pair]:
    """Return pairs of neighbours in time, over gaps that grow geometrically to `max_gap`.

    Short gaps keep the video connected; long ones determine its scale.
    """
    gaps = _geometric_integers(max(1, per_image // 2), max_gap)
    return sorted((i, i + gap) for gap in gaps for i in range(n - gap))


def video_and_loop_pairs(descriptors_nd: np.ndarray, config: PairsConfig) -> list[Pair]:
    """Return neighbours in time, and loop closures: similar images that are far apart in time.

    Loop closures are at most half of the pairs; neighbours in time are the others. A loop closure
    must be as similar as most pairs `max_gap` apart are: these are pairs of the same video that
    still have something in common.
    """
    n, max_gap, per_image = len(descriptors_nd), config.max_gap, config.per_image
    if n <= max_gap:
        return video_pairs(n, per_image, max_gap)
    similarity_k = np.sum(descriptors_nd[:-max_gap] * descriptors_nd[max_gap:], axis=1)
    least = float(np.quantile(similarity_k, _LOOP_QUANTILE))
    loops = _similar_pairs(descriptors_nd, per_image // 2, min_gap=max_gap + 1, least=least)
    neighbours = video_pairs(n, per_image - math.ceil(2 * len(loops) / n), max_gap)
    return sorted({*neighbours, *loops})


def retrieval_pairs(descriptors_nd: np.ndarray, per_image: int) -> list[Pair]:
    """Return pairs of images of high and of medium similarity, which connect all images.

    Nearly equal images alone would determine little. Components without a pair between them are
    joined where they are most similar.

    Args:
        descriptors_nd: Unit vectors; images that show the same have a large product.
        per_image: Approximate number of pairs per image.
    """

    def most_similar(group_n: np.ndarray) -> Partners:
        partner_n, score_n = np.zeros(len(group_n), int), np.full(len(group_n), -np.inf)
        for block, product_bn in _products(descriptors_nd):
            outside_bn = np.where(group_n[block, None] == group_n, -np.inf, product_bn)
            partner_n[block], score_n[block] = outside_bn.argmax(axis=1), outside_bn.max(axis=1)
        return partner_n, score_n

    return _connected(_similar_pairs(descriptors_nd, per_image), len(descriptors_nd), most_similar)


def overlapping_pairs(
    T_map_cam_n44: np.ndarray, cameras: Sequence[Camera], config: PairsConfig
) -> list[Pair]:
    """Return pairs of images that overlap by their known poses, of short and long baselines.

    Components without a pair between them are joined by the pairs with the most overlap. They stay
    apart where nothing overlaps.

    Args:
        T_map_cam_n44: Pose of each image.
        cameras: Camera of each image; its distortion is ignored.
        config: How pairs are chosen.
    """
    n = len(cameras)
    views = _Views(T_map_cam_n44, cameras, config.depth_m)
    candidates = []
    for i in range(n):
        others = views.nearby(i, config.max_angle_deg)
        others = others[views.overlap(i, others) >= config.min_overlap]
        candidates.append(views.spread_baselines(i, others, config.per_image))

    def most_overlapping(group_n: np.ndarray) -> Partners:
        partner_n, score_n = np.zeros(n, int), np.full(n, -np.inf)
        for i in range(n):
            others = views.nearby(i, 90.0)
            others = others[group_n[others] != group_n[i]]
            overlaps = views.overlap(i, others)
            if overlaps.size and overlaps.max() >= _MIN_JOINING_OVERLAP:
                partner_n[i], score_n[i] = others[overlaps.argmax()], overlaps.max()
        return partner_n, score_n

    return _connected(_select_pairs(candidates, config.per_image), n, most_overlapping)


def overlapping_and_similar_pairs(
    T_map_cam_n44: np.ndarray,
    cameras: Sequence[Camera],
    descriptors_nd: np.ndarray,
    config: PairsConfig,
) -> list[Pair]:
    """Return pairs that overlap by their poses, and a few of similar images.

    If the poses are wrong, overlapping pairs have nothing in common. The similar ones show it.
    """
    similar = min(_SIMILAR_PER_IMAGE, config.per_image // 2)
    overlapping = replace(config, per_image=config.per_image - similar)
    pairs = overlapping_pairs(T_map_cam_n44, cameras, overlapping)
    return sorted({*pairs, *_similar_pairs(descriptors_nd, similar)})


def mostly_common_pairs(
    T_map_cam_n44: np.ndarray, cameras: Sequence[Camera], depth: float, at_most: int
) -> list[Pair]:
    """Return pairs that show nearly the same by their poses: 60 % in common, up to 20 deg apart.

    Args:
        T_map_cam_n44: Pose of each image.
        cameras: Camera of each image; its distortion is ignored.
        depth: Approximate distance of the scene, units of the poses.
        at_most: The largest number of pairs; they are chosen at random, always the same.
    """
    views = _Views(T_map_cam_n44, cameras, depth)
    pairs = []
    for i in range(len(cameras)):
        others = views.nearby(i, _COMMON_ANGLE_DEG)
        others = others[others > i]
        if len(others):
            others = others[views.overlap(i, others) >= _COMMON_OVERLAP]
        pairs += [(i, int(j)) for j in others]
    chosen = np.random.default_rng(0).permutation(len(pairs))[:at_most]
    return [pairs[k] for k in np.sort(chosen)]


def components(n: int, pairs: Iterable[Pair]) -> list[list[int]]:
    """Return the connected components of n images (above 0), the largest first."""
    label_n = _component_labels(n, pairs)
    ends = np.bincount(label_n).cumsum()[:-1]
    groups = np.split(np.argsort(label_n, kind="stable"), ends)
    return sorted((group.tolist() for group in groups), key=len, reverse=True)


def _component_labels(n: int, pairs: Iterable[Pair]) -> np.ndarray:
    """Return the index (n,) of each image's connected component."""
    ends_m2 = np.array(list(pairs), int).reshape(-1, 2)
    graph = coo_array((np.ones(len(ends_m2)), (ends_m2[:, 0], ends_m2[:, 1])), shape=(n, n))
    return connected_components(graph, directed=False)[1]


def _geometric_integers(count: int, last: int) -> list[int]:
    """Return `count` different integers from 1 to `last`, or beyond if need be, geometrically."""
    numbers: list[int] = []
    for wanted in np.geomspace(1, max(last, 1), count):
        numbers.append(max(round(wanted), numbers[-1] + 1 if numbers else 1))
    return numbers


def _similar_pairs(
    descriptors_nd: np.ndarray, per_image: int, min_gap: int = 1, least: float = -np.inf
) -> set[Pair]:
    """Return pairs of similar images, `min_gap` images apart or more.

    The products of their descriptors are `least` or more.
    """
    n = len(descriptors_nd)
    index_n = np.arange(n)
    ranks = np.array(_geometric_integers(per_image, _RANKS * per_image)) - 1
    candidates: list[np.ndarray] = []
    for block, product_bn in _products(descriptors_nd):
        near_bn = np.abs(index_n[block, None] - index_n) < min_gap
        ranked_bk, product_bk = _ranked(np.where(near_bn, -np.inf, product_bn), ranks[-1] + 1)
        for ranked_k, product_k in zip(ranked_bk, product_bk, strict=True):
            count = (np.isfinite(product_k) & (product_k >= least)).sum()
            candidates.append(ranked_k[ranks[ranks < count]])
    return _select_pairs(candidates, per_image)


def _products(descriptors_nd: np.ndarray) -> Iterable[tuple[slice, np.ndarray]]:
    """Yield blocks of images, with the products (b, n) of their descriptors with all others."""
    for start in range(0, len(descriptors_nd), _BLOCK):
        block = slice(start, start + _BLOCK)
        yield block, descriptors_nd[block] @ descriptors_nd.T


def _ranked(score_bn: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the columns (b, count) of the largest scores of each row, and these scores."""
    count = min(count, score_bn.shape[1])
    best = np.argpartition(-score_bn, count - 1, axis=1)[:, :count]
    # Sorted by column first, so that the order of equal scores is the same on every machine.
    best.sort(axis=1)
    score_bk = np.take_along_axis(score_bn, best, axis=1)
    order = np.argsort(-score_bk, axis=1, kind="stable")
    return np.take_along_axis(best, order, axis=1), np.take_along_axis(score_bk, order, axis=1)


def _select_pairs(candidates: Sequence[np.ndarray], per_image: int) -> set[Pair]:
    """Return pairs of each image with its candidates, `per_image` for each at most.

    In each round every image gets one pair. Candidates are ordered from near to far; every second
    one comes first, so that near and far ones are selected.
    """
    pairs: set[Pair] = set()
    count_n = np.zeros(len(candidates), int)
    ordered = [[*others[::2], *others[1::2]] for others in candidates]
    for round_ in range(per_image):
        for i, others in enumerate(ordered):
            if len(pairs) >= len(candidates) * per_image / 2:
                return pairs
            if round_ < len(others) and count_n[i] < per_image:
                pair = (min(i, int(others[round_])), max(i, int(others[round_])))
                if pair not in pairs:
                    pairs.add(pair)
                    count_n[list(pair)] += 1
    return pairs


def _connected(
    pairs: set[Pair], n: int, best_outside: Callable[[np.ndarray], Partners]
) -> list[Pair]:
    """Return the pairs, with further ones that join their connected components (Boruvka 1926).

    `best_outside` takes the component (n,) of each image and returns the best partners in others.
    """
    while True:
        group_n = _component_labels(n, pairs)
        count = group_n.max(initial=0) + 1
        if count == 1:
            return sorted(pairs)
        partner_n, score_n = best_outside(group_n)
        if not np.isfinite(score_n).any():
            return sorted(pairs)
        for group in range(count):
            members = np.flatnonzero((group_n == group) & np.isfinite(score_n))
            best = members[np.argsort(-score_n[members], kind="stable")][:_JOINING_PAIRS]
            for i in best.tolist():
                pairs.add((min(i, int(partner_n[i])), max(i, int(partner_n[i]))))


class _Views:
    """Overlap and baselines of images with known poses, for a scene at a typical depth."""

    def __init__(
        self, T_map_cam_n44: np.ndarray, cameras: Sequence[Camera], depth_m: float
    ) -> None:
        self._depth_m = depth_m
        self._R_n33 = T_map_cam_n44[:, :3, :3].astype(np.float32)
        self._position_n3 = T_map_cam_n44[:, :3, 3].astype(np.float32)
        self._pinhole_n4 = np.array([(c.fx, c.fy, c.cx, c.cy) for c in cameras], np.float32)
        self._size_n2 = np.array([(c.width, c.height) for c in cameras], np.float32)
        grid = np.stack(np.meshgrid(*((np.arange(k) + 0.5) / k for k in _GRID)), -1).reshape(-1, 2)
        depths = depth_m * np.array(_DEPTHS)
        points = [
            transform(T, depths[:, None, None] * camera.rays(grid * size - 0.5)).reshape(-1, 3)
            for T, camera, size in zip(T_map_cam_n44, cameras, self._size_n2, strict=True)
        ]
        self._points_nm3 = np.array(points, np.float32)

    def nearby(self, i: int, max_angle_deg: float) -> np.ndarray:
        """Return the images near image i whose viewing direction differs by at most the angle."""
        cosine_n = self._R_n33[:, :, 2] @ self._R_n33[i, :, 2]
        near_n = self._baseline(i) < 2 * max(_DEPTHS) * self._depth_m
        near_n[i] = False
        return np.flatnonzero(near_n & (cosine_n >= np.cos(np.radians(max_angle_deg))))

    def overlap(self, i: int, others: np.ndarray) -> np.ndarray:
        """Return the fraction (k,) of points that image i and each other one have in common."""
        forward_k = self._visible_fraction(self._points_nm3[i], others)
        backward_k = self._visible_fraction(self._points_nm3[others], np.array([i]))
        return np.minimum(forward_k, backward_k)

    def spread_baselines(self, i: int, others: np.ndarray, count: int) -> np.ndarray:
        """Return at most `count` of the others, with baselines spread from short to long."""
        baseline_k = self._baseline(i)[others]
        order = np.argsort(baseline_k, kind="stable")
        others, baseline_k = others[order], baseline_k[order]
        if len(others) <= count:
            return others
        # The wanted baselines are a geometric series. The clip avoids a baseline of 0.
        shortest, longest = baseline_k[[0, -1]].clip(_MIN_BASELINE * self._depth_m)
        free_k = np.log(baseline_k.clip(1e-6))
        chosen = []
        for wanted in np.geomspace(shortest, longest, count):
            k = int(np.abs(free_k - np.log(wanted)).argmin())
            chosen.append(k)
            free_k[k] = np.inf
        return others[np.sort(chosen)]

    def _baseline(self, i: int) -> np.ndarray:
        """Return the distance (n,) from image i to each image, metres."""
        return np.linalg.norm(self._position_n3 - self._position_n3[i], axis=-1)

    def _visible_fraction(self, points: np.ndarray, cameras_k: np.ndarray) -> np.ndarray:
        """Return the fraction (k,) of points (m, 3), or (k, m, 3), inside the cameras' images."""
        points_cam = (points - self._position_n3[cameras_k, None]) @ self._R_n33[cameras_k]
        x, y, z = np.moveaxis(points_cam, -1, 0)
        fx, fy, cx, cy = self._pinhole_n4[cameras_k].T[..., None]
        width, height = self._size_n2[cameras_k].T[..., None]
        # Multiplied by z instead of divided, so that no point behind the camera is inside.
        u, v = fx * x + (cx + 0.5) * z, fy * y + (cy + 0.5) * z
        seen = (u >= 0) & (u < width * z) & (v >= 0) & (v < height * z)
        return seen.mean(axis=-1)
