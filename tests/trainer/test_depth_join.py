"""Parts of a recording, and images in none, joined by measured depth."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pycolmap = pytest.importorskip("pycolmap", reason="pycolmap is not installed")
from quick_sfm import QUICK  # noqa: E402

from distill_training.poses import sfm_poses  # noqa: E402
from distill_training.poses.scene_poses import find_poses  # noqa: E402
from distill_training.poses.sfm.depth_join import MeasuredFeatures, join_by_depth  # noqa: E402
from distill_training.poses.sfm.sfm_model import Model  # noqa: E402
from distill_training.poses.sfm.structure_from_motion import SfmPoses  # noqa: E402
from mote_localization.geometry import exp_rotation, invert, rigid, transform  # noqa: E402
from mote_localization.scenes.folder import FolderScene  # noqa: E402
from mote_localization.similarity import similarity  # noqa: E402

FOCAL_PX = 500.0
# A walk along a wall, 15 cm from image to image.
WALK = np.array(
    [rigid(exp_rotation(np.array([0, 0.02 * np.sin(k), 0])), [0.15 * k, 0, 0]) for k in range(20)]
)
FIRST, SECOND = range(9), range(11, 20)  # two parts; images 9 and 10 are in none


def walk_features(rng: np.random.Generator) -> MeasuredFeatures:
    """Return features of the walk: 1 % noise of the depth, half a pixel of the rays."""
    points_n3 = rng.uniform((-2, -1, 2), (6, 1, 4), (800, 3))
    rays, depths, seen = [], [], []
    for T in WALK:
        in_camera_n3 = transform(invert(T), points_n3)
        ray_n3 = in_camera_n3 / in_camera_n3[:, 2:]
        seen.append(np.flatnonzero((np.abs(ray_n3[:, :2]) < 0.5).all(axis=1)))
        ray_n3[:, :2] += rng.normal(0, 0.5 / FOCAL_PX, (len(ray_n3), 2))
        rays.append(ray_n3[seen[-1]])
        depths.append(in_camera_n3[seen[-1], 2] * (1 + rng.normal(0, 0.01, len(seen[-1]))))
    matches = {}
    for i in range(len(WALK)):
        for j in range(i + 1, min(i + 5, len(WALK))):
            _, own, other = np.intersect1d(seen[i], seen[j], return_indices=True)
            matches[i, j] = np.stack([own, other], axis=1)
    return MeasuredFeatures(rays, depths, matches, FOCAL_PX)


def walk_groups(rng: np.random.Generator) -> list[dict[int, np.ndarray]]:
    """Return two parts, the second in a frame of its own, and the images in none."""
    T = rigid(exp_rotation(rng.normal(0, 1, 3)), rng.normal(size=3))
    parts = [{i: WALK[i] for i in FIRST}, {i: T @ WALK[i] for i in SECOND}]
    return [*parts, {9: np.eye(4)}, {10: np.eye(4)}]


def test_parts_and_single_images_are_placed_in_the_frame_of_the_first_part():
    rng = np.random.default_rng(1)
    joined = join_by_depth(walk_features(rng), walk_groups(rng))
    assert sorted(joined) == list(range(20))
    found = np.array([joined[i] for i in range(20)])
    assert np.abs(found[:, :3, 3] - WALK[:, :3, 3]).max() < 0.02
    assert np.abs(found[:, :3, :3] - WALK[:, :3, :3]).max() < 0.01


def test_a_part_whose_matches_contradict_each_other_is_left_out():
    rng = np.random.default_rng(2)
    features = walk_features(rng)
    matches = {
        (i, j): np.stack([rng.permutation(k2[:, 0]), k2[:, 1]], axis=1)
        if i not in SECOND and j in SECOND
        else k2
        for (i, j), k2 in features.matches.items()
    }
    joined = join_by_depth(replace(features, matches=matches), walk_groups(rng))
    assert set(FIRST) <= set(joined) and not set(SECOND) & set(joined)


def test_depth_joins_what_structure_from_motion_does_not(
    photographs: Path, sfm_work: Path, kitchen: Path, tmp_path: Path, monkeypatch
):
    """Of two parts and an image left out, real depth makes one set of poses."""
    scene = tmp_path / "scene"
    shutil.copytree(photographs, scene)
    for path in scene.glob("data/*.pose.txt"):
        path.unlink()
    names = (scene / "train.txt").read_text().split()
    for name in names[:-2] + names[-1:]:  # one image has none
        shutil.copy(kitchen / f"data/{name}.depth.png", scene / "data")
    whole = Model.of(pycolmap.Reconstruction(sfm_work / "result/0"))
    parts = [whole.part(np.arange(6)), whole.part(np.arange(6, 11))]
    split = SfmPoses(parts, {11: "not connected"})
    monkeypatch.setattr(sfm_poses, "structure_from_motion", lambda *_: split)
    poses = find_poses(FolderScene(scene), QUICK, sfm_work)
    assert poses.metric and len(poses.T_map_cam) == 12
    found = np.array([T[:3, 3] for T in poses.T_map_cam.values()])
    expected = whole.T_model_cam_n44[:, :3, 3]
    scale, T = similarity(expected, found)
    assert np.linalg.norm(transform(T, scale * expected) - found, axis=1).max() < 0.03


def test_images_without_depth_see_points_but_measure_none():
    rng = np.random.default_rng(3)
    features = walk_features(rng)
    depths = [d * (i != 9) for i, d in enumerate(features.depths)]
    joined = join_by_depth(replace(features, depths=depths), walk_groups(rng))
    assert np.abs(joined[9][:3, 3] - WALK[9, :3, 3]).max() < 0.03
