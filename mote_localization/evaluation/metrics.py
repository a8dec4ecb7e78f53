"""Metrics of a localization run: pose errors, success rates, covariance coverage and times.

A lost or unanswered frame has an infinite error. It counts in every median and fraction.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mote_localization.errors import MoteError
from mote_localization.evaluation.trajectory_errors import trajectory_errors
from mote_localization.geometry import local_coordinates, rotation_angle
from mote_localization.pose_calibration import CHI2_95, nees

BOUNDS = ((10, 5), (5, 5), (2, 2), (1, 1))  # cm, degrees
PERCENTILES = (50, 95, 99)
WRONG_M, WRONG_DEG = 0.25, 10.0  # a pose with a larger error of either is wrong
STAGES = ("remap", "network", "pose")


@dataclass(frozen=True)
class Answer:
    """The result of localizing one frame."""

    name: str  # of the frame
    stamp_s: float
    T_map_cam_true: np.ndarray | None  # (4, 4); None: no ground truth
    T_map_cam: np.ndarray | None  # (4, 4); None: lost or unanswered
    reason: str  # why the frame is lost; empty with a pose
    inliers: int
    seconds: dict[str, float]  # by stage; empty: unanswered
    answered: bool = True  # False: the node dropped the image (over ROS)
    latency_s: float | None = None  # from publishing the image to receiving its pose, over ROS
    covariance_66: np.ndarray | None = None  # of T_map_cam: x y z rotX rotY rotZ, m and rad


@dataclass(frozen=True)
class Transport:
    """Measurements of a run over ROS."""

    pose_rate_hz: float  # of the poses received
    node_peak_mb: float  # peak resident memory of the node, 10^6 bytes
    rate: float  # speed of the replay, 1 = as recorded


@dataclass(frozen=True)
class Summary:
    """The figures of one evaluation. Errors are None if no frame has ground truth."""

    frames: int
    frames_with_truth: int
    localized: int
    lost: int
    unanswered: int
    median_cm: float | None  # inf: more than half of the frames have no pose
    median_deg: float | None
    within: dict[str, float]  # "5 cm, 5 deg" -> fraction of the frames with truth
    worst_cm: float | None  # largest error of a localized frame
    worst_deg: float | None
    # of the localized frames with truth: see `trajectory_errors`
    trajectory: dict[str, dict[str, float]]
    # "position", "pose" -> fraction of the localized frames with the truth in the 95 % ellipsoid
    within_95: dict[str, float]
    lost_reasons: dict[str, int]  # an example of each kind of reason -> frames
    milliseconds: dict[str, dict[str, float]]  # stage, "total", "image to pose" -> p50, p95, p99
    transport: Transport | None


@dataclass(frozen=True)
class Evaluation:
    """The answers of a run with their errors and figures; made by `evaluate_answers`."""

    answers: Sequence[Answer]
    errors_m: np.ndarray  # (n,) position errors; see `pose_errors`
    errors_deg: np.ndarray  # (n,) rotation errors
    summary: Summary


def evaluate_answers(answers: Sequence[Answer], transport: Transport | None = None) -> Evaluation:
    """Return the errors and the summary of all answers.

    Raises:
        MoteError: There are no answers.
    """
    if not answers:
        raise MoteError("nothing to evaluate: the scene has no frames in this split")
    errors_m, errors_deg = pose_errors(answers)
    with_truth = ~np.isnan(errors_m)
    cm, deg = 100 * errors_m[with_truth], errors_deg[with_truth]
    finite = np.isfinite(cm)
    localized = sum(a.T_map_cam is not None for a in answers)
    unanswered = sum(not a.answered for a in answers)
    summary = Summary(
        frames=len(answers),
        frames_with_truth=len(cm),
        localized=localized,
        lost=len(answers) - localized - unanswered,
        unanswered=unanswered,
        median_cm=float(np.median(cm)) if len(cm) else None,
        median_deg=float(np.median(deg)) if len(deg) else None,
        within={
            f"{c} cm, {d} deg": float(np.mean((cm < c) & (deg < d)))
            for c, d in (BOUNDS if len(cm) else ())
        },
        worst_cm=float(cm[finite].max()) if finite.any() else None,
        worst_deg=float(deg[finite].max()) if finite.any() else None,
        trajectory=_trajectory_errors(answers),
        within_95=_coverage_95(answers),
        lost_reasons=_count_lost_reasons(answers),
        milliseconds=_stage_percentiles_ms(answers),
        transport=transport,
    )
    return Evaluation(answers, errors_m, errors_deg, summary)


def pose_errors(answers: Sequence[Answer]) -> tuple[np.ndarray, np.ndarray]:
    """Return the position errors (n,) in metres and the rotation errors (n,) in degrees.

    Position: distance of the camera centres. Rotation: angle of R_true^T R_estimated. A frame
    without a pose has the errors inf and 180; a frame without ground truth has NaN.
    """
    metres = np.array([np.nan if a.T_map_cam_true is None else np.inf for a in answers])
    degrees = np.where(np.isnan(metres), np.nan, 180.0)
    for i, answer in enumerate(answers):
        T_true, T_estimated = answer.T_map_cam_true, answer.T_map_cam
        if T_true is not None and T_estimated is not None:
            metres[i] = np.linalg.norm(T_estimated[:3, 3] - T_true[:3, 3])
            degrees[i] = np.degrees(rotation_angle(T_true[:3, :3].T @ T_estimated[:3, :3]))
    return metres, degrees


def are_wrong(errors_m: np.ndarray, errors_deg: np.ndarray) -> np.ndarray:
    """Return which frames (n,) have a wrong pose, from their errors; a lost frame has none."""
    return np.isfinite(errors_m) & ((errors_m > WRONG_M) | (errors_deg > WRONG_DEG))


def _trajectory_errors(answers: Sequence[Answer]) -> dict[str, dict[str, float]]:
    pairs = [
        (a.T_map_cam_true, a.T_map_cam)
        for a in answers
        if a.T_map_cam_true is not None and a.T_map_cam is not None
    ]
    T_n244 = np.array(pairs).reshape(-1, 2, 4, 4)
    return trajectory_errors(T_n244[:, 0], T_n244[:, 1])


def _coverage_95(answers: Sequence[Answer]) -> dict[str, float]:
    """Return the fractions of true positions and poses in their 95 % ellipsoids; empty: unknown."""
    known = [
        (local_coordinates(a.T_map_cam_true, a.T_map_cam), a.covariance_66)
        for a in answers
        if not (a.T_map_cam is None or a.T_map_cam_true is None or a.covariance_66 is None)
    ]
    if not known:
        return {}
    errors_n6, covariances_n66 = map(np.array, zip(*known, strict=True))
    return {
        name: float((nees(errors_n6[:, :k], covariances_n66[:, :k, :k]) < CHI2_95[k]).mean())
        for name, k in (("position", 3), ("pose", 6))
    }


def _count_lost_reasons(answers: Sequence[Answer]) -> dict[str, int]:
    """Count the lost frames by reason; reasons that differ only in their numbers are one kind."""
    reasons = [a.reason for a in answers if a.T_map_cam is None and a.answered]
    kinds = [re.sub(r"[\d.]+", "#", reason) for reason in reasons]
    return {reasons[kinds.index(kind)]: n for kind, n in Counter(kinds).most_common()}


def _stage_percentiles_ms(answers: Sequence[Answer]) -> dict[str, dict[str, float]]:
    times = {stage: [a.seconds[stage] for a in answers if stage in a.seconds] for stage in STAGES}
    times["total"] = [sum(a.seconds[s] for s in STAGES) for a in answers if a.seconds]
    times["image to pose"] = [a.latency_s for a in answers if a.latency_s is not None]
    return {stage: percentiles_ms(seconds) for stage, seconds in times.items() if seconds}


def percentiles_ms(seconds: Sequence[float]) -> dict[str, float]:
    """Return p50, p95 and p99 of some times, in milliseconds."""
    return {f"p{p}": float(1000 * np.percentile(seconds, p)) for p in PERCENTILES}


def accuracy_rows(summary: Summary) -> list[tuple[str, str]]:
    """Return the rows of the accuracy table: label, figure with its unit."""
    rows = [("frames", str(summary.frames))]
    if summary.median_cm is None or summary.median_deg is None:
        rows.append(("median error", "no ground truth"))
    else:
        if summary.frames_with_truth < summary.frames:
            rows.append(("frames with ground truth", str(summary.frames_with_truth)))
        rows.append(("median error", _error_text(summary.median_cm, summary.median_deg)))
        rows += [
            (f"within {bound.replace(' deg', '°')}", percent(fraction))
            for bound, fraction in summary.within.items()
        ]
        if summary.worst_cm is not None and summary.worst_deg is not None:
            worst = _error_text(summary.worst_cm, summary.worst_deg)
            rows.append(("worst of the localized", worst))
        for kind in ("APE", "RPE"):
            cm, deg = (summary.trajectory.get(f"{kind.lower()}_{unit}") for unit in ("cm", "deg"))
            if cm and deg:
                rmse = _error_text(cm["rmse"], deg["rmse"])
                rows.append((f"{kind} of the localized, RMSE", rmse))
    rows += [
        (f"true {quantity} in its 95 % ellipsoid", percent(fraction))
        for quantity, fraction in summary.within_95.items()
    ]
    rows.append(("lost", percent(summary.lost / summary.frames)))
    if summary.lost_reasons:
        rows.append(("most are lost by", next(iter(summary.lost_reasons))))
    if summary.transport:
        answered = 1 - summary.unanswered / summary.frames
        rows.append(("images answered", percent(answered)))
        rows.append(("pose rate", f"{summary.transport.pose_rate_hz:.1f} Hz"))
        rows.append(("node memory, peak", f"{summary.transport.node_peak_mb:.0f} MB"))
    return rows


def _error_text(cm: float, deg: float) -> str:
    return "lost" if math.isinf(cm) else f"{centimetres(cm)}, {degrees_text(deg)}"


def percent(fraction: float) -> str:
    """Return a fraction as text in percent."""
    return f"{100 * fraction:.1f} %"


def centimetres(value: float) -> str:
    """Return a length in cm as text with its unit; infinity is "lost"."""
    return "lost" if math.isinf(value) else f"{value:.2f} cm" if value < 10 else f"{value:.1f} cm"


def degrees_text(value: float) -> str:
    """Return an angle in degrees as text with its unit."""
    return f"{value:.2f}°"
