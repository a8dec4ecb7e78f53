"""Reconstruction from photographs: results, warnings and errors."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed")
from conftest import python_path
from PIL import Image  # noqa: E402
from test_dust3r import small_network  # noqa: E402

from distill_training.poses.poses_config import PosesConfig  # noqa: E402
from distill_training.poses.scene_poses import find_poses  # noqa: E402
from distill_training.reconstruction import Reconstruction  # noqa: E402
from distill_training.teachers.dust3r import Dust3r  # noqa: E402
from distill_training.teachers.pairwise.pair_predictor import Encoded  # noqa: E402
from distill_training.teachers.pairwise.photographs import reconstruct  # noqa: E402
from distill_training.teachers.simulated import Simulated  # noqa: E402
from distill_training.teachers.teacher_config import (  # noqa: E402
    CellsConfig,
    PairsConfig,
    PhotographsConfig,
    SimulatedConfig,
)
from mote_localization.camera import Camera, CanonicalView  # noqa: E402
from mote_localization.errors import ReconstructionError, SceneError  # noqa: E402
from mote_localization.geometry import (
    exp_rotation,
    invert,
    pose_from,
    quaternion_xyzw,
    transform,
)  # noqa: E402
from mote_localization.scenes import Frame, Scene, Split  # noqa: E402
from mote_localization.scenes.photos import PhotoScene  # noqa: E402
from mote_localization.similarity import similarity  # noqa: E402

pytestmark = pytest.mark.train

CAMERA = Camera(96, 72, 80.0, 80.0, 47.5, 35.5)
PORTRAIT = Camera(72, 96, 80.0, 80.0, 35.5, 47.5)
ROOM = np.array([[-2.5, -2.0, 0.0], [2.5, 2.0, 2.5]])  # m, z up
BLOCKS = np.array(  # boxes in the room, m
    [
        [[-0.6, -0.4, 0.0], [0.5, 0.4, 0.7]],
        [[1.6, 1.0, 0.0], [2.3, 1.8, 1.6]],
        [[-2.2, 0.9, 0.0], [-1.2, 1.7, 0.9]],
        [[0.9, -1.9, 0.0], [1.9, -1.2, 1.1]],
        [[-2.4, -1.5, 0.0], [-1.9, -0.3, 1.9]],
    ]
)


def depth_along(T_map_cam: np.ndarray, rays: np.ndarray) -> np.ndarray:
    """Return the depth (...) on rays (..., 3), z = 1, of a camera in the room."""
    rays_3n1 = np.moveaxis(rays @ T_map_cam[:3, :3].T, -1, 0)[..., None] + 1e-12
    corners = np.concatenate([BLOCKS, ROOM[None]]) - T_map_cam[:3, 3]
    walls = [corners[:, k].T.reshape(3, *[1] * (rays.ndim - 1), -1) / rays_3n1 for k in (0, 1)]
    enter, leave = np.minimum(*walls).max(axis=0), np.maximum(*walls).min(axis=0)
    hit = (enter < leave) & (enter > 0)
    return np.minimum(leave[..., -1], np.where(hit, enter, np.inf).min(axis=-1)).astype(np.float32)


def look_at(position: Sequence[float], target: Sequence[float]) -> np.ndarray:
    """Return T_map_cam of a level camera."""
    z = np.subtract(target, position) / np.linalg.norm(np.subtract(target, position))
    x = np.cross(z, (0, 0, 1))
    x /= np.linalg.norm(x)
    T = np.eye(4)
    T[:3] = np.stack([x, np.cross(z, x), z, position], axis=1)
    return T


def around(count: int) -> list[np.ndarray]:
    """Return poses on an arc through the room, with a view of its center."""
    angles = np.linspace(-2.4, -0.4, count)
    return [
        look_at((1.8 * np.cos(a), 1.5 * np.sin(a), 1.3 + 0.2 * np.sin(7 * a)), (0.2, 0.3, 0.8))
        for a in angles
    ]


STRAIGHT = np.array([0.0, 0, 0, 1])
ARC = around(10)
# None of them is level.
TILTED = [
    T @ pose_from(np.zeros(3), np.array([0, 0, np.sin(0.2 * np.cos(k)), np.cos(0.2 * np.cos(k))]))
    for k, T in enumerate(around(13))
]


@dataclass
class Shot(Frame):
    """A photograph of the room from `T_true`; its given camera and pose may differ."""

    name: str
    T_true: np.ndarray
    true_camera: Camera
    camera: Camera | None
    T_map_cam: np.ndarray | None
    stamp_s: float = 0.0
    readable: bool = True

    def image(self) -> np.ndarray:
        if not self.readable:
            raise SceneError(f"{self.name}.jpg: is damaged or no image (3 bytes)")
        return np.repeat((60 * self.depth()).clip(0, 255).astype(np.uint8)[..., None], 3, axis=-1)

    def size(self) -> tuple[int, int]:
        return self.true_camera.width, self.true_camera.height

    def depth(self) -> np.ndarray:
        return depth_along(self.T_true, self.true_camera.cell_rays(1))


class Shots(Scene):
    """Scene of photographs in memory."""

    name = "room"

    def __init__(self, shots: Sequence[Shot], sequential: bool = False) -> None:
        self.shots, self.sequential = shots, sequential

    def frames(self, split: Split) -> Iterator[Shot]:
        return iter(self.shots)

    def count(self, split: Split) -> int:
        return len(self.shots)


class Network(Simulated):
    """Simulated network with the true poses and cameras of the photographs."""

    def __init__(self, **errors) -> None:
        super().__init__(SimulatedConfig(**{"width": 64, **errors}))

    def encode(self, frame: Frame, image_hw3: np.ndarray, live: Camera) -> Encoded:
        truth = replace(frame, camera=frame.true_camera, T_map_cam=frame.T_true)
        return super().encode(truth, image_hw3, live)


def shots(
    poses: Sequence[np.ndarray],
    cameras: Sequence[Camera] = (CAMERA,),
    intrinsics: bool = True,
    given: Callable[[int, np.ndarray], np.ndarray | None] = lambda k, T: T,
) -> list[Shot]:
    """Return photographs of the room; the cameras alternate."""
    some = [cameras[k % len(cameras)] for k in range(len(poses))]
    return [
        Shot(f"shot{k}", T, camera, camera if intrinsics else None, given(k, T))
        for k, (T, camera) in enumerate(zip(poses, some, strict=True))
    ]


def run(folder: Path, taken: Sequence[Shot], network=None, **config):
    predicted = PhotographsConfig(pairs=config.pop("pairs", PairsConfig(per_image=6)))
    scene, cells, known = Shots(taken), CellsConfig(width=160), PosesConfig(**config)
    poses = find_poses(scene, known)
    return reconstruct(scene, poses, folder, network or Network(), predicted, cells, known)


def error_m(made: Reconstruction, taken: Sequence[Shot]) -> float:
    """Return the largest median error of a frame, m, in its camera frame.

    True points are on the rays of the canonical camera, so that errors of resampling count.
    """
    rays_hw3 = made.camera.cell_rays(made.stride)
    errors = []
    for shot in taken:
        if shot.name in made.poses:
            points_hw3 = made.read_frame(shot.name).points_hw3
            assert np.isfinite(points_hw3).all(axis=-1).mean() > 0.3
            points_hw3 = transform(invert(made.poses[shot.name]), points_hw3)
            true_hw3 = rays_hw3 * depth_along(shot.T_true, rays_hw3)[..., None]
            errors.append(np.nanmedian(np.linalg.norm(points_hw3 - true_hw3, axis=-1)))
    return float(max(errors))


def position_errors_m(made: Reconstruction, taken: Sequence[Shot], fitted: bool) -> np.ndarray:
    """Return the errors of the positions, m, as they are or after fitting a similarity."""
    true = {shot.name: shot.T_true[:3, 3] for shot in taken}
    found = np.array([T[:3, 3] for T in made.poses.values()])
    expected = np.array([true[name] for name in made.poses])
    if fitted:
        scale, T = similarity(found, expected)
        found = transform(T, scale * found)
    return np.linalg.norm(found - expected, axis=-1)


def unknown(k: int, T: np.ndarray) -> None:
    """Give no pose."""


# Given poses and intrinsics


def test_with_known_poses_and_intrinsics(tmp_path: Path):
    taken = shots(ARC)
    made, summary = run(tmp_path, taken)
    assert list(made.poses) == [shot.name for shot in taken] and made.metric
    assert summary.images == 10 and not summary.unused and summary.focal_known
    assert 0 < summary.pairs_rejected < 6  # the predictions of some pairs are wrong
    assert summary.agreement_cm < 5 and error_m(made, taken) < 0.05
    assert not (tmp_path / "work").exists()


def test_with_known_poses_and_unknown_intrinsics(tmp_path: Path):
    taken = shots(ARC, intrinsics=False)
    made, summary = run(tmp_path, taken)
    assert not summary.focal_known
    assert summary.focal_px == (pytest.approx(CAMERA.fx * 160 / 96, rel=0.02),)
    assert made.camera.fx == summary.focal_px[0] and error_m(made, taken) < 0.05


def test_with_known_intrinsics_and_unknown_poses(tmp_path: Path):
    taken = shots(ARC, given=unknown)
    made, summary = run(tmp_path, taken)
    assert summary.focal_known and not summary.metric and not made.metric
    assert position_errors_m(made, taken, fitted=True).max() < 0.06


def test_with_unknown_poses_and_intrinsics(tmp_path: Path):
    taken = shots(ARC, intrinsics=False, given=unknown)
    made, summary = run(tmp_path, taken)
    assert not summary.metric and not summary.unused
    assert summary.focal_px == (pytest.approx(CAMERA.fx * 160 / 96, rel=0.02),)
    assert position_errors_m(made, taken, fitted=True).max() < 0.06


def test_with_some_known_poses(tmp_path: Path):
    """They define the frame and the scale; everything else is estimated."""
    taken = shots(ARC, intrinsics=False, given=lambda k, T: T if k in (1, 4, 8) else None)
    made, summary = run(tmp_path, taken)
    assert summary.metric and 0 < summary.scale_uncertainty < 0.03
    assert position_errors_m(made, taken, fitted=False).max() < 0.08
    assert error_m(made, taken) < 0.08


def test_with_known_intrinsics_of_some_cameras(tmp_path: Path):
    wide = Camera(96, 72, 62.0, 62.0, 47.5, 35.5)
    taken = shots(ARC, [CAMERA, wide])
    taken[1::2] = [replace(shot, camera=None) for shot in taken[1::2]]
    made, summary = run(tmp_path, taken)
    known, estimated = (focal * 96 / 160 for focal in summary.focal_px)
    assert not summary.focal_known and known == pytest.approx(CAMERA.fx)
    assert estimated == pytest.approx(wide.fx, rel=0.02)
    assert error_m(made, taken) < 0.05


@pytest.mark.parametrize("intrinsics", [True, False])
@pytest.mark.parametrize("given", [lambda k, T: T, lambda k, T: T if k % 3 == 0 else None])
def test_with_mixed_sizes_and_cameras(tmp_path: Path, intrinsics: bool, given: Callable):
    cameras = [CAMERA, PORTRAIT, Camera(128, 80, 90.0, 90.0, 62.0, 41.0)]
    if not intrinsics:  # then the principal point is assumed at the center
        cameras[2] = Camera(128, 80, 90.0, 90.0, 63.5, 39.5)
    taken = shots(ARC, cameras, intrinsics, given)
    made, summary = run(tmp_path, taken)
    assert len(made.poses) == 10 and error_m(made, taken) < 0.08
    # Without intrinsics, portrait and landscape images of one size have the same lens.
    assert len(summary.focal_px) == (3 if intrinsics else 2)
    assert (made.camera.width, made.camera.height) == (160, 120)
    images = {name: made.read_frame(name).image_hw3 for name in made.poses}
    assert {image.shape for image in images.values()} == {(120, 160, 3)}
    # A portrait photograph is black at the sides, and only there.
    assert images["shot0"][60].any(axis=-1).all()
    assert not images["shot1"][60, :10].any() and images["shot1"][60, 40:120].any(axis=-1).all()


# Images that are not connected


def test_images_without_overlap_are_an_error(tmp_path: Path):
    directions = [(1, 0, 1.6), (0, 1, 1.6), (-1, 0, 1.6), (0, -1, 1.6)]
    taken = shots([look_at((0, 0, 1.6), towards) for towards in directions], given=unknown)
    with pytest.raises(ReconstructionError, match="shot0, shot1, shot2, shot3: not connected"):
        run(tmp_path, taken)
    with pytest.raises(ReconstructionError, match="shot0, shot1, shot2, shot3: not connected"):
        run(tmp_path / "known", shots([shot.T_true for shot in taken]))


@pytest.mark.parametrize("given", [unknown, lambda k, T: T])
def test_an_image_without_overlap_is_left_out(tmp_path: Path, given: Callable):
    taken = shots([*ARC, look_at((2.2, 1.5, 2.3), (2.4, 1.9, 2.4))], given=given)
    made, summary = run(tmp_path, taken)
    assert list(summary.unused) == ["shot10"] and len(made.poses) == 10
    assert "shot10" not in made.poses


def test_two_groups_of_images_need_poses(tmp_path: Path):
    """Without poses, the relative pose of two connected components is unknown."""
    large = [look_at((0.4 + 0.2 * k, -0.3, 1.6), (1.2, -2, 1.4)) for k in range(7)]
    small = [look_at((-1.0 + 0.2 * k, 0.5, 1.5), (-1.5 + 0.2 * k, 2, 1.8)) for k in range(3)]
    made, summary = run(tmp_path / "unknown", shots([*large, *small], given=unknown))
    assert list(made.poses) == [f"shot{k}" for k in range(7)]
    reason = "connected with shot7, shot9, but not with the other images"
    assert list(summary.unused) == ["shot7", "shot8", "shot9"]
    assert summary.unused["shot8"] == reason
    taken = shots([*large, *small])
    made, summary = run(tmp_path / "known", taken)
    assert not summary.unused and error_m(made, taken) < 0.05


def test_too_few_images_are_an_error(tmp_path: Path):
    with pytest.raises(SceneError, match="none of 0 training frames"):
        run(tmp_path, [])
    with pytest.raises(ReconstructionError, match="1 of 1 images can be used"):
        run(tmp_path, shots(ARC[:1]))


@pytest.mark.filterwarnings("error")
def test_unreadable_images_are_reported_and_left_out(tmp_path: Path, caplog):
    taken = shots(ARC, [*[CAMERA] * 9, PORTRAIT], intrinsics=False)
    for k in (3, 9):  # 9 is the only image of its lens
        taken[k] = replace(taken[k], readable=False)
    made, summary = run(tmp_path, taken)
    assert summary.images == 10 and list(summary.unused) == ["shot3", "shot9"]
    assert "shot3.jpg: is damaged" in caplog.text and "shot9.jpg: is damaged" in caplog.text
    assert len(made.poses) == 8 and error_m(made, taken) < 0.05


def test_an_image_of_an_unusable_shape_is_reported_and_left_out(tmp_path: Path, caplog):
    taken = shots(ARC)
    flat = Camera(400, 2, 300.0, 300.0, 199.5, 0.5)
    taken[3] = replace(taken[3], true_camera=flat, camera=None)
    made, summary = run(tmp_path, taken)
    assert list(summary.unused) == ["shot3"] and "frame shot3 is left out" in caplog.text
    assert len(made.poses) == len(ARC) - 1


def test_without_a_readable_image_there_is_an_error(tmp_path: Path):
    taken = [replace(shot, readable=False) for shot in shots(ARC)]
    with pytest.raises(SceneError, match="none of 10 images can be used; the last one: shot9.jpg"):
        run(tmp_path, taken)


# Wrong poses


RIGHT, DOWN, FORWARD = np.eye(3)  # axes of a camera


def with_axes(*axes: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Return a change of the camera axes; left-handed axes mirror the map, too."""
    C = np.eye(4)
    C[:3, :3] = np.stack(axes, axis=1)
    return lambda T: np.diag([1.0, np.linalg.det(C), 1, 1]) @ T @ C


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (invert, "if they are map-to-camera .invert"),
        (
            with_axes(RIGHT, -DOWN, -FORWARD),
            "if they are of cameras with .* z backward .as in OpenGL",
        ),
        (with_axes(FORWARD, -RIGHT, -DOWN), "with x forward, y left and z up .*ROS, REP-103"),
        (with_axes(DOWN, -RIGHT, FORWARD), "rolled by 90 deg to the right"),
        (with_axes(-DOWN, RIGHT, FORWARD), "rolled by 90 deg to the left"),
        (with_axes(-RIGHT, -DOWN, FORWARD), "rolled by 180 deg"),
        (with_axes(FORWARD, RIGHT, DOWN), "with x forward, y right and z down;"),
        (
            with_axes(RIGHT, -DOWN, FORWARD),
            "if they are left-handed.* with x right, y up and z for",
        ),
        (lambda T: invert(with_axes(RIGHT, -DOWN, -FORWARD)(T)), "map-to-camera .* and .*OpenGL"),
        (lambda T: invert(with_axes(DOWN, -RIGHT, FORWARD)(T)), "map-to-camera .* and .*rolled"),
    ],
)
def test_another_pose_convention_is_recognized(tmp_path: Path, wrong: Callable, message: str):
    taken = shots(TILTED, given=lambda k, T: wrong(T))
    with pytest.raises(
        ReconstructionError, match=f"pairs of images agree with the known poses, but .*{message}"
    ):
        run(tmp_path, taken)


