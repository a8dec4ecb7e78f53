"""Which images to look at together: about as many pairs an image, however many images there are."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import combinations

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from distill_training.teachers.teacher_config import PairsConfig
from mote_localization.camera import Camera
from mote_localization.errors import ReconstructionError
from mote_localization.geometry import transform

Pair = tuple[int, int]  # indices of two images, the smaller first
# Best partners of each image among others; -inf where there is none: (partner_n, score_n).
Partners = tuple[np.ndarray, np.ndarray]

_LINKS = 3  # pairs that join two groups of images: one alone may be plain wrong
_RANKS = 4  # times per_image: how far down the ranking of alike images partners are taken
_BLOCK = 256  # images whose products with all others are in memory at once
_GRID = (6, 5)  # rays across and down an image that stand for it
_DEPTHS = (0.5, 1.0, 2.0)  # of the typical depth, at which a ray's points are asked for
_LEAST_BASELINE = 0.05  # of the typical depth: shorter ones say next to nothing about scale
_LAST_RESORT = 0.05  # share of the image: least overlap of a pair that joins two groups
_UNLIKE = 0.25  # fraction of pairs `max_gap` apart that are less alike than a loop may be
_UNBELIEVING = 2  # pairs an image that are chosen by likeness, whatever the poses say


def choose_pairs(
    config: PairsConfig,
    descriptors_nd: np.ndarray,
    cameras: Sequence[Camera],
    poses: Sequence[np.ndarray | None],
    sequential: bool,
) -> list[Pair]:
    """Choose the pairs of a scene, in order; see `PairsConfig.method`.

    Args:
        config: How to choose.
        descriptors_nd: Unit vector of each image, as a predictor gives it.
        cameras: Of each image.
        poses: T_map_cam (4, 4) of each image, None where not known.
        sequential: The images are a recording, in order.

    Raises:
        ReconstructionError: Overlap is asked for where poses are missing.
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
        return complete_pairs(n)
    descriptors_nd = _centred(descriptors_nd)
    if method == "overlap" or (method == "auto" and len(known) == n):
        return overlapping_and_alike_pairs(np.stack(known), cameras, descriptors_nd, config)
    if method == "video" or (method == "auto" and sequential):
        return video_and_loop_pairs(descriptors_nd, config)
    return retrieval_pairs(descriptors_nd, config.per_image)


def complete_pairs(n: int) -> list[Pair]:
    """Return all pairs of n images."""
    return list(combinations(range(n), 2))


