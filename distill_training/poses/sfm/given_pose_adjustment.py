"""Adjusts given poses so that the images agree: bundle adjustment without measured depth."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from distill_training.common.sampling import thinned
from distill_training.poses.gauge import Gauge
from distill_training.poses.image_pairs import overlapping_pairs
from distill_training.poses.poses_config import PairsConfig, SfmConfig
from distill_training.poses.sfm.feature_database import FeatureDatabase
from distill_training.poses.sfm.placed_images import PlacedImage, place_images
from distill_training.poses.sfm.sfm_folder import DATABASE, begin_sfm_folder, stored_model
from distill_training.poses.sfm.sfm_images import take_images
from distill_training.poses.sfm.sfm_model import Model
from mote_localization.progress import busy
from mote_localization.scenes import Scene

_MAX_FRAMES = 400  # that are adjusted
_ROUNDS = 2  # better poses give better points
_SIGMA_M = 0.05  # m, of the given positions
_MIN_POINTS = 30  # that a frame must see


def adjust_given_poses(
    scene: Scene, given: Mapping[str, np.ndarray], folder: Path, config: SfmConfig
) -> dict[str, PlacedImage]:
    """Return frames with adjusted poses, triangulated points and cameras.

    Points are triangulated from matching features at the given poses, then poses and points are
    adjusted, with the given positions as priors; twice.

    Args:
        scene: Its training frames have intrinsics.
        given: T_map_cam (4, 4) of training frames, in recording order.
        folder: For intermediate files; an interrupted run resumes.
        config: Features and number of pairs.

    Returns:
        At most 400 frames, evenly spread; those that see fewer than 30 points are missing.

    Raises:
        SceneError: A frame lacks intrinsics.
        ReconstructionError: The disk is full.
    """
    chosen = set(thinned(list(given), _MAX_FRAMES))
    taken, _ = take_images(scene, "given", config.max_px)
    images = [one for one in taken if one.frame.name in chosen]
    begin_sfm_folder(folder, images, config, scene.sequential)
    database = FeatureDatabase(folder / DATABASE, images, config)
    database.extract()
    T_given_n44 = np.array([given[one.frame.name] for one in images])
    pairs = overlapping_pairs(
        T_given_n44, [one.working for one in images], PairsConfig(per_image=config.per_image)
    )
    database.match(pairs)
    by_number = dict(enumerate(T_given_n44))
    model = stored_model(folder, by_number, lambda: _adjusted(database.path, by_number))
    seen_n = np.bincount(model.image_k, minlength=len(model.images))
    placed = place_images(model, Gauge(1.0, np.eye(4)), images)
    return {
        images[i].frame.name: placed[i]
        for i, count in zip(model.images.tolist(), seen_n, strict=True)
        if count >= _MIN_POINTS
    }


def _adjusted(database: Path, given: Mapping[int, np.ndarray]) -> Model:
    positions = {i: T[:3, 3] for i, T in given.items()}
    poses = dict(given)
    for _ in range(_ROUNDS):
        with busy("adjust poses"):
            model = Model.triangulated(database, poses, {})
            model = model.adjusted(positions=positions, sigma=_SIGMA_M)
        poses = dict(zip(model.images.tolist(), model.T_model_cam_n44, strict=True))
    return model
