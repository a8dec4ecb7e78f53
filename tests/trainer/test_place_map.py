"""Maps of several submaps: from a recording to a bundle that localizes, by tasks."""

import os
import shutil
from dataclasses import replace
from pathlib import Path
from threading import Thread

import msgspec
import numpy as np
import pytest
from make_bundle import view
from make_map import CAMERA, room_points
from make_painted_room import photograph
from make_scene import View, write_scene

from distill_training.cli import Map
from distill_training.student_options import StudentOptions
from distill_training.submaps.executors import reason_to_leave_out
from distill_training.submaps.make_place import ExecutorOptions
from distill_training.submaps.partition import PartitionConfig
from distill_training.submaps.place import read_place
from distill_training.submaps.plan_file import read_plan, submap_id, write_plan
from distill_training.submaps.planning import make_plan
from distill_training.submaps.tasks import run_task
from distill_training.submaps.work_folder import PlaceOptions, WorkFolder
from distill_training.teachers.teacher_options import Teacher
from distill_training.training.train_config import TrainConfig
from mote_localization.bundles import read_bundle
from mote_localization.bundles.bundle_localizer import open_localizer
from mote_localization.errors import MoteError
from mote_localization.geometry import depth_in_camera, local_coordinates
from mote_localization.localizer import Status
from mote_localization.scenes import RecordingOptions, open_scene

pytestmark = pytest.mark.train
TURNS = np.linspace(-1.2, 1.6, 16)
QUICK = StudentOptions(
    set=("size=s",), train=TrainConfig(steps=2, batch=2, keyframes=6, validation=False)
)


class InThisProcess:
    """Runs tasks one after the other; those of some names fail."""

    def __init__(self, failing=()):
        self.failing, self.ran = failing, []

    def run(self, tasks, folder, report):
        failed = {}
        for task in tasks:
            if reason := reason_to_leave_out(task, failed):
                failed[task.name] = reason
            elif task.name in self.failing:
                failed[task.name] = "has failed"
            else:
                run_task(folder, task.name)
                self.ran.append(task.name)
        return failed


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    views = {}
    for number, turn in enumerate(TURNS):
        T_map_cam = view(turn)
        depth_hw = depth_in_camera(room_points(T_map_cam, CAMERA, 1), T_map_cam)
        views[f"frame-{number:02d}"] = View(photograph(T_map_cam), T_map_cam, depth_hw)
    return write_scene(tmp_path_factory.mktemp("place") / "room", CAMERA, views)


@pytest.fixture(scope="module")
def plan(scene):
    path = scene.parent / "room.plan"
    config = PartitionConfig(frames=12, area=1000.0)
    write_plan(path, make_plan(read_place(open_scene(scene)), config, "room", {}))
    return path


@pytest.fixture
def run(scene, plan, monkeypatch):
    """Make the map; tasks run in this process."""

    def make(output: Path, *failing: str, student=QUICK, **options) -> list[str]:
        executor = InThisProcess(failing)
        monkeypatch.setattr(ExecutorOptions, "chosen", lambda _: executor)
        Map(scene, output, student=student, execution=ExecutorOptions(plan=plan, **options)).run()
        return executor.ran

    return make


@pytest.fixture(scope="module")
def made(scene, plan):
    """Make the map once."""
    with pytest.MonkeyPatch.context() as patch:
        executor = InThisProcess()
        patch.setattr(ExecutorOptions, "chosen", lambda _: executor)
        output = scene.parent / "room.mote"
        Map(scene, output, student=QUICK, execution=ExecutorOptions(plan=plan)).run()
    return output


def test_a_recording_becomes_a_bundle_that_localizes(made):
    assert [s.name for s in read_bundle(made).submaps] == ["submap-01", "submap-02"]
    localizer = open_localizer(made)
    for turn in (TURNS[3] + 0.05, TURNS[12] + 0.05):
        found = localizer.localize(photograph(view(turn)), CAMERA)
        assert found.status is Status.LOCALIZED, found.reason
        assert np.abs(local_coordinates(view(turn), found.T_map_cam)).max() < 0.02
    localizer.close()


def test_the_same_command_goes_on_and_gives_the_same_bundle(made, run):
    content, work = made.read_bytes(), made.with_suffix(".training")
    maps = sorted(work.glob("maps/*.onnx"))
    times = [os.stat(path).st_mtime_ns for path in maps]
    made.unlink()
    run(made)
    assert made.read_bytes() == content
    assert [os.stat(path).st_mtime_ns for path in maps] == times


def test_other_options_need_another_folder(made, run):
    other = replace(QUICK, train=replace(QUICK.train, steps=3))
    with pytest.raises(MoteError, match="holds maps made with other options"):
        run(made, student=other)


def test_a_bundle_without_a_submap_is_written_only_where_that_is_allowed(made, run, capsys):
    work = made.with_suffix(".training")
    lost = sorted(work.glob("maps/*.onnx"))[0]
    content = lost.read_bytes()
    lost.unlink()
    missing = next(s.name for s in WorkFolder(work).plan().submaps if lost.stem == s.id)
    output = made.with_name("part.mote")
    part = replace(QUICK, work=work)
    try:
        with pytest.raises(MoteError, match="2 of 4 tasks failed"):
            run(output, missing, student=part)
        assert not output.exists()
        assert run(output, missing, student=part, allow_missing=True)[-1] == "bundle"
        assert len(read_bundle(output).submaps) == 1
        assert f"part.mote lacks {missing}: images from there are lost" in capsys.readouterr().err
    finally:
        lost.write_bytes(content)


