"""Training frames with a damaged image or depth are left out of a reconstruction."""

import logging
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from make_bag import a_compressed_depth, a_packed, a_pose, an_info, record
from make_scene import PLANE_CAMERA, write_plane_scene

from distill_training.poses.poses_config import PosesConfig
from distill_training.reconstruction import Reconstruction, open_reconstruction
from distill_training.teachers import damaged_frames, rgbd
from distill_training.teachers.teacher_config import CellsConfig, SimulatedConfig
from distill_training.teachers.teacher_options import Teacher
from mote_localization.errors import ReconstructionError, SceneError
from mote_localization.scenes import open_scene

NAMES = tuple("abcdefghij")
RGBD = Teacher("rgbd", PosesConfig("given"), CellsConfig(width=64))


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    write_plane_scene(tmp_path / "plane", NAMES)
    return tmp_path / "plane"


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def resize(path: Path) -> None:
    image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    cv2.imwrite(str(path), image[:24, :48])


@pytest.mark.parametrize(
    ("file", "damage", "reason"),
    [
        ("c.color.png", cut, "c.color.png: is damaged"),
        ("c.depth.png", cut, "c.depth.png: is damaged"),
        ("c.color.png", resize, "c.color.png: found an image of 48x24 px"),
        ("c.depth.png", resize, "c.depth.png: found a depth image of 48x24 px"),
    ],
)
def test_a_damaged_frame_of_a_folder_is_left_out(
    scene: Path, tmp_path: Path, caplog, file: str, damage: Callable[[Path], None], reason: str
):
    damage(scene / "data" / file)
    made = RGBD.reconstruct(scene, tmp_path / "r")
    assert list(made.poses) == list("abdefghij") and not made.missing()
    (warning,) = [one for one in caplog.messages if "left out" in one]
    assert "1 of 10 training frames cannot be read and are left out (c); the first: " in warning
    assert reason in warning


@pytest.mark.parametrize("damaged", ["image", "depth"])
def test_a_damaged_frame_of_a_recording_is_left_out(
    scene: Path, tmp_path: Path, caplog, damaged: str
):
    messages = []
    for number, frame in enumerate(open_scene(scene).frames("train")):
        stamp = (number + 1) * 100_000_000
        jpeg = cv2.imencode(".jpg", frame.image())[1].tobytes()
        topic, kind, _, depth = a_compressed_depth(stamp, frame.known_depth())
        if number == 4 and damaged == "image":
            jpeg = jpeg[:-200]
        if number == 4 and damaged == "depth":
            depth.data = depth.data[:-100]
        messages += [
            a_packed(stamp, "/cam/image/compressed", "jpeg", jpeg),
            (topic, kind, stamp, depth),
            an_info(stamp, width=128, height=96, k=PLANE_CAMERA.K_33.reshape(9)),
            a_pose(stamp, frame.known_pose()),
        ]
    made = RGBD.reconstruct(record(tmp_path / "bag", *messages), tmp_path / "r")
    assert list(made.poses) == [f"{number:06d}" for number in range(10) if number != 4]
    assert "1 of 10 training frames cannot be read and are left out (000004)" in caplog.text


def test_too_many_damaged_frames_are_one_error(scene: Path, tmp_path: Path):
    for name in "bcd":
        cut(scene / f"data/{name}.color.png")
    with pytest.raises(SceneError, match="3 of 10 .*at most 20%.*b.color.png: is damag") as raised:
        RGBD.reconstruct(scene, tmp_path / "r")
    assert len(str(raised.value)) < 300
    assert not (tmp_path / "r").exists()


def test_a_plan_reads_no_images(scene: Path):
    for name in "bcd":
        cut(scene / f"data/{name}.color.png")
    assert RGBD.plan(scene).scene.count("train") == 10


