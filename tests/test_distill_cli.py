"""The `mote-distill` command: output, errors and exit status."""

import json
import os
import pty
import re
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from make_map import CAMERA, ROOM_M, T_MAP_CAM, room_points
from make_scene import View, write_scene
from test_package import run_without_torch_and_ros

import distill_training.cli
from distill_training.reconstruction import open_reconstruction
from distill_training.teachers.pairwise.summary import Summary
from mote_localization.geometry import exp_rotation, invert, rigid, transform
from mote_localization.map_file import read_map

SMALL = CAMERA.resized(160, 120)
QUICK = "--width 160 --simulated.width 80"
TINY = "--width 80 --set size=s fine-blocks=1 coarse-blocks=1 --steps 1 --batch 2"


@pytest.fixture
def distill(run_command):
    """Run `mote-distill` with arguments; return exit status and stderr, as one line."""

    def run(arguments):
        status, output, errors = run_command("mote-distill", distill_training.cli.main, arguments)
        assert output == ""
        return status, " ".join(errors.replace("│", " ").split())

    return run


@pytest.fixture
def room(tmp_path, monkeypatch):
    """A scene of six views of the box room, in the working directory."""
    monkeypatch.chdir(tmp_path)
    views = {}
    for i in range(6):
        T = T_MAP_CAM.copy()
        T[:3, :3] = cv2.Rodrigues(np.array([0, 0, 0.1 * (i % 3)]))[0] @ T[:3, :3]
        T[:3, 3] += 0.25 * i, -0.2 * (i % 2), 0.1 * i
        depth_hw = transform(invert(T), room_points(T, SMALL, stride=1))[..., 2]
        image_hw3 = np.repeat((40 * depth_hw).astype(np.uint8)[..., None], 3, axis=-1)
        views[f"view{i}"] = View(image_hw3, T, depth_hw)
    return write_scene(tmp_path / "room", SMALL, views)


@pytest.mark.train
def test_reconstruct_prints_a_summary_and_exports_cloud_and_picture(room, distill):
    exports = "--save-ply room.ply --picture room.png"
    command = f"reconstruct room -o made --teacher simulated {QUICK}"
    status, printed = distill(f"{command} {exports}")
    assert status == 0, printed
    for text in (
        "images 6 of 6 used",
        "pairs 15 predicted",
        "cm, median where pointmaps overlap",
        "poses given focal length given scale metres, from the given poses",
        "licence of the teacher none",
        "reconstruction: made (6 frames); make a map of it with `mote-distill distill made",
        "picture: room.png",
    ):
        assert text in printed
    assert Path("room.ply").read_bytes().startswith(b"ply\n")
    assert cv2.imread("room.png") is not None
    assert open_reconstruction("made").camera.width == 160


@pytest.mark.train
def test_a_finished_reconstruction_is_exported_without_computing_it_again(room, distill):
    command = f"reconstruct room -o made --teacher simulated {QUICK}"
    distill(command)
    before = {path: path.stat().st_mtime_ns for path in Path("made").rglob("*")}
    status, printed = distill(f"{command} --save-ply room.ply")
    assert status == 0 and "was there already 6 frames" in printed and "residual" not in printed
    assert Path("room.ply").exists()
    assert before == {path: path.stat().st_mtime_ns for path in Path("made").rglob("*")}
    status, printed = distill(f"{command} --simulated.noise 0")
    assert (
        status == 1 and "made: holds a reconstruction made with other frames or settings" in printed
    )


@pytest.mark.train
def test_the_summary_states_what_was_estimated(room, distill):
    status, printed = distill(
        f"reconstruct room -o made --teacher simulated {QUICK} --poses dust3r "
        "--intrinsics estimate --simulated.noise 0 --simulated.warp 0 --simulated.wrong-pairs 0"
    )
    assert status == 0, printed
    assert "poses estimated" in printed and "scale metres, 1 sigma" in printed
    found = re.search(r"focal length estimated, ([0-9.]+) px in the canonical camera", printed)
    assert float(found[1]) == pytest.approx(SMALL.fx, rel=0.05)


@pytest.mark.train
def test_a_photograph_that_cannot_be_read_is_named(room, distill):
    (room / "data/view2.color.png").write_bytes(b"no image")
    status, printed = distill(f"reconstruct room -o made --teacher simulated {QUICK}")
    assert status == 0, printed
    assert "images 5 of 6 used not used view2: " in printed
    assert "view2" not in open_reconstruction("made").poses