@pytest.mark.parametrize(
    ("axes", "message"),
    [((DOWN, -RIGHT, FORWARD), "rolled"), ((FORWARD, -RIGHT, -DOWN), "REP-103")],
)
def test_pairs_that_fit_several_conventions_do_not_hide_the_wrong_one(
    tmp_path: Path, axes: Sequence[np.ndarray], message: str
):
    """Most pairs of a slow drive have nearly no rotation and baseline."""
    taken = shots(around(60)[:24], given=lambda k, T: with_axes(*axes)(T))
    with pytest.raises(ReconstructionError, match=message):
        run(tmp_path, taken)


def test_many_wrong_poses_cause_a_warning(tmp_path: Path, caplog):
    error = pose_from(np.zeros(3), quaternion_xyzw(exp_rotation(np.array([0.0, 0.0, 0.5]))))
    run(tmp_path / "right", shots(TILTED))
    assert "agree with the known poses" not in caplog.text
    taken = shots(TILTED, given=lambda k, T: T @ error if k in (2, 6, 9) else T)
    _, summary = run(tmp_path / "wrong", taken)
    assert "pairs of images agree with the known poses, the others are left out" in caplog.text
    assert set(summary.unused) == {"shot2", "shot6", "shot9"}


def test_poses_in_millimetres_cause_a_warning(tmp_path: Path, caplog):
    def in_millimetres(k: int, T: np.ndarray) -> np.ndarray:
        return pose_from(1000 * T[:3, 3], quaternion_xyzw(T[:3, :3]))

    run(tmp_path, shots(ARC, given=in_millimetres))
    assert "check that the poses are in metres" in caplog.text


