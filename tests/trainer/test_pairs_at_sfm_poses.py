"""Pairs of photographs aligned at the poses of structure from motion, and when auto does so."""

import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("pycolmap", reason="pycolmap is not installed")
from quick_sfm import QUICK  # noqa: E402
from test_photographs import ARC, CAMERA, Network, Shots, error_m, shots  # noqa: E402

from distill_training.poses import scene_poses  # noqa: E402
from distill_training.poses.poses_config import PairsConfig, PosesConfig  # noqa: E402
from distill_training.poses.scene_poses import ScenePoses, find_poses  # noqa: E402
from distill_training.reconstruction import Reconstruction, open_reconstruction  # noqa: E402
from distill_training.teachers import teacher_options  # noqa: E402
from distill_training.teachers.pairwise.photographs import reconstruct  # noqa: E402
from distill_training.teachers.teacher_config import (  # noqa: E402
    CellsConfig,
    PhotographsConfig,
    SimulatedConfig,
)
from distill_training.teachers.teacher_options import Teacher  # noqa: E402
from mote_localization.camera import canonical_camera  # noqa: E402
from mote_localization.errors import NoPosesError, ReconstructionError  # noqa: E402
from mote_localization.geometry import invert, pose_from, transform  # noqa: E402
from mote_localization.scenes.folder import FolderScene  # noqa: E402

pytestmark = pytest.mark.train

SFM_POSES = "distill_training.poses.sfm_poses"  # the module that needs pycolmap
AUTO = replace(QUICK, poses="auto")
SFM = Teacher("simulated", QUICK, simulated=SimulatedConfig(width=80))


