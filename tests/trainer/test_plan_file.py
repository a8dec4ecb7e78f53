"""The file of a plan, and the command that writes it."""

import os
import subprocess
import sys
from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest
from conftest import python_path
from make_scene import View, write_scene

import distill_training.cli
from benchmarks.plain_building import CAMERA, Building
from distill_training.submaps.plan_file import read_plan, write_plan
from mote_localization.errors import MoteError

COMMAND = "plan place -o place.plan --frames 40 --area 20"


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A scene folder of 120 frames of two rooms and their corridor."""
    building, views = Building(corridors=1, rooms=1), {}
    for k, T_map_cam in enumerate(building.drive(120)):
        image_hw3 = np.full((CAMERA.height, CAMERA.width, 3), k, np.uint8)
        views[f"frame-{k:03d}"] = View(image_hw3, T_map_cam, building.depth(T_map_cam))
    folder = tmp_path_factory.mktemp("scenes")
    return write_scene(folder / "place", CAMERA, views, test=["frame-119"]).parent


@pytest.fixture(scope="module")
def plan(place) -> Path:
    """A plan of that scene, made by another process."""
    program = "import sys, distill_training; sys.argv[0] = 'mote-distill'; distill_training.main()"
    run = subprocess.run(
        [sys.executable, "-c", program, *COMMAND.split()],
        cwd=place,
        env=os.environ | {"PYTHONPATH": python_path(), "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    assert "submap-01" in run.stdout and "neighbours (shared frames)" in run.stdout
    assert "plan: place.plan; picture: place.plan.png" in run.stderr
    return place / "place.plan"


@pytest.fixture
def distill(place, run_command, monkeypatch):
    """Run `mote-distill` in the folder of the scene; return exit status and stderr."""
    monkeypatch.chdir(place)

    def run(arguments):
        status, _, errors = run_command("mote-distill", distill_training.cli.main, arguments)
        return status, " ".join(errors.split())

    return run


def test_the_plan_has_all_training_frames_and_is_the_same_in_every_process(plan, distill):
    made, picture = read_plan(plan), plan.with_name("place.plan.png")
    assert len(made.frames) == 119 == sum(len(submap.own) for submap in made.submaps)
    assert (made.recording, made.options, made.left_out) == ("place", {}, ())
    assert 3 <= len(made.submaps) <= 8 and all(len(one.own) <= 40 for one in made.submaps)
    assert all(one.neighbours and one.area_m2 > 1 for one in made.submaps)
    assert all(np.less_equal(one.low, one.centre).all() for one in made.submaps)
    assert cv2.imread(str(picture)).shape[1] > 600
    before = plan.read_bytes(), picture.read_bytes()
    assert distill(COMMAND)[0] == 0
    assert before == (plan.read_bytes(), picture.read_bytes())


def test_a_written_plan_is_read_unchanged(plan, tmp_path):
    write_plan(tmp_path / "again.plan", read_plan(plan))
    assert (tmp_path / "again.plan").read_bytes() == plan.read_bytes()


def first_frame(text: str) -> str:
    return text.replace('"frame-000"', '"frame-xyz"', 1)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda text: text[: len(text) // 2], "truncated"),
        (lambda text: "[" * 100_000, "object"),
        (lambda text: text.replace('"format": 1', '"format": 2'), "found format 2, expected 1"),
        (lambda text: text.replace('"seed": 0', '"seed": 1'), "its id is not that of its frames"),
        (lambda text: text.replace('"seed": 0', '"seed": 0, "more": 1'), "unknown field `more`"),
        (lambda text: text.replace('"seed": 0', '"seed": "0"'), "Expected `int`"),
        (lambda text: text.replace('"submap-01"', '"../evil"'), "matching regex"),
        (first_frame, "not an own frame of exactly one submap"),
        (lambda text: text.replace('"shared_frames": ', '"shared_frames": 1', 1), "neighbours"),
        (lambda text: text + " " * (17 << 20), "is larger than 16 MiB"),
        (lambda text: "\0\xff", "malformed"),
    ],
)
def test_a_damaged_plan_is_one_error(plan, tmp_path, damage, reason):
    path = tmp_path / "damaged.plan"
    path.write_text(damage(plan.read_text()))
    with pytest.raises(MoteError, match="expected a plan made by `mote-distill plan`") as raised:
        read_plan(path)
    assert reason in str(raised.value)


def test_a_frame_in_two_submaps_is_refused(plan, tmp_path):
    content = msgspec.json.decode(plan.read_bytes())
    content["submaps"][1]["own"].append(content["submaps"][0]["own"][0])
    (tmp_path / "twice.plan").write_bytes(msgspec.json.encode(content))
    with pytest.raises(MoteError, match="not an own frame of exactly one submap"):
        read_plan(tmp_path / "twice.plan")
    with pytest.raises(MoteError, match="No such file"):
        read_plan(tmp_path / "missing.plan")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ("plan place -o place.json", "expected the name of a plan, NAME.plan"),
        ("plan place -o place.plan --overlap 2", "found --overlap 2, expected a fraction"),
        ("plan missing -o place.plan", "missing: does not exist"),
        ("plan place -o /proc/no/place.plan", "cannot be written"),
    ],
)
def test_bad_options_are_one_error(distill, arguments, reason):
    status, errors = distill(arguments)
    assert status == 1 and errors.startswith("error: ") and reason in errors
