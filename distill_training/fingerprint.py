"""Fingerprints: of a file, and of everything that a training follows from."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

from distill_training.config import TrainConfig
from distill_training.reconstruction import Reconstruction
from mote_localization.errors import CheckpointError
from mote_localization.progress import track

_CHUNK_BYTES = 8 << 20
_QUICK_BYTES = 1 << 30  # read within two seconds


def file_sha256(path: Path | str) -> str:
    """Return the SHA-256 of a file, in hexadecimal; shows its progress where it takes long.

    Raises:
        CheckpointError: The file cannot be read.
    """
    path = Path(path)
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            size = path.stat().st_size
            chunks = iter(lambda: file.read(_CHUNK_BYTES), b"")
            if size > _QUICK_BYTES:
                chunks = track(chunks, f"fingerprint of {path.name}", -(-size // _CHUNK_BYTES))
            for chunk in chunks:
                digest.update(chunk)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from error
    return digest.hexdigest()


def training_identity(
    reconstruction: Reconstruction,
    student: str,
    settings: Mapping[str, object],
    config: TrainConfig,
    processes: int = 1,
) -> str:
    """Return what changes with whatever decides what is learned, in hexadecimal.

    Of a pretrained file its content counts, not its name. What is only said of the student may be
    said otherwise of one that is trained already, so neither what it is calibrated by counts nor
    the keyframes that stand beside it.

    Raises:
        CheckpointError: The pretrained file cannot be read.
    """
    file = settings.get("pretrained")
    learned = asdict(replace(config, calibrated_by=None))
    del learned["keyframes"]
    decisive = {
        "reconstruction": reconstruction.index(),
        "student": student,
        "settings": {**settings, "pretrained": file_sha256(str(file))} if file else settings,
        "config": learned,
        "processes": processes,
    }
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()
