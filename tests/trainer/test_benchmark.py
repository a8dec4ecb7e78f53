"""Benchmarks: the scenes of a folder, their table, resuming, and scenes that fail."""

import io
import json
import shutil
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

pytest.importorskip("torch", reason="torch is not installed")

from make_map import (  # noqa: E402
    CAMERA,
    ROOM_M,
    T_MAP_CAM,
    graph_of,
    room_points,
    write_constant_map,
)
from make_scene import View, write_scene  # noqa: E402
from make_student import TINY  # noqa: E402

import distill_training.cli  # noqa: E402
import mote_localization.cli  # noqa: E402
from distill_training.experiments.benchmark import scene_results  # noqa: E402
from distill_training.experiments.benchmark.benchmark_run import (  # noqa: E402
    check_options,
    option_values,
    run_benchmark,
)
from distill_training.experiments.benchmark.benchmark_scenes import (  # noqa: E402
    find_scenes,
    true_poses_of,
)
from distill_training.experiments.benchmark.benchmark_table import benchmark_table  # noqa: E402
from distill_training.experiments.benchmark.scene_results import (  # noqa: E402
    BenchmarkScene,
    added_time,
)
from distill_training.training.train_config import TrainConfig  # noqa: E402
from mote_localization.errors import MoteError, SceneError  # noqa: E402
from mote_localization.evaluation.pose_files import read_poses, write_named_poses  # noqa: E402
from mote_localization.geometry import exp_rotation, invert, transform  # noqa: E402

pytestmark = pytest.mark.train
SMALL = CAMERA.resized(160, 120)
ERRORS_CM = (0.5, 1.5, 4.0, None)  # of the test frames in the map of `make_map`; None: lost


def write_room(folder: Path, frames: int = 8) -> Path:
    """Write a scene of the box room with depth; every other frame is for tests."""
    views = {}
    for i in range(frames):
        T = T_MAP_CAM.copy()
        T[:3, :3] = exp_rotation(np.array([0, 0, 0.02 * i])) @ T[:3, :3]
        T[0, 3] += 0.05 * i
        points = room_points(T, SMALL, stride=1)
        image_hw3 = (255 * points / ROOM_M).astype(np.uint8)  # each point has its own colour
        views[f"view{i}"] = View(image_hw3, T, transform(invert(T), points)[..., 2])
    return write_scene(folder, SMALL, views, test=[f"view{i}" for i in range(1, frames, 2)])


def write_grey(folder: Path) -> Path:
    """Write a scene whose test frames have the errors `ERRORS_CM` in the map of `make_map`."""
    views = {"train": View(np.full((CAMERA.height, CAMERA.width, 3), 90, np.uint8), T_MAP_CAM)}
    for i, cm in enumerate(ERRORS_CM):
        T = T_MAP_CAM.copy()
        T[1, 3] += (cm or 0) / 100
        views[f"test{i}"] = View(np.full_like(views["train"].image_hw3, 90 if cm else 0), T)
    return write_scene(folder, CAMERA, views, test=list(views)[1:])


class MapMaker:
    """Writes a map that gives one pose for grey images; remembers for which scenes."""

    def __init__(self) -> None:
        self.made: list[str] = []

    def __call__(self, scene: Path, output: Path) -> None:
        self.made.append(scene.name)
        write_constant_map(output)


@pytest.fixture
def make_map() -> MapMaker:
    return MapMaker()


@pytest.fixture
def scenes(tmp_path) -> list[BenchmarkScene]:
    """Two scenes of known errors."""
    return [
        BenchmarkScene(name, write_grey(tmp_path / f"scenes/{name}"), tmp_path / "out", None)
        for name in ("hall", "attic")
    ]


def figures_of(folder: Path) -> dict:
    return json.loads((folder / "benchmark.json").read_text())


def without_times(figures: dict) -> dict:
    """Return the figures of scenes without those that measure time."""
    kept = {
        name: {k: v for k, v in row.items() if k not in ("minutes", "milliseconds")}
        for name, row in figures["scenes"].items()
    }
    return {**kept, "failed": figures["failed"]}


