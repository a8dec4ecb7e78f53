"""Views, losses, students, training and export."""

import os
import re
import socket
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed")

import torch  # noqa: E402
from make_scene import write_plane_scene  # noqa: E402
from torch.optim.swa_utils import AveragedModel  # noqa: E402

from distill_training.augment import AugmentConfig, FrameViews  # noqa: E402
from distill_training.config import TrainConfig  # noqa: E402
from distill_training.export import export_map  # noqa: E402
from distill_training.held_out import (  # noqa: E402
    measure_cells,
    measure_held_out,
    split_held_out,
)
from distill_training.history import read_history  # noqa: E402
from distill_training.learner import one_cycle  # noqa: E402
from distill_training.losses import Optics, distillation_loss, reprojection_loss  # noqa: E402
from distill_training.reconstruction import ReconstructedFrame, Reconstruction  # noqa: E402
from distill_training.settings import split_settings, student_settings  # noqa: E402
from distill_training.students import create_student  # noqa: E402
from distill_training.students.head import SceneFrame  # noqa: E402
from distill_training.train import train  # noqa: E402
from distill_training.views import FrameStore, random_batches  # noqa: E402
from mote_localization.backends import create_backend  # noqa: E402
from mote_localization.camera import Camera, cell_pixels  # noqa: E402
from mote_localization.errors import (  # noqa: E402
    CheckpointError,
    MapFileError,
    MoteError,
)
from mote_localization.geometry import invert, moved, pose_from, transform  # noqa: E402
from mote_localization.map_file import MapInfo, read_map  # noqa: E402

pytestmark = pytest.mark.train
CAMERA = Camera(64, 48, 50.0, 50.0, 31.5, 23.5)
SMALL = {"stem": 8, "fine": 16, "coarse": 16, "coarse_blocks": 1, "fine_blocks": 1}
QUICK = TrainConfig(steps=6, batch=2, held_out=0, precision="fp32")


def wall_frame(T_map_cam: np.ndarray, seed: int = 0) -> ReconstructedFrame:
    """A frame that looks at the plane z = 2 + 0.1 x - 0.2 y of its camera."""
    rays = CAMERA.rays(cell_pixels(64, 48, 8))
    z = 2 / (1 - 0.1 * rays[..., 0] + 0.2 * rays[..., 1])
    points = transform(T_map_cam, rays * z[..., None]).astype(np.float32)
    image = np.random.default_rng(seed).integers(0, 255, (48, 64, 3), np.uint8)
    return ReconstructedFrame(image, points, np.full((6, 8), 0.01, np.float32))


POSE = pose_from(np.array([1.0, 2.0, 3.0]), np.array([0.1, 0.2, 0.3, 0.9]))


@pytest.fixture
def reconstruction(tmp_path: Path) -> Reconstruction:
    poses = {
        f"f{i}": pose_from(np.array([0.1 * i, 0, 0]), np.array([0, 0, 0, 1.0])) for i in range(4)
    }
    made = Reconstruction(tmp_path / "r", "wall", "rgbd", "", CAMERA, 8, {}, poses)
    made.begin()
    for i, (name, pose) in enumerate(poses.items()):
        made.write_frame(name, wall_frame(pose, i))
    return made


def test_augmented_points_stay_on_the_surface_and_on_their_rays():
    frame = FrameViews(wall_frame(POSE), POSE, CAMERA, 8)
    for seed in range(20):
        view = frame.draw(np.random.default_rng(seed), AugmentConfig())
        x, y, z = transform(view.T_cam_map, view.points_hw3)[view.valid_hw].T
        np.testing.assert_allclose(z, 2 + 0.1 * x - 0.2 * y, atol=1e-4)
        seen = CAMERA.project(transform(view.T_cam_map, view.points_hw3)[view.valid_hw])
        np.testing.assert_allclose(seen, view.pixels_hw2[view.valid_hw], atol=1e-2)


