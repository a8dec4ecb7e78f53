"""What looks at pairs of images and says where everything is: a network, or its simulation."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from torch import Tensor

from mote_localization.camera import Camera
from mote_localization.scenes import Frame


@dataclass(frozen=True)
class Encoded:
    """One image as a predictor keeps it: looked at once, used in many pairs."""

    features: np.ndarray  # float16, of a shape that is the predictor's own business
    camera: Camera  # undistorted camera of the pixels in which the predictor answers


@dataclass(frozen=True)
class Pointmap:
    """Where the pixels of a batch of images lie, at a scale of each pair's own."""

    points_bhw3: Tensor  # float32, camera frame of the pair's first image
    confidence_bhw: Tensor  # float32, 0: nothing is known; larger: surer, about as 1 / error


@dataclass(frozen=True)
class PairPointmaps:
    """What a predictor says of a batch of ordered pairs, both in the frame of the first image."""

    first: Pointmap
    second: Pointmap


class PairPredictor(Protocol):
    """Looks at pairs of images of one place."""

    name: str  # the teacher's name in reconstructions and maps
    licence: str  # licence that it puts on what it says; empty: none
    # What decides its answers (checkpoint, sizes): a reconstruction resumes only where it is equal.
    settings: dict[str, float | int | str]

    def camera(self, live: Camera) -> Camera:
        """Return the camera of the pixels in which it answers for a live, undistorted camera.

        It sees what the live camera sees at another size and perhaps cropped: its focal lengths are
        the live ones times a factor, whatever they are.
        """

    def encode(self, frame: Frame, image_hw3: np.ndarray, live: Camera) -> Encoded:
        """Look at one image alone.

        Args:
            frame: Whose image it is.
            image_hw3: RGB uint8, undistorted.
            live: The undistorted camera of that image.

        Raises:
            SceneError: The frame lacks what the predictor needs.
        """

    def descriptor(self, encoded: Encoded) -> np.ndarray:
        """Return a unit vector (d,) float32; those of images that see the same are alike."""

    def decode(
        self, ones: Sequence[Encoded], others: Sequence[Encoded]
    ) -> tuple[PairPointmaps, PairPointmaps]:
        """Look at a batch of pairs, in both orders: (one, other) and (other, one).

        All `ones` are of one image size, and so are all `others`.
        """
