"""`mote-distill plan`: divides a place into submaps; writes the plan and a picture of it."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mote_localization.command_line import Flat, say
from mote_localization.errors import MoteError
from mote_localization.files import check_output
from mote_localization.progress import status
from mote_localization.scenes import RecordingOptions, open_scene

if TYPE_CHECKING:
    from distill_training.submaps.plan_file import SubmapPlan

_SUFFIX = ".plan"
_NAMED = 6  # neighbours that the table names


@dataclass(frozen=True)
class Plan:
    """Divide a place that is too large for one map into submaps, by what its frames see together.

    Writes the plan, JSON, and a picture of it beside it, NAME.plan.png. The frames need poses;
    without depth, walls are not known. The same recording and options give the same plan.
    """

    scene: tyro.conf.Positional[Path]  # recording of any layout, see docs/recordings.md
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])]  # file of the plan (.plan)
    frames: int = 300  # most training frames of a submap, without those of its overlap
    area: float = 50.0  # m2 of floor of a submap, about
    # frames of its neighbours that a submap gets, as a fraction of its own ones
    overlap: float = 0.2
    seed: int = 0  # of the division, and of the submaps' trainings
    recording: Annotated[RecordingOptions, Flat] = field(default_factory=RecordingOptions)

    def run(self) -> None:
        """Write plan and picture, and print the submaps."""
        if self.output.suffix != _SUFFIX:
            raise MoteError(f"--output {self.output}: expected the name of a plan, NAME{_SUFFIX}")
        check_output(self.output, "--output")
        # These imports load scipy and matplotlib, which would delay the help of the command line.
        from distill_training.submaps.partition import PartitionConfig
        from distill_training.submaps.place import read_place
        from distill_training.submaps.plan_file import write_plan
        from distill_training.submaps.plan_picture import draw_plan
        from distill_training.submaps.planning import make_plan

        config = PartitionConfig(self.frames, self.area, self.overlap, self.seed)
        scene = open_scene(self.scene, self.recording)
        place = read_place(scene)
        plan = make_plan(place, config, str(self.scene), self.recording.given_values())
        picture = self.output.with_name(f"{self.output.name}.png")
        with status("draw the plan"):
            draw_plan(plan, place, picture)
        write_plan(self.output, plan)
        Console().print(_table(plan))
        say(f"plan: {self.output}; picture: {picture}")


def _table(plan: "SubmapPlan") -> Table:
    """Return the submaps as a table."""
    table = Table(title=Text(plan.recording), title_justify="left")
    table.add_column("submap")
    for name in ("frames", "overlap", "m²"):
        table.add_column(name, justify="right")
    table.add_column("neighbours (shared frames)")
    for submap in plan.submaps:
        named = [
            f"{one.name.removeprefix('submap-')} ({one.shared_frames})"
            for one in submap.neighbours[:_NAMED]
        ]
        more = ["..."] if len(submap.neighbours) > _NAMED else []
        table.add_row(
            submap.name,
            str(len(submap.own)),
            str(len(submap.overlap)),
            f"{submap.area_m2:.0f}",
            ", ".join(named + more) or "none",
        )
    return table