def test_augmented_image_moves_with_its_pixels():
    """A bright dot is found at the cell whose `pixels_hw2` names its place in the original."""
    frame = wall_frame(POSE)
    frame.image_hw3[:] = 0
    frame.image_hw3[20:26, 30:36] = 255
    config = AugmentConfig(brightness=0, contrast=0, colour=0, noise=0, blur=0)
    for seed in range(5):
        view = FrameViews(frame, POSE, CAMERA, 8).draw(np.random.default_rng(seed), config)
        cells = cell_pixels(64, 48, 8).reshape(-1, 2)
        A = np.linalg.lstsq(np.c_[cells, np.ones(48)], view.pixels_hw2.reshape(-1, 2), rcond=None)[
            0
        ]
        rows, columns = np.nonzero((view.image_hw3 == 255).all(axis=-1))
        source = np.c_[columns, rows, np.ones(len(rows))] @ A
        known = (np.abs(source - (32.5, 22.5)) < 4).all(axis=1)
        border = (source < 0).any(axis=1) | (source > (63, 47)).any(axis=1)
        assert known[~border].all() and known.any()


def test_depth_edges_are_not_bridged():
    frame = wall_frame(np.eye(4))
    rays = CAMERA.rays(cell_pixels(64, 48, 8))
    frame.points_hw3[:] = rays * np.where(np.arange(8) < 4, 1.0, 3.0)[None, :, None]
    for seed in range(20):
        view = FrameViews(frame, np.eye(4), CAMERA, 8).draw(
            np.random.default_rng(seed), AugmentConfig()
        )
        z = view.points_hw3[view.valid_hw][:, 2]
        assert (np.isclose(z, 1) | np.isclose(z, 3)).all()


def test_sigma_of_least_loss_is_the_expected_distance():
    target = torch.randn(1, 40, 50, 3)
    distance = target.norm(dim=-1).mean()
    valid = torch.ones(1, 40, 50, dtype=torch.bool)

    def loss(sigma: float) -> float:
        points = torch.zeros_like(target)
        return distillation_loss(points, torch.full((1, 40, 50), sigma), target, valid).item()

    assert loss(distance) < min(loss(0.9 * distance), loss(1.1 * distance))


def test_invalid_cells_neither_count_nor_pull():
    points = torch.zeros(1, 1, 2, 3, requires_grad=True)
    target = torch.tensor([[[[1.0, 0, 0], [torch.nan] * 3]]])
    loss = distillation_loss(points, torch.ones(1, 1, 2), target, torch.tensor([[[True, False]]]))
    loss.backward()
    assert loss.item() == pytest.approx(1.0, abs=1e-3)
    assert points.grad[0, 0, 1].abs().sum() == 0 and points.grad[0, 0, 0, 0] != 0


def test_a_batch_without_a_valid_cell_costs_nothing():
    points = torch.ones(1, 1, 2, 3, requires_grad=True)
    nothing = torch.zeros(1, 1, 2, dtype=torch.bool)
    loss = distillation_loss(
        points, torch.ones(1, 1, 2), torch.full((1, 1, 2, 3), torch.nan), nothing
    )
    loss.backward()
    assert loss.item() == 0 and points.grad.abs().sum() == 0


def test_reprojection_is_the_pixel_distance_while_far_below_its_bound():
    frame = FrameViews(wall_frame(POSE), POSE, CAMERA, 8).plain()
    points = torch.from_numpy(frame.points_hw3)[None]
    pixels = torch.from_numpy(frame.pixels_hw2)[None] + torch.tensor([3.0, 4.0])
    pose = torch.from_numpy(invert(POSE)).float()[None]
    K, valid = torch.from_numpy(CAMERA.K_33).float(), torch.ones(1, 6, 8, dtype=torch.bool)
    optics = Optics(K, (64, 48))
    assert reprojection_loss(points, pixels, pose, optics, valid, 1e4).item() == pytest.approx(
        5, abs=0.02
    )
    assert reprojection_loss(points, pixels, pose, optics, valid, 1.0).item() == pytest.approx(
        1, abs=0.02
    )


def test_held_out_frames_are_contiguous_blocks_apart_from_training():
    names = [f"{i:03}" for i in range(100)]
    training, held_out = split_held_out(names, 0.2)
    assert sorted(training + held_out) == names and len(held_out) == 20
    jumps = np.diff([int(n) for n in held_out])
    assert (jumps > 1).sum() == 3
    assert split_held_out(names, 0.0) == (names, [])
    _, together = split_held_out(names, 0.2, blocks=1)
    first = names.index(together[0])
    assert together == names[first : first + len(held_out)]


def test_frames_near_a_held_out_block_are_in_neither_part():
    names = [f"{i:03}" for i in range(100)]
    _, held_out = split_held_out(names, 0.2)
    training, same = split_held_out(names, 0.2, margin=3)
    assert same == held_out and len(training) == 100 - 20 - 4 * 2 * 3
    distances = np.abs(np.subtract.outer([int(n) for n in training], [int(n) for n in held_out]))
    assert distances.min() == 4


