"""Image and depth map of a frame, resampled to the canonical camera."""

from functools import lru_cache

import numpy as np

from distill_training.reconstruction import ReconstructedFrame
from distill_training.teachers.pairwise.depth_map import DepthMap
from mote_localization.camera import Camera, CanonicalView
from mote_localization.geometry import transform
from mote_localization.scenes import Frame

_canonical_view = lru_cache(maxsize=16)(CanonicalView)  # a scene has few different cameras


def canonical_frame(
    frame: Frame, live: Camera, depth_map: DepthMap, canonical: Camera, sigma_factor: float
) -> ReconstructedFrame:
    """Return image and pointmap of a frame in the canonical camera.

    Args:
        frame: Its image is read.
        live: Camera of the image.
        depth_map: Depth of the frame, in any grid.
        canonical: The canonical camera; its cells have the stride of the depth map.
        sigma_factor: Factor for the sigmas.

    Raises:
        SceneError: The image is damaged.
    """
    view = _canonical_view(live, canonical, depth_map.stride)
    rays_hw3 = canonical.cell_rays(depth_map.stride)
    depth_hw, sigma_hw = depth_map.depth_hw, depth_map.sigma_hw
    if depth_map.grid != canonical:
        depth_hw, sigma_hw = depth_map.sample(rays_hw3)
    depth_hw = np.where(view.covered_hw, depth_hw, np.nan)
    sigma_hw = np.where(np.isfinite(depth_hw), sigma_hw, np.inf)
    return ReconstructedFrame(
        view.warp(frame.image()),
        transform(depth_map.T_map_cam, rays_hw3 * depth_hw[..., None]).astype(np.float32),
        (sigma_factor * sigma_hw).astype(np.float32),
    )