def test_a_known_length_beside_given_poses_causes_a_warning(tmp_path: Path, caplog):
    made, _ = run(tmp_path, shots(ARC), scale_from=("shot0,shot5=7",))
    assert "--scale-from is not used" in caplog.text
    np.testing.assert_array_equal(made.poses["shot5"], ARC[5])


def test_poses_of_other_images_are_rejected(tmp_path: Path):
    order = np.random.default_rng(1).permutation(len(TILTED))
    with pytest.raises(ReconstructionError, match="as if they were those of other images"):
        run(tmp_path, shots(TILTED, given=lambda k, T: TILTED[order[k]]))


def test_wrong_poses_without_overlap_are_rejected(tmp_path: Path):
    """Some pairs are chosen by appearance, independent of the poses."""
    far = [
        pose_from(50 * np.array([np.cos(2.4 * k), np.sin(2.4 * k), 0]), STRAIGHT) for k in range(13)
    ]
    taken = shots(TILTED, given=lambda k, T: far[k] @ T)
    with pytest.raises(ReconstructionError, match="as if they were those of other images"):
        run(tmp_path, taken)


@pytest.mark.parametrize(("rotation_rad", "offset_m"), [(1.0, 0.0), (0.0, 0.35), (0.3, 0.3)])
def test_single_wrong_poses_are_rejected_and_the_others_are_used(
    tmp_path: Path, rotation_rad: float, offset_m: float
):
    error = np.eye(4)
    error[:3, :3] = exp_rotation(np.array([0.6, 0.8, 0.0]) * rotation_rad)
    error[:3, 3] = np.array([0.8, 0.0, 0.6]) * offset_m
    taken = shots(TILTED, given=lambda k, T: T @ error if k in (2, 9) else T)
    made, summary = run(tmp_path, taken)
    assert set(summary.unused) == {"shot2", "shot9"}
    assert set(summary.unused.values()) == {"its known pose disagrees with the images"}
    assert error_m(made, taken) < 0.06