@pytest.mark.parametrize(("frames", "share", "margin"), [(100, 0.2, 10), (3, 0.5, 0)])
def test_too_few_frames_to_train_with_are_refused(frames: int, share: float, margin: int):
    names = [f"{i:03}" for i in range(frames)]
    with pytest.raises(MoteError, match=f"of {frames} frames left .* lower --held-out"):
        split_held_out(names, share, margin)


class Off(torch.nn.Module):
    """Knows one frame, and is off by half of the sigma that it gives, which grows by column."""

    def __init__(self, frame: ReconstructedFrame) -> None:
        super().__init__()
        self.points = torch.nn.Parameter(torch.from_numpy(frame.points_hw3))

    def forward(self, image):
        sigma = torch.linspace(0.002, 0.02, 48).reshape(1, 6, 8)
        direction = torch.randn(1, 6, 8, 3, generator=torch.Generator().manual_seed(0))
        return self.points + 0.5 * sigma[..., None] * torch.nn.functional.normalize(
            direction, dim=-1
        ), sigma


def test_a_held_out_error_is_that_of_the_student(reconstruction: Reconstruction):
    network, store = Off(reconstruction.read_frame("f1")), FrameStore(reconstruction)
    info = MapInfo("wall", CAMERA, 8, (-9, -9, -9), (9, 9, 9), "rgbd", "", "cnn")
    error = measure_held_out(network, info, reconstruction, store, ["f1"])
    assert error.frames == 1 and 0 < error.median_cm < 2 and error.within_5cm_5deg == 1
    assert error.cell_cm == pytest.approx(0.55, abs=0.02)
    assert error.cells_within_2_sigma == 1 and error.spearman > 0.999
    assert measure_cells(network, store, ["f1"]) == pytest.approx(error.cell_cm, abs=1e-4)
    network.points.data += torch.tensor([0.07, 0.0, 0.0])
    error = measure_held_out(network, info, reconstruction, store, ["f1"])
    assert error.within_5cm_5deg == 0 and error.within_10cm_5deg == 1
    assert error.cells_within_2_sigma == 0


def test_a_held_out_error_is_counted_in_the_frame_of_the_given_poses(
    reconstruction: Reconstruction, tmp_path: Path
):
    motion = np.array([0.08, -0.02, 0.05, 0.01, -0.02, 0.005])
    given = {name: moved(T, motion) for name, T in reconstruction.poses.items()}
    bent = replace(reconstruction, folder=tmp_path / "bent", given_poses=given)
    bent.begin()
    for name in bent.poses:
        bent.write_frame(name, reconstruction.read_frame(name))
    network, store = Off(bent.read_frame("f1")), FrameStore(bent)
    _, info = train(bent, tmp_path / "t", "cnn", SMALL, QUICK)
    assert info.drift is not None and len(info.drift.stations) == 4
    info = replace(info, bounds_min=(-9, -9, -9), bounds_max=(9, 9, 9))
    straight = measure_held_out(network, info, bent, store, ["f1"])
    untold = measure_held_out(network, replace(info, drift=None), bent, store, ["f1"])
    assert straight.median_cm < 2 and untold.median_cm > 8
    # the points are the student's own affair
    assert straight.cell_cm == untold.cell_cm == pytest.approx(0.55, abs=0.02)


def test_a_map_of_given_poses_does_not_calibrate_one_of_adjusted_poses(
    reconstruction: Reconstruction, tmp_path: Path
):
    student, info = train(
        reconstruction, tmp_path / "t", "cnn", SMALL, replace(QUICK, held_out=0.25)
    )
    export_map(student, info, np.zeros((1, 48, 64, 3), np.uint8), tmp_path / "plain.onnx")
    bent = replace(reconstruction, given_poses=reconstruction.poses)
    with pytest.raises(MoteError, match="poses of one of the two were adjusted"):
        calibrated = replace(QUICK, calibrated_by=tmp_path / "plain.onnx")
        train(bent, tmp_path / "u", "cnn", SMALL, calibrated)


def test_learning_rate_rises_to_one_and_falls_to_almost_nothing():
    rates = [one_cycle(done, 0.05) for done in np.linspace(0, 1, 101)]
    assert max(rates) == pytest.approx(1, abs=1e-3) and rates[5] == max(rates)
    assert rates[-1] < 1e-3 and rates[0] < 0.1


