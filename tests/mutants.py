"""Reads damaged copies of files, and prints what was not one error in time. A process of its own.

usage: mutants.py SEED COUNT FOLDER; FOLDER contains the files that are damaged, in folders by kind.
"""

import faulthandler
import json
import random
import shutil
import sys
import tempfile
import time
import traceback
from contextlib import suppress
from pathlib import Path

from mote_localization.anchors import check_anchors
from mote_localization.backends import create_backend
from mote_localization.calibration_files import read_calibration
from mote_localization.errors import MoteError
from mote_localization.evaluation.pose_files import read_poses
from mote_localization.image_files import read_image
from mote_localization.map_file import read_map
from mote_localization.scenes import open_scene

LIMIT_S = 5.0
NUMBERS = [
    b"9" * 30,
    b"-1",
    b"1e999",
    b"nan",
    b"\xff\xff\xff\xff",
    b"\x00\x00\x00\x80",
    b"\x7f" * 8,
]
PIECES = [
    *NUMBERS,
    b"\x00",
    b"\xc3\x28",
    b"../../../etc/passwd",
    b"{[{[",
    b"&a [*a]",
    b"\x1b[2J",
    b"\n",
]


def read_scene(path: Path) -> None:
    """Read all that a scene holds."""
    for split in ("train", "test"):
        for frame in open_scene(path).frames(split):
            frame.image(), frame.known_camera(), frame.T_map_cam
            if frame.has_depth:
                frame.depth()


def read_whole_map(path: Path) -> None:
    """Read a map and load it into the backend."""
    create_backend(read_map(path), threads=1)


def read_reconstruction(path: Path) -> None:
    """Open a reconstruction and read all its frames."""
    from distill_training.reconstruction import open_reconstruction

    reconstruction = open_reconstruction(path)
    for name in reconstruction.poses:
        reconstruction.read_frame(name)


def read_checkpoint(path: Path) -> None:
    """Resume the training of `test_trainer_mutants`."""
    from test_trainer_mutants import IDENTITY, train_state

    from distill_training.training.checkpoint import load_checkpoint

    load_checkpoint(path, IDENTITY, train_state())


def read_submaps(path: Path) -> None:
    """Read the plan of a large place."""
    from distill_training.submaps.plan_file import read_plan

    read_plan(path)


READERS = {
    "map": read_whole_map, "camera": read_calibration, "anchors": check_anchors,
    "image": read_image, "poses": read_poses, "scene": read_scene,
    "reconstruction": read_reconstruction, "checkpoint": read_checkpoint,
    "plan": read_submaps,
}  # fmt: skip


def damaged(content: bytes, chance: random.Random) -> bytes:
    """Return a file's content with a few changes."""
    changed = bytearray(content)
    for _ in range(chance.choice((1, 1, 2, 5))):
        at = chance.randrange(len(changed) + 1)
        length = chance.choice((1, 2, 4, 16, 200))
        match chance.randrange(6):
            case 0:
                for _ in range(length):
                    if changed:
                        changed[chance.randrange(len(changed))] = chance.randrange(256)
            case 1:
                del changed[at:]
            case 2:
                changed[at:at] = chance.choice(PIECES)
            case 3:
                changed[at : at + length] = chance.choice(PIECES)
            case 4:
                del changed[at : at + length]
            case 5:
                changed[at:at] = changed[at : at + length] * chance.choice((1, 2, 100))
    return bytes(changed)


def main() -> None:
    """Damage one file at a time."""
    seed, count, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    faulthandler.enable()
    kinds = [kind for kind in READERS if (folder / kind).is_dir()]
    originals = [(kind, path) for kind in kinds for path in sorted((folder / kind).iterdir())]
    for kind, original in originals:
        with suppress(MoteError):  # images of a model of COLMAP are missing
            READERS[kind](original)  # imports what it needs, which takes time
    answers = {"read": 0, "refused": 0}
    for number in range(count):
        chance = random.Random(seed * 1_000_003 + number)
        kind, original = originals[number % len(originals)]
        with tempfile.TemporaryDirectory() as place:
            copy = Path(place) / original.name
            if original.is_dir():
                shutil.copytree(original, copy)
                victim = chance.choice(sorted(p for p in copy.rglob("*") if p.is_file()))
            else:
                shutil.copy(original, copy)
                victim = copy
            victim.write_bytes(damaged(victim.read_bytes(), chance))
            started, fault = time.monotonic(), ""
            print(
                json.dumps({"begins": number, "file": str(victim.relative_to(place))}), flush=True
            )
            try:
                READERS[kind](copy)
                answers["read"] += 1
            except MoteError as error:
                answers["refused"] += 1
                text = str(error)
                if "\n" in text or "\x1b" in text or len(text) > 1000:
                    fault = f"its error is not one line: {text[:300]!r}"
            except BaseException:
                fault = traceback.format_exc()
            took_s = time.monotonic() - started
            if took_s > LIMIT_S:
                fault = f"took {took_s:.1f} s"
            if fault:
                print(
                    json.dumps({"fault": fault, "number": number, "file": original.name}),
                    flush=True,
                )
    status = Path("/proc/self/status").read_text()  # getrusage counts the process before exec
    (peak_kb,) = (line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))
    peak_mb = int(peak_kb) / 1e3
    say(**answers, peak_mb=peak_mb)


def say(**values: object) -> None:
    """Print a line of JSON."""
    print(json.dumps(values), flush=True)


if __name__ == "__main__":
    main()
