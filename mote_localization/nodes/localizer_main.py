"""The executable: `ros2 run mote_localization localizer --ros-args -p map:=kitchen.onnx`."""

import sys
from importlib.util import find_spec

from mote_localization.nodes import process


def main() -> int:
    """Run the localizer node until SIGINT or SIGTERM; return the exit code."""
    process.hold_signals()
    # Imported after the signals are held: it takes a second.
    try:
        from mote_localization.nodes.localizer_node import LocalizerNode
    except ImportError as error:
        if find_spec("rclpy"):
            raise
        process.report(process.ros_not_found(error))
        return 1
    return process.run(LocalizerNode, sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
