"""Poses of a scene with depth on which its images agree, in place of those a tracker gave."""

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from distill_training.poses.drift_fit import FittedDrift, fit_drift
from distill_training.poses.features import FeatureFinder, Features, match
from distill_training.poses.image_pairs import overlapping_pairs
from distill_training.poses.pose_adjustment import adjust_poses
from distill_training.teachers.teacher_config import PairsConfig
from mote_localization.camera import Camera
from mote_localization.drift import Kriging
from mote_localization.errors import ReconstructionError
from mote_localization.progress import track
from mote_localization.scenes import Scene

_MOST_FRAMES = 400  # that are matched; the others follow those around them
_PAIRS = PairsConfig(method="overlap", per_image=20)
_ENOUGH = 30  # matches that an image must see for its pose to be adjusted by them
_LEAST_FRAMES = 12  # with enough matches
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ConsistentPoses:
    """Adjusted poses, and what the adjustment brought."""

    T_map_cam: dict[str, np.ndarray]  # of every training frame, in recording order
    matches: int  # that agree
    given_px: float  # their median distance at the given poses, px of the first image's camera
    adjusted_px: float  # at the adjusted ones
    fitted: FittedDrift

    def described(self) -> dict[str, str]:
        """Return names and values to print."""
        fit = self.fitted
        return {
            "matches": f"{self.matches}, {self.given_px:.1f} px apart at the given poses, "
            f"{self.adjusted_px:.1f} px at the adjusted ones",
            "poses moved by": f"{fit.moved_cm:.1f} cm, {fit.moved_deg:.2f} deg",
            "told back to": f"{fit.unpredicted_cm:.1f} cm, {fit.unpredicted_deg:.2f} deg, for "
            "pieces of the recording that the rest of it predicts",
        }


def find_consistent_poses(
    scene: Scene, given: Mapping[str, np.ndarray], near_m: float, far_m: float
) -> ConsistentPoses:
    """Adjust poses of a scene's training frames.

    Args:
        scene: Its training frames have intrinsics and depth.
        given: The poses to adjust, of training frames in recording order.
        near_m: Nearer depths are not used.
        far_m: Nor are farther ones.

    Raises:
        SceneError: A frame lacks intrinsics or depth, or its files are damaged.
        ReconstructionError: Too few frames see the same things.
    """
    every = math.ceil(len(given) / _MOST_FRAMES)
    names: list[str] = []
    cameras: list[Camera] = []
    features: list[Features] = []
    finder: FeatureFinder | None = None
    chosen = set(list(given)[::every])
    frames = (frame for frame in scene.frames("train") if frame.name in chosen)
    for frame in track(frames, "features", len(chosen)):
        camera = frame.known_camera()
        if finder is None or finder.live != camera:
            finder = FeatureFinder(camera, near_m, far_m)
        names.append(frame.name)
        cameras.append(camera)
        features.append(finder.find(frame))
    T_given_n44 = np.array([given[name] for name in names])
    matches = match(features, overlapping_pairs(T_given_n44, cameras, _PAIRS))
    adjusted = adjust_poses(T_given_n44, matches, cameras[0].fx)
    enough_n = adjusted.matches_n >= _ENOUGH
    if enough_n.sum() < _LEAST_FRAMES:
        raise ReconstructionError(
            f"scene {scene.name}: {enough_n.sum()} of {len(names)} frames show what others show, "
            f"expected {_LEAST_FRAMES} or more to adjust poses; leave out --adjust-poses"
        )
    known = {
        name: T
        for name, T, enough in zip(names, adjusted.T_map_cam_n44, enough_n, strict=True)
        if enough
    }
    if len(known) < len(names):
        _log.warning(
            "%d frames have few matches: they follow the frames around", len(names) - len(known)
        )
    poses = known
    if len(known) < len(given):
        # The way back: where frames not adjusted themselves belong, by those near the given pose.
        there = Kriging(fit_drift(known, {name: given[name] for name in known}).drift)
        poses = {n: known[n] if n in known else there.predict(T)[0] for n, T in given.items()}
    fitted = fit_drift(given, poses)
    if fitted.unpredicted_cm > fitted.moved_cm:
        _log.warning(
            "the rest of the recording does not tell by how much poses moved: they were noisy "
            "rather than bent, or the adjusted ones are; compare with a map without --adjust-poses"
        )
    return ConsistentPoses(
        poses,
        int(adjusted.matches_n.sum()),
        adjusted.given_px,
        adjusted.adjusted_px,
        fitted,
    )
