"""Ablations: reading the file, running and resuming trainings, table, plots and pictures."""

import csv
import json
import math
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

pytest.importorskip("torch", reason="torch is not installed")

from make_wall import CAMERA, SMALL  # noqa: E402

import distill_training.experiments.ablation.trainings  # noqa: E402
from distill_training.cli import main  # noqa: E402
from distill_training.experiments.ablation.ablate_command import Ablate  # noqa: E402
from distill_training.experiments.ablation.grid import read_grid, training_option_types  # noqa: E402
from distill_training.experiments.ablation.plots import spread_out  # noqa: E402
from distill_training.experiments.ablation.table import COLUMNS  # noqa: E402
from distill_training.experiments.ablation.trainings import (  # noqa: E402
    finished_outcomes,
    folder_of,
    run_training,
    training_state,
)
from distill_training.reconstruction import ReconstructedFrame, Reconstruction  # noqa: E402
from distill_training.students import FAMILIES, create_student  # noqa: E402
from distill_training.students.head import SceneNormalization  # noqa: E402
from distill_training.training.history import read_history  # noqa: E402
from distill_training.training.train_config import TrainConfig  # noqa: E402
from mote_localization.camera import cell_pixels  # noqa: E402
from mote_localization.errors import MoteError, ReconstructionError  # noqa: E402
from mote_localization.geometry import pose_from, transform  # noqa: E402
from mote_localization.map_file import read_map  # noqa: E402

pytestmark = pytest.mark.train
FRAMES = 20
COMMON = {"steps": 4, "batch": 2, "held_out": 0.2, "precision": "fp32"}


def write_reconstruction(folder: Path) -> Reconstruction:
    """Write frames of a slanted wall with an image on it; the first column has no points."""
    poses = {
        f"f{i:02}": pose_from(np.array([0.05 * i, 0, 0]), np.array([0, 0, 0, 1.0]))
        for i in range(FRAMES)
    }
    made = Reconstruction(folder, "wall", "rgbd", "", CAMERA, 8, {}, poses)
    made.begin()
    rays = CAMERA.rays(cell_pixels(64, 48, 8))
    z = 2 / (1 - 0.1 * rays[..., 0] + 0.2 * rays[..., 1])
    for i, (name, pose) in enumerate(poses.items()):
        points = transform(pose, rays * z[..., None]).astype(np.float32)
        points[:, 0] = np.nan
        small = np.random.default_rng(i).integers(0, 255, (6, 8, 3), np.uint8)
        image = cv2.resize(small, (64, 48), interpolation=cv2.INTER_CUBIC)
        made.write_frame(name, ReconstructedFrame(image, points, np.full((6, 8), 0.01, np.float32)))
    return made


@pytest.fixture(scope="module")
def wall(tmp_path_factory) -> Path:
    """Return the folder of a tiny reconstruction."""
    return write_reconstruction(tmp_path_factory.mktemp("wall") / "r").folder


@pytest.fixture
def write(tmp_path: Path, wall: Path):
    """Return a function that writes an ablation file and returns its path."""

    def write(**content: object) -> Path:
        path = tmp_path / "ablation.yaml"
        content = {"reconstructions": {"wall": str(wall)}, **content}
        path.write_text(yaml.safe_dump(content, sort_keys=False))
        return path

    return write


@pytest.fixture(scope="module")
def done(tmp_path_factory, wall: Path) -> Path:
    """Return the file of a finished ablation; its output is beside it."""
    path = tmp_path_factory.mktemp("ablation") / "students.yaml"
    content = {
        "reconstructions": {"wall": str(wall)},
        "common": COMMON,
        "grid": [
            {"student": "cnn", "seed": [0, 1], **SMALL},
            {"student": "vit", "width": 24, "stem": 8, "fine": 16, "encoder_blocks": 1},
        ],
        "rows": [{"name": "cnn, both losses", "loss": "distill+reprojection", **SMALL}],
    }
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    Ablate(path, pictures=1).run()
    return path


# Reading the file


