"""How the poses that a map was given drift against its one consistent frame.

Trackers' poses bend: what is seen twice, from here and from there, does not meet. A map whose poses
were adjusted is consistent, but its user counts in the frame of the poses that were given. Between
the two stands a small motion of the camera that changes smoothly with the pose. The map knows it
where it was photographed, and in between it is kriged: Gaussian process regression with a squared
exponential kernel (Rasmussen and Williams 2006, eq. 2.25 and 2.26), one kernel for all six numbers.
"""

import math
from dataclasses import dataclass

import numpy as np

from mote_localization.errors import MapFileError
from mote_localization.geometry import exp_rotation, log_rotation

MAX_STATIONS = 256
_NUMBERS = 12  # of a station
_LEAST_NOISE = 1e-4  # below, close stations make the kernel singular
_AXIS_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Drift:
    """The drift at some of the cameras that a map was made of, and how far each has a say."""

    # position (m) and optical axis (unit vector) of the camera in the map's consistent frame, then
    # the motion (m, rad; see `motion_between`) from its adjusted pose to the given one
    stations: tuple[tuple[float, ...], ...]
    reach_m: float  # kernel: standard deviations of a Gaussian, of the distance
    reach_deg: float  # and of the difference of viewing directions
    noise: float  # variance of a station's own error, as a share of the drift's variance

    def __post_init__(self) -> None:
        """Refuse what is no drift."""
        if not 1 <= len(self.stations) <= MAX_STATIONS:
            raise MapFileError(
                f"found a drift of {len(self.stations)} stations, expected 1 to {MAX_STATIONS}"
            )
        if any(len(station) != _NUMBERS for station in self.stations):
            raise MapFileError(f"found a drift whose stations are not of {_NUMBERS} numbers each")
        stations_nk = np.array(self.stations)
        lengths_n = np.linalg.norm(stations_nk[:, 3:6], axis=1)
        if not np.isfinite(stations_nk).all() or (np.abs(lengths_n - 1) > _AXIS_TOLERANCE).any():
            raise MapFileError(
                "found a drift whose stations are not finite with unit vectors as viewing "
                "directions"
            )
        scales = (self.reach_m, self.reach_deg, self.noise / _LEAST_NOISE)
        if not (all(map(math.isfinite, scales)) and min(scales[:2]) > 0 and scales[2] >= 1):
            raise MapFileError(
                f"found a drift that reaches {self.reach_m:g} m and {self.reach_deg:g} deg with "
                f"noise {self.noise:g}, expected numbers above 0"
            )

    def __str__(self) -> str:
        """Return how large it is, for people."""
        motions_n6 = np.array(self.stations)[:, 6:]
        metres, radians = np.median(np.linalg.norm(motions_n6.reshape(-1, 2, 3), axis=2), axis=0)
        return (
            f"{100 * metres:.1f} cm, {math.degrees(radians):.2f} deg (median of "
            f"{len(motions_n6)} stations)"
        )


def motion_between(T_map_from: np.ndarray, T_map_to: np.ndarray) -> np.ndarray:
    """Return the motion (6,) of a camera between two poses (4, 4): x y z rotX rotY rotZ, m, rad.

    In the axes of the pose that it starts from.
    """
    R, apart_3 = T_map_from[:3, :3], T_map_to[:3, 3] - T_map_from[:3, 3]
    return np.concatenate([R.T @ apart_3, log_rotation(R.T @ T_map_to[:3, :3])])


def moved(T_map_cam: np.ndarray, motion_6: np.ndarray) -> np.ndarray:
    """Return the pose (4, 4) after a motion; the inverse of `motion_between`."""
    T = T_map_cam.copy()
    T[:3, 3] += T_map_cam[:3, :3] @ motion_6[:3]
    T[:3, :3] = T_map_cam[:3, :3] @ exp_rotation(motion_6[3:])
    return T


def kernel(
    viewpoints_n6: np.ndarray, others_m6: np.ndarray, reach_m: float, reach_deg: float
) -> np.ndarray:
    """Return the correlation (n, m) of the drift between viewpoints: positions, optical axes."""
    scale_6 = np.repeat((1 / reach_m, 1 / math.radians(reach_deg)), 3)
    apart_nm6 = (viewpoints_n6[:, None] - others_m6) * scale_6
    return np.exp(-(apart_nm6**2).sum(axis=-1) / 2)


def viewpoint(T_map_cam: np.ndarray) -> np.ndarray:
    """Return position and optical axis (6,) of a pose: what the drift follows from."""
    return np.concatenate([T_map_cam[:3, 3], T_map_cam[:3, 2]])


class Kriging:
    """Predicts the drift at any pose."""

    def __init__(self, drift: Drift) -> None:
        """Solve for what each station adds."""
        stations_nk = np.array(drift.stations)
        self._drift, self._viewpoints_n6 = drift, stations_nk[:, :6]
        motions_n6 = stations_nk[:, 6:]
        correlation_nn = kernel(
            self._viewpoints_n6, self._viewpoints_n6, drift.reach_m, drift.reach_deg
        )
        self._inverse_nn = np.linalg.inv(correlation_nn + drift.noise * np.eye(len(stations_nk)))
        self._shares_n6 = self._inverse_nn @ motions_n6
        # What the six numbers vary by, and together: the most likely covariance.
        self._variance_66 = motions_n6.T @ self._shares_n6 / len(stations_nk)

    def at(self, T_map_cam: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the motion (6,) from a pose to where the given frame has it, and its covariance.

        Both in the camera's axes; the covariance (6, 6) grows to that of the drift itself where no
        station is near.
        """
        drift = self._drift
        near_n = kernel(
            viewpoint(T_map_cam)[None], self._viewpoints_n6, drift.reach_m, drift.reach_deg
        )[0]
        unknown = 1 + drift.noise - near_n @ self._inverse_nn @ near_n
        return near_n @ self._shares_n6, unknown * self._variance_66
