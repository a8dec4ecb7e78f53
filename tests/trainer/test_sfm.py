"""Structure from motion: groups that agree, checks, triangulated points, and real photographs."""

import shutil
import subprocess
import sys
from dataclasses import replace
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy.sparse import csr_array

pycolmap = pytest.importorskip("pycolmap", reason="pycolmap is not installed")
from quick_sfm import QUICK  # noqa: E402

from distill_training.poses.frame_points import FramePoints  # noqa: E402
from distill_training.poses.poses_config import PosesConfig, SfmConfig  # noqa: E402
from distill_training.poses.scene_poses import find_poses  # noqa: E402
from distill_training.poses.sfm import structure_from_motion  # noqa: E402
from distill_training.poses.sfm.checks import connection, weakest_cut  # noqa: E402
from distill_training.poses.sfm.colmap_camera import from_colmap, to_colmap  # noqa: E402
from distill_training.poses.sfm.consensus import agreeing_groups, connected_parts  # noqa: E402
from distill_training.poses.sfm.feature_database import FeatureDatabase  # noqa: E402
from distill_training.poses.sfm.sfm_images import take_images  # noqa: E402
from distill_training.poses.sfm.sfm_model import Model  # noqa: E402
from distill_training.poses.sfm.structure_from_motion import check_intrinsics  # noqa: E402
from distill_training.poses.sfm_poses import ordered_parts  # noqa: E402
from distill_training.reconstruction import open_reconstruction  # noqa: E402
from distill_training.teachers.teacher_options import Teacher  # noqa: E402
from mote_localization.camera import Camera  # noqa: E402
from mote_localization.errors import ReconstructionError, SceneError  # noqa: E402
from mote_localization.geometry import exp_rotation, rigid, transform  # noqa: E402
from mote_localization.scenes.folder import FolderScene  # noqa: E402
from mote_localization.similarity import similarity  # noqa: E402

CAMERA = Camera(640, 480, 500.0, 510.0, 330.0, 236.0)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(5)


def walk(rng: np.random.Generator, count: int) -> np.ndarray:
    """Return poses along a line, 10 cm apart, that look in various directions."""
    return np.array(
        [
            rigid(exp_rotation(rng.normal(0, 0.5, 3)), [0.1 * k, *rng.normal(0, 0.05, 2)])
            for k in range(count)
        ]
    )


def moved(T_n44: np.ndarray, scale: float, T: np.ndarray) -> np.ndarray:
    """Return poses in another frame and unit."""
    scaled = T_n44.copy()
    scaled[:, :3, 3] *= scale
    return T @ scaled


def chain(count: int) -> csr_array:
    """Return cameras that share points with the four beside them."""
    index = np.arange(count)
    return csr_array((np.abs(index[:, None] - index) <= 4).astype(float))


def groups(one: np.ndarray, other: np.ndarray, least: int = 5) -> np.ndarray:
    return agreeing_groups(one, other, np.full(len(one), 0.02), 1.0, chain(len(one)), least)


def test_models_that_differ_by_a_similarity_agree(rng):
    one = walk(rng, 40)
    other = moved(one, 0.3, rigid(exp_rotation(rng.normal(0, 1, 3)), rng.normal(size=3)))
    assert (groups(one, other) == 0).all()


def test_two_halves_at_different_scales_are_two_groups(rng):
    """Global mapping returned such a model of 50 photographs, at 1 px."""
    one, T = walk(rng, 40), rigid(exp_rotation(np.array([0, 0.3, 0])), np.ones(3))
    other = np.concatenate([moved(one[:25], 1, T), moved(one[25:], 0.8, T)])
    group_n = groups(one, other)
    # Cameras beside the border fit both halves.
    assert (group_n[:22] == 0).all() and (group_n[30:] == 1).all()


def test_a_camera_with_a_wrong_rotation_is_in_no_group(rng):
    one = walk(rng, 40)
    other = one.copy()
    other[7, :3, :3] = exp_rotation(np.array([0, 0, np.radians(2)])) @ other[7, :3, :3]
    assert np.flatnonzero(groups(one, other) < 0).tolist() == [7]


def test_unrelated_poses_have_no_group(rng):
    assert (groups(walk(rng, 40), walk(rng, 40)[rng.permutation(40)]) < 0).all()


