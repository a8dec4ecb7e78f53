"""Poses of images by the keyframes of a map: of one camera, or of several on one rigid body."""

from collections.abc import Sequence
from copy import copy
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from mote_localization.camera import Camera
from mote_localization.keyframe_matcher import KeyframeMatcher, QueryImage, TrackingStep
from mote_localization.keyframe_search import KeyframeFeatures
from mote_localization.keyframes import Keyframe
from mote_localization.pose import find_pose
from mote_localization.pose_gates import LocalizerConfig
from mote_localization.rig_matches import CanonicalImage, Found, Matches


class Query(NamedTuple):
    """An image that is prepared for tracking into the keyframes."""

    image: QueryImage
    T_first_cam: np.ndarray  # (4, 4), pose of its camera in the first one


class KeyframePoses:
    """Refines rough poses with keyframes, and finds rough poses from their features."""

    def __init__(self, keyframes: tuple[Keyframe, ...], camera: Camera, stride: int) -> None:
        """Decode the keyframes.

        Args:
            keyframes: All keyframes of a map, one at least.
            camera: The canonical camera.
            stride: Pixels of the canonical image per cell side.
        """
        self._keyframes, self._camera = keyframes, camera
        self.matcher = KeyframeMatcher(keyframes, camera, stride)

    def without(self, removed: Sequence[int]) -> "KeyframePoses":
        """Return the same without some of the keyframes, see `KeyframeMatcher.without`."""
        other = copy(self)
        other.matcher = self.matcher.without(removed)
        return other

    def queries(self, images: Sequence[CanonicalImage]) -> list[Query]:
        """Return the images prepared for `refined`."""
        return [
            Query(self.matcher.query(image.grey_hw, image.covered_hw), image.T_first_cam)
            for image in images
        ]

    def surfaces(self, queries: Sequence[Query], T_map_cam: np.ndarray) -> list[np.ndarray]:
        """Return what each image shows (rows, columns, 3), see `KeyframeMatcher.surface`."""
        return [self.matcher.surface(T_map_cam @ query.T_first_cam) for query in queries]

    def similarity_near(
        self, query: Query, T_map_cam: np.ndarray, config: LocalizerConfig
    ) -> np.ndarray:
        """Return how similar an image is to what keyframes show near a pose of the first camera.

        The pose is refined first. See `KeyframeMatcher.similarity`.
        """
        surfaces, steps = self.surfaces([query], T_map_cam), (config.keyframes.tracked,)
        near = self.refined([query], surfaces, T_map_cam, steps, config, prior=T_map_cam).solution
        T_map_first = near.T_map_cam if near else T_map_cam
        T_map_query = T_map_first @ query.T_first_cam
        return self.matcher.similarity(query.image, T_map_query, config.keyframes)

    def refined(
        self,
        queries: Sequence[Query],
        surfaces: Sequence[np.ndarray],
        T_map_cam: np.ndarray,
        steps: Sequence[TrackingStep],
        config: LocalizerConfig,
        prior: np.ndarray | None = None,
    ) -> Found:
        """Return the pose refined from a rough pose, and its matches.

        The pose is None where the keyframes do not confirm it.

        Args:
            queries: The images, one at least.
            surfaces: What each shows (rows, columns, 3), m, map frame; only its depth is used.
            T_map_cam: The rough pose (4, 4) of the first camera.
            steps: One at least.
            config: Of the localizer.
            prior: A pose that the first step refines. None: RANSAC runs, because the rough pose
                may be near a wrong minimum.
        """
        near, camera = T_map_cam, self._camera
        local = [
            self.matcher.cell_points(points_hw3, near @ query.T_first_cam)
            for query, points_hw3 in zip(queries, surfaces, strict=True)
        ]
        for step in steps:
            matches = self._matches(queries, local, T_map_cam, near, step, config)
            if len(matches.points_n3) < config.keyframes.min_matches:
                break
            solver = replace(config.pose, inlier_px=step.inlier_px)
            if step is steps[-1]:
                return Found(matches.solve(camera, solver, prior), matches)
            T_found = matches.find(camera, solver, prior)
            if T_found is None:
                break
            T_map_cam = prior = T_found
        return Found(None, matches)

    def rough_pose(
        self, views: Sequence[KeyframeFeatures], config: LocalizerConfig
    ) -> np.ndarray | None:
        """Return the pose (4, 4) of the camera that shows features of keyframes, by RANSAC."""
        if sum(len(view.points_n3) for view in views) < config.keyframes.min_matches:
            return None
        points_n3 = np.concatenate([view.points_n3 for view in views])
        pixels_n2 = np.concatenate([view.pixels_n2 for view in views])
        eye = self._keyframes[views[0].keyframe].pose_44[:3, 3]
        sigma_n = config.keyframes.sigma * np.linalg.norm(points_n3 - eye, axis=1)
        solver = replace(config.pose, inlier_px=config.keyframes.steps[0].inlier_px)
        return find_pose(points_n3, pixels_n2, sigma_n, self._camera, solver)

    def _matches(
        self,
        queries: Sequence[Query],
        local: Sequence[np.ndarray],
        T_map_first: np.ndarray,
        near: np.ndarray,
        step: TrackingStep,
        config: LocalizerConfig,
    ) -> Matches:
        """Return the matches of all images with the keyframes rendered at a pose (4, 4).

        `local` are the surface points of the cells in the cameras' frames. The sigmas follow from
        the distances at the pose `near`.
        """
        found = []
        for query, points_n3 in zip(queries, local, strict=True):
            T_map_cam = T_map_first @ query.T_first_cam
            points, pixels = self.matcher.match(
                query.image, points_n3, T_map_cam, step, config.keyframes
            )
            eye = (near @ query.T_first_cam)[:3, 3]
            sigma = config.keyframes.sigma * np.linalg.norm(points - eye, axis=1)
            found.append((points, pixels, sigma))
        return Matches.joined(found, [query.T_first_cam for query in queries])