@pytest.fixture
def interrupted(scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a run without frame c that was interrupted after three frames."""
    cut(scene / "data/c.color.png")
    folder, written = tmp_path / "r", []
    write_frame = Reconstruction.write_frame

    def write_three(self, name, frame):
        if len(written) == 3:
            raise KeyboardInterrupt
        written.append(name)
        write_frame(self, name, frame)

    with monkeypatch.context() as patched:
        patched.setattr(rgbd.Reconstruction, "write_frame", write_three)
        with pytest.raises(KeyboardInterrupt):
            RGBD.reconstruct(scene, folder)
    return folder


def test_an_interrupted_run_resumes_with_the_same_result(
    scene: Path, interrupted: Path, tmp_path: Path
):
    RGBD.reconstruct(scene, interrupted)
    expected = RGBD.reconstruct(scene, tmp_path / "whole")
    made = open_reconstruction(interrupted)
    assert made.index() == expected.index() and len(made.poses) == 9
    for name in made.poses:
        for one, other in zip(
            vars(made.read_frame(name)).values(),
            vars(expected.read_frame(name)).values(),
            strict=True,
        ):
            np.testing.assert_array_equal(one, other)


def test_a_begun_reconstruction_keeps_its_frames_and_reads_no_images_to_choose_them(
    scene: Path, interrupted: Path, monkeypatch: pytest.MonkeyPatch
):
    (scene / "data/c.color.png").write_bytes((scene / "data/d.color.png").read_bytes())
    monkeypatch.setattr(damaged_frames, "damaged_frames", None)
    assert list(RGBD.reconstruct(scene, interrupted).poses) == list("abdefghij")


def test_another_run_in_the_folder_chooses_again(scene: Path, tmp_path: Path):
    cut(scene / "data/c.color.png")
    RGBD.reconstruct(scene, tmp_path / "r")
    (scene / "data/c.color.png").write_bytes((scene / "data/d.color.png").read_bytes())
    (tmp_path / "r/reconstruction.json").unlink()
    assert len(RGBD.reconstruct(scene, tmp_path / "r").poses) == 10
    assert not (tmp_path / "r/left_out.json").exists()


@pytest.mark.parametrize("content", ["{", '{"c": 3}', "[]"])
def test_a_damaged_list_of_frames_is_one_error(scene: Path, interrupted: Path, content: str):
    (interrupted / "left_out.json").write_text(content)
    with pytest.raises(ReconstructionError, match=r"left_out\.json: "):
        RGBD.reconstruct(scene, interrupted)


def test_depth_that_only_checks_poses_may_be_damaged(scene: Path, caplog):
    from distill_training.poses.depth_agreement import check_conventions

    cut(scene / "data/c.depth.png")
    opened = open_scene(scene)
    check_conventions(opened, {one.name: one.known_pose() for one in opened.frames("train")})
    assert "frame c: its depth is not used: " in caplog.text


@pytest.mark.parametrize("file", ["color.jpg", "depth.png"])
def test_the_simulated_teacher_leaves_out_a_damaged_frame(
    photographs: Path, kitchen: Path, tmp_path: Path, caplog, file: str
):
    pytest.importorskip("torch", reason="torch is not installed")
    names = (photographs / "train.txt").read_text().split()[:6]
    folder = tmp_path / "kitchen"
    (folder / "data").mkdir(parents=True)
    (folder / "train.txt").write_text("\n".join(names))
    (folder / "camera-intrinsics.txt").write_bytes((kitchen / "camera-intrinsics.txt").read_bytes())
    for name in names:
        for end in ("color.jpg", "depth.png", "pose.txt"):
            content = (kitchen / f"data/{name}.{end}").read_bytes()
            (folder / f"data/{name}.{end}").write_bytes(content)
    cut(folder / f"data/{names[2]}.{file}")
    teacher = Teacher(
        "simulated",
        PosesConfig("given"),
        CellsConfig(width=160),
        simulated=SimulatedConfig(width=80),
    )
    with caplog.at_level(logging.WARNING):
        made = teacher.reconstruct(folder, tmp_path / "r")
    assert list(made.poses) == [*names[:2], *names[3:]]
    assert f"frame {names[2]} is left out: " in caplog.text
