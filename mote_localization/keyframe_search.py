"""Searches a map's keyframes for the view of an image, without any idea of its pose.

The SIFT features of the image are matched with those of every keyframe. The keyframes'
depth gives their 3-D points. It takes several times as long as the refinement of a known pose, and
is used only where that fails.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from mote_localization.camera import Camera, cell_index
from mote_localization.geometry import transform
from mote_localization.image_features import (
    DESCRIPTOR_SIZE,
    MAX_FEATURES,
    ImageFeatures,
    image_features,
)
from mote_localization.keyframes import Keyframe

_FIRST_FEATURES = 300  # of these, by which some keyframes are chosen before all are compared
_FIRST_KEYFRAMES = 15  # chosen by the first features
_RATIO = 0.8  # of the distances to the nearest and the second nearest descriptor (Lowe 2004, 7.1)
_BLOCK = 16  # keyframes that are compared at once, which bounds the memory


class KeyframeFeatures(NamedTuple):
    """Matches of an image with the features of one keyframe."""

    points_n3: np.ndarray  # m, map frame
    pixels_n2: np.ndarray  # of the canonical camera
    keyframe: int  # index


class DescribedKeyframe(NamedTuple):
    """The features of a keyframe, always as many rows."""

    points_n3: np.ndarray  # m, map frame
    descriptors_nd: np.ndarray  # float16; rows of zeros, which are far from every other, if fewer


class SearchCancelled(Exception):
    """The features of the keyframes are not needed any more."""


_last: dict[tuple[tuple[Keyframe, ...], Camera, int], "KeyframeSearch"] = {}  # one at most


def search_of(
    keyframes: tuple[Keyframe, ...],
    camera: Camera,
    stride: int,
    cancelled: Callable[[], bool] = lambda: False,
) -> "KeyframeSearch":
    """Return the search in a map's keyframes; the last one is kept, as a training asks often.

    Args:
        keyframes: All keyframes of a map, one at least.
        camera: The canonical camera.
        stride: Pixels of the canonical image per cell side.
        cancelled: Is asked after each keyframe whether to stop.

    Raises:
        SearchCancelled: It returned True.
        MapFileError: A keyframe cannot be decoded.
    """
    key = keyframes, camera, stride
    search = _last.get(key)
    if search is None:
        described = []
        for keyframe in keyframes:
            if cancelled():
                raise SearchCancelled
            described.append(describe(keyframe, camera, stride))
        search = KeyframeSearch(described)
        _last.clear()
        _last[key] = search
    return search


def describe(keyframe: Keyframe, camera: Camera, stride: int) -> DescribedKeyframe:
    """Compute the features of a keyframe, which takes about 40 ms.

    Arguments and exceptions are those of `search_of`.
    """
    pixels_m2, descriptors_md = image_features(keyframe.grey_hw())
    depth_m = keyframe.depth_m()[cell_index(pixels_m2.T, camera, stride)]
    known_m = np.isfinite(depth_m)
    count = np.count_nonzero(known_m)
    local_m3 = camera.rays(pixels_m2[known_m]) * depth_m[known_m, None]
    points_n3 = np.zeros((MAX_FEATURES, 3))
    points_n3[:count] = transform(keyframe.pose_44, local_m3)
    descriptors_nd = np.zeros((MAX_FEATURES, DESCRIPTOR_SIZE), np.float16)
    descriptors_nd[:count] = descriptors_md[known_m]
    return DescribedKeyframe(points_n3, descriptors_nd)


def forget_searches() -> None:
    """Free the search that is kept."""
    _last.clear()


class KeyframeSearch:
    """Finds the keyframes that show what an image shows."""

    def __init__(self, described: Sequence[DescribedKeyframe]) -> None:
        """Search in keyframes by their features, see `describe`."""
        self._described = described

    def find(self, features: ImageFeatures, keyframes: int) -> list[KeyframeFeatures]:
        """Return the matches of an image with the keyframes that match best, the best first.

        Args:
            features: Of the image, canonical camera.
            keyframes: How many of them.
        """
        pixels_m2, descriptors_md = features
        first_md, all_k = descriptors_md[:_FIRST_FEATURES], np.arange(len(self._described))
        _, good_km = self._nearest(first_md, all_k, _FIRST_FEATURES)
        first_k = all_k[_largest(good_km.sum(axis=1), _FIRST_KEYFRAMES)]
        nearest_km, good_km = self._nearest(descriptors_md, first_k, MAX_FEATURES)
        return [
            KeyframeFeatures(
                self._described[first_k[i]].points_n3[nearest_km[i, good_km[i]]],
                pixels_m2[good_km[i]],
                int(first_k[i]),
            )
            for i in _largest(good_km.sum(axis=1), keyframes)
        ]

    def _nearest(
        self, descriptors_md: np.ndarray, keyframes_k: np.ndarray, count: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the nearest feature (k, m) in keyframes, and whether it is much the nearest.

        A match is good where the second nearest feature of the keyframe is farther by `_RATIO`.
        Only the first `count` features of each keyframe are compared.
        """
        shape = len(keyframes_k), len(descriptors_md)
        nearest_km, good_km = np.zeros(shape, int), np.zeros(shape, bool)
        for first in range(0, len(keyframes_k), _BLOCK):
            block_k = keyframes_k[first : first + _BLOCK]
            block_bnd = np.array([self._described[k].descriptors_nd[:count] for k in block_k])
            block_nd = block_bnd.reshape(-1, DESCRIPTOR_SIZE).astype(np.float32)
            # one large matrix product is many times as fast as one for each keyframe
            cosine_mbn = descriptors_md @ block_nd.T
            cosine_mbn = cosine_mbn.reshape(len(descriptors_md), len(block_k), count)
            nearest_mb1 = cosine_mbn.argmax(axis=2)[..., None]
            best_mb = np.take_along_axis(cosine_mbn, nearest_mb1, axis=2)[..., 0]
            np.put_along_axis(cosine_mbn, nearest_mb1, -1, axis=2)
            second_mb = cosine_mbn.max(axis=2)
            block = slice(first, first + len(block_k))
            nearest_km[block] = nearest_mb1[..., 0].T
            # squared distance of two descriptors of length 1: 2 - 2 cosine
            good_km[block] = (1 - best_mb < _RATIO**2 * (1 - second_mb)).T
        return nearest_km, good_km


def _largest(counts_k: np.ndarray, most: int) -> np.ndarray:
    """Return the indices of the largest numbers, the largest first."""
    return np.argsort(-counts_k, kind="stable")[:most]
