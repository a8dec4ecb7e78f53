"""An index of the keyframes of a place by a descriptor of the whole image: which look similar?

The descriptor is a VLAD of the image's SIFT features (Jegou et al. 2010, "Aggregating local
descriptors into a compact image representation"; each word's part normalized, as Arandjelovic and
Zisserman 2013), stored in 8 bits.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import cv2
import numpy as np

from mote_localization.errors import MapFileError
from mote_localization.image_features import DESCRIPTOR_SIZE

T = TypeVar("T")

_WORDS = 32
_WORDS_FROM = 200  # keyframes whose features are clustered to words
_SAMPLE = 50_000  # of these features
_ITERATIONS = 20
_SEED = 0
_SCALE = 127 * 4.0  # of the stored components: none of them is above 1/4 in practice
MAX_KEYFRAMES = 50_000
_HEADER = np.dtype([("words", "<u4"), ("keyframes", "<u4")])
_OWNERS = np.dtype([("submap", "<u2"), ("keyframe", "<u2")])


class Similar(NamedTuple):
    """Keyframes that look like an image, the most similar first."""

    submap_n: np.ndarray  # index of the submap
    keyframe_n: np.ndarray  # index of the keyframe in it
    similarity_n: np.ndarray  # cosine of the descriptors


@dataclass(frozen=True)
class PlaceIndex:
    """Descriptors of keyframes, and the words by which those of images are computed."""

    words_wd: np.ndarray  # float16 (words, 128)
    descriptors_nd: np.ndarray  # int8 (keyframes, words * 128)
    owners_n: np.ndarray  # submap and keyframe of each

    @classmethod
    def made(
        cls, submaps: Sequence[Sequence[T]], descriptors_of: Callable[[T], np.ndarray]
    ) -> "PlaceIndex":
        """Return the index of all keyframes; memory holds the features of few of them at a time.

        Args:
            submaps: The keyframes of each submap.
            descriptors_of: Returns the descriptors (m, 128) of `image_features` of a keyframe.

        Raises:
            MapFileError: They have too few features.
        """
        from mote_localization.progress import track_if_slow  # the node needs no progress bars

        every = [keyframe for submap in submaps for keyframe in submap]
        rng = np.random.default_rng(_SEED)
        chosen = {n: descriptors_of(every[n]) for n in rng.permutation(len(every))[:_WORDS_FROM]}
        words_wd = _words(list(chosen.values())).astype(np.float16)
        descriptors_nd = np.empty((len(every), words_wd.size), np.int8)
        for n, keyframe in track_if_slow(list(enumerate(every)), "index", len(every)):
            found_md = chosen.pop(n) if n in chosen else descriptors_of(keyframe)
            descriptors_nd[n] = _quantized(_vlad(found_md, words_wd.astype(np.float32)))
        return cls(words_wd, descriptors_nd, _owners([len(submap) for submap in submaps]))

    def most_similar(self, descriptors_md: np.ndarray, count: int) -> Similar:
        """Return the keyframes that look most like an image.

        Args:
            descriptors_md: `image_features` of the image.
            count: Of keyframes, at most.
        """
        query_d = _vlad(descriptors_md, self.words_wd.astype(np.float32))
        similarity_n = np.empty(len(self.descriptors_nd), np.float32)
        for first in range(0, len(similarity_n), 1024):  # as float32, all would take much memory
            block_nd = self.descriptors_nd[first : first + 1024].astype(np.float32)
            similarity_n[first : first + 1024] = block_nd @ query_d / _SCALE
        order_n = np.argsort(-similarity_n, kind="stable")[:count]
        owners_n = self.owners_n[order_n]
        return Similar(
            owners_n["submap"].astype(int), owners_n["keyframe"].astype(int), similarity_n[order_n]
        )

    def encoded(self) -> bytes:
        """Return the stored form."""
        header = np.array([(len(self.words_wd), len(self.owners_n))], _HEADER)
        parts = (header, self.words_wd, self.owners_n, self.descriptors_nd)
        return b"".join(part.tobytes() for part in parts)

    @classmethod
    def decoded(cls, content: bytes, keyframes: Sequence[int]) -> "PlaceIndex":
        """Return the index of its stored form.

        Args:
            content: As of `encoded`.
            keyframes: Number of keyframes of each submap.

        Raises:
            MapFileError: It is damaged, too large, or not of these keyframes.
        """
        if len(content) < _HEADER.itemsize:
            raise MapFileError(f"found an index of {len(content)} bytes, expected a header")
        words, count = map(int, np.frombuffer(content, _HEADER, 1)[0])
        size = words * DESCRIPTOR_SIZE
        expected = _HEADER.itemsize + 2 * size + count * (_OWNERS.itemsize + size)
        known = 1 <= words <= 4096 and 1 <= count <= MAX_KEYFRAMES
        if not known or len(content) != expected:
            raise MapFileError(
                f"found an index of {len(content)} bytes with {words} words and {count} keyframes, "
                f"expected {expected} bytes, 1 to 4096 words and 1 to {MAX_KEYFRAMES} keyframes"
            )
        at = _HEADER.itemsize
        words_wd = np.frombuffer(content, "<f2", size, at).reshape(words, -1)
        owners_n = np.frombuffer(content, _OWNERS, count, at := at + 2 * size)
        at += count * _OWNERS.itemsize
        descriptors_nd = np.frombuffer(content, np.int8, count * size, at).reshape(count, -1)
        # one that lacks a place would hide that another one looks like it
        if not np.array_equal(owners_n, _owners(keyframes)) or not np.isfinite(words_wd).all():
            raise MapFileError("found an index of other keyframes than those of the submaps")
        return cls(words_wd, descriptors_nd, owners_n)


def _owners(keyframes: Sequence[int]) -> np.ndarray:
    """Return submap and keyframe of each descriptor, from the number of each submap's keyframes."""
    return np.array([(s, k) for s, count in enumerate(keyframes) for k in range(count)], _OWNERS)


