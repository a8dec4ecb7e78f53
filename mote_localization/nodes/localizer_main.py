"""The executable: `ros2 run mote_localization localizer --ros-args -p map:=kitchen.onnx`."""

import sys

from mote_localization.nodes import process


def main() -> int:
    """Run the localizer node until SIGINT or SIGTERM; return the exit code."""
    process.hold_signals()
    # Imported after the signals are held: it takes a second.
    from mote_localization.nodes.localizer_node import LocalizerNode

    return process.run(LocalizerNode, sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
