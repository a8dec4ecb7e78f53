"""Entry point of `mote`, also as `python -m mote_localization`."""

from mote_localization.quiet_imports import quiet_imports


def main() -> None:
    """Run the `mote` command."""
    with quiet_imports():
        from mote_localization.cli import main as run
    run()


if __name__ == "__main__":
    main()
