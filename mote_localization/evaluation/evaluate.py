"""`mote evaluate`: how well a map localizes a scene's frames, without ROS or over it."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.console import Console
from rich.table import Table

from mote_localization.errors import CameraError, ImageError, MoteError, ReplayError, SceneError
from mote_localization.evaluation.metrics import (
    PERCENTILES,
    Answer,
    Evaluation,
    Summary,
    accuracy_rows,
    evaluate_answers,
    write_tum,
)
from mote_localization.files import atomic_write
from mote_localization.localizer import Localizer
from mote_localization.map_file import UNKNOWN_SCALE
from mote_localization.progress import track
from mote_localization.scenes import Frame, Scene, open_scene
from mote_localization.scenes.bag import BagScene

_log = logging.getLogger(__name__)
_Topic = Annotated[str | None, tyro.conf.arg(metavar="TOPIC")]
_File = Annotated[Path | None, tyro.conf.arg(metavar="FILE")]


@dataclass(frozen=True)
class Evaluate:
    """Localize the frames of a scene or recording and print how well it went.

    Accuracy is over all frames of the split: a lost frame counts against.
    """

    scene: tyro.conf.Positional[Path]  # scene folder, or rosbag2 recording (all frames are test)
    map: Path  # map file (.onnx), made by `mote-distill map`
    split: Literal["test", "train", "all"] = "test"  # which frames
    # what runs the network: onnxruntime, tensorrt, tensorrt_rtx, onnxruntime_cuda;
    # auto: the GPU where one can
    backend: str = "onnxruntime"
    threads: int = 0  # CPU threads of the network; 0: one per core
    # replay the frames over DDS to a localizer node and evaluate its answers
    ros: tyro.conf.FlagCreatePairsOff[bool] = False
    rate: float = 1.0  # with --ros: speed of the replay; 1: as recorded, folders at 30 Hz
    repeat: int = 1  # with --ros: play the frames so many times over, at 30 Hz, for a long run
    image_topic: _Topic = None  # images of a recording that has several such topics
    pose_topic: _Topic = None  # true camera poses of a recording that has several such topics
    report: _File = None  # write a report there, one self-contained HTML file
    output: _File = None  # write the poses there, a TUM trajectory
    json: _File = None  # write the figures and every frame's errors there

    def run(self) -> None:
        """Evaluate, print the tables, write the files.

        Raises:
            MoteError: the scene, the map or an image cannot be used, the replay failed, a file
                cannot be written, or options do not go together.
        """
        if not self.ros and (self.rate != 1 or self.repeat != 1):
            raise ReplayError("--rate and --repeat are of a replay over ROS 2; add --ros")
        localizer = Localizer.open(self.map, self.backend, self.threads)
        scene = self._open()
        if not scene.count(self.split):
            raise SceneError(f"{self.scene}: has no {self.split} frames; try another --split")
        if not localizer.info.metric:
            _log.warning(
                "%s: the map's scale is %s: position errors say nothing", self.map, UNKNOWN_SCALE
            )
        started = time.time()
        transport = None
        if self.ros:
            from mote_localization.evaluation.over_ros import replay

            answers, transport = replay(
                scene, self.split, self.map, self.backend, self.threads, self.rate, self.repeat
            )
        else:
            frames = track(scene.frames(self.split), "localizing", scene.count(self.split))
            answers = list(localize(localizer, frames))
        evaluation = evaluate_answers(answers, transport)
        console = Console()
        way = "over ROS 2" if self.ros else "without ROS"
        for table in tables(evaluation.summary, f"{scene.name}, {self.split} frames, {way}"):
            console.print(table)
        if self.output:
            write_tum(self.output, answers)
            console.print(f"poses: {self.output}")
        if self.json:
            write_json(self.json, self._subject(scene.name, started), evaluation)
            console.print(f"figures: {self.json}")
        if self.report:
            from mote_localization.evaluation.report import write_report

            frames = scene.frames(self.split)
            subject = self._subject(scene.name, started)
            write_report(self.report, subject, evaluation, localizer, frames)
            console.print(f"report: {self.report}")

    def _open(self) -> Scene:
        """Return the scene; named topics are those of a recording."""
        if self.image_topic or self.pose_topic:
            return BagScene(self.scene, image_topic=self.image_topic, pose_topic=self.pose_topic)
        return open_scene(self.scene)

    def _subject(self, scene: str, started: float) -> dict[str, str]:
        """Return what was evaluated, for the files."""
        return {
            "scene": scene,
            "split": self.split,
            "map": self.map.name,
            "backend": self.backend,
            "over ROS 2": "yes" if self.ros else "no",
            "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(started)),
        }


def localize(
    localizer: Localizer, frames: Iterable[Frame], prior: bool = False
) -> Iterator[Answer]:
    """Localize frames one after the other; neither poses nor depth of the frames are used.

    Args:
        localizer: Of the map.
        frames: What to localize.
        prior: Tell it the pose found of the frame before, as the node does.

    Raises:
        MoteError: an image or its camera cannot be used; the message names the frame.
    """
    last = None
    for frame in frames:
        try:
            found = localizer.localize(frame.image(), frame.known_camera(), last)
        except (CameraError, ImageError) as error:
            raise type(error)(f"frame {frame.name}: {error}") from error
        last = found.T_map_cam if prior else None
        yield Answer(
            name=frame.name,
            stamp_s=frame.stamp_s,
            T_map_cam_true=frame.T_map_cam,
            T_map_cam=found.T_map_cam,
            reason=found.reason,
            inliers=found.inliers,
            seconds=found.seconds,
            covariance_66=found.covariance_66,
        )


def tables(summary: Summary, title: str) -> list[Table]:
    """Return the accuracy and the times as tables for the terminal."""
    accuracy = Table(title=title, show_header=False, title_justify="left")
    accuracy.add_column()
    accuracy.add_column(justify="right")
    for row in accuracy_rows(summary):
        accuracy.add_row(*row)
    return [accuracy, times_table(summary.milliseconds)]


def times_table(milliseconds: Mapping[str, Mapping[str, float]]) -> Table:
    """Return the times of stages, see `percentiles_ms`, as a table for the terminal."""
    times = Table("ms a frame", title_justify="left")
    for percentile in PERCENTILES:
        times.add_column(f"p{percentile}", justify="right")
    for stage, values in milliseconds.items():
        times.add_row(stage, *(f"{value:.1f}" for value in values.values()))
    return times


def write_json(path: Path, subject: dict[str, str], evaluation: Evaluation) -> None:
    """Write the figures, and each frame's errors; what is infinite or unknown is null.

    Raises:
        MoteError: the file cannot be written.
    """
    frames = [
        {
            "name": answer.name,
            "stamp_s": answer.stamp_s,
            "localized": answer.T_map_cam is not None,
            "answered": answer.answered,
            "reason": answer.reason,
            "error_cm": 100 * float(m),
            "error_deg": float(d),
            "inliers": answer.inliers,
            "milliseconds": {stage: 1000 * s for stage, s in answer.seconds.items()},
            "latency_ms": None if answer.latency_s is None else 1000 * answer.latency_s,
        }
        for answer, m, d in zip(
            evaluation.answers, evaluation.errors_m, evaluation.errors_deg, strict=True
        )
    ]
    write_figures(
        path, {"subject": subject, "summary": asdict(evaluation.summary), "frames": frames}
    )


def write_figures(path: Path, content: dict[str, Any]) -> None:
    """Write figures as JSON, whole or not at all; what is infinite or unknown is null.

    Raises:
        MoteError: the file cannot be written.
    """
    try:
        with atomic_write(path) as file:
            file.write(json.dumps(_finite(content), indent=1, allow_nan=False).encode())
    except OSError as error:
        raise MoteError(f"{path}: the figures cannot be written ({error.strerror})") from error


def _finite(value: Any) -> Any:
    """Return a value with null in place of NaN and infinity, which JSON lacks."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
