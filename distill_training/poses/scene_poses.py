"""The poses of a scene, as one value that the stages after this one use."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from distill_training.poses.poses_config import Known
from distill_training.poses.refinement import refine_poses
from mote_localization.command_line import print_table
from mote_localization.errors import SceneError
from mote_localization.scenes import Scene


@dataclass(frozen=True)
class ScenePoses:
    """The known poses of the training frames, camera to map, metres."""

    # training frame -> T_map_cam (4, 4), in recording order; of all frames where complete
    T_map_cam: dict[str, np.ndarray]
    # training frame -> T_map_cam (4, 4) as given, where `T_map_cam` are refined; else empty
    given: dict[str, np.ndarray] = field(default_factory=dict)
    # all training frames have a pose, and it is used as it is; False: poses are estimated from
    # photographs, and the known ones only fix the map frame
    complete: bool = True


def find_poses(
    scene: Scene,
    known: Known = "given",
    refine_m: tuple[float, float] | None = None,
    refined: Mapping[str, np.ndarray] | None = None,
) -> ScenePoses:
    """Return the poses of a scene's training frames.

    Args:
        scene: Where frames and given poses are read.
        known: given: every frame has a pose; estimate: given poses only fix the map frame; auto:
            given where every frame has a pose, else estimate.
        refine_m: Depths (nearest, farthest) to refine the given poses with, metres; None: not
            refined.
        refined: T_map_cam (4, 4) from an interrupted run, used instead of refining again.

    Raises:
        SceneError: There are no training frames, a pose that must be given is missing, or files
            are damaged.
        ReconstructionError: Too few frames show the same things to refine their poses.
    """
    given: dict[str, np.ndarray] = {}
    complete = known != "estimate"
    for frame in scene.frames("train"):
        T_map_cam = frame.known_pose() if known == "given" else frame.T_map_cam
        if T_map_cam is None:
            complete = False
        else:
            given[frame.name] = T_map_cam
    if known == "given" and not given:
        raise SceneError(
            f"scene {scene.name[:60]}: found no training frames, expected one or more; a rosbag2 "
            "recording has none, it can only be evaluated"
        )
    if refine_m is None:
        return ScenePoses(given, complete=complete)
    if refined is None:
        found = refine_poses(scene, given, *refine_m)
        print_table(found.described(), "poses", stderr=True)
        refined = found.T_map_cam
    return ScenePoses(dict(refined), given)
