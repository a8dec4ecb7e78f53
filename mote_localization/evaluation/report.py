"""`report.html`: an evaluation on one page, in one file that needs nothing else."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

import numpy as np

from mote_localization.errors import MoteError
from mote_localization.evaluation import report_plots as figures
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
from mote_localization.localizer import Localizer
from mote_localization.scenes import Frame

_WORST = 8  # frames named in the table of the worst

_CSS = """
:root { --paper: #fff; --ink: #1b1d21; --muted: #6b7079; --rule: #dcdfe4; --soft: #f5f6f8; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #15171b; --ink: #e4e6ea; --muted: #969ca6; --rule: #33373e; --soft: #1d2025; }
}
@media print { :root { --paper: #fff; --ink: #000; --muted: #555; --rule: #ccc; --soft: #fff; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 "Charter", "Bitstream Charter", "Source Serif 4", Georgia, serif; }
main { max-width: 47rem; margin: 0 auto; padding: 3rem 1.25rem 4rem; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .5rem; font-weight: 600; }
h2 { font-size: 1.15rem; margin: 2.75rem 0 .75rem; font-weight: 600; }
p { margin: .5rem 0; }
.lead { color: var(--muted); margin-bottom: 2rem; }
.headline { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr));
  border-top: 2px solid var(--ink); border-bottom: 1px solid var(--rule); }
.headline div { padding: .9rem 1rem .9rem 0; }
.headline b { display: block; font-size: 1.55rem; font-weight: 600; line-height: 1.25;
  font-variant-numeric: tabular-nums lining-nums; white-space: nowrap; }
.headline span { color: var(--muted); font-size: .87rem; }
.tables { display: grid; grid-template-columns: repeat(auto-fit, minmax(18rem, 1fr)); gap: 2.5rem; }
.scroll { overflow-x: auto; }
.scroll + .scroll { margin-top: 1.75rem; }
.tables .scroll + .scroll { margin-top: 0; }
table { border-collapse: collapse; width: 100%; font-size: .93rem; align-self: start;
  font-variant-numeric: tabular-nums lining-nums; }