@pytest.fixture(scope="module")
def scene(photographs: Path, kitchen: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The photographs of the kitchen with depth, and with accurate poses of all of them."""
    folder = tmp_path_factory.mktemp("pairs") / "kitchen"
    shutil.copytree(photographs, folder)
    rows = [line.split() for line in (kitchen / "poses_sfm.txt").read_text().splitlines()[1:]]
    poses = {name: np.array(numbers, float) for name, *numbers in rows}
    for name in (folder / "train.txt").read_text().split():
        shutil.copy(kitchen / f"data/{name}.depth.png", folder / "data")
        T_map_cam = pose_from(poses[name][:3], poses[name][3:])
        np.savetxt(folder / f"data/{name}.pose.txt", T_map_cam)
    return folder


@pytest.fixture(scope="module")
def made(scene: Path, sfm_work: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a reconstruction by pairs at the poses of structure from motion."""
    folder = tmp_path_factory.mktemp("pairs") / "made"
    shutil.copytree(sfm_work, folder / "work/sfm")
    SFM.reconstruct(scene, folder)
    return folder


def test_pairs_are_aligned_to_the_poses_of_structure_from_motion(made: Path, scene: Path, sfm_work):
    reconstruction = open_reconstruction(made)
    expected = find_poses(FolderScene(scene), QUICK, sfm_work).T_map_cam
    assert reconstruction.metric and reconstruction.poses.keys() == expected.keys()
    for name, T_map_cam in expected.items():
        np.testing.assert_allclose(reconstruction.poses[name], T_map_cam, atol=1e-9)
    for frame in FolderScene(scene).frames("train"):
        points_hw3 = reconstruction.read_frame(frame.name).points_hw3
        points_n3 = transform(invert(frame.known_pose()), points_hw3.reshape(-1, 3))
        points_n3 = points_n3[np.isfinite(points_n3).all(axis=1)]
        assert len(points_n3) > 400
        columns, rows = frame.known_camera().project(points_n3).round().astype(int).T
        measured_n = frame.known_depth()[rows.clip(0, 479), columns.clip(0, 639)]
        seen_n = measured_n > 0
        # The depth camera measures 2 % more than these poses give.
        assert np.median(np.abs(points_n3[seen_n, 2] / measured_n[seen_n] - 1)) < 0.04


def test_a_finished_reconstruction_is_not_made_again(made: Path, scene: Path, monkeypatch):
    monkeypatch.setitem(sys.modules, SFM_POSES, None)  # structure from motion would fail
    before = {path: path.stat().st_mtime_ns for path in made.rglob("*")}
    assert not SFM.reconstruct(scene, made).missing()
    assert {path: path.stat().st_mtime_ns for path in made.rglob("*")} == before


def test_other_settings_are_refused_before_structure_from_motion(
    made: Path, scene: Path, tmp_path: Path, monkeypatch
):
    monkeypatch.setitem(sys.modules, SFM_POSES, None)
    shutil.copytree(made, tmp_path / "made")
    next((tmp_path / "made/frames").iterdir()).unlink()
    other = replace(SFM, simulated=SimulatedConfig(width=80, noise=0.01))
    with pytest.raises(ReconstructionError, match="made with other frames or settings"):
        other.reconstruct(scene, tmp_path / "made")


def placed(names: list[str], metric: bool = True) -> ScenePoses:
    """Return poses as structure from motion returns them."""
    poses = dict(zip([f"shot{k}" for k in range(len(ARC))], ARC, strict=True))
    cameras = dict.fromkeys(names, CAMERA)
    return ScenePoses({name: poses[name] for name in names}, cameras=cameras, metric=metric)


def test_cameras_of_structure_from_motion_are_used_and_other_frames_left_out(tmp_path: Path):
    taken = shots(ARC, intrinsics=False, given=lambda k, T: None)
    poses, cells = placed([shot.name for shot in taken[:8]], metric=False), CellsConfig(160)
    config = PhotographsConfig(pairs=PairsConfig(per_image=6))
    made, summary = reconstruct(Shots(taken), poses, tmp_path, Network(), config, cells)
    assert summary.unused == dict.fromkeys(
        ("shot8", "shot9"), "structure from motion did not place it"
    )
    assert made.camera == canonical_camera(CAMERA, 160, cells.stride)
    assert not made.metric and made.settings["poses"] == "sfm"
    assert error_m(made, taken) < 0.05


# The choice of auto


def test_auto_uses_structure_from_motion_unless_it_places_too_few(
    photographs: Path, sfm_work: Path, monkeypatch, capsys
):
    scene = FolderScene(photographs)
    assert find_poses(scene, AUTO, sfm_work).by_sfm
    assert "--poses dust3r" not in capsys.readouterr().err
    monkeypatch.setattr(scene_poses, "MIN_PLACED", 1.01)
    poses = find_poses(scene, AUTO, sfm_work)
    assert not poses.by_sfm and not poses.complete and len(poses.T_map_cam) == 4
    assert "structure from motion places only 12 of 12 images: " in capsys.readouterr().err


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> Path:
    """The path of a scene of seven photographs without texture, the first two without a pose."""
    taken = shots(ARC[:7], given=lambda k, T: T if k > 1 else None)
    monkeypatch.setattr(teacher_options, "open_scene", lambda path, recording: Shots(taken))
    return Path("room")


def test_auto_aligns_the_pairs_where_structure_from_motion_fails(
    plain: Path, tmp_path: Path, capsys
):
    auto = replace(SFM, poses=PosesConfig(), cells=CellsConfig(160))
    made = auto.reconstruct(plain, tmp_path)
    printed = capsys.readouterr().err
    assert (
        "structure from motion cannot be used (structure from motion found no consistent part"
        in printed
    )
    assert "the poses are those on which pairs of photographs agree (--poses dust3r)" in printed
    assert len(made.poses) == 5 and made.settings["poses"] == "auto"
    assert error_m(made, shots(ARC)) < 0.06 and not (tmp_path / "work").exists()
    auto.reconstruct(plain, tmp_path)
    assert "structure from motion" not in capsys.readouterr().err
    with pytest.raises(ReconstructionError, match="made with other frames or settings"):
        replace(auto, poses=PosesConfig("dust3r")).reconstruct(plain, tmp_path)


def test_structure_from_motion_that_was_asked_for_must_not_fail(plain: Path, tmp_path: Path):
    with pytest.raises(NoPosesError, match="no consistent part of 7 images"):
        SFM.reconstruct(plain, tmp_path)


def test_auto_aligns_the_pairs_where_pycolmap_is_missing(
    photographs: Path, tmp_path: Path, monkeypatch, capsys
):
    monkeypatch.setitem(sys.modules, SFM_POSES, None)
    poses = find_poses(FolderScene(photographs), PosesConfig(), tmp_path)
    assert not poses.by_sfm and not poses.complete
    assert "structure from motion cannot be used (import of " in capsys.readouterr().err


def test_auto_goes_on_with_the_choice_of_an_earlier_run(made: Path):
    def resumed(poses: str, earlier: Reconstruction | None) -> str:
        return scene_poses.resumed_config(PosesConfig(poses), earlier).poses

    begun = open_reconstruction(made)
    assert [resumed(poses, begun) for poses in ("auto", "given", "dust3r")] == [
        "sfm",
        "given",
        "dust3r",
    ]
    own = replace(begun, settings={**begun.settings, "poses": "auto"})
    assert resumed("auto", own) == resumed("auto", None) == "auto"
