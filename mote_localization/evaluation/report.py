"""The HTML report: one evaluation on one self-contained page."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from mote_localization.bundles.bundle_localizer import AnyLocalizer
from mote_localization.evaluation import report_plots
from mote_localization.evaluation.machine import machine
from mote_localization.evaluation.metrics import (
    PERCENTILES,
    STAGES,
    Answer,
    Evaluation,
    Summary,
    accuracy_rows,
    centimetres,
    degrees_text,
    percent,
)
from mote_localization.files import atomic_write
from mote_localization.scenes import Frame

_LARGEST_ERRORS = 8  # frames in the table of the largest errors


def write_report(
    path: Path,
    subject: dict[str, str],
    evaluation: Evaluation,
    localizer: AnyLocalizer,
    frames: Iterable[Frame],
) -> None:
    """Write the report, completely or not at all.

    Args:
        path: File to write.
        subject: Scene, split, map, backend and date of the evaluation.
        evaluation: Answers, their errors and the figures.
        localizer: Localizer of the map; it localizes the example image again.
        frames: The evaluated frames in order, for the example image.

    Raises:
        MoteError: The file cannot be written, or the example image cannot be read.
    """
    environment = Environment(
        loader=PackageLoader("mote_localization.evaluation", "."),
        autoescape=True,  # names come from files that others wrote
        undefined=StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    summary = evaluation.summary
    page = environment.get_template("report.html.jinja").render(
        subject=subject,
        summary=summary,
        map=localizer.info,
        headline=_headline(summary),
        accuracy=accuracy_rows(summary),
        percentiles=[f"p{p}" for p in PERCENTILES],
        times=[(k, *(f"{ms:.1f}" for ms in v.values())) for k, v in summary.milliseconds.items()],
        figures=list(_figures(evaluation, localizer, frames)),
        largest_errors=_largest_errors(evaluation),
        no_pose_reasons=_no_pose_reasons(summary),
        machine=machine(),
    )
    with atomic_write(path) as file:
        file.write(page.encode())


def _headline(summary: Summary) -> list[tuple[str, str]]:
    """Return the most important figures: value, label."""
    cells = []
    if summary.median_cm is not None and summary.median_deg is not None:
        median = centimetres(summary.median_cm)
        rotation = "" if math.isinf(summary.median_cm) else f", {degrees_text(summary.median_deg)}"
        cells.append((median, f"median position error{rotation}"))
        cells.append((percent(summary.within["5 cm, 5 deg"]), "of frames within 5 cm and 5°"))
    without_pose = summary.frames - summary.localized
    cells.append((percent(without_pose / summary.frames), "of frames without a pose"))
    stage = "image to pose" if "image to pose" in summary.milliseconds else "total"
    if stage in summary.milliseconds:
        label = "image to pose, p95" if summary.transport else "a frame, p95"
        cells.append((f"{summary.milliseconds[stage]['p95']:.1f} ms", label))
    return cells


def _figures(
    evaluation: Evaluation, localizer: AnyLocalizer, frames: Iterable[Frame]
) -> Iterator[tuple[str, str]]:
    """Yield the SVG text and the caption of each figure."""
    summary, answers = evaluation.summary, evaluation.answers
    if summary.frames_with_truth or summary.localized:
        svg, view = report_plots.trajectory(evaluation)
        yield svg, f"Camera positions, {view}. Thin lines join each estimate to its true position."
    if summary.frames_with_truth:
        bands = " Shaded: no pose." if summary.localized < summary.frames else ""
        yield (
            report_plots.error_over_time(evaluation),
            f"Errors of the localized frames; dashed: 5 cm and 5°.{bands}",
        )
    latencies = [a.latency_s for a in answers if a.latency_s is not None]
    if latencies:
        steps = np.diff([a.stamp_s for a in answers])
        rate = summary.transport.rate if summary.transport else 1.0
        period_ms = 1000 * float(np.median(steps)) / rate if len(steps) else None
        yield (
            report_plots.times(1000 * np.array(latencies), "image to pose (ms)", period_ms),
            "Time from publishing an image to receiving its pose.",
        )
    elif any(a.seconds for a in answers):
        totals = [1000 * sum(a.seconds[s] for s in STAGES) for a in answers if a.seconds]
        yield (
            report_plots.times(np.array(totals), "time a frame (ms)", None),
            "Time to localize one frame: remapping, network and pose.",
        )
    example = _median_error_answer(evaluation)
    if example is not None:
        frame = next(frame for frame in frames if frame.name == example.name)
        found = localizer.localize(frame.image(), frame.known_camera())
        if found.T_map_cam is not None:
            yield (
                report_plots.prediction(found, localizer.info.camera),
                f"Frame {example.name}, of median error: the image, the error that the network "
                "predicts for each cell, and the predicted cloud (the 90 % of least sigma). "
                "Neighbouring cells are joined and have the colours of the image; the view is "
                f"from behind and above. {found.inliers} of the {found.cells} cells given to the "
                "pose solver agree with the pose.",
            )


def _median_error_answer(evaluation: Evaluation) -> Answer | None:
    """Return the localized frame of median error, or the middle one without ground truth."""
    answers = evaluation.answers
    localized = [
        (np.nan_to_num(error_m), i)
        for i, (a, error_m) in enumerate(zip(answers, evaluation.errors_m, strict=True))
        if a.T_map_cam is not None
    ]
    return answers[sorted(localized)[len(localized) // 2][1]] if localized else None


def _largest_errors(evaluation: Evaluation) -> list[tuple[str, ...]]:
    """Return the rows of the table of the largest errors of localized frames."""
    answers, errors_m = evaluation.answers, evaluation.errors_m
    indices = np.flatnonzero(np.isfinite(errors_m)).tolist()
    return [
        (
            answers[i].name,
            f"{answers[i].stamp_s - answers[0].stamp_s:.2f} s",
            centimetres(100 * errors_m[i]),
            degrees_text(evaluation.errors_deg[i]),
            str(answers[i].inliers),
        )
        for i in sorted(indices, key=lambda i: -errors_m[i])[:_LARGEST_ERRORS]
    ]


def _no_pose_reasons(summary: Summary) -> list[tuple[str, str]]:
    """Return the rows of the table of reasons why frames have no pose."""
    rows = [(reason, str(frames)) for reason, frames in summary.lost_reasons.items()]
    if summary.unanswered:
        rows.append(("no answer: the node dropped the image", str(summary.unanswered)))
    return rows
