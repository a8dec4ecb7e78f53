"""The probability that a pose of the student alone is wrong, as measured when the map was made.

A pose is wrong if it is off by more than 25 cm or 10 degrees, see `evaluation.metrics`. Where no
keyframe confirms it, four numbers hint at it; a logistic regression on changed views of held-out
frames turns them into a probability.
"""

import math
from dataclasses import dataclass, replace

import numpy as np

from mote_localization.errors import MapFileError

MAX_PROBABILITIES = 1000
_DIGITS = 6  # of stored probabilities, after the point


def pose_features(covariance_66: np.ndarray, sigma_n: np.ndarray, inliers: int) -> np.ndarray:
    """Return what hints at a wrong pose (4,).

    The logarithms of the position's standard deviation, of the median expected error of the
    matches, and of the number of inliers, and the fraction of the matches that are inliers.

    Args:
        covariance_66: Covariance of the pose, not calibrated: x y z rotX rotY rotZ, m and rad.
        sigma_n: Expected errors of the matches, m.
        inliers: Number of the matches that agree with the pose, 1 or more.
    """
    deviation = math.sqrt(float(np.trace(covariance_66[:3, :3])))
    logarithms = np.log([max(deviation, 1e-9), max(float(np.median(sigma_n)), 1e-9), inliers])
    return np.append(logarithms, inliers / len(sigma_n))


@dataclass(frozen=True)
class WrongPoses:
    """The probability of a wrong pose: 1 / (1 + exp(-intercept - weights . features))."""

    intercept: float
    weights: tuple[float, float, float, float]  # of `pose_features`
    # of poses of usual images, ascending: a sample
    probabilities: tuple[float, ...]

    def __post_init__(self) -> None:
        numbers = np.array([self.intercept, *self.weights, *self.probabilities])
        sample = numbers[5:]
        if not np.isfinite(numbers).all() or np.abs(numbers).max() > 1e6:
            raise MapFileError("found a probability of wrong poses that is not finite")
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
            usual_n4: The features of these poses, one at least.
        """
        first, second, third, fourth = (float(weight) for weight in weights_4)
        probability_n = np.sort(_logistic(intercept + usual_n4 @ weights_4))
        chosen = np.linspace(0, len(probability_n) - 1, min(len(probability_n), MAX_PROBABILITIES))
        sample = probability_n[chosen.round().astype(int)].round(_DIGITS)
        return cls(float(intercept), (first, second, third, fourth), tuple(sample.tolist()))

    def probability(self, features_4: np.ndarray) -> float:
        """Return the probability that a pose with these `pose_features` is wrong."""
        return float(_logistic(self.intercept + features_4 @ np.array(self.weights)))

    def limit(self, max_wrong_rate: float) -> float:
        """Return the largest probability of a pose that is accepted.

        Of the poses of usual images up to this limit, the fraction `max_wrong_rate` is expected to
        be wrong; 0 where it is more.
        """
        sample = np.array(self.probabilities)
        mean_n = np.cumsum(sample) / np.arange(1, len(sample) + 1)
        accepted = np.flatnonzero(mean_n <= max_wrong_rate)  # the means ascend, too
        return float(sample[accepted[-1]]) if len(accepted) else 0.0

    def __str__(self) -> str:
        return f"expected {100 * np.mean(self.probabilities):.2g} % of usual images"

    def in_other_unit(self, scale: float) -> "WrongPoses":
        """Return the same for the map in lengths that are `scale` times as large."""
        moved = (self.weights[0] + self.weights[1]) * math.log(scale)
        return replace(self, intercept=self.intercept - moved)


def _logistic(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.clip(x, -500, 500)))
