"""`make bench`: a table of maps, backends and a baseline, written into a document."""

import os
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT
from make_map import CAMERA, T_MAP_CAM, write_constant_map
from make_scene import View, write_scene

from benchmarks.bench_students import Bench
from mote_localization.errors import MoteError
from mote_localization.evaluation import machine

BASELINE = """
print("room: 2 queries, median 3.00 cm 0.50 deg")
for bound in ("10 cm 5 deg", "5 cm 5 deg", "2 cm 2 deg", "1 cm 1 deg"):
    print(f"  within {bound}: 50.0 %")
print("  query 80 ms median; mapping 3 s; map 12.0 MiB (float32)")
"""


@pytest.fixture(autouse=True)
def keep_cores(monkeypatch):
    """Restore the cores of this process: the benchmark restricts them."""
    monkeypatch.setattr(machine, "_SECONDS", 0.01)
    cores = os.sched_getaffinity(0)
    yield
    os.sched_setaffinity(0, cores)


@pytest.fixture
def scene(tmp_path):
    image_hw3 = np.full((CAMERA.height, CAMERA.width, 3), 100, np.uint8)
    views = {name: View(image_hw3, T_MAP_CAM) for name in ("a", "b", "c")}
    return write_scene(tmp_path / "room", CAMERA, views, test=("b", "c"))


def test_a_second_run_replaces_the_table_of_the_first(scene, tmp_path):
    document = tmp_path / "figures.md"
    document.write_text(
        "# Figures\n\n<!-- bench room -->\nold\n<!-- end of bench room -->\n\nend\n"
    )
    baseline = tmp_path / "baseline.py"
    baseline.write_text(BASELINE)
    bench = Bench(scene, (write_constant_map(tmp_path / "room.onnx"),), baseline, write=document)
    bench.run()
    bench.run()
    text = document.read_text()
    assert text.startswith("# Figures\n\n<!-- bench room -->\n") and text.endswith("\n\nend\n")
    assert text.count("bench room") == 2 and "old" not in text
    assert (
        "    python benchmarks/bench_students.py room --maps room.onnx --baseline baseline.py"
        in text
    )
    assert "| room, 2 test frames | room | baseline |" in text
    assert "| within 5 cm, 5° | 100.0 % | 50.0 % |" in text
    assert "| lost | 0.0 % |  |" in text


def test_a_table_is_appended_to_a_document_without_marks(scene, tmp_path):
    document = tmp_path / "figures.md"
    document.write_text("# Figures\n")
    Bench(scene, (write_constant_map(tmp_path / "room.onnx"),), write=document).run()
    assert document.read_text().startswith(
        "# Figures\n\n## room\n\n<!-- bench room -->\n\n    python"
    )


def test_a_document_with_only_one_mark_is_not_changed(scene, tmp_path):
    document = tmp_path / "figures.md"
    document.write_text("<!-- bench room -->\n")
    bench = Bench(scene, (write_constant_map(tmp_path / "room.onnx"),), write=document)
    with pytest.raises(MoteError, match="without <!-- end of bench room -->"):
        bench.run()
    assert document.read_text() == "<!-- bench room -->\n"


def test_a_baseline_with_other_output_is_an_error(scene, tmp_path):
    baseline = tmp_path / "baseline.py"
    baseline.write_text("print('all is well')")
    bench = Bench(scene, (write_constant_map(tmp_path / "room.onnx"),), baseline)
    with pytest.raises(MoteError, match="expected the medians of 2 queries"):
        bench.run()


def test_the_old_option_name_is_an_error_that_gives_the_new_one():
    command = [sys.executable, "benchmarks/bench_students.py", "room", "--yardstick", "sift.py"]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert ended.returncode == 1 and "--yardstick, which is now --baseline" in ended.stderr
