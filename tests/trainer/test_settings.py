"""Settings of students and trainings: accepted and rejected values."""

import re
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="torch is not installed")

from dataclasses import replace

import torch  # noqa: E402
from make_wall import QUICK  # noqa: E402

from distill_training.pipeline import train_student  # noqa: E402
from distill_training.reconstruction import Reconstruction  # noqa: E402
from distill_training.students import SceneNormalization, create_student  # noqa: E402
from distill_training.students.settings import split_settings, student_settings  # noqa: E402
from distill_training.training.train_config import TrainConfig  # noqa: E402
from mote_localization.errors import CheckpointError, MoteError  # noqa: E402

pytestmark = pytest.mark.train


def test_text_and_values_give_the_same_settings():
    values = {"patch": 8, "width": 96, "backbone_rate": 0.5, "pretrained": Path("a.pth")}
    texts = split_settings(["patch=8", "width=96", "backbone-rate=5e-1", "pretrained=a.pth"])
    assert student_settings("vit", values) == student_settings("vit", texts)
    assert student_settings("vit", texts) == {**values, "pretrained": "a.pth"}
    assert student_settings("cnn", {"size": "m", "stem": None}) == {}  # the defaults


@pytest.mark.parametrize(
    ("family", "given", "message"),
    [
        ("cnn", {"depth": "3"}, "no setting 'depth'; it takes size=s|m|l stem=N"),
        ("cnn", {"size": "xl"}, "found size = 'xl', expected s or m or l; it takes"),
        ("cnn", {"stem": "many"}, "found stem = 'many', expected a whole number, 1 or more"),
        ("cnn", {"stem": 1.5}, "found stem = 1.5, expected a whole number, 1 or more"),
        ("cnn", {"stem": 900 * "x"}, "found stem = 'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx',"),
        ("cnn", {"stem": "3.0"}, "found stem = '3.0', expected a whole number, 1 or more"),
        ("cnn", {"stem": "null"}, "found stem = 'null', expected a whole number, 1 or more"),
        ("mobilenet", {"backbone_rate": "inf"}, "expected a number, 0 or more"),
        ("mobilenet", {"pretrained": 3}, "found pretrained = 3, expected a path"),
        ("vit", {"freeze": "all"}, "without a pretrained file"),
        ("rnn", {}, "found student 'rnn', expected one of cnn"),
    ],
)
def test_invalid_student_settings_are_rejected(family: str, given: dict, message: str):
    with pytest.raises(MoteError, match=re.escape(message)) as caught:
        student_settings(family, given)
    assert len(str(caught.value)) <= 300


@pytest.mark.parametrize(
    "wrong",
    [
        {"minutes": 0},
        {"steps": -1},
        {"batch": -1},
        {"held_out": 1},
        {"margin": -1},
        {"held_out_blocks": 0},
        {"ema": 1},
        {"seed": -1},
        {"weight_decay": -1},
        {"warm_up": 1},
        {"reprojection_bound_px": (0, 0)},
    ],
)
def test_invalid_training_settings_are_rejected(wrong: dict):
    with pytest.raises(MoteError, match="expected"):
        TrainConfig(**wrong)


def test_another_content_of_the_pretrained_file_is_another_training(
    reconstruction: Reconstruction, tmp_path: Path
):
    def write(path: Path, bias: float) -> dict:
        network = create_student("mobilenet", SceneNormalization((0.0, 0.0, 0.0), 1.0))
        weights = {f"features.{k}": v + bias for k, v in network.features.state_dict().items()}
        torch.save(weights, path)
        return student_settings("mobilenet", {"pretrained": path, "freeze": "all"})

    quick = replace(QUICK, steps=1)
    settings = write(tmp_path / "backbone.pth", 0)
    _, info = train_student(reconstruction, tmp_path / "t", "mobilenet", settings, quick)
    assert info.training["settings"] == "freeze=all pretrained=backbone.pth"
    settings["pretrained"] = str((tmp_path / "backbone.pth").rename(tmp_path / "moved.pth"))
    train_student(reconstruction, tmp_path / "t", "mobilenet", settings, quick)
    write(tmp_path / "moved.pth", 1)
    with pytest.raises(CheckpointError, match="other settings"):
        train_student(reconstruction, tmp_path / "t", "mobilenet", settings, quick)


@pytest.mark.parametrize(
    ("text", "number"), [(".5", 0.5), ("+3", 3), ("1_000", 1000), ("2e-3", 2e-3)]
)
def test_numbers_are_read_as_python_reads_them(text: str, number: float):
    assert student_settings("mobilenet", {"backbone_rate": text}) == {"backbone_rate": number}


def test_the_batch_follows_from_the_device_unless_it_is_given():
    assert TrainConfig().with_batch_for("cpu").batch == 8
    assert TrainConfig().with_batch_for("cuda").batch == 64
    assert TrainConfig(batch=3).with_batch_for("cuda").batch == 3