def test_training_repeats_exactly(reconstruction: Reconstruction, tmp_path: Path):
    first, _ = train(reconstruction, tmp_path / "1", "cnn", SMALL, QUICK)
    second, _ = train(reconstruction, tmp_path / "2", "cnn", SMALL, QUICK)
    assert all(
        torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True)
    )


def test_training_lowers_the_loss(reconstruction: Reconstruction, tmp_path: Path):
    frame = FrameViews(
        reconstruction.read_frame("f0"), reconstruction.poses["f0"], CAMERA, 8
    ).plain()

    def error(steps: int) -> float:
        still = AugmentConfig(0, 1, 0, 0, 0, 0, 0, 0)
        config = replace(QUICK, steps=steps, fix_statistics=0, augment=still)
        student, _ = train(reconstruction, tmp_path / str(steps), "cnn", SMALL, config)
        points, _ = student(torch.from_numpy(frame.image_hw3)[None])
        return float(np.linalg.norm(points[0].detach().numpy() - frame.points_hw3, axis=-1).mean())

    assert error(60) < 0.5 * error(1)


def test_a_killed_training_goes_on_to_the_same_end(reconstruction: Reconstruction, tmp_path: Path):
    averaging = replace(QUICK, ema=0.7)
    whole, _ = train(reconstruction, tmp_path / "whole", "cnn", SMALL, averaging)
    script = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "import distill_training.journal as j\n"
        "import distill_training.train as t\n"
        "from distill_training.reconstruction import open_reconstruction\n"
        "save = j.save_checkpoint\n"
        "def save_then_die(folder, identity, state):\n"
        "    save(folder, identity, state)\n"
        "    if state.step == 3: os._exit(9)\n"
        "j.save_checkpoint = save_then_die\n"
        "config = t.TrainConfig(steps=6, batch=2, held_out=0, ema=0.7, precision='fp32')\n"
        f"t.train(open_reconstruction(sys.argv[1]), Path(sys.argv[2]), 'cnn', {SMALL}, config)\n"
    )
    folder = tmp_path / "resumed"
    command = [sys.executable, "-c", script, str(reconstruction.folder), str(folder)]
    root = str(Path(__file__).resolve().parent.parent)
    run = subprocess.run(command, env={**os.environ, "PYTHONPATH": root}, capture_output=True)
    assert run.returncode == 9, run.stderr.decode()
    resumed, info = train(reconstruction, folder, "cnn", SMALL, averaging)
    assert info.training["steps"] == 6
    for a, b in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)
    for a, b in zip(read_history(tmp_path / "whole"), read_history(folder), strict=True):
        assert {**a, "minutes": 0} == pytest.approx({**b, "minutes": 0}, abs=1e-3, nan_ok=True)


