"""Localizes live images: a pose with covariance, or the reason why there is none."""

import itertools
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from copy import copy
from dataclasses import dataclass, replace
from enum import Enum
from functools import lru_cache
from pathlib import Path
from threading import Event, Thread
from typing import NamedTuple

import cv2
import numpy as np

from mote_localization.backends import Backend, create_backend
from mote_localization.camera import Camera, CanonicalView, cell_pixels
from mote_localization.drift import Kriging
from mote_localization.geometry import invert, is_explained, local_coordinates, transform
from mote_localization.image_features import ImageFeatures, image_features
from mote_localization.keyframe_poses import KeyframePoses, Query
from mote_localization.keyframe_search import (
    DescribedKeyframe,
    KeyframeFeatures,
    KeyframeSearch,
    SearchCancelled,
    forget_searches,
    search_of,
)
from mote_localization.map_file import MapFile, MapInfo, read_map
from mote_localization.pose import PoseSolution
from mote_localization.pose_gates import LocalizerConfig
from mote_localization.rig_matches import CanonicalImage, Found, Matches
from mote_localization.wrong_poses import pose_features

_SAMPLED_CELLS = 7  # every 7th cell counts where the student's points are compared with a pose
MAX_VIEWS = 16  # cameras whose remap tables are kept
_MAX_SURFACE_CELLS = 2.0  # sides of a cell by which a student's point may project beside its cell


class Status(Enum):
    """Whether a frame has a pose."""

    LOCALIZED = "localized"
    LOST = "lost"


class RigSurface(NamedTuple):
    """What another camera of the same rigid body showed."""

    points_hw3: np.ndarray  # m, map frame
    T_first_cam: np.ndarray  # (4, 4), its pose in the first camera


class Tracking(NamedTuple):
    """What a localized image gives to the localization of the camera's next image."""

    T_map_cam: np.ndarray  # (4, 4), before the correction for drift
    points_hw3: np.ndarray  # m, map frame: what the image showed, before that correction
    others: tuple[RigSurface, ...] = ()  # the same of the rig's other cameras
    submap: int = 0  # index, in a bundle
    # localize without it, because it may be wrong; in a bundle, it still chooses the place
    verify: bool = False


class RigImage(NamedTuple):
    """What another camera of the same rigid body saw at the same moment."""

    image_hw3: np.ndarray  # RGB uint8, the camera's size
    camera: Camera
    T_first_cam: np.ndarray  # (4, 4), its pose in the first camera
    name: str = "another camera"  # in reasons


@dataclass(frozen=True)
class Localization:
    """The result for one image."""

    status: Status
    reason: str  # why it is lost; empty when localized
    T_map_cam: np.ndarray | None  # (4, 4); None when lost
    covariance_66: np.ndarray | None  # x y z rotX rotY rotZ in the map frame; None when lost
    tracking: Tracking | None  # for the next image of this camera; None when lost
    contradicted: bool  # several cameras contradict each other: the poses before may be wrong, too
    inliers: int  # matches that agree with the best pose
    cells: int  # matches given to the pose solver: cells, or points of the keyframes
    reprojection_px: float  # median error of the inliers, canonical pixels; NaN without a pose
    keyframe_distance: float  # m, to the nearest keyframe; 0 without a pose or keyframes
    # m, map frame; without the correction for drift if the image is lost, which needs a pose
    points_hw3: np.ndarray
    sigma_hw: np.ndarray  # m
    covered_hw: np.ndarray  # bool: the live camera sees this cell
    image_hw3: np.ndarray  # RGB uint8, canonical camera
    pixels_n2: np.ndarray  # of its matches
    match_points_n3: np.ndarray  # m, map frame, before the correction for drift: of its matches
    match_sigma_n: np.ndarray  # m
    agree_n: np.ndarray  # bool: which of them agree with the best pose
    # remap; network, with the tracking that runs beside it; pose: the rest
    seconds: dict[str, float]
    search_s: float  # of these, for the search in the keyframes; 0 without one
    ambiguous: bool = False  # several places of a bundle explain the image, so it is lost


