"""Command lines end with one line or none, never with a traceback."""

import importlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT
from make_map import write_constant_map

LONG = "n" * 300


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A map, and names that cannot be opened: too long, links to themselves, below a file."""
    folder = tmp_path_factory.mktemp("names")
    write_constant_map(folder / "room.onnx")
    (folder / "loop").symlink_to("loop")
    (folder / "file").write_text("")
    return folder


def shell(command: str, folder: Path) -> subprocess.CompletedProcess:
    """Run a line of a shell in which $MOTE is the program."""
    program = {"MOTE": f"{sys.executable} -m mote_localization", "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}"],
        cwd=folder, env=os.environ | program,
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip


NAMES = [LONG, f"{LONG}/a", "loop", "loop/a", "file/a"]


@pytest.mark.parametrize(
    ("package", "commands"),
    [
        (
            "mote_localization",
            [
                "inspect {}", "inspect {}.onnx", "inspect room.onnx --report {}.png",
                "localize {} --map room.onnx --camera file", "evaluate {} --map room.onnx",
                "localize {} --map {} --camera {}", "evaluate-poses {} {}", "bench --map {}",
                "transform room.onnx -o {}.onnx --anchor {}", "cloud {} -o a.ply",
                "cloud room.onnx -o {}.ply", "grid {} -o a", "build-engine {} --for sm_86",
            ],
        ),
        (
            "distill_training",
            [
                "map {} -o a.onnx", "reconstruct {} -o out", "distill {} -o a.onnx",
                "distill . -o {}.onnx", "benchmark {} -o out", "ablate {} -o out",
                "room --scene {}",
            ],
        ),
    ],
)  # fmt: skip
def test_names_that_cannot_be_opened_are_one_line(
    folder, run_command, monkeypatch, package, commands
):
    monkeypatch.chdir(folder)
    main = importlib.import_module(f"{package}.cli").main
    for command in commands:
        for name in NAMES if package == "mote_localization" else NAMES[1:4:2]:
            status, _, errors = run_command(package, main, command.replace("{}", name))
            last = errors.splitlines()[-1]  # lines before are what the program does
            assert status == 1 and last.startswith("error: "), (command, name, errors)


@pytest.mark.parametrize(
    ("command", "status", "line"),
    [
        ("$MOTE inspect room.onnx | true", 141, ""),
        ("$MOTE --help > /dev/full", 1, "error: No space left on device\n"),
    ],
)
def test_output_that_cannot_be_printed_is_one_line_or_none(folder, command, status, line):
    done = shell(command, folder)
    assert (done.returncode, done.stderr) == (status, line)


@pytest.mark.parametrize("package", ["mote_localization.__main__", "distill_training"])
def test_an_interruption_during_the_imports_prints_nothing(folder, package):
    for delay_s in (0.2, 0.6):
        process = subprocess.Popen(
            [sys.executable, "-c", f"from {package} import main; main()", "--help"],
            cwd=folder, env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        time.sleep(delay_s)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
        if process.returncode in (-signal.SIGINT, 130):
            assert not errors, (delay_s, errors)
