"""Corrects the covariance of poses by errors that were measured when the map was made.

The covariance of a pose follows from the matches of one image. Errors that all of these matches
share are not in it: those of the keyframes' poses and depths, and of a view far from all keyframes.
"""

import math
from dataclasses import dataclass

import numpy as np

from mote_localization.errors import MapFileError

CHI2_95 = {3: 7.815, 6: 12.592}  # 95th percentile of chi-square, by degrees of freedom


@dataclass(frozen=True)
class ErrorModel:
    """The variance of a coordinate: scale^2 * estimate + floor^2 + (slope * distance)^2.

    Units are those of the coordinate, m or rad; the distance is that to the nearest keyframe, m.
    """

    scale: float = 1.0  # factor of the estimated standard deviation
    floor: float = 0.0  # standard deviation of the error that does not depend on the image
    slope: float = 0.0  # standard deviation per metre of distance to the nearest keyframe

    def __post_init__(self) -> None:
        if not (0 < self.scale < math.inf and 0 <= self.floor < math.inf):
            raise MapFileError(
                f"found an error model of scale {self.scale} and floor {self.floor}, expected a "
                "scale above 0 and a floor of 0 or more"
            )
        if not 0 <= self.slope < math.inf:
            raise MapFileError(f"found an error model of slope {self.slope}, expected 0 or more")

    def added(self, distance: float) -> float:
        """Return the variance that is added to the scaled estimate."""
        return self.floor**2 + (self.slope * distance) ** 2


@dataclass(frozen=True)
class PoseCalibration:
    """Error models of a map's poses, under which 95 % ellipsoids hold 95 % of the true poses."""

    position: ErrorModel = ErrorModel()
    rotation: ErrorModel = ErrorModel()
    poses: int = 0  # number of poses whose errors were measured; 0: not measured

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
        scale_6 = np.repeat([self.position.scale, self.rotation.scale], 3)
        added_6 = np.repeat([self.position.added(distance), self.rotation.added(distance)], 3)
        return scale_6[:, None] * covariance_66 * scale_6 + np.diag(added_6)

    def in_other_unit(self, scale: float) -> "PoseCalibration":
        """Return the calibration of the same map in lengths that are `scale` times as large."""
        position = ErrorModel(self.position.scale, scale * self.position.floor, self.position.slope)
        rotation = ErrorModel(self.rotation.scale, self.rotation.floor, self.rotation.slope / scale)
        return PoseCalibration(position, rotation, self.poses)

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
