"""Benchmarks of 7-Scenes and 12Scenes: real frames in the layouts in which they are distributed."""

import json
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed")

from make_datasets import (  # noqa: E402
    view_of_seven_scenes,
    write_seven_scenes,
    write_twelve_scenes,
)
from make_map import T_MAP_CAM, graph_of, write_constant_map  # noqa: E402
from make_scene import View  # noqa: E402
from make_student import TINY  # noqa: E402

import distill_training.cli  # noqa: E402
import mote_localization.cli  # noqa: E402
from mote_localization.geometry import invert, rotation_angle  # noqa: E402
from mote_localization.map_file import read_map, write_map  # noqa: E402
from mote_localization.map_transform import FrameChange, transform_map  # noqa: E402
from mote_localization.scenes import Frame, open_scene  # noqa: E402
from mote_localization.scenes.datasets.seven_scenes import (  # noqa: E402
    COLOUR_CAMERA,
    T_COLOUR_DEPTH,
)
from mote_localization.scenes.text_files import read_pose  # noqa: E402

pytestmark = pytest.mark.train
TRAIN, TEST = 4, 3  # frames of a scene


class Source(NamedTuple):
    """Frames of a real scene."""

    train: list[Frame]
    test: list[Frame]
    T_colour_depth: np.ndarray  # of the sensor; of a scene with one camera: that of 7-Scenes


class Written(NamedTuple):
    """Folder of a benchmark's scenes."""

    layout: str
    folder: Path
    scenes: dict[str, Path]  # in `folder`, by the names of the sources

    def name(self, source: str) -> str:
        """Return the name of a source's scene in the benchmark."""
        return "_".join(self.scenes[source].relative_to(self.folder).parts)


def read_source(folder: Path) -> Source:
    train, test = (
        list(islice(open_scene(folder).frames(split), 0, 10 * count, 10))
        for split, count in (("train", TRAIN), ("test", TEST))
    )
    calibration = folder / "depth_to_color.txt"
    T_colour_depth = read_pose(calibration) if calibration.exists() else T_COLOUR_DEPTH
    assert T_colour_depth is not None
    return Source(train, test, T_colour_depth)


def write_seven(folder: Path, source: Source) -> Path:
    def views(frames: Sequence[Frame]) -> list[View]:
        return [view_of_seven_scenes(frame, source.T_colour_depth) for frame in frames]

    return write_seven_scenes(folder, views(source.train), views(source.test))


def write_twelve(folder: Path, source: Source) -> Path:
    def views(frames: Sequence[Frame]) -> list[View]:
        return [View(f.image(), f.known_pose(), f.known_depth()) for f in frames]

    camera = source.train[0].known_camera()
    return write_twelve_scenes(folder, camera, views(source.train), views(source.test))


# layout -> what writes a scene, and where the scenes are in the folder
LAYOUTS: dict[str, tuple[Callable[[Path, Source], Path], str]] = {
    "7-Scenes": (write_seven, "."),
    "12Scenes": (write_twelve, "apt1"),
}


@pytest.fixture(scope="module")
def sources(kitchen: Path, lounge: Path) -> dict[str, Source]:
    return {path.name: read_source(path) for path in (kitchen, lounge)}


@pytest.fixture(scope="module", params=LAYOUTS)
def written(request, sources: dict[str, Source], tmp_path_factory) -> Written:
    """The scenes in one of the layouts."""
    write, inside = LAYOUTS[request.param]
    folder = tmp_path_factory.mktemp("benchmark") / "scenes"
    paths = {name: write(folder / inside / name, source) for name, source in sources.items()}
    return Written(request.param, folder, paths)


def single_evaluation(run_command, scene: Path, map_path: Path, figures: Path) -> dict:
    """Return the content of the file that `mote evaluate --json` writes."""
    command = f"evaluate {scene} --map {map_path} --json {figures}"
    status, _, errors = run_command("mote", mote_localization.cli.main, command)
    assert status == 0, errors
    return json.loads(figures.read_text())


def row_of(table: str, name: str) -> list[str]:
    """Return the cells of a scene's row in a table of the terminal."""
    (line,) = (line for line in table.splitlines() if line.split()[:1] == [name])
    return line.split()[1:]


def assert_figures(found: dict, summary: dict, map_path: Path) -> None:
    """Check the figures of a scene against those of an evaluation of its map."""
    expected = {
        key: summary["within"][key] for key in ("5 cm, 5 deg", "2 cm, 2 deg", "1 cm, 1 deg")
    }
    expected |= {key: summary[key] for key in ("median_cm", "median_deg")}
    expected["lost"] = 1 - summary["localized"] / summary["frames"]
    expected["megabytes"] = map_path.stat().st_size / 1e6
    assert {key: found[key] for key in expected} == expected


