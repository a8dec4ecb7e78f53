"""Entry point of `mote`, also as `python -m mote_localization`."""

from mote_localization.quiet_imports import import_and_run


def main() -> None:
    """Run the `mote` command."""
    import_and_run("mote_localization.cli")


if __name__ == "__main__":
    main()