def test_the_average_of_the_weights_becomes_the_map(
    reconstruction: Reconstruction, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    passed = []  # the weights after each step

    def step(model: AveragedModel, network: torch.nn.Module) -> None:
        passed.append({k: v.clone() for k, v in network.state_dict().items()})
        update(model, network)

    update = AveragedModel.update_parameters
    monkeypatch.setattr(AveragedModel, "update_parameters", step)
    student, _ = train(reconstruction, tmp_path, "cnn", SMALL, replace(QUICK, steps=3, ema=0.6))
    for name, value in student.state_dict().items():
        if value.is_floating_point():
            first, second, third = (weights[name] for weights in passed)
            expected = 0.36 * first + 0.24 * second + 0.4 * third
            torch.testing.assert_close(value, expected, rtol=0, atol=1e-6)


def test_without_held_out_frames_a_map_is_calibrated_by_an_earlier_one_or_not(
    reconstruction: Reconstruction, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    images = np.zeros((1, 48, 64, 3), np.uint8)
    quick = replace(QUICK, steps=1)
    student, info = train(reconstruction, tmp_path / "none", "cnn", SMALL, quick)
    assert info.covariance_scale == info.training["sigma_scale"] == 1
    assert "not calibrated" in caplog.text
    export_map(student, info, images, tmp_path / "uncalibrated.onnx")
    earlier = replace(info, covariance_scale=3.7, training={"sigma_scale": 2.0})
    export_map(student, earlier, images, tmp_path / "earlier.onnx")
    caplog.clear()
    given = replace(quick, calibrated_by=tmp_path / "earlier.onnx")
    again, info = train(reconstruction, tmp_path / "none", "cnn", SMALL, given)  # it is trained
    assert info.covariance_scale == 3.7 and info.training["sigma_scale"] == 2
    assert "calibrated" not in caplog.text
    with torch.inference_mode():
        points, sigma = student(torch.from_numpy(images))
        same_points, larger_sigma = again(torch.from_numpy(images))
    torch.testing.assert_close(points, same_points, rtol=0, atol=0)
    torch.testing.assert_close(larger_sigma, 2 * sigma)

    elsewhere = replace(earlier, scene="elsewhere")
    export_map(student, elsewhere, images, tmp_path / "elsewhere.onnx")
    with pytest.raises(MoteError, match="found scene elsewhere, expected"):
        by_it = replace(quick, calibrated_by=tmp_path / "elsewhere.onnx")
        train(reconstruction, tmp_path / "none", "cnn", SMALL, by_it)
    export_map(student, replace(earlier, training={}), images, tmp_path / "unmeasured.onnx")
    with pytest.raises(MoteError, match="no measured scale"):
        by_it = replace(quick, calibrated_by=tmp_path / "unmeasured.onnx")
        train(reconstruction, tmp_path / "none", "cnn", SMALL, by_it)


def test_sigmas_are_scaled_to_what_held_out_frames_show(
    reconstruction: Reconstruction, tmp_path: Path
):
    """Of the Laplace law, which the likelihood assumes, 86 % lie within two expected errors."""
    config = replace(QUICK, steps=40, held_out=0.5)
    _, info = train(reconstruction, tmp_path, "cnn", SMALL, config)
    assert info.training["sigma_scale"] != 1
    assert info.training["held_out_cells_within_2_sigma"] == pytest.approx(0.865, abs=0.02)
    assert info.training["held_out_sigma_scale"] == pytest.approx(1, abs=0.01)


def test_a_history_begins_untrained_and_has_a_row_a_check(
    reconstruction: Reconstruction, tmp_path: Path
):
    _, info = train(reconstruction, tmp_path, "cnn", SMALL, replace(QUICK, steps=40, held_out=0.25))
    rows = read_history(tmp_path)
    assert [row["step"] for row in rows] == list(range(0, 41, 2))
    assert [row["epoch"] for row in rows[:3]] == [0, 2, 4]  # of four frames, two are held out
    assert np.isnan(rows[0]["loss"]) and np.isfinite([row["loss"] for row in rows[1:]]).all()
    assert rows[-1]["loss"] < rows[1]["loss"]
    assert len({row["train_cell_cm"] for row in rows}) == len(rows)  # measured anew each time
    for figure in ("held_out_cell_cm", "held_out_spearman"):  # sigma's scale moves neither
        assert info.training[figure] == rows[-1][figure]


@pytest.mark.parametrize("text", [None, b"", b"step,loss\n1\n", b"step\none\n", b"\xff\xfe"])
def test_a_damaged_history_is_refused(tmp_path: Path, text: bytes | None):
    if text is not None:
        (tmp_path / "history.csv").write_bytes(text)
    with pytest.raises(CheckpointError, match="history.csv: cannot be read"):
        read_history(tmp_path)


def test_processes_share_out_the_frames_of_one(reconstruction: Reconstruction):
    store, names = FrameStore(reconstruction), list(reconstruction.poses)

    def drawn(batch: int, rank: int, ranks: int) -> list[torch.Tensor]:
        draw = random_batches(store, names, batch, AugmentConfig(), 0, 0, rank, ranks)
        with closing(draw) as batches:
            return [next(batches)["image_hw3"] for _ in range(3)]

    for one, first, second in zip(drawn(4, 0, 1), drawn(2, 0, 2), drawn(2, 1, 2), strict=True):
        assert torch.equal(one, torch.cat([first, second]))


@pytest.mark.slow
def test_two_processes_train_one_student(reconstruction: Reconstruction, tmp_path: Path):
    script = (
        "import sys, torch\n"
        "from pathlib import Path\n"
        "from distill_training.config import TrainConfig\n"
        "from distill_training.processes import rank\n"
        "from distill_training.reconstruction import open_reconstruction\n"
        "from distill_training.train import train\n"
        "config = TrainConfig(minutes=0.01, batch=2, held_out=0, ema=0.5, precision='fp32')\n"
        "folder = Path(sys.argv[2])\n"
        f"student, info = train(open_reconstruction(sys.argv[1]), folder, 'cnn', {SMALL}, config)\n"
        "torch.save(dict(student.named_parameters()), folder / f'{rank()}.pt')\n"
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = tmp_path / "together"
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(__file__).resolve().parent.parent),
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
    said = [process.communicate(timeout=300)[1].decode() for process in started]
    assert [process.returncode for process in started] == [0, 0], said
    first, second = (torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    last = read_history(folder)[-1]
    assert last["step"] > 0 and last["epoch"] == last["step"]  # all four frames in every step
    assert "distill, s" in said[0] and "distill, s" not in said[1]


def test_a_reconstruction_of_another_stride_is_refused(
    reconstruction: Reconstruction, tmp_path: Path
):
    with pytest.raises(MoteError, match="reconstruct with --stride 8"):
        train(replace(reconstruction, stride=32), tmp_path / "t", "cnn", SMALL, QUICK)


def test_a_checkpoint_of_other_settings_is_refused(reconstruction: Reconstruction, tmp_path: Path):
    train(reconstruction, tmp_path / "t", "cnn", SMALL, QUICK)
    other = replace(reconstruction, settings={"max_depth_m": 3.0})
    with pytest.raises(CheckpointError, match="another reconstruction"):
        train(other, tmp_path / "t", "cnn", SMALL, QUICK)
    with pytest.raises(CheckpointError, match="other settings"):
        train(reconstruction, tmp_path / "t", "cnn", SMALL, replace(QUICK, seed=1))


def test_settings_are_the_same_as_text_and_as_values():
    values = {"patch": 8, "width": 96, "trunk_rate": 0.5, "pretrained": Path("a.pth")}
    texts = split_settings(["patch=8", "width=96", "trunk-rate=5e-1", "pretrained=a.pth"])
    assert student_settings("vit", values) == student_settings("vit", texts)
    assert student_settings("vit", texts) == {**values, "pretrained": "a.pth"}
    assert student_settings("cnn", {"size": "m", "stem": None}) == {}  # as the family has them


@pytest.mark.parametrize(
    ("family", "given", "message"),
    [
        ("cnn", {"depth": "3"}, "no setting 'depth'; it takes size=s|m|l stem=N"),
        ("cnn", {"size": "xl"}, "found size = 'xl', expected s or m or l; it takes"),
        ("cnn", {"stem": "many"}, "found stem = 'many'"),
        ("cnn", {"stem": 1.5}, "found stem = 1.5"),
        ("vit", {"freeze": "all"}, "without a pretrained file"),
        ("rnn", {}, "found student 'rnn', expected one of cnn"),
    ],
)
def test_settings_that_no_student_has_are_refused(family: str, given: dict, message: str):
    with pytest.raises(MoteError, match=re.escape(message)):
        student_settings(family, given)


def test_another_pretrained_file_is_another_training(
    reconstruction: Reconstruction, tmp_path: Path
):
    def write(path: Path, bias: float) -> dict:
        network = create_student("mobilenet", SceneFrame((0.0, 0.0, 0.0), 1.0))
        weights = {f"features.{k}": v + bias for k, v in network.features.state_dict().items()}
        torch.save(weights, path)
        return student_settings("mobilenet", {"pretrained": path, "freeze": "all"})

    quick = replace(QUICK, steps=1)
    settings = write(tmp_path / "trunk.pth", 0)
    _, info = train(reconstruction, tmp_path / "t", "mobilenet", settings, quick)
    assert info.training["settings"] == "freeze=all pretrained=trunk.pth"
    settings["pretrained"] = str((tmp_path / "trunk.pth").rename(tmp_path / "moved.pth"))
    train(reconstruction, tmp_path / "t", "mobilenet", settings, quick)
    write(tmp_path / "moved.pth", 1)
    with pytest.raises(CheckpointError, match="other settings"):
        train(reconstruction, tmp_path / "t", "mobilenet", settings, quick)


def test_a_torn_checkpoint_is_refused(reconstruction: Reconstruction, tmp_path: Path):
    train(reconstruction, tmp_path / "t", "cnn", SMALL, QUICK)
    path = tmp_path / "t/checkpoint.pt"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="is damaged"):
        train(reconstruction, tmp_path / "t", "cnn", SMALL, QUICK)


def test_a_checkpoint_cannot_run_code(reconstruction: Reconstruction, tmp_path: Path):
    class Attack:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "attacked"),)

    (tmp_path / "t").mkdir()
    torch.save({"identity": Attack()}, tmp_path / "t/checkpoint.pt")
    with pytest.raises(CheckpointError, match="is damaged"):
        train(reconstruction, tmp_path / "t", "cnn", SMALL, QUICK)
    assert not (tmp_path / "attacked").exists()


