"""The probability that a pose of the student alone is wrong, as measured when the map was made.

A pose is wrong if it is off by more than 25 cm or 10 degrees, see `evaluation.metrics`. Where no
keyframe confirms it, four features predict it, by a logistic regression on changed views of the
held-out frames.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from mote_localization.errors import MapFileError

MAX_PROBABILITIES = 1000
# A pose is rejected if its own probability is so many times the rate that is allowed: where few
# poses are likely wrong, the others would make up for them.
_MAX_RATIO = 10.0


def pose_features(
    covariance_66: np.ndarray, sigma_n: np.ndarray, inliers: int, cameras: int = 1
) -> np.ndarray:
    """Return the features (4,) that predict whether a pose is wrong.

    The logarithms of the position's standard deviation, of the median expected error of the
    matches, and of the number of inliers per camera, and the fraction of the matches that are
    inliers.

    Args:
        covariance_66: Covariance of the pose, not calibrated: x y z rotX rotY rotZ, m and rad.
        sigma_n: Expected errors of the matches, m.
        inliers: Number of the matches that agree with the pose, 1 or more.
        cameras: Number of cameras that the matches are of.
    """
    deviation = math.sqrt(float(np.trace(covariance_66[:3, :3])))
    logarithms = np.log(
        [max(deviation, 1e-9), max(float(np.median(sigma_n)), 1e-9), inliers / cameras]
    )
    return np.append(logarithms, inliers / len(sigma_n))


@dataclass(frozen=True)
class WrongPoses:
    """The probability of a wrong pose: 1 / (1 + exp(-intercept - weights . features))."""

    intercept: float
    weights: tuple[float, float, float, float]  # of `pose_features`
    # of poses of usual images, ascending
    probabilities: tuple[float, ...]

    def __post_init__(self) -> None:
        numbers = np.array([self.intercept, *self.weights, *self.probabilities])
        sample = numbers[5:]
        if not np.isfinite(numbers).all() or np.abs(numbers).max() > 1e6:
            raise MapFileError(
                f"found wrong poses with intercept {self.intercept:g} and weights {self.weights}, "
                "expected numbers of 1e6 or less"
            )
        if not 1 <= len(sample) <= MAX_PROBABILITIES or (np.diff(sample) < 0).any():
            raise MapFileError(
                f"found {len(sample)} probabilities of wrong poses, expected 1 to "
                f"{MAX_PROBABILITIES} in ascending order"
            )
        if not (0 <= sample[0] and sample[-1] <= 1):
            raise MapFileError(
                f"found probabilities {sample[0]:g} to {sample[-1]:g}, expected 0 to 1"
            )

    @classmethod
    def measured(
        cls, intercept: float, weights_4: np.ndarray, usual_n4: np.ndarray
    ) -> "WrongPoses":
        """Return the probability with its values for poses of usual images.

        Args:
            intercept: Of the regression.
            weights_4: Of `pose_features`.
            usual_n4: The features of these poses, 1 to `MAX_PROBABILITIES`.
        """
        first, second, third, fourth = (float(weight) for weight in weights_4)
        sample = np.sort(_logistic(intercept + usual_n4 @ weights_4))
        rounded = tuple(float(f"{probability:.6g}") for probability in sample)
        return cls(float(intercept), (first, second, third, fourth), rounded)

    def probability(self, features_4: np.ndarray) -> float:
        """Return the probability that a pose with these `pose_features` is wrong."""
        return float(_logistic(self.intercept + features_4 @ np.array(self.weights)))

    def limit(self, max_wrong_rate: float) -> float:
        """Return the largest probability of a pose that is accepted.

        Of the poses of usual images up to this limit, the fraction `max_wrong_rate` is expected to
        be wrong; 0 where it is more. It is at most 10 times that rate.
        """
        accepted = int(np.searchsorted(self._mean_n, max_wrong_rate, side="right"))
        if not accepted:
            return 0.0
        return min(self.probabilities[accepted - 1], _MAX_RATIO * max_wrong_rate)

    @cached_property
    def _mean_n(self) -> np.ndarray:
        """Of the probabilities up to each one; ascending, as they are."""
        return np.cumsum(self.probabilities) / np.arange(1, len(self.probabilities) + 1)

    def __str__(self) -> str:
        return (
            f"{100 * np.mean(self.probabilities):.3g} % expected of usual images, before the gate"
        )


def _logistic(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.clip(x, -500, 500)))