def assert_row(cells: list[str], figures: dict) -> None:
    """Check the cells of a scene's row: per cent, and errors in cm and degrees."""
    assert cells[:3] == [f"{100 * figures[f'{k} cm, {k} deg']:.1f}" for k in (5, 2, 1)]
    assert cells[3] == ("∞" if figures["median_cm"] is None else f"{figures['median_cm']:.2f}")
    assert cells[4:6] == [f"{figures['median_deg']:.2f}", f"{100 * figures['lost']:.1f}"]


def test_readers_return_the_poses_and_intrinsics_of_the_sources(written, sources):
    for name, path in written.scenes.items():
        source, scene = sources[name], open_scene(path)
        found = [*scene.frames("train"), *scene.frames("test")]
        for frame, original in zip(found, [*source.train, *source.test], strict=True):
            difference = invert(original.known_pose()) @ frame.known_pose()
            metres = np.linalg.norm(difference[:3, 3])
            degrees = np.degrees(rotation_angle(difference[:3, :3]))
            if written.layout == "12Scenes":
                assert np.array_equal(frame.known_pose(), original.known_pose())
                assert frame.camera == original.camera
            else:
                assert frame.camera == COLOUR_CAMERA  # that of the kitchen, too
                # the sensor of the kitchen differs from the published calibration
                exact = source.T_colour_depth is T_COLOUR_DEPTH
                assert metres < (1e-9 if exact else 0.0003) and degrees < (1e-6 if exact else 0.7)


def test_readers_return_the_depth_of_the_sources(written, sources):
    for name, path in written.scenes.items():
        if written.layout == "7-Scenes" and name == "lounge":
            continue  # its images have other pixels
        for frame, original in zip(
            open_scene(path).frames("test"), sources[name].test, strict=True
        ):
            depth_hw, expected_hw = frame.known_depth(), original.known_depth()
            both_hw = (depth_hw > 0) & (expected_hw > 0)
            assert both_hw.sum() > 0.8 * (expected_hw > 0).sum()
            difference_m = np.abs(depth_hw - expected_hw)[both_hw]
            # 7-Scenes: two projections to the nearest pixel, by two calibrations
            assert np.median(difference_m) < (1e-6 if written.layout == "12Scenes" else 0.02)


@pytest.mark.usefixtures("one_thread")
def test_maps_and_table_are_those_of_the_single_commands(
    written, tmp_path, monkeypatch, run_command
):
    monkeypatch.chdir(tmp_path)
    train = distill_training.cli.main
    command = f"benchmark {written.folder} -o out {TINY}"
    status, printed, errors = run_command("mote-distill", train, command)
    assert status == 0, errors
    figures = json.loads(Path("out/benchmark.json").read_text())["scenes"]
    assert list(figures) == sorted(map(written.name, written.scenes))
    for source, path in written.scenes.items():
        name, single = written.name(source), Path("single.onnx")
        run_command("mote-distill", train, f"map {path} -o {single} {TINY} --work {source}")
        assert graph_of(Path(f"out/{name}.onnx")) == graph_of(single)
        summary = single_evaluation(run_command, path, single, Path("single.json"))["summary"]
        assert summary["frames"] == TEST
        assert_figures(figures[name], summary, single)
        assert_row(row_of(printed, name), figures[name])


def test_the_figures_of_given_maps_are_those_of_the_single_command(
    written, sources, tmp_path, monkeypatch, run_command
):
    """The maps give all images the pose of the first test frame."""
    monkeypatch.chdir(tmp_path)
    Path("out").mkdir()
    for source in written.scenes:
        change = FrameChange(sources[source].test[0].known_pose() @ invert(T_MAP_CAM))
        moved = transform_map(read_map(write_constant_map("box.onnx")), change, metric=True)
        write_map(Path(f"out/{written.name(source)}.onnx"), *moved)
    command = f"benchmark {written.folder} -o out {TINY}"
    status, printed, errors = run_command("mote-distill", distill_training.cli.main, command)
    assert status == 0, errors
    figures = json.loads(Path("out/benchmark.json").read_text())["scenes"]
    for source, path in written.scenes.items():
        name, map_path = written.name(source), Path(f"out/{written.name(source)}.onnx")
        single = single_evaluation(run_command, path, map_path, Path("single.json"))
        assert figures[name]["1 cm, 1 deg"] == 1 / TEST and figures[name]["lost"] == 0
        assert_figures(figures[name], single["summary"], map_path)
        assert_row(row_of(printed, name), figures[name])
