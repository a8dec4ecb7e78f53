"""The command line as a user meets it."""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import ROOT
from make_map import CAMERA, T_MAP_CAM, room_points, write_constant_map
from make_scene import View, write_scene
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore
from test_package import run_without_torch_and_ros

import distill_training.cli
import mote_localization.cli
from distill_training.reconstruction import open_reconstruction
from distill_training.teachers.pairwise.summary import Summary
from mote_localization.geometry import invert, transform
from mote_localization.map_file import read_map

CALIBRATION = """\
image_width: 320
image_height: 240
camera_matrix: {rows: 3, cols: 3, data: [260.0, 0, 159.5, 0, 260, 119.5, 0, 0, 1]}
distortion_model: plumb_bob
distortion_coefficients: {rows: 1, cols: 5, data: [0, 0, 0, 0, 0]}
"""


@pytest.fixture
def files(tmp_path, monkeypatch):
    """A map, a calibration, and a bright, a dark and a small image, in the working directory."""
    monkeypatch.chdir(tmp_path)
    write_constant_map("room.onnx")
    Path("head.yaml").write_text(CALIBRATION)
    cv2.imwrite("bright.png", np.full((240, 320, 3), 128, np.uint8))
    cv2.imwrite("dark.png", np.zeros((240, 320, 3), np.uint8))
    cv2.imwrite("small.png", np.full((120, 160, 3), 128, np.uint8))


@pytest.fixture
def command(monkeypatch, capsys):
    """Run a command with arguments; return exit status, output and errors."""

    def run(program, main, arguments):
        monkeypatch.setattr(sys, "argv", [program, *arguments.split()])
        try:
            main()
            status = 0
        except SystemExit as end:
            if isinstance(end.code, str):
                print(end.code, file=sys.stderr)
            status = 1 if isinstance(end.code, str) else end.code or 0
        return status, *capsys.readouterr()

    return run


@pytest.fixture
def mote(command):
    """Run `mote` with arguments; return exit status, output and errors."""
    return lambda arguments: command("mote", mote_localization.cli.main, arguments)


@pytest.fixture
def distill(command):
    """Run `mote-distill` with arguments; return exit status and errors, lines joined."""

    def run(arguments):
        status, output, errors = command("mote-distill", distill_training.cli.main, arguments)
        assert output == ""
        return status, " ".join(errors.replace("│", " ").split())

    return run


def test_inspect_prints_what_a_map_is(files, mote):
    status, output, _ = mote("inspect room.onnx")
    assert status == 0
    for what in (
        "box room",
        "320x240 px",
        "40x30 cells, stride 8 px",
        "x 0.00 to 6.00",
        "constant",
        "metres",
    ):
        assert what in output


def test_lengths_of_unknown_scale_are_not_called_metres(files, mote):
    write_constant_map("own.onnx", metric=False)
    _, described, _ = mote("inspect own.onnx")
    described = " ".join(described.replace("│", " ").split())  # lines are broken
    assert "z 0.00 to 3.00 units scale unknown: lengths are in units of" in described
    _, found, _ = mote("localize bright.png --map own.onnx --camera head.yaml")
    assert found.count(" units ") == 2 and " m " not in found


def test_localize_prints_the_pose(files, mote):
    status, output, _ = mote("localize bright.png --map room.onnx --camera head.yaml")
    assert status == 0
    x, y, z = T_MAP_CAM[:3, 3]
    assert f"{x:.4f} {y:.4f} {z:.4f} m" in output
    assert "800 of 800 cells" in output and "network" in output


def test_a_covariance_fits_a_terminal_of_80_columns(files, mote):
    _, output, _ = mote("localize bright.png --map room.onnx --camera head.yaml")
    assert max(map(len, output.splitlines())) <= 80
    assert sum(line.count("e-") >= 6 for line in output.splitlines()) == 6


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ("inspect none.onnx", "none.onnx: cannot be read"),
        ("inspect head.yaml", "head.yaml: is no ONNX file"),
        ("localize none.png --map room.onnx --camera head.yaml", "none.png: cannot be read"),
        ("localize head.yaml --map room.onnx --camera head.yaml", "head.yaml: is damaged or no"),
        ("localize bright.png --map none.onnx --camera head.yaml", "none.onnx: cannot be read"),
        ("localize bright.png --map room.onnx --camera none.yaml", "none.yaml: cannot be read"),
        ("localize bright.png --map room.onnx --camera dark.png", "dark.png: is no YAML text"),
        ("localize small.png --map room.onnx --camera head.yaml", "small.png by head.yaml: found"),
        ("localize dark.png --map room.onnx --camera head.yaml", "dark.png: lost: 0 cells"),
        ("localize bright.png --map room.onnx --camera head.yaml --backend x", "backend 'x'"),
        ("localize bright.png --map room.onnx --camera head.yaml --threads -1", "-1 threads"),
    ],
)
def test_bad_input_is_one_line_and_exit_status_1(files, mote, arguments, complaint):
    status, output, errors = mote(arguments)
    assert status == 1 and output == ""
    assert errors.startswith("error: ") and complaint in errors
    assert errors.count("\n") == 1


