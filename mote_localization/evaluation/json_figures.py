"""Figures of an evaluation or a benchmark as a JSON file."""

from pathlib import Path
from typing import Any

import msgspec

from mote_localization.evaluation.metrics import Evaluation
from mote_localization.files import atomic_write


def write_evaluation_json(path: Path, subject: dict[str, str], evaluation: Evaluation) -> None:
    """Write the figures and the errors of each frame; NaN and infinity become null.

    Raises:
        MoteError: The file cannot be written.
    """
    rows = zip(evaluation.answers, evaluation.errors_m, evaluation.errors_deg, strict=True)
    frames = [
        {
            "name": answer.name,
            "stamp_s": answer.stamp_s,
            "localized": answer.T_map_cam is not None,
            "answered": answer.answered,
            "reason": answer.reason,
            "error_cm": 100 * float(metres),
            "error_deg": float(degrees),
            "inliers": answer.inliers,
            "milliseconds": {stage: 1000 * s for stage, s in answer.seconds.items()},
            "latency_ms": None if answer.latency_s is None else 1000 * answer.latency_s,
        }
        for answer, metres, degrees in rows
    ]
    write_json(path, {"subject": subject, "summary": evaluation.summary, "frames": frames})


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write figures as JSON, completely or not at all; NaN and infinity become null.

    Raises:
        MoteError: The file cannot be written.
    """
    encoded = msgspec.json.encode(content, enc_hook=float)  # NumPy's numbers as float
    with atomic_write(path) as file:
        file.write(msgspec.json.format(encoded, indent=1))
