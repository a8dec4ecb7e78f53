"""The frames of a new recording of a place that has a map: their poses, and their submaps."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from distill_training.submaps.plan_file import SubmapPlan
from mote_localization.bundles.bundle_localizer import open_localizer
from mote_localization.bundles.place_poses import FAR_M, distances
from mote_localization.errors import SceneError
from mote_localization.evaluation.localize_frames import localize_frames
from mote_localization.image_headers import Lens
from mote_localization.progress import track
from mote_localization.scenes import Frame, Scene, Split
from mote_localization.scenes.scene import SceneSelection

LEAST_FRAMES = 10  # new frames for which a submap is trained again


class NewFrame(NamedTuple):
    """A frame and where it is in the place."""

    frame: Frame
    T_map_cam: np.ndarray  # (4, 4)
    nearest: str  # frame of the map


@dataclass(frozen=True)
class NewFrames:
    """The frames of a recording, by the submap that has the nearest frame of the map."""

    by_submap: dict[str, list[NewFrame]]  # of submaps that have enough of them
    left_out: Counter[str]  # reason -> number of frames
    count: int  # of all frames

    def left_out_text(self) -> str:
        """Return how many frames are left out, and why."""
        reasons = ", ".join(f"{count} {reason}" for reason, count in self.left_out.items())
        return f"{self.left_out.total()} of {self.count} frames are left out: {reasons}"


def find_new_frames(
    scene: Scene, bundle: Path | None, plan: SubmapPlan, known: Mapping[str, np.ndarray]
) -> NewFrames:
    """Return the training frames of a recording by the submap that they are of.

    Args:
        scene: The recording.
        bundle: In which its frames are localized; None: their poses are in the map's frame.
        plan: Submaps of the map.
        known: T_map_cam (4, 4) of the map's frames.

    Raises:
        SceneError: The recording has no training frames, or their poses are not in metres.
        MoteError: The bundle cannot be used, or a frame has no camera.
    """
    frames = list(scene.frames("train"))
    if not frames:
        raise SceneError(f"{scene.name[:60]}: found no training frames, expected one or more")
    if bundle is None and not scene.metric:
        raise SceneError(
            f"{scene.name[:60]}: its poses are not in metres, expected those of the map's frame; "
            "state their unit by --unit-m, or localize the frames (--poses localized)"
        )
    owner = {name: one.name for one in plan.submaps for name in one.own if name in known}
    T_n44 = np.array([known[name] for name in owner])
    names, left_out = list(owner), Counter[str]()
    found: dict[str, list[NewFrame]] = {one.name: [] for one in plan.submaps}
    poses = _localized(frames, bundle) if bundle else _given(frames)
    for frame, (T_map_cam, reason) in zip(frames, poses, strict=True):
        if T_map_cam is None:
            left_out[reason] += 1
        elif np.linalg.norm(T_n44[:, :3, 3] - T_map_cam[:3, 3], axis=1).min() > FAR_M:
            left_out[f"more than {FAR_M:g} m from every frame of the map"] += 1
        else:
            nearest = names[int(distances(T_n44, T_map_cam).argmin())]
            found[owner[nearest]].append(NewFrame(frame, T_map_cam, nearest))
    for name, few in found.items():
        if 0 < len(few) < LEAST_FRAMES:
            left_out[f"in {name}, which needs {LEAST_FRAMES}"] = len(few)
    by_submap = {name: some for name, some in found.items() if len(some) >= LEAST_FRAMES}
    return NewFrames(by_submap, left_out, len(frames))


def _given(frames: Sequence[Frame]) -> Iterator[tuple[np.ndarray | None, str]]:
    """Yield the pose of each frame, or why it has none."""
    for frame in frames:
        yield frame.T_map_cam, "without a pose"


def _localized(frames: Sequence[Frame], bundle: Path) -> Iterator[tuple[np.ndarray | None, str]]:
    """Yield the pose of each frame in a bundle, or why it has none."""
    with closing(open_localizer(bundle)) as localizer:
        answers = localize_frames(localizer, frames, tracking=True)
        for answer in track(answers, "localize", len(frames)):
            ambiguous = answer.reason.startswith("ambiguous")
            yield answer.T_map_cam, "ambiguous" if ambiguous else "lost"


class PosedFrame(Frame):
    """A frame under another name, at another pose."""

    def __init__(self, frame: Frame, name: str, T_map_cam: np.ndarray) -> None:
        """Take over everything else."""
        self._frame = frame
        self.name, self.T_map_cam = name, T_map_cam
        self.stamp_s, self.camera = frame.stamp_s, frame.camera

    def image(self) -> np.ndarray:
        """Return image_hw3; see `Frame.image`."""
        return self._frame.image()

    def size(self) -> tuple[int, int]:
        """Return width and height in px; see `Frame.size`."""
        return self._frame.size()

    def lens(self) -> Lens | None:
        """Return camera and focal length; see `Frame.lens`."""
        return self._frame.lens()

    def depth(self) -> np.ndarray | None:
        """Return depth_hw, or None; see `Frame.depth`."""
        return self._frame.depth()

    def has_depth(self) -> bool:
        """Return whether there is a depth image; see `Frame.has_depth`."""
        return self._frame.has_depth()


class PosedScene(SceneSelection):
    """Some frames of a scene, all of them for training, in metres."""

    def __init__(self, whole: Scene, frames: Sequence[PosedFrame]) -> None:
        """Keep the frames, in recording order."""
        super().__init__(whole)
        self.metric = True
        self._frames = frames

    def frames(self, split: Split) -> Iterator[Frame]:
        """Iterate over the frames of a split, in recording order."""
        return iter(self._frames if split != "test" else ())

    def count(self, split: Split) -> int:
        """Return the number of frames of a split."""
        return len(self._frames) if split != "test" else 0
