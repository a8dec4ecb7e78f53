"""Training: it learns, is deterministic, resumes after it was killed; the command."""

import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed")

import torch  # noqa: E402
from conftest import ROOT  # noqa: E402
from make_scene import write_plane_scene  # noqa: E402
from make_views import NO_CHANGE  # noqa: E402
from make_wall import CAMERA, QUICK, SMALL  # noqa: E402
from torch.optim.swa_utils import AveragedModel  # noqa: E402

from distill_training.pipeline import train_student  # noqa: E402
from distill_training.reconstruction import Reconstruction  # noqa: E402
from distill_training.training.batches import random_batches  # noqa: E402
from distill_training.training.frame_bank import FrameBank, slots_for  # noqa: E402
from distill_training.training.frame_split import split_frames  # noqa: E402
from distill_training.training.frame_store import FrameStore  # noqa: E402
from distill_training.training.history import read_history  # noqa: E402
from distill_training.training.learner import one_cycle  # noqa: E402
from distill_training.training.train_config import TrainConfig  # noqa: E402
from mote_localization.camera import Camera  # noqa: E402
from mote_localization.errors import (  # noqa: E402
    CheckpointError,
    MoteError,
)
from mote_localization.geometry import transform  # noqa: E402
from mote_localization.map_file import read_map  # noqa: E402

pytestmark = pytest.mark.train


def test_learning_rate_rises_to_its_maximum_and_falls_to_nearly_zero():
    rates = [one_cycle(done, 0.05) for done in np.linspace(0, 1, 101)]
    assert max(rates) == pytest.approx(1, abs=1e-3) and rates[5] == max(rates)
    assert rates[-1] < 1e-3 and rates[0] < 0.1


def test_keyframes_are_training_frames_with_their_points(
    reconstruction: Reconstruction, tmp_path: Path
):
    config = replace(QUICK, steps=1, held_out=0.25, held_out_blocks=1)
    names = split_frames(reconstruction.poses, config).training
    _, none = train_student(reconstruction, tmp_path, "cnn", SMALL, config)
    # resumes the same training: keyframes do not change the weights
    _, few = train_student(reconstruction, tmp_path, "cnn", SMALL, replace(config, keyframes=2))
    assert none.keyframes == () and 1 <= len(few.keyframes) <= 2
    poses = [reconstruction.poses[name].tolist() for name in names]
    found = [np.array(keyframe.T_map_cam).tolist() for keyframe in few.keyframes]
    assert found[0] == poses[0] and all(pose in poses for pose in found)
    frame, keyframe = reconstruction.read_frame(names[0]), few.keyframes[0]
    grey_hw = cv2.cvtColor(frame.image_hw3, cv2.COLOR_RGB2GRAY).astype(int)
    assert (
        np.abs(keyframe.grey_hw() - grey_hw).mean() < 12
    )  # the images are noise, which WebP compresses badly
    points_hw3 = transform(
        keyframe.pose_44,
        CAMERA.cell_rays(8) * keyframe.depth_m().reshape(6, 8, 1),
    )
    np.testing.assert_allclose(points_hw3, frame.points_hw3, atol=3e-3)  # steps of 0.25 %


def test_too_many_keyframes_are_refused():
    with pytest.raises(MoteError, match="found --keyframes 513, expected at most 512"):
        replace(QUICK, keyframes=513)


def test_training_with_the_same_seed_gives_the_same_weights(
    reconstruction: Reconstruction, tmp_path: Path
):
    first, _ = train_student(reconstruction, tmp_path / "1", "cnn", SMALL, QUICK)
    second, _ = train_student(reconstruction, tmp_path / "2", "cnn", SMALL, QUICK)
    assert all(
        torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True)
    )


def test_training_lowers_the_loss(reconstruction: Reconstruction, tmp_path: Path):
    frame = FrameStore(reconstruction).frame("f0")

    def error(steps: int) -> float:
        config = replace(QUICK, steps=steps, freeze_batch_norm=0, augment=NO_CHANGE)
        student, _ = train_student(reconstruction, tmp_path / str(steps), "cnn", SMALL, config)
        points, _ = student(torch.from_numpy(frame.image_hw3)[None])
        return float(np.linalg.norm(points[0].detach().numpy() - frame.points_hw3, axis=-1).mean())

    assert error(60) < 0.5 * error(1)