def test_an_exported_map_predicts_what_the_student_does(
    reconstruction: Reconstruction, tmp_path: Path
):
    reconstruction = replace(reconstruction, metric=False)
    student, info = train(reconstruction, tmp_path / "t", "cnn", SMALL, QUICK)
    assert not info.metric
    images = np.random.default_rng(0).integers(0, 255, (2, 48, 64, 3), np.uint8)
    export_map(student, info, images, tmp_path / "wall.onnx")
    read = read_map(tmp_path / "wall.onnx")
    assert read.info == info
    points, sigma = create_backend(read).predict(images[0])
    with torch.inference_mode():
        expected_points, expected_sigma = student(torch.from_numpy(images[:1]))
    np.testing.assert_allclose(points, expected_points[0], atol=2e-3)
    np.testing.assert_allclose(sigma, expected_sigma[0], rtol=1e-2)


def test_an_unequal_export_is_not_written(reconstruction: Reconstruction, tmp_path: Path):
    class Restless(torch.nn.Module):
        """Adds 5 mm to its points outside of export."""

        def __init__(self, student: torch.nn.Module) -> None:
            super().__init__()
            self.student = student

        def forward(self, image):
            points, sigma = self.student(image)
            return points + (0.0 if torch.onnx.is_in_onnx_export() else 0.005), sigma

    student = Restless(create_student("cnn", SceneFrame((0.0, 0.0, 0.0), 1.0), **SMALL)).eval()
    info = MapInfo("s", CAMERA, 8, (0, 0, 0), (1, 1, 1), "rgbd", "", "cnn")
    path = tmp_path / "wall.onnx"
    path.write_bytes(b"the old map")
    with pytest.raises(MapFileError, match="differ from the student's by 5.00 mm"):
        export_map(student, info, np.zeros((1, 48, 64, 3), np.uint8), path)
    assert path.read_bytes() == b"the old map"


