"""The description of a map: camera, bounds, calibration, drift, keyframes and origin."""

from dataclasses import dataclass, field

import numpy as np

from mote_localization.camera import Camera, check_canonical_size
from mote_localization.drift import Drift
from mote_localization.errors import MapFileError
from mote_localization.keyframes import Keyframe, check_keyframes
from mote_localization.pose_calibration import PoseCalibration
from mote_localization.self_test import SelfTest
from mote_localization.validated_poses import MAX_POSES, ValidatedPose
from mote_localization.wrong_poses import WrongPoses

UNKNOWN_SCALE = "unknown: lengths are in the map's own unit, not in metres"


@dataclass(frozen=True)
class MapInfo:
    """The metadata of a map, which the ONNX file stores as `mote.*`; see `map_metadata`.

    Where the scale is unknown, the map's own unit takes the place of the metre.
    """

    scene: str  # name of the place
    camera: Camera  # the canonical camera
    stride: int  # px of the canonical image per cell side
    bounds_min: tuple[float, float, float]  # m, map frame, corner of the mapped volume
    bounds_max: tuple[float, float, float]  # m, map frame, opposite corner
    teacher: str  # source of the 3-D points: rgbd, dust3r
    teacher_licence: str  # licence that the teacher puts on the map; empty: none
    student: str  # family of the network: cnn, mobilenet, vit
    pose_calibration: PoseCalibration = PoseCalibration()  # corrects the covariance of the poses
    wrong_poses: WrongPoses | None = None  # of the student alone; None: not measured
    metric: bool = True  # False: the scale is unknown
    drift: Drift | None = None  # from the poses in the map's frame to the given poses
    keyframes: tuple[Keyframe, ...] = field(default=(), repr=False)  # confirm and refine each pose
    self_test: SelfTest | None = None  # None in maps of older versions
    validation: tuple[ValidatedPose, ...] = field(default=(), repr=False)  # of the poses
    training: dict[str, float | int | str] = field(default_factory=dict)  # figures of the training
    created: str = ""  # ISO 8601, UTC

    def __post_init__(self) -> None:
        """Check all values.

        Raises:
            MapFileError: A value is impossible, or keyframes or self-test do not fit the camera.
            CameraError: The canonical camera has too many pixels or cells.
            SceneError: The pose of a keyframe is not a rigid transform.
        """
        size = (self.camera.width, self.camera.height)
        if self.stride < 1 or size[0] % self.stride or size[1] % self.stride:
            raise MapFileError(
                f"found stride {str(self.stride)[:20]} px and a canonical camera of {size[0]}x"
                f"{size[1]} px, expected a stride that divides both sides"
            )
        if self.camera.distortion:
            raise MapFileError(
                "found a distorted canonical camera, expected an undistorted pinhole"
            )
        check_canonical_size(*size, self.stride)
        bounds = np.array([self.bounds_min, self.bounds_max], np.float64)
        if bounds.shape != (2, 3) or not np.isfinite(bounds).all() or (bounds[0] > bounds[1]).any():
            raise MapFileError(
                f"found bounds {self.bounds_min} to {self.bounds_max}, expected two corners in m"
            )
        if len(self.validation) > MAX_POSES:
            raise MapFileError(
                f"found {len(self.validation)} validated poses, expected at most {MAX_POSES}"
            )
        if self.self_test:
            self.self_test.check(size, self.cells_hw)
        check_keyframes(self.keyframes, size, self.cells_hw)

    @property
    def unit(self) -> str:
        """Unit of lengths, for messages."""
        return "m" if self.metric else "units"

    @property
    def cells_hw(self) -> tuple[int, int]:
        """Rows and columns of the pointmap."""
        return self.camera.height // self.stride, self.camera.width // self.stride

    @property
    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the graph's input and outputs by name: image uint8, the others float32."""
        return {
            "image": (1, self.camera.height, self.camera.width, 3),
            "points": (1, *self.cells_hw, 3),
            "sigma": (1, *self.cells_hw),
        }
