"""The structure-from-motion teacher: points triangulated from photographs alone.

Only a part of the cells has a point; the student learns the others from reprojection.
"""

from collections import Counter
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path

import numpy as np

from distill_training.poses.frame_points import NO_POINTS
from distill_training.poses.scene_poses import ScenePoses
from distill_training.reconstruction import ReconstructedFrame, Reconstruction
from distill_training.teachers.teacher_config import USUAL_CELLS, CellsConfig
from mote_localization.camera import Camera, CanonicalView, canonical_camera
from mote_localization.geometry import transform
from mote_localization.progress import track
from mote_localization.scenes import Scene

_canonical_view = lru_cache(maxsize=16)(CanonicalView)  # a scene has few different cameras


def reconstruct(
    scene: Scene,
    poses: ScenePoses,
    folder: Path,
    settings: dict[str, float | int | str],
    cells: CellsConfig = USUAL_CELLS,
    canonical: Camera | None = None,
) -> Reconstruction:
    """Reconstruct the frames that structure from motion placed; resumes an interrupted run.

    Each cell takes its most accurate point. The point's depth is taken at the cell's centre.

    Args:
        scene: Source of the images.
        poses: Poses and triangulated points of the frames.
        folder: Folder of the reconstruction.
        settings: Everything else that decides the result.
        cells: Size of the canonical camera and of its cells.
        canonical: Canonical camera; None: that of most frames.

    Raises:
        SceneError: An image is damaged.
        ReconstructionError: The folder holds another reconstruction, or cannot be written.
    """
    used = [frame for frame in scene.frames("train") if frame.name in poses.T_map_cam]
    cameras = {frame.name: poses.camera(frame) for frame in used}
    live = Counter(cameras.values()).most_common(1)[0][0]
    canonical = canonical or canonical_camera(live, cells.width, cells.stride)
    rays_hw3 = canonical.cell_rays(cells.stride)
    reconstruction = Reconstruction(
        folder,
        scene.name,
        "sfm",
        "",
        canonical,
        cells.stride,
        asdict(cells) | settings,
        poses.T_map_cam,
        poses.metric,
        poses.given,
    )
    reconstruction.begin()
    missing = set(reconstruction.missing())
    frames = (frame for frame in used if frame.name in missing)
    for frame in track(frames, "reconstruct", len(missing)):
        view = _canonical_view(cameras[frame.name], canonical, cells.stride)
        depth_hw, sigma_hw = poses.points.get(frame.name, NO_POINTS).in_cells(
            canonical, cells.stride
        )
        points_hw3 = transform(poses.T_map_cam[frame.name], rays_hw3 * depth_hw[..., None])
        reconstruction.write_frame(
            frame.name,
            ReconstructedFrame(
                view.warp(frame.image()),
                points_hw3.astype(np.float32),
                sigma_hw.astype(np.float32),
            ),
        )
    return reconstruction