def test_killed_training_resumes_to_the_same_weights(
    reconstruction: Reconstruction, tmp_path: Path
):
    averaging = replace(QUICK, ema=0.7)
    whole, _ = train_student(reconstruction, tmp_path / "whole", "cnn", SMALL, averaging)
    script = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "import distill_training.training.journal as j\n"
        "from distill_training.pipeline import train_student\n"
        "from distill_training.training.train_config import TrainConfig\n"
        "from distill_training.reconstruction import open_reconstruction\n"
        "save = j.save_checkpoint\n"
        "def save_then_die(folder, identity, state):\n"
        "    save(folder, identity, state)\n"
        "    if state.step == 3: os._exit(9)\n"
        "j.save_checkpoint = save_then_die\n"
        "config = TrainConfig(steps=6, batch=2, ema=0.7, keyframes=0, validation=False, "
        "precision='fp32')\n"
        "place, folder = open_reconstruction(sys.argv[1]), Path(sys.argv[2])\n"
        f"train_student(place, folder, 'cnn', {SMALL}, config)\n"
    )
    folder = tmp_path / "resumed"
    command = [sys.executable, "-c", script, str(reconstruction.folder), str(folder)]
    run = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True)
    assert run.returncode == 9, run.stderr.decode()
    resumed, info = train_student(reconstruction, folder, "cnn", SMALL, averaging)
    assert info.training["steps"] == 6
    for a, b in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)
    for a, b in zip(read_history(tmp_path / "whole"), read_history(folder), strict=True):
        assert {**a, "minutes": 0} == pytest.approx({**b, "minutes": 0}, abs=1e-3, nan_ok=True)


def test_the_running_average_of_the_weights_becomes_the_map(
    reconstruction: Reconstruction, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    passed = []  # weights after each step

    def step(model: AveragedModel, network: torch.nn.Module) -> None:
        passed.append({k: v.clone() for k, v in network.state_dict().items()})
        update(model, network)

    update = AveragedModel.update_parameters
    monkeypatch.setattr(AveragedModel, "update_parameters", step)
    student, _ = train_student(
        reconstruction, tmp_path, "cnn", SMALL, replace(QUICK, steps=3, ema=0.6)
    )
    for name, value in student.state_dict().items():
        if value.is_floating_point():
            first, second, third = (weights[name] for weights in passed)
            expected = 0.36 * first + 0.24 * second + 0.4 * third
            torch.testing.assert_close(value, expected, rtol=0, atol=1e-6)


def test_history_begins_with_the_untrained_student_and_has_a_row_per_check(
    reconstruction: Reconstruction, tmp_path: Path
):
    _, info = train_student(
        reconstruction, tmp_path, "cnn", SMALL, replace(QUICK, steps=40, held_out=0.25)
    )
    rows = read_history(tmp_path)
    assert [row["step"] for row in rows] == list(range(0, 41, 2))
    assert [row["epoch"] for row in rows[:3]] == [0, 2, 4]  # of four frames, two are held out
    assert np.isnan(rows[0]["loss"]) and np.isfinite([row["loss"] for row in rows[1:]]).all()
    assert rows[-1]["loss"] < rows[1]["loss"]
    assert len({row["train_cell_cm"] for row in rows}) == len(rows)  # measured again at each check
    for figure in ("held_out_cell_cm", "held_out_spearman"):  # independent of the scale of sigma
        assert info.training[figure] == rows[-1][figure]


@pytest.mark.parametrize("text", [None, b"", b"step,loss\n1\n", b"step\none\n", b"\xff\xfe"])
def test_a_damaged_history_is_refused(tmp_path: Path, text: bytes | None):
    if text is not None:
        (tmp_path / "history.csv").write_bytes(text)
    with pytest.raises(CheckpointError, match="history.csv: cannot be read"):
        read_history(tmp_path)


def test_processes_divide_the_views_of_a_step(reconstruction: Reconstruction):
    read, names = FrameStore(reconstruction).read, list(reconstruction.poses)
    bank = FrameBank(read, CAMERA, 8, torch.device("cpu"), len(names))

    def drawn(batch: int, rank: int, ranks: int) -> list[torch.Tensor]:
        batches = random_batches(bank, names, TrainConfig(batch=batch), 0, rank, ranks)
        return [next(batches).image_bhw3 for _ in range(3)]

    for one, first, second in zip(drawn(4, 0, 1), drawn(2, 0, 2), drawn(2, 1, 2), strict=True):
        assert torch.equal(one, torch.cat([first, second]))


def test_the_memory_of_training_frames_is_bounded():
    cpu, camera = torch.device("cpu"), Camera(640, 480, 500.0, 500.0, 319.5, 239.5)
    assert slots_for(100, 8, camera, 8, cpu, True) == 100
    kept = slots_for(10**6, 8, camera, 8, cpu, True)
    assert kept * (640 * 480 * 3 + 60 * 80 * 12) <= 1 << 30 < (kept + 1) * 980_000
    assert slots_for(10**6, 10**5, camera, 8, cpu, True) == 10**5  # a batch has all its frames


@pytest.mark.slow
def test_two_processes_train_the_same_student(reconstruction: Reconstruction, tmp_path: Path):
    script = (
        "import sys, torch\n"
        "from pathlib import Path\n"
        "from distill_training.training.train_config import TrainConfig\n"
        "from distill_training.common.processes import rank\n"
        "from distill_training.reconstruction import open_reconstruction\n"
        "from distill_training.pipeline import train_student\n"
        "config = TrainConfig(minutes=0.01, batch=2, ema=0.5, keyframes=0, validation=False, "
        "precision='fp32')\n"
        "folder = Path(sys.argv[2])\n"
        "place = open_reconstruction(sys.argv[1])\n"
        f"student, info = train_student(place, folder, 'cnn', {SMALL}, config)\n"
        "torch.save(dict(student.named_parameters()), folder / f'{rank()}.pt')\n"
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = tmp_path / "together"
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "LT_ACCELERATOR": "cpu",
        "GLOO_SOCKET_IFNAME": "lo",
        **{"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)},
        **{"TORCHELASTIC_RUN_ID": "test", "GROUP_WORLD_SIZE": "1", "WORLD_SIZE": "2"},
    }
    started = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(reconstruction.folder), str(folder)],
            env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
        )
        for rank in range(2)
    ]
    outputs = [process.communicate(timeout=300)[1].decode() for process in started]
    assert [process.returncode for process in started] == [0, 0], outputs
    first, second = (torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    last = read_history(folder)[-1]
    assert last["step"] > 0 and last["epoch"] == last["step"]  # all four frames in every step
    assert "distill, s" in outputs[0] and "distill, s" not in outputs[1]


def test_a_reconstruction_of_another_stride_is_refused(
    reconstruction: Reconstruction, tmp_path: Path
):
    with pytest.raises(MoteError, match="reconstruct with --stride 8"):
        train_student(replace(reconstruction, stride=32), tmp_path / "t", "cnn", SMALL, QUICK)


def test_a_checkpoint_of_other_settings_is_refused(reconstruction: Reconstruction, tmp_path: Path):
    train_student(reconstruction, tmp_path / "t", "cnn", SMALL, QUICK)
    other = replace(reconstruction, settings={"max_depth_m": 3.0})
    with pytest.raises(CheckpointError, match="another reconstruction"):
        train_student(other, tmp_path / "t", "cnn", SMALL, QUICK)
    with pytest.raises(CheckpointError, match="other settings"):
        train_student(reconstruction, tmp_path / "t", "cnn", SMALL, replace(QUICK, seed=1))


def test_truncated_checkpoint_is_refused(reconstruction: Reconstruction, tmp_path: Path):
    train_student(reconstruction, tmp_path / "t", "cnn", SMALL, QUICK)
    path = tmp_path / "t/checkpoint.pt"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="is damaged"):
        train_student(reconstruction, tmp_path / "t", "cnn", SMALL, QUICK)


