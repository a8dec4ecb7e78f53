"""The poses of a scene, as one value that the stages after this one use."""

import hashlib
import json
import logging
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np

from distill_training.poses.depth_agreement import check_conventions
from distill_training.poses.frame_points import FramePoints
from distill_training.poses.known_lengths import parse_known_length
from distill_training.poses.poses_config import PosesConfig
from distill_training.poses.refinement import RefinedPoses, refine_poses
from distill_training.reconstruction import Reconstruction
from mote_localization.camera import Camera
from mote_localization.command_line import print_table, say
from mote_localization.errors import NoPosesError, ReconstructionError, SceneError
from mote_localization.scenes import Frame, Scene

_log = logging.getLogger(__name__)
MAX_DRIFT_PX = 2.0  # median distance of matches at given poses: above it, auto refines the poses
# the same where only distances from epipolar lines can be measured, which show a part of it; 0.4 px
# is usual for features at exact poses
MAX_EPIPOLAR_PX = 0.7
MIN_PLACED = 0.5  # of the training frames, placed by structure from motion for auto to use it
PLACE_DEPTHS = (0.5, 20.0)  # of points, median, in the unit of given poses
DEPTHS_M = (0.1, 20.0)  # nearest and farthest depth that refines poses, m


@dataclass(frozen=True)
class ScenePoses:
    """The known poses of the training frames, camera to map, metres."""

    # training frame -> T_map_cam (4, 4), in recording order; of all usable frames where complete
    T_map_cam: dict[str, np.ndarray]
    # training frame -> T_map_cam (4, 4) as given, where `T_map_cam` are refined; else empty
    given: dict[str, np.ndarray] = field(default_factory=dict)
    # all training frames that can be used have a pose, and it is used as it is; False: poses are
    # estimated from pairs of photographs, and the known ones only fix the map frame
    complete: bool = True
    # training frame -> camera, where structure from motion found the poses; else empty
    cameras: dict[str, Camera] = field(default_factory=dict)
    # training frame -> triangulated points, where structure from motion made them; else empty
    points: dict[str, FramePoints] = field(default_factory=dict)
    metric: bool = True  # False: the scale is unknown, lengths are in arbitrary units

    @property
    def by_sfm(self) -> bool:
        """Whether structure from motion found the poses, and with them the cameras."""
        return bool(self.cameras)

    def camera(self, frame: Frame) -> Camera:
        """Return the camera of a frame; raise `SceneError` if its intrinsics are not known."""
        return self.cameras.get(frame.name) or frame.known_camera()


def find_poses(
    scene: Scene,
    config: PosesConfig | None = None,
    folder: Path | None = None,
    depths_m: tuple[float, float] | None = None,
    begun: Reconstruction | None = None,
    triangulate: bool = False,
) -> ScenePoses:
    """Return the poses of a scene's training frames.

    Args:
        scene: Where frames and given poses are read.
        config: Where the poses come from; None: they are given.
        folder: For intermediate files of structure from motion; None: auto does not try it, and
            given poses are refined by measured depth.
        depths_m: Depths (nearest, farthest) to refine given poses with, metres. None: given poses
            are not compared with depth, and auto leaves them as they are.
        begun: Reconstruction of an interrupted run, whose poses are used instead of refining again;
            auto does not try structure from motion again, see `resumed_config`.
        triangulate: Given poses come with points that are triangulated at them, and auto judges
            them by matching features instead of measured depth.

    Raises:
        SceneError: There are no training frames, a pose that must be given is missing, given poses
            or depths have another convention than expected, or files are damaged.
        ReconstructionError: Too few frames show the same things to refine their poses, no part of
            the photographs is accepted, or given poses, intrinsics or lengths contradict them.
    """
    config = config or PosesConfig("given")
    found = _find_poses(scene, config, folder, depths_m, begun, triangulate)
    if not scene.metric and found.points:
        _check_unit(scene, found.points)
    # Given poses are the scale: where their unit is unknown, so is that of the map.
    return replace(found, metric=found.metric and scene.metric)


def _check_unit(scene: Scene, points: Mapping[str, FramePoints]) -> None:
    """Check that a unit of unknown length is not far from a metre, as the localizer's gates expect.

    Raises:
        ReconstructionError: The median depth of the points is not that of a place in metres.
    """
    depth = float(np.median(np.concatenate([one.depth_k for one in points.values()])))
    nearest, farthest = PLACE_DEPTHS
    if not nearest <= depth <= farthest:
        raise ReconstructionError(
            f"scene {scene.name[:40]}: the points are {depth:.3g} units from the cameras (median), "
            f"expected {nearest:g} to {farthest:g}, as in metres; give their unit "
            "in metres (--unit-m), scale the poses (`colmap model_aligner`), or use --poses sfm"
        )


