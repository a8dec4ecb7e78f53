"""Localizes live images: a pose with covariance, or the reason why there is none."""

import math
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from copy import copy
from dataclasses import dataclass, field, fields, replace
from enum import Enum
from pathlib import Path
from threading import Event, Thread
from typing import Any, NamedTuple

import cv2
import numpy as np

from mote_localization.backends import Backend, create_backend
from mote_localization.camera import Camera, CanonicalView, cell_pixels
from mote_localization.drift import Kriging
from mote_localization.errors import ConfigError
from mote_localization.geometry import invert, transform
from mote_localization.keyframe_matcher import (
    KeyframeConfig,
    KeyframeMatcher,
    KeyframeMatches,
    QueryImage,
    TrackingStep,
)
from mote_localization.keyframe_search import (
    KeyframeFeatures,
    SearchCancelled,
    forget_searches,
    search_of,
)
from mote_localization.map_file import MapFile, read_map
from mote_localization.pose import PoseConfig, PoseSolution, find_pose, solve_pose

_SAMPLED_CELLS = 7  # every 7th cell counts where the student's points are compared with a pose
_MAX_SURFACE_CELLS = 2.0  # sides of a cell by which a student's point may project beside its cell
_SPREAD_GRID = (4, 3)  # columns and rows of the grid in which the spread of inliers is counted


class Status(Enum):
    """Whether a frame has a pose."""

    LOCALIZED = "localized"
    LOST = "lost"


@dataclass(frozen=True)
class LocalizerConfig:
    """Which cells are used, and the gates that a pose must pass."""

    max_cells: int = 800  # cells given to the pose solver, those with the smallest sigma
    max_sigma_m: float = 0.5  # m, cells with a larger sigma are not used
    min_inliers: int = 40  # gate: cells that agree with the pose
    min_inlier_ratio: float = 0.2  # gate: fraction of the used cells that agree with the pose
    min_spread: float = 0.25  # gate: fraction of a 4 x 3 grid over the image that contains inliers
    max_reprojection_px: float = 7.0  # gate: median error of the inliers, canonical pixels
    max_deviation_m: float = 0.5  # m, gate: standard deviation of the position
    bounds_margin_m: float = 1.0  # m, gate: largest distance outside the mapped volume
    pose: PoseConfig = field(default_factory=PoseConfig)
    keyframes: KeyframeConfig = field(default_factory=KeyframeConfig)

    def __post_init__(self) -> None:
        """Check that a pose can pass the gates.

        Raises:
            ConfigError: More inliers are needed than cells are used.
        """
        if self.min_inliers > self.max_cells:
            raise ConfigError(
                f"found min_inliers {self.min_inliers} above max_cells {self.max_cells}: no pose "
                "would be accepted"
            )

    def with_parameters(self, values: Mapping[str, Any]) -> "LocalizerConfig":
        """Return the configuration with the values of ROS parameters; others are ignored.

        Parameters of `keyframes` have the prefix `keyframe_`.

        Raises:
            ConfigError: The values contradict each other.
        """
        own = {f.name: values[f.name] for f in fields(self) if f.name in values}
        names = {f.name: f"keyframe_{f.name}" for f in fields(self.keyframes)}
        changed = {name: values[key] for name, key in names.items() if key in values}
        return replace(self, **{**own, "keyframes": replace(self.keyframes, **changed)})


class Tracking(NamedTuple):
    """What a localized image gives to the localization of the camera's next image."""

    T_map_cam: np.ndarray  # (4, 4), before the correction for drift
    points_hw3: np.ndarray  # m, map frame: what the image showed, before that correction


@dataclass(frozen=True)
class Localization:
    """The result for one image."""

    status: Status
    reason: str  # why it is lost; empty when localized
    T_map_cam: np.ndarray | None  # (4, 4); None when lost
    covariance_66: np.ndarray | None  # x y z rotX rotY rotZ in the map frame; None when lost
    tracking: Tracking | None  # for the next image of this camera; None when lost
    inliers: int  # matches that agree with the best pose
    cells: int  # matches given to the pose solver: cells, or points of the keyframes
    reprojection_px: float  # median error of the inliers, canonical pixels; NaN without a pose
    keyframe_distance: float  # m, to the nearest keyframe; 0 without a pose or keyframes
    # m, map frame; without the correction for drift if the image is lost, which needs a pose
    points_hw3: np.ndarray
    sigma_hw: np.ndarray  # m
    covered_hw: np.ndarray  # bool: the live camera sees this cell
    image_hw3: np.ndarray  # RGB uint8, canonical camera
    # remap; network, with the tracking that runs beside it; pose: the rest
    seconds: dict[str, float]