# Degenerate scenes


def spot(radius_m: float) -> list[np.ndarray]:
    """Return poses with different views from nearly one position."""
    offsets = radius_m * np.random.default_rng(0).standard_normal((8, 3))
    centre = np.array([0, -1.5, 1.3])
    return [
        look_at(centre + offset, (np.sin(a), 1, 1))
        for a, offset in zip(np.linspace(-0.8, 0.8, 8), offsets, strict=True)
    ]


@pytest.mark.parametrize("poses", [spot(0), spot(0.002), [spot(0)[3]] * 6])
def test_images_from_one_position_have_no_scale(tmp_path: Path, poses: list):
    with pytest.raises(ReconstructionError, match="shot0.*taken from nearly the same spot as all"):
        run(tmp_path, shots(poses))


def test_a_component_from_one_position_is_left_out(tmp_path: Path):
    """Three images from a tripod in another corner have no overlap with the others."""
    corner = [look_at((-1.6, 0.3, 1.8), (-2.5 + 0.1 * k, 2, 1.9)) for k in range(3)]
    made, summary = run(tmp_path, shots([*ARC, *corner]))
    assert len(made.poses) >= 10
    spots = {f"shot{k}" for k in (10, 11, 12)} - set(made.poses)
    assert set(summary.unused) == spots
    assert all("same spot" in reason for reason in summary.unused.values())