@pytest.mark.usefixtures("one_thread")
def test_maps_and_table_are_those_of_the_single_commands(tmp_path, monkeypatch, run_command):
    monkeypatch.chdir(tmp_path)
    write_room(Path("rooms/apt1/kitchen"))
    train, runtime = distill_training.cli.main, mote_localization.cli.main
    status, printed, errors = run_command("mote-distill", train, f"benchmark rooms -o out {TINY}")
    assert status == 0, errors
    assert "apt1_kitchen" in printed and "5/5 %" in printed
    run_command("mote-distill", train, f"map rooms/apt1/kitchen -o single.onnx {TINY}")
    evaluation = "evaluate rooms/apt1/kitchen --map single.onnx --json single.json"
    run_command("mote", runtime, evaluation)
    assert graph_of(Path("out/apt1_kitchen.onnx")) == graph_of(Path("single.onnx"))
    single, benchmarked = (
        json.loads(Path(file).read_text()) for file in ("single.json", "out/apt1_kitchen.json")
    )
    for key in ("error_cm", "error_deg", "reason", "inliers"):
        assert [f[key] for f in benchmarked["frames"]] == [f[key] for f in single["frames"]]
    (figures,) = figures_of(Path("out"))["scenes"].values()
    assert figures["5 cm, 5 deg"] == single["summary"]["within"]["5 cm, 5 deg"]
    assert figures["minutes"] > 0


def test_the_table_holds_the_figures_of_each_scene_and_their_mean(scenes, make_map, capsys):
    images = scenes[1].path / "data"  # two of four frames are lost
    shutil.copy(images / "test3.color.png", images / "test0.color.png")
    run_benchmark(scenes, make_map, {}, scenes[0].output)
    figures = figures_of(scenes[0].output)
    hall, attic, mean = (*figures["scenes"].values(), figures["mean"])
    keys = ("5 cm, 5 deg", "2 cm, 2 deg", "1 cm, 1 deg", "lost")
    assert [hall[key] for key in keys] == [3 / 4, 2 / 4, 1 / 4, 1 / 4]
    assert [attic[key] for key in keys] == [2 / 4, 1 / 4, 0, 2 / 4]
    assert [mean[key] for key in keys] == [2.5 / 4, 1.5 / 4, 0.5 / 4, 1.5 / 4]
    assert hall["median_cm"] == pytest.approx((1.5 + 4) / 2, abs=0.1)
    assert attic["median_cm"] is None  # infinite
    printed = capsys.readouterr().out
    for text in (
        printed[printed.index("5/5 %") :],
        (scenes[0].output / "benchmark.md").read_text(),
    ):
        for name, numbers in (
            ("hall", "75.0 50.0 25.0 2.75"),
            ("attic", "50.0 25.0 0.0 ∞"),
            ("mean", "62.5 37.5 12.5 ∞"),
        ):
            row = next(line for line in text.splitlines() if name in line)
            assert numbers in " ".join(row.replace("|", " ").split())


def test_a_terminal_of_80_columns_shows_the_whole_table(scenes, make_map):
    run_benchmark(scenes, make_map, {}, scenes[0].output)
    results = {"office1_gates362": figures_of(scenes[0].output)["scenes"]["hall"]}
    results["office1_gates362"] |= {"minutes": 25.0, "megabytes": 4.2, "milliseconds": 32.1}
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(benchmark_table(results))
    assert "office1_gates362" in (text := console.export_text()) and "…" not in text


@pytest.mark.parametrize("lost", ["json", "txt", "onnx"])
def test_only_the_scene_without_results_is_done_again(scenes, make_map, lost):
    output = scenes[0].output
    run_benchmark(scenes, make_map, {}, output)
    before, table = figures_of(output), (output / "hall.json").stat().st_mtime_ns
    (output / f"attic.{lost}").unlink()
    again = MapMaker()
    run_benchmark(scenes, again, {}, output)
    assert again.made == (["attic"] if lost == "onnx" else [])
    assert without_times(figures_of(output)) == without_times(before)
    assert (output / "hall.json").stat().st_mtime_ns == table
    assert figures_of(output)["scenes"]["hall"] == before["scenes"]["hall"]


