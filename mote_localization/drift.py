"""How the poses that a map was given drift against its one consistent frame.

Trackers' poses bend: what is seen twice, from here and from there, does not meet. A map whose poses
were adjusted is consistent, but its user counts in the frame of the poses that were given. Between
the two stands a small motion that changes smoothly with where the camera is and looks. The map
knows it where it was photographed, and in between it is kriged: Gaussian process regression
(Rasmussen and Williams 2006, eq. 2.25 and 2.26) with a Matérn kernel, the same for all six numbers
of the motion.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mote_localization.errors import MapFileError
from mote_localization.geometry import pose_from, quaternion_xyzw, retract

MAX_STATIONS = 256
DIGITS = 5  # after the point, of a station: hundredths of a millimetre, thousandths of a degree
_NUMBERS = 13  # of a station
_MOST = 1e6  # m, of positions and motions: beyond, arithmetic fails before anybody is there
_REACHES = (1e-3, 1e6)  # m and deg
_NOISES = (1e-4, 1e3)  # below, close stations make the kernel singular
_UNIT_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Drift:
    """The drift at some of the cameras that a map was made of, and how far each has a say."""

    # x y z (m) and quaternion x y z w of the camera in the map's consistent frame, then the motion
    # (m, rad; see `geometry.local_coordinates`) from its adjusted pose to the given one
    stations: tuple[tuple[float, ...], ...]
    length_scale_m: float  # length scale of the kernel, of the distance
    length_scale_deg: float  # and of the angle between two cameras, as the chord
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
        sound = (np.abs(stations_nk) < _MOST).all() and (
            np.abs(np.linalg.norm(stations_nk[:, 3:7], axis=1) - 1) < _UNIT_TOLERANCE
        ).all()
        if not sound:  # nor a number
            raise MapFileError(
                f"found a drift with stations beyond {_MOST:g} m, or quaternions that are not of "
                "length 1"
            )
        for name, value, (least, most) in (
            ("length_scale_m", self.length_scale_m, _REACHES),
            ("length_scale_deg", self.length_scale_deg, _REACHES),
            ("noise", self.noise, _NOISES),
        ):
            if not least <= value <= most:
                raise MapFileError(
                    f"found a drift of {name} {value:g}, expected {least:g} to {most:g}"
                )

    def __str__(self) -> str:
        """Return how large it is, for people."""
        motions_n6 = np.array(self.stations)[:, -6:]
        metres, radians = np.median(np.linalg.norm(motions_n6.reshape(-1, 2, 3), axis=2), axis=0)
        return (
            f"{100 * metres:.1f} cm, {math.degrees(radians):.2f} deg (median of "
            f"{len(motions_n6)} stations)"
        )


def station(T_map_cam: np.ndarray, motion_6: np.ndarray) -> tuple[float, ...]:
    """Return the numbers of a station: a pose of the consistent frame, and the motion from it."""
    numbers = (T_map_cam[:3, 3], quaternion_xyzw(T_map_cam[:3, :3]), motion_6)
    return tuple(np.concatenate(numbers).round(DIGITS).tolist())


def viewpoints(stations: Sequence[Sequence[float]]) -> np.ndarray:
    """Return what a kernel compares of stations (n, 12), see `viewpoint`."""
    return np.array([viewpoint(pose_from(np.array(s[:3]), np.array(s[3:7]))) for s in stations])


def viewpoint(T_map_cam: np.ndarray) -> np.ndarray:
    """Return what a kernel compares of a pose (12,): position, axes over the root of 2.

    The distance between the axes of two cameras is then the chord of the angle between them.
    """
    return np.concatenate([T_map_cam[:3, 3], T_map_cam[:3, :3].ravel() / math.sqrt(2)])


def kernel(
    viewpoints_nk: np.ndarray, others_mk: np.ndarray, length_scale_m: float, length_scale_deg: float
) -> np.ndarray:
    """Return the correlation (n, m) of the drift between viewpoints, of shape nu = 3/2.

    Rasmussen and Williams 2006, eq. 4.17. The drift of real trackers is likelier under it than
    under a squared exponential, which is smoother.
    """
    scale_k = np.repeat((1 / length_scale_m, 1 / math.radians(length_scale_deg)), (3, 9))
    apart_nmk = (viewpoints_nk[:, None] - others_mk) * scale_k
    distance_nm = math.sqrt(3) * np.linalg.norm(apart_nmk, axis=-1)
    return (1 + distance_nm) * np.exp(-distance_nm)


class Kriging:
    """Tells poses of the map's consistent frame in that of the given poses."""

    def __init__(self, drift: Drift) -> None:
        """Solve for what each station adds."""
        self._drift, self._viewpoints_nk = drift, viewpoints(drift.stations)
        motions_n6 = np.array(drift.stations)[:, -6:]
        correlation_nn = kernel(
            self._viewpoints_nk, self._viewpoints_nk, drift.length_scale_m, drift.length_scale_deg
        )
        self._inverse_nn = np.linalg.inv(correlation_nn + drift.noise * np.eye(len(motions_n6)))
        self._shares_n6 = self._inverse_nn @ motions_n6
        # What the six numbers vary by, and together: the most likely covariance.
        self._variance_66 = motions_n6.T @ self._shares_n6 / len(motions_n6)

    def predict(self, T_map_cam: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return where the given frame has a pose (4, 4), and what is not known of that.

        Covariance (6, 6) x y z rotX rotY rotZ in the axes of the map, m and rad; it grows to that
        of the drift itself where no station is near.
        """
        drift = self._drift
        near_n = kernel(
            viewpoint(T_map_cam)[None],
            self._viewpoints_nk,
            drift.length_scale_m,
            drift.length_scale_deg,
        )[0]
        unknown = 1 + drift.noise - near_n @ self._inverse_nn @ near_n
        return retract(T_map_cam, near_n @ self._shares_n6), unknown * self._variance_66