def _find_poses(
    scene: Scene,
    config: PosesConfig,
    folder: Path | None,
    depths_m: tuple[float, float] | None,
    begun: Reconstruction | None,
    triangulate: bool,
) -> ScenePoses:
    """Return the poses, as if given ones were in metres; see `find_poses`."""
    must = config.poses in ("given", "refine")
    given: dict[str, np.ndarray] = {}
    complete = must or config.poses == "auto"
    for frame in scene.frames("train"):
        T_map_cam = frame.known_pose() if must else frame.T_map_cam
        if T_map_cam is None:
            complete = False
        else:
            given[frame.name] = T_map_cam
    if must and not given:
        raise SceneError(f"scene {scene.name[:60]}: found no training frames, expected one or more")
    # Pairs of photographs, for which no depths are given, find wrong poses when they are aligned.
    if depths_m is not None and len(given) == scene.count("train"):
        check_conventions(scene, given)
    if config.poses == "sfm":
        assert folder is not None, "structure from motion needs a folder"
        return _by_structure_from_motion(scene, config, folder)
    if config.poses == "refine":
        if begun and _same_given(begun, given):
            return ScenePoses(dict(begun.poses), given)
        return _refined(scene, given, depths_m or DEPTHS_M, config, folder)
    if config.poses in ("auto", "given") and complete and triangulate:
        assert folder is not None, "triangulation needs a folder"
        return _triangulated(scene, given, config, folder)
    if config.poses == "auto" and complete and depths_m is not None:
        return _given_or_refined(scene, given, depths_m, config, folder, begun)
    if config.poses == "auto" and not complete and folder is not None and begun is None:
        found = _by_structure_from_motion_or_none(scene, config, folder)
        return found or ScenePoses(given, complete=False)
    return ScenePoses(given, complete=complete)


def resumed_config(config: PosesConfig, begun: Reconstruction | None) -> PosesConfig:
    """Return the options, auto as an earlier run decided it: structure from motion, or not."""
    if config.poses == "auto" and begun and begun.settings.get("poses") == "sfm":
        return replace(config, poses="sfm")
    return config


def _given_or_refined(
    scene: Scene,
    given: Mapping[str, np.ndarray],
    depths_m: tuple[float, float],
    config: PosesConfig,
    folder: Path | None,
    begun: Reconstruction | None,
) -> ScenePoses:
    """Return the given poses, or refined ones where the images disagree with the given ones."""
    if begun and _same_given(begun, given):
        return ScenePoses(dict(begun.poses), dict(given) if begun.given_poses else {})
    try:
        measured = refine_poses(scene, given, *depths_m)
    except ReconstructionError:  # too few matches to measure anything
        return ScenePoses(dict(given))
    print_table(measured.described(), "poses, by measured depth", stderr=True)
    if not measured.given_px > MAX_DRIFT_PX:
        return ScenePoses(dict(given))
    say(
        f"matching features are {measured.given_px:.1f} px apart at the given poses, more than "
        f"{MAX_DRIFT_PX:g} px: the poses are refined (--poses given keeps them)"
    )
    return _refined(scene, given, depths_m, config, folder, measured)


def _triangulated(
    scene: Scene, given: Mapping[str, np.ndarray], config: PosesConfig, folder: Path
) -> ScenePoses:
    """Return given poses and the points triangulated at them, refined where the images disagree.

    With --poses given they are never refined; otherwise, structure from motion finds other poses
    where the images contradict the given ones.
    """
    from distill_training.poses.sfm.given_pose_adjustment import adjust_given_poses

    kept_px = MAX_EPIPOLAR_PX if config.poses == "auto" else math.inf
    try:
        found = adjust_given_poses(
            scene, given, given, folder / "given", config.sfm, kept_px=kept_px
        )
        points = found.points
        if len(points) < MIN_PLACED * len(given):
            raise ReconstructionError(
                f"{len(points)} of {len(given)} frames have triangulated points at the given poses"
            )
        measured = f"matching features are {found.given_px:.1f} px apart at the given poses"
        if found.given_px <= kept_px:
            say(f"{measured}: the poses are used as they are")
            if left_out := len(given) - len(points):
                say(f"{left_out} of {len(given)} frames see too few points and are left out")
            return ScenePoses({name: given[name] for name in points}, points=points)
        refined = RefinedPoses.of(found.T_map_cam, given, f"{measured} (epipolar distance)")
    except ReconstructionError as error:
        if config.poses == "given":
            raise
        say(f"the given poses are not used: {error}; structure from motion finds poses instead")
        return _by_structure_from_motion(scene, config, folder)
    say(f"{measured}, more than {MAX_EPIPOLAR_PX:g} px: the poses are refined")
    print_table(refined.described(), "poses", stderr=True)
    return ScenePoses(refined.T_map_cam, dict(given), points=points)


