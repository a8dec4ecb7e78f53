"""Searches a map's keyframes for the view of an image, without any idea of its pose.

SIFT features of the image (Lowe 2004) are matched with those of every keyframe. The keyframes'
depth gives their 3-D points. It takes several times as long as the refinement of a known pose, and
is used only where that fails.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np

from mote_localization.camera import Camera, cell_index
from mote_localization.geometry import transform
from mote_localization.keyframes import Keyframe

_FEATURES = 300  # of an image, those of the highest contrast
_CONTRAST = 0.02  # least contrast of a feature, OpenCV's contrastThreshold
_RATIO = 0.8  # of the distances to the nearest and the second nearest descriptor (Lowe 2004, 7.1)
_BLOCK = 32  # keyframes that are compared at once, which bounds the memory


class FoundView(NamedTuple):
    """Matches of an image with the keyframes that show most of its features."""

    points_n3: np.ndarray  # m, map frame
    pixels_n2: np.ndarray  # of the canonical camera
    keyframes_k: np.ndarray  # indices of the keyframes, the one with most matches first


@lru_cache(maxsize=1)
def search_of(keyframes: tuple[Keyframe, ...], camera: Camera, stride: int) -> "KeyframeSearch":
    """Return the search in a map's keyframes; the last one is kept, as a training asks often."""
    return KeyframeSearch(keyframes, camera, stride)


class KeyframeSearch:
    """Finds the keyframes that show what an image shows."""

    def __init__(self, keyframes: Sequence[Keyframe], camera: Camera, stride: int) -> None:
        """Compute the features of the keyframes, which takes 20 to 30 ms each.

        Args:
            keyframes: All keyframes of a map, one at least.
            camera: The canonical camera.
            stride: Pixels of the canonical image per cell side.

        Raises:
            MapFileError: A keyframe cannot be decoded.
        """
        self._sift = cv2.SIFT.create(_FEATURES, contrastThreshold=_CONTRAST)
        self._points_kn3 = np.zeros((len(keyframes), _FEATURES, 3))
        # Rows of zeros, where a keyframe has fewer features, are far from every descriptor.
        self._descriptors_knd = np.zeros((len(keyframes), _FEATURES, 128), np.float32)
        for k, keyframe in enumerate(keyframes):
            pixels_m2, descriptors_md = self._features(keyframe.grey_hw())
            depth_m = keyframe.depth_m()[cell_index(*pixels_m2.T, camera, stride)]
            known_m = np.isfinite(depth_m)
            count = np.count_nonzero(known_m)
            local_n3 = camera.rays(pixels_m2[known_m]) * depth_m[known_m, None]
            self._points_kn3[k, :count] = transform(keyframe.pose_44, local_n3)
            self._descriptors_knd[k, :count] = descriptors_md[known_m]

    def find(self, grey_hw: np.ndarray, keyframes: int) -> FoundView:
        """Return the matches of an image with the keyframes that match best.

        Args:
            grey_hw: Uint8, canonical camera.
            keyframes: How many of them.
        """
        pixels_m2, descriptors_md = self._features(grey_hw)
        nearest_km, good_km = self._nearest(descriptors_md)
        chosen_k = np.argsort(-good_km.sum(axis=1), kind="stable")[:keyframes]
        points, pixels = [np.zeros((0, 3))], [np.zeros((0, 2))]
        for k in chosen_k:
            points.append(self._points_kn3[k, nearest_km[k, good_km[k]]])
            pixels.append(pixels_m2[good_km[k]])
        return FoundView(np.concatenate(points), np.concatenate(pixels), chosen_k)

    def _features(self, grey_hw: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return pixels (m, 2) and descriptors (m, 128) of length 1.

        RootSIFT (Arandjelovic and Zisserman 2012): the dot product of two descriptors is the
        Hellinger kernel of their histograms.
        """
        features, descriptors_md = self._sift.detectAndCompute(grey_hw, None)
        if not features:
            return np.zeros((0, 2)), np.zeros((0, 128), np.float32)
        features, descriptors_md = features[:_FEATURES], descriptors_md[:_FEATURES]
        sums_m1 = np.maximum(descriptors_md.sum(axis=1, keepdims=True), 1)
        return np.array([feature.pt for feature in features]), np.sqrt(descriptors_md / sums_m1)

    def _nearest(self, descriptors_md: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the nearest feature (k, m) in every keyframe, and whether it is much the nearest.

        A match is good where the second nearest feature of the keyframe is farther by `_RATIO`.
        """
        count, m = len(self._descriptors_knd), len(descriptors_md)
        nearest_km, good_km = np.zeros((count, m), int), np.zeros((count, m), bool)
        for first in range(0, count, _BLOCK):
            block_bnd = self._descriptors_knd[first : first + _BLOCK]
            cosine_bmn = descriptors_md @ block_bnd.swapaxes(1, 2)
            nearest_bm1 = cosine_bmn.argmax(axis=2)[..., None]
            best_bm = np.take_along_axis(cosine_bmn, nearest_bm1, axis=2)[..., 0]
            np.put_along_axis(cosine_bmn, nearest_bm1, -1, axis=2)
            second_bm = cosine_bmn.max(axis=2)
            block = slice(first, first + len(block_bnd))
            nearest_km[block] = nearest_bm1[..., 0]
            # squared distance of two descriptors of length 1: 2 - 2 cosine
            good_km[block] = 1 - best_bm < _RATIO**2 * (1 - second_bm)
        return nearest_km, good_km
