"""Triangulates at given poses, and adjusts them so that images agree, without measured depth."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from distill_training.poses.frame_points import FramePoints
from distill_training.poses.gauge import Gauge
from distill_training.poses.image_pairs import overlapping_pairs
from distill_training.poses.poses_config import PairsConfig, SfmConfig
from distill_training.poses.sfm.feature_database import FeatureDatabase
from distill_training.poses.sfm.placed_images import PlacedImage, given_gauge, place_images
from distill_training.poses.sfm.sfm_folder import DATABASE, begin_sfm_folder, stored_model
from distill_training.poses.sfm.sfm_images import SfmImage, take_images
from distill_training.poses.sfm.sfm_model import Model
from mote_localization.errors import ReconstructionError
from mote_localization.geometry import invert, skew
from mote_localization.progress import busy
from mote_localization.scenes import Scene

_ROUNDS = 2  # better poses give better points
_SIGMA_M = 0.05  # m, of the given positions
_MIN_POINTS = 30  # that a frame must see
_MAX_DISTANCE = 0.02  # of matches at given poses that are adjusted, fraction of the image's width
_MIN_MATCHES = 50  # per frame, on average


@dataclass(frozen=True)
class AdjustedPoses:
    """Frames with poses, triangulated points and cameras."""

    placed: dict[str, PlacedImage]  # those that see enough points, in recording order
    given_px: float  # median distance of matches from epipolar lines at the given poses

    @property
    def points(self) -> dict[str, FramePoints]:
        """Triangulated points of each frame."""
        return {name: one.points for name, one in self.placed.items()}

    @property
    def T_map_cam(self) -> dict[str, np.ndarray]:
        """Adjusted pose (4, 4) of each frame."""
        return {name: one.T_map_cam for name, one in self.placed.items()}


def adjust_given_poses(
    scene: Scene,
    given: Mapping[str, np.ndarray],
    initial: Mapping[str, np.ndarray],
    folder: Path,
    config: SfmConfig,
    kept_px: float = 0.0,
) -> AdjustedPoses:
    """Return frames with adjusted poses, triangulated points and cameras.

    Points are triangulated from matching features at the initial poses, then poses and points are
    adjusted, with the given positions as priors; twice.

    Args:
        scene: Its training frames have intrinsics.
        given: T_map_cam (4, 4) of the training frames, in recording order.
        initial: Poses of the same frames to begin with, the given or better ones.
        folder: For intermediate files; an interrupted run resumes.
        config: Features and number of pairs.
        kept_px: Poses at which matches are nearer to their epipolar lines are not adjusted.

    Returns:
        The frames; those that see fewer than 30 points are missing.

    Raises:
        SceneError: A frame lacks intrinsics.
        ReconstructionError: Too few features match, they are apart by more than 2 % of the
            image's width at the given poses, or the disk is full.
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
    given_px = _epipolar_px(database, np.array([given[name] for name in names]), images)
    most_px = _MAX_DISTANCE * images[0].working.width
    if given_px > most_px:
        raise ReconstructionError(
            f"found matching features {given_px:.0f} px apart (median) at the given poses, "
            f"expected at most {most_px:.0f} px; check their convention "
            "(camera-to-map, camera axes x right, y down, z forward), or use --poses sfm"
        )
    positions_n3 = np.array([given[name][:3, 3] for name in names])
    rounds = 0 if given_px <= kept_px else _ROUNDS
    kind = "refined" if rounds else "triangulated"
    model = stored_model(
        folder,
        (kind, T_initial_n44.tolist(), positions_n3.tolist()),
        lambda: _adjusted(database.path, T_initial_n44, positions_n3, rounds),
    )
    gauge = given_gauge(model, images, given) if rounds else Gauge(1.0, np.eye(4))
    placed = place_images(model, gauge, images)
    return AdjustedPoses(
        {names[i]: one for i, one in placed.items() if len(one.points.depth_k) >= _MIN_POINTS},
        given_px,
    )


def _adjusted(
    database: Path, T_initial_n44: np.ndarray, positions_n3: np.ndarray, rounds: int
) -> Model:
    """Return the model triangulated at the initial poses and adjusted, this many times."""
    positions, poses = dict(enumerate(positions_n3)), dict(enumerate(T_initial_n44))
    with busy("adjust poses" if rounds else "triangulate"):
        model = Model.triangulated(database, poses, {})
        for number in range(rounds):
            if number:
                model = Model.triangulated(database, poses, {})
            model = model.adjusted(positions=positions, sigma=_SIGMA_M)
            poses = dict(zip(model.images.tolist(), model.T_model_cam_n44, strict=True))
    return model


def _epipolar_px(
    database: FeatureDatabase, T_map_cam_n44: np.ndarray, images: Sequence[SfmImage]
) -> float:
    """Return the median distance of verified matches from their epipolar lines at given poses.

    Sampson's distance (Hartley and Zisserman 2004, eq. 11.9), px of the working cameras.

    Raises:
        ReconstructionError: There are too few matches.
    """
    rays = [
        one.working.rays(pixels - 0.5)  # COLMAP's pixels begin at the corner of the image
        for one, pixels in zip(images, database.keypoints(), strict=True)
    ]
    distances = []
    for (i, j), matches_k2 in database.verified_matches().items():
        T_j_i = invert(T_map_cam_n44[j]) @ T_map_cam_n44[i]
        essential_33 = skew(T_j_i[:3, 3]) @ T_j_i[:3, :3]
        first_k3, second_k3 = rays[i][matches_k2[:, 0]], rays[j][matches_k2[:, 1]]
        line_second_k3, line_first_k3 = first_k3 @ essential_33.T, second_k3 @ essential_33
        size_k = np.hypot(
            np.linalg.norm(line_second_k3[:, :2], axis=1),
            np.linalg.norm(line_first_k3[:, :2], axis=1),
        )
        with np.errstate(divide="ignore", invalid="ignore"):  # cameras at one place
            distance_k = np.abs((second_k3 * line_second_k3).sum(axis=1)) / size_k
        distances.append(images[i].working.fx * distance_k[np.isfinite(distance_k)])
    if sum(map(len, distances)) < _MIN_MATCHES * len(images):
        raise ReconstructionError(
            "too few features of the images match at the given poses, expected overlapping images; "
            "check the poses, or use --poses sfm"
        )
    return float(np.median(np.concatenate(distances)))
