"""Identifies a training by everything that determines its result."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, replace

from distill_training.common.file_hash import file_sha256
from distill_training.common.renamed_options import first_names
from distill_training.reconstruction import Reconstruction
from distill_training.training.train_config import TrainConfig


def training_identity(
    reconstruction: Reconstruction,
    student: str,
    settings: Mapping[str, object],
    config: TrainConfig,
    processes: int = 1,
) -> str:
    """Return a SHA-256, in hexadecimal, of all that determines the trained weights.

    A pretrained file counts by its content, not by its name. Calibration and keyframes do not
    change the weights: they do not count, and may differ when a training is resumed.

    Raises:
        CheckpointError: The pretrained file cannot be read.
    """
    file = settings.get("pretrained")
    learned = first_names(asdict(replace(config, calibration_from=None)))
    del learned["keyframes"]
    if not config.augment.tilt_deg:  # an option that earlier trainings did not have
        del learned["augment"]["tilt_deg"]
    settings = first_names(settings)
    decisive = {
        "reconstruction": reconstruction.index(),
        "student": student,
        "settings": {**settings, "pretrained": file_sha256(str(file))} if file else settings,
        "config": learned,
        "processes": processes,
    }
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()
