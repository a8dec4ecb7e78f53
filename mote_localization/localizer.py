"""From a live image to a believed pose, or to the reason why there is none."""

import math
import time
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path

import numpy as np

from mote_localization.backends import Backend, create_backend
from mote_localization.camera import Camera, CanonicalView, cell_pixels
from mote_localization.drift import Kriging
from mote_localization.geometry import invert, transform
from mote_localization.keyframe_matcher import KeyframeMatcher, QueryImage, Search
from mote_localization.map_file import MapFile, read_map
from mote_localization.pose import PoseConfig, PoseSolution, solve_pose

# Looks at the keyframes, and how far from where a match should be it may count, canonical px.
_LOOKS = (
    (Search(levels=3, window_px=9, drawings=1), 6.0),
    (Search(levels=1, window_px=9, drawings=2), 3.0),
)
_KEYFRAME_SIGMA = 0.006  # of the distance, expected error of a keyframe's point
_LEAST_FOUND = 20  # matches with a keyframe; fewer are no pose
_SPREAD_GRID = (4, 3)  # columns and rows of the grid in which inliers are counted as spread


class Status(Enum):
    """Whether a frame gave a pose."""

    LOCALIZED = "localized"
    LOST = "lost"


@dataclass(frozen=True)
class LocalizerConfig:
    """Which cells are used and which poses are believed."""

    max_cells: int = 800  # cells offered to the pose solver, those of least sigma
    max_sigma_m: float = 0.5  # m, cells expected to be worse than this are not used
    min_inliers: int = 40  # gate: cells that agree with the pose
    min_inlier_ratio: float = 0.2  # gate: agreeing cells among those used
    min_spread: float = 0.25  # gate: share of a 4 x 3 grid over the image that holds inliers
    max_reprojection_px: float = 7.0  # gate: median error of the inliers, canonical pixels
    max_deviation_m: float = 0.25  # m, gate: standard deviation of the position
    bounds_margin_m: float = 1.0  # m, gate: how far outside the mapped volume the camera may stand
    pose: PoseConfig = field(default_factory=PoseConfig)


@dataclass(frozen=True)
class Localization:
    """What one image told."""

    status: Status
    reason: str  # why it is lost; empty when localized
    T_map_cam: np.ndarray | None  # (4, 4); None when lost
    covariance_66: np.ndarray | None  # x y z rotX rotY rotZ in the map frame; None when lost
    inliers: int  # matches that agree with the best pose
    cells: int  # matches offered to the pose solver: cells, or points of the keyframes
    reprojection_px: float  # median error of the inliers, canonical pixels; NaN without a pose
    # m, map frame; of a lost image not corrected for the map's drift, which follows from the pose
    points_hw3: np.ndarray
    sigma_hw: np.ndarray  # m
    covered_hw: np.ndarray  # bool: the live camera sees this cell
    image_hw3: np.ndarray  # RGB uint8, canonical camera
    seconds: dict[str, float]  # remap, network, pose


