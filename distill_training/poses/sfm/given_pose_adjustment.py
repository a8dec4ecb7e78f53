"""Adjusts given poses so that the images agree: bundle adjustment without measured depth."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from distill_training.poses.image_pairs import overlapping_pairs
from distill_training.poses.poses_config import PairsConfig, SfmConfig
from distill_training.poses.sfm.feature_database import FeatureDatabase
from distill_training.poses.sfm.placed_images import PlacedImage, given_gauge, place_images
from distill_training.poses.sfm.sfm_folder import DATABASE, begin_sfm_folder, stored_model
from distill_training.poses.sfm.sfm_images import take_images
from distill_training.poses.sfm.sfm_model import Model
from mote_localization.progress import busy
from mote_localization.scenes import Scene

_ROUNDS = 2  # better poses give better points
_SIGMA_M = 0.05  # m, of the given positions
_MIN_POINTS = 30  # that a frame must see


def adjust_given_poses(
    scene: Scene,
    given: Mapping[str, np.ndarray],
    initial: Mapping[str, np.ndarray],
    folder: Path,
    config: SfmConfig,
) -> dict[str, PlacedImage]:
    """Return frames with adjusted poses, triangulated points and cameras.

    Points are triangulated from matching features at the initial poses, then poses and points are
    adjusted, with the given positions as priors; twice.

    Args:
        scene: Its training frames have intrinsics.
        given: T_map_cam (4, 4) of the training frames, in recording order.
        initial: Poses of the same frames to begin with, the given or better ones.
        folder: For intermediate files; an interrupted run resumes.
        config: Features and number of pairs.

    Returns:
        The frames in recording order; those that see fewer than 30 points are missing.

    Raises:
        SceneError: A frame lacks intrinsics.
        ReconstructionError: The disk is full.
    """
    images, _ = take_images(scene, "given", config.max_px)
    begin_sfm_folder(folder, images, config, scene.sequential)
    database = FeatureDatabase(folder / DATABASE, images, config)
    database.extract()
    names = [one.frame.name for one in images]
    T_initial_n44 = np.array([initial[name] for name in names])
    pairs = overlapping_pairs(
        T_initial_n44, [one.working for one in images], PairsConfig(per_image=config.per_image)
    )
    database.match(pairs)
    positions_n3 = np.array([given[name][:3, 3] for name in names])
    model = stored_model(
        folder,
        ("refined", T_initial_n44.tolist(), positions_n3.tolist()),
        lambda: _adjusted(database.path, T_initial_n44, positions_n3),
    )
    placed = place_images(model, given_gauge(model, images, given), images)
    return {names[i]: one for i, one in placed.items() if len(one.points.depth_k) >= _MIN_POINTS}


def _adjusted(database: Path, T_initial_n44: np.ndarray, positions_n3: np.ndarray) -> Model:
    positions, poses = dict(enumerate(positions_n3)), dict(enumerate(T_initial_n44))
    for _ in range(_ROUNDS):
        with busy("adjust poses"):
            model = Model.triangulated(database, poses, {})
            model = model.adjusted(positions=positions, sigma=_SIGMA_M)
        poses = dict(zip(model.images.tolist(), model.T_model_cam_n44, strict=True))
    return model
