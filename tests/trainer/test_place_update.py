"""`mote-distill update`: a recording of one part trains the submaps there again, and no other."""

import os
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from make_bundle import map_at, view
from make_map import CAMERA, room_points
from make_painted_room import photograph
from make_scene import View, write_scene
from test_place_map import QUICK, InThisProcess

from distill_training.poses.poses_config import PosesConfig
from distill_training.reconstruction import open_reconstruction
from distill_training.submaps.make_place import ExecutorOptions
from distill_training.submaps.new_frames import find_new_frames
from distill_training.submaps.partition import PartitionConfig
from distill_training.submaps.place import read_place
from distill_training.submaps.plan_file import write_plan
from distill_training.submaps.planning import make_plan
from distill_training.submaps.tasks import run_task
from distill_training.submaps.update_command import Update
from distill_training.submaps.work_folder import PlaceOptions, WorkFolder
from distill_training.teachers.teacher_options import Teacher
from mote_localization.bundles import read_bundle
from mote_localization.camera import Camera
from mote_localization.errors import MoteError
from mote_localization.geometry import depth_in_camera, local_coordinates
from mote_localization.scenes import RecordingOptions, open_scene

pytestmark = pytest.mark.train
OLD_TURNS, NEW_TURNS = np.linspace(-1.2, 1.6, 15), np.linspace(0.1, 0.7, 10)  # rad
TOUCHED = "submap-02"
FAR = np.eye(4)
FAR[0, 3] = 20.0


def write_room(
    folder: Path, turns: np.ndarray, lost: bool = False, camera: Camera = CAMERA
) -> Path:
    """Write a scene of a turning camera; the last frame may be black and far from the others."""
    views = {}
    for number, turn in enumerate(turns):
        T_map_cam = view(turn)
        depth_hw = depth_in_camera(room_points(T_map_cam, camera, 1), T_map_cam)
        views[f"frame-{number:02d}"] = View(photograph(T_map_cam), T_map_cam, depth_hw)
    if lost:
        image_hw3 = np.zeros((CAMERA.height, CAMERA.width, 3), np.uint8)
        views["lost"] = View(image_hw3, FAR @ T_map_cam, depth_hw)
    return write_scene(folder, camera, views)


@pytest.fixture(scope="module")
def before(tmp_path_factory) -> Path:
    """A map of three submaps, whose networks are constants, and its work folder."""
    folder = tmp_path_factory.mktemp("place")
    scene, work = write_room(folder / "room", OLD_TURNS), WorkFolder(folder / "room.training")
    config = PartitionConfig(frames=6, area=1000.0)
    plan = make_plan(read_place(open_scene(scene)), config, "room", {})
    write_plan(work.plan_path, plan)
    output = folder / "room.mote"
    teacher = Teacher(poses=PosesConfig("given"))
    work.begin(PlaceOptions(scene, output, RecordingOptions(), teacher, QUICK, False))
    run_task(work.path, "reconstruct")
    (work.path / "maps").mkdir()
    for submap, turn in zip(plan.submaps, (-0.7, 0.4, 1.3), strict=True):
        map_at(work.map_of(submap), turn)
    run_task(work.path, "bundle")
    return output


@pytest.fixture(scope="module")
def recording(before) -> Path:
    return write_room(before.parent / "new", NEW_TURNS, lost=True)


def update(before: Path, recording: Path, output: Path, *failing: str, **options) -> list[str]:
    """Run the command with tasks in this process; return those that ran."""
    executor = InThisProcess(failing)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ExecutorOptions, "chosen", lambda _: executor)
        Update(before, recording, output, **{"poses": "given"} | options).run()
    return executor.ran


@pytest.fixture(scope="module")
def updated(before, recording) -> Path:
    output = before.with_name("updated.mote")
    update(before, recording, output)
    return output


def prepared(before: Path, recording: Path, output: Path, **options) -> WorkFolder:
    """Return the work folder of an update whose training fails."""
    with pytest.raises(MoteError, match="2 of 5 tasks failed"):
        update(before, recording, output, TOUCHED, **options)
    return WorkFolder(output.with_suffix(".training"))


def entries(bundle: Path) -> dict[str, bytes]:
    """Return the content of each map of a bundle, by the submap's name."""
    read = read_bundle(bundle)
    with zipfile.ZipFile(bundle) as archive:
        return {
            submap.name: archive.read(f"{digest}.onnx")
            for submap, digest in zip(read.submaps, read.hashes, strict=True)
        }


def test_only_the_submap_of_the_new_frames_changes(before, updated):
    old, new = entries(before), entries(updated)
    assert old.keys() == new.keys()
    assert [name for name in old if old[name] != new[name]] == [TOUCHED]


