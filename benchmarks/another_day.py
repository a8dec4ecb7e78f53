"""Measure a map of the demo room on other days: each change of the room or camera, and all at once.

Usage: `python benchmarks/another_day.py maps/demo_room.onnx`. Prints a Markdown table.

The frames have the poses of the drive that `mote-distill room --bag` records. They are rendered
once, as a recording for each day, which `mote evaluate` opens too. Each frame is localized alone,
with the day's true calibration. Remove build/another_day after a change of the room.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import tyro

from demo_room.days import DAYS
from demo_room.record import Room, write_bag
from demo_room.room_camera import camera_of
from demo_room.views import drive
from mote_localization.camera import Camera
from mote_localization.command_line import one_line_errors
from mote_localization.evaluation.localize_frames import localize_frames
from mote_localization.evaluation.metrics import are_wrong, centimetres, evaluate_answers, percent
from mote_localization.files import atomic_write
from mote_localization.localizer import Localizer
from mote_localization.progress import track
from mote_localization.scenes import open_scene

FOLDER = Path("build/another_day")
_COLUMNS = (
    "day", "frames", "published", "within 5 cm, 5°", "wrong", "pose in its 95 % ellipsoid",
    "median error",
    "ms, p50",
    "ms, p95",
)  # fmt: skip


class View(NamedTuple):
    """A frame of a day."""

    image_hw3: np.ndarray  # uint8 RGB
    camera: Camera
    T_map_cam: np.ndarray  # true pose


def views(
    names: Sequence[str] = tuple(DAYS), frames: int = 60, workers: int = 1, folder: Path = FOLDER
) -> Iterator[tuple[str, list[View]]]:
    """Yield the name and the views of each day, rendered where the folder does not have them."""
    for name, recording in recordings(names, frames, workers, folder).items():
        scene = open_scene(recording)
        yield name, [View(f.image(), f.known_camera(), f.known_pose()) for f in scene.frames("all")]


def recordings(
    names: Sequence[str], frames: int, workers: int, folder: Path = FOLDER
) -> dict[str, Path]:
    """Return the recording of each day; those that the folder does not have are rendered."""
    paths = {name: folder / f"{name.replace(' ', '_')}-{frames}" for name in names}
    missing = [name for name in names if not paths[name].exists()]
    if missing:
        # spawn: OpenCV's threads do not survive a fork
        with get_context("spawn").Pool(workers, cv2.setNumThreads, (1,)) as pool:
            jobs = [(name, paths[name]) for name in missing]
            written = pool.imap_unordered(partial(_record, frames), jobs)
            for _ in track(written, "rendering days", len(missing)):
                pass
    return paths


def _record(frames: int, job: tuple[str, Path]) -> None:
    name, path = job
    stamps_s, poses = drive(Room.seconds, frames / Room.seconds, Room.seed)
    write_bag(path, stamps_s, poses, camera_of(DAYS[name]), day=DAYS[name])


@dataclass(frozen=True)
class Bench:
    """Measure a map of the demo room on other days."""

    map: tyro.conf.Positional[Path]  # map file (.onnx) of the demo room
    frames: int = 60  # frames of each day, evenly spaced along the drive
    days: tuple[str, ...] = tuple(DAYS)  # names of the days
    workers: int = min(os.cpu_count() or 1, 8)  # processes that render; each needs about 300 MB
    keyframes: bool = True  # use the keyframes of the map; without, the student alone
    write: Path | None = None  # file for the table; default: print it
    pictures: Path | None = None  # also write a picture (.png) of one frame of each day

    def run(self) -> None:
        """Print or write the table.

        Raises:
            MoteError: The map cannot be used.
        """
        localizer = Localizer.open(self.map)
        if not self.keyframes:
            localizer = localizer.student_alone()
        paths = recordings(self.days, self.frames, self.workers)
        table = [f"| {' | '.join(_COLUMNS)} |", "|---" * len(_COLUMNS) + "|"]
        table += [_row(localizer, name, path) for name, path in paths.items()]
        text = "".join(f"{line}\n" for line in table)
        if self.write:
            with atomic_write(self.write) as file:
                file.write(text.encode())
        else:
            print(text, end="")
        if self.pictures:
            sheet_hw3 = contact_sheet(dict(views(self.days, self.frames)))
            cv2.imwrite(str(self.pictures), sheet_hw3[..., ::-1])


def _row(localizer: Localizer, name: str, recording: Path) -> str:
    evaluation = evaluate_answers(
        [*localize_frames(localizer, open_scene(recording).frames("all"))]
    )
    found = evaluation.summary
    wrong = are_wrong(evaluation.errors_m, evaluation.errors_deg)
    cells = (
        name,
        found.frames,
        found.localized,
        percent(found.within["5 cm, 5 deg"]),
        wrong.sum(),
        percent(found.within_95["pose"]) if found.within_95 else "",
        centimetres(found.median_cm or 0.0),
        *(f"{found.milliseconds['total'][p]:.0f}" for p in ("p50", "p95")),
    )
    return f"| {' | '.join(map(str, cells))} |"


def contact_sheet(days: dict[str, list[View]], per_day: int = 3) -> np.ndarray:
    """Return one image (h, w, 3) with a row of frames of each day, the same frames in each row."""
    rows = []
    for name, shown in days.items():
        chosen = np.linspace(0, len(shown), per_day, endpoint=False).astype(int)
        small = [cv2.resize(shown[i].image_hw3, (320, 240), interpolation=3) for i in chosen]
        cv2.putText(small[0], name, (6, 20), cv2.FONT_HERSHEY_SIMPLEX, 0.6, (0, 0, 0), 3)
        cv2.putText(small[0], name, (6, 20), cv2.FONT_HERSHEY_SIMPLEX, 0.6, (255, 255, 255), 1)
        rows.append(np.hstack(small))
    if len(rows) % 2:
        rows.append(np.zeros_like(rows[0]))
    return np.vstack([np.hstack(pair) for pair in zip(rows[::2], rows[1::2], strict=True)])


if __name__ == "__main__":
    with one_line_errors():
        tyro.cli(Bench, description=__doc__).run()