def test_duplicate_images_are_used(tmp_path: Path):
    taken = shots([*ARC, ARC[4], ARC[4], ARC[5]])
    made, summary = run(tmp_path / "known", taken)
    assert not summary.unused and error_m(made, taken) < 0.05
    taken = [replace(shot, T_map_cam=None) for shot in taken]
    made, summary = run(tmp_path / "unknown", taken)
    assert not summary.unused
    assert position_errors_m(made, taken, fitted=True).max() < 0.06


def test_two_images_are_enough(tmp_path: Path):
    taken = shots([ARC[2], ARC[5]])
    made, summary = run(tmp_path / "known", taken, Network(wrong_pairs=0.0))
    assert len(made.poses) == 2 and summary.pairs == 1 and error_m(made, taken) < 0.15
    made, _ = run(
        tmp_path / "unknown",
        [replace(shot, T_map_cam=None) for shot in taken],
        Network(wrong_pairs=0.0),
    )
    assert len(made.poses) == 2 and not made.metric


@pytest.mark.parametrize("given", [unknown, lambda k, T: T])
def test_a_scene_that_is_one_wall(tmp_path: Path, given: Callable):
    poses = [look_at((-0.9 + 0.2 * k, 0.9, 2.2), (-0.8 + 0.2 * k, 2, 2.2)) for k in range(8)]
    taken = shots(poses, intrinsics=False, given=given)
    made, summary = run(tmp_path, taken)
    assert len(made.poses) == 8
    assert summary.focal_px == (pytest.approx(CAMERA.fx * 160 / 96, rel=0.02),)
    assert position_errors_m(made, taken, fitted=True).max() < 0.1
    if made.metric:
        assert error_m(made, taken) < 0.05