def test_names_of_trainings_contain_the_settings_that_differ(write):
    runs = read_grid(
        write(
            common={"steps": 30, "batch": 2, "held_out": 0.05},
            grid=[
                {"student": ["cnn"], "size": ["s", "m"]},
                {"student": "vit", "patch": [8, 16], "augment.zoom": 1.25},
            ],
            rows=[{"name": "long", "epochs": 3, "reprojection_bound_px": [50, 1]}],
        )
    )
    assert [run.name for run in runs] == [
        "cnn s",
        "cnn m",
        "vit patch 8",
        "vit patch 16",
        "long",
    ]
    assert [run.student for run in runs] == ["cnn", "cnn", "vit", "vit", "cnn"]
    # m and 16 are the defaults of the families
    assert [run.settings for run in runs] == [{"size": "s"}, {}, {"patch": 8}, {}, {}]
    assert [run.config.augment.zoom for run in runs] == [1.5, 1.5, 1.25, 1.25, 1.5]
    # 16 of the 20 frames are training frames, two per step
    assert [run.config.steps for run in runs] == [30] * 4 + [3 * 16 // 2]
    assert runs[4].config.reprojection_bound_px == (50.0, 1.0)
    assert len({run.key for run in runs}) == 5


def test_a_training_s_budget_replaces_the_common_budget(write):
    common = {"steps": 30, "learning-rate": "3e-3"}
    first, second = read_grid(write(common=common, rows=[{}, {"minutes": 2}]))
    assert (first.config.steps, second.config.steps, second.config.minutes) == (30, 0, 2.0)
    assert first.config.learning_rate == 3e-3


def test_the_key_depends_on_the_settings_and_not_on_the_name(write):
    plain = read_grid(write(rows=[{"name": "a", "steps": 5}]))[0]
    named = read_grid(write(rows=[{"name": "b", "steps": 5, "size": "m"}]))[0]
    assert plain.key == named.key
    assert read_grid(write(rows=[{"steps": 6}]))[0].key != plain.key


def test_training_options_and_student_settings_have_different_names():
    options = {*training_option_types(), "epochs", "student", "reconstruction", "name"}
    for _, config in FAMILIES.values():
        assert not options & set(config.__dataclass_fields__)
    assert {"seed", "margin", "augment.rotation_deg"} <= options
    assert set(TrainConfig.__dataclass_fields__) - options == {"augment", "validation"}


BAD = {
    "more": ({"more": 1, "rows": [{}]}, "found 'more', expected reconstructions, common, grid"),
    "nothing": ({}, "found neither grid nor rows"),
    "no mapping": ({"grid": ["cnn"]}, "grid: found 'cnn', expected keys and values"),
    "empty list": ({"grid": {"seed": []}}, "grid: seed: found an empty list"),
    "rows no list": ({"rows": {"seed": 1}}, "rows: found keys and values (1), expected a list"),
    "name": ({"rows": [{"name": "a|b"}]}, "row 1: found name 'a|b'"),
    "same name": ({"rows": [{"name": "a"}, {"name": "a", "seed": 1}]}, "two trainings named 'a'"),
    "same training": ({"rows": [{"name": "a"}, {"name": "b", "seed": 0}]}, "the same training"),
    "student": ({"rows": [{"student": "rnn"}]}, "found student 'rnn', expected one of cnn"),
    "reconstruction": ({"rows": [{"reconstruction": "hall"}]}, "expected one of wall"),
    "another's setting": ({"rows": [{"patch": 8}]}, "found 'patch', expected an option"),
    "setting": ({"rows": [{"size": "xl"}]}, "found size = 'xl', expected s or m or l"),
    "freeze": ({"rows": [{"student": "vit", "freeze": "all"}]}, "without a pretrained file"),
    "option's type": ({"rows": [{"batch": 2.5}]}, "found batch = 2.5, expected a whole number"),
    "option's value": ({"rows": [{"batch": -1}]}, "found --batch -1"),
    "true": ({"rows": [{"learning_rate": True}]}, "found learning_rate = True, expected a number"),
    "infinite": ({"rows": [{"minutes": math.inf}]}, "found minutes = inf, expected a number"),
    "loss": ({"rows": [{"loss": "l2"}]}, "found loss = 'l2', expected auto or distill or distill"),
    "pair": ({"rows": [{"reprojection_bound_px": [3]}]}, "= a list (1), expected 2 numbers"),
    "two budgets": ({"rows": [{"steps": 3, "epochs": 2}]}, "found epochs and steps, expected one"),
    "no step": ({"rows": [{"epochs": 0.01}]}, "found epochs = 0.01, expected at least one"),
    "many epochs": ({"rows": [{"epochs": 1e308}]}, "and less than 1e+09 steps"),
    "hardly any held out": ({"rows": [{"held_out": 0.001}]}, "found held_out 0.001, expected a"),
    "held out": ({"rows": [{"keyframes": 5}]}, "found held_out 0, expected a fraction"),
    "two fractions": ({"grid": {"held_out": [0.1, 0.2]}}, "found held_out 0.1 of"),
    "vast number": ({"rows": [{"seed": 1 << 70}]}, "seed: found a value that is too long"),
    "nested": ({"grid": {"seed": [[[1]]]}}, "seed: found a list (1), expected text, a number"),
    "too many": ({"grid": {"seed": [*range(200)], "batch": [*range(1, 200)]}}, "39800 combinatio"),
    "too many rows": (
        {"rows": [{"seed": i} for i in range(1001)]},
        "found 1001, expected at most 1000",
    ),
}


@pytest.mark.parametrize("which", BAD)
def test_invalid_and_incomparable_trainings_are_rejected(write, tmp_path: Path, which: str):
    content, message = BAD[which]
    with pytest.raises(MoteError) as caught:
        read_grid(write(**content))
    assert message in str(caught.value) and "ablation.yaml" in str(caught.value)
    assert "\n" not in str(caught.value) and len(str(caught.value)) <= 300 + len(str(tmp_path))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1", "is not valid YAML"),
        ("- 1", "found a list (1), expected keys and values"),
        ("x: !!python/object/apply:os.system [exit]", "is not valid YAML"),
        (
            "a0: &a0 [1]\n"
            + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)),
            "has over 1000000 values with its aliases",
        ),
        ("a: " + "9" * 5000, "is not valid YAML"),
        ("[" * 100_000, "found more than 20 levels"),
        ("rows: []", "reconstructions: found nothing"),
        ("reconstructions: {}", "found none, expected NAME: FOLDER"),
        ("reconstructions: {a/b: r}", "found 'a/b': 'r', expected a name"),
        ("#" * (1 << 21), "is larger than 256 KiB"),
    ],
)
def test_invalid_files_are_rejected(tmp_path: Path, text: str, message: str):
    path = tmp_path / "a.yaml"
    path.write_text(text)
    with pytest.raises(MoteError) as caught:
        read_grid(path)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_missing_files_are_rejected(tmp_path: Path, write):
    with pytest.raises(MoteError, match="none.yaml: cannot be read"):
        read_grid(tmp_path / "none.yaml")
    with pytest.raises(ReconstructionError, match="nowhere"):
        read_grid(write(reconstructions={"wall": "nowhere"}, rows=[{}]))
    absent = write(rows=[{"student": "vit", "pretrained": "absent.pth"}])
    with pytest.raises(MoteError, match="absent.pth: cannot be read"):
        Ablate(absent).run()
    assert not absent.with_suffix(".training").exists()


