"""Nodes as processes, for the tests over real DDS."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

TIMEOUT_S = 30.0  # for steps that take a second on an idle machine


class Child:
    """A node as a process with its output in a file."""

    def __init__(self, log: Path, name: str, *arguments: object, **env: str):
        self.log = log
        command = [sys.executable, "-m", f"mote_localization.nodes.{name}", *map(str, arguments)]
        with log.open("w") as output:
            self.process = subprocess.Popen(
                command, stdout=output, stderr=output, env=os.environ | env, cwd=log.parent
            )

    def text(self) -> str:
        return self.log.read_text()

    def end(self, number: int = signal.SIGINT) -> int:
        self.process.send_signal(number)
        return self.process.wait(TIMEOUT_S)

    def code(self) -> int:
        return self.process.wait(4 * TIMEOUT_S)


def wait_for(condition, seconds=TIMEOUT_S) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.002)
    return True


def memory_mb(pid: int) -> float:
    """Resident memory of a process in 10^6 bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096 / 1e6
