"""From the map of a place and new frames of it to the work folder of the updated map."""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain, count
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from distill_training.common.file_hash import file_sha256
from distill_training.common.links import link_or_copy
from distill_training.poses.measured_depth import have_depth, readable_depth
from distill_training.poses.poses_config import PosesConfig
from distill_training.reconstruction import Reconstruction, open_reconstruction
from distill_training.submaps.new_frames import NewFrame, NewFrames, PosedFrame, PosedScene
from distill_training.submaps.place import frame_digest
from distill_training.submaps.plan_file import Submap, SubmapPlan, submap_id, write_plan
from distill_training.submaps.planning import rounded
from distill_training.submaps.work_folder import PlaceOptions, WorkFolder
from distill_training.teachers.teacher_options import Teacher
from mote_localization.bundles import read_bundle
from mote_localization.errors import MoteError
from mote_localization.geometry import invert
from mote_localization.scenes import Scene


def check_place(bundle: Path, work: WorkFolder) -> None:
    """Check that a bundle has the maps of a work folder.

    Raises:
        MoteError: The bundle cannot be used, or a map is missing or another one.
    """
    read = read_bundle(bundle)
    paths = {submap.name: work.map_of(submap) for submap in work.plan().submaps}
    for submap, digest in zip(read.submaps, read.hashes, strict=True):
        path = paths.get(submap.name)
        if path is None or not path.exists() or file_sha256(path) != digest:
            raise MoteError(
                f"{work.path}: has no map of {submap.name}, or another one than {bundle}; expected "
                "the --work folder in which this file was made (--before)"
            )


def teacher_of(options: PlaceOptions, before: Reconstruction, scene: Scene) -> Teacher:
    """Return the map's teacher, for frames with poses.

    Raises:
        MoteError: It cannot use the recording.
    """
    if before.teacher == "files":
        raise MoteError(
            f"{before.folder}: has depth that another network wrote (--teacher files), which new "
            "frames lack; make the map again"
        )
    frames = list(scene.frames("train"))
    if before.teacher == "rgbd" and frames and not have_depth(frames):
        frames[0].known_depth()
    name: Any = before.teacher  # one of those that the options allow
    return replace(options.teacher, teacher=name, poses=PosesConfig("given"))


def write_updated(
    work: WorkFolder,
    options: PlaceOptions,
    before: WorkFolder,
    scene: Scene,
    new: NewFrames,
) -> None:
    """Write the work folder of an updated map, completely or not at all.

    Submaps without new frames keep their frames, their ids and their maps.

    Args:
        work: The folder; it must not exist.
        options: How the map is made.
        before: Folder of the map before.
        scene: The recording.
        new: Its frames.

    Raises:
        MoteError: The frames cannot be reconstructed, or a file cannot be written.
    """
    plan, old = before.plan(), open_reconstruction(before.reconstruction)
    prefix = next(f"update-{n}-" for n in count(1) if not _has_prefix(plan, f"update-{n}-"))
    poses = {f"{prefix}{one.frame.name}": one for one in chain(*new.by_submap.values())}
    in_order = [f"{prefix}{frame.name}" for frame in scene.frames("train")]
    frames = [
        PosedFrame(poses[name].frame, name, _adjusted(old, poses[name]))
        for name in in_order
        if name in poses
    ]
    with _new_folder(work.path) as folder:
        made = (
            teacher_of(options, old, scene)
            .plan_of(PosedScene(scene, frames))
            .reconstruct(folder / "new", old.camera)
        )
        if old.given_poses:
            given = {name: poses[name].T_map_cam for name in made.poses}
            made = replace(made, given_poses=given)
        begun = WorkFolder(folder)
        old.joined(made, begun.reconstruction)
        shutil.rmtree(made.folder)
        contents = {
            frame.name: frame_digest(frame, readable_depth(frame))
            for frame in frames
            if frame.name in made.poses
        }
        added = {
            submap: {
                name: one.T_map_cam
                for one in some
                if (name := f"{prefix}{one.frame.name}") in contents
            }
            for submap, some in new.by_submap.items()
        }
        updated = updated_plan(plan, added, contents)
        write_plan(begun.plan_path, updated)
        for submap in updated.submaps:
            if before.map_of(submap).exists():
                link_or_copy(before.map_of(submap), begun.map_of(submap))
        begun.begin(options)


def updated_plan(
    plan: SubmapPlan,
    added: Mapping[str, Mapping[str, np.ndarray]],
    contents: Mapping[str, str],
) -> SubmapPlan:
    """Return a plan in which some submaps have more frames of their own; others are as before.

    Args:
        plan: The plan before.
        added: For submaps, the new frames and their T_map_cam (4, 4).
        contents: Digest of each new frame.
    """
    frames = plan.frames | dict(contents)
    submaps = tuple(
        _with_frames(one, added[one.name], frames, plan.seed) if added.get(one.name) else one
        for one in plan.submaps
    )
    return msgspec.structs.replace(plan, submaps=submaps, frames=frames)


def _with_frames(
    submap: Submap, added: Mapping[str, np.ndarray], contents: Mapping[str, str], seed: int
) -> Submap:
    """Return a submap with more frames of its own."""
    own = submap.own + tuple(added)
    positions_k3 = np.array([T_map_cam[:3, 3] for T_map_cam in added.values()])
    sum_3 = len(submap.own) * np.array(submap.centre) + positions_k3.sum(axis=0)
    return msgspec.structs.replace(
        submap,
        id=submap_id(own, submap.overlap, contents, seed),
        centre=rounded(sum_3 / len(own)),
        low=rounded(np.minimum(submap.low, positions_k3.min(axis=0))),
        high=rounded(np.maximum(submap.high, positions_k3.max(axis=0))),
        own=own,
    )


def _has_prefix(plan: SubmapPlan, prefix: str) -> bool:
    return any(name.startswith(prefix) for name in plan.frames)


def _adjusted(old: Reconstruction, new: NewFrame) -> np.ndarray:
    """Return the pose of a new frame with the adjustment of the nearest frame of the map."""
    if not old.given_poses:
        return new.T_map_cam
    drift_44 = old.poses[new.nearest] @ invert(old.given_pose(new.nearest))
    return drift_44 @ new.T_map_cam


@contextmanager
def _new_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder that gets its name when the block succeeds, and is removed else."""
    temporary = path.with_name(f".{path.name}.part")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        yield temporary
        temporary.rename(path)
    except OSError as error:
        raise MoteError(f"{path}: cannot be written ({error.strerror or error})") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
