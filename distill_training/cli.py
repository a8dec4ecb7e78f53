"""`mote-distill`: the trainer's command line."""

from demo_room.record import Room
from distill_training.ablation.ablate_command import Ablate
from distill_training.commands import Distill, Map, Reconstruct
from mote_localization.command_line import run_command


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