# Predictors that fail


class Failing(Network):
    """Network with invalid predictions for some images."""

    def __init__(self, invalidate: Callable, every: int) -> None:
        super().__init__()
        self._invalidate, self._every = invalidate, every

    def decode(self, ones, others):
        predicted = super().decode(ones, others)
        for pairs in predicted:
            for pointmap in (pairs.first, pairs.second):
                some = slice(None, None, self._every)
                self._invalidate(pointmap.points_bhw3[some], pointmap.confidence_bhw[some])
        return predicted


INVALID = {
    "points are NaN": lambda points, confidence: points.fill_(np.nan),
    "confidence is 0": lambda points, confidence: confidence.zero_(),
    "confidence is NaN": lambda points, confidence: confidence.fill_(np.nan),
    "confidence is infinite": lambda points, confidence: confidence.fill_(np.inf),
    "points exceed float16": lambda points, confidence: points.fill_(1e30),
    "points are far away": lambda points, confidence: points.fill_(6e4),
    "points are 0": lambda points, confidence: points.zero_(),
    "points are behind": lambda points, confidence: points.neg_(),
    "points are tiny": lambda points, confidence: points.mul_(1e-7),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("poses", ["given", "estimate"])
@pytest.mark.parametrize("invalid", INVALID)
def test_invalid_predictions_are_rejected(tmp_path: Path, invalid: str, poses: str):
    with pytest.raises(ReconstructionError, match="shot0, shot1, shot2: not connected"):
        run(tmp_path, shots(ARC[:3]), Failing(INVALID[invalid], 1), poses=poses)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("invalid", "poses"),
    [
        ("points are NaN", "given"),
        ("points are NaN", "estimate"),
        ("points are far away", "given"),
        ("points are behind", "estimate"),
    ],
)
def test_invalid_predictions_of_some_pairs_are_left_out(tmp_path: Path, invalid: str, poses: str):
    taken = shots(ARC)
    made, summary = run(tmp_path, taken, Failing(INVALID[invalid], 6), poses=poses)
    assert summary.pairs_rejected > summary.pairs / 8 and len(made.poses) > 8
    assert error_m(made, taken) < 0.1


