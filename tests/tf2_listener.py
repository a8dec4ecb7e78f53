"""Looks up map -> base_link with tf2 itself, for the tests: prints its figures as JSON at the end.

usage: tf2_listener.py SECONDS. It runs with the Python of an environment that has tf2_ros.
"""

import json
import sys
import time

import rclpy
from rclpy.duration import Duration
from rclpy.time import Time
from tf2_ros import Buffer, TransformListener
from tf2_ros import TransformException as LookupFailed


def main() -> None:
    """Look up at now, with a tolerance of 0.5 s, and at the latest time."""
    rclpy.init()
    node = rclpy.create_node("tf2_listener")
    buffer = Buffer()
    listener = TransformListener(buffer, node, spin_thread=True)
    counts = {"now": [0, 0], "latest": [0, 0], "camera": [0, 0]}  # lookups, resolved
    deadline = time.monotonic() + float(sys.argv[1])
    while time.monotonic() < deadline:
        time.sleep(0.05)
        if not buffer.can_transform("map", "base_link", Time()):
            if not counts["now"][0]:
                continue  # before the first pose
        tries = {
            "now": ("map", "base_link", node.get_clock().now()),
            "latest": ("map", "base_link", Time()),
            "camera": ("odom", "camera_optical", Time()),
        }
        for name, (target, source, stamp) in tries.items():
            counts[name][0] += 1
            try:
                buffer.lookup_transform(target, source, stamp, Duration(seconds=0.5))
                counts[name][1] += 1
            except LookupFailed as error:
                print(f"{name}: {error}", file=sys.stderr)
    print(json.dumps(counts), flush=True)
    del listener
    node.destroy_node()
    rclpy.shutdown()


if __name__ == "__main__":
    main()
