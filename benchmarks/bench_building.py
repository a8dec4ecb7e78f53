"""Localizes the test frames of the demo building in its bundle, one by one, without a prior.

usage: bench_building.py build/demo/building building.mote [--every N]
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.console import Console
from rich.table import Table

from mote_localization.bundles.bundle_localizer import open_localizer
from mote_localization.command_line import one_line_errors
from mote_localization.errors import SceneError
from mote_localization.evaluation.localize_frames import localize_frames
from mote_localization.evaluation.metrics import Answer, pose_errors
from mote_localization.input_files import read_input
from mote_localization.progress import track
from mote_localization.scenes import open_scene

_CLOSE_M, _CLOSE_DEG, _WRONG_M = 0.05, 5.0, 0.25
_OUTCOMES = ("within 5 cm, 5°", "off", "wrong", "ambiguous", "lost")
_MAX_BYTES = 1 << 24


@dataclass(frozen=True)
class BenchBuilding:
    """Print, for frames of a unique view and for others, what became of them."""

    scene: tyro.conf.Positional[Path]  # made by `mote-distill building`
    map: tyro.conf.Positional[Path]  # its bundle
    every: int = 1  # N: only every N-th frame

    def run(self) -> None:
        """Localize the frames and print the table."""
        unique = unique_frames(self.scene / "places.txt")
        localizer = open_localizer(self.map)
        frames = list(open_scene(self.scene).frames("test"))[:: self.every]
        answers = list(localize_frames(localizer, track(frames, "localizing", len(frames))))
        counts: dict[str, Counter[str]] = {"unique": Counter(), "several places": Counter()}
        for answer, error_m, error_deg in zip(answers, *pose_errors(answers), strict=True):
            view = "unique" if answer.name in unique else "several places"
            counts[view][_outcome(answer, error_m, error_deg)] += 1
        table = Table(title=f"{len(frames)} frames of {self.scene}")
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