def with_no_rotation(scene):
    np.savetxt(scene / "data/b.pose.txt", np.diag([2.0, 2, 2, 1]))


def with_nan(scene):
    np.savetxt(scene / "data/b.pose.txt", np.full((4, 4), np.nan))


def without_an_image(scene):
    (scene / "data/b.color.png").unlink()


def with_a_damaged_image(scene):
    path = scene / "data/b.color.png"
    path.write_bytes(path.read_bytes()[:60])


def with_a_bag_for_a_scene(scene):
    """A recording of poses alone."""
    shutil.rmtree(scene)
    types = get_typestore(Stores.ROS2_HUMBLE)
    with Writer(scene, version=8, storage_plugin=StoragePlugin.MCAP) as bag:
        bag.add_connection("/truth", "geometry_msgs/msg/PoseStamped", typestore=types)


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (with_no_rotation, "scene/data/b.pose.txt: the pose's 3x3 part is not a rotation"),
        (with_nan, "scene/data/b.pose.txt: the pose holds NaN"),
        (without_an_image, "scene/data/b.color.jpg (or .png): is missing"),
        (with_a_damaged_image, "scene/data/b.color.png: is damaged or no image"),
        (with_a_bag_for_a_scene, "scene: no images (sensor_msgs/msg/Image); it has /truth"),
    ],
)
def test_a_process_that_evaluates_bad_input_ends_with_one_line_and_1(files, damage, complaint):
    view = View(np.full((240, 320, 3), 128, np.uint8), T_MAP_CAM)
    write_scene(Path("scene"), CAMERA, {"a": view, "b": view}, test=("a", "b"))
    damage(Path("scene"))
    script = "from mote_localization.cli import main; main()"
    ended = subprocess.run(
        [sys.executable, "-c", script, "evaluate", "scene", "--map", "room.onnx"],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert ended.returncode == 1 and ended.stdout == ""
    errors = [line for line in ended.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and complaint in errors[0]
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("arguments", ["", "fly", "inspect", "localize bright.png"])
def test_a_wrong_command_line_is_explained_with_exit_status_2(mote, arguments):
    status, _, errors = mote(arguments)
    assert status == 2 and errors


def test_names_that_look_like_markup_are_printed_as_they_are(files, mote):
    Path("room.onnx").rename("[red]room.onnx")
    status, output, _ = mote("inspect [red]room.onnx")
    assert status == 0 and "[red]room.onnx" in output


@pytest.mark.parametrize("arguments", ["mote --help", "mote-distill reconstruct --help"])
def test_help_loads_nothing_heavy(arguments):
    package = "distill_training" if "distill" in arguments else "mote_localization"
    script = (
        f"import sys; sys.argv = {arguments.split()}\n"
        f"from {package}.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'scipy', 'matplotlib', 'rclpy', 'onnxruntime', 'evo'}\n"
        "sys.exit(f'loaded {heavy & sys.modules.keys()}' if heavy & sys.modules.keys() else 0)"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)
    assert ended.returncode == 0, ended.stderr
    assert ("--pairs.method" if "distill" in arguments else "localize") in ended.stdout


# mote-distill

SMALL = CAMERA.resized(160, 120)
QUICK = "--width 160 --simulated.width 80"


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
def test_photographs_with_poses_are_reconstructed_summed_up_and_looked_at(room, distill):
    look = "--save-ply room.ply --picture room.png"
    command = f"reconstruct room -o made --teacher simulated {QUICK}"
    status, said = distill(f"{command} {look}")
    assert status == 0, said
    for what in (
        "images 6 of 6 used",
        "pairs 15 predicted",
        "cm, median where pointmaps overlap",
        "poses given focal length given scale metres, from the given poses",
        "licence of the teacher none",
        "reconstruction: made (6 frames); make a map of it with `mote-distill distill made",
        "picture: room.png",
    ):
        assert what in said
    assert Path("room.ply").read_bytes().startswith(b"ply\n")
    assert cv2.imread("room.png") is not None
    assert open_reconstruction("made").camera.width == 160


@pytest.mark.train
def test_a_finished_reconstruction_is_looked_at_without_being_made_again(room, distill):
    command = f"reconstruct room -o made --teacher simulated {QUICK}"
    distill(command)
    before = {path: path.stat().st_mtime_ns for path in Path("made").rglob("*")}
    status, said = distill(f"{command} --save-ply room.ply")
    assert status == 0 and "was there already 6 frames" in said and "residual" not in said
    assert Path("room.ply").exists()
    assert before == {path: path.stat().st_mtime_ns for path in Path("made").rglob("*")}
    status, said = distill(f"{command} --simulated.noise 0")
    assert status == 1 and "made: holds a reconstruction made with other frames or settings" in said


@pytest.mark.train
def test_what_is_estimated_is_told(room, distill):
    status, said = distill(
        f"reconstruct room -o made --teacher simulated {QUICK} --poses estimate "
        "--intrinsics estimate --simulated.noise 0 --simulated.warp 0 --simulated.wrong-pairs 0"
    )
    assert status == 0, said
    assert "poses estimated" in said and "scale metres, 1 sigma" in said
    found = re.search(r"focal length estimated, ([0-9.]+) px in the map's camera", said)
    assert float(found[1]) == pytest.approx(SMALL.fx, rel=0.05)


@pytest.mark.train
def test_a_photograph_that_cannot_be_read_is_named(room, distill):
    (room / "data/view2.color.png").write_bytes(b"no image")
    status, said = distill(f"reconstruct room -o made --teacher simulated {QUICK}")
    assert status == 0, said
    assert "images 5 of 6 used refused view2: " in said
    assert "view2" not in open_reconstruction("made").poses


@pytest.mark.train
def test_one_command_makes_a_map_of_photographs(room, distill):
    status, said = distill(f"map room -o room.onnx --teacher simulated {QUICK} --steps 2 --batch 2")
    assert status == 0, said
    assert "images 6 of 6 used" in said and "map: room.onnx" in said
    assert read_map("room.onnx").info.teacher == "simulated"


def test_depth_is_the_teacher_where_none_is_named(room, distill):
    status, said = distill("reconstruct room -o made --width 80 --window-px 2")
    assert status == 0, said
    made = open_reconstruction("made")
    assert (made.teacher, made.camera.width, made.settings["window_px"]) == ("rgbd", 80, 2)


SUMMARY = Summary(30, {}, 200, 9, 1.84, 0.968, (262.31,), True, True, None, True)


@pytest.mark.parametrize(
    ("changes", "row", "told"),
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
        ({"poses_known": False, "metric": False}, "scale", "unknown: lengths are in units of"),
        ({"poses_known": False, "metric": False}, "scale", "give it with --scale-from"),
    ],
)
def test_a_summary_says_what_became_of_the_photographs(changes, row, told):
    assert told in replace(SUMMARY, **changes).described()[row]


def test_of_many_unused_photographs_some_are_named():
    unused = {f"img{i}": "cannot be read" for i in range(13)}
    lines = replace(SUMMARY, unused=unused).described()["not used"].splitlines()
    assert lines[9:] == ["img9: cannot be read", "and 3 more"]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ("--checkpoint c.pth", "--checkpoint: for --teacher dust3r, found --teacher rgbd"),
        (
            "--poses estimate --pairs.max-gap 3",
            "--poses, --pairs.max-gap: for --teacher dust3r or",
        ),
        ("--teacher simulated --device cuda", "--device: for --teacher dust3r, found"),
        ("--teacher simulated --max-depth-m 3", "--max-depth-m: for --teacher rgbd, found"),
        ("--teacher dust3r --checkpoint c.pth --simulated.seed 1", "--simulated.seed: for --tea"),
        ("--teacher dust3r", "needs --checkpoint FILE: download DUSt3R_ViTLarge_BaseDecoder_512"),
        ("--teacher dust3r", "(CC BY-NC-SA 4.0, non-commercial)"),
        ("--teacher simulated --scale-from a-b", "--scale-from a-b: expected FRAME,FRAME=METRES"),
        ("--teacher simulated --pair-batch 0", "a batch of 0 pairs"),
        ("--width 0", "found width 0"),
        ("--save-ply room", "room: is a folder, expected the name of a file"),
        ("--save-rrd room.rrd", "rerun cannot be used"),
    ],
)
def test_flags_that_make_no_sense_are_one_line_before_any_work(
    room, distill, monkeypatch, arguments, complaint
):
    monkeypatch.setitem(sys.modules, "rerun", None)
    status, said = distill(f"reconstruct room -o made {arguments}")
    assert status == 1 and said.startswith("error: ") and complaint in said
    assert not Path("made").exists()


