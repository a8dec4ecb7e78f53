"""Given poses of a scene, refined so that its images agree; here with measured depth."""

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from distill_training.common.sampling import thinned
from distill_training.poses.drift_fit import FittedDrift, fit_drift
from distill_training.poses.features import FeatureFinder, match
from distill_training.poses.image_pairs import overlapping_pairs
from distill_training.poses.pose_adjustment import adjust_poses
from distill_training.poses.poses_config import PairsConfig
from mote_localization.drift import Kriging
from mote_localization.errors import ReconstructionError
from mote_localization.progress import track
from mote_localization.scenes import Scene

_MAX_FRAMES = 400  # that are matched; the drift around them refines the others
_PAIRS = PairsConfig(per_image=20)
_MIN_MATCHES = 30  # inliers in an image for its pose to be adjusted by them
_MIN_FRAMES = 12  # with enough matches
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RefinedPoses:
    """Refined poses, and by how much the refinement changed them."""

    T_map_cam: dict[str, np.ndarray]  # of every training frame, in recording order
    fitted: FittedDrift
    matches: str  # how well matching features agree, for the table
    given_px: float = math.nan  # median residual at the given poses, px of the first image's camera

    @classmethod
    def of(
        cls,
        known: Mapping[str, np.ndarray],
        given: Mapping[str, np.ndarray],
        matches: str,
        given_px: float = math.nan,
    ) -> "RefinedPoses":
        """Return the refined poses of all frames; frames without one follow those around them.

        Args:
            known: Refined T_map_cam (4, 4) of the frames that have enough matches.
            given: T_map_cam of all frames, in recording order.
            matches: See above.
            given_px: See above.

        Raises:
            ReconstructionError: Fewer than 12 frames have enough matches.
        """
        if len(known) < _MIN_FRAMES:
            raise ReconstructionError(
                f"{len(known)} of {len(given)} frames have enough matches with others, expected "
                f"{_MIN_FRAMES} or more to refine poses; use other --poses"
            )
        poses = dict(known)
        if len(known) < len(given):
            _log.warning(
                "%d frames are not adjusted themselves: their poses follow the frames around them",
                len(given) - len(known),
            )
            # The inverse drift, from given to refined poses, predicts these frames.
            inverse = Kriging(fit_drift(known, {name: given[name] for name in known}).drift)
            poses = {n: known[n] if n in known else inverse.predict(T)[0] for n, T in given.items()}
        fitted = fit_drift(given, poses)
        if fitted.residual_cm > fitted.drift_cm:
            _log.warning(
                "the drift cannot be predicted from one part of the recording to another: the "
                "given poses, or the refined ones, are noisy; compare with a map made with --poses "
                "given"
            )
        return cls(poses, fitted, matches, given_px)

    def described(self) -> dict[str, str]:
        """Return the rows of the table to print: names and values."""
        fit = self.fitted
        return {
            "matches": self.matches,
            "poses moved by": f"{fit.drift_cm:.1f} cm, {fit.drift_deg:.2f} deg",
            "predicted to": f"{fit.residual_cm:.1f} cm, {fit.residual_deg:.2f} deg, for each part "
            "of the recording from the others",
        }


def refine_poses(
    scene: Scene, given: Mapping[str, np.ndarray], near_m: float, far_m: float
) -> RefinedPoses:
    """Refine the poses of a scene's training frames with measured depth.

    Args:
        scene: Its training frames have intrinsics and depth.
        given: T_map_cam (4, 4) of the training frames, in recording order.
        near_m: Nearer depths are not used.
        far_m: Farther depths are not used.

    Raises:
        SceneError: A frame lacks intrinsics or depth, or its files are damaged.
        ReconstructionError: Too few frames show the same things.
    """
    names, cameras, features = [], [], []
    finder: FeatureFinder | None = None
    chosen = set(thinned(list(given), _MAX_FRAMES))
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
    known = {
        name: T
        for name, T, count in zip(names, adjusted.T_map_cam_n44, adjusted.matches_n, strict=True)
        if count >= _MIN_MATCHES
    }
    matches_row = (
        f"{int(adjusted.matches_n.sum())}, {adjusted.given_px:.1f} px apart at the given poses, "
        f"{adjusted.adjusted_px:.1f} px at the refined ones"
    )
    return RefinedPoses.of(known, given, matches_row, adjusted.given_px)
