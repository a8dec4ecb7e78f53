"""SIFT features of an image (Lowe 2004), with descriptors whose dot product compares them."""

from typing import NamedTuple

import cv2
import numpy as np

MAX_FEATURES = 1000  # of an image, those of the highest contrast
DESCRIPTOR_SIZE = 128
_CONTRAST = 0.01  # least contrast of a feature, OpenCV's contrastThreshold


class ImageFeatures(NamedTuple):
    """Features of an image, the highest contrast first."""

    pixels_m2: np.ndarray
    descriptors_md: np.ndarray  # (m, 128), of length 1


def image_features(grey_hw: np.ndarray) -> ImageFeatures:
    """Return the features of an image, at most `MAX_FEATURES`.

    RootSIFT (Arandjelovic and Zisserman 2012): the dot product of two descriptors is the Hellinger
    kernel of their histograms.

    Args:
        grey_hw: Uint8.
    """
    sift = cv2.SIFT.create(MAX_FEATURES, contrastThreshold=_CONTRAST)
    features, descriptors_md = sift.detectAndCompute(grey_hw, None)
    if not features:
        return ImageFeatures(np.zeros((0, 2)), np.zeros((0, DESCRIPTOR_SIZE), np.float32))
    responses_m = [-feature.response for feature in features]
    order_m = np.argsort(responses_m, kind="stable")[:MAX_FEATURES]
    sums_m1 = np.maximum(descriptors_md.sum(axis=1, keepdims=True), 1)
    pixels_m2 = np.array([feature.pt for feature in features])
    return ImageFeatures(pixels_m2[order_m], np.sqrt(descriptors_md / sums_m1)[order_m])
