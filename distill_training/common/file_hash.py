"""SHA-256 of files."""

import hashlib
from pathlib import Path

from mote_localization.errors import CheckpointError
from mote_localization.progress import track

_CHUNK_BYTES = 8 << 20
_QUICK_BYTES = 1 << 30  # files up to this size take less than about two seconds


def file_sha256(path: Path | str) -> str:
    """Return the SHA-256 of a file, hexadecimal; show the progress for a large one.

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
                chunks = track(chunks, f"SHA-256 of {path.name}", -(-size // _CHUNK_BYTES))
            for chunk in chunks:
                digest.update(chunk)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from error
    return digest.hexdigest()
