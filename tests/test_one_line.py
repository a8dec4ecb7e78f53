"""Command lines end with one line or none, never with a traceback."""

import importlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from make_map import write_constant_map

from mote_localization.quiet_imports import import_and_run

LONG = "n" * 300


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A map, and names that cannot be opened: too long, links to themselves, below a file."""
    folder = tmp_path_factory.mktemp("names")
    write_constant_map(folder / "room.onnx")
    (folder / "loop").symlink_to("loop")
    (folder / "file").write_text("")
    return folder


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


def test_output_that_cannot_be_printed_is_one_line_or_none(folder):
    expected = {
        "$MOTE inspect room.onnx | true": (141, ""),
        "$MOTE --help > /dev/full": (1, "error: No space left on device\n"),
    }
    program = {"MOTE": f"{sys.executable} -m mote_localization", "PYTHONPATH": str(ROOT)}
    shells = [
        subprocess.Popen(
            ["bash", "-c", f"set -o pipefail; {command}"],
            cwd=folder, env=os.environ | program, stderr=subprocess.PIPE, text=True,
        )
        for command in expected
    ]  # fmt: skip
    errors = [shell.communicate(timeout=120)[1] for shell in shells]
    statuses = [shell.returncode for shell in shells]
    assert list(zip(statuses, errors, strict=True)) == [*expected.values()]


INTERRUPTED_IMPORT = """
import os, signal, sys

class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == "numpy":
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupt())
from {package} import main
main()
"""


@pytest.mark.parametrize("package", ["mote_localization.__main__", "distill_training"])
def test_an_interruption_during_the_imports_prints_nothing(folder, package):
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED_IMPORT.format(package=package), "--help"],
        cwd=folder, env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")


def test_after_an_import_that_fails_an_interruption_raises_again():
    before = signal.getsignal(signal.SIGINT)
    assert before is signal.default_int_handler
    with pytest.raises(ModuleNotFoundError):
        import_and_run("mote_localization.absent")
    assert signal.getsignal(signal.SIGINT) is before
