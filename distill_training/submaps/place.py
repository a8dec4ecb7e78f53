"""What the frames of a recording see of a place, read once, frame after frame."""

import hashlib
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from distill_training.poses.measured_depth import readable_depth
from distill_training.submaps.covisibility import covisibility_graph, incidence
from distill_training.submaps.seen_surfaces import VOXEL_M, FloorPlan, View, see
from distill_training.teachers.teacher_options import MAX_LACKING
from mote_localization.errors import SceneError
from mote_localization.input_files import read_input
from mote_localization.progress import track_if_slow
from mote_localization.scenes import Frame, Scene
from mote_localization.scenes.frame_files import FileFrame

_log = logging.getLogger(__name__)
_FEW = 10  # frames; smaller parts that see nothing of the others are left out
_NAMED = 3  # frames, or parts, that a message names
_MAX_IMAGE_BYTES = 1 << 30
_DIGEST_CHARS = 32


@dataclass(frozen=True)
class Place:
    """The frames of a place that see one another, directly or through others; n of them."""

    names: tuple[str, ...]  # in recording order
    contents: tuple[str, ...]  # digest of image, depth, pose and camera of each frame
    left_out: tuple[str, ...]  # names of training frames that cannot be used
    positions_n3: np.ndarray  # cameras, map frame, m
    floor: FloorPlan
    covisible_nn: csr_array  # see `covisibility_graph`; connected
    sees_nc: csr_array  # which frame sees which cell of the floor
    cell_c: np.ndarray  # (c,) cells of `FloorPlan`

    @property
    def area_n(self) -> np.ndarray:
        """Floor (n,) that each frame sees, m2; frames that see the same cell share its area."""
        return VOXEL_M**2 * (self.sees_nc @ (1 / self.sees_nc.sum(axis=0, dtype=float)))


def read_place(scene: Scene) -> Place:
    """Return what the training frames of a scene see. Few frames that cannot be used are left out.

    A warning states how many have no pose, cannot be read, or see nothing that others see.

    Raises:
        SceneError: The poses are not in metres, many frames cannot be used, or the frames form
            several parts that see nothing in common.
    """
    if not scene.metric:
        raise SceneError(
            f"{scene.name[:60]}: its poses are not in metres, expected metres, because submaps "
            "have an area; state the length of their unit by --unit-m, if it is known"
        )
    frames = list(scene.frames("train"))
    with_pose = [frame for frame in frames if frame.T_map_cam is not None]
    advice = "find the poses first, as docs/make_a_map.md describes"
    _leave_out(scene, frames, with_pose, "have no pose", advice)
    floor = FloorPlan(np.array([frame.known_pose() for frame in with_pose]))
    views: dict[str, tuple[View, str]] = {}
    for frame in track_if_slow(with_pose, "read frames", len(with_pose)):
        depth_hw = readable_depth(frame)
        try:
            views[frame.name] = see(frame, depth_hw, floor), frame_digest(frame, depth_hw)
        except SceneError as error:
            _log.warning("frame %s: %s", frame.name[:60], error)
    readable = [frame for frame in with_pose if frame.name in views]
    _leave_out(scene, frames, readable, "cannot be read", "copy them again")
    graph_nn = covisibility_graph(incidence([views[f.name][0].voxel_k for f in readable])[0])
    main = _main_part(scene, readable, graph_nn)
    used = [readable[k] for k in main.tolist()]
    sees_nc, cell_c = incidence([views[frame.name][0].cell_c for frame in used])
    names = {frame.name for frame in used}
    return Place(
        tuple(frame.name for frame in used),
        tuple(views[frame.name][1] for frame in used),
        tuple(frame.name for frame in frames if frame.name not in names),
        np.array([frame.known_pose()[:3, 3] for frame in used]),
        floor,
        csr_array(graph_nn[main][:, main]),
        sees_nc,
        cell_c,
    )


def frame_digest(frame: Frame, depth_hw: np.ndarray | None) -> str:
    """Return a digest of all that a training takes from a frame.

    Raises:
        SceneError: Its image cannot be read.
    """
    digest = hashlib.sha256()
    if isinstance(frame, FileFrame):  # without decoding
        try:
            digest.update(read_input(frame.image_path, _MAX_IMAGE_BYTES))
        except OSError as error:
            raise SceneError(f"{frame.image_path}: cannot be read ({error.strerror})") from error
    else:
        digest.update(frame.image().tobytes())
    if depth_hw is not None:
        digest.update(depth_hw.tobytes())
    digest.update(frame.known_pose().tobytes())
    digest.update(repr(frame.camera).encode())
    return digest.hexdigest()[:_DIGEST_CHARS]


def _main_part(scene: Scene, frames: Sequence[Frame], graph_nn: csr_array) -> np.ndarray:
    """Return the largest connected part of a graph of frames; a warning states what is left out.

    Raises:
        SceneError: There are several large parts, or many small ones.
    """
    _, label_n = connected_components(graph_nn, directed=False)
    size_p = np.bincount(label_n)
    main, *others = np.argsort(-size_p, kind="stable").tolist()
    kept = np.flatnonzero(label_n == main)
    small = len(frames) - len(kept)
    if any(size_p[part] >= _FEW for part in others) or small > MAX_LACKING * len(frames):
        parts = [
            _described([frames[k].name for k in np.flatnonzero(label_n == part).tolist()])
            for part in (main, *others)
        ]
        more = f"; and {len(parts) - _NAMED} more" * (len(parts) > _NAMED)
        raise SceneError(
            f"{scene.name[:60]}: its frames form {len(parts)} parts that see nothing in common, "
            f"expected one: {'; '.join(parts[:_NAMED])}{more}. Record the ways between them, or "
            "make a map of each part"
        )
    kept_frames = [frames[k] for k in kept.tolist()]
    _leave_out(scene, frames, kept_frames, "see nothing that others see", "")
    return kept


def _described(names: Sequence[str]) -> str:
    """Return the number of frames of a part, its first and its last one, as text."""
    if len(names) == 1:
        return f"1 frame ({names[0][:40]})"
    return f"{len(names)} frames ({names[0][:40]} to {names[-1][:40]})"


def _leave_out(
    scene: Scene, frames: Sequence[Frame], kept: Iterable[Frame], fault: str, advice: str
) -> None:
    """Warn of the frames that are left out.

    Raises:
        SceneError: They are too many.
    """
    names = {frame.name for frame in kept}
    lost = [frame.name for frame in frames if frame.name not in names]
    if not lost and frames:
        return
    listed = ", ".join(name[:40] for name in lost[:_NAMED]) + ", ..." * (len(lost) > _NAMED)
    if not names or len(lost) > MAX_LACKING * len(frames):
        raise SceneError(
            f"{scene.name[:60]}: {len(lost)} of {len(frames)} training frames {fault} ({listed}), "
            f"expected at most {MAX_LACKING:.0%}; {advice}"
        )
    _log.warning(
        "%s: %d of %d training frames %s and are left out (%s)",
        scene.name,
        len(lost),
        len(frames),
        fault,
        listed,
    )