caption { text-align: left; color: var(--muted); font-size: .87rem; padding-bottom: .35rem; }
th, td { text-align: right; padding: .28rem 0 .28rem 1rem; border-bottom: 1px solid var(--rule);
  font-weight: 400; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
thead th { border-bottom: 1px solid var(--ink); color: var(--muted); }
td.text { text-align: left; }
figure { margin: 2.25rem 0 0; }
figure svg { display: block; width: 100%; height: auto;
  font-family: system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
svg text { font-family: inherit !important; }
figcaption { font-size: .9rem; color: var(--muted); margin-top: .4rem; }
figcaption b { color: var(--ink); font-weight: 600; }
footer { margin-top: 3rem; border-top: 1px solid var(--rule); padding-top: .75rem;
  color: var(--muted); font-size: .87rem; }
"""


def write_report(
    path: Path,
    subject: dict[str, str],
    evaluation: Evaluation,
    localizer: Localizer,
    frames: Iterable[Frame],
) -> None:
    """Write the report, whole or not at all.

    Args:
        path: file to write.
        subject: what was evaluated: scene, split, map, backend, date.
        evaluation: the answers, their errors and the figures.
        localizer: the map's; it localizes the example image once more.
        frames: the frames that were evaluated, in order, to find the example's image.

    Raises:
        MoteError: the file cannot be written, or the example's image cannot be read.
    """
    page = "".join(_page(subject, evaluation, localizer, frames))
    try:
        with atomic_write(path) as file:
            file.write(page.encode())
    except OSError as error:
        raise MoteError(f"{path}: the report cannot be written ({error.strerror})") from error


def _page(
    subject: dict[str, str],
    evaluation: Evaluation,
    localizer: Localizer,
    frames: Iterable[Frame],
) -> Iterable[str]:
    summary = evaluation.summary
    over_ros = summary.transport is not None
    info = localizer.info
    title = f"Localization in {subject['scene']}"
    way = "replayed over ROS 2 to a localizer node" if over_ros else "localized without ROS"
    scale = "" if info.metric else ", scale unknown"
    licence = f" ({info.teacher_licence})" if info.teacher_licence else ""
    yield (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n<link rel="icon" href="data:,">\n'
        f"<title>{escape(title)}</title>\n<style>{_CSS}</style>\n</head>\n<body>\n<main>\n"
        f"<h1>{escape(title)}</h1>\n"
        f'<p class="lead">{summary.frames} {escape(subject["split"])} frames {way}, each by '
        f"itself, in the map {escape(subject['map'])}: student {escape(info.student)}, teacher "
        f"{escape(info.teacher)}{escape(licence)}, {info.camera.width}×{info.camera.height} px, "
        f"stride {info.stride}{scale}. {escape(subject['date'])}.</p>\n"
    )
    yield _headline(summary)
    yield '<h2>Results</h2>\n<div class="tables">\n'
    yield _table("Accuracy, over all frames", [], accuracy_rows(summary))
    yield _table(
        "Time a frame, milliseconds",
        ["", *(f"p{p}" for p in PERCENTILES)],
        [(k, *(f"{ms:.1f}" for ms in v.values())) for k, v in summary.milliseconds.items()],
    )
    yield "</div>\n"
    number = 0
    for svg, caption in _figures(evaluation, localizer, frames):
        number += 1
        label = f"<figcaption><b>Figure {number}.</b> {caption}</figcaption>"
        yield f"<figure>\n{svg}\n{label}\n</figure>\n"
    yield _faults(evaluation)
    yield (
        "<h2>How it was measured</h2>\n<p>Position error is the distance between the true and the "
        "found camera centre, rotation error the angle of the rotation between them; the found "
        "poses are not aligned to the true ones. A frame without a pose counts as infinitely wrong "
        "in every median and share. Frames are localized one by one, without tracking or "
        "smoothing; depth is never read.</p>\n"
    )
    if over_ros:
        yield (
            "<p>Images and calibrations were published by one process and answered by another "
            "over DDS. Image to pose is the time from publishing an image to receiving its pose in "
            "a third process, on one clock.</p>\n"
        )
    yield (
        f"<footer>Backend {escape(subject['backend'])}; {escape(machine())}.</footer>\n"
        "</main>\n</body>\n</html>\n"
    )


def _headline(summary: Summary) -> str:
    cells = []
    if summary.median_cm is not None and summary.median_deg is not None:
        median = centimetres(summary.median_cm)
        turned = "" if math.isinf(summary.median_cm) else f", {degrees_text(summary.median_deg)}"
        cells.append((median, f"median position error{turned}"))
        cells.append((percent(summary.within["5 cm, 5 deg"]), "of frames within 5 cm and 5°"))
    lost = summary.frames - summary.localized
    cells.append((percent(lost / summary.frames), "of frames without a pose"))
    stage = "image to pose" if "image to pose" in summary.milliseconds else "total"
    if stage in summary.milliseconds:
        name = "image to pose, p95" if summary.transport else "a frame, p95"
        cells.append((f"{summary.milliseconds[stage]['p95']:.1f} ms", name))
    content = "".join(f"<div><b>{b}</b><span>{span}</span></div>\n" for b, span in cells)
    return f'<div class="headline">\n{content}</div>\n'


def _figures(
    evaluation: Evaluation, localizer: Localizer, frames: Iterable[Frame]
) -> Iterable[tuple[str, str]]:
    """Yield each figure and its caption."""
    summary, answers = evaluation.summary, evaluation.answers
    if summary.frames_with_truth or summary.localized:
        svg, words = figures.trajectory(evaluation)
        yield svg, f"Camera positions, {words}. Thin lines join each estimate to its true position."
    if summary.frames_with_truth:
        bands = " Shaded: no pose." if summary.localized < summary.frames else ""
        yield (
            figures.error_over_time(evaluation),
            f"Errors of the localized frames; dashed: 5 cm and 5°.{bands}",
        )
    latencies = [a.latency_s for a in answers if a.latency_s is not None]
    if latencies:
        steps = np.diff([a.stamp_s for a in answers])
        rate = summary.transport.rate if summary.transport else 1.0
        period_ms = 1000 * float(np.median(steps)) / rate if len(steps) else None
        yield (
            figures.times(1000 * np.array(latencies), "image to pose (ms)", period_ms),
            "Time from publishing an image to receiving its pose.",
        )
    elif any(a.seconds for a in answers):
        totals = [1000 * sum(a.seconds[s] for s in STAGES) for a in answers if a.seconds]
        yield (
            figures.times(np.array(totals), "time a frame (ms)", None),
            "Time to localize one frame: remapping, network and pose.",
        )
    example = _example(evaluation)
    if example is not None:
        frame = next(frame for frame in frames if frame.name == example.name)
        found = localizer.localize(frame.image(), frame.known_camera())
        if found.T_map_cam is not None:
            yield (
                figures.prediction(found, localizer.info.camera),
                f"Frame {escape(example.name)}, of median error: the image, the error the network "
                "expects of each cell, and its cloud (the most certain 90 %), neighbouring cells "
                "joined, in the colours of the image, seen from behind and above. "
                f"{found.inliers} of the {found.cells} cells given to the pose solver agree with "
                "the pose.",
            )


def _example(evaluation: Evaluation) -> Answer | None:
    """Return the localized frame of median error, or the middle one where no truth is known."""
    answers = evaluation.answers
    found = [
        (np.nan_to_num(m), i)
        for i, (a, m) in enumerate(zip(answers, evaluation.errors_m, strict=True))
        if a.T_map_cam is not None
    ]
    return answers[sorted(found)[len(found) // 2][1]] if found else None


def _faults(evaluation: Evaluation) -> str:
    """Return the tables of the worst frames and of why frames were lost."""
    summary, answers = evaluation.summary, evaluation.answers
    metres, degrees = evaluation.errors_m, evaluation.errors_deg
    ranked = sorted(
        (i for i, a in enumerate(answers) if a.T_map_cam is not None and np.isfinite(metres[i])),
        key=lambda i: -metres[i],
    )[:_WORST]
    parts = []
    if ranked:
        start = answers[0].stamp_s
        rows = [
            (
                escape(answers[i].name),
                f"{answers[i].stamp_s - start:.2f} s",
                centimetres(100 * metres[i]),
                degrees_text(degrees[i]),
                str(answers[i].inliers),
            )
            for i in ranked
        ]
        head = ["frame", "time", "position", "rotation", "inliers"]
        parts.append(_table("The largest errors of localized frames", head, rows))
    reasons = [(escape(reason), str(n)) for reason, n in summary.lost_reasons.items()]
    if summary.unanswered:
        reasons.append(("no answer: a newer image took its place", str(summary.unanswered)))
    if reasons:
        head = ["reason (one of its kind)", "frames"]
        parts.append(_table("Why frames have no pose", head, reasons))
    return f"<h2>The worst</h2>\n{''.join(parts)}" if parts else ""


def _table(caption: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table; cells are HTML."""
    top = "".join(f'<th scope="col">{cell}</th>' for cell in head)
    body = "".join(
        f'<tr><th scope="row">{first}</th>{"".join(f"<td>{cell}</td>" for cell in rest)}</tr>\n'
        for first, *rest in rows
    )
    thead = f"<thead><tr>{top}</tr></thead>\n" if head else ""
    return (
        f'<div class="scroll"><table>\n<caption>{caption}</caption>\n{thead}'
        f"<tbody>\n{body}</tbody>\n</table></div>\n"
    )