def test_a_plan_of_another_recording_is_refused(scene, plan, tmp_path):
    other = Path(shutil.copytree(scene, tmp_path / "other"))
    names = (other / "train.txt").read_text().replace("frame-07\n", "")
    (other / "train.txt").write_text(names)
    execution = ExecutorOptions(plan=plan)
    with pytest.raises(MoteError, match=r"names 1 of 16 frames .* such as frame-07; make the plan"):
        Map(other, tmp_path / "a.mote", student=QUICK, execution=execution).run()


def test_the_commands_of_all_tasks_can_be_printed(made, run, capsys):
    run(made, print_tasks=True)
    work = made.with_suffix(".training")
    assert capsys.readouterr().out.splitlines() == [
        f"mote-distill task {work} reconstruct",
        f"mote-distill task {work} submap-01  # after reconstruct",
        f"mote-distill task {work} submap-02  # after reconstruct",
        f"mote-distill task {work} bundle  # after submap-01, submap-02",
    ]


def test_a_plan_of_other_options_is_refused(scene, plan, tmp_path):
    options = {"--max-frames": "10"}
    other = tmp_path / "other.plan"
    write_plan(other, msgspec.structs.replace(read_plan(plan), options=options))
    execution = ExecutorOptions(plan=other)
    with pytest.raises(MoteError, match="made with --max-frames 10, found no options; expected"):
        Map(scene, tmp_path / "a.mote", student=QUICK, execution=execution).run()


def test_a_plan_of_other_frames_is_refused(made):
    work = WorkFolder(made.with_suffix(".training"))
    content = work.plan_path.read_bytes()
    plan = work.plan()
    more = tuple(f"other-{n}" for n in range(40))
    frames = plan.frames | dict.fromkeys(more, "0" * 32)
    first, second = plan.submaps
    own = first.own + more
    first = msgspec.structs.replace(
        first, own=own, id=submap_id(own, first.overlap, frames, plan.seed)
    )
    try:
        write_plan(
            work.plan_path, msgspec.structs.replace(plan, submaps=(first, second), frames=frames)
        )
        with pytest.raises(MoteError, match=r"found \d+ of the plan's \d+ frames"):
            run_task(work.path, first.name)
    finally:
        work.plan_path.write_bytes(content)


def test_a_task_waits_for_the_process_that_runs_it(made):
    work = WorkFolder(made.with_suffix(".training"))
    thread = Thread(target=run_task, args=(work.path, "bundle"))
    with work.locked("bundle"):
        thread.start()
        before = os.stat(made).st_mtime_ns
        thread.join(0.5)
        assert thread.is_alive() and os.stat(made).st_mtime_ns == before
    thread.join()
    assert os.stat(made).st_mtime_ns > before


def test_tasks_find_files_from_any_folder(scene, tmp_path, monkeypatch):
    """Those of a cluster run in folders of their own."""
    monkeypatch.chdir(tmp_path)
    weights = replace(QUICK, pretrained=Path("weights.pt"))
    options = PlaceOptions(
        scene, tmp_path / "a.mote", RecordingOptions(), Teacher(), weights, allow_missing=False
    )
    work = WorkFolder(tmp_path / "work")
    work.begin(options)
    assert work.options().student.pretrained == tmp_path / "weights.pt"
    work.begin(options)
    monkeypatch.chdir("/")
    with pytest.raises(MoteError, match="holds maps made with other options"):
        work.begin(options)  # another file of this name


def test_a_task_that_does_not_exist_is_refused(made, tmp_path):
    with pytest.raises(MoteError, match="found task 'submap-99', expected one of reconstruct"):
        run_task(made.with_suffix(".training"), "submap-99")
    with pytest.raises(MoteError, match="expected the --work folder"):
        run_task(tmp_path, "bundle")
    (tmp_path / "options.json").write_text('{"scene": 3}')
    with pytest.raises(MoteError, match=r"options\.json: cannot be used"):
        run_task(tmp_path, "bundle")


@pytest.mark.parametrize(
    ("output", "options", "text"),
    [
        ("a.onnx", {"workers": 2}, "ends in .mote"),
        ("a.mote", {"workers": 0}, "--workers 0"),
        ("a.mote", {"task_gpus": 1.0}, "--task-gpus with --executor local"),
        ("a.mote", {"executor": "ray", "workers": 2}, "--workers with --executor ray"),
        ("a(1).mote", {}, "is also the name of the place"),
        ("a.mote", {"task_cpus": float("nan")}, "--task-cpus nan"),
    ],
)
def test_options_that_do_not_fit_are_refused(scene, tmp_path, output, options, text):
    with pytest.raises(MoteError, match=text):
        Map(scene, tmp_path / output, execution=ExecutorOptions(**options)).run()
    without = replace(QUICK, train=replace(QUICK.train, keyframes=0))
    with pytest.raises(MoteError, match="keyframes, by which places are recognized"):
        Map(scene, tmp_path / "a.mote", student=without).run()