def test_an_interrupted_benchmark_goes_on(scenes, make_map):
    class Interrupted(MapMaker):
        def __call__(self, scene: Path, output: Path) -> None:
            if self.made:
                raise KeyboardInterrupt
            super().__call__(scene, output)

    output = scenes[0].output
    with pytest.raises(KeyboardInterrupt):
        run_benchmark(scenes, Interrupted(), {}, output)
    assert list(figures_of(output)["scenes"]) == ["hall"]
    run_benchmark(scenes, make_map, {}, output)
    assert make_map.made == ["attic"]
    assert list(figures_of(output)["scenes"]) == ["hall", "attic"]


def test_a_scene_that_fails_is_named_and_the_others_go_on(scenes, make_map):
    (scenes[0].path / "test.txt").write_text("")
    with pytest.raises(MoteError, match="1 of 2 scenes failed; hall: .*hall: has no test frames"):
        run_benchmark(scenes, make_map, {}, scenes[0].output)
    figures = figures_of(scenes[0].output)
    assert list(figures["scenes"]) == ["attic"] and make_map.made == ["attic"]
    assert "has no test frames" in figures["failed"]["hall"]
    assert "Failed: hall: " in (scenes[0].output / "benchmark.md").read_text()


def test_scenes_without_training_frames_or_true_poses_fail_before_the_work(scenes, make_map):
    (scenes[0].path / "train.txt").write_text("")
    for path in scenes[1].path.glob("data/test*.pose.txt"):
        path.unlink()
    for scene, message in zip(
        scenes, ("has no training frames", "no test frame has a pose"), strict=True
    ):
        with pytest.raises(SceneError, match=message):
            scene.result(make_map)
    other = scenes[0].output.parent / "other.txt"
    write_named_poses(other, [("elsewhere", T_MAP_CAM)])
    with pytest.raises(SceneError, match="other.txt: no name in it is that of a frame of attic"):
        replace(scenes[1], truth=other).result(make_map)
    assert not make_map.made


def test_other_true_poses_are_evaluated_without_a_new_map(scenes, make_map):
    own = scenes[0].result(make_map)
    truth = scenes[0].output.parent / "hall_test.txt"
    write_named_poses(truth, [(f"data/test{i}.color.png", T_MAP_CAM) for i in range(4)])
    given = replace(scenes[0], truth=truth).result(make_map)
    assert (own["1 cm, 1 deg"], given["1 cm, 1 deg"]) == (1 / 4, 3 / 4)
    assert scenes[0].result(make_map)["1 cm, 1 deg"] == 1 / 4
    assert make_map.made == ["hall"]


def test_the_estimated_poses_are_stored_by_the_names_of_the_frames(scenes, make_map):
    scenes[0].result(make_map)
    found = read_poses(scenes[0].output / "hall.txt")
    assert found.keys.names == ("test0", "test1", "test2")  # test3 is lost


def test_a_damaged_result_is_named(scenes, make_map):
    run_benchmark(scenes, make_map, {}, scenes[0].output)
    (scenes[0].output / "hall.json").write_text('{"subject": {}}')
    with pytest.raises(MoteError, match="hall.json: is damaged .*delete it to evaluate the map"):
        run_benchmark(scenes, make_map, {}, scenes[0].output)
    assert list(figures_of(scenes[0].output)["scenes"]) == ["attic"]


def make_scene_folder(path):
    path.mkdir(parents=True, exist_ok=True)
    (path / "train.txt").touch()