def test_a_group_is_split_where_no_points_connect_it():
    covisible = chain(20).toarray()
    covisible[:8, 8:] = covisible[8:, :8] = 0
    parts = connected_parts(np.zeros(20, int), csr_array(covisible), 5)
    assert [part.tolist() for part in parts] == [list(range(8, 20)), list(range(8))]
    assert len(connected_parts(np.zeros(20, int), csr_array(covisible), 9)) == 1


@pytest.mark.parametrize("known", [True, False])
def test_cameras_are_the_same_in_colmap(known, rng):
    colmap = to_colmap(CAMERA, known)
    rays_n3 = np.concatenate([rng.uniform(-0.5, 0.5, (20, 2)), np.ones((20, 1))], axis=1)
    if not known:
        colmap.params = [500.0, *colmap.params[1:3], -0.08]
    expected = np.array([colmap.img_from_cam(ray) for ray in rays_n3]) - 0.5
    np.testing.assert_allclose(from_colmap(colmap).project(rays_n3), expected, atol=1e-9)
    assert colmap.has_prior_focal_length == known


def test_a_cell_takes_its_most_accurate_point():
    grid = Camera(32, 16, 20.0, 20.0, 15.5, 7.5)
    pixels = np.array([[3.5, 3.5], [3.5, 4.5], [20.0, 12.0], [40.0, 2.0], [12.0, 4.0]])
    points = FramePoints(
        (pixels - (15.5, 7.5)) / 20,
        np.array([2.0, 3.0, 4.0, 5.0, -1.0]),
        np.array([0.2, 0.1, 0.3, 0.1, 0.1]),
    )
    depth_hw, sigma_hw = points.in_cells(grid, 8)
    assert depth_hw.shape == (2, 4)
    # The second point is more accurate, but beside the centre of the cell at (3.5, 3.5).
    assert depth_hw[0, 0] == 3 and sigma_hw[0, 0] == pytest.approx(np.hypot(0.1, 3 / 20))
    assert depth_hw[1, 2] == 4
    # Outside the image, behind the camera, or without a point:
    assert np.isfinite(depth_hw).sum() == 2 and np.isinf(sigma_hw).sum() == 6


