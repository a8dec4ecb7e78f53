"""`mote-distill`: the trainer's command line."""

from distill_training.ablate.command import Ablate
from distill_training.commands import Distill, Map, Reconstruct
from distill_training.room.record import Room
from mote_localization.commands import run_command


def main() -> None:
    """Run the `mote-distill` command."""
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
