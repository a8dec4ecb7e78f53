"""The RGB-D teacher: measured depth and poses give each cell its point; the others' upper bound."""

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from distill_training.poses.refinement import find_consistent_poses
from distill_training.reconstruction import (
    ReconstructedFrame,
    Reconstruction,
    begun_reconstruction,
)
from distill_training.teachers.teacher_config import USUAL_CELLS, CellsConfig, RgbdConfig
from mote_localization.camera import Camera, CanonicalView, canonical_camera, cell_pixels
from mote_localization.command_line import print_table
from mote_localization.errors import SceneError
from mote_localization.geometry import transform
from mote_localization.progress import track
from mote_localization.scenes import Frame, Scene


def reconstruct(
    scene: Scene, folder: Path, config: RgbdConfig, cells: CellsConfig = USUAL_CELLS
) -> Reconstruction:
    """Reconstruct the training frames of a scene with depth and poses; resumes.

    Raises:
        SceneError: The scene has no training frames, or lacks camera, poses or depth, or files are
            damaged.
        ReconstructionError: The folder holds another reconstruction, or poses are to be adjusted
            and too few frames see the same.
    """
    first = next(scene.frames("train"), None)
    if first is None:
        raise SceneError(f"scene {scene.name}: no training frames")
    canonical = canonical_camera(first.known_camera(), cells.width, cells.stride)
    given = {f.name: f.known_pose() for f in scene.frames("train")}
    reconstruction = Reconstruction(
        folder,
        scene.name,
        "rgbd",
        "",
        canonical,
        cells.stride,
        _settings(cells, config),
        given,
    )
    if config.adjust_poses:
        reconstruction = _adjusted(scene, reconstruction, config)
    reconstruction.begin()
    missing = set(reconstruction.missing())
    sampler: _DepthSampler | None = None
    for frame in track(scene.frames("train"), "reconstruct", scene.count("train")):
        if frame.name not in missing:
            continue
        camera = frame.known_camera()
        if sampler is None or sampler.view.live != camera:
            sampler = _DepthSampler(camera, canonical, config, cells.stride)
        pose = reconstruction.poses[frame.name]
        reconstruction.write_frame(frame.name, sampler.reconstruct(frame, pose))
    return reconstruction


def _settings(cells: CellsConfig, config: RgbdConfig) -> dict[str, float | int | str]:
    settings = asdict(cells) | asdict(config)
    if not config.adjust_poses:  # folders of earlier versions, which do not say, go on
        del settings["adjust_poses"]
    return settings


def _adjusted(scene: Scene, given: Reconstruction, config: RgbdConfig) -> Reconstruction:
    """Return the reconstruction with adjusted poses: those of its folder, where it was begun."""
    begun = begun_reconstruction(given.folder)
    if begun:  # whether it is the same one, its `begin` will say
        return replace(given, poses=begun.poses, given_poses=given.poses)
    found = find_consistent_poses(scene, given.poses, config.min_depth_m, config.max_depth_m)
    print_table(found.described(), "poses", stderr=True)
    return replace(given, poses=found.T_map_cam, given_poses=given.poses)


class _DepthSampler:
    """Reads, for one live camera, the depth under each cell of the canonical camera."""

    def __init__(self, live: Camera, canonical: Camera, config: RgbdConfig, stride: int) -> None:
        self.view = CanonicalView(live, canonical, stride)
        self._config = config
        self._rays_hw3 = canonical.rays(cell_pixels(canonical.width, canonical.height, stride))
        offsets = np.arange(config.window_px) - (config.window_px - 1) / 2
        # Laid before rounding: at an even scale a cell stands between pixels, so does the window.
        window = np.stack(np.meshgrid(offsets, offsets), axis=-1).reshape(-1, 2)
        pixels = np.floor(live.project(self._rays_hw3)[..., None, :] + window + 0.5).astype(int)
        size = (live.width, live.height)
        inside_hwk = np.all((pixels >= 0) & (pixels < size), axis=-1)
        self._seen_hwk = self.view.covered_hw[..., None] & inside_hwk
        self._pixels_hwk2 = pixels.clip(0, np.array(size) - 1)

    def reconstruct(self, frame: Frame, T_map_cam: np.ndarray) -> ReconstructedFrame:
        """Return the pointmap of one frame at a pose; a cell needs half of its window measured."""
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