class _Prepared(NamedTuple):
    """A canonical image with all that poses are found from."""

    grey_hw: np.ndarray  # uint8
    points_hw3: np.ndarray  # m, map frame: predicted by the student
    sigma_hw: np.ndarray  # m
    covered_hw: np.ndarray  # bool: the live camera sees this cell
    query: QueryImage | None  # None: the map has no keyframes


class _Cells(NamedTuple):
    """The cells that the student's pose is solved from."""

    points_n3: np.ndarray  # m, map frame
    pixels_n2: np.ndarray  # canonical camera
    sigma_n: np.ndarray  # m


class _Found(NamedTuple):
    """A pose and the pixels of the matches that it is solved from."""

    solution: PoseSolution | None  # None: the matches determine no pose
    pixels_n2: np.ndarray  # canonical camera


class _Checked(NamedTuple):
    """A pose, in the map's and in the given frame, and the gate that rejects it."""

    found: _Found
    given: PoseSolution | None
    reason: str  # empty if it passes all gates


class Localizer:
    """Localizes images in one map. Its only state between images is the remap table.

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
        self._view: CanonicalView | None = None
        self._preparing: Thread | None = None  # computes the features of the keyframes
        self._closing = Event()
        self._worker = ThreadPoolExecutor(1, "mote_keyframes")  # tracks while the network runs
        camera = self.info.camera
        self._pixels_n2 = cell_pixels(camera.width, camera.height, self.info.stride).reshape(-1, 2)
        self._drift = Kriging(self.info.drift) if self.info.drift else None
        self._keyframes = (
            KeyframeMatcher(self.info.keyframes, camera, self.info.stride)
            if self.info.keyframes
            else None
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

    def close(self) -> None:
        """End the threads; the localizer cannot be used afterwards."""
        self._closing.set()
        if self._preparing:
            self._preparing.join()
        self._worker.shutdown()
        forget_searches()

    def prepare_search(self) -> None:
        """Compute the features of the keyframes in a background thread.

        Lost images are not searched in the keyframes before it has finished. Without this call, the
        first search takes seconds.
        """
        if self._keyframes and self.config.keyframes.searched:
            self._preparing = Thread(target=self._prepare_search, daemon=True)
            self._preparing.start()

    def _prepare_search(self) -> None:
        info = self.info
        with suppress(SearchCancelled):
            search_of(info.keyframes, info.camera, info.stride, self._closing.is_set)

    def keyframe_distances(self, T_map_cam: np.ndarray) -> np.ndarray:
        """Return the distance (k,) of a camera from each keyframe, m; empty without keyframes.

        See `KeyframeMatcher.distances`.
        """
        return self._keyframes.distances(T_map_cam) if self._keyframes else np.zeros(0)

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
            return Tracking(T_map_cam, self._keyframes.surface(T_map_cam))
        return Tracking(T_map_cam, np.full((*self.info.cells_hw, 3), np.nan))

    def localize(
        self, image_hw3: np.ndarray, camera: Camera, tracking: Tracking | None = None
    ) -> Localization:
        """Return the pose at which an image was taken, or why it is lost.

        Args:
            image_hw3: RGB uint8, the camera's size.
            camera: The camera that took the image, distorted or not.
            tracking: `Localization.tracking` of the camera's last image. It saves time if the
                camera moved little; where it gives no accepted pose, it is ignored. A wrong pose
                may persist: omit it from time to time.

        Raises:
            ImageError: The image does not have the camera's size.
            CameraError: The camera's view does not overlap with that of the map's camera.
        """
        started = time.perf_counter()
        if self._view is None or self._view.live != camera:
            self._view = CanonicalView(camera, self.info.camera, self.info.stride)
        view = self._view
        canonical_hw3 = view.warp(image_hw3)
        remapped = time.perf_counter()
        grey_hw = cv2.cvtColor(canonical_hw3, cv2.COLOR_RGB2GRAY)
        pending = None
        if self._keyframes:  # the worker tracks while the network runs
            pending = self._worker.submit(
                self._tracked_pose, self._keyframes, grey_hw, view.covered_hw, tracking
            )
        points_hw3, sigma_hw = self._backend.predict(canonical_hw3)
        predicted = time.perf_counter()
        query, tracked = pending.result() if pending else (None, None)
        image = _Prepared(grey_hw, points_hw3, sigma_hw, view.covered_hw, query)
        found, given, reason = tracked or self._find_pose(image, tracking)
        solution, accepted = found.solution, given if not reason else None
        if self._drift and solution and accepted:
            T_given_map = accepted.T_map_cam @ invert(solution.T_map_cam)
            points_hw3 = transform(T_given_map, points_hw3).astype(np.float32)
        following = None
        if accepted and solution:
            following = Tracking(solution.T_map_cam, self._surface(image, solution.T_map_cam))
        solved = time.perf_counter()
        return Localization(
            status=Status.LOCALIZED if accepted else Status.LOST,
            reason=reason,
            T_map_cam=accepted.T_map_cam if accepted else None,
            covariance_66=accepted.covariance_66 if accepted else None,
            tracking=following,
            inliers=int(given.inliers_n.sum()) if given else 0,
            cells=len(found.pixels_n2),
            reprojection_px=given.reprojection_px if given else float("nan"),
            keyframe_distance=self._keyframe_distance(solution) if solution else 0.0,
            points_hw3=points_hw3,
            sigma_hw=sigma_hw,
            covered_hw=view.covered_hw,
            image_hw3=canonical_hw3,
            seconds={
                "remap": remapped - started,
                "network": predicted - remapped,
                "pose": solved - predicted,
            },
        )

    def _tracked_pose(
        self,
        keyframes: KeyframeMatcher,
        grey_hw: np.ndarray,
        covered_hw: np.ndarray,
        tracking: Tracking | None,
    ) -> tuple[QueryImage, _Checked | None]:
        """Return the prepared image, and its pose near the last one if it is accepted."""
        query = keyframes.query(grey_hw, covered_hw)
        if not tracking:
            return query, None
        last = tracking.T_map_cam
        points_n3 = keyframes.cell_points(tracking.points_hw3, last)
        steps = (self.config.keyframes.tracked,)
        tracked = self._checked(
            self._refine_with_keyframes(keyframes, query, points_n3, last, steps, last)
        )
        return query, None if tracked.reason else tracked

    def _surface(self, image: _Prepared, T_map_cam: np.ndarray) -> np.ndarray:
        """Return the points (rows, columns, 3) that an image of this pose shows, m, map frame.

        Those of the student, or, where they disagree with the pose, those of the keyframes.
        """
        if not self._keyframes:
            return image.points_hw3
        cells_n = np.flatnonzero(image.covered_hw)[::_SAMPLED_CELLS]
        points_n3 = image.points_hw3.reshape(-1, 3)[cells_n]
        finite_n = np.isfinite(points_n3).all(axis=1)
        local_m3 = transform(invert(T_map_cam), points_n3[finite_n])
        ahead_m = local_m3[:, 2] > 0
        pixels_m2 = self._pixels_n2[cells_n[finite_n][ahead_m]]
        shift_m2 = self.info.camera.project(local_m3[ahead_m]) - pixels_m2
        near_m = np.linalg.norm(shift_m2, axis=1) < _MAX_SURFACE_CELLS * self.info.stride
        if 2 * np.count_nonzero(near_m) >= len(cells_n):
            return image.points_hw3
        return self._keyframes.surface(T_map_cam)

    def _find_pose(self, image: _Prepared, tracking: Tracking | None) -> _Checked:
        """Return the first accepted pose: of the student, or searched in the keyframes.

        Without keyframes, the student's pose is tracked from the last one first. Where none is
        accepted, the student's is returned.
        """
        if tracking and not self._keyframes:
            cells = self._chosen_cells(image)
            tracked = self._checked(self._student_pose(cells, tracking.T_map_cam))
            if not tracked.reason:
                return tracked
        first = self._checked(self._first_pose(image))
        ready = not (self._preparing and self._preparing.is_alive())
        if first.reason and self._keyframes and self.config.keyframes.searched and ready:
            searched = self._searched_pose(self._keyframes, image)
            if searched:
                return searched
        return first

    def _checked(self, found: _Found) -> _Checked:
        given = self._in_given_frame(found.solution) if found.solution else None
        return _Checked(found, given, self._rejection_reason(given, found.pixels_n2))

    def _first_pose(self, image: _Prepared) -> _Found:
        """Return the pose of the student's points, refined with the keyframes if there are any."""
        cells = self._chosen_cells(image)
        if not self._keyframes or not image.query:
            return self._student_pose(cells)
        T_map_cam = find_pose(*cells, self.info.camera, self.config.pose)
        if T_map_cam is None:
            return _Found(None, cells.pixels_n2)
        points_n3 = self._keyframes.cell_points(image.points_hw3, T_map_cam)
        steps = self.config.keyframes.steps
        return self._refine_with_keyframes(
            self._keyframes, image.query, points_n3, T_map_cam, steps
        )

    def _student_pose(self, cells: _Cells, prior: np.ndarray | None = None) -> _Found:
        solution = solve_pose(*cells, self.info.camera, self.config.pose, prior)
        return _Found(solution, cells.pixels_n2)

    def _searched_pose(self, keyframes: KeyframeMatcher, image: _Prepared) -> _Checked | None:
        """Return the accepted pose at which the keyframes show an image; None if there is none.

        The student is not used. RANSAC takes the matches with all keyframes that are found, then
        those with each of them alone, because wrong ones among them can hide the right one.
        """
        config = self.config.keyframes
        search = search_of(self.info.keyframes, self.info.camera, self.info.stride)
        views = search.find(image.grey_hw, config.searched)
        for chosen in (views, *([view] for view in views)):
            searched = self._checked(self._pose_of_features(keyframes, image, chosen))
            if not searched.reason:
                return searched
        return None

    def _pose_of_features(
        self, keyframes: KeyframeMatcher, image: _Prepared, views: Sequence[KeyframeFeatures]
    ) -> _Found:
        """Return the pose solved from features, one keyframe's at least, and refined."""
        config, query = self.config.keyframes, image.query
        matches = KeyframeMatches(
            np.concatenate([view.points_n3 for view in views]),
            np.concatenate([view.pixels_n2 for view in views]),
        )
        lost = _Found(None, matches.pixels_n2)
        if query is None or len(matches.points_n3) < config.min_matches:
            return lost
        near = self.info.keyframes[views[0].keyframe].pose_44
        rough = find_pose(*self._solver_arguments(matches, near, config.steps[0]))
        if rough is None:
            return lost
        points_hw3 = keyframes.surface(rough)
        if not np.isfinite(points_hw3).all():
            return lost
        points_n3 = keyframes.cell_points(points_hw3, rough)
        return self._refine_with_keyframes(keyframes, query, points_n3, rough, config.steps)

    def _refine_with_keyframes(
        self,
        keyframes: KeyframeMatcher,
        query: QueryImage,
        points_n3: np.ndarray,
        T_map_cam: np.ndarray,
        steps: tuple[TrackingStep, ...],
        prior: np.ndarray | None = None,
    ) -> _Found:
        """Return the pose refined from a rough pose, and the pixels of the matches.

        The pose is None where the keyframes do not confirm it.

        Args:
            keyframes: Those of the map.
            query: The image.
            points_n3: Surface points of its cells, see `KeyframeMatcher.cell_points`.
            T_map_cam: The rough pose (4, 4).
            steps: One at least.
            prior: A pose that the first step refines. None: RANSAC runs, because the rough pose
                may be near a wrong minimum.
        """
        config, near = self.config.keyframes, T_map_cam
        for step in steps[:-1]:
            matches = keyframes.match(query, points_n3, T_map_cam, step, config)
            if len(matches.points_n3) < config.min_matches:
                return _Found(None, matches.pixels_n2)
            T_found = find_pose(*self._solver_arguments(matches, near, step), prior)
            if T_found is None:
                return _Found(None, matches.pixels_n2)
            T_map_cam = prior = T_found
        matches = keyframes.match(query, points_n3, T_map_cam, steps[-1], config)
        if len(matches.points_n3) < config.min_matches:
            return _Found(None, matches.pixels_n2)
        solution = solve_pose(*self._solver_arguments(matches, near, steps[-1]), prior)
        return _Found(solution, matches.pixels_n2)

    def _solver_arguments(
        self, matches: KeyframeMatches, near: np.ndarray, step: TrackingStep
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, Camera, PoseConfig]:
        """Return what a pose is solved from; matches have sigmas by the distance from `near`."""
        distance_n = np.linalg.norm(matches.points_n3 - near[:3, 3], axis=1)
        config = replace(self.config.pose, inlier_px=step.inlier_px)
        sigma_n = self.config.keyframes.sigma * distance_n
        return matches.points_n3, matches.pixels_n2, sigma_n, self.info.camera, config

    def _in_given_frame(self, solution: PoseSolution) -> PoseSolution:
        """Return a pose in the frame of the given poses, with its calibrated covariance."""
        T_map_cam, covariance_66 = solution.T_map_cam, solution.covariance_66
        if self._drift:
            T_map_cam, drift_66 = self._drift.predict(T_map_cam)
            covariance_66 = covariance_66 + drift_66
        distance = self._keyframe_distance(solution)
        calibrated_66 = self.info.pose_calibration.calibrated(covariance_66, distance)
        return replace(solution, T_map_cam=T_map_cam, covariance_66=calibrated_66)

    def _keyframe_distance(self, solution: PoseSolution) -> float:
        distance_k = self.keyframe_distances(solution.T_map_cam)
        return float(distance_k.min()) if len(distance_k) else 0.0

    def _chosen_cells(self, image: _Prepared) -> _Cells:
        """Return the used cells: covered, finite, with the smallest sigma."""
        most, max_sigma_m = self.config.max_cells, self.config.max_sigma_m
        finite_hw = np.isfinite(image.points_hw3).all(axis=-1)
        chosen = np.flatnonzero(image.covered_hw & finite_hw & (image.sigma_hw < max_sigma_m))
        sigma_n = image.sigma_hw.reshape(-1)
        if len(chosen) > most:
            chosen = np.sort(chosen[np.argpartition(sigma_n[chosen], most)[:most]])
        points_n3 = image.points_hw3.reshape(-1, 3)
        return _Cells(points_n3[chosen], self._pixels_n2[chosen], sigma_n[chosen])

    def _rejection_reason(self, solution: PoseSolution | None, pixels_n2: np.ndarray) -> str:
        """Return which gate rejects a pose; empty if it passes all."""
        config, unit = self.config, self.info.unit
        if self._keyframes:
            least = max(config.min_inliers, config.keyframes.min_matches)
            least_ratio = max(config.min_inlier_ratio, config.keyframes.min_inlier_ratio)
            counted = "points of the keyframes found in the image"
        else:
            least, least_ratio = config.min_inliers, config.min_inlier_ratio
            counted = f"cells seen with sigma under {config.max_sigma_m:g} {unit}"
        if len(pixels_n2) < least:
            return f"{len(pixels_n2)} {counted}, expected at least {least}"
        if solution is None:
            return "the matches determine no pose"
        inliers = int(solution.inliers_n.sum())
        if inliers < config.min_inliers:
            return f"{inliers} inliers, expected at least {config.min_inliers}"
        ratio = inliers / len(pixels_n2)
        if ratio < least_ratio:
            return f"inlier ratio {ratio:.2f}, expected at least {least_ratio:g}"
        size = np.array([self.info.camera.width, self.info.camera.height])
        columns, rows = (pixels_n2[solution.inliers_n] / size * _SPREAD_GRID).astype(int).T
        count_of_tiles = np.bincount(rows * _SPREAD_GRID[0] + columns)
        spread = np.count_nonzero(count_of_tiles) / math.prod(_SPREAD_GRID)
        if spread < config.min_spread:
            return (
                f"inliers on {spread:.0%} of the image, expected at least {config.min_spread:.0%}"
            )
        if solution.reprojection_px > config.max_reprojection_px:
            return (
                f"reprojection {solution.reprojection_px:.1f} px, "
                f"expected at most {config.max_reprojection_px:g}"
            )
        deviation_m = float(np.sqrt(np.trace(solution.covariance_66[:3, :3])))
        if not deviation_m <= config.max_deviation_m:  # true for NaN
            return (
                f"standard deviation of the position {deviation_m:.2f} {unit}, "
                f"expected at most {config.max_deviation_m:g}"
            )
        position = solution.T_map_cam[:3, 3]
        margin = config.bounds_margin_m
        low, high = np.array(self.info.bounds_min) - margin, np.array(self.info.bounds_max) + margin
        if not ((position >= low) & (position <= high)).all():
            return f"position {position.round(1).tolist()} {unit} is outside the mapped volume"
        return ""