def test_scenes_are_found_on_two_levels(tmp_path):
    for name in ("office10", "office2", "apt1/kitchen", "apt1/living", ".hidden/room", "out/room"):
        make_scene_folder(tmp_path / name)
    (tmp_path / "papers").mkdir()
    found = find_scenes(tmp_path, tmp_path / "out")
    assert list(found) == ["apt1_kitchen", "apt1_living", "office2", "office10"]
    assert found["apt1_kitchen"] == tmp_path / "apt1/kitchen"


def test_folders_that_are_no_benchmark_are_refused(tmp_path):
    with pytest.raises(SceneError, match="holds no scenes, expected a subfolder for each scene"):
        find_scenes(tmp_path, tmp_path / "out")
    with pytest.raises(SceneError, match="nowhere: cannot be read"):
        find_scenes(tmp_path / "nowhere", tmp_path / "out")
    with pytest.raises(SceneError, match="found the scenes in the folder of --output"):
        find_scenes(tmp_path, tmp_path / "papers/..")
    make_scene_folder(tmp_path / "den/room")
    with pytest.raises(SceneError, match="room: is a scene, expected a folder of scenes"):
        find_scenes(tmp_path / "den/room", tmp_path / "out")
    for name in ("apt1/kitchen", "apt1_kitchen"):
        make_scene_folder(tmp_path / name)
    with pytest.raises(SceneError, match="two scenes have the name apt1_kitchen"):
        find_scenes(tmp_path, tmp_path / "out")
    (tmp_path / "apt1").rename(tmp_path / "benchmark")
    make_scene_folder(tmp_path / "benchmark")
    with pytest.raises(SceneError, match="benchmark: has the name of the table; rename it"):
        find_scenes(tmp_path, tmp_path / "out")


def test_true_poses_are_a_file_or_a_file_of_each_scene(tmp_path):
    chess, fire = tmp_path / "chess_test.txt", tmp_path / "fire.txt"
    for path in (chess, fire):
        path.touch()
    assert true_poses_of("chess", None) is None
    assert true_poses_of("any", fire) == fire
    assert [true_poses_of(name, tmp_path) for name in ("chess", "fire")] == [chess, fire]
    with pytest.raises(SceneError, match="has no file heads.txt or heads_test.txt"):
        true_poses_of("heads", tmp_path)
    with pytest.raises(SceneError, match="--truth .*nowhere: does not exist"):
        true_poses_of("heads", tmp_path / "nowhere")


def test_maps_of_other_options_are_refused(scenes, make_map):
    output = scenes[0].output
    options = option_values(train=TrainConfig(steps=5))
    run_benchmark(scenes[:1], make_map, options, output)
    check_options(option_values(train=TrainConfig(steps=5)), output)
    check_options({**options, "train.new": 1}, output)
    with pytest.raises(MoteError, match="out: holds maps made with train.steps 5, found 6; choose"):
        check_options(option_values(train=TrainConfig(steps=6)), output)
    (output / "benchmark.json").write_text("{")
    with pytest.raises(MoteError, match="benchmark.json: is damaged"):
        check_options(options, output)


def test_time_is_added_while_the_work_goes_on(tmp_path, monkeypatch):
    path = tmp_path / "a.seconds"
    path.write_text("100.0")
    monkeypatch.setattr(scene_results, "_TICK_S", 0.02)
    with pytest.raises(ZeroDivisionError), added_time(path):
        deadline = time.monotonic() + 10
        while path.read_text() == "100.0":  # a killed process would leave this file
            assert time.monotonic() < deadline
            time.sleep(0.12)
        raise ZeroDivisionError
    assert 100.1 <= float(path.read_text()) < 111


@pytest.mark.parametrize("option", ["--work made", "--level cameras --keyframes 20"])
def test_options_of_one_map_are_refused(tmp_path, monkeypatch, run_command, option):
    monkeypatch.chdir(tmp_path)
    command = f"benchmark rooms -o out {option}"
    status, _, errors = run_command("mote-distill", distill_training.cli.main, command)
    assert status == 1 and "found --work, --level or --anchor, expected none of them" in errors
