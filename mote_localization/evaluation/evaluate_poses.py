"""`mote evaluate-poses`: measures poses that another system estimated, as `mote evaluate` does."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from rich.console import Console
from rich.markup import escape

from mote_localization.command_line import File, Flat
from mote_localization.errors import MoteError
from mote_localization.evaluation.json_figures import write_evaluation_json
from mote_localization.evaluation.metrics import Answer, evaluate_answers
from mote_localization.evaluation.pose_files import PoseList, read_poses
from mote_localization.evaluation.pose_matching import MAX_DIFFERENCE_S, match_frames
from mote_localization.evaluation.terminal_tables import accuracy_table
from mote_localization.evaluation.trajectory_errors import Alignment, fit_alignment
from mote_localization.files import check_output
from mote_localization.scenes import RecordingOptions, Split, open_scene
from mote_localization.scenes.layouts import layout_of


@dataclass(frozen=True)
class EvaluatePoses:
    """Print the accuracy of poses in a file, from Mote or from another system.

    Files are TUM trajectories, or named poses as in the pseudo ground truth of 7-Scenes. Accuracy
    is over all true poses: a frame without an estimated pose is lost, with an infinite error.
    """

    # file of estimated poses
    estimate: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="ESTIMATE")]]
    # file of true poses, scene or recording
    truth: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="TRUTH")]]
    split: Split = "test"  # which frames, where TRUTH is a scene
    recording: Annotated[RecordingOptions, Flat] = field(default_factory=RecordingOptions)
    # transform that is fitted to the camera centres, and applied before all errors: se3: rotation
    # and translation; sim3: scale too
    align: Alignment = "none"
    max_difference: float = MAX_DIFFERENCE_S  # largest difference of stamps of one frame, s
    # write the figures and the errors of every frame to this file
    json: File = None

    def run(self) -> None:
        """Match the frames, evaluate, print the table, write the file."""
        if not 0 <= self.max_difference < np.inf:
            raise MoteError(f"found --max-difference {self.max_difference}, expected 0 or more")
        check_output(self.json, "--json")
        estimate = read_poses(self.estimate)
        truth = self._read_truth()
        index_n = match_frames(truth.keys, estimate.keys, self.max_difference)
        found_n = index_n >= 0
        change = fit_alignment(
            truth.T_map_cam_n44[found_n], estimate.T_map_cam_n44[index_n[found_n]], self.align
        )
        answers = []
        for i, k in enumerate(index_n.tolist()):
            T_map_cam = change.pose(estimate.T_map_cam_n44[k]) if k >= 0 else None
            answers.append(_answer(truth, i, T_map_cam))
        evaluation = evaluate_answers(answers)
        without_truth = len(estimate.T_map_cam_n44) - np.count_nonzero(found_n)
        subject = {
            "estimate": str(self.estimate),
            "truth": str(self.truth),
            "alignment": self.align,
            "scale": f"{change.scale:.6g}",
            "poses without truth": str(without_truth),
        }
        console = Console()
        aligned = "" if self.align == "none" else f", aligned ({self.align})"
        title = f"{self.estimate.name}, true poses of {self.truth.name}{aligned}"
        console.print(accuracy_table(evaluation.summary, escape(title)))
        if self.align == "sim3":
            console.print(f"scale: {change.scale:.4f} m per unit of the estimate")
        if without_truth:
            console.print(f"not evaluated: {without_truth} poses of frames without a true pose")
        if self.json:
            write_evaluation_json(self.json, subject, evaluation)
            console.print(f"figures: {self.json}")

    def _read_truth(self) -> PoseList:
        """Return the true poses of a file of poses, or of a scene or recording."""
        options = self.recording
        if layout_of(self.truth) or self.truth.is_dir() or options.given():
            return PoseList.of_scene(open_scene(self.truth, options), self.split)
        return read_poses(self.truth)


def _answer(truth: PoseList, i: int, T_map_cam: np.ndarray | None) -> Answer:
    names, stamps_n = truth.keys.names, truth.keys.stamps_n
    stamp_s = math.nan if stamps_n is None else float(stamps_n[i])
    return Answer(
        name=names[i] if names else f"{stamp_s:.6f}",
        stamp_s=stamp_s,
        T_map_cam_true=truth.T_map_cam_n44[i],
        T_map_cam=T_map_cam,
        reason="" if T_map_cam is not None else "not in the estimate",
        inliers=0,
        seconds={},
    )