@pytest.mark.train
@pytest.mark.parametrize(
    ("content", "complaint"),
    [(None, "c.pth: cannot be read (No such file"), (b"x", "c.pth: found 1 bytes beginning with")],
)
def test_a_checkpoint_that_cannot_be_used_is_one_line(room, distill, content, complaint):
    if content:
        Path("c.pth").write_bytes(content)
    status, said = distill("reconstruct room -o made --teacher dust3r --checkpoint c.pth")
    assert status == 1 and said.startswith("error: ") and complaint in said
    assert "expected DUSt3R_ViTLarge_BaseDecoder_512_dpt.pth" in said
    assert not Path("made").exists()


@pytest.mark.train
def test_a_checkpoint_is_run_on_the_device_named(room, distill):
    from test_dust3r import content, torch

    torch.save(content(), "c.pth")
    command = "reconstruct room -o made --teacher dust3r --checkpoint c.pth"
    status, said = distill(f"{command} --device gpu9")
    assert status == 1 and "found device 'gpu9'" in said
    # It was never trained: it is looked at, and nothing it says agrees.
    status, said = distill(f"{command} --device cpu --poses estimate")
    assert status == 1 and "no two images could be brought together" in said


@pytest.mark.train
def test_a_student_is_chosen_with_its_settings(room, distill):
    distill("reconstruct room -o made --width 160")
    chosen = "--student cnn --set size=s coarse-blocks=2 --steps 1 --batch 2"
    status, said = distill(f"distill made -o room.onnx {chosen}")
    assert status == 0, said
    assert read_map("room.onnx").info.training["settings"] == "coarse_blocks=2 size=s"


