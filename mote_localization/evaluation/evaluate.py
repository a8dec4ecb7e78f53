"""`mote evaluate`: measures how well a map localizes a scene's frames, with or without ROS 2."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import tyro
from rich.console import Console

from mote_localization.backends import BACKEND_HELP
from mote_localization.bundles.bundle_localizer import open_localizer
from mote_localization.command_line import File, Flat
from mote_localization.errors import ReplayError, SceneError
from mote_localization.evaluation.json_figures import write_evaluation_json
from mote_localization.evaluation.localize_frames import localize_frames
from mote_localization.evaluation.metrics import Answer, Evaluation, evaluate_answers
from mote_localization.evaluation.pose_files import FrameKeys, read_poses, write_tum
from mote_localization.evaluation.pose_matching import match_frames
from mote_localization.evaluation.terminal_tables import accuracy_table, times_table
from mote_localization.files import check_output
from mote_localization.map_file import UNKNOWN_SCALE
from mote_localization.progress import track
from mote_localization.scenes import RecordingOptions, Scene, Split, open_scene

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Evaluate:
    """Localize the frames of a scene or recording and print accuracy and times.

    Accuracy is over all frames of the split: a lost frame has an infinite error.
    """

    scene: tyro.conf.Positional[Path]  # recording of any layout, see docs/recordings.md
    map: Path  # map (.onnx), made by `mote-distill map`, or bundle (.mote)
    split: Literal["test", "train", "all"] = "test"  # which frames
    backend: Annotated[str, tyro.conf.arg(help=BACKEND_HELP)] = "onnxruntime"
    threads: int = 0  # CPU threads of the network; 0: one per core
    # replay the frames over DDS to a localizer node and evaluate the poses that it publishes
    ros: tyro.conf.FlagCreatePairsOff[bool] = False
    rate: float = 1.0  # with --ros: speed of the replay; 1: as recorded, folders at 30 Hz
    repeat: int = 1  # with --ros: how often to play the frames, at 30 Hz, for a long run
    recording: Annotated[RecordingOptions, Flat] = field(default_factory=RecordingOptions)
    # true poses in place of the scene's: a TUM trajectory, or pseudo ground truth of 7-Scenes
    truth: File = None
    # write a report to this file NAME.html, one self-contained page, and the trajectories
    # NAME.estimate.tum and NAME.truth.tum beside it
    report: File = None
    output: File = None  # write the poses to this file, a TUM trajectory
    json: File = None  # write the figures and the errors of every frame to this file

    def run(self) -> None:
        """Evaluate, print the tables, write the files."""
        self.evaluate()

    def evaluate(self) -> Evaluation:
        """Evaluate, print the tables, write the files; return what was measured.

        Raises:
            MoteError: A file cannot be read or written, the scene has no frames in the split, or
                the true poses are those of other frames.
        """
        if not self.ros and (self.rate != 1 or self.repeat != 1):
            raise ReplayError("--rate and --repeat belong to a replay over ROS 2; add --ros")
        for option in ("report", "output", "json"):
            check_output(getattr(self, option), f"--{option}")
        localizer = open_localizer(self.map, self.backend, self.threads)
        scene = open_scene(self.scene, self.recording)
        if not scene.count(self.split):
            raise SceneError(f"{self.scene}: has no {self.split} frames; try another --split")
        if not localizer.info.metric:
            _log.warning(
                "%s: the map's scale is %s: position errors are not in metres",
                self.map,
                UNKNOWN_SCALE,
            )
        truth = true_poses(scene, self.split, self.truth) if self.truth else None
        started = time.gmtime()
        transport = None
        if self.ros:
            from mote_localization.evaluation.over_ros import replay

            answers, transport = replay(
                scene, self.split, self.map, self.backend, self.threads, self.rate, self.repeat
            )
        else:
            frames = track(scene.frames(self.split), "localizing", scene.count(self.split))
            answers = list(localize_frames(localizer, frames))
        if truth is not None:
            answers = [replace(a, T_map_cam_true=truth.get(a.name)) for a in answers]
        evaluation = evaluate_answers(answers, transport)
        subject = {
            "scene": scene.name,
            "split": self.split,
            "map": self.map.name,
            "backend": self.backend,
            "over ROS 2": "yes" if self.ros else "no",
            **({"truth": str(self.truth)} if self.truth else {}),
            "date": time.strftime("%Y-%m-%d %H:%M UTC", started),
        }
        console = Console()
        with_ros = "over ROS 2" if self.ros else "without ROS"
        title = f"{scene.name}, {self.split} frames, {with_ros}"
        console.print(accuracy_table(evaluation.summary, title))
        console.print(times_table(evaluation.summary.milliseconds))
        if self.output:
            write_tum(self.output, _estimate(answers))
            console.print(f"poses: {self.output}")
        if self.json:
            write_evaluation_json(self.json, subject, evaluation)
            console.print(f"figures: {self.json}")
        if self.report:
            from mote_localization.evaluation.report import write_report

            write_report(self.report, subject, evaluation, localizer, scene.frames(self.split))
            write_tum(self.report.with_suffix(".estimate.tum"), _estimate(answers))
            if evaluation.summary.frames_with_truth:
                true = ((a.stamp_s, a.T_map_cam_true) for a in answers)
                write_tum(self.report.with_suffix(".truth.tum"), true)
            console.print(f"report: {self.report}")
        return evaluation


def true_poses(scene: Scene, split: Split, path: Path) -> dict[str, np.ndarray]:
    """Return the true poses T_map_cam (4, 4) in a file, by the names of the scene's frames.

    Raises:
        SceneError: The file cannot be read, its names fit several frames, or no frame of the split
            is in it.
    """
    poses = read_poses(path)
    keys = FrameKeys.of_frames(scene, scene.frames(split))
    pairs = zip(keys.names or (), match_frames(keys, poses.keys).tolist(), strict=True)
    return {name: poses.T_map_cam_n44[i] for name, i in pairs if i >= 0}


def _estimate(answers: Sequence[Answer]) -> Iterator[tuple[float, np.ndarray | None]]:
    return ((a.stamp_s, a.T_map_cam) for a in answers)
