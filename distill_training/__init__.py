"""Mote's trainer: distills a teacher's reconstruction of a place into a map of a few megabytes."""

from mote_localization.quiet_imports import import_and_run


def main() -> None:
    """Run the `mote-distill` command."""
    import_and_run("distill_training.cli")
