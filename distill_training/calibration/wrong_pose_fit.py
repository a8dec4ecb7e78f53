"""Fits the probability of a wrong pose to the poses of changed views."""

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

from mote_localization.wrong_poses import WrongPoses

_MIN_WRONG = 10  # with fewer wrong ones of enough poses, chance decides
_MIN_POSES = 100
_MIN_SPREAD = 0.01  # of a feature: one that is nearly constant says nothing
# A pose is not more likely wrong where its deviation and the points' sigma are smaller, or where
# more matches agree: a weight of the other sign would be chance.
_SIGNS = np.array([1.0, 1.0, -1.0, -1.0])
_PRIOR = 1.0  # inverse variance of the weights, of features of variance 1
_INTERCEPT_PRIOR = 1e-3  # of the intercept: it is finite where all poses are wrong


def fit_wrong_poses(
    features_n4: np.ndarray, wrong_n: np.ndarray, usual_n: np.ndarray
) -> WrongPoses | None:
    """Return the probability of a wrong pose by a logistic regression.

    Args:
        features_n4: `pose_features` of each pose.
        wrong_n: Which of them are wrong.
        usual_n: Which of them are of usual images.

    Returns:
        The probability, or None where too few of many poses are wrong, or none is of a usual image.
    """
    if not usual_n.any():
        return None
    if len(wrong_n) >= _MIN_POSES and np.count_nonzero(wrong_n) < _MIN_WRONG:
        return None
    mean_4, spread_4 = features_n4.mean(axis=0), np.maximum(features_n4.std(axis=0), _MIN_SPREAD)
    signed_n4 = _SIGNS * (features_n4 - mean_4) / spread_4
    outcome_n = np.where(wrong_n, 1.0, -1.0)

    def cost(parameters_5: np.ndarray) -> tuple[float, np.ndarray]:
        """Return the negative logarithm of the posterior, and its gradient."""
        intercept, weights_4 = parameters_5[0], parameters_5[1:]
        logit_n = outcome_n * (intercept + signed_n4 @ weights_4)
        prior = _PRIOR * weights_4 @ weights_4 + _INTERCEPT_PRIOR * intercept**2
        slope_n = -outcome_n * expit(-logit_n)
        gradient = signed_n4.T @ slope_n + _PRIOR * weights_4
        first = slope_n.sum() + _INTERCEPT_PRIOR * intercept
        return float(np.logaddexp(0, -logit_n).sum() + prior / 2), np.append(first, gradient)

    bounds = [(None, None), *[(0, None)] * 4]
    found = minimize(cost, np.zeros(5), jac=True, method="L-BFGS-B", bounds=bounds).x
    weights_4 = _SIGNS * found[1:] / spread_4
    return WrongPoses.measured(
        float(found[0] - weights_4 @ mean_4), weights_4, features_n4[usual_n]
    )
