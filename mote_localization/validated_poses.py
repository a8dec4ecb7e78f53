"""Poses that were estimated when a map was made: where it is accurate, and where it has none.

They are of frames of the recording: held-out frames, or training frames that were localized with
all keyframes but their own, or without the nearest one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mote_localization.errors import MapFileError
from mote_localization.geometry import pose_from, quaternion_xyzw

MAX_POSES = 1000
_DIGITS = 4  # of stored numbers, after the point
_SAME_PLACE = 8.0  # of one place are poses within so many median distances to the nearest other
_MAX_PLACES = 3  # named in the text


@dataclass(frozen=True)
class ValidatedPose:
    """The true pose of a frame, and the error of the pose that was estimated for it."""

    # x y z in m, qx qy qz qw: T_map_cam in the frame of the given poses
    pose: tuple[float, float, float, float, float, float, float]
    error: float | None  # m, of the estimated position; None: no pose was found
    deviation: float | None  # m, calibrated standard deviation of the position

    @classmethod
    def record(
        cls, T_map_cam: np.ndarray, error: float | None, deviation: float | None
    ) -> "ValidatedPose":
        """Return a pose (4, 4) with its error, rounded."""
        numbers = np.concatenate([T_map_cam[:3, 3], quaternion_xyzw(T_map_cam[:3, :3])])
        x, y, z, qx, qy, qz, qw = numbers.round(_DIGITS).tolist()
        rounded = (None if v is None else round(v, _DIGITS) for v in (error, deviation))
        return cls((x, y, z, qx, qy, qz, qw), *rounded)

    def __post_init__(self) -> None:
        errors = [v for v in (self.error, self.deviation) if v is not None]
        norm = float(np.linalg.norm(self.pose[3:]))
        finite = np.isfinite([*self.pose, *errors]).all()
        if not finite or abs(norm - 1) > 0.01 or any(v < 0 for v in errors):
            raise MapFileError(
                f"found a validated pose {self.pose} with error {self.error}, expected a position, "
                "a unit quaternion, and an error of 0 or more"
            )

    @property
    def T_map_cam(self) -> np.ndarray:
        """The pose (4, 4)."""
        q_xyzw = np.array(self.pose[3:])
        return pose_from(np.array(self.pose[:3]), q_xyzw / np.linalg.norm(q_xyzw))


def validation_text(poses: Sequence[ValidatedPose], unit: str) -> str:
    """Return in words how accurate a map is, and where to record more.

    Args:
        poses: One at least.
        unit: Of lengths: m, or the map's own.
    """
    errors = np.array([pose.error for pose in poses if pose.error is not None])
    lost = len(poses) - len(errors)
    text = f"{len(errors)} of {len(poses)} frames found"
    if len(errors):
        scale, shown = (100, "cm") if unit == "m" else (1, unit)
        middle, most = scale * np.quantile(errors, [0.5, 0.95])
        text += f", median error {middle:.2g} {shown}, 95 % under {most:.2g} {shown}"
    if lost:
        places = [" ".join(f"{v:.1f}" for v in place) for place in _lost_places(poses)]
        text += f"; record more near {', near '.join(places)} {unit} (x y z)"
    return text


def _lost_places(poses: Sequence[ValidatedPose]) -> list[np.ndarray]:
    """Return the positions (3,) around which most frames without a pose are."""
    positions_n3 = np.array([pose.pose[:3] for pose in poses])
    distance_nn = np.linalg.norm(positions_n3[:, None] - positions_n3, axis=-1)
    np.fill_diagonal(distance_nn, np.inf)
    radius = _SAME_PLACE * float(np.median(distance_nn.min(axis=1))) if len(poses) > 1 else 0.0
    left = [i for i, pose in enumerate(poses) if pose.error is None]
    places: list[np.ndarray] = []
    while left and len(places) < _MAX_PLACES:
        near = [[j for j in left if j == i or distance_nn[i, j] <= radius] for i in left]
        largest = max(near, key=len)
        places.append(positions_n3[largest].mean(axis=0))
        left = [i for i in left if i not in largest]
    return places
