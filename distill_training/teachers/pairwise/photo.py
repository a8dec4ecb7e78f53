"""Photographs and their cameras, which may have unknown focal lengths."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from distill_training.poses.lenses import lens_key, take_frames
from distill_training.poses.poses_config import Known
from distill_training.teachers.pairwise.pair_predictor import PairPredictor
from distill_training.teachers.teacher_config import CellsConfig
from mote_localization.camera import Camera, canonical_camera
from mote_localization.errors import SceneError
from mote_localization.scenes import Frame, Scene

_NOT_PLACED = "structure from motion did not place it"


@dataclass(frozen=True)
class Photo:
    """A photograph and its cameras; unknown focal lengths have an initial value."""

    frame: Frame
    live: Camera  # of the image, with its distortion
    grid: Camera  # undistorted, the camera of the cells
    lens: int  # photographs with the same number have the same focal length
    lens_known: bool  # the focal length is given

    def with_focal_factor(self, factor: float) -> "Photo":
        """Return the photograph with its focal lengths multiplied by a factor."""
        live, grid = (
            replace(camera, fx=factor * camera.fx, fy=factor * camera.fy)
            for camera in (self.live, self.grid)
        )
        return replace(self, live=live, grid=grid)


def take_photos(
    scene: Scene,
    predictor: PairPredictor,
    intrinsics: Known,
    cells: CellsConfig,
    placed: Mapping[str, Camera] | None = None,
) -> tuple[list[Photo], dict[str, str]]:
    """Return the usable training frames, and the reason for each other frame, by name.

    Args:
        scene: Its training frames are used.
        predictor: Predicts the pointmaps of image pairs.
        intrinsics: See `take_frames`.
        cells: Size of the canonical camera and of its cells.
        placed: Camera of each frame that structure from motion placed; the others are left out.
            Empty: no frame was placed by it.

    Raises:
        SceneError: No frame can be used, or given intrinsics are required and missing.
    """
    lenses: dict[object, int] = {}

    def take(frame: Frame, camera: Camera, known: bool) -> Photo:
        if placed:
            camera, known = placed.get(frame.name, camera), True
        grid = canonical_camera(camera, cells.width, cells.stride)
        predictor.camera(replace(camera, distortion=()))
        lens = lens_key(frame, camera, known)
        return Photo(frame, camera, grid, lenses.setdefault(lens, len(lenses)), known)

    photos, unusable = take_frames(scene, intrinsics, take)
    if placed:
        left_out = {p.frame.name: _NOT_PLACED for p in photos if p.frame.name not in placed}
        photos, unusable = [p for p in photos if p.frame.name in placed], unusable | left_out
    if not photos:
        raise SceneError(
            f"scene {scene.name}: none of {len(unusable)} training frames can be used, expected "
            "two or more"
        )
    return photos, unusable