@pytest.mark.train
def test_one_command_makes_a_map_of_photographs(room, distill):
    status, printed = distill(
        f"map room -o room.onnx --teacher simulated {QUICK} --steps 2 --batch 2"
    )
    assert status == 0, printed
    assert "images 6 of 6 used" in printed and "map: room.onnx" in printed
    assert read_map("room.onnx").info.teacher == "simulated"


def test_rgbd_is_the_default_teacher_of_a_scene_with_depth(room, distill):
    status, printed = distill("reconstruct room -o made --width 80 --window-px 2")
    assert status == 0, printed
    made = open_reconstruction("made")
    assert (made.teacher, made.camera.width, made.settings["window_px"]) == ("rgbd", 80, 2)


SUMMARY = Summary(30, {}, 200, 9, 1.84, 0.968, (262.31,), True, True, None, True)


@pytest.mark.parametrize(
    ("changes", "row", "expected"),
    [
        ({}, "images", "30 of 30 used"),
        ({"unused": {"a": "cannot be read"}}, "images", "29 of 30 used"),
        ({"unused": {"[b]": "not connected"}}, "not used", "[b]: not connected"),
        ({}, "pairs", "200 predicted, 9 of them rejected"),
        ({}, "residual", "1.8 cm, median where pointmaps overlap"),
        ({"metric": False}, "residual", "1.8 hundredths of a unit"),
        ({}, "agreeing", "97% of overlapping cells, to a tenth of the depth"),
        ({}, "poses", "given"),
        ({"poses_known": False}, "poses", "estimated"),
        ({}, "focal length", "given"),
        ({"focal_known": False}, "focal length", "estimated, 262.3 px"),
        (
            {"focal_known": False, "focal_px": (250.0, 260, 270, 280, 240)},
            "focal length",
            "estimated, 240.0 to 280.0 px of 5 lenses",
        ),
        ({}, "scale", "metres, from the given poses"),
        ({"poses_known": False, "scale_uncertainty": 0.012}, "scale", "metres, 1 sigma 1.2 %"),
        ({"poses_known": False}, "scale", "two lengths or more with --scale-from"),
        (
            {"poses_known": False, "metric": False},
            "scale",
            "unknown: lengths are in the map's own unit",
        ),
        ({"poses_known": False, "metric": False}, "scale", "give it with --scale-from"),
    ],
)
def test_a_summary_describes_the_result(changes, row, expected):
    assert expected in replace(SUMMARY, **changes).described()[row]


def test_a_summary_names_at_most_ten_unused_photographs():
    unused = {f"img{i}": "cannot be read" for i in range(13)}
    lines = replace(SUMMARY, unused=unused).described()["not used"].splitlines()
    assert lines[9:] == ["img9: cannot be read", "and 3 more"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            "--teacher rgbd --checkpoint c.pth",
            "found --checkpoint with --teacher rgbd, expected --teacher dust3r",
        ),
        (
            "--pairs.max-gap 3 --device cpu",
            "found --device with --teacher rgbd, expected --teacher dust3r",
        ),
        (
            "--pairs.max-gap 3",
            "found --pairs.max-gap with --teacher rgbd, expected --teacher dust3r",
        ),
        (
            "--teacher sfm --poses dust3r",
            "found --poses dust3r with --teacher sfm, expected --poses given or refine or sfm",
        ),
        ("--poses=estimate", "found --poses estimate, which is now --poses sfm"),
        ("--adjust-poses", "found --adjust-poses, which is now --poses refine"),
        (
            "--teacher rgbd --poses given --scale-from view0,view1=1",
            "found --scale-from with given poses, expected --poses sfm or another teacher",
        ),
        (
            "--teacher rgbd --poses refine --sfm.tolerance 0.02",
            "found --sfm.tolerance with given poses, expected --poses sfm or another teacher",
        ),
        ("--sfm.tolerance 0", "found --sfm.tolerance 0.0, expected above 0 and below 1"),
        (
            "--teacher simulated --device cuda",
            "found --device with --teacher simulated, expected --teacher dust3r",
        ),
        (
            "--teacher simulated --max-depth-m 3",
            "found --max-depth-m with --teacher simulated, expected --teacher rgbd",
        ),
        (
            "--teacher dust3r --checkpoint c.pth --simulated.seed 1",
            "found --simulated.seed with --teacher dust3r",
        ),
        ("--teacher dust3r", "needs --checkpoint FILE: download DUSt3R_ViTLarge_BaseDecoder_512"),
        ("--teacher dust3r", "(CC BY-NC-SA 4.0, non-commercial)"),
        ("--teacher simulated --scale-from a-b", "--scale-from a-b: expected FRAME,FRAME=METRES"),
        ("--teacher simulated --pair-batch 0", "a batch of 0 pairs"),
        ("--width 0", "found width 0"),
        ("--save-ply room", "room: is a folder, expected the name of a file"),
        ("--save-rrd room.rrd", "rerun cannot be used"),
    ],
)
def test_options_that_do_not_fit_are_one_line_before_any_work(
    room, distill, monkeypatch, arguments, message
):
    monkeypatch.setitem(sys.modules, "rerun", None)
    status, printed = distill(f"reconstruct room -o made {arguments}")
    assert status == 1 and printed.startswith("error: ") and message in printed
    assert not Path("made").exists()