def _same_given(begun: Reconstruction, given: Mapping[str, np.ndarray]) -> bool:
    """Return whether a begun reconstruction was made with these given poses."""
    earlier = begun.given_poses or begun.poses
    return earlier.keys() == given.keys() and all(
        np.array_equal(earlier[name], T) for name, T in given.items()
    )


def _refined(
    scene: Scene,
    given: Mapping[str, np.ndarray],
    depths_m: tuple[float, float],
    config: PosesConfig,
    folder: Path | None,
    measured: RefinedPoses | None = None,
) -> ScenePoses:
    """Return refined poses, and the points that were triangulated with them.

    Without pycolmap, or without a folder for its files, measured depth refines them instead; its
    errors then become errors of the poses.

    Args:
        scene: Source of the images.
        given: T_map_cam (4, 4) of the training frames.
        depths_m: Depths (nearest, farthest) that count as measured.
        config: Settings of features and pairs.
        folder: For intermediate files.
        measured: Poses that measured depth has refined already.
    """
    points: dict[str, FramePoints] = {}
    try:
        # pycolmap has no wheels for some platforms.
        from distill_training.poses.sfm.given_pose_adjustment import adjust_given_poses
    except ImportError as error:
        _log.warning("the poses are refined by measured depth (%s)", error)
        folder = None
    if folder is None:
        refined = measured or refine_poses(scene, given, *depths_m)
    else:
        initial = measured.T_map_cam if measured else given
        adjusted = adjust_given_poses(scene, given, initial, folder, config.sfm)
        points = adjusted.points
        count = sum(len(one.depth_k) for one in points.values())
        measured_by = f"{count} observations of triangulated points"
        try:
            refined = RefinedPoses.of(adjusted.T_map_cam, given, measured_by)
        except ReconstructionError as error:
            if measured is None:
                raise
            _log.warning("the poses are refined by measured depth (%s)", error)
            refined = measured
    print_table(refined.described(), "poses", stderr=True)
    return ScenePoses(refined.T_map_cam, dict(given), points=points)


def _by_structure_from_motion(scene: Scene, config: PosesConfig, folder: Path) -> ScenePoses:
    # pycolmap has no wheels for some platforms, where all other poses still work.
    from distill_training.poses.sfm_poses import place_by_structure_from_motion

    lengths = [parse_known_length(text) for text in config.scale_from]
    placed = place_by_structure_from_motion(scene, folder, config.intrinsics, config.sfm, lengths)
    print_table(placed.described, "poses", stderr=True)
    return ScenePoses(
        placed.T_map_cam, cameras=placed.cameras, points=placed.points, metric=placed.metric
    )


def _by_structure_from_motion_or_none(
    scene: Scene, config: PosesConfig, folder: Path
) -> ScenePoses | None:
    """Return poses by structure from motion; None, with a line, if it fails or places too few."""
    try:
        found = _by_structure_from_motion(scene, config, folder)
    except (ImportError, NoPosesError) as error:
        why = f"structure from motion cannot be used ({error})"
    else:
        placed, count = len(found.T_map_cam), scene.count("train")
        if placed >= MIN_PLACED * count:
            return found
        why = f"structure from motion places only {placed} of {count} images"
    say(f"{why}: the poses are those on which pairs of photographs agree (--poses dust3r)")
    return None


def inputs_of(scene: Scene, config: PosesConfig) -> dict[str, int | float | str]:
    """Return what decides the poses: the options, and a hash of names, cameras and given poses.

    A reconstruction is only resumed where they are equal.
    """
    frames = [
        (
            frame.name,
            asdict(frame.camera) if frame.camera else None,
            np.asarray(frame.T_map_cam).tolist(),
        )
        for frame in scene.frames("train")
    ]
    return {
        "poses": config.poses,
        "intrinsics": config.intrinsics,
        "scale_from": " ".join(config.scale_from),
        "frames_sha256": hashlib.sha256(json.dumps(frames).encode()).hexdigest(),
        **{f"sfm_{name}": value for name, value in asdict(config.sfm).items()},
    }