def test_a_pretrained_file_is_relative_to_the_ablation_s_folder(write, tmp_path: Path):
    (tmp_path / "backbone.pth").write_bytes(b"weights")
    (run,) = read_grid(write(rows=[{"student": "vit", "pretrained": "backbone.pth"}]))
    assert run.settings == {"pretrained": str(tmp_path.resolve() / "backbone.pth")}


# Running


def test_the_table_contains_the_values_of_histories_and_maps(done: Path):
    output = done.with_suffix(".training")
    runs = read_grid(done)
    with open(output / "table.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == [run.name for run in runs]
    for run, row in zip(runs, rows, strict=True):
        folder = folder_of(run, output)
        last = read_history(folder)[-1]
        measured = [column for column in COLUMNS if column.key in last]
        assert len(measured) == 10
        for column in measured:
            text = row[column.name or column.key]
            np.testing.assert_equal(float(text) if text else math.nan, last[column.key])
        student = create_student(
            run.student, SceneNormalization((0.0, 0.0, 0.0), 1.0), **run.settings
        )
        parameters = sum(p.numel() for p in student.parameters())
        assert run.student == "vit" or float(row["parameters"]) == parameters
        assert float(row["file_bytes"]) == (folder / "map.onnx").stat().st_size
        assert read_map(folder / "map.onnx").info.training["steps"] == float(row["steps_done"]) == 4
        assert float(row["milliseconds"]) > 0 and float(row["macs"]) > 1e5


def test_the_markdown_table_has_a_column_for_each_setting_that_differs(
    done: Path,
):
    text = (done.with_suffix(".training") / "table.md").read_text()
    assert f"mote-distill ablate {done}" in text and "4 of 4 trainings are finished." in text
    assert "batch 2" in text and "reconstruction wall" in text
    lines = [line.split(" | ") for line in text.splitlines() if line.startswith("|")]
    assert len({len(line) for line in lines}) == 1 and len(lines) == 6
    header = [cell.strip("| ") for cell in lines[0]]
    assert {"student", "seed", "width", "loss"} <= set(header) and "steps" in header
    assert "stride" not in header
    # the best value of a column is bold if the column has one
    column = [line[header.index("cells, cm")] for line in lines[2:]]
    values = [float(cell.strip("*")) for cell in column]
    assert [float(cell.strip("*")) for cell in column if "**" in cell] == [min(values)]
    assert not any("**" in line[header.index("network, ms")] for line in lines)


def test_plots_and_pictures_are_written(done: Path):
    output = done.with_suffix(".training")
    for name in ("error_over_epochs.svg", "error_against_cost.svg"):
        text = (output / name).read_text()
        assert text.rstrip().endswith("</svg>")
        assert all(run.name in text for run in read_grid(done))
    (picture,) = (output / "pictures").iterdir()
    image = cv2.imread(str(picture))
    # six columns: image, teacher, four students
    assert picture.name.startswith("wall-f") and image.shape[1] > 1.5 * image.shape[0]


def test_finished_trainings_are_not_repeated(done: Path, monkeypatch):
    output = done.with_suffix(".training")
    before = {path: path.stat().st_mtime_ns for path in output.glob("*/*") if path.suffix != ".png"}
    assert len(before) == 4 * 5  # checkpoint, history, curves, map, result
    monkeypatch.setattr(distill_training.experiments.ablation.trainings, "train_student", None)
    Ablate(done, pictures=0).run()
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_a_finished_training_is_found_after_its_name_changed(write, tmp_path: Path):
    output = tmp_path / "out"
    (run,) = read_grid(write(common=COMMON, rows=[{"name": "first", **SMALL}]))
    run_training(run, output)
    again, new = read_grid(write(common=COMMON, grid={"seed": [0, 1], **SMALL}))
    assert again.name == "cnn seed 0"
    assert [training_state(run, output) for run in (again, new)] == ["finished", ""]
    assert list(finished_outcomes([again, new], output)) == [again.key]


def test_an_interrupted_ablation_resumes_where_it_stopped(write, tmp_path: Path, monkeypatch):
    import distill_training.training.journal as journal

    path = write(common=COMMON, grid={"seed": [0, 1], **SMALL})
    save_checkpoint = journal.save_checkpoint
    first, second = read_grid(path)

    def save_then_stop(folder, identity, state, *rest):
        save_checkpoint(folder, identity, state, *rest)
        if folder.name.startswith("cnn-seed-1") and state.step == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(journal, "save_checkpoint", save_then_stop)
    output = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        Ablate(path, output, pictures=0).run()
    assert [training_state(run, output) for run in (first, second)] == ["finished", "begun"]
    assert "1 of 2 trainings are finished" in (output / "table.md").read_text()
    monkeypatch.setattr(journal, "save_checkpoint", save_checkpoint)
    Ablate(path, output, pictures=0).run()
    assert "2 of 2 trainings are finished" in (output / "table.md").read_text()
    steps = [row["step"] for row in read_history(folder_of(second, output))]
    assert steps == [0, 1, 2, 3, 4]
    whole = run_training(second, tmp_path / "whole")
    resumed = finished_outcomes([second], output)[second.key]
    assert resumed.figures["held_out_cell_cm"] == pytest.approx(
        whole.figures["held_out_cell_cm"], abs=1e-3
    )


def test_a_failed_training_does_not_stop_the_others(write, tmp_path: Path):
    path = write(
        common={**COMMON, **SMALL},
        rows=[{"name": "wild", "learning_rate": 1e38}, {"name": "tame"}],
    )
    with pytest.raises(MoteError, match=r"^1 of 2 trainings failed; wild: "):
        Ablate(path, pictures=0).run()
    text = (path.with_suffix(".training") / "table.md").read_text()
    assert "1 of 2 trainings are finished" in text and "| tame |" in text


def test_a_damaged_result_is_rejected(write, tmp_path: Path):
    (run,) = read_grid(write(common=COMMON, rows=[{**SMALL}]))
    outcome = run_training(run, tmp_path)
    result = outcome.folder / "result.json"
    for text in ("", "[]", '{"costs": {"macs": 1}}', "[" * 100_000):
        result.write_text(text)
        with pytest.raises(MoteError, match="result.json: is damaged"):
            finished_outcomes([run], tmp_path)
    result.write_text(json.dumps({"costs": outcome.costs}))
    (outcome.folder / "history.csv").write_text("step,epoch\n1,2\n")
    with pytest.raises(MoteError, match="found a history without figures"):
        finished_outcomes([run], tmp_path)


def test_labels_are_spread_out_with_the_least_motion():
    assert spread_out([0.0, 1.0, 5.0], 1.0) == [0.0, 1.0, 5.0]
    np.testing.assert_allclose(spread_out([2.0, 2.0, 2.0], 1.0), [1.0, 2.0, 3.0])
    np.testing.assert_allclose(spread_out([0.0, 2.0, 2.2, 3.0], 1.0), [0.0, 1.4, 2.4, 3.4])
    assert spread_out([], 1.0) == []


# The command


def test_the_command_lists_trainings_and_reports_errors_in_one_line(write, monkeypatch, capsys):
    path = write(common=COMMON, grid={"student": ["cnn", "vit"]})
    monkeypatch.setattr(sys, "argv", ["mote-distill", "ablate", str(path), "--list"])
    main()
    listed = capsys.readouterr().out
    assert "cnn" in listed and "vit" in listed
    assert not path.with_suffix(".training").exists()
    path.write_text("rows: 3")
    with pytest.raises(SystemExit) as ended:
        main()
    assert str(ended.value).startswith("error: ") and "\n" not in str(ended.value)
