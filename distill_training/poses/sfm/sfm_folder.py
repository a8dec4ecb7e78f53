"""The folder of structure from motion, whose files belong to certain images and settings."""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import pycolmap

from distill_training.common.array_folder import begin_folder, read_index
from distill_training.poses.poses_config import SfmConfig
from distill_training.poses.sfm.feature_database import is_damaged
from distill_training.poses.sfm.sfm_images import SfmImage
from distill_training.poses.sfm.sfm_model import Model

_log = logging.getLogger(__name__)
DATABASE = "features.db"


def begin_sfm_folder(
    folder: Path, images: Sequence[SfmImage], config: SfmConfig, sequential: bool
) -> None:
    """Create a folder for these images and settings; the files of others are deleted.

    Args:
        folder: For features, matches and models.
        images: The images, in recording order.
        config: All settings.
        sequential: The images are a recording.
    """
    index, path = _index(images, config, sequential), folder / "sfm.json"
    shutil.rmtree(_discarded(folder), ignore_errors=True)
    if path.exists() and read_index(path) != index:
        _discard(folder, "images or settings have changed")
    elif is_damaged(folder / DATABASE):
        _discard(folder, f"its {DATABASE} is damaged")
    begin_folder(path, index)


def stored_model(folder: Path, inputs: object, make: Callable[[], Model]) -> Model:
    """Return a model, from the folder if it was made before of the same inputs.

    Adjusted again, poses would differ in their last digits, and not be those of a begun
    reconstruction.

    Args:
        folder: Folder of structure from motion.
        inputs: What decides the model beside the folder's images and settings; JSON can store it.
        make: Makes the model.
    """
    digest = hashlib.sha256(json.dumps(inputs).encode()).hexdigest()
    path = folder / f"model_{digest[:16]}"
    if path.exists():
        return Model.of(pycolmap.Reconstruction(path))
    model = make()
    model.write(path)
    return model


def _discard(folder: Path, reason: str) -> None:
    """Delete a folder; where this is interrupted, none of its files is used again."""
    _log.warning("%s: %s, structure from motion starts again", folder, reason)
    os.replace(folder, _discarded(folder))
    shutil.rmtree(_discarded(folder))


def _discarded(folder: Path) -> Path:
    """Return where a folder is while it is deleted."""
    return folder.with_name(f"{folder.name}.discarded")


def _index(images: Sequence[SfmImage], config: SfmConfig, sequential: bool) -> dict:
    """Return everything that decides the result."""
    frames = [
        {
            "name": one.frame.name,
            "live": asdict(one.live),
            "working": asdict(one.working),
            "lens": one.lens,
            "known": one.known,
        }
        for one in images
    ]
    index = {"settings": asdict(config), "sequential": sequential, "frames": frames}
    return json.loads(json.dumps(index))  # tuples become lists, as in the file
