"""Photographs with their cameras, known or to be found."""

import logging
from dataclasses import dataclass, replace

from distill_training.teachers.pairwise.pair_predictor import PairPredictor
from distill_training.teachers.teacher_config import CellsConfig, Known
from mote_localization.camera import Camera, canonical_camera
from mote_localization.errors import CameraError, SceneError
from mote_localization.scenes import Frame, Scene

_log = logging.getLogger(__name__)
_NOMINAL_FOCAL = 0.9  # of the long side: what phones have, to start from


@dataclass(frozen=True)
class Photo:
    """A photograph and its cameras; without intrinsics, with a focal length to start from."""

    frame: Frame
    live: Camera  # of the image, distorted or not
    grid: Camera  # undistorted, of the cells
    lens: int  # photographs of one lens share their focal length
    lens_known: bool

    def focused(self, factor: float) -> "Photo":
        """Return the photograph with its focal lengths times a factor."""
        live, grid = (
            replace(camera, fx=factor * camera.fx, fy=factor * camera.fy)
            for camera in (self.live, self.grid)
        )
        return replace(self, live=live, grid=grid)


def take_photos(
    scene: Scene, predictor: PairPredictor, intrinsics: Known, cells: CellsConfig
) -> tuple[list[Photo], dict[str, str]]:
    """Return the training frames with their cameras, and why some cannot be used.

    Raises:
        SceneError: There are none, or intrinsics are asked for that are not there.
        CameraError: The map's width does not fit.
    """
    photos: list[Photo] = []
    refused: dict[str, str] = {}
    lenses: dict[object, int] = {}
    for frame in scene.frames("train"):
        camera = frame.known_camera() if intrinsics == "given" else frame.camera
        known = camera is not None and intrinsics != "estimate"
        try:
            live = camera or _nominal(*frame.size())
            grid = canonical_camera(live, cells.width, cells.stride)
            predictor.camera(replace(live, distortion=()))
        except (SceneError, CameraError) as error:
            if cells.width % cells.stride:
                raise
            _log.warning("frame %s is left out: %s", frame.name, error)
            refused[frame.name] = str(error)
            continue
        # A lens is the same held upright or across.
        lens = live if known else tuple(sorted((live.width, live.height)))
        photos.append(Photo(frame, live, grid, lenses.setdefault(lens, len(lenses)), known))
    if not photos:
        raise SceneError(
            f"scene {scene.name}: none of {len(refused)} training frames can be read, expected "
            "two or more"
        )
    return photos, refused


def _nominal(width: int, height: int) -> Camera:
    """Return a camera of an image size, with a usual focal length."""
    focal = _NOMINAL_FOCAL * max(width, height)
    return Camera(width, height, focal, focal, (width - 1) / 2, (height - 1) / 2)
