"""`mote evaluate-poses`: poses of other systems, by name and by stamp; APE and RPE as evo's."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from make_bag import a_pose, an_image, an_info, pose, record
from make_map import CAMERA, T_MAP_CAM, write_constant_map
from make_scene import View, write_scene
from make_trajectory import MISSING, true_pose, write_trajectory

from mote_localization.errors import MoteError, SceneError
from mote_localization.evaluation.evaluate import Evaluate
from mote_localization.evaluation.evaluate_poses import EvaluatePoses
from mote_localization.evaluation.pose_files import (
    FrameKeys,
    read_poses,
    write_named_poses,
    write_tum,
)
from mote_localization.evaluation.pose_matching import match_frames
from mote_localization.geometry import exp_rotation
from mote_localization.scenes import RecordingOptions, text_files
from mote_localization.scenes.bags import BagWriter

BIN = str(Path(sys.executable).parent)  # where programs of this environment are
GREY_HW3 = np.full((CAMERA.height, CAMERA.width, 3), 100, np.uint8)
LINE = "a.png 1 0 0 0 0 0 0\n"


@pytest.fixture
def grey_room(tmp_path):
    """A map that gives one pose for grey images, and a scene whose true poses are 5 cm from it."""
    off = T_MAP_CAM.copy()
    off[0, 3] += 0.05
    views = {f"frame-{i:06}": View(GREY_HW3, off) for i in range(4)}
    views["frame-000002"] = View(np.zeros_like(GREY_HW3), off)  # lost
    scene = write_scene(tmp_path / "room", CAMERA, views, test=list(views))
    (scene / "train.txt").write_text("")
    return write_constant_map(tmp_path / "room.onnx"), scene


def with_error(i, metres=0.0, degrees=0.0):
    """The true pose of frame i, moved along x and rotated about the vertical."""
    T = true_pose(i)
    T[0, 3] += metres
    T[:3, :3] = exp_rotation(np.radians([0, 0, degrees])) @ T[:3, :3]
    return T


def write(path, kind, poses):
    """Write {frame: T_map_cam} in the given order as named poses or as a TUM trajectory."""
    if kind == "tum":
        write_tum(path, [(i / 30, T) for i, T in poses.items()])
    else:
        write_named_poses(path, [(f"seq-01/frame-{i:06}.color.png", T) for i, T in poses.items()])
    return path


def evaluate(folder, estimate, truth, **options):
    """Evaluate the poses of two files; return the content of the JSON file."""
    figures = folder / "figures.json"
    EvaluatePoses(estimate, truth, json=figures, **options).run()
    return json.loads(figures.read_text())


def keys(*names, source="b.txt"):
    return FrameKeys(source, names, None)


def stamps(*seconds, source="b.tum"):
    return FrameKeys(source, None, np.array(seconds, float))


@pytest.mark.parametrize("kind", ["tum", "named"])
def test_errors_of_poses_with_known_offsets(tmp_path, kind, capsys):
    truth = write(tmp_path / "truth", kind, {i: true_pose(i) for i in range(6)})
    estimate = {
        9: true_pose(9),  # a frame without truth
        4: with_error(4, 0.0, 2.5),
        0: with_error(0, 0.015, 0.5),
        2: with_error(2, 0.03, 2.0),
        3: with_error(3),
        1: with_error(1, 0.2, 0.0),
    }  # frame 5 is missing
    content = evaluate(tmp_path, write(tmp_path / "estimate", kind, estimate), truth)
    cm, deg = ([frame[f"error_{u}"] for frame in content["frames"]] for u in ("cm", "deg"))
    assert cm == [pytest.approx(e, abs=1e-5) for e in (1.5, 20, 3, 0, 0)] + [None]
    assert deg == [pytest.approx(e, abs=1e-5) for e in (0.5, 0, 2, 0, 2.5, 180)]
    summary = content["summary"]
    within = {
        "10 cm, 5 deg": 4 / 6,
        "5 cm, 5 deg": 4 / 6,
        "2 cm, 2 deg": 2 / 6,
        "1 cm, 1 deg": 1 / 6,
    }
    assert summary["within"] == within
    assert (summary["frames"], summary["lost"]) == (6, 1)
    assert summary["median_cm"] == pytest.approx((1.5 + 3) / 2, abs=1e-5)
    assert content["subject"]["poses without truth"] == "1"
    printed = capsys.readouterr().out
    assert "not evaluated: 1 poses" in printed and re.search(r"lost\D+16.7 %", printed)


@pytest.mark.parametrize("end", ["", " 585.0", " 0.635193 0.012787"])
def test_named_poses_map_the_world_to_the_camera(tmp_path, end):
    half = 0.5**0.5
    line = f"data/frame-000000.color.jpg {half} 0 0 {-half} -2 1 -3{end}"
    (tmp_path / "poses.txt").write_text(f"# name, pose, focal length\n\n{line}\n")
    # The camera is at (1, 2, 3) and rotated by 90 deg about z: R^T c = (2, -1, 3).
    expected = [[0, -1, 0, 1], [1, 0, 0, 2], [0, 0, 1, 3], [0, 0, 0, 1]]
    found = read_poses(tmp_path / "poses.txt")
    np.testing.assert_allclose(found.T_map_cam_n44, [expected], atol=1e-12)
    assert found.keys.names == ("data/frame-000000.color.jpg",)


@pytest.mark.parametrize("kind", ["tum", "named"])
def test_poses_are_read_as_they_were_written_in_the_order_of_the_frames(tmp_path, kind):
    path = write(tmp_path / "poses", kind, {i: true_pose(i) for i in (10, 2, 9)})
    found = read_poses(path)
    expected = [true_pose(i) for i in (2, 9, 10)]
    np.testing.assert_allclose(found.T_map_cam_n44, expected, atol=1e-8)


def test_stamps_match_the_nearest_within_the_largest_difference():
    wanted, given = stamps(1, 2, 3, 4), stamps(3.021, 1.02, 2.001, 1.985)
    assert match_frames(wanted, given).tolist() == [1, 2, -1, -1]
    assert match_frames(wanted, given, 0.03).tolist() == [1, 2, 0, -1]


def test_a_pose_belongs_to_one_frame_only():
    assert match_frames(stamps(1.0, 1.01, 1.02), stamps(1.012)).tolist() == [-1, 0, -1]


@pytest.mark.parametrize(
    ("wanted", "given"),
    [
        ("frame-000007", "seq-01/frame-000007.color.png"),
        ("seq-01/frame-000007.color.png", "frame-000007"),
        ("seq-01/frame-000007", "chess/seq-01/frame-000007.color.png"),
        ("IMG_1", "./IMG_1.JPG"),
        ("IMG_1.jpg", "images\\IMG_1.jpg"),
    ],
)
def test_names_match_with_and_without_folder_and_suffix(wanted, given):
    assert match_frames(keys("other", wanted), keys(given, "else")).tolist() == [-1, 0]


@pytest.mark.parametrize(
    ("wanted", "given"),
    [
        ("frame-000007", "frame-0000071.png"),
        ("frame-000007", "xframe-000007"),
        ("seq-01/frame-000007", "seq-02/frame-000007"),
        ("frame-000007", "frame-000007/a"),
    ],
)
def test_other_names_do_not_match(wanted, given):
    with pytest.raises(SceneError, match="no name in it is that of a frame of a.txt"):
        match_frames(keys(wanted, source="a.txt"), keys(given))


def test_the_same_name_matches_before_shorter_ones():
    given = keys("seq-01/f", "f", "f.png")
    assert match_frames(keys("f.png", "f", "seq-01/f"), given).tolist() == [2, 1, 0]


@pytest.mark.parametrize(
    ("wanted", "given"),
    [
        (("frame-1",), ("seq-01/frame-1.png", "seq-02/frame-1.png")),
        (("seq-01/frame-1", "seq-02/frame-1"), ("frame-1",)),
        (("a/b",), ("b", "c/a/b")),
        (("a",), ("a.png", "a.jpg")),
    ],
)
def test_ambiguous_names_are_an_error(wanted, given):
    with pytest.raises(SceneError, match="fits? the frame.*expected names with the folder in both"):
        match_frames(keys(*wanted), keys(*given))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "holds no poses"),
        ("# nothing\n", "holds no poses"),
        ("a.png 1 0 0 0 0 0\n", "line 1: found 'a.png 1 0 0 0 0 0', expected `stamp tx ty tz"),
        ("0.1 0 0 0 0 0 0 1\na.png 1 0 0 0 0 0 0\n", "line 2: found 'a.png"),
        (LINE + "b.png 1 0 0 0 0 0 x\n", "line 2: found 'b.png"),
        (LINE + LINE, "line 2: found a.png a second time, after line 1"),
        ("0.1 0 0 0 0 0 0 1\n0.2 0 0 0 0 0 0 1\n0.10 1 0 0 0 0 0 1\n", "line 3: found 0.1 a sec"),
        ("a.png 1 0 0 0 nan 0 0\n", "line 1: holds NaN or infinity; remove the lines of lost"),
        ("0.1 0 inf 0 0 0 0 1\n", "line 1: holds NaN or infinity"),
        ("nan 0 0 0 0 0 0 1\n", "line 1: holds NaN or infinity"),
        ("a.png 0 0 0 0 1 2 3\n", "line 1: found a quaternion of length 0, expected 1"),
        ("0.1 1 2 3 0 0 0 0\n", "line 1: found a quaternion of length 0, expected 1"),
        ("0.1 1 2 3 0.5 0.5 0.5 0.6\n", "found a quaternion of length 1.05"),
        ("0 0 0 0 0 0 0 1\n\n# 3\n1 0 0 0 0 0 0 1 9\n2 0 0 0 0 0 0 1\n", "line 4: found '1 0"),
        ("\0\1\2", "line 1: found"),
        (f"{'a' * 300}.png 1 0 0 0 0 0 0\n", "line 1: found 'aaa"),
    ],
)
def test_lines_that_are_no_poses_are_an_error(tmp_path, content, message):
    path = tmp_path / "poses.txt"
    path.write_text(content)
    with pytest.raises(SceneError) as caught:
        read_poses(path)
    assert message in str(caught.value) and str(caught.value).startswith(str(path))
    assert len(str(caught.value).removeprefix(str(path))) < 300


@pytest.mark.parametrize("line", ["{} 0 0 0 0 0 0 1\n", "{}.png 1 0 0 0 0 0 0\n"])
def test_files_of_too_many_poses_are_an_error_with_a_remedy(tmp_path, monkeypatch, line):
    path = tmp_path / "poses.txt"
    path.write_text("".join(map(line.format, range(11))))
    monkeypatch.setattr(text_files, "_MAX_LINES", 11)
    assert len(read_poses(path).T_map_cam_n44) == 11
    monkeypatch.setattr(text_files, "_MAX_LINES", 10)
    with pytest.raises(SceneError, match="over 10 lines, .* keep every tenth: awk .* poses.txt"):
        read_poses(path)


def test_a_line_of_1000_characters_is_read_and_a_longer_one_is_an_error(tmp_path):
    path = tmp_path / "poses.txt"
    for length in (999, 1000, 1001):
        path.write_text(f"0 0 0 0 0 0 0 1 #{'-' * (length - 17)}\n1 0 0 0 0 0 0 1\n")
        if length <= 1000:
            assert len(read_poses(path).T_map_cam_n44) == 2
            continue
        with pytest.raises(SceneError, match="line 1 has over 1000 characters"):
            read_poses(path)


def test_a_trajectory_of_tens_of_megabytes_is_read(tmp_path):
    path = tmp_path / "long.tum"
    line = f"{{}}.5 {'1.000000000 ' * 3}{'0.500000000 ' * 4}#{'-' * 70}\n"
    path.write_text("".join(line.format(1_690_000_000 + i) for i in range(110_000)))
    assert path.stat().st_size > 16 << 20
    assert len(read_poses(path).T_map_cam_n44) == 110_000


def test_truth_that_does_not_overlap_is_an_error(tmp_path):
    poses = {i: true_pose(i) for i in range(3)}
    estimate = write(tmp_path / "estimate.tum", "tum", poses)
    later = write(tmp_path / "later.tum", "tum", {i + 90: T for i, T in poses.items()})
    named = write(tmp_path / "named.txt", "named", poses)
    with pytest.raises(SceneError, match="0.000 to 0.067 s, none within 0.02 s of one of .*later"):
        EvaluatePoses(estimate, later).run()
    with pytest.raises(SceneError, match="named.txt: has names of images, and .*tum has stamps"):
        EvaluatePoses(estimate, named).run()
    with pytest.raises(SceneError, match="none.txt: cannot be read"):
        EvaluatePoses(estimate, tmp_path / "none.txt").run()
    with pytest.raises(MoteError, match="found --max-difference -1, expected 0 or more"):
        EvaluatePoses(estimate, estimate, max_difference=-1).run()


def test_the_topic_of_true_poses_can_be_chosen(tmp_path):
    poses = [a_pose(10**9, pose(k), f"/{name}") for k, name in enumerate(("goal", "tracker"))]
    bag = record(tmp_path / "bag", an_image(10**9), an_info(10**9), *poses)
    write_tum(tmp_path / "estimate.tum", [(1.0, pose(1))])
    options = RecordingOptions(pose_topic="/tracker")
    EvaluatePoses(tmp_path / "estimate.tum", bag, recording=options, json=tmp_path / "j").run()
    assert json.loads((tmp_path / "j").read_text())["summary"]["median_cm"] < 1e-4


def test_truth_may_be_a_scene_or_a_recording(tmp_path):
    views = {f"frame-{i:06}": View(GREY_HW3, true_pose(i)) for i in range(4)}
    scene = write_scene(tmp_path / "room", CAMERA, views, test=list(views)[1:])
    with BagWriter(tmp_path / "drive") as bag:
        for i in range(4):
            bag.write(i * 10**9 // 30, GREY_HW3, CAMERA, true_pose(i) if i else None)
    estimate = {i: with_error(i, 0.01 * i) for i in range(3)}
    named = write(tmp_path / "named.txt", "named", estimate)
    tum = write(tmp_path / "poses.tum", "tum", estimate)
    for file, truth in ((named, scene), (tum, scene), (tum, tmp_path / "drive")):
        content = evaluate(tmp_path, file, truth)
        found = [frame["error_cm"] for frame in content["frames"]]
        assert found == [pytest.approx(1, abs=1e-4), pytest.approx(2, abs=1e-4), None]
        assert content["subject"]["poses without truth"] == "1"  # of the training frame
    (scene / "data/frame-000000.pose.txt").unlink()
    with pytest.raises(SceneError, match="room: no frame of the split train has a pose"):
        EvaluatePoses(tum, scene, split="train").run()


# evo 1.38.1: `evo_ape tum truth.tum estimate.tum -r trans_part`, -r angle_deg, with -a for se3 and
# -as for sim3; `evo_rpe ... --delta 1 --delta_unit f`. rmse, mean, median in m and deg.
EVO = {
    "none": {
        "ape_cm": (1.136563, 1.113860, 1.097190),
        "ape_deg": (26.570469, 26.560764, 26.388636),
        "rpe_cm": (0.169858, 0.160896, 0.159889),
        "rpe_deg": (1.994978, 1.859759, 2.061396),
    },
    "se3": {
        "ape_cm": (0.424852, 0.403077, 0.412575),
        "ape_deg": (1.930253, 1.829040, 2.149687),
        "rpe_cm": (0.169858, 0.160896, 0.159889),
        "rpe_deg": (1.994978, 1.859759, 2.061396),
    },
    "sim3": {
        "ape_cm": (0.033568, 0.032876, 0.032231),
        "ape_deg": (1.930253, 1.829040, 2.149687),
        "rpe_cm": (0.052078, 0.049942, 0.051149),
        "rpe_deg": (1.994978, 1.859759, 2.061396),
    },
}
EVO_OPTIONS = {"none": [], "se3": ["-a"], "sim3": ["-as"]}


@pytest.mark.parametrize("align", EVO)
def test_ape_and_rpe_are_those_of_evo(tmp_path, align):
    found = evaluate(tmp_path, *write_trajectory(tmp_path), align=align)["summary"]["trajectory"]
    assert found.keys() == EVO[align].keys()
    for kind, expected in EVO[align].items():
        unit = 100 if kind.endswith("cm") else 1
        in_order = [found[kind][statistic] / unit for statistic in ("rmse", "mean", "median")]
        np.testing.assert_allclose(in_order, expected, atol=1e-6)


@pytest.mark.skipif(shutil.which("evo_ape", path=BIN) is None, reason="evo is not installed")
@pytest.mark.slow
@pytest.mark.parametrize("program", ["ape", "rpe"])
def test_the_installed_evo_gives_the_same_figures(tmp_path, program):
    estimate, truth = write_trajectory(tmp_path)
    found = evaluate(tmp_path, estimate, truth, align="sim3")["summary"]["trajectory"]
    done = subprocess.run(
        [shutil.which(f"evo_{program}", path=BIN), "tum", truth, estimate, *EVO_OPTIONS["sim3"]],
        capture_output=True, text=True, cwd=tmp_path, env=os.environ | {"HOME": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for statistic, value in found[f"{program}_cm"].items():
        printed = re.search(rf"^\s*{statistic}\s+(\S+)$", done.stdout, re.MULTILINE)
        assert float(printed[1]) == pytest.approx(value / 100, abs=1e-6)


def test_a_lost_frame_joins_its_neighbours_in_the_relative_errors(tmp_path):
    estimate, truth = write_trajectory(tmp_path)
    content = evaluate(tmp_path, estimate, truth)
    assert [f["localized"] for f in content["frames"]].index(False) == MISSING
    shorter = tmp_path / "shorter.tum"
    write_tum(shorter, [(i / 10, true_pose(i)) for i in range(12) if i != MISSING])
    without = evaluate(tmp_path, estimate, shorter)
    assert without["summary"]["trajectory"] == content["summary"]["trajectory"]


def test_one_pose_has_no_relative_error_and_no_pose_has_none(tmp_path):
    truth = write(tmp_path / "truth.tum", "tum", {i: true_pose(i) for i in range(2)})
    estimate = write(tmp_path / "estimate.tum", "tum", {1: with_error(1, 0.02)})
    found = evaluate(tmp_path, estimate, truth)["summary"]["trajectory"]
    assert found.keys() == {"ape_cm", "ape_deg"} and found["ape_cm"]["rmse"] == pytest.approx(2)


@pytest.mark.parametrize("frames", [2, 4])
def test_camera_centres_on_a_line_cannot_be_aligned(tmp_path, frames):
    line = {i: with_error(0, 0.1 * i) for i in range(frames)}
    path = write(tmp_path / "line.tum", "tum", line)
    with pytest.raises(MoteError, match=f"--align se3: found {frames} camera centres"):
        EvaluatePoses(path, path, align="se3").run()


def test_a_bracket_in_a_file_name_is_printed(tmp_path, capsys):
    path = write(tmp_path / "[red]a.tum", "tum", {0: T_MAP_CAM})
    EvaluatePoses(path, path).run()
    assert "[red]a.tum" in " ".join(capsys.readouterr().out.split())


def test_a_file_of_true_poses_replaces_those_of_the_scene(tmp_path, grey_room, capsys):
    found, scene = grey_room
    figures = tmp_path / "figures.json"
    near = T_MAP_CAM.copy()
    near[2, 3] += 0.01
    truth = write(tmp_path / "truth.txt", "named", {0: near, 1: near, 2: near, 77: near})
    for file in (truth, write(tmp_path / "truth.tum", "tum", {0: near, 1: near, 2: near})):
        Evaluate(scene, found, truth=file, json=figures).run()
        content = json.loads(figures.read_text())
        cm = [frame["error_cm"] for frame in content["frames"]]
        assert cm[:2] == [pytest.approx(1, abs=0.1)] * 2 and cm[2:] == [None, None]
        assert content["summary"]["frames_with_truth"] == 3
        assert content["subject"]["truth"] == str(file)
    assert re.search(r"frames with ground truth\D+3 ", capsys.readouterr().out)


def test_true_poses_of_other_frames_are_refused_before_the_work(tmp_path, grey_room, monkeypatch):
    found, scene = grey_room
    truth = tmp_path / "truth.txt"
    truth.write_text(LINE)
    monkeypatch.setattr("mote_localization.evaluation.evaluate.localize_frames", None)
    with pytest.raises(SceneError, match="truth.txt: no name in it is that of a frame of room"):
        Evaluate(scene, found, truth=truth).run()


def test_the_trajectories_are_beside_the_report(tmp_path, grey_room):
    found, scene = grey_room
    content = Evaluate(scene, found, report=tmp_path / "made/report.html").evaluate()
    estimate, truth = tmp_path / "made/report.estimate.tum", tmp_path / "made/report.truth.tum"
    assert [len(path.read_text().splitlines()) for path in (estimate, truth)] == [3, 4]
    again = evaluate(tmp_path, estimate, truth)["summary"]
    assert again["median_cm"] == pytest.approx(content.summary.median_cm, abs=1e-6)
    assert again["lost"] == content.summary.lost == 1
    by_scene = evaluate(tmp_path, estimate, scene)["summary"]
    assert by_scene["within"] == content.summary.within


def test_without_true_poses_no_true_trajectory_is_written(tmp_path, grey_room):
    found, scene = grey_room
    for path in scene.glob("data/*.pose.txt"):
        path.unlink()
    Evaluate(scene, found, report=tmp_path / "report.html").run()
    assert {path.name for path in tmp_path.glob("*.tum")} == {"report.estimate.tum"}


def test_the_report_names_the_file_of_true_poses_and_keeps_it(tmp_path, grey_room):
    found, scene = grey_room
    truth = write(tmp_path / "truth.tum", "tum", {0: T_MAP_CAM})
    before = truth.read_bytes()
    Evaluate(scene, found, truth=truth, report=tmp_path / "report.html").run()
    page = (tmp_path / "report.html").read_text()
    assert "truth.tum" in page and "APE of the localized, RMSE" in page
    assert truth.read_bytes() == before
