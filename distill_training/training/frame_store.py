"""Frames of a reconstruction as they are trained and measured, in bounded memory on the host."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from distill_training.common.sampling import thinned
from distill_training.reconstruction import ReconstructedFrame, Reconstruction
from distill_training.training.neighbours import neighbours
from mote_localization.camera import Camera
from mote_localization.geometry import invert, transform

_CACHE_BYTES = 1 << 28
_CELL_BYTES = 21  # of a frame in memory: depth, point, sigma, mask
_NEIGHBOUR_CANDIDATES = 500  # frames among which neighbours are searched


@dataclass(frozen=True)
class Frame:
    """An image and the teacher's points, which lie on the rays of their cells."""

    image_hw3: np.ndarray  # RGB uint8
    depth_hw: np.ndarray  # float32, m, along the optical axis; 0 where not valid
    points_hw3: np.ndarray  # float32, m, map frame; 0 where not valid
    valid_hw: np.ndarray  # bool, the cell has a teacher's point
    sigma_hw: np.ndarray  # float32, m, expected error of the teacher's point; 0 where unknown
    T_map_cam: np.ndarray  # (4, 4)
    T_near_map_n44: np.ndarray  # of neighbouring frames; the frame's own if it has none


def make_frame(
    reconstructed: ReconstructedFrame,
    T_map_cam: np.ndarray,
    camera: Camera,
    stride: int,
    near_n44: np.ndarray | None = None,
) -> Frame:
    """Return a reconstructed frame with the depth of each cell.

    Args:
        reconstructed: Image and points.
        T_map_cam: Pose of the frame.
        camera: Canonical camera.
        stride: Pixels per cell side.
        near_n44: Poses T_map_cam of neighbouring frames; none: the frame's own pose.
    """
    T_cam_map = invert(T_map_cam)
    near_n44 = T_map_cam[None] if near_n44 is None or not len(near_n44) else near_n44
    z_hw = transform(T_cam_map, reconstructed.points_hw3.astype(np.float64))[..., 2]
    depth_hw = np.maximum(np.nan_to_num(z_hw, nan=0.0), 0)
    valid_hw = depth_hw > 0
    points_hw3 = transform(T_map_cam, camera.cell_rays(stride) * depth_hw[..., None])
    sigma_hw = reconstructed.sigma_hw
    return Frame(
        reconstructed.image_hw3,
        depth_hw.astype(np.float32),
        np.where(valid_hw[..., None], points_hw3, 0).astype(np.float32),
        valid_hw,
        np.where(np.isfinite(sigma_hw), sigma_hw, 0).astype(np.float32),
        T_map_cam,
        np.stack([invert(T) for T in near_n44]),
    )


class FrameStore:
    """Reads frames of a reconstruction, and keeps those that are measured again and again."""

    def __init__(self, reconstruction: Reconstruction, among: Sequence[str] = ()) -> None:
        """Create an empty cache; frames are read when they are first asked for.

        Args:
            reconstruction: The frames' source.
            among: Frames among which neighbours are searched; none: frames have no neighbours.
        """
        self._reconstruction = reconstruction
        candidates = thinned([reconstruction.poses[name] for name in among], _NEIGHBOUR_CANDIDATES)
        self._candidates_n44 = np.array(candidates).reshape(-1, 4, 4)
        camera = reconstruction.camera
        cells = (camera.width // reconstruction.stride) * (camera.height // reconstruction.stride)
        frame_bytes = camera.width * camera.height * 3 + cells * _CELL_BYTES
        self.frame = lru_cache(maxsize=max(1, _CACHE_BYTES // frame_bytes))(self.read)

    def clear(self) -> None:
        """Free the memory now: cache and store refer to each other."""
        self.frame.cache_clear()

    def read(self, name: str) -> Frame:
        """Read a frame, without the cache.

        Raises:
            ReconstructionError: The frame cannot be read.
        """
        source = self._reconstruction
        frame, pose = source.read_frame(name), source.poses[name]
        chosen = neighbours(frame.points_hw3, pose, self._candidates_n44, source.camera)
        return make_frame(frame, pose, source.camera, source.stride, self._candidates_n44[chosen])
