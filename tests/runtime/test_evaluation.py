"""Metrics, evaluation with and without ROS, and the report."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import ROOT
from make_map import CAMERA, T_MAP_CAM, write_constant_map
from make_scene import View, write_scene
from rich.console import Console
from scipy.spatial.transform import Rotation

from mote_localization.errors import (
    BagError,
    CameraError,
    ImageError,
    MapFileError,
    MoteError,
    ReplayError,
    SceneError,
)
from mote_localization.evaluation import over_ros
from mote_localization.evaluation.evaluate import Evaluate
from mote_localization.evaluation.localize_frames import localize_frames
from mote_localization.evaluation.metrics import (
    Answer,
    Transport,
    accuracy_rows,
    evaluate_answers,
    pose_errors,
)
from mote_localization.evaluation.pose_files import write_tum
from mote_localization.evaluation.report import write_report
from mote_localization.evaluation.terminal_tables import accuracy_table, times_table
from mote_localization.geometry import exp_rotation, local_coordinates
from mote_localization.localizer import Localizer
from mote_localization.scenes import Frame, RecordingOptions, open_scene
from mote_localization.scenes.bags import BagWriter

BIN = str(Path(sys.executable).parent)  # where programs of this environment are
SHIFT_M = 0.5  # shift of the tiny map's position from black to white images
DARK = {3, 4}  # black frames, in which the map is lost


def offset_pose(T_44, metres=(0, 0, 0), degrees=0.0):
    T = T_44.copy()
    T[:3, 3] += metres
    T[:3, :3] = exp_rotation(np.radians([0, 0, degrees])) @ T[:3, :3]
    return T


def answer(index=0, metres=None, degrees=0.0, **fields):
    """An answer with a position error along x and a rotation error about z; None: lost."""
    estimate = None if metres is None else offset_pose(T_MAP_CAM, (metres, 0, 0), degrees)
    default = dict(
        name=f"{index}", stamp_s=index / 30, T_map_cam_true=T_MAP_CAM, T_map_cam=estimate,
        reason="" if estimate is not None else "12 inliers, expected 40", inliers=100,
        seconds=dict(remap=0.001, network=0.01 * (index + 1), pose=0.002),
    )  # fmt: skip
    return Answer(**{**default, **fields})


def estimate(*answers):
    return [(a.stamp_s, a.T_map_cam) for a in answers]


def summarize(answers, transport=None):
    return evaluate_answers(answers, transport).summary


def colour(index):
    return np.array([35 * index, 255 - 30 * index, 100]) if index not in DARK else np.zeros(3)


def image(index):
    return np.full((CAMERA.height, CAMERA.width, 3), colour(index), np.uint8)


def truth(index):
    """The true pose, 1 cm from the pose that the tiny map gives."""
    return offset_pose(T_MAP_CAM, SHIFT_M * colour(index) / 255 + (0, 0.01, 0))


@pytest.fixture(scope="module")
def tiny_map(tmp_path_factory):
    return write_constant_map(tmp_path_factory.mktemp("map") / "a map.onnx", colour_shift_m=SHIFT_M)


@pytest.fixture(scope="module")
def drive(tmp_path_factory):
    path = tmp_path_factory.mktemp("bag") / "drive"
    with BagWriter(path) as bag:
        for i in range(8):
            bag.write(5 * 10**9 + i * 33_333_333, image(i), CAMERA, truth(i))
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    views = {f"f{i}": View(image(i), truth(i)) for i in range(8)}
    path = tmp_path_factory.mktemp("scene") / "room"
    return write_scene(path, CAMERA, views, test=list(views)[1:])


def test_errors_equal_a_known_offset():
    metres, degrees = pose_errors([answer(metres=0.03, degrees=4.0), answer(metres=0.0)])
    np.testing.assert_allclose(metres, [0.03, 0], atol=1e-9)
    np.testing.assert_allclose(degrees, [4, 0], atol=1e-5)


def test_errors_equal_values_computed_by_hand():
    quarter = np.array(
        [[0.0, -1, 0, 1], [1, 0, 0, 2], [0, 0, 1, 3], [0, 0, 0, 1]]
    )  # 90 deg about z
    third = np.array([[0.0, 0, 1, 4], [1, 0, 0, 6], [0, 1, 0, 15], [0, 0, 0, 1]])  # 120 deg
    half = np.diag([1.0, -1, -1, 1])  # 180 deg about x
    # third^T quarter = [[1, 0, 0], [0, 0, 1], [0, -1, 0]], a rotation by 90 deg about x.
    pairs = [(np.eye(4), quarter), (np.eye(4), third), (third, quarter), (np.eye(4), half)]
    metres, degrees = pose_errors([answer(T_map_cam_true=a, T_map_cam=b) for a, b in pairs])
    np.testing.assert_allclose(metres, [14**0.5, 277**0.5, 13, 0], atol=1e-12)
    np.testing.assert_allclose(degrees, [90, 120, 90, 180], atol=1e-12)


def test_position_error_is_that_of_the_camera_centre():
    rotated = answer(T_map_cam=offset_pose(T_MAP_CAM, degrees=170.0))
    metres, degrees = pose_errors([rotated])
    assert metres[0] == pytest.approx(0, abs=1e-12)
    assert degrees[0] == pytest.approx(170)


def test_a_lost_frame_has_infinite_error_and_a_frame_without_truth_has_nan():
    metres, degrees = pose_errors([answer(), answer(metres=0.0, T_map_cam_true=None)])
    assert metres[0] == np.inf
    assert degrees[0] == 180
    assert np.isnan([metres[1], degrees[1]]).all()


def test_lost_frames_count_in_every_fraction():
    offsets = (0.005, 0.015, 0.04, 0.08, 0.3)
    found = [answer(i, metres=m, degrees=0.5) for i, m in enumerate(offsets)]
    summary = summarize([*found, answer(5), answer(6), answer(7)])
    assert list(summary.within.values()) == [4 / 8, 3 / 8, 2 / 8, 1 / 8]
    assert (summary.localized, summary.lost, summary.unanswered) == (5, 3, 0)
    assert summary.worst_cm == pytest.approx(30)
    # sorted: .5 1.5 4 8 30 inf inf inf
    assert summary.median_cm == pytest.approx((8 + 30) / 2)


def test_position_and_rotation_must_both_be_within_a_bound():
    summary = summarize([answer(metres=0.01, degrees=6.0)])
    assert summary.within["10 cm, 5 deg"] == 0


def test_fraction_of_true_poses_inside_the_covariance_ellipsoids():
    covariance_66 = np.diag([0.01**2] * 3 + [np.radians(1) ** 2] * 3)
    found = [
        answer(metres=0.027, covariance_66=covariance_66),  # 2.7 sigma: inside both
        answer(
            metres=0.029, covariance_66=covariance_66
        ),  # 2.9 sigma: inside with six axes, not with three
        answer(metres=0.029, degrees=2.9, covariance_66=covariance_66),  # outside both
        answer(metres=0.0, degrees=3.4, covariance_66=covariance_66),
        answer(metres=0.0, degrees=3.6, covariance_66=covariance_66),  # the position is exact
    ]
    unknown = [answer(), answer(metres=9.0), answer(T_map_cam=T_MAP_CAM, T_map_cam_true=None)]
    summary = summarize(found + unknown)
    assert summary.within_95 == {"position": 3 / 5, "pose": 3 / 5}
    assert ("true position in its 95 % ellipsoid", "60.0 %") in accuracy_rows(summary)
    assert not summarize(unknown).within_95


def test_the_errors_for_covariances_are_along_the_axes_of_the_map():
    rotated = answer(T_map_cam=offset_pose(T_MAP_CAM, (0.02, 0, 0), 5.0))
    error_6 = local_coordinates(rotated.T_map_cam_true, rotated.T_map_cam)
    np.testing.assert_allclose(error_6, [0.02, 0, 0, 0, 0, np.radians(5)], atol=1e-12)


def test_the_median_is_lost_if_most_frames_are_lost():
    summary = summarize([answer(metres=0.01), answer(), answer()])
    assert summary.median_cm == np.inf
    assert ("median error", "lost") in accuracy_rows(summary)


def test_times_are_percentiles_of_the_frames():
    summary = summarize([answer(i, metres=0.0) for i in range(101)])
    assert summary.milliseconds["network"] == pytest.approx({"p50": 510, "p95": 960, "p99": 1000})
    assert summary.milliseconds["total"]["p50"] == pytest.approx(513)
    assert "image to pose" not in summary.milliseconds


def test_unanswered_frames_are_not_lost_but_count_in_every_fraction():
    transport = Transport(pose_rate_hz=30.0, node_peak_mb=200.0, rate=1.0)
    dropped = answer(1, answered=False, reason="", seconds={})
    summary = summarize([answer(metres=0.0, latency_s=0.02), dropped], transport)
    assert (summary.lost, summary.unanswered) == (0, 1)
    assert summary.within["5 cm, 5 deg"] == 0.5
    assert dict(accuracy_rows(summary))["images answered"] == "50.0 %"
    assert summary.milliseconds["image to pose"]["p50"] == pytest.approx(20)


def test_reasons_that_differ_in_numbers_are_counted_together():
    reasons = [
        "3 inliers, expected 40",
        "17 inliers, expected 40",
        "inlier ratio 0.02, expected 0.1",
    ]
    summary = summarize([answer(i, reason=reason) for i, reason in enumerate(reasons)])
    assert list(summary.lost_reasons.values()) == [2, 1]


def test_without_ground_truth_the_table_has_no_errors():
    summary = summarize([answer(metres=0.0, T_map_cam_true=None), answer(T_map_cam_true=None)])
    rows = dict(accuracy_rows(summary))
    assert rows["median error"] == "no ground truth"
    assert rows["lost"] == "50.0 %"
    assert not any(name.startswith("within") for name in rows)


def test_the_table_counts_the_frames_with_ground_truth_if_some_have_none():
    summary = summarize([answer(metres=0.01), answer(metres=0.0, T_map_cam_true=None)])
    assert ("frames with ground truth", "1") in accuracy_rows(summary)
    assert ("median error", "1.00 cm, 0.00°") in accuracy_rows(summary)
    names = [name for name, _ in accuracy_rows(summarize([answer(metres=0.01)]))]
    assert "frames with ground truth" not in names


def test_an_evaluation_without_frames_is_an_error():
    with pytest.raises(MoteError, match="no frames"):
        evaluate_answers([])


def test_tum_file_holds_stamp_position_and_quaternion_of_each_pose(tmp_path):
    poses = estimate(answer(0, metres=0.1), answer(1), answer(2, metres=0.2))
    write_tum(tmp_path / "poses.tum", poses)
    stamps, positions, quaternions = np.hsplit(np.loadtxt(tmp_path / "poses.tum"), [1, 4])
    np.testing.assert_allclose(stamps[:, 0], [0, 2 / 30], atol=1e-9)
    np.testing.assert_allclose(positions[1], T_MAP_CAM[:3, 3] + (0.2, 0, 0), atol=1e-8)
    rotation_33 = Rotation.from_quat(quaternions[1]).as_matrix()  # x y z w
    np.testing.assert_allclose(rotation_33, T_MAP_CAM[:3, :3], atol=1e-8)


@pytest.mark.skipif(shutil.which("evo_traj", path=BIN) is None, reason="evo is not installed")
@pytest.mark.slow
def test_evo_reads_the_tum_file(tmp_path):
    poses = estimate(answer(0, metres=0.1), answer(1), answer(2, metres=0.4))
    write_tum(tmp_path / "poses.tum", poses)
    done = subprocess.run(
        [shutil.which("evo_traj", path=BIN), "tum", "poses.tum", "--full_check"],
        capture_output=True, text=True, cwd=tmp_path, env=os.environ | {"HOME": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert re.search(r"nr\. of poses\s+2\n", done.stdout)
    length = re.search(r"path length \(m\)\s+(\S+)\n", done.stdout)
    assert float(length[1]) == pytest.approx(0.3)
    assert re.search(r"quaternions\s+ok\n", done.stdout)


def test_tum_file_without_poses_is_empty(tmp_path):
    write_tum(tmp_path / "poses.tum", estimate(answer()))
    assert (tmp_path / "poses.tum").read_text() == ""


def test_evaluation_of_a_recording_prints_tables_and_writes_files(
    tmp_path, tiny_map, drive, capsys
):
    figures = tmp_path / "figures.json"
    Evaluate(drive, tiny_map, json=figures, output=tmp_path / "poses.tum").run()
    printed = capsys.readouterr().out
    assert "drive, test frames, without ROS" in printed
    assert re.search(r"within 5 cm, 5°\D+75.0 %", printed)
    assert re.search(r"lost\D+25.0 %", printed)
    assert "true pose in its 95 % ellipsoid" in printed
    content = json.loads(figures.read_text())
    assert [frame["localized"] for frame in content["frames"]] == [i not in DARK for i in range(8)]
    found = [frame["error_cm"] for frame in content["frames"] if frame["localized"]]
    np.testing.assert_allclose(found, 1.0, atol=0.05)
    assert content["frames"][3]["error_cm"] is None
    assert len((tmp_path / "poses.tum").read_text().splitlines()) == 6


def test_evaluation_uses_the_chosen_split(tiny_map, folder, capsys):
    Evaluate(folder, tiny_map, split="train").run()
    assert re.search(r"frames\s*│\s*1 ", capsys.readouterr().out)


def test_depth_and_true_poses_are_not_used(tiny_map, folder):
    class FrameWithoutDepth(Named):
        def depth(self):
            raise AssertionError("depth was read")

    localizer = Localizer.open(tiny_map)
    frames = list(open_scene(folder).frames("test"))
    full = list(localize_frames(localizer, frames))
    image_only = list(
        localize_frames(localizer, [FrameWithoutDepth(frame, frame.name) for frame in frames])
    )
    for one, other in zip(full, image_only, strict=True):
        np.testing.assert_array_equal(one.T_map_cam, other.T_map_cam)


def test_missing_maps_scenes_splits_and_topics_are_errors(tmp_path, tiny_map, folder, drive):
    with pytest.raises(MapFileError):
        Evaluate(folder, tmp_path / "none.onnx").run()
    with pytest.raises(SceneError, match="does not exist"):
        Evaluate(tmp_path / "nowhere", tiny_map).run()
    train_only = write_scene(tmp_path / "train", CAMERA, {"f0": View(image(0), truth(0))})
    with pytest.raises(SceneError, match="no test frames"):
        Evaluate(train_only, tiny_map).run()
    with pytest.raises(BagError, match="no usable topic /left"):
        Evaluate(drive, tiny_map, recording=RecordingOptions(image_topic="/left")).run()


def test_a_frame_whose_image_cannot_be_read_is_lost(tmp_path, tiny_map, folder, caplog):
    scene = shutil.copytree(folder, tmp_path / "room")
    image_path = next((scene / "data").glob("f1.color.*"))
    image_path.write_bytes(image_path.read_bytes()[:100])
    evaluation = Evaluate(scene, tiny_map).evaluate()
    reasons = {answer.name: answer.reason for answer in evaluation.answers}
    assert reasons["f1"] == "the image cannot be read" and reasons["f2"] == ""
    assert "frame f1 is lost" in caplog.text and "is damaged" in caplog.text


def test_frames_without_intrinsics_cannot_be_evaluated(tmp_path, tiny_map, folder):
    scene = shutil.copytree(folder, tmp_path / "room")
    (scene / "camera-intrinsics.txt").unlink()
    with pytest.raises(SceneError, match="frame f1: its camera's intrinsics are not known"):
        Evaluate(scene, tiny_map).run()


def test_an_unknown_scale_is_reported(tmp_path, folder, caplog):
    found = write_constant_map(tmp_path / "map.onnx", colour_shift_m=SHIFT_M, metric=False)
    Evaluate(folder, found, report=tmp_path / "report.html").run()
    assert "map.onnx: the map's scale is unknown" in caplog.text
    assert "scale unknown" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize("option", [{"rate": 0.5}, {"repeat": 2}], ids=str)
def test_replay_options_without_a_replay_are_an_error(tiny_map, drive, option):
    with pytest.raises(ReplayError, match="add --ros"):
        Evaluate(drive, tiny_map, **option).run()


def test_the_error_for_an_unusable_frame_names_it(tiny_map, folder):
    frame = next(open_scene(folder).frames("test"))
    frames = [
        replace(frame, camera=replace(frame.camera, cx=9000.0)),
        Named(frame, "other size"),
    ]
    frames[1].camera = CAMERA.resized(160, 120)
    for one, fault, name in zip(
        frames, (CameraError, ImageError), ("f1", "other size"), strict=True
    ):
        with pytest.raises(fault, match=f"^frame {name}: "):
            list(localize_frames(Localizer.open(tiny_map), [one]))


def test_tables_fit_an_80_column_terminal():
    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    summary = summarize([answer(metres=0.01), answer()])
    console.print(accuracy_table(summary, "kitchen"))
    console.print(times_table(summary.milliseconds))
    assert max(map(len, console.export_text().splitlines())) <= 80


@pytest.fixture(scope="module")
def report(tmp_path_factory, tiny_map, drive):
    path = tmp_path_factory.mktemp("report") / "report.html"
    Evaluate(drive, tiny_map, report=path).run()
    return path


def test_report_is_self_contained(report):
    page = report.read_text()
    assert len(page) < 3e6
    assert not re.search(r"<script|<iframe|@import|<link(?! rel=\"icon\" href=\"data:,\")", page)
    references = re.findall(r"""(?:src|href)=["']([^"']*)""", page) + re.findall(
        r"url\(([^)]*)\)", page
    )
    assert references
    assert all(r.startswith(("#", "data:")) for r in references)