class Localizer:
    """Tells a camera where it is in one map. Holds no state between frames but the remap table."""

    def __init__(
        self,
        map_file: MapFile,
        backend: Backend,
        config: LocalizerConfig = LocalizerConfig(),  # noqa: B008 (frozen)
    ) -> None:
        """Join a map, a backend that runs it, and the rules of belief."""
        self.info = map_file.info
        self.config = config
        self._backend = backend
        self._view: CanonicalView | None = None
        camera = self.info.camera
        self._pixels_hw2 = cell_pixels(camera.width, camera.height, self.info.stride)
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

    def localize(
        self, image_hw3: np.ndarray, camera: Camera, prior: np.ndarray | None = None
    ) -> Localization:
        """Find where an image was taken.

        Args:
            image_hw3: RGB uint8, the camera's size.
            camera: The camera that took it, distorted or not.
            prior: T_map_cam (4, 4) of about where that was, as of the image before: it saves the
                search where it holds; see `solve_pose`.

        Raises:
            ImageError: The image is not of the camera's size.
            CameraError: The camera sees nothing of what the map's camera sees.
        """
        started = time.perf_counter()
        if self._view is None or self._view.live != camera:
            self._view = CanonicalView(camera, self.info.camera, self.info.stride)
        view = self._view
        canonical_hw3 = view.warp(image_hw3)
        remapped = time.perf_counter()
        points_hw3, sigma_hw = self._backend.predict(canonical_hw3)
        predicted = time.perf_counter()
        chosen = self._choose(points_hw3, sigma_hw, view.covered_hw)
        pixels_n2 = self._pixels_hw2.reshape(-1, 2)[chosen]
        solution = solve_pose(
            points_hw3.reshape(-1, 3)[chosen],
            pixels_n2,
            sigma_hw.reshape(-1)[chosen],
            self.info.camera,
            self.config.pose,
            prior,
        )
        if self._keyframes and solution:
            solution, pixels_n2 = self._look_again(
                self._keyframes,
                solution.T_map_cam,
                self._keyframes.see(canonical_hw3, view.covered_hw, solution.T_map_cam, points_hw3),
            )
        told = self._in_given_frame(solution) if solution else None
        reason = self._rejection_reason(told, pixels_n2)
        believed = told if not reason else None
        if self._drift and solution and believed:
            to_given = believed.T_map_cam @ invert(solution.T_map_cam)
            points_hw3 = transform(to_given, points_hw3).astype(np.float32)
        solved = time.perf_counter()
        return Localization(
            status=Status.LOCALIZED if believed else Status.LOST,
            reason=reason,
            T_map_cam=believed.T_map_cam if believed else None,
            covariance_66=believed.covariance_66 if believed else None,
            inliers=int(told.inliers_n.sum()) if told else 0,
            cells=len(pixels_n2),
            reprojection_px=told.reprojection_px if told else float("nan"),
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

    def _look_again(
        self, keyframes: KeyframeMatcher, T_map_cam: np.ndarray, sight: QueryImage
    ) -> tuple[PoseSolution | None, np.ndarray]:
        """Return the pose that the keyframes confirm, None where they do not, and its pixels."""
        solution = None
        for search, inlier_px in _LOOKS:
            found = keyframes.match(sight, solution.T_map_cam if solution else T_map_cam, search)
            if len(found.points_n3) < _LEAST_FOUND:
                return None, found.pixels_n2
            solution = solve_pose(
                found.points_n3,
                found.pixels_n2,
                _KEYFRAME_SIGMA * np.linalg.norm(found.points_n3 - T_map_cam[:3, 3], axis=1),
                self.info.camera,
                replace(self.config.pose, inlier_px=inlier_px),
                solution.T_map_cam if solution else None,
            )
            if solution is None:
                return None, found.pixels_n2
        return solution, found.pixels_n2

    def _in_given_frame(self, solution: PoseSolution) -> PoseSolution:
        """Return a pose as it is in the frame of the given poses, with an honest covariance."""
        T_map_cam, covariance_66 = solution.T_map_cam, solution.covariance_66
        if self._drift:
            T_map_cam, unknown_66 = self._drift.predict(T_map_cam)
            covariance_66 = covariance_66 + unknown_66
        honest_66 = self.info.covariance_scale * covariance_66
        return replace(solution, T_map_cam=T_map_cam, covariance_66=honest_66)

    def _choose(
        self, points_hw3: np.ndarray, sigma_hw: np.ndarray, covered_hw: np.ndarray
    ) -> np.ndarray:
        """Return the flat indices of the cells worth using: seen, finite, and of least sigma."""
        usable = (
            covered_hw & (sigma_hw < self.config.max_sigma_m) & np.isfinite(points_hw3).all(axis=-1)
        )
        chosen = np.flatnonzero(usable)
        if len(chosen) > self.config.max_cells:
            sigma = sigma_hw.reshape(-1)[chosen]
            chosen = np.sort(
                chosen[np.argpartition(sigma, self.config.max_cells)[: self.config.max_cells]]
            )
        return chosen

    def _rejection_reason(self, solution: PoseSolution | None, pixels_n2: np.ndarray) -> str:
        """Return why a pose is not to be believed; empty when it is."""
        config, unit = self.config, self.info.unit
        if len(pixels_n2) < config.min_inliers:
            seen = f"cells seen with sigma under {config.max_sigma_m:g} {unit}"
            if self._keyframes:
                seen = "points of the keyframes found in the image"
            return f"{len(pixels_n2)} {seen}, expected {config.min_inliers}"
        if solution is None:
            return "the cells determine no pose"
        inliers = int(solution.inliers_n.sum())
        if inliers < config.min_inliers:
            return f"{inliers} inliers, expected {config.min_inliers}"
        ratio = inliers / len(pixels_n2)
        if ratio < config.min_inlier_ratio:
            return f"inlier ratio {ratio:.2f}, expected {config.min_inlier_ratio:g}"
        size = np.array([self.info.camera.width, self.info.camera.height])
        columns, rows = (pixels_n2[solution.inliers_n] / size * _SPREAD_GRID).astype(int).T
        held = np.bincount(rows * _SPREAD_GRID[0] + columns)
        spread = np.count_nonzero(held) / math.prod(_SPREAD_GRID)
        if spread < config.min_spread:
            return f"inliers on {spread:.0%} of the image, expected {config.min_spread:.0%}"
        if solution.reprojection_px > config.max_reprojection_px:
            return (
                f"reprojection {solution.reprojection_px:.1f} px, "
                f"expected {config.max_reprojection_px:g}"
            )
        deviation_m = float(np.sqrt(np.trace(solution.covariance_66[:3, :3])))
        if not deviation_m <= config.max_deviation_m:  # nor a number
            return (
                f"position known to {deviation_m:.2f} {unit} (standard deviation), "
                f"expected {config.max_deviation_m:g}"
            )
        position = solution.T_map_cam[:3, 3]
        margin = config.bounds_margin_m
        low, high = np.array(self.info.bounds_min) - margin, np.array(self.info.bounds_max) + margin
        if not ((position >= low) & (position <= high)).all():
            return f"position {position.round(1).tolist()} {unit} is outside the mapped volume"
        return ""