class _Prepared(NamedTuple):
    """A canonical image with what the student predicts for it."""

    canonical: CanonicalImage
    points_hw3: np.ndarray  # m, map frame
    sigma_hw: np.ndarray  # m


class _Checked(NamedTuple):
    """A pose, in the map's and in the given frame, and the gate that rejects it."""

    found: Found
    given: PoseSolution | None
    reason: str  # empty if it passes all gates
    keyframe_distance: float  # m, see `Localization`
    contradicted: bool = False  # by one of several cameras
    search_s: float = 0.0  # see `Localization`


class Localizer:
    """Localizes images in one map. Its only state between images are the remap tables.

    What one image gives to the next is a value, `Localization.tracking`, one for each camera.
    """

    def __init__(
        self,
        map_file: MapFile,
        backend: Backend,
        config: LocalizerConfig = LocalizerConfig(),  # noqa: B008 (frozen)
    ) -> None:
        """Combine a map, a backend that runs it, and the configuration."""
        self.info = map_file.info
        self.config = config
        self._backend = backend
        self._search: KeyframeSearch | None = None  # computed when it is needed first
        self._preparing: Thread | None = None  # computes the features of the keyframes
        self._closing = Event()
        self._worker = ThreadPoolExecutor(1, "mote_keyframes")  # tracks while the network runs
        camera, stride = self.info.camera, self.info.stride
        self._view = lru_cache(MAX_VIEWS)(lambda live: CanonicalView(live, camera, stride))
        self._pixels_n2 = cell_pixels(camera.width, camera.height, stride).reshape(-1, 2)
        self._drift = Kriging(self.info.drift) if self.info.drift else None
        self._keyframes = (
            KeyframePoses(self.info.keyframes, camera, stride) if self.info.keyframes else None
        )

    @classmethod
    def open(
        cls,
        map_path: Path | str,
        backend: str = "onnxruntime",
        threads: int = 0,
        config: LocalizerConfig = LocalizerConfig(),  # noqa: B008 (frozen)
    ) -> "Localizer":
        """Read a map and load it into a backend.

        Raises:
            MapFileError: The map cannot be used.
            BackendError: The backend cannot run it.
        """
        map_file = read_map(map_path)
        return cls(map_file, create_backend(map_file, backend, threads), config)

    def map_infos(self) -> Iterator[MapInfo]:
        """Yield the description of the map; that of a bundle has several."""
        yield self.info

    def close(self) -> None:
        """End the threads; the localizer cannot be used afterwards."""
        self._closing.set()
        if self._preparing:
            self._preparing.join()
        self._worker.shutdown()
        forget_searches()

    def warm_up(self) -> None:
        """Run the network once, so that the first image takes as long as the others.

        Raises:
            BackendError: It cannot run.
        """
        camera = self.info.camera
        self._backend.predict(np.zeros((camera.height, camera.width, 3), np.uint8))

    def prepare_search(self) -> None:
        """Compute the features of the keyframes in a background thread.

        Lost images are not searched in the keyframes before it has finished. Without this call, the
        first search takes seconds.
        """
        if self._keyframes and self.config.keyframes.searched:
            self._preparing = Thread(target=self._prepare_search, daemon=True)
            self._preparing.start()

    def _prepare_search(self) -> None:
        with suppress(SearchCancelled):
            self._searched()

    def _searched(self) -> KeyframeSearch:
        """Return the search in the keyframes; `SearchCancelled` if the localizer closes."""
        if self._search is None:
            info, closing = self.info, self._closing.is_set
            self._search = search_of(info.keyframes, info.camera, info.stride, closing)
        return self._search

    @property
    def keyframe_count(self) -> int:
        """Number of keyframes of the map."""
        return len(self.info.keyframes)

    @property
    def uses_keyframes(self) -> bool:
        """Whether the points of its matches are those of keyframes."""
        return self._keyframes is not None

    def keyframe_distances(self, T_map_cam: np.ndarray) -> np.ndarray:
        """Return the distance (k,) of a camera from each keyframe, m; empty without keyframes.

        See `KeyframeMatcher.distances`.
        """
        return self._keyframes.matcher.distances(T_map_cam) if self._keyframes else np.zeros(0)

    def without_keyframes(self, removed: Sequence[int]) -> "Localizer":
        """Return a localizer of the same map that does not use some of its keyframes.

        It does not search lost images in the other keyframes.

        Args:
            removed: Indices of keyframes in `info.keyframes`; not all of them.
        """
        if self._keyframes is None:
            raise ValueError("the map has no keyframes")
        other = copy(self)
        other._keyframes = self._keyframes.without(removed)
        other.config = replace(self.config, keyframes=replace(self.config.keyframes, searched=0))
        return other

    def student_alone(self) -> "Localizer":
        """Return a localizer of the same map that uses none of its keyframes."""
        other = copy(self)
        other._keyframes = None
        return other

    def tracking_at(self, T_map_cam: np.ndarray) -> Tracking:
        """Return what `localize` tracks from where a camera may be, such as a pose given by a user.

        Args:
            T_map_cam: The camera's pose (4, 4).
        """
        if self._keyframes:
            return Tracking(T_map_cam, self._keyframes.matcher.surface(T_map_cam))
        return Tracking(T_map_cam, np.full((*self.info.cells_hw, 3), np.nan))

    def check_image(self, image_hw3: np.ndarray, camera: Camera) -> None:
        """Check that `localize` can use an image.

        Raises:
            ImageError: The image does not have the camera's size.
            CameraError: The camera's view does not overlap with that of the map's camera.
        """
        self._view(camera).check(image_hw3)

    def localize(
        self,
        image_hw3: np.ndarray,
        camera: Camera,
        tracking: Tracking | None = None,
        others: Sequence[RigImage] = (),
        search: bool = True,
    ) -> Localization:
        """Return the pose at which an image was taken, or why it is lost.

        Args:
            image_hw3: RGB uint8, the camera's size.
            camera: The camera that took the image, distorted or not.
            tracking: `Localization.tracking` of the camera's last image. It saves time if the
                camera moved little; where it gives no accepted pose, it is ignored. A wrong pose
                may persist: omit it from time to time, or set its `verify`.
            others: What other cameras on the same rigid body saw at the same moment. They help to
                find the pose of the first; the points of the result are those of the first image.
            search: Search a lost image in the keyframes, which takes several times as long as the
                rest; see `LocalizerConfig.keyframes`.

        Raises:
            ImageError: An image does not have its camera's size.
            CameraError: A camera's view does not overlap with that of the map's camera.
        """
        started = time.perf_counter()
        tracking = None if tracking and tracking.verify else tracking
        rig = [RigImage(image_hw3, camera, np.eye(4), "the first camera"), *others]
        views = [self._view(one.camera) for one in rig]
        canonical = [view.warp(one.image_hw3) for view, one in zip(views, rig, strict=True)]
        remapped = time.perf_counter()
        images = [
            CanonicalImage(
                cv2.cvtColor(image, cv2.COLOR_RGB2GRAY),
                view.covered_hw,
                one.T_first_cam,
                one.name,
            )
            for image, view, one in zip(canonical, views, rig, strict=True)
        ]
        pending = None
        if self._keyframes:  # the worker tracks while the network runs
            pending = self._worker.submit(self._tracked_pose, self._keyframes, images, tracking)
        predictions = [self._backend.predict(one) for one in canonical]
        predicted = time.perf_counter()
        prepared = [
            _Prepared(image, *prediction)
            for image, prediction in zip(images, predictions, strict=True)
        ]
        queries, tracked = pending.result() if pending else ([], None)
        checked = tracked or self._find_pose(prepared, queries, tracking, search)
        found, given, reason = checked.found, checked.given, checked.reason
        solution, accepted = found.solution, given if not reason else None
        points_hw3, sigma_hw = predictions[0]
        if self._drift and solution and accepted:
            T_given_map = accepted.T_map_cam @ invert(solution.T_map_cam)
            points_hw3 = transform(T_given_map, points_hw3).astype(np.float32)
        following = None
        if accepted and solution:
            surface, *others_surfaces = (
                RigSurface(self._surface(one, solution.T_map_cam), one.canonical.T_first_cam)
                for one in prepared
            )
            following = Tracking(solution.T_map_cam, surface.points_hw3, tuple(others_surfaces))
        first = found.matches.of_first
        pixels_n2 = found.matches.pixels_n2[first]
        solved = time.perf_counter()
        return Localization(
            status=Status.LOCALIZED if accepted else Status.LOST,
            reason=reason,
            T_map_cam=accepted.T_map_cam if accepted else None,
            covariance_66=accepted.covariance_66 if accepted else None,
            tracking=following,
            contradicted=checked.contradicted,
            inliers=int(given.inliers_n.sum()) if given else 0,
            cells=len(found.matches.points_n3),
            reprojection_px=given.reprojection_px if given else float("nan"),
            keyframe_distance=checked.keyframe_distance,
            points_hw3=points_hw3,
            sigma_hw=sigma_hw,
            covered_hw=views[0].covered_hw,
            image_hw3=canonical[0],
            pixels_n2=pixels_n2,
            match_points_n3=found.matches.points_n3[first],
            match_sigma_n=found.matches.sigma_n[first],
            agree_n=given.inliers_n[first] if given else np.zeros(len(pixels_n2), bool),
            seconds={
                "remap": remapped - started,
                "network": predicted - remapped,
                "pose": solved - predicted,
            },
            search_s=checked.search_s,
        )

    def pose_by_keyframes(
        self,
        image_hw3: np.ndarray,
        camera: Camera,
        features: ImageFeatures,
        described: Mapping[int, DescribedKeyframe],
    ) -> PoseSolution | None:
        """Return the accepted pose at which some of the keyframes show an image, if there is one.

        The student is not used.

        Args:
            image_hw3: RGB uint8, the camera's size.
            camera: The camera that took the image.
            features: Of the canonical image.
            described: Features of these keyframes, one at least, by their index in
                `info.keyframes`.

        Raises:
            ImageError: The image does not have the camera's size.
            CameraError: The camera's view does not overlap with that of the map's camera.
        """
        keyframes, query = self._keyframe_query(image_hw3, camera)
        numbers = list(described)
        found = KeyframeSearch(list(described.values())).find(features, len(numbers))
        views = [one._replace(keyframe=numbers[one.keyframe]) for one in found]
        checked = self._pose_of_views(keyframes, views, query)
        return checked.given if checked else None

    def similarity_near(
        self, image_hw3: np.ndarray, camera: Camera, T_map_cam: np.ndarray
    ) -> np.ndarray:
        """Return how similar an image is to what the keyframes show near a pose.

        Args:
            image_hw3: RGB uint8, the camera's size.
            camera: The camera that took the image.
            T_map_cam: The camera's pose (4, 4).

        Returns:
            Correlation (rows, columns), see `KeyframeMatcher.similarity`.

        Raises:
            ImageError: The image does not have the camera's size.
            CameraError: The camera's view does not overlap with that of the map's camera.
        """
        keyframes, query = self._keyframe_query(image_hw3, camera)
        return keyframes.similarity_near(query, T_map_cam, self.config)

    def _keyframe_query(self, image_hw3: np.ndarray, camera: Camera) -> tuple[KeyframePoses, Query]:
        """Return the keyframes, and an image prepared for them."""
        if self._keyframes is None:
            raise ValueError("the map has no keyframes")
        view = self._view(camera)
        grey_hw = cv2.cvtColor(view.warp(image_hw3), cv2.COLOR_RGB2GRAY)
        image = CanonicalImage(grey_hw, view.covered_hw, np.eye(4), "the camera")
        return self._keyframes, self._keyframes.queries([image])[0]

    def _tracked_pose(
        self, keyframes: KeyframePoses, images: Sequence[CanonicalImage], tracking: Tracking | None
    ) -> tuple[list[Query], _Checked | None]:
        """Return the prepared images, and their pose near the last one if it is accepted."""
        queries = keyframes.queries(images)
        if not tracking:
            return queries, None
        last = tracking.T_map_cam
        surfaces = [tracking.points_hw3, *(one.points_hw3 for one in tracking.others)]
        cameras = [query.T_first_cam for query in queries[1:]]
        if not np.array_equal(cameras, [one.T_first_cam for one in tracking.others]):
            surfaces = keyframes.surfaces(queries, last)  # other cameras than last time
        steps = (self.config.keyframes.tracked,)
        tracked = self._checked(
            keyframes.refined(queries, surfaces, last, steps, self.config, prior=last)
        )
        return queries, tracked if self._is_tracked(tracked) else None

    def _surface(self, image: _Prepared, T_map_first: np.ndarray) -> np.ndarray:
        """Return the points (rows, columns, 3) that an image of this pose shows, m, map frame.

        Those of the student, or, where they disagree with the pose, those of the keyframes.
        """
        if not self._keyframes:
            return image.points_hw3
        T_map_cam = T_map_first @ image.canonical.T_first_cam
        cells_n = np.flatnonzero(image.canonical.covered_hw)[::_SAMPLED_CELLS]
        points_n3 = image.points_hw3.reshape(-1, 3)[cells_n]
        finite_n = np.isfinite(points_n3).all(axis=1)
        local_m3 = transform(invert(T_map_cam), points_n3[finite_n])
        ahead_m = local_m3[:, 2] > 0
        pixels_m2 = self._pixels_n2[cells_n[finite_n][ahead_m]]
        shift_m2 = self.info.camera.project(local_m3[ahead_m]) - pixels_m2
        near_m = np.linalg.norm(shift_m2, axis=1) < _MAX_SURFACE_CELLS * self.info.stride
        if 2 * np.count_nonzero(near_m) >= len(cells_n):
            return image.points_hw3
        return self._keyframes.matcher.surface(T_map_cam)

    def _find_pose(
        self,
        images: Sequence[_Prepared],
        queries: Sequence[Query],
        tracking: Tracking | None,
        search: bool,
    ) -> _Checked:
        """Return the first accepted pose: of the student, or searched in the keyframes.

        Without keyframes, the student's pose is tracked from the last one first. Where none is
        accepted, the student's is returned.
        """
        if tracking and not self._keyframes:
            tracked = self._checked(self._student_pose(images, tracking.T_map_cam))
            if self._is_tracked(tracked):
                return tracked
        first = self._checked(self._first_pose(images, queries))
        if len(images) > 1:
            first = self._compared(first, images, queries)
        ready = not (self._preparing and self._preparing.is_alive())
        searches = search and self.config.keyframes.searched and ready
        if not (first.reason and not first.contradicted and self._keyframes and searches):
            return first
        started = time.perf_counter()
        found = first
        for image, query in zip(images, queries, strict=True):
            searched = self._searched_pose(self._keyframes, image, query)
            if searched:
                found = self._joined([searched], images, queries) or searched
                break
        return found._replace(search_s=time.perf_counter() - started)

    def _compared(
        self, first: _Checked, images: Sequence[_Prepared], queries: Sequence[Query]
    ) -> _Checked:
        """Return the pose of several cameras, after it was compared with that of each alone.

        Where all together give no accepted pose, it is refined from that of one.
        """
        alone = [
            self._checked(self._first_pose([image], queries[i : i + 1]))
            for i, image in enumerate(images)
        ]
        if first.reason:
            accepted = [one for one in alone if not one.reason]
            first = self._joined(accepted, images, queries) or first
        if first.reason:
            return first
        names = [image.canonical.name for image in images]
        reason = self._disagreement(first, zip(names, alone, strict=True))
        return first._replace(reason=reason, contradicted=bool(reason))

    def _joined(
        self, alone: Sequence[_Checked], images: Sequence[_Prepared], queries: Sequence[Query]
    ) -> _Checked | None:
        """Return the pose of all cameras near an accepted one of a camera alone, or that one."""
        joint: Iterable[_Checked] = ()
        if len(images) > 1:
            joint = (self._checked(self._refined(images, queries, _pose_of(one))) for one in alone)
        return next((one for one in itertools.chain(joint, alone) if not one.reason), None)

    def _refined(
        self, images: Sequence[_Prepared], queries: Sequence[Query], T_map_cam: np.ndarray
    ) -> Found:
        """Return the pose near another one."""
        if not self._keyframes:
            return self._student_pose(images, T_map_cam)
        surfaces = self._keyframes.surfaces(queries, T_map_cam)
        steps = self.config.keyframes.steps
        return self._keyframes.refined(queries, surfaces, T_map_cam, steps, self.config)

    def _is_tracked(self, tracked: _Checked) -> bool:
        """Return whether a pose passes the gates, and agrees with that of each camera alone."""
        if tracked.reason or not tracked.found.matches.rig:
            return not tracked.reason
        T_map_cam, solver = _pose_of(tracked), self.config.pose
        if self._keyframes:
            solver = replace(solver, inlier_px=self.config.keyframes.tracked.inlier_px)
        alone = (
            ("", self._checked(Found(one.solve(self.info.camera, solver, T_map_cam), one)))
            for one in tracked.found.matches.of_each_camera()
        )
        return not self._disagreement(tracked, alone)

    def _disagreement(self, checked: _Checked, alone: Iterable[tuple[str, _Checked]]) -> str:
        """Return which camera alone has another accepted pose than all; empty: none.

        Args:
            checked: The pose of all.
            alone: Names of the cameras, and the pose of the first camera by each alone.
        """
        for name, other in alone:
            if other.reason or other.given is None or checked.given is None:
                continue
            error_6 = local_coordinates(_pose_of(checked), _pose_of(other))
            covariance_66 = other.given.covariance_66 + checked.given.covariance_66
            if not is_explained(error_6, covariance_66):
                return (
                    f"{name} alone has a pose {np.linalg.norm(error_6[:3]):.2f} "
                    f"{self.info.unit} and {np.degrees(np.linalg.norm(error_6[3:])):.1f} deg from "
                    "that of all cameras: check the transforms between them"
                )
        return ""

    def _checked(self, found: Found) -> _Checked:
        matches, given, distance = found.matches, None, 0.0
        if found.solution:
            distance = self._keyframe_distance(found.solution, matches)
            given = self._in_given_frame(found.solution, distance)
        by_keyframes = self._keyframes is not None
        reason = self.config.rejection_reason(
            given, matches.pixels_n2, matches.image_n, self.info, by_keyframes
        )
        wrong_poses = self.info.wrong_poses
        if not reason and found.solution and wrong_poses and not by_keyframes:
            inliers = int(found.solution.inliers_n.sum())
            features_4 = pose_features(
                found.solution.covariance_66, matches.sigma_n, inliers, max(1, len(matches.rig))
            )
            reason = self.config.wrong_pose_reason(wrong_poses, features_4)
        return _Checked(found, given, reason, distance)

    def _first_pose(self, images: Sequence[_Prepared], queries: Sequence[Query]) -> Found:
        """Return the pose of the student's points, refined with the keyframes if there are any."""
        if not self._keyframes:
            return self._student_pose(images)
        cells, config = self._chosen_cells(images), self.config
        T_map_cam = cells.find(self.info.camera, config.pose)
        if T_map_cam is None:
            return Found(None, cells)
        surfaces = [image.points_hw3 for image in images]
        return self._keyframes.refined(queries, surfaces, T_map_cam, config.keyframes.steps, config)

    def _student_pose(self, images: Sequence[_Prepared], prior: np.ndarray | None = None) -> Found:
        cells = self._chosen_cells(images)
        return Found(cells.solve(self.info.camera, self.config.pose, prior), cells)

    def _searched_pose(
        self, keyframes: KeyframePoses, image: _Prepared, query: Query
    ) -> _Checked | None:
        """Return the accepted pose at which the keyframes show an image; None if there is none.

        The student is not used.
        """
        features = image_features(image.canonical.grey_hw)
        views = self._searched().find(features, self.config.keyframes.searched)
        return self._pose_of_views(keyframes, views, query)

    def _pose_of_views(
        self, keyframes: KeyframePoses, views: Sequence[KeyframeFeatures], query: Query
    ) -> _Checked | None:
        """Return the accepted pose of an image that shows features of keyframes, if there is one.

        RANSAC takes the matches with all of them, then those with each alone, because wrong ones
        among them can hide the right one.
        """
        for chosen in (views, *([view] for view in views)):
            rough = keyframes.rough_pose(chosen, self.config)
            if rough is None:
                continue
            T_map_first = rough @ invert(query.T_first_cam)
            surfaces = keyframes.surfaces([query], T_map_first)
            steps = self.config.keyframes.steps
            found = keyframes.refined([query], surfaces, T_map_first, steps, self.config)
            checked = self._checked(found)
            if not checked.reason:
                return checked
        return None

    def _in_given_frame(self, solution: PoseSolution, keyframe_distance: float) -> PoseSolution:
        """Return a pose in the frame of the given poses, with its calibrated covariance."""
        T_map_cam, covariance_66 = solution.T_map_cam, solution.covariance_66
        if self._drift:
            T_map_cam, drift_66 = self._drift.predict(T_map_cam)
            covariance_66 = covariance_66 + drift_66
        covariance_66 = self.info.pose_calibration.calibrated(covariance_66, keyframe_distance)
        covariance_66 = covariance_66 + solution.rig_covariance_66
        return replace(solution, T_map_cam=T_map_cam, covariance_66=covariance_66)

    def _keyframe_distance(self, solution: PoseSolution, matches: Matches) -> float:
        """Return the distance of the nearest keyframe from a camera whose matches agree."""
        seen = np.bincount(matches.image_n, solution.inliers_n) > 0
        cameras = [view.T_first_cam for view in matches.rig] or [np.eye(4)]
        distances = [
            self.keyframe_distances(solution.T_map_cam @ T_first_cam)
            for T_first_cam in itertools.compress(cameras, seen)
        ]
        return float(np.min(distances)) if self._keyframes and distances else 0.0

    def _chosen_cells(self, images: Sequence[_Prepared]) -> Matches:
        """Return the used cells of each image: covered, finite, with the smallest sigma."""
        most, max_sigma_m = self.config.max_cells, self.config.max_sigma_m
        found = []
        for image in images:
            finite_hw = np.isfinite(image.points_hw3).all(axis=-1)
            chosen = np.flatnonzero(
                image.canonical.covered_hw & finite_hw & (image.sigma_hw < max_sigma_m)
            )
            sigma_n = image.sigma_hw.reshape(-1)
            if len(chosen) > most:
                chosen = np.sort(chosen[np.argpartition(sigma_n[chosen], most)[:most]])
            points_n3 = image.points_hw3.reshape(-1, 3)
            found.append((points_n3[chosen], self._pixels_n2[chosen], sigma_n[chosen]))
        return Matches.joined(found, [image.canonical.T_first_cam for image in images])


def _pose_of(checked: _Checked) -> np.ndarray:
    """Return an accepted pose (4, 4) in the frame of the map."""
    assert checked.found.solution is not None
    return checked.found.solution.T_map_cam