def video_pairs(n: int, per_image: int, max_gap: int) -> list[Pair]:
    """Return pairs of neighbours in time, over gaps that grow geometrically to `max_gap`.

    Short gaps hold the video together; long ones know its scale.
    """
    gaps = _growing(max(1, per_image // 2), max_gap)
    return sorted((i, i + gap) for gap in gaps for i in range(n - gap))


def video_and_loop_pairs(descriptors_nd: np.ndarray, config: PairsConfig) -> list[Pair]:
    """Return neighbours in time, and pairs that look alike though far apart in time.

    The latter take half of the pairs at most, the former all that is left. Far apart in time,
    images must look as alike as most of those `max_gap` apart do: the video says itself how alike
    images are that still have something in common.
    """
    n, max_gap, per_image = len(descriptors_nd), config.max_gap, config.per_image
    if n <= max_gap:
        return video_pairs(n, per_image, max_gap)
    likeness_k = np.sum(descriptors_nd[:-max_gap] * descriptors_nd[max_gap:], axis=1)
    least = float(np.quantile(likeness_k, _UNLIKE))
    loops = _alike(descriptors_nd, per_image // 2, apart=max_gap + 1, least=least)
    window = video_pairs(n, per_image - math.ceil(2 * len(loops) / n), max_gap)
    return sorted({*window, *loops})


def retrieval_pairs(descriptors_nd: np.ndarray, per_image: int) -> list[Pair]:
    """Return pairs of images that look alike, some of them less so: near copies say little.

    All images hang together: groups that nothing joins are joined where they are most alike.

    Args:
        descriptors_nd: Unit vectors; images that see the same things have a large product.
        per_image: Pairs in which an image appears, about.
    """

    def most_alike(group_n: np.ndarray) -> Partners:
        partner_n, score_n = np.zeros(len(group_n), int), np.full(len(group_n), -np.inf)
        for block, product_bn in _products(descriptors_nd):
            outside_bn = np.where(group_n[block, None] == group_n, -np.inf, product_bn)
            partner_n[block], score_n[block] = outside_bn.argmax(axis=1), outside_bn.max(axis=1)
        return partner_n, score_n

    return _joined(_alike(descriptors_nd, per_image), len(descriptors_nd), most_alike)


def overlapping_pairs(
    T_map_cam_n44: np.ndarray, cameras: Sequence[Camera], config: PairsConfig
) -> list[Pair]:
    """Return pairs of images that see the same from near and from far, by their known poses.

    Groups of images that nothing joins are joined by the pairs with the most overlap; those that
    share nothing stay apart.

    Args:
        T_map_cam_n44: Pose of each image.
        cameras: Camera of each image; its distortion counts for nothing here.
        config: How to choose.
    """
    n = len(cameras)
    views = _Views(T_map_cam_n44, cameras, config.depth_m)
    wishes = []
    for i in range(n):
        others = views.in_sight(i, config.max_angle_deg)
        others = others[views.overlap(i, others) >= config.min_overlap]
        wishes.append(views.spread(i, others, config.per_image))

    def most_overlapping(group_n: np.ndarray) -> Partners:
        partner_n, score_n = np.zeros(n, int), np.full(n, -np.inf)
        for i in range(n):
            others = views.in_sight(i, 90.0)
            others = others[group_n[others] != group_n[i]]
            shares = views.overlap(i, others)
            if shares.size and shares.max() >= _LAST_RESORT:
                partner_n[i], score_n[i] = others[shares.argmax()], shares.max()
        return partner_n, score_n

    return _joined(_granted(wishes, config.per_image), n, most_overlapping)


def overlapping_and_alike_pairs(
    T_map_cam_n44: np.ndarray,
    cameras: Sequence[Camera],
    descriptors_nd: np.ndarray,
    config: PairsConfig,
) -> list[Pair]:
    """Return pairs that overlap by their poses, and a few that look alike.

    Where the poses are wrong, the former show nothing in common, and only the latter tell.
    """
    alike = min(_UNBELIEVING, config.per_image // 2)
    overlapping = replace(config, per_image=config.per_image - alike)
    pairs = overlapping_pairs(T_map_cam_n44, cameras, overlapping)
    return sorted({*pairs, *_alike(descriptors_nd, alike)})


def components(n: int, pairs: Iterable[Pair]) -> list[list[int]]:
    """Return the groups of n images, above 0, that pairs hold together, the largest first."""
    label_n = _groups(n, pairs)
    ends = np.bincount(label_n).cumsum()[:-1]
    groups = np.split(np.argsort(label_n, kind="stable"), ends)
    return sorted((group.tolist() for group in groups), key=len, reverse=True)


def _groups(n: int, pairs: Iterable[Pair]) -> np.ndarray:
    """Return the number of the group (n,) that each image is in."""
    ends_m2 = np.array(list(pairs), int).reshape(-1, 2)
    graph = coo_array((np.ones(len(ends_m2)), (ends_m2[:, 0], ends_m2[:, 1])), shape=(n, n))
    return connected_components(graph, directed=False)[1]


def _growing(count: int, last: int) -> list[int]:
    """Return `count` different numbers from 1 to `last`, or as far as it takes, geometrically."""
    numbers: list[int] = []
    for wanted in np.geomspace(1, max(last, 1), count):
        numbers.append(max(round(wanted), numbers[-1] + 1 if numbers else 1))
    return numbers


def _centred(descriptors_nd: np.ndarray) -> np.ndarray:
    """Return descriptors (n, d) without what all have in common, which tells no two apart."""
    own_nd = descriptors_nd - descriptors_nd.mean(axis=0)
    # An image that is just the mean has no direction: it is like all others.
    return own_nd / np.linalg.norm(own_nd, axis=1, keepdims=True).clip(min=1e-6)


def _alike(
    descriptors_nd: np.ndarray, per_image: int, apart: int = 1, least: float = -np.inf
) -> set[Pair]:
    """Return pairs that look alike, `apart` images from each other or more.

    The products of their descriptors are above `least`, or equal.
    """
    n = len(descriptors_nd)
    number_n = np.arange(n)
    ranks = np.array(_growing(per_image, _RANKS * per_image)) - 1
    wishes: list[np.ndarray] = []
    for block, product_bn in _products(descriptors_nd):
        near_bn = np.abs(number_n[block, None] - number_n) < apart
        ranked_bk, product_bk = _ranked(np.where(near_bn, -np.inf, product_bn), ranks[-1] + 1)
        for ranked_k, product_k in zip(ranked_bk, product_bk, strict=True):
            count = (np.isfinite(product_k) & (product_k >= least)).sum()
            wishes.append(ranked_k[ranks[ranks < count]])
    return _granted(wishes, per_image)


def _products(descriptors_nd: np.ndarray) -> Iterable[tuple[slice, np.ndarray]]:
    """Go through the products (b, n) of a block of descriptors with all."""
    for start in range(0, len(descriptors_nd), _BLOCK):
        block = slice(start, start + _BLOCK)
        yield block, descriptors_nd[block] @ descriptors_nd.T


def _ranked(score_bn: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the columns (b, count) of the largest scores of each row, and these scores."""
    count = min(count, score_bn.shape[1])
    best = np.argpartition(-score_bn, count - 1, axis=1)[:, :count]
    # By column first: equal scores rank alike on every machine.
    best.sort(axis=1)
    score_bk = np.take_along_axis(score_bn, best, axis=1)
    order = np.argsort(-score_bk, axis=1, kind="stable")
    return np.take_along_axis(best, order, axis=1), np.take_along_axis(score_bk, order, axis=1)


def _granted(wishes: Sequence[np.ndarray], per_image: int) -> set[Pair]:
    """Return the pairs that images wish for, in turns, until each has its number or no wish left.

    Every second wish is heard before the rest: they are ordered from near to far.
    """
    pairs: set[Pair] = set()
    held = np.zeros(len(wishes), int)
    turns = [[*wish[::2], *wish[1::2]] for wish in wishes]
    for turn in range(per_image):
        for i, wish in enumerate(turns):
            if len(pairs) >= len(wishes) * per_image / 2:
                return pairs
            if turn < len(wish) and held[i] < per_image:
                pair = (min(i, int(wish[turn])), max(i, int(wish[turn])))
                if pair not in pairs:
                    pairs.add(pair)
                    held[list(pair)] += 1
    return pairs


def _joined(pairs: set[Pair], n: int, best_outside: Callable[[np.ndarray], Partners]) -> list[Pair]:
    """Return the pairs with links between groups that they leave apart (Boruvka 1926).

    Args:
        pairs: What there is.
        n: Number of images.
        best_outside: Takes the group of each image, returns its best partner in another group.
    """
    pairs = set(pairs)
    while True:
        group_n = _groups(n, pairs)
        count = group_n.max(initial=0) + 1
        if count == 1:
            return sorted(pairs)
        partner_n, score_n = best_outside(group_n)
        if not np.isfinite(score_n).any():
            return sorted(pairs)
        for group in range(count):
            members = np.flatnonzero((group_n == group) & np.isfinite(score_n))
            for i in members[np.argsort(-score_n[members], kind="stable")][:_LINKS].tolist():
                pairs.add((min(i, int(partner_n[i])), max(i, int(partner_n[i]))))


class _Views:
    """What images with known poses see, if things are at a typical depth."""

    def __init__(
        self, T_map_cam_n44: np.ndarray, cameras: Sequence[Camera], depth_m: float
    ) -> None:
        """Lay points along rays of every image."""
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

    def in_sight(self, i: int, max_angle_deg: float) -> np.ndarray:
        """Return the images that may see what image i sees: near, and looking the same way."""
        cosine_n = self._R_n33[:, :, 2] @ self._R_n33[i, :, 2]
        near_n = self._baseline(i) < 2 * max(_DEPTHS) * self._depth_m
        near_n[i] = False
        return np.flatnonzero(near_n & (cosine_n >= np.cos(np.radians(max_angle_deg))))

    def overlap(self, i: int, others: np.ndarray) -> np.ndarray:
        """Return which share of their points image i and each other one (k,) have in common."""
        forward_k = self._share(self._points_nm3[i], others)
        backward_k = self._share(self._points_nm3[others], np.array([i]))
        return np.minimum(forward_k, backward_k)

    def spread(self, i: int, others: np.ndarray, count: int) -> np.ndarray:
        """Return `count` of the others at most, of baselines spread from short to long."""
        baseline_k = self._baseline(i)[others]
        order = np.argsort(baseline_k, kind="stable")
        others, baseline_k = others[order], baseline_k[order]
        if len(others) <= count:
            return others
        # Targets of even ratios; an image on the same spot is taken for no baseline at all.
        shortest, longest = baseline_k[[0, -1]].clip(_LEAST_BASELINE * self._depth_m)
        free_k = np.log(baseline_k.clip(1e-6))
        chosen = []
        for wanted in np.geomspace(shortest, longest, count):
            k = int(np.abs(free_k - np.log(wanted)).argmin())
            chosen.append(k)
            free_k[k] = np.inf
        return others[np.sort(chosen)]

    def _baseline(self, i: int) -> np.ndarray:
        return np.linalg.norm(self._position_n3 - self._position_n3[i], axis=-1)

    def _share(self, points: np.ndarray, cameras_k: np.ndarray) -> np.ndarray:
        """Return the share (k,) of points (m, 3), or (k, m, 3), that cameras see."""
        points_cam = (points - self._position_n3[cameras_k, None]) @ self._R_n33[cameras_k]
        x, y, z = np.moveaxis(points_cam, -1, 0)
        fx, fy, cx, cy = self._pinhole_n4[cameras_k].T[..., None]
        width, height = self._size_n2[cameras_k].T[..., None]
        # Multiplied by z instead of divided: nothing behind the camera turns up in its image.
        u, v = fx * x + (cx + 0.5) * z, fy * y + (cy + 0.5) * z
        seen = (u >= 0) & (u < width * z) & (v >= 0) & (v < height * z)
        return seen.mean(axis=-1)
