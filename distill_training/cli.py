"""`mote-distill`: the trainer's command line."""

import sys

from demo_room.record import Room
from distill_training.ablation.ablate_command import Ablate
from distill_training.commands import Distill, Map, Reconstruct
from distill_training.common.renamed_options import refuse_renamed_flags
from mote_localization.command_line import one_line_errors, run_command


def main() -> None:
    """Run the `mote-distill` command."""
    with one_line_errors():
        refuse_renamed_flags(sys.argv[1:])
    run_command(
        {
            "map": Map,
            "reconstruct": Reconstruct,
            "distill": Distill,
            "ablate": Ablate,
            "room": Room,
        },
        "mote-distill",
        "Makes maps: a teacher reconstructs a place, a small network learns it.",
    )
