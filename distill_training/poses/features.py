"""SIFT features with measured depth, and matches between images."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from distill_training.poses.image_pairs import Pair
from distill_training.poses.measured_depth import depth_at
from mote_localization.camera import Camera, CanonicalView
from mote_localization.progress import track
from mote_localization.scenes import Frame

_MAX_FEATURES = 2000  # per image
_MIN_SIMILARITY = 0.92  # of a match: product of the two descriptors, which are unit vectors
_MAX_MATCHES = 100  # per pair
_BORDER_PX = 17  # around pixels outside the lens' field of view; no features there


@dataclass(frozen=True)
class Features:
    """The features of one image."""

    rays_n3: np.ndarray  # z = 1, camera frame
    depth_n: np.ndarray  # m, 0: not measured; 1 where depth is not read
    descriptors_nd: np.ndarray  # uint8, 255 times a unit vector


@dataclass(frozen=True)
class Matches:
    """Points measured in one image, and the rays at which another image shows them."""

    measured_m: np.ndarray  # index of the image that measures a point
    points_m3: np.ndarray  # m, camera frame of that image
    seen_m: np.ndarray  # index of the other image
    rays_m3: np.ndarray  # z = 1, camera frame of the other image


class FeatureFinder:
    """Finds features in images of one live camera."""

    def __init__(self, live: Camera, near_m: float = 0.0, far_m: float = np.inf) -> None:
        self.live, self._range_m = live, (near_m, far_m)
        self._pinhole = replace(live, distortion=())
        self._view = CanonicalView(live, self._pinhole, 1)
        # Pixels outside the lens' field of view are black; their border would give features.
        seen_hw = self._view.covered_hw.astype(np.uint8)
        self._seen_hw = cv2.erode(seen_hw, np.ones((_BORDER_PX, _BORDER_PX)), borderValue=1)
        self._sift = cv2.SIFT.create(_MAX_FEATURES)

    def find(self, frame: Frame, measured: bool = True) -> Features:
        """Return the features of a frame; with their measured depth, or with depth 1.

        Raises:
            SceneError: The frame lacks the depth that is read, or its files are damaged.
        """
        grey_hw = cv2.cvtColor(self._view.warp(frame.image()), cv2.COLOR_RGB2GRAY)
        keypoints, sift_nd = self._sift.detectAndCompute(grey_hw, self._seen_hw)
        if not keypoints:
            sift_nd = np.zeros((0, 128), np.float32)
        rays_n3 = self._pinhole.rays(np.array([k.pt for k in keypoints]).reshape(-1, 2))
        depth_n = np.ones(len(rays_n3))
        if measured:
            depth_n = depth_at(frame.known_depth(), self.live.project(rays_n3))
        near_m, far_m = self._range_m
        # RootSIFT: square roots of the L1-normalized descriptor (Arandjelovic and Zisserman 2012).
        root_nd = np.sqrt(sift_nd / sift_nd.sum(axis=1, keepdims=True).clip(min=1))
        return Features(
            rays_n3,
            np.where((depth_n > near_m) & (depth_n < far_m), depth_n, 0),
            (255 * root_nd).round().astype(np.uint8),
        )


def match(features: Sequence[Features], pairs: Sequence[Pair]) -> Matches:
    """Return matches of pairs of images; each feature is the other's most similar one."""
    rng = np.random.default_rng(0)
    none, no_points = np.zeros(0, int), np.zeros((0, 3))
    found = [(none, no_points, none, no_points)]
    for i, j in track(pairs, "match", len(pairs)):
        matched_k2 = rng.permutation(_mutual_matches(features[i], features[j]))[:_MAX_MATCHES]
        for measuring, seeing, indices_k2 in ((i, j, matched_k2), (j, i, matched_k2[:, ::-1])):
            one, other = features[measuring], features[seeing]
            own_m, other_m = indices_k2[one.depth_n[indices_k2[:, 0]] > 0].T
            points_m3 = one.rays_n3[own_m] * one.depth_n[own_m, None]
            measuring_m, seeing_m = np.full_like(own_m, measuring), np.full_like(own_m, seeing)
            found.append((measuring_m, points_m3, seeing_m, other.rays_n3[other_m]))
    return Matches(*map(np.concatenate, zip(*found, strict=True)))


def _mutual_matches(first: Features, second: Features) -> np.ndarray:
    """Return indices (k, 2) of features of two images that are mutual nearest neighbours."""
    if not (len(first.descriptors_nd) and len(second.descriptors_nd)):
        return np.zeros((0, 2), int)
    a_nd, b_md = (f.descriptors_nd.astype(np.float32) / 255 for f in (first, second))
    similarity_nm = a_nd @ b_md.T
    best_n, best_m = similarity_nm.argmax(axis=1), similarity_nm.argmax(axis=0)
    index_n = np.arange(len(a_nd))
    kept_n = (best_m[best_n] == index_n) & (similarity_nm[index_n, best_n] > _MIN_SIMILARITY)
    return np.stack([index_n, best_n], axis=1)[kept_n]
