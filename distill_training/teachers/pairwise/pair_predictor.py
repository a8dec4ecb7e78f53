"""Interface of a pair predictor: a network that predicts the pointmaps of two images, or similar.

To add a predictor, write a class with the members of `PairPredictor`. Inheritance is not needed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from torch import Tensor

from mote_localization.camera import Camera
from mote_localization.scenes import Frame


@dataclass(frozen=True)
class Encoded:
    """Features of one image, computed once and used in many pairs."""

    features: np.ndarray  # float16, any shape; stored between runs, read by the predictor only
    camera: Camera  # undistorted camera of the predicted pointmap, see `PairPredictor.camera`


@dataclass(frozen=True)
class Pointmap:
    """A 3-D point for each pixel of a batch of images."""

    points_bhw3: Tensor  # float32, camera frame of the pair's first image, any unit; NaN = none
    confidence_bhw: Tensor  # float32, 0 = no information, larger = better, about 1 / error


@dataclass(frozen=True)
class PairPointmaps:
    """Prediction for a batch of directed pairs (first, second).

    Both pointmaps of a pair are in the camera frame of the first image and have the same unit. The
    unit may differ from pair to pair.
    """

    first: Pointmap
    second: Pointmap


class PairPredictor(Protocol):
    """Predicts the pointmaps of pairs of images.

    For each scene, `encode` is called once per image and `decode` once per batch of pairs. Results
    of both are stored, so that an interrupted run resumes.
    """

    name: str  # name of the teacher in reconstructions and maps
    licence: str  # licence that maps inherit from the predictor; empty = none
    # Everything that changes predictions (checkpoint, image size, precision). A reconstruction
    # resumes only with equal settings.
    settings: dict[str, float | int | str]

    def camera(self, live: Camera) -> Camera:
        """Return the camera of the pointmap that is predicted for an image.

        The pointmap may have another size than the image and may be cropped. Its focal lengths must
        be proportional to those of the image, because these may be estimated later.

        Args:
            live: Undistorted camera of the image.

        Raises:
            CameraError: Images of this size cannot be used.
        """

    def encode(self, frame: Frame, image_hw3: np.ndarray, live: Camera) -> Encoded:
        """Return the features of one image.

        Args:
            frame: Frame of the image, for predictors that use more than the image.
            image_hw3: RGB uint8, undistorted.
            live: Undistorted camera of the image.

        Raises:
            SceneError: The frame cannot be used. It is left out, and the run continues.
        """

    def descriptor(self, encoded: Encoded) -> np.ndarray:
        """Return a unit vector (d,) float32 for image retrieval.

        Images that show the same things have a large dot product.
        """

    def decode(
        self, ones: Sequence[Encoded], others: Sequence[Encoded]
    ) -> tuple[PairPointmaps, PairPointmaps]:
        """Predict a batch of pairs in both orders.

        Args:
            ones: One image of each pair; all have the same size.
            others: The other image of each pair; all have the same size.

        Returns:
            Predictions for the directed pairs (one, other), and for (other, one).

        Raises:
            torch.cuda.OutOfMemoryError: The batch is too large; half of it is tried next.
        """
