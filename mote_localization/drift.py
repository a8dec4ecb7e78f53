"""The drift of the given poses, as a Gaussian process over camera poses.

Poses of trackers drift: the same place gets different coordinates at different times. A map whose
poses were adjusted is consistent, but its users expect poses in the frame of the given poses. The
motion from adjusted to given poses changes smoothly with the camera's position and orientation.
The map stores it at sampled cameras. Kriging interpolates it: Gaussian process regression
(Rasmussen and Williams 2006, eq. 2.25 and 2.26) with a Matérn kernel, the same one for all six
coordinates of the motion.
"""

import math
from collections.abc import Sequence

import msgspec
import numpy as np

from mote_localization.errors import MapFileError
from mote_localization.geometry import pose_from, quaternion_xyzw, retract

MAX_SAMPLES = 256
DIGITS = 5  # decimals of a sample's numbers: 0.01 mm and 0.001 degrees
_NUMBERS = 13  # of a sample
_MAX_ABS = 1e6  # m, of positions and motions: larger ones lose too many digits
_LENGTH_SCALES = (1e-3, 1e6)  # allowed range, m and deg
_NOISES = (1e-4, 1e3)  # allowed range; below, the kernel matrix of close samples is singular
_UNIT_TOLERANCE = 1e-3


class Drift(msgspec.Struct, frozen=True):
    """Samples of the drift, and the parameters of its kernel; `name` is a key of the map file."""

    # Each: position x y z (m) and quaternion x y z w of a camera in the frame of the adjusted
    # poses, then the motion (m, rad; see `geometry.local_coordinates`) to its given pose.
    samples: tuple[tuple[float, ...], ...] = msgspec.field(name="stations")
    # of the kernel, for the distance between two cameras
    length_scale_m: float = msgspec.field(name="reach_m")
    # of the kernel, for the angle between two cameras, taken as its chord
    length_scale_deg: float = msgspec.field(name="reach_deg")
    noise: float  # variance of a sample's error, relative to the variance of the drift

    def __post_init__(self) -> None:
        if not 1 <= len(self.samples) <= MAX_SAMPLES:
            raise MapFileError(
                f"found a drift of {len(self.samples)} samples, expected 1 to {MAX_SAMPLES}"
            )
        if any(len(sample) != _NUMBERS for sample in self.samples):
            raise MapFileError(f"found a drift with samples that are not {_NUMBERS} numbers each")
        samples_nk = np.array(self.samples)
        sound = (np.abs(samples_nk) < _MAX_ABS).all() and (
            np.abs(np.linalg.norm(samples_nk[:, 3:7], axis=1) - 1) < _UNIT_TOLERANCE
        ).all()
        if not sound:  # NaN included
            raise MapFileError(
                f"found a drift with samples beyond {_MAX_ABS:g} m, or with quaternions that are "
                "not normalized"
            )
        for name, value, (least, most) in (
            ("length_scale_m", self.length_scale_m, _LENGTH_SCALES),
            ("length_scale_deg", self.length_scale_deg, _LENGTH_SCALES),
            ("noise", self.noise, _NOISES),
        ):
            if not least <= value <= most:
                raise MapFileError(
                    f"found a drift with {name} {value:g}, expected {least:g} to {most:g}"
                )

    def __str__(self) -> str:
        motions_n6 = np.array(self.samples)[:, -6:]
        metres, radians = np.median(np.linalg.norm(motions_n6.reshape(-1, 2, 3), axis=2), axis=0)
        return (
            f"{100 * metres:.1f} cm, {math.degrees(radians):.2f} deg (median of "
            f"{len(motions_n6)} samples)"
        )


def drift_sample(T_map_cam: np.ndarray, motion_6: np.ndarray) -> tuple[float, ...]:
    """Return one of `Drift.samples`, rounded: an adjusted pose and the motion to the given one."""
    numbers = (T_map_cam[:3, 3], quaternion_xyzw(T_map_cam[:3, :3]), motion_6)
    return tuple(np.concatenate(numbers).round(DIGITS).tolist())


def kernel_inputs(samples: Sequence[Sequence[float]]) -> np.ndarray:
    """Return the kernel's inputs (n, 12) for the poses of samples, see `kernel_input`."""
    return np.array([kernel_input(pose_from(np.array(s[:3]), np.array(s[3:7]))) for s in samples])


def kernel_input(T_map_cam: np.ndarray) -> np.ndarray:
    """Return the kernel's input (12,) for a pose: position and axes divided by the root of 2.

    The distance between the scaled axes of two cameras is the chord of the angle between them.
    """
    return np.concatenate([T_map_cam[:3, 3], T_map_cam[:3, :3].ravel() / math.sqrt(2)])


def matern_kernel(
    inputs_nk: np.ndarray, others_mk: np.ndarray, length_scale_m: float, length_scale_deg: float
) -> np.ndarray:
    """Return the correlation (n, m) of the drift between poses: Matérn kernel, nu = 3/2.

    Rasmussen and Williams 2006, eq. 4.17. Drifts of real trackers have a higher likelihood under it
    than under a squared exponential, which is smoother.
    """
    scale_k = np.repeat((1 / length_scale_m, 1 / math.radians(length_scale_deg)), (3, 9))
    difference_nmk = (inputs_nk[:, None] - others_mk) * scale_k
    distance_nm = math.sqrt(3) * np.linalg.norm(difference_nmk, axis=-1)
    return (1 + distance_nm) * np.exp(-distance_nm)


class Kriging:
    """Converts poses from the frame of the adjusted poses to the frame of the given poses."""

    def __init__(self, drift: Drift) -> None:
        """Solve for the weights of the samples."""
        self._inputs_nk, self._noise = kernel_inputs(drift.samples), drift.noise
        self._length_scales = (drift.length_scale_m, drift.length_scale_deg)
        motions_n6 = np.array(drift.samples)[:, -6:]
        correlation_nn = matern_kernel(self._inputs_nk, self._inputs_nk, *self._length_scales)
        self._inverse_nn = np.linalg.inv(correlation_nn + drift.noise * np.eye(len(motions_n6)))
        self._weights_n6 = self._inverse_nn @ motions_n6
        # Maximum likelihood estimate of the motions' covariance.
        self._covariance_66 = motions_n6.T @ self._weights_n6 / len(motions_n6)

    def predict(self, T_map_cam: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return a pose (4, 4) in the given frame, and the covariance of the conversion.

        The covariance (6, 6) is of x y z rotX rotY rotZ along the axes of the map, m and rad. Far
        from all samples it is the covariance of the drift itself.
        """
        input_1k = kernel_input(T_map_cam)[None]
        correlation_n = matern_kernel(input_1k, self._inputs_nk, *self._length_scales)[0]
        relative_variance = 1 + self._noise - correlation_n @ self._inverse_nn @ correlation_n
        return (
            retract(T_map_cam, correlation_n @ self._weights_n6),
            relative_variance * self._covariance_66,
        )
