"""Corrects the covariance of poses by errors that were measured when the map was made.

The covariance of a pose follows from the matches of one image. Errors that all of these matches
share are not in it: those of the keyframes' poses and depths, and of a view far from all keyframes.
"""

import math
from dataclasses import dataclass, replace

import numpy as np

from mote_localization.errors import MapFileError

CHI2_95 = {3: 7.815, 6: 12.592}  # 95th percentile of chi-square, by degrees of freedom


@dataclass(frozen=True)
class ErrorModel:
    """The variance of a coordinate, from its estimate and the distance to the nearest keyframe.

    It is (scale * (1 + growth * distance))^2 * estimate + floor^2 + (slope * distance)^2. Units are
    those of the coordinate, m or rad; the distance is in m.
    """

    scale: float = 1.0  # factor of the estimated standard deviation
    floor: float = 0.0  # standard deviation of the error that does not depend on the image
    slope: float = 0.0  # standard deviation per metre of distance to the nearest keyframe
    growth: float = 0.0  # 1/m, relative growth of the factor with that distance

    def __post_init__(self) -> None:
        if not (0 < self.scale < math.inf and 0 <= self.floor < math.inf):
            raise MapFileError(
                f"found an error model of scale {self.scale} and floor {self.floor}, expected a "
                "scale above 0 and a floor of 0 or more"
            )
        if not (0 <= self.slope < math.inf and 0 <= self.growth < math.inf):
            raise MapFileError(
                f"found an error model of slope {self.slope} and growth {self.growth}, expected 0 "
                "or more for both"
            )

    def factor(self, distance: float) -> float:
        """Return the factor of the estimated standard deviation."""
        return self.scale * (1 + self.growth * distance)

    def added(self, distance: float) -> float:
        """Return the variance that is added to the scaled estimate."""
        return self.floor**2 + (self.slope * distance) ** 2


@dataclass(frozen=True)
class PoseCalibration:
    """Error models of a map's poses, under which 95 % ellipsoids hold 95 % of the true poses."""

    position: ErrorModel = ErrorModel()
    rotation: ErrorModel = ErrorModel()
    poses: int = 0  # number of poses whose errors were measured; 0: not measured
    # factor of the covariance between position and rotation: the estimate overrates how well the
    # one follows from the other
    correlation: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.correlation <= 1:
            raise MapFileError(
                f"found a correlation factor of {self.correlation}, expected one from 0 to 1"
            )

    @classmethod
    def of_scale(cls, covariance_scale: float) -> "PoseCalibration":
        """Return the calibration that multiplies covariances, as maps of older formats do."""
        if not 0 < covariance_scale < math.inf:
            raise MapFileError(
                f"found covariance scale {covariance_scale}, expected a number above 0"
            )
        model = ErrorModel(math.sqrt(covariance_scale))
        return cls(model, model)

    def calibrated(self, covariance_66: np.ndarray, distance: float = 0.0) -> np.ndarray:
        """Return the covariance (6, 6) of a pose: x y z rotX rotY rotZ, m^2, m rad, rad^2.

        Args:
            covariance_66: Estimated from the matches.
            distance: To the nearest keyframe, m; see `KeyframeMatcher.distances`.
        """
        scale_6 = np.repeat([self.position.factor(distance), self.rotation.factor(distance)], 3)
        added_6 = np.repeat([self.position.added(distance), self.rotation.added(distance)], 3)
        calibrated_66 = scale_6[:, None] * covariance_66 * scale_6 + np.diag(added_6)
        calibrated_66[:3, 3:] *= self.correlation
        calibrated_66[3:, :3] *= self.correlation
        return calibrated_66

    def in_other_unit(self, scale: float) -> "PoseCalibration":
        """Return the calibration of the same map in lengths that are `scale` times as large."""
        position, rotation = (
            replace(model, growth=model.growth / scale) for model in (self.position, self.rotation)
        )
        position = replace(position, floor=scale * position.floor)
        rotation = replace(rotation, slope=rotation.slope / scale)
        return replace(self, position=position, rotation=rotation)

    def __str__(self) -> str:
        if self.poses:
            return f"measured on {self.poses} poses"
        if self.position == ErrorModel(self.position.scale) == self.rotation:  # an older map's
            return f"times {self.position.scale**2:.3g}"
        return "not measured"


def nees(errors_nk: np.ndarray, covariances_nkk: np.ndarray) -> np.ndarray:
    """Return the normalized estimation errors squared (n,): e^T C^-1 e.

    An error is in its 95 % ellipsoid where this is below `CHI2_95` (Bar-Shalom et al. 2001, 5.4).
    """
    inverse_nkk = np.linalg.pinv(covariances_nkk, hermitian=True)
    return np.einsum("ni,nij,nj->n", errors_nk, inverse_nkk, errors_nk)
