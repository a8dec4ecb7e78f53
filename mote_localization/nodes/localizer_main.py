"""Executable of the node: `ros2 run mote_localization localizer --ros-args -p map:=FILE`."""

import sys

from mote_localization.nodes import process


def main() -> int:
    """Run the localizer node until SIGINT or SIGTERM; return the exit code."""
    process.block_signals()
    try:
        with process.exit_on_signal():  # the import takes a second
            from mote_localization.nodes.localizer_node import LocalizerNode
    except ImportError as error:
        process.print_error(process.import_error(error))
        return 1
    return process.run_node(LocalizerNode.started, sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
