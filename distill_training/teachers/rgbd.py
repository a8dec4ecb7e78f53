"""The RGB-D teacher: points from measured depth and poses."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np

from distill_training.poses.scene_poses import ScenePoses
from distill_training.reconstruction import ReconstructedFrame, Reconstruction
from distill_training.teachers.teacher_config import USUAL_CELLS, CellsConfig, RgbdConfig
from mote_localization.camera import Camera, CanonicalView, canonical_camera
from mote_localization.geometry import transform
from mote_localization.progress import track
from mote_localization.scenes import Frame, Scene


def reconstruct(
    scene: Scene,
    poses: ScenePoses,
    folder: Path,
    config: RgbdConfig,
    cells: CellsConfig = USUAL_CELLS,
    poses_settings: Mapping[str, float | int | str] | None = None,
    canonical: Camera | None = None,
) -> Reconstruction:
    """Reconstruct the training frames of a scene with depth; resumes an interrupted run.

    Args:
        scene: Its training frames have depth.
        poses: Poses, and cameras if estimated, of the frames to reconstruct.
        folder: Folder of the reconstruction.
        config: How depth images become pointmaps.
        cells: Size of the canonical camera and of its cells.
        poses_settings: What decides the poses, where they are estimated.
        canonical: Canonical camera; None: that of the first frame.

    Raises:
        SceneError: A frame lacks intrinsics or depth, or its files are damaged.
        ReconstructionError: The folder holds another reconstruction, or cannot be written.
    """
    first = next(frame for frame in scene.frames("train") if frame.name in poses.T_map_cam)
    canonical = canonical or canonical_camera(poses.camera(first), cells.width, cells.stride)
    settings = asdict(cells) | asdict(config) | dict(poses_settings or {})
    if poses.given:
        settings["adjust_poses"] = True  # the option's first name, as in older folders
    reconstruction = Reconstruction(
        folder,
        scene.name,
        "rgbd",
        "",
        canonical,
        cells.stride,
        settings,
        poses.T_map_cam,
        poses.metric,
        poses.given,
    )
    reconstruction.begin()
    missing = set(reconstruction.missing())
    sampler: _DepthSampler | None = None
    frames = (frame for frame in scene.frames("train") if frame.name in missing)
    for frame in track(frames, "reconstruct", len(missing)):
        camera = poses.camera(frame)
        if sampler is None or sampler.view.live != camera:
            sampler = _DepthSampler(camera, canonical, config, cells.stride)
        T_map_cam = poses.T_map_cam[frame.name]
        reconstruction.write_frame(frame.name, sampler.reconstruct(frame, T_map_cam))
    return reconstruction


class _DepthSampler:
    """Reads, for one live camera, the depth under each cell of the canonical camera."""

    def __init__(self, live: Camera, canonical: Camera, config: RgbdConfig, stride: int) -> None:
        self.view = CanonicalView(live, canonical, stride)
        self._config = config
        self._rays_hw3 = canonical.cell_rays(stride)
        offsets = np.arange(config.window_px) - (config.window_px - 1) / 2
        # Rounded after the window is placed: at an even scale, cell and window are between pixels.
        window = np.stack(np.meshgrid(offsets, offsets), axis=-1).reshape(-1, 2)
        pixels = np.floor(live.project(self._rays_hw3)[..., None, :] + window + 0.5).astype(int)
        size = (live.width, live.height)
        inside_hwk = np.all((pixels >= 0) & (pixels < size), axis=-1)
        self._seen_hwk = self.view.covered_hw[..., None] & inside_hwk
        self._pixels_hwk2 = pixels.clip(0, np.array(size) - 1)

    def reconstruct(self, frame: Frame, T_map_cam: np.ndarray) -> ReconstructedFrame:
        """Return the pointmap of one frame.

        A cell has a point if at least half of the pixels in its window have a depth.
        """
        config = self._config
        depth_hwk = frame.known_depth()[self._pixels_hwk2[..., 1], self._pixels_hwk2[..., 0]]
        measured = (
            self._seen_hwk & (depth_hwk > config.min_depth_m) & (depth_hwk < config.max_depth_m)
        )
        depth_hwk = np.where(measured, depth_hwk, np.nan)
        valid = measured.mean(axis=-1) >= 0.5
        z_hw = np.full(valid.shape, np.nan)
        z_hw[valid] = np.nanmedian(depth_hwk[valid], axis=-1)
        sigma_hw = np.full(valid.shape, np.inf)
        sigma_hw[valid] = np.nanmedian(np.abs(depth_hwk[valid] - z_hw[valid][:, None]), axis=-1)
        points_hw3 = transform(T_map_cam, self._rays_hw3 * z_hw[..., None])
        return ReconstructedFrame(
            self.view.warp(frame.image()),
            points_hw3.astype(np.float32),
            sigma_hw.astype(np.float32),
        )