def test_image_files_of_all_kinds_reach_the_alignment(tmp_path: Path):
    """With random weights, alignment usually fails; the error shows which files reach it."""
    folder = tmp_path / "photos"
    folder.mkdir()
    image_hw3 = shots(ARC[:1])[0].image()
    Image.fromarray(image_hw3).save(folder / "a.jpg")
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated by 90 degrees
    Image.fromarray(image_hw3).save(folder / "b.jpg", exif=exif)
    Image.fromarray(image_hw3[..., 0]).save(folder / "c.png")
    Image.fromarray(np.dstack([image_hw3, image_hw3[..., :1]])).save(folder / "d.png")
    (folder / "e.jpg").write_bytes((folder / "a.jpg").read_bytes()[:500])
    (folder / "f.png").write_bytes(b"no photograph")
    network = Dust3r(small_network(), "0" * 64, "cpu")
    unreadable, names = {"e", "f"}, {"a", "b", "c", "d"}
    try:
        scene, config = PhotoScene(folder), PhotographsConfig()
        poses = find_poses(scene, PosesConfig())
        made, summary = reconstruct(
            scene, poses, tmp_path / "out", network, config, CellsConfig(64, 8)
        )
    except ReconstructionError as error:
        assert "a, b, c, d: not connected" in str(error)
        index = json.loads((tmp_path / "out/work/predictions.json").read_text())
        sizes = {
            one["name"]: (one["live"]["width"], one["live"]["height"]) for one in index["frames"]
        }
        assert sizes["b"] == (72, 96) and {sizes[name] for name in "acd"} == {(96, 72)}
    else:
        assert set(made.poses) | set(summary.unused) == names | unreadable


# Interrupted runs


MOMENTS = (
    "predictions.json", "features/000002.npz", "pairs/000001-000003.npz", "reconstruction.json",
    "frames/shot0.npz", "frames/shot3.npz", "features", "work",
)  # fmt: skip


