"""The plan of a place: a JSON file that names its submaps and their frames."""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Annotated

import msgspec

from mote_localization.errors import MoteError
from mote_localization.files import atomic_write
from mote_localization.input_files import read_input

FORMAT = 1

_MAX_BYTES = 16 << 20  # that of 20,000 frames has 2 MB
_ID_CHARS = 32
_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=1000)]
_Names = Annotated[tuple[_Name, ...], msgspec.Meta(max_length=100_000)]
_Digest = Annotated[str, msgspec.Meta(pattern=rf"^[0-9a-f]{{{_ID_CHARS}}}\Z")]
_SubmapName = Annotated[str, msgspec.Meta(pattern=r"^submap-[0-9]{2,5}\Z")]
_Count = Annotated[int, msgspec.Meta(ge=0)]
_Metres3 = tuple[float, float, float]


class _Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A part of the file, without other fields."""


class Neighbour(_Strict, frozen=True):
    """A submap that has frames in common with another one."""

    name: _SubmapName
    shared_frames: _Count


class Submap(_Strict, frozen=True):
    """The frames of one student."""

    name: _SubmapName
    id: _Digest  # of all that decides its training, see `submap_id`
    area_m2: Annotated[float, msgspec.Meta(ge=0)]  # floor that its own frames see
    centre: _Metres3  # mean position of its own cameras, map frame, m
    low: _Metres3  # bounds of the positions of all its cameras
    high: _Metres3
    neighbours: tuple[Neighbour, ...]
    own: _Names  # frames that no other submap has as own
    overlap: _Names  # frames that are own ones of other submaps

    @property
    def frames(self) -> tuple[str, ...]:
        """The names of all its frames."""
        return self.own + self.overlap


class Settings(_Strict, frozen=True):
    """What the place was divided by."""

    frames: _Count
    area_m2: float
    overlap: float


class SubmapPlan(_Strict, frozen=True):
    """The submaps of a place, in one map frame."""

    format: int
    recording: _Name  # path as it was given
    options: dict[str, str]  # of the recording, those that differ from their defaults
    settings: Settings
    seed: _Count
    left_out: _Names  # training frames that no submap has
    submaps: Annotated[tuple[Submap, ...], msgspec.Meta(min_length=1, max_length=1000)]
    frames: dict[_Name, _Digest]  # all frames of the submaps: digest of image, depth, pose, camera


def submap_id(
    own: Sequence[str], overlap: Sequence[str], contents: Mapping[str, str], seed: int
) -> str:
    """Return the digest of what decides a submap's training: its frames, their content, the seed.

    Args:
        own: Names of its own frames.
        overlap: Names of the frames of its overlap.
        contents: Digest of each frame.
        seed: Of the training.
    """
    frames = [[[name, contents[name]] for name in names] for names in (own, overlap)]
    text = json.dumps([FORMAT, seed, *frames])
    return hashlib.sha256(text.encode()).hexdigest()[:_ID_CHARS]


def write_plan(path: Path, plan: SubmapPlan) -> None:
    """Write a plan; the same plan gives the same bytes.

    Raises:
        MoteError: The file cannot be written.
    """
    with atomic_write(path) as file:
        file.write(msgspec.json.format(msgspec.json.encode(plan), indent=1) + b"\n")


def read_plan(path: Path) -> SubmapPlan:
    """Read a plan and check it.

    Raises:
        MoteError: The file is missing, damaged, of another format, or contradicts itself.
    """
    try:
        plan = msgspec.json.decode(read_input(path, _MAX_BYTES), type=SubmapPlan)
        if plan.format != FORMAT:
            raise ValueError(f"found format {plan.format}, expected {FORMAT}")
        _check(plan)
    except (OSError, ValueError, RecursionError) as error:  # msgspec's errors are ValueErrors
        reason = getattr(error, "strerror", None) or str(error)
        raise MoteError(
            f"{path}: cannot be used ({reason[:160]}); expected a plan made by `mote-distill plan`"
        ) from error
    return plan


def _check(plan: SubmapPlan) -> None:
    """Raise `ValueError` if a plan contradicts itself."""
    if Counter(chain.from_iterable(one.own for one in plan.submaps)) != Counter(list(plan.frames)):
        raise ValueError("a frame is not an own frame of exactly one submap")
    frames = {submap.name: set(submap.frames) for submap in plan.submaps}
    if len(frames) < len(plan.submaps):
        raise ValueError("two submaps have the same name")
    for submap in plan.submaps:
        if len(submap.overlap) > len(submap.own):
            raise ValueError(f"{submap.name}: its overlap has more frames than itself")
        known = frames[submap.name] <= plan.frames.keys()
        if len(frames[submap.name]) < len(submap.frames) or not known:
            raise ValueError(f"{submap.name}: a frame is there twice, or not a frame of the plan")
        if submap.id != submap_id(submap.own, submap.overlap, plan.frames, plan.seed):
            raise ValueError(f"{submap.name}: its id is not that of its frames")
    for submap in plan.submaps:
        if list(submap.neighbours) != neighbours_of(submap.name, frames):
            raise ValueError(f"{submap.name}: its neighbours are not those that share frames")


def neighbours_of(name: str, frames: Mapping[str, set[str]]) -> list[Neighbour]:
    """Return the submaps that share frames with one, those with the most first.

    Args:
        name: Name of the submap.
        frames: Names of all frames of each submap.
    """
    shared = {other: len(frames[name] & frames[other]) for other in frames if other != name}
    ranked = sorted(shared.items(), key=lambda item: (-item[1], item[0]))
    return [Neighbour(other, count) for other, count in ranked if count]