def test_report_contains_the_figures(report):
    page = report.read_text()
    assert page.count("<figure>") == 4
    for words in ("75.0 %", "25.0 %", "x (m)", "y (m)", "position error (cm)", "σ (cm)", "1 m"):
        assert words in page
    assert "0 cells seen with sigma under 0.5 m" in page


def test_report_figures_are_well_formed_with_distinct_ids(report):
    page = report.read_text()
    for svg in re.findall(r"<svg.*?</svg>", page, re.DOTALL):
        ElementTree.fromstring(svg)
    ids = re.findall(r'\bid="([^"]*)"', page)
    figures = {name.split("-")[0] for name in ids}
    assert figures == {"trajectory", "errors", "times", "prediction"}


def test_text_in_the_report_is_escaped(tmp_path, tiny_map, drive):
    first = next(open_scene(drive).frames("test"))
    answers = [
        answer(0, metres=0.01, name="<b>'&\""),
        answer(1, reason="<script>alert(1)</script>"),
    ]
    subject = dict(scene="<i>{{ 7 * 7 }}", split="test", map="&.onnx", backend="<u>", date="today")
    path = tmp_path / "report.html"
    frames = [Named(first, answers[0].name)]
    write_report(path, subject, evaluate_answers(answers), Localizer.open(tiny_map), frames)
    page = path.read_text()
    assert not re.search("<(script|i|u)>|<b>'", page)
    assert "&lt;i&gt;{{ 7 * 7 }}" in page
    assert "&amp;.onnx" in page
    assert page.count("&lt;b&gt;&#39;&amp;&#34;") == 2  # in a caption and in a table