def _words(features: Sequence[np.ndarray]) -> np.ndarray:
    """Return the centres (words, 128) of clusters of the features of keyframes."""
    rng = np.random.default_rng(_SEED)
    most = -(-_SAMPLE // max(1, len(features)))
    chosen = [
        one[rng.permutation(len(one))[:most]].astype(np.float32) for one in features if len(one)
    ]
    sample_nd = np.concatenate(chosen) if chosen else np.zeros((0, DESCRIPTOR_SIZE), np.float32)
    if len(sample_nd) < _WORDS:
        raise MapFileError(
            f"found {len(sample_nd)} features in {len(features)} keyframes together, expected "
            f"{_WORDS} or more"
        )
    cv2.setRNGSeed(_SEED)
    criteria = (cv2.TERM_CRITERIA_COUNT, _ITERATIONS, 0.0)
    labels = np.zeros((len(sample_nd), 1), np.int32)
    _, _, words_wd = cv2.kmeans(sample_nd, _WORDS, labels, criteria, 1, cv2.KMEANS_PP_CENTERS)
    return words_wd


def _vlad(descriptors_md: np.ndarray, words_wd: np.ndarray) -> np.ndarray:
    """Return the descriptor (words * 128,) of an image, of length 1; zeros without features."""
    sums_wd = np.zeros_like(words_wd)
    if len(descriptors_md):
        # nearest word: the largest of x . w - |w|^2 / 2
        scores_mw = descriptors_md @ words_wd.T - 0.5 * np.square(words_wd).sum(axis=1)
        nearest_m = scores_mw.argmax(axis=1)
        order_m = np.argsort(nearest_m, kind="stable")
        used, first = np.unique(nearest_m[order_m], return_index=True)
        residuals_md = descriptors_md[order_m] - words_wd[nearest_m[order_m]]
        sums_wd[used] = np.add.reduceat(residuals_md, first)
    lengths_w1 = np.linalg.norm(sums_wd, axis=1, keepdims=True)
    normalized_wd = sums_wd / np.maximum(lengths_w1, 1e-9)
    return (normalized_wd / max(1.0, float(np.sqrt((lengths_w1 > 0).sum())))).ravel()


def _quantized(descriptor_d: np.ndarray) -> np.ndarray:
    return np.round(descriptor_d * _SCALE).clip(-127, 127).astype(np.int8)