def test_a_checkpoint_cannot_run_code(reconstruction: Reconstruction, tmp_path: Path):
    class Attack:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "attacked"),)

    (tmp_path / "t").mkdir()
    torch.save({"identity": Attack()}, tmp_path / "t/checkpoint.pt")
    with pytest.raises(CheckpointError, match="is damaged"):
        train_student(reconstruction, tmp_path / "t", "cnn", SMALL, QUICK)
    assert not (tmp_path / "attacked").exists()


def test_diverged_training_is_an_error_and_the_last_checkpoint_stays(
    reconstruction: Reconstruction, tmp_path: Path
):
    with pytest.raises(MoteError, match="not finite before step .*lower --learning-rate"):
        wild = replace(QUICK, steps=40, learning_rate=1e20, warm_up=0.9)
        train_student(reconstruction, tmp_path, "cnn", SMALL, wild)
    rows = read_history(tmp_path)
    assert np.isfinite([row["loss"] for row in rows[1:]]).all()


def mote_distill(*arguments: object) -> subprocess.CompletedProcess:
    run = "from distill_training.cli import main; main()"
    return subprocess.run(
        [sys.executable, "-c", run, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )


def test_one_command_makes_a_map_of_a_scene(tmp_path: Path):
    write_plane_scene(tmp_path / "plane")
    path = tmp_path / "maps/plane.onnx"
    run = mote_distill("map", tmp_path / "plane", "-o", path, "--width", 64, "--steps", 2)
    assert run.returncode == 0, run.stderr
    info = read_map(path).info
    assert (info.scene, info.student, info.training["steps"]) == ("plane", "cnn", 2)
    assert "equal to the student within" in run.stderr


@pytest.mark.parametrize(
    ("scene", "arguments", "message"),
    [
        ("nothing", (), "does not exist"),
        (".", ("--minutes", 0), "expected a time above 0"),
        (".", ("--stride", 0), "expected 1 or more"),
        (".", (), "is empty, expected one of: rosbag2 recording"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_1(
    tmp_path: Path, scene: str, arguments: tuple, message: str
):
    run = mote_distill("map", tmp_path / scene, "-o", tmp_path / "x.onnx", *arguments)
    assert run.returncode == 1
    assert run.stderr.startswith("error: ") and message in run.stderr
    assert run.stderr.count("\n") == 1