@pytest.mark.parametrize(
    "answers",
    [
        [answer(i) for i in range(3)],
        [answer(metres=0.01)],
        [answer(i, metres=0.01, T_map_cam_true=None, name="other") for i in range(3)],
        [answer(0, T_map_cam_true=None)],
        [answer(i, metres=50.0 * (i == 1)) for i in range(30)],
    ],
    ids=["all lost", "one frame", "no truth", "no pose, no truth", "one far off"],
)
def test_report_of_runs_with_few_poses_or_no_truth(tmp_path, tiny_map, drive, answers):
    first = next(open_scene(drive).frames("test"))
    frames = [Named(first, a.name) for a in answers]
    subject = dict(scene="s", split="test", map="m.onnx", backend="b", date="today")
    path = tmp_path / "report.html"
    write_report(path, subject, evaluate_answers(answers), Localizer.open(tiny_map), frames)
    page = path.read_text()
    assert "nan" not in re.sub(r"<svg.*?</svg>", "", page, flags=re.DOTALL)
    for svg in re.findall(r"<svg.*?</svg>", page, re.DOTALL):
        ElementTree.fromstring(svg)


class Named(Frame):
    """A frame with another name and without its pose."""

    def __init__(self, frame, name):
        self.name, self.stamp_s, self.camera = name, frame.stamp_s, frame.camera
        self.T_map_cam, self._frame = None, frame

    def image(self):
        return self._frame.image()


CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
@pytest.mark.slow
def test_a_browser_renders_the_report(tmp_path, report):
    picture = tmp_path / "report.png"
    done = subprocess.run(
        [
            CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic",
            "--no-first-run", "--disable-background-networking", "--disable-component-update",
            "--disable-sync", f"--user-data-dir={tmp_path / 'profile'}", "--hide-scrollbars",
            "--window-size=900,3200", "--enable-logging=stderr", f"--screenshot={picture}",
            report.as_uri(),
        ],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert "CONSOLE" not in done.stderr
    shown = cv2.imread(str(picture))
    assert shown.shape == (3200, 900, 3)
    assert (shown[400:2000] != shown[0, 0]).any(-1).mean() > 0.02


@pytest.mark.ros
def test_over_ros_gives_the_same_poses(tmp_path, tiny_map, folder, capsys):
    Evaluate(folder, tiny_map, output=tmp_path / "without.tum").run()
    Evaluate(
        folder, tiny_map, ros=True, rate=0.1, output=tmp_path / "over.tum",
        json=tmp_path / "over.json", report=tmp_path / "report.html",
    ).run()  # fmt: skip
    printed = capsys.readouterr().out
    assert "room, test frames, over ROS 2" in printed
    assert re.search(r"images answered\D+100.0 %", printed)
    without, over = (np.loadtxt(tmp_path / f"{name}.tum") for name in ("without", "over"))
    assert (over[:, 0] == without[:, 0]).all()  # stamps
    np.testing.assert_allclose(over[:, 1:4], without[:, 1:4], atol=1e-3)
    signs = np.sign((over[:, 4:] * without[:, 4:]).sum(axis=1, keepdims=True))  # q is -q
    np.testing.assert_allclose(signs * over[:, 4:], without[:, 4:], atol=1e-3)
    content = json.loads((tmp_path / "over.json").read_text())
    assert [frame["name"] for frame in content["frames"]] == [f"f{i}" for i in range(1, 8)]
    assert content["frames"][2]["reason"].startswith("0 cells seen")
    assert 50 < content["summary"]["transport"]["node_peak_mb"] < 400
    latencies = [frame["latency_ms"] for frame in content["frames"] if frame["localized"]]
    assert len(latencies) == 5
    assert 0 < min(latencies)
    assert "image to pose" in (tmp_path / "report.html").read_text()


@pytest.mark.ros
def test_a_recording_is_replayed_with_its_own_topics(tiny_map, drive):
    scene = open_scene(drive)
    answers, transport = over_ros.replay(scene, "test", tiny_map, "onnxruntime", 1, 0.125)
    assert [a.T_map_cam is not None for a in answers] == [i not in DARK for i in range(8)]
    assert transport.rate == 0.125


@pytest.mark.ros
def test_the_error_for_a_failed_node_contains_its_log(tmp_path, drive):
    scene = open_scene(drive)
    (tmp_path / "broken.onnx").write_bytes(b"no map")
    with pytest.raises(ReplayError, match=r"(?s)the localizer ended.*code 1.*broken.onnx"):
        over_ros.replay(scene, "test", tmp_path / "broken.onnx", "onnxruntime", 1, 1.0)
    assert not children_of(os.getpid(), "mote_localization.nodes")


@pytest.mark.ros
def test_no_process_is_left_after_sigterm(tmp_path, tiny_map, drive):
    code = (
        "from pathlib import Path; from mote_localization.evaluation.evaluate import Evaluate; "
        f"Evaluate(Path({str(drive)!r}), Path({str(tiny_map)!r}), ros=True, rate=0.01).run()"
    )
    tmp = {"TMPDIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, "-c", code], env=os.environ | tmp) as process:
        deadline = time.monotonic() + 60
        while not list(tmp_path.glob("mote-*/published.jsonl")):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        children = children_of(process.pid, "mote_localization.nodes")
        assert len(children) == 3
        process.terminate()
        assert process.wait(30) == 143
    assert not any(Path(f"/proc/{pid}").exists() for pid in children)
    assert not list(tmp_path.glob("mote-*"))


def children_of(parent, words):
    """Ids of the children of a process whose command line contains `words`."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            parent_id = process.joinpath("stat").read_text().rpartition(")")[2].split()[1]
            command = process.joinpath("cmdline").read_text()
        except OSError:
            continue
        if parent_id == str(parent) and words in command:
            found.append(process.name)
    return found


def test_a_replay_rate_of_0_is_an_error(tiny_map, drive):
    with pytest.raises(ReplayError, match="--rate 0"):
        over_ros.replay(open_scene(drive), "test", tiny_map, "onnxruntime", 1, 0.0)
