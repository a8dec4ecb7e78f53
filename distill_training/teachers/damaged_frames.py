"""Leaves out the training frames whose image or depth is damaged, before they are used."""

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from distill_training.common.array_folder import read_index
from distill_training.reconstruction import begun_reconstruction
from mote_localization.errors import ReconstructionError, SceneError
from mote_localization.files import atomic_write
from mote_localization.progress import track_if_slow
from mote_localization.scenes import Frame, Scene
from mote_localization.scenes.training_selection import TrainingSelection

_log = logging.getLogger(__name__)
_LEFT_OUT = "left_out.json"  # beside the index of a reconstruction: frame -> reason
_NAMED = 3  # frames that the warning names


def without_damaged(scene: Scene, folder: Path, with_depth: bool, most: float) -> Scene:
    """Return a scene without its damaged training frames; a warning states their number.

    A begun reconstruction keeps the choice that it began with, and its images are not read.

    Args:
        scene: Its training frames are read.
        folder: Folder of the reconstruction, which stores the choice.
        with_depth: A frame with damaged depth is damaged, too.
        most: Largest fraction of damaged frames.

    Raises:
        SceneError: More frames are damaged.
        ReconstructionError: The stored choice is damaged, or cannot be written.
    """
    path = folder / _LEFT_OUT
    if begun_reconstruction(folder):
        damaged = _read(path)
    else:
        damaged = damaged_frames(list(scene.frames("train")), with_depth)
        _check_number(scene, damaged, most)
        _write(path, damaged)
    if not damaged:
        return scene
    names = list(damaged)
    _log.warning(
        "%s: %d of %d training frames cannot be read and are left out (%s%s); the first: %s",
        scene.name,
        len(names),
        scene.count("train"),
        ", ".join(names[:_NAMED]),
        ", ..." if len(names) > _NAMED else "",
        damaged[names[0]],
    )
    return TrainingSelection(scene, names)


def damaged_frames(frames: Sequence[Frame], with_depth: bool) -> dict[str, str]:
    """Return the reason for each frame whose image cannot be read, by name.

    Args:
        frames: In recorded order.
        with_depth: Also those whose depth cannot be read.
    """
    # One after another: in a video or a recording, threads would go back, which is slow.
    faults = {}
    for frame in track_if_slow(frames, "check images", len(frames)):
        try:
            frame.image()
            if with_depth:
                frame.depth()
        except SceneError as error:
            faults[frame.name] = str(error)
    return faults


def _check_number(scene: Scene, damaged: Mapping[str, str], most: float) -> None:
    """Raise `SceneError` if more than a fraction of the training frames are damaged."""
    count = scene.count("train")
    if len(damaged) > most * count:
        raise SceneError(
            f"scene {scene.name[:40]}: {len(damaged)} of {count} training frames cannot be read, "
            f"expected at most {most:.0%}; copy them again; the first: "
            f"{next(iter(damaged.values()))[:150]}"
        )


def _read(path: Path) -> dict[str, str]:
    """Return the stored reasons; none where there is no file."""
    if not path.exists():
        return {}
    try:
        return msgspec.convert(read_index(path), dict[str, str])
    except msgspec.ValidationError as error:
        raise ReconstructionError(
            f"{path}: damaged ({str(error)[:80]}); delete the folder and reconstruct again"
        ) from error


def _write(path: Path, damaged: Mapping[str, str]) -> None:
    """Store the reasons; without any, there is no file."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise ReconstructionError(f"{path}: cannot be deleted ({error.strerror})") from error
    if damaged:
        with atomic_write(path, ReconstructionError) as file:
            file.write(json.dumps(damaged, indent=1).encode())
