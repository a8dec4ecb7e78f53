"""`make bench`: maps, backends and a yardstick side by side, in a part of a document."""

import os

import numpy as np
import pytest
from make_map import CAMERA, T_MAP_CAM, write_constant_map
from make_scene import View, write_scene

from mote_localization.errors import MoteError
from mote_localization.evaluation import machine
from tools.bench_students import Bench

YARDSTICK = """
print("room: 2 queries, median 3.00 cm 0.50 deg")
for bound in ("10 cm 5 deg", "5 cm 5 deg", "2 cm 2 deg", "1 cm 1 deg"):
    print(f"  within {bound}: 50.0 %")
print("  query 80 ms median; mapping 3 s; map 12.0 MiB (float32)")
"""


@pytest.fixture(autouse=True)
def keep_cores(monkeypatch):
    """The benchmark keeps its process to some cores; the other tests have all of them."""
    monkeypatch.setattr(machine, "_SECONDS", 0.01)
    cores = os.sched_getaffinity(0)
    yield
    os.sched_setaffinity(0, cores)


@pytest.fixture
def scene(tmp_path):
    image_hw3 = np.full((CAMERA.height, CAMERA.width, 3), 100, np.uint8)
    views = {name: View(image_hw3, T_MAP_CAM) for name in ("a", "b", "c")}
    return write_scene(tmp_path / "room", CAMERA, views, test=("b", "c"))


def test_what_is_measured_takes_the_place_of_what_was(scene, tmp_path):
    document = tmp_path / "figures.md"
    document.write_text(
        "# Figures\n\n<!-- bench room -->\nold\n<!-- end of bench room -->\n\nend\n"
    )
    yardstick = tmp_path / "yardstick.py"
    yardstick.write_text(YARDSTICK)
    bench = Bench(scene, (write_constant_map(tmp_path / "room.onnx"),), yardstick, write=document)
    bench.run()
    bench.run()
    text = document.read_text()
    assert text.startswith("# Figures\n\n<!-- bench room -->\n") and text.endswith("\n\nend\n")
    assert text.count("bench room") == 2 and "old" not in text
    assert (
        "    python tools/bench_students.py room --maps room.onnx --yardstick yardstick.py" in text
    )
    assert "| room, 2 test frames | room | yardstick |" in text
    assert "| within 5 cm, 5° | 100.0 % | 50.0 % |" in text
    assert "| lost | 0.0 % |  |" in text


def test_a_document_without_the_part_gets_it_at_its_end(scene, tmp_path):
    document = tmp_path / "figures.md"
    document.write_text("# Figures\n")
    Bench(scene, (write_constant_map(tmp_path / "room.onnx"),), write=document).run()
    assert document.read_text().startswith(
        "# Figures\n\n## room\n\n<!-- bench room -->\n\n    python"
    )


def test_a_document_with_half_of_the_marks_is_left_alone(scene, tmp_path):
    document = tmp_path / "figures.md"
    document.write_text("<!-- bench room -->\n")
    bench = Bench(scene, (write_constant_map(tmp_path / "room.onnx"),), write=document)
    with pytest.raises(MoteError, match="without <!-- end of bench room -->"):
        bench.run()
    assert document.read_text() == "<!-- bench room -->\n"


def test_a_yardstick_that_says_something_else_is_not_understood(scene, tmp_path):
    yardstick = tmp_path / "yardstick.py"
    yardstick.write_text("print('all is well')")
    bench = Bench(scene, (write_constant_map(tmp_path / "room.onnx"),), yardstick)
    with pytest.raises(MoteError, match="expected the medians of 2 queries"):
        bench.run()