def test_opencv_reads_images_after_pycolmap_is_loaded():
    """Both bring a zlib; where pycolmap's came first, OpenCV crashed."""
    code = (
        "import distill_training.poses.sfm, cv2, numpy as np; "
        "image = np.random.default_rng(0).integers(0, 255, (480, 640), np.uint8); "
        "[cv2.imdecode(cv2.imencode('.png', image)[1], 0) for _ in range(20)]"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.fixture(scope="module")
def truth(shared_data: Path, kitchen: Path) -> dict[str, np.ndarray]:
    """Positions (3,) of the kitchen's frames by structure from motion over all its sequences."""
    lines = (kitchen / "poses_sfm.txt").read_text().splitlines()
    rows = [line.split() for line in lines if not line.startswith("#")]
    return {name: np.array(numbers[:3], float) for name, *numbers in rows}


@pytest.fixture(scope="module")
def made(photographs: Path, sfm_work: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a reconstruction of the photographs."""
    folder = tmp_path_factory.mktemp("made") / "r"
    shutil.copytree(sfm_work, folder / "work")
    Teacher(poses=replace(QUICK, poses="auto")).reconstruct(photographs, folder)
    return folder


def test_photographs_alone_become_a_reconstruction(made: Path, truth):
    reconstruction = open_reconstruction(made)
    assert reconstruction.teacher == "sfm" and reconstruction.metric
    assert len(reconstruction.poses) == 12 and not (made / "work").exists()
    found = np.array([T[:3, 3] for T in reconstruction.poses.values()])
    expected = np.array([truth[name] for name in reconstruction.poses])
    scale, T = similarity(found, expected)
    errors_m = np.linalg.norm(transform(T, scale * found) - expected, axis=1)
    assert np.median(errors_m) < 0.005
    for name, T_map_cam in islice(reconstruction.poses.items(), 3):
        points_hw3 = reconstruction.read_frame(name).points_hw3
        valid_hw = np.isfinite(points_hw3).all(axis=-1)
        assert valid_hw.mean() > 0.15
        depth = ((points_hw3[valid_hw] - T_map_cam[:3, 3]) @ T_map_cam[:3, :3])[:, 2]
        assert 0.5 < np.median(depth) < 4


def test_a_finished_reconstruction_is_not_made_again(made: Path, photographs: Path):
    before = {path: path.stat().st_mtime_ns for path in made.rglob("*")}
    Teacher(poses=replace(QUICK, poses="auto")).reconstruct(photographs, made)
    assert {path: path.stat().st_mtime_ns for path in made.rglob("*")} == before
    with pytest.raises(Exception, match="made with other frames or settings"):
        Teacher(poses=PosesConfig(sfm=SfmConfig(max_features=900))).reconstruct(photographs, made)


def test_an_interrupted_run_gives_the_same_poses(photographs: Path, sfm_work: Path, tmp_path: Path):
    scene = FolderScene(photographs)
    expected = find_poses(scene, QUICK, sfm_work)
    shutil.copytree(sfm_work, tmp_path / "work")
    for folder in ("result", "chosen/incremental"):
        shutil.rmtree(tmp_path / "work" / folder)
    (tmp_path / "work/chosen/incremental.99.partial").mkdir()
    with pycolmap.Database.open(tmp_path / "work/features.db") as database:
        database.delete_two_view_geometry(3, 4)
    found = find_poses(scene, QUICK, tmp_path / "work")
    assert list(found.T_map_cam) == list(expected.T_map_cam)
    for name, T in expected.T_map_cam.items():
        np.testing.assert_allclose(found.T_map_cam[name], T, atol=1e-4)


@pytest.mark.parametrize("source", ["poses", "depth", "length", "nothing"])
def test_the_scale_is_that_of_poses_or_depth_or_a_length(
    source: str, photographs: Path, sfm_work: Path, kitchen: Path, tmp_path: Path, truth
):
    shutil.copytree(photographs, tmp_path / "scene")
    names = (tmp_path / "scene/train.txt").read_text().split()
    if source != "poses":
        for path in (tmp_path / "scene/data").glob("*.pose.txt"):
            path.unlink()
    if source == "depth":
        for name in names[::2]:
            shutil.copy(kitchen / f"data/{name}.depth.png", tmp_path / "scene/data")
    apart_m = np.linalg.norm(truth[names[0]] - truth[names[-1]])
    length = (f"{names[0]},{names[-1]}={apart_m}",) if source == "length" else ()
    config = replace(QUICK, scale_from=length)
    poses = find_poses(FolderScene(tmp_path / "scene"), config, sfm_work)
    found = np.array([T[:3, 3] for T in poses.T_map_cam.values()])
    scale, _ = similarity(found, np.array([truth[name] for name in poses.T_map_cam]))
    assert poses.metric == (source != "nothing")
    # the given poses, of a depth tracker, are off by centimetres
    assert source == "nothing" or scale == pytest.approx(1, abs=0.2 if source == "poses" else 0.05)


def test_depth_in_another_unit_than_the_poses_is_refused(
    photographs: Path, sfm_work: Path, kitchen: Path, tmp_path: Path
):
    shutil.copytree(photographs, tmp_path / "scene")
    for name in (tmp_path / "scene/train.txt").read_text().split():
        depth_hw = cv2.imread(str(kitchen / f"data/{name}.depth.png"), cv2.IMREAD_UNCHANGED)
        cv2.imwrite(str(tmp_path / f"scene/data/{name}.depth.png"), depth_hw * 5)
    with pytest.raises(SceneError, match="times too large for the given poses"):
        find_poses(FolderScene(tmp_path / "scene"), QUICK, sfm_work)


def test_other_settings_start_again(
    photographs: Path, sfm_work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog
):
    """What an unfinished run has computed belongs to its images and settings."""
    shutil.copytree(sfm_work, tmp_path / "work")
    monkeypatch.setattr(
        FeatureDatabase, "extract", lambda self: dict.fromkeys(range(12), "blurred")
    )
    config = PosesConfig("sfm", sfm=SfmConfig(max_features=900))
    with pytest.raises(ReconstructionError, match="12: blurred"):
        find_poses(FolderScene(photographs), config, tmp_path / "work")
    assert "starts again" in caplog.text and not (tmp_path / "work/result").exists()


def test_parts_without_a_common_frame_are_not_mixed(photographs: Path, sfm_work: Path):
    """Only the largest part, or the parts with given poses, are in the frame of the map."""
    part = Model.of(pycolmap.Reconstruction(sfm_work / "result/0"))
    images, _ = take_images(FolderScene(photographs), "auto", QUICK.sfm.max_px)
    first, second = part.part(np.arange(8)), part.part(np.arange(8, 12))
    late = {one.frame.name: np.eye(4) for one in images[8:]}
    assert ordered_parts([first, second], images, {}) == [first]
    assert ordered_parts([first, second], images, late) == [second]
    both = late | {one.frame.name: np.eye(4) for one in images[:2]}
    assert ordered_parts([first, second], images, both) == [first, second]


def model(visible: np.ndarray) -> Model:
    """Return a model of which only is known which image sees which point."""
    image_k, point_k = visible.nonzero()
    n, m = visible.shape
    arrays = np.arange(n), np.zeros((n, 4, 4)), np.zeros((m, 3)), image_k, point_k
    return Model(pycolmap.Reconstruction(), *arrays, np.zeros((len(image_k), 2)), np.zeros(m))


def test_the_weakest_cut_is_found():
    visible = np.zeros((30, 1000), bool)
    visible[:12, :400] = visible[12:, 420:] = True
    visible[8:16, 400:420] = True
    first_n = weakest_cut(model(visible))
    assert sorted([np.flatnonzero(first_n).tolist(), np.flatnonzero(~first_n).tolist()]) == [
        list(range(12)),
        list(range(12, 30)),
    ]


def test_a_tenth_of_the_points_connects_scales_three_times_worse(sfm_work: Path):
    whole = Model.of(pycolmap.Reconstruction(sfm_work / "result/0"))
    first_n = np.arange(12) < 6
    all_points = connection(whole, first_n)
    kept_k = whole.point_k % 10 == 0
    tenth = replace(
        whole,
        image_k=whole.image_k[kept_k],
        point_k=whole.point_k[kept_k],
        ray_k2=whole.ray_k2[kept_k],
    )
    fewer = connection(tenth, first_n)
    assert all_points.images == fewer.images == 6 and 1 < all_points.angle_deg < 30
    assert fewer.points == pytest.approx(all_points.points / 10, rel=0.3)
    assert 0 < all_points.scale_sigma < 0.02
    assert fewer.scale_sigma == pytest.approx(all_points.scale_sigma * np.sqrt(10), rel=0.4)


def test_photographs_without_overlap_are_refused(tmp_path: Path, rng):
    (tmp_path / "data").mkdir()
    for name in "abcd":
        image = cv2.resize(rng.integers(0, 255, (60, 80, 3), np.uint8), (320, 240))
        cv2.imwrite(str(tmp_path / f"data/{name}.color.png"), image)
    (tmp_path / "train.txt").write_text("\n".join("abcd"))
    with pytest.raises(ReconstructionError, match="no consistent part of 4 images"):
        find_poses(FolderScene(tmp_path), QUICK, tmp_path / "work")


def test_one_photograph_is_refused(tmp_path: Path):
    (tmp_path / "data").mkdir()
    cv2.imwrite(str(tmp_path / "data/a.color.png"), np.zeros((240, 320, 3), np.uint8))
    (tmp_path / "train.txt").write_text("a")
    with pytest.raises(ReconstructionError, match="1 of 1 images can be used, expected two"):
        find_poses(FolderScene(tmp_path), PosesConfig("sfm"), tmp_path / "work")


@pytest.mark.parametrize(("factor", "fits"), [(1.0, True), (1.1, False), (0.85, False)])
def test_a_wrong_focal_length_is_named(
    photographs: Path, sfm_work: Path, tmp_path: Path, factor: float, fits: bool, monkeypatch
):
    monkeypatch.setattr(structure_from_motion, "_MIN_FOCAL_IMAGES", 12)
    shutil.copytree(photographs, tmp_path / "scene")
    K = np.loadtxt(photographs / "camera-intrinsics.txt")
    K[[0, 1], [0, 1]] *= factor
    np.savetxt(tmp_path / "scene/camera-intrinsics.txt", K)
    images, _ = take_images(FolderScene(tmp_path / "scene"), "auto", QUICK.sfm.max_px)
    part = Model.of(pycolmap.Reconstruction(sfm_work / "result/0"))
    if fits:
        check_intrinsics(part, images)
        return
    with pytest.raises(
        ReconstructionError, match=r"found a focal length of \d+ px, but the images"
    ):
        check_intrinsics(part, images)