def mote_distill(*arguments: object) -> subprocess.CompletedProcess:
    root = str(Path(__file__).resolve().parent.parent)
    run = "from distill_training.cli import main; main()"
    return subprocess.run(
        [sys.executable, "-c", run, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": root},
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize(
    "wrong",
    [
        {"minutes": 0},
        {"steps": -1},
        {"batch": 0},
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
def test_settings_that_cannot_be_trained_are_refused(wrong: dict):
    with pytest.raises(MoteError, match="expected"):
        TrainConfig(**wrong)


def test_a_student_that_predicts_nothing_is_not_written(tmp_path: Path):
    student = create_student("cnn", SceneFrame((0.0, 0.0, 0.0), 1.0), **SMALL).eval()
    student.head.out.bias.data[:] = torch.nan
    info = MapInfo("s", CAMERA, 8, (0, 0, 0), (1, 1, 1), "rgbd", "", "cnn")
    with pytest.raises(MapFileError, match="diverged"):
        export_map(student, info, np.zeros((1, 48, 64, 3), np.uint8), tmp_path / "wall.onnx")
    assert not (tmp_path / "wall.onnx").exists()


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
        (".", (), "holds no photographs, expected"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_1(
    tmp_path: Path, scene: str, arguments: tuple, message: str
):
    run = mote_distill("map", tmp_path / scene, "-o", tmp_path / "x.onnx", *arguments)
    assert run.returncode == 1
    assert run.stderr.startswith("error: ") and message in run.stderr
    assert run.stderr.count("\n") == 1


def test_a_training_that_diverges_is_refused_and_its_last_checkpoint_survives(
    reconstruction: Reconstruction, tmp_path: Path
):
    with pytest.raises(MoteError, match="no number before step .*lower --learning-rate"):
        wild = replace(QUICK, steps=40, learning_rate=1e20, warm_up=0.9)
        train(reconstruction, tmp_path, "cnn", SMALL, wild)
    rows = read_history(tmp_path)
    assert np.isfinite([row["loss"] for row in rows[1:]]).all()