def interruptible() -> list[Shot]:
    taken = shots(ARC[:5])
    taken[4] = replace(taken[4], readable=False)
    return taken


def run_killed(folder: Path) -> None:
    """Run in child processes, each killed before it renames or deletes a certain file."""

    def kill_at(moment: str, real: Callable) -> Callable:
        def call(*args, **kwargs):
            if str(args[-1]).endswith(moment):
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **kwargs)

        return call

    for moment in MOMENTS:
        child = os.fork()
        if not child:
            os.replace = kill_at(moment, os.replace)
            shutil.rmtree = kill_at(moment, shutil.rmtree)
            run(folder, interruptible())
            os._exit(0)
        assert os.waitpid(child, 0)[1] == signal.SIGKILL, moment


def contents(folder: Path) -> dict[str, bytes]:
    """Return all files except hidden ones, which a killed run leaves."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith(".")
    }


def test_a_killed_and_resumed_run_has_the_same_result(tmp_path: Path):
    """In a separate process, because forking needs a process without threads."""
    code = "import sys, pathlib, test_photographs as t; t.run_killed(pathlib.Path(sys.argv[1]))"
    environment = {
        "PYTHONPATH": python_path(),
        "OMP_NUM_THREADS": "1",
    }
    subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "killed")],
        check=True,
        env={**os.environ, **environment},
    )
    assert any(
        (tmp_path / "killed").rglob("pairs/*.npz")
    )  # the last run was killed before it deleted them
    again, summary = run(tmp_path / "killed", interruptible())
    assert summary is None and list(again.poses) == ["shot0", "shot1", "shot2", "shot3"]
    whole, summary = run(tmp_path / "whole", interruptible())
    assert list(summary.unused) == ["shot4"]
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")
    assert len(contents(tmp_path / "whole")) == 1 + 4


def test_a_run_resumes_in_spite_of_different_rounding(tmp_path: Path, monkeypatch):
    taken = shots(ARC[:5], given=unknown)

    class Killed(Exception):
        pass

    def die(*_) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Reconstruction, "write_frame", die)
        with pytest.raises(Killed):
            run(tmp_path, taken)
    index = tmp_path / "reconstruction.json"
    begun = index.read_text()
    x = json.loads(begun)["frames"][1]["T_map_cam"][0][3]
    index.write_text(begun.replace(repr(x), repr(x + 1e-9)))
    begun = index.read_text()
    made, _ = run(tmp_path, taken)
    assert index.read_text() == begun and not made.missing()


def test_cells_outside_of_the_live_image_have_no_point(tmp_path: Path):
    pincushion = replace(CAMERA, distortion=(0.3, 0.0, 0.0, 0.0))
    taken = shots(ARC, (pincushion,))
    made, _ = run(tmp_path, taken)
    covered_hw = CanonicalView(pincushion, made.camera, made.stride).covered_hw
    assert 0.5 < covered_hw.mean() < 0.99
    for name in made.poses:
        frame = made.read_frame(name)
        assert not np.isfinite(frame.points_hw3[~covered_hw]).any()
        assert np.isinf(frame.sigma_hw[~covered_hw]).all()


@pytest.mark.parametrize("text", ["shot0,shot99=1", "missing:1:1,shot0:2:2=1"])
def test_lengths_between_unknown_photographs_are_rejected_at_once(tmp_path: Path, text: str):
    with pytest.raises(ReconstructionError, match="is none of the 10 photographs, such as 'shot0'"):
        run(tmp_path, shots(ARC, given=unknown), scale_from=(text,))
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize("finished", [True, False])
def test_a_changed_scene_is_rejected(tmp_path: Path, finished: bool):
    taken = shots(ARC[:4])
    run(tmp_path, taken)
    if not finished:
        (tmp_path / "frames/shot1.npz").unlink()
    error = "holds a reconstruction made with other frames or settings; delete the folder"
    for changed in (taken[:3], [*taken[:3], replace(taken[3], T_map_cam=np.eye(4))]):
        with pytest.raises(ReconstructionError, match=error):
            run(tmp_path, changed)
    with pytest.raises(ReconstructionError, match=error):
        run(tmp_path, taken, Network(noise=0.01))
