"""Given poses refined by bundle adjustment of triangulated points, with and without depth."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pycolmap", reason="pycolmap is not installed")
from quick_sfm import QUICK  # noqa: E402

from distill_training.poses.scene_poses import find_poses  # noqa: E402
from distill_training.reconstruction import open_reconstruction  # noqa: E402
from distill_training.teachers.teacher_options import Teacher  # noqa: E402
from mote_localization.errors import ReconstructionError  # noqa: E402
from mote_localization.geometry import exp_rotation, rotation_angle, transform  # noqa: E402
from mote_localization.scenes.folder import FolderScene  # noqa: E402
from mote_localization.similarity import similarity  # noqa: E402

REFINE = replace(QUICK, poses="refine")


@pytest.fixture(scope="module")
def posed(photographs: Path, kitchen: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The photographs, all with the poses of KinectFusion, without depth."""
    folder = tmp_path_factory.mktemp("posed") / "kitchen"
    shutil.copytree(photographs, folder)
    for name in (folder / "train.txt").read_text().split():
        shutil.copy(kitchen / f"data/{name}.pose.txt", folder / "data")
    return folder


@pytest.fixture(scope="module")
def refined(posed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reconstruction of them by triangulated points at the refined poses."""
    folder = tmp_path_factory.mktemp("refined") / "r"
    Teacher("sfm", REFINE).reconstruct(posed, folder)
    return folder


def error_m(poses: dict[str, np.ndarray], truth: dict[str, np.ndarray]) -> float:
    """Return the median distance of cameras from the truth after fitting a similarity."""
    found = np.array([T[:3, 3] for T in poses.values()])
    expected = np.array([truth[name] for name in poses])
    scale, T = similarity(found, expected)
    return float(np.median(np.linalg.norm(transform(T, scale * found) - expected, axis=1)))


def test_refined_poses_are_nearer_the_truth(posed: Path, refined: Path, kitchen: Path):
    rows = [line.split() for line in (kitchen / "poses_sfm.txt").read_text().splitlines()[1:]]
    truth = {name: np.array(numbers[:3], float) for name, *numbers in rows}
    made = open_reconstruction(refined)
    given = find_poses(FolderScene(posed)).T_map_cam
    assert error_m(made.poses, truth) < 0.5 * error_m(given, truth)
    # The map stays in the frame of the given poses, and stores them.
    assert made.metric and all(
        np.array_equal(made.given_pose(name), T) for name, T in given.items()
    )
    rotated_deg = [
        np.degrees(rotation_angle(made.poses[name][:3, :3] @ T[:3, :3].T))
        for name, T in given.items()
    ]
    assert np.median(rotated_deg) < 3
    moved = [made.poses[name][:3, 3] - T[:3, 3] for name, T in given.items()]
    assert np.linalg.norm(np.mean(moved, axis=0)) < 0.02


def test_a_finished_refinement_is_not_repeated(posed: Path, refined: Path):
    before = {path: path.stat().st_mtime_ns for path in refined.rglob("*")}
    Teacher("sfm", REFINE).reconstruct(posed, refined)
    assert {path: path.stat().st_mtime_ns for path in refined.rglob("*")} == before


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Intermediate files, whose features all tests share."""
    return tmp_path_factory.mktemp("work")


def with_poses(posed: Path, folder: Path, change: Callable[[np.ndarray], np.ndarray]) -> Path:
    """Return a copy of the photographs with changed poses."""
    shutil.copytree(posed, folder)
    for path in folder.glob("data/*.pose.txt"):
        np.savetxt(path, change(np.loadtxt(path)))
    return folder


def shaken(rng: np.random.Generator, T_map_cam: np.ndarray) -> np.ndarray:
    T = np.eye(4)
    T[:3, :3], T[:3, 3] = exp_rotation(rng.normal(0, 0.01, 3)), rng.normal(0, 0.02, 3)
    return T_map_cam @ T


def test_auto_keeps_poses_at_which_the_images_agree(posed: Path, work: Path):
    scene = FolderScene(posed)
    found = find_poses(scene, replace(QUICK, poses="auto"), work, triangulate=True)
    given = find_poses(scene).T_map_cam
    assert found.points and not found.given
    assert all(np.array_equal(T, given[name]) for name, T in found.T_map_cam.items())


def test_auto_refines_others_and_given_does_not(posed: Path, work: Path, tmp_path: Path):
    rng = np.random.default_rng(0)
    scene = FolderScene(with_poses(posed, tmp_path / "s", partial(shaken, rng)))
    before = find_poses(scene).T_map_cam
    true = {name: T[:3, 3] for name, T in find_poses(FolderScene(posed)).T_map_cam.items()}
    found = find_poses(scene, replace(QUICK, poses="auto"), work, triangulate=True)
    assert found.points and found.given.keys() == before.keys()
    assert error_m(found.T_map_cam, true) < 0.6 * error_m(before, true)
    kept = find_poses(scene, replace(QUICK, poses="given"), work, triangulate=True)
    assert kept.points and all(np.array_equal(T, before[n]) for n, T in kept.T_map_cam.items())


def test_poses_of_another_convention_are_not_used(posed: Path, work: Path, tmp_path: Path):
    opengl = with_poses(posed, tmp_path / "s", lambda T: T @ np.diag([1.0, -1, -1, 1]))
    given = replace(QUICK, poses="given")
    with pytest.raises(ReconstructionError, match="px apart.*check their convention"):
        find_poses(FolderScene(opengl), given, work, triangulate=True)


@pytest.mark.parametrize("scale", [0.01, 100.0])
def test_poses_in_a_unit_far_from_a_metre_are_refused(
    posed: Path, work: Path, tmp_path: Path, scale: float
):
    def scaled(T_map_cam: np.ndarray) -> np.ndarray:
        return np.block([[T_map_cam[:3, :3], scale * T_map_cam[:3, 3:]], [T_map_cam[3:]]])

    scene = FolderScene(with_poses(posed, tmp_path / "s", scaled))
    scene.metric = False
    with pytest.raises(ReconstructionError, match="units from the cameras.*expected 0.5 to 20"):
        find_poses(scene, replace(QUICK, poses="auto"), work, triangulate=True)
