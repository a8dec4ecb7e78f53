"""Localizes images of the demo building in its bundle, and compares times with those of one submap.

usage: bench_building.py build/demo/building building.mote [--every N] [--drive RECORDING] [--times]
"""

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from mote_localization.backends import create_backend
from mote_localization.bundles import read_bundle
from mote_localization.bundles.bundle_localizer import AnyLocalizer, open_localizer
from mote_localization.bundles.place_poses import distances
from mote_localization.command_line import File, one_line_errors
from mote_localization.errors import SceneError
from mote_localization.evaluation.localize_frames import localize_frames
from mote_localization.evaluation.metrics import Answer, pose_errors
from mote_localization.geometry import is_explained, local_coordinates
from mote_localization.input_files import read_input
from mote_localization.localizer import Localization, Localizer
from mote_localization.progress import track
from mote_localization.scenes import Frame, open_scene

_CLOSE_M, _CLOSE_DEG, _WRONG_M = 0.05, 5.0, 0.25
_OUTCOMES = ("within 5 cm, 5°", "off", "wrong", "ambiguous", "lost")
_MAX_BYTES = 1 << 24
_ROUNDS = 5  # of the two localizers, one after the other
_TIMED = 12  # frames


@dataclass(frozen=True)
class BenchBuilding:
    """Print what became of single frames without a prior, of those of a drive, and times."""

    scene: tyro.conf.Positional[Path]  # made by `mote-distill building`
    map: tyro.conf.Positional[Path]  # its bundle
    every: int = 1  # N: only every N-th test frame; 0: none of them
    # a recording whose images are localized in a row, each with the last pose of at most a second
    drive: File = None
    # compare the time of an image in the bundle with that in a submap alone, tracked and lost
    times: tyro.conf.FlagCreatePairsOff[bool] = False

    def run(self) -> None:
        """Localize the frames and print the tables."""
        frames = list(open_scene(self.scene).frames("test"))
        if self.every:
            self._single_frames(frames[:: self.every])
        if self.drive:
            self._frames_of_drive(list(open_scene(self.drive).frames("test")))
        if self.times:
            self._times(frames)

    def _single_frames(self, frames: Sequence[Frame]) -> None:
        unique = unique_frames(self.scene / "places.txt")
        localizer = open_localizer(self.map)
        answers = list(localize_frames(localizer, track(frames, "localizing", len(frames))))
        counts: dict[str, Counter[str]] = {"unique": Counter(), "several places": Counter()}
        for answer, error_m, error_deg in zip(answers, *pose_errors(answers), strict=True):
            view = "unique" if answer.name in unique else "several places"
            counts[view][_outcome(answer, error_m, error_deg)] += 1
        _print(f"{len(frames)} frames of {self.scene}, without a last pose", counts)
        seconds = [sum(answer.seconds.values()) for answer in answers]
        print(f"seconds of a frame: median {np.median(seconds):.3f}, mean {np.mean(seconds):.3f}")

    def _frames_of_drive(self, frames: Sequence[Frame]) -> None:
        localizer = open_localizer(self.map)
        counts: Counter[str] = Counter()
        seams, jumps, submap, before = 0, 0, None, None
        for frame, found in _driven(localizer, track(frames, "driving", len(frames))):
            if found.T_map_cam is None or found.covariance_66 is None or found.tracking is None:
                counts["ambiguous" if found.ambiguous else "lost"] += 1
                before = None
                continue
            error_6 = local_coordinates(frame.known_pose(), found.T_map_cam)
            error_m, error_rad = (float(np.linalg.norm(part)) for part in np.split(error_6, 2))
            counts[_outcome_of(error_m, np.degrees(error_rad))] += 1
            if before and submap != found.tracking.submap:
                seams += 1
                jumps += not is_explained(error_6 - before[0], found.covariance_66 + before[1])
            submap, before = found.tracking.submap, (error_6, found.covariance_66)
        _print(f"{len(frames)} frames of {self.drive}, in a row", {"all": counts})
        print(f"{seams} changes of the submap, {jumps} with a jump that covariances do not explain")

    def _times(self, frames: Sequence[Frame]) -> None:
        bundle = read_bundle(self.map)
        submap = bundle.map_file(0)
        one = Localizer(submap, create_backend(submap))
        one.localize(frames[0].image(), frames[0].known_camera())  # computes the features
        whole = open_localizer(self.map)
        near = [
            frame
            for frame in frames
            if distances(bundle.submaps[0].keyframe_poses_k44, frame.known_pose()).min() < 0.5
        ]
        chosen = near[:: max(1, len(near) // _TIMED)]
        table = Table(
            title=f"milliseconds of an image, {len(chosen)} frames of {submap.info.scene}"
        )
        for column in ("", "submap alone", "bundle", "ratio"):
            table.add_column(column)
        for name, tracked in (("tracked", True), ("lost", False)):
            ms = np.array([[_ms(a, chosen, tracked) for a in (one, whole)] for _ in range(_ROUNDS)])
            alone, bundled = np.median(ms, axis=0)
            ratio = np.median(ms[:, 1] / ms[:, 0])
            table.add_row(name, f"{alone:.1f}", f"{bundled:.1f}", f"{ratio:.2f}")
        Console().print(table)


def _driven(
    localizer: AnyLocalizer, frames: Iterator[Frame]
) -> Iterator[tuple[Frame, Localization]]:
    """Localize frames as the node does: with the last pose, if it is a second old or less."""
    last, last_s = None, 0.0
    for frame in frames:
        recent = last if frame.stamp_s - last_s <= 1.0 else None
        found = localizer.localize(frame.image(), frame.known_camera(), recent)
        if found.tracking:
            last, last_s = found.tracking, frame.stamp_s
        yield frame, found


def _ms(localizer: AnyLocalizer, frames: Sequence[Frame], tracked: bool) -> float:
    """Return the median time of an image."""
    times = []
    for frame in frames:
        image_hw3, camera = frame.image(), frame.known_camera()
        near = localizer.tracking_at(frame.known_pose()) if tracked else None
        started = time.perf_counter()
        localizer.localize(image_hw3, camera, near)
        times.append(1e3 * (time.perf_counter() - started))
    return float(np.median(times))


def _print(title: str, counts: dict[str, Counter[str]]) -> None:
    table = Table(title=title)
    for column in ("view", "frames", *_OUTCOMES):
        table.add_column(column)
    for view, count in counts.items():
        total = count.total()
        shares = [f"{count[o]} ({count[o] / max(total, 1):.1%})" for o in _OUTCOMES]
        table.add_row(view, str(total), *shares)
    Console().print(table)


def _outcome(answer: Answer, error_m: float, error_deg: float) -> str:
    """Return which of `_OUTCOMES` an answer is."""
    if answer.T_map_cam is None:
        return "ambiguous" if answer.reason.startswith("ambiguous") else "lost"
    return _outcome_of(error_m, error_deg)


def _outcome_of(error_m: float, error_deg: float) -> str:
    """Return which of `_OUTCOMES` a pose is."""
    if error_m > _WRONG_M:
        return "wrong"
    return "within 5 cm, 5°" if error_m <= _CLOSE_M and error_deg <= _CLOSE_DEG else "off"


def unique_frames(path: Path) -> set[str]:
    """Return the names of the frames that one place explains."""
    try:
        lines = read_input(path, _MAX_BYTES).decode().splitlines()
    except OSError as error:
        raise SceneError(f"{path}: cannot be read ({error.strerror})") from error
    rows = (line.split() for line in lines if line and not line.startswith("#"))
    return {row[0] for row in rows if row[1] == "unique"}


if __name__ == "__main__":
    with one_line_errors():
        tyro.cli(BenchBuilding).run()