@pytest.mark.train
@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ("--set depth=3", "student cnn: it has no setting 'depth'; it takes size=s|m|l stem=N"),
        ("--set size", "found 'size', expected NAME=VALUE"),
        ("--set size=s size=l", "found 'size=l', expected NAME=VALUE, each name once"),
        ("--freeze all", "student cnn: it has no setting 'freeze'"),
        ("--student vit --freeze all", "found freeze = 'all' without a pretrained file"),
        ("--student vit --pretrained v.pth", "--pretrained v.pth: expected a file of weights"),
    ],
)
def test_a_student_that_makes_no_sense_is_refused_before_any_work(
    room, distill, arguments, complaint
):
    status, said = distill(f"map room -o room.onnx {arguments}")
    assert status == 1 and said.startswith("error: ") and complaint in said
    assert not Path("room.training").exists()


def test_only_one_process_makes_a_map_of_a_scene(room, distill, monkeypatch):
    for name, value in (("TORCHELASTIC_RUN_ID", "x"), ("WORLD_SIZE", "2"), ("RANK", "1")):
        monkeypatch.setenv(name, value)
    status, said = distill("map room -o room.onnx")
    assert status == 1 and "found 2 processes, expected one: let them `mote-distill dist" in said
    assert not Path("room.training").exists()


@pytest.mark.parametrize(("command", "output"), [("reconstruct", "made"), ("map", "room.onnx")])
def test_without_torch_it_says_what_to_install(room, command, output):
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
    ("given", "now"),
    [
        ("distill x -o y.onnx --fix-statistics=0.5", "--freeze-batch-norm"),
        ("distill x -o y.onnx --calibrated-by m.onnx", "--calibration-from"),
        ("map x -o y.onnx --augment.novel 0.3", "--augment.novel-view-fraction"),
        ("map x -o y.onnx --pairs.reach 3", "--pairs.max-gap"),
    ],
)
def test_an_option_that_was_renamed_is_an_error_that_names_the_new_one(command, given, now):
    status, _, errors = command("mote-distill", distill_training.cli.main, given)
    assert status == 1 and f"which is now {now}:" in errors