def test_its_student_is_trained_on_old_and_new_frames(before, updated):
    old, new = (WorkFolder(path.with_suffix(".training")) for path in (before, updated))
    first, touched, last = new.plan().submaps
    assert (first, last) == (old.plan().submaps[0], old.plan().submaps[2])
    added = tuple(f"update-1-frame-{n:02d}" for n in range(len(NEW_TURNS)))
    assert touched.own == old.plan().submaps[1].own + added
    assert read_bundle(updated).submaps[1].info.training["frames"] == len(touched.frames)
    merged = open_reconstruction(new.reconstruction)
    assert len(merged.poses) == len(OLD_TURNS) + len(NEW_TURNS)
    points_hw3 = merged.read_frame(added[3]).points_hw3
    expected_hw3 = room_points(view(NEW_TURNS[3]), CAMERA, 8)
    assert np.nanmax(np.abs(points_hw3 - expected_hw3)) < 0.05


def test_the_same_command_trains_nothing_again(before, recording, updated):
    content, work = updated.read_bytes(), updated.with_suffix(".training")
    files = sorted(work.rglob("*.onnx"))
    times = [os.stat(path).st_mtime_ns for path in files]
    updated.unlink()
    update(before, recording, updated)
    assert updated.read_bytes() == content
    assert [os.stat(path).st_mtime_ns for path in files] == times
    with pytest.raises(MoteError, match="made with other options"):
        update(before, recording, updated, poses="localized")


def test_frames_are_localized_in_the_map(before, recording):
    plan = WorkFolder(before.with_suffix(".training")).plan()
    known = {f"frame-{n:02d}": view(turn) for n, turn in enumerate(OLD_TURNS)}
    new = find_new_frames(open_scene(recording), before, plan, known)
    assert list(new.by_submap) == [TOUCHED]
    for one, turn in zip(new.by_submap[TOUCHED], NEW_TURNS, strict=True):
        assert np.abs(local_coordinates(view(turn), one.T_map_cam)).max() < 0.02
    assert new.left_out_text() == "1 of 11 frames are left out: 1 lost"


def test_frames_of_another_camera_become_those_of_the_map(before, tmp_path):
    wide = write_room(tmp_path / "wide", NEW_TURNS, camera=replace(CAMERA, fx=200.0, fy=210.0))
    new = prepared(before, wide, tmp_path / "new.mote")
    points_hw3 = open_reconstruction(new.reconstruction).read_frame("update-1-frame-07").points_hw3
    expected_hw3 = room_points(view(NEW_TURNS[7]), CAMERA, 8)
    assert np.isfinite(points_hw3).all()
    assert np.median(np.abs(points_hw3 - expected_hw3)) < 0.01


def test_an_updated_map_can_be_updated(recording, updated, tmp_path):
    """Frames of the same names, even of the same recording, are other ones."""
    plan = prepared(updated, recording, tmp_path / "again.mote").plan()
    assert {"frame-07", "update-1-frame-07", "update-2-frame-07"} <= plan.frames.keys()


def test_new_frames_get_the_adjustment_of_the_poses_near_them(before, recording, tmp_path):
    shifted = Path(shutil.copy(before, tmp_path / "room.mote"))
    work = WorkFolder(shifted.with_suffix(".training"))
    shutil.copytree(before.with_suffix(".training"), work.path)
    old = open_reconstruction(work.reconstruction)
    shift_44 = np.eye(4)
    shift_44[2, 3] = 0.01
    moved = {name: shift_44 @ T for name, T in old.poses.items()}
    (work.reconstruction / "reconstruction.json").unlink()
    replace(old, poses=moved, given_poses=old.poses).begin()
    new = prepared(shifted, recording, tmp_path / "new.mote")
    merged, name = open_reconstruction(new.reconstruction), "update-1-frame-07"
    np.testing.assert_allclose(merged.given_pose(name), view(NEW_TURNS[7]), atol=1e-9)
    np.testing.assert_allclose(merged.poses[name], shift_44 @ view(NEW_TURNS[7]), atol=1e-9)


def test_an_update_that_cannot_be_made_leaves_nothing(before, recording, tmp_path):
    few = write_room(tmp_path / "few", NEW_TURNS[:5], lost=True)
    flat = Path(shutil.copytree(recording, tmp_path / "flat"))
    for path in flat.glob("data/*.depth.png"):
        path.unlink()
    other = Path(shutil.copytree(before.with_suffix(".training"), tmp_path / "other"))
    shutil.copy(*sorted(other.glob("maps/*.onnx"))[:2])
    files = sorted(tmp_path.iterdir())
    output = tmp_path / "out.mote"
    for change, text in (
        (
            {"new_recording": few},
            "no submap has 10 of its frames: 6 of 6 frames are left out: 1 more than 3 m from "
            "every frame of the map, 5 in submap-02, which needs 10",
        ),
        ({"new_recording": flat}, "has no depth"),
        ({"before": other}, "has no map of submap-0., or another one than"),
        ({"before": tmp_path}, "expected the --work folder"),
        ({"map": before.with_suffix(".onnx")}, "expected a map of several submaps"),
        ({"output": before}, "is the map itself"),
        ({"execution": ExecutorOptions(plan=few)}, "found --plan"),
    ):
        with pytest.raises(MoteError, match=text):
            replace(Update(before, recording, output, poses="given"), **change).run()
    assert sorted(tmp_path.iterdir()) == files