@pytest.mark.train
@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "c.pth: cannot be read (No such file"), (b"x", "c.pth: found 1 bytes that begin with")],
)
def test_an_unusable_checkpoint_is_one_line(room, distill, content, message):
    if content:
        Path("c.pth").write_bytes(content)
    status, printed = distill("reconstruct room -o made --teacher dust3r --checkpoint c.pth")
    assert status == 1 and "error: " in printed and message in printed
    assert "download DUSt3R_ViTLarge_BaseDecoder_{512_dpt," in printed
    assert not Path("made").exists()


@pytest.mark.train
def test_a_checkpoint_runs_on_the_given_device(room, distill):
    from test_dust3r import content, torch

    torch.save(content(), "c.pth")
    command = "reconstruct room -o made --teacher dust3r --checkpoint c.pth"
    status, printed = distill(f"{command} --device gpu9")
    assert status == 1 and "found device 'gpu9'" in printed
    # Its weights are random, so its predictions do not agree.
    status, printed = distill(f"{command} --device cpu --poses dust3r")
    assert status == 1 and "no two images could be aligned" in printed


def test_a_dry_run_prints_what_would_be_done_and_why(room, distill):
    status, printed = distill("map room -o room.onnx --dry-run --steps 3 --keyframes 5")
    assert status == 0 and not Path("room.training").exists()
    for text in (
        "found 6 training images, with depth; 6 have poses, 6 intrinsics",
        "teacher rgbd, as there is depth poses given; refined if the images disagree with them",
        "student cnn, 3 steps of training, at most 5 keyframes",
    ):
        assert text in printed
    for depth in room.glob("data/*.depth.png"):
        depth.unlink()
    _, printed = distill("reconstruct room -o made --dry-run --intrinsics estimate")
    assert "teacher sfm, as there is no depth poses structure from motion; given poses" in printed
    assert "intrinsics 0 given, others estimated" in printed
    _, printed = distill("reconstruct room -o made --dry-run --checkpoint c.pth")
    assert "teacher dust3r, as there is a checkpoint poses given" in printed
    (room / "data/view2.pose.txt").unlink()
    _, printed = distill("reconstruct room -o made --dry-run")
    assert "found 5 training images, without depth; 5 have poses" in printed
    (room / "data/view3.pose.txt").unlink()
    _, printed = distill("reconstruct room -o made --dry-run --checkpoint c.pth")
    assert "poses structure from motion; where it fails, alignment of pairs of " in printed


def test_a_terminal_shows_that_torch_is_loading_before_anything_else(room):
    reading, terminal = pty.openpty()
    command = [Path(sys.executable).with_name("mote-distill"), "map", room, "-o", "a.onnx"]
    with subprocess.Popen([*command, "--dry-run"], stdout=terminal, stderr=terminal) as process:
        os.close(terminal)
        first = os.read(reading, 10_000)
        shown = b""
        with suppress(OSError):  # raised on Linux when the process has ended
            while text := os.read(reading, 10_000):
                shown += text
    os.close(reading)
    assert process.returncode == 0
    assert b"training images" not in first
    assert (first + shown).index(b"loading PyTorch") < shown.index(b"training images")


def test_without_pycolmap_structure_from_motion_is_refused_in_one_line(room, distill, monkeypatch):
    monkeypatch.setitem(sys.modules, "pycolmap", None)
    status, printed = distill("reconstruct room -o made --poses sfm")
    assert status == 1 and printed.startswith("error: structure from motion needs pycolmap")
    assert "or give the poses (--poses given)" in printed and not Path("made").exists()


@pytest.mark.train
def test_anchors_fix_the_frame_of_the_map(room, distill):
    poses = {path.name.split(".")[0]: np.loadtxt(path) for path in room.glob("data/*.pose.txt")}
    targets = {name: (T[:3, 3] + (10, 20, 0)).tolist() for name, T in poses.items()}
    anchors = [{"frame": name, "target": target} for name, target in targets.items()]
    Path("anchors.yaml").write_text(json.dumps({"anchors": anchors}))
    status, printed = distill(f"map room -o room.onnx {TINY} --anchor anchors.yaml")
    assert status == 0, printed
    assert "anchors 6, off by 0.0 cm" in printed
    info = read_map("room.onnx").info
    middle = (np.array(info.bounds_min) + info.bounds_max) / 2
    np.testing.assert_allclose(middle, ROOM_M / 2 + (10, 20, 0), atol=1.0)


