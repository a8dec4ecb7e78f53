"""Mote's trainer: distills a teacher's reconstruction of a place into a map of a few megabytes."""

from mote_localization.quiet_imports import quiet_imports


def main() -> None:
    """Run the `mote-distill` command."""
    with quiet_imports():
        from distill_training.cli import main as run
    run()
