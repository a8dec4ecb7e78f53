"""Figures of an evaluation or a benchmark as a JSON file."""

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

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
    summary = asdict(evaluation.summary)
    write_json(path, {"subject": subject, "summary": summary, "frames": frames})


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write figures as JSON, completely or not at all; NaN and infinity become null.

    Raises:
        MoteError: The file cannot be written.
    """
    text = json.dumps(_null_if_not_finite(content), indent=1, allow_nan=False)
    with atomic_write(path) as file:
        file.write(text.encode())


def _null_if_not_finite(value: Any) -> Any:
    """Return a value with None in place of NaN and infinity, which JSON lacks."""
    if isinstance(value, dict):
        return {key: _null_if_not_finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_null_if_not_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