@pytest.mark.train
def test_the_map_becomes_level_by_its_cameras(room, distill):
    tilt = rigid(exp_rotation(np.array([0.1, 0, 0])), np.zeros(3))
    for path in room.glob("data/*.pose.txt"):
        np.savetxt(path, tilt @ np.loadtxt(path))
    status, printed = distill(f"map room -o room.onnx {TINY} --keyframes 20 --level cameras")
    assert status == 0, printed
    tilt_deg = float(re.search(r"tilt of the z axis ([0-9.]+) deg", printed)[1])
    assert tilt_deg == pytest.approx(np.degrees(0.1), abs=0.5)
    keyframes = read_map("room.onnx").info.keyframes
    down_n3 = np.array([np.array(one.T_map_cam)[:3, 1] for one in keyframes])
    assert (down_n3 @ (0, 0, -1)).min() > 0.99


@pytest.mark.train
def test_the_map_stores_the_settings_of_the_student(room, distill):
    distill("reconstruct room -o made --width 160")
    student = "--student cnn --set size=s coarse-blocks=2 --steps 1 --batch 2"
    status, printed = distill(f"distill made -o room.onnx {student}")
    assert status == 0, printed
    assert read_map("room.onnx").info.training["settings"] == "coarse_blocks=2 size=s"


@pytest.mark.train
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--set depth=3", "student cnn: it has no setting 'depth'; it takes size=s|m|l stem=N"),
        ("--set size", "found 'size', expected NAME=VALUE"),
        ("--set size=s size=l", "found 'size=l', expected NAME=VALUE, each name once"),
        ("--freeze all", "student cnn: it has no setting 'freeze'"),
        ("--student vit --freeze all", "found freeze = 'all' without a pretrained file"),
        ("--student vit --pretrained v.pth", "--pretrained v.pth: expected a file of weights"),
    ],
)
def test_wrong_student_settings_are_one_line_before_any_work(room, distill, arguments, message):
    status, printed = distill(f"map room -o room.onnx {arguments}")
    assert status == 1 and printed.startswith("error: ") and message in printed
    assert not Path("room.training").exists()


def test_map_refuses_to_run_in_several_processes(room, distill, monkeypatch):
    for name, value in (("TORCHELASTIC_RUN_ID", "x"), ("WORLD_SIZE", "2"), ("RANK", "1")):
        monkeypatch.setenv(name, value)
    status, printed = distill("map room -o room.onnx")
    assert (
        status == 1
        and "found 2 processes, expected one: run `mote-distill reconstruct` in one" in printed
    )
    assert not Path("room.training").exists()


@pytest.mark.parametrize(("command", "output"), [("reconstruct", "made"), ("map", "room.onnx")])
def test_without_torch_the_message_gives_the_install_command(room, command, output):
    output = room.parent / output
    arguments = [command, str(room), "-o", str(output), "--teacher", "simulated"]
    ended = run_without_torch_and_ros(
        f"sys.argv[1:] = {arguments}\nimport distill_training.cli; distill_training.cli.main()"
    )
    assert ended.returncode == 1 and ended.stderr.count("\n") == 1
    assert "No module named 'torch'" in ended.stderr
    assert "install it with `pip install . ./packaging/mote_distill`" in ended.stderr
    assert not output.exists()


@pytest.mark.parametrize(
    ("arguments", "new_name"),
    [
        ("distill x -o y.onnx --fix-statistics=0.5", "--freeze-batch-norm"),
        ("map x -o y.onnx --augment.novel 0.3", "--augment.novel-view-fraction"),
        ("map x -o y.onnx --pairs.reach 3", "--pairs.max-gap"),
    ],
)
def test_a_renamed_option_is_an_error_that_gives_the_new_name(run_command, arguments, new_name):
    status, _, errors = run_command("mote-distill", distill_training.cli.main, arguments)
    assert status == 1 and f"which is now {new_name}:" in errors


@pytest.mark.parametrize("option", ["--calibrated-by", "--calibration-from"])
def test_calibration_by_another_map_is_part_of_every_training(run_command, option):
    arguments = f"distill x -o y.onnx {option} m.onnx"
    status, _, errors = run_command("mote-distill", distill_training.cli.main, arguments)
    assert status == 1 and f"found {option}, which is now part of every training" in errors
