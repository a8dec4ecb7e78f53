"""Joins parts of a recording, and images that are in none, by measured depth.

A feature with measured depth is a point. An image that matches such points of another part has a
pose relative to it (perspective-n-point), and so has its own part. A bundle adjustment with the
measured points follows.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pycolmap

from distill_training.poses.features import Matches
from distill_training.poses.image_pairs import Pair
from distill_training.poses.measured_depth import depth_at, readable_depth
from distill_training.poses.pose_adjustment import adjust_poses, residuals_px
from distill_training.poses.sfm.feature_database import FeatureDatabase
from mote_localization.camera import Camera
from mote_localization.geometry import invert, transform
from mote_localization.progress import track

Poses = dict[int, np.ndarray]  # number of an image -> T_cam (4, 4) in the frame of a group, m

_MAX_PNP_PX = 8.0  # of a match that places an image
# Of a match that joins two groups, which drift until they are adjusted together.
_MAX_JOIN_PX = 20.0
_MIN_IMAGE_MATCHES = 12  # with depth, that place an image
_MIN_JOIN_MATCHES = 15  # that join two groups
_MIN_AGREEING = 0.5  # fraction of the matches between two groups, and of an image's at the end
_MATCHES_PER_PAIR = 100  # in an adjustment


@dataclass(frozen=True)
class MeasuredFeatures:
    """Features of images with measured depth, and their matches."""

    rays: list[np.ndarray]  # of each image (n, 3), z = 1, camera frame
    depths: list[np.ndarray]  # of each image (n,), m, 0: not measured
    matches: dict[Pair, np.ndarray]  # (k, 2) features of the first and the second image
    focal_px: float  # that converts rays to pixels

    @classmethod
    def of(
        cls,
        database: FeatureDatabase,
        working: Sequence[pycolmap.Camera],
        live: Sequence[Camera],
    ) -> "MeasuredFeatures":
        """Return the features of a database's images.

        Args:
            database: Features and verified matches.
            working: The camera of each image's features, as given or as estimated.
            live: The camera of each image's depth.
        """
        rays, depths = [], []
        pixels = database.keypoints()
        for i, image in enumerate(track(database.images, "depth", len(database.images))):
            ray_n2 = working[i].cam_from_img(pixels[i]) if len(pixels[i]) else np.zeros((0, 2))
            rays.append(np.concatenate([ray_n2, np.ones_like(ray_n2[:, :1])], axis=1))
            depth_hw = readable_depth(image.frame)
            if depth_hw is None or not len(pixels[i]):
                depths.append(np.zeros(len(pixels[i])))
            else:
                depths.append(depth_at(depth_hw, live[i].project(rays[i])))
        focal_px = float(np.median([camera.mean_focal_length() for camera in working]))
        return cls(rays, depths, database.verified_matches(), focal_px)

    @cached_property
    def linked(self) -> dict[int, list[tuple[int, np.ndarray]]]:
        """Images that match an image, and the features (k, 2) of itself and of the other."""
        found = defaultdict(list)
        for (i, j), pairs_k2 in self.matches.items():
            found[i].append((j, pairs_k2))
            found[j].append((i, pairs_k2[:, ::-1]))
        return dict(found)

    def points(self, image: int, features_k: np.ndarray) -> np.ndarray:
        """Return the points (k, 3) of features that have depth, m, camera frame."""
        return self.rays[image][features_k] * self.depths[image][features_k, None]

    def between(self, images: Sequence[int]) -> Matches:
        """Return matches between some images, in both directions; at most 100 of a pair."""
        position = {image: n for n, image in enumerate(images)}
        rng = np.random.default_rng(0)
        measured, points, seen, rays = [], [], [], []
        for (i, j), pairs_k2 in self.matches.items():
            if i not in position or j not in position:
                continue
            some_k2 = rng.permutation(pairs_k2)[:_MATCHES_PER_PAIR]
            for one, other, matched_k2 in ((i, j, some_k2), (j, i, some_k2[:, ::-1])):
                own_m, other_m = matched_k2[self.depths[one][matched_k2[:, 0]] > 0].T
                measured.append(np.full(len(own_m), position[one]))
                points.append(self.points(one, own_m))
                seen.append(np.full(len(own_m), position[other]))
                rays.append(self.rays[other][other_m])
        none, no_points = np.zeros(0, int), np.zeros((0, 3))
        return Matches(
            np.concatenate([none, *measured]),
            np.concatenate([no_points, *points]),
            np.concatenate([none, *seen]),
            np.concatenate([no_points, *rays]),
        )


def join_by_depth(features: MeasuredFeatures, groups: Sequence[Poses]) -> Poses:
    """Return the poses of all images that can be placed relative to the first group.

    The group with the most matches is joined first. A group is placed by that of its images whose
    pose, found by RANSAC, agrees with the most matches between the two groups.

    Args:
        features: Features, depths and matches of all images.
        groups: Parts with their poses in metres, each in a frame of its own, and single images.
            The first fixes the frame.

    Returns:
        The adjusted poses, in the frame of the first group. Images that disagree with half of their
        matches are left out.
    """
    adjusted = [_adjusted(features, group) if len(group) > 1 else group for group in groups]
    united, waiting = adjusted[0], dict(enumerate(adjusted[1:]))
    found = {k: _placement(features, group, united) for k, group in waiting.items()}
    while placements := {k: one for k, one in found.items() if one}:
        k = max(placements, key=lambda k: placements[k].agreeing)
        group = waiting.pop(k)
        del found[k]
        united |= {i: placements[k].T_united_group @ T for i, T in group.items()}
        if len(group) > 1:
            united = _adjusted(features, united)
        for other, poses in waiting.items():
            if any(j in group for i in poses for j, _ in features.linked.get(i, ())):
                found[other] = _placement(features, poses, united)
    images, result, agreeing_n = _adjustment(features, united)
    return {
        i: T
        for i, T, agreeing in zip(images, result, agreeing_n, strict=True)
        if i in groups[0] or agreeing > _MIN_AGREEING
    }


@dataclass(frozen=True)
class _Placement:
    agreeing: int  # matches
    T_united_group: np.ndarray  # (4, 4), m


def _placement(features: MeasuredFeatures, group: Poses, united: Poses) -> _Placement | None:
    """Return the transform of a group that most matches agree with; None where too few do."""
    pairs = [
        (i, j, kept_k2)
        for i in group
        for j, pairs_k2 in features.linked.get(i, ())
        if j in united and len(kept_k2 := pairs_k2[features.depths[j][pairs_k2[:, 1]] > 0])
    ]
    if not pairs:
        return None
    seen = {image: n for n, image in enumerate(group)}
    seen_m = np.concatenate([np.full(len(k2), seen[i]) for i, _, k2 in pairs])
    rays_m3 = np.concatenate([features.rays[i][k2[:, 0]] for i, _, k2 in pairs])
    points_m3 = np.concatenate(
        [transform(united[j], features.points(j, k2[:, 1])) for _, j, k2 in pairs]
    )
    if len(seen_m) < _MIN_JOIN_MATCHES:
        return None
    T_group_n44 = np.array(list(group.values()))
    best = None
    for n in np.unique(seen_m):
        own = seen_m == n
        T_united_cam = _pnp(rays_m3[own], points_m3[own], features.focal_px)
        if T_united_cam is None:
            continue
        T_united_group = T_united_cam @ invert(T_group_n44[n])
        T_cam_united = np.linalg.inv(T_united_group @ T_group_n44)[seen_m]
        in_camera_m3 = (T_cam_united[:, :3, :3] @ points_m3[..., None])[..., 0]
        in_camera_m3 += T_cam_united[:, :3, 3]
        residuals_m2 = residuals_px(in_camera_m3, rays_m3, features.focal_px)
        agreeing = int((np.linalg.norm(residuals_m2, axis=1) < _MAX_JOIN_PX).sum())
        if best is None or agreeing > best.agreeing:
            best = _Placement(agreeing, T_united_group)
    least = max(_MIN_JOIN_MATCHES, _MIN_AGREEING * len(seen_m))
    return best if best and best.agreeing >= least else None


def _pnp(rays_k3: np.ndarray, points_k3: np.ndarray, focal_px: float) -> np.ndarray | None:
    """Return the pose (4, 4) of the camera that sees points at rays, None where there is none."""
    if len(points_k3) < _MIN_IMAGE_MATCHES:
        return None
    options = pycolmap.AbsolutePoseEstimationOptions()
    options.ransac.max_error, options.ransac.random_seed = _MAX_PNP_PX, 0
    camera = pycolmap.Camera(model="SIMPLE_PINHOLE", width=1, height=1, params=(focal_px, 0.0, 0.0))
    found = pycolmap.estimate_and_refine_absolute_pose(
        focal_px * rays_k3[:, :2], points_k3, camera, options
    )
    if found is None:
        return None
    return np.vstack([found["cam_from_world"].inverse().matrix(), (0, 0, 0, 1)])


def _adjusted(features: MeasuredFeatures, poses: Poses) -> Poses:
    """Return poses with which the measured points agree best."""
    images, T_n44, _ = _adjustment(features, poses)
    return dict(zip(images, T_n44, strict=True))


def _adjustment(
    features: MeasuredFeatures, poses: Poses
) -> tuple[list[int], np.ndarray, np.ndarray]:
    """Return images, their adjusted poses (n, 4, 4), and what fraction (n,) of matches agrees."""
    images = sorted(poses)
    matches = features.between(images)
    adjusted = adjust_poses(np.array([poses[i] for i in images]), matches, features.focal_px)
    count_n = np.bincount(matches.seen_m, minlength=len(images))
    return images, adjusted.T_map_cam_n44, adjusted.matches_n / count_n.clip(min=1)
