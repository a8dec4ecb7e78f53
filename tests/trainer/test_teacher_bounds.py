"""Accuracy of reconstructions from photographs with simulated predictions of known error."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed")
import demo_room as room  # noqa: E402
from distill_training.poses.image_pairs import overlapping_pairs  # noqa: E402
from distill_training.poses.poses_config import (
    PairsConfig,  # noqa: E402
    PosesConfig,  # noqa: E402
)
from distill_training.poses.scene_poses import find_poses  # noqa: E402
from distill_training.reconstruction import Reconstruction  # noqa: E402
from distill_training.teachers import rgbd  # noqa: E402
from distill_training.teachers.pairwise.cells import reduce_to_cells  # noqa: E402
from distill_training.teachers.pairwise.pair_predictor import Encoded, Pointmap  # noqa: E402
from distill_training.teachers.pairwise.photographs import PhotographsConfig, Summary, reconstruct  # noqa: E402
from distill_training.teachers.simulated import Simulated, SimulatedConfig  # noqa: E402
from distill_training.teachers.teacher_config import RgbdConfig  # noqa: E402
from mote_localization.camera import Camera, canonical_camera  # noqa: E402
from mote_localization.geometry import invert, rotation_angle, transform  # noqa: E402
from mote_localization.scenes import Frame, Scene, open_scene  # noqa: E402
from mote_localization.similarity import similarity  # noqa: E402

pytestmark = pytest.mark.train

EVERY = 5  # every fifth training frame of the kitchen is used


class Photograph(Frame):
    """A frame in memory; pose, intrinsics and depth are optional."""

    def __init__(self, name, camera, T_map_cam, image_hw3, depth_hw=None) -> None:
        self.name, self.stamp_s = name, 0.0
        self.camera, self.T_map_cam = camera, T_map_cam
        self._image_hw3, self._depth_hw = image_hw3, depth_hw

    def image(self) -> np.ndarray:
        return self._image_hw3

    def depth(self) -> np.ndarray | None:
        return self._depth_hw


class Some(Scene):
    """A scene of given training frames."""

    name = "some"

    def __init__(self, frames: Sequence[Frame]) -> None:
        self._frames = frames

    def frames(self, split: str) -> Iterator[Frame]:
        return iter(self._frames)

    def count(self, split: str) -> int:
        return len(self._frames)


class TruthByName(Simulated):
    """A simulated network that reads depth and poses from other frames of the same names."""

    def __init__(self, frames: Sequence[Frame]) -> None:
        super().__init__(SimulatedConfig())
        self._truth = {frame.name: frame for frame in frames}

    def encode(self, frame: Frame, image_hw3: np.ndarray, live: Camera) -> Encoded:
        return super().encode(self._truth[frame.name], image_hw3, live)


@dataclass(frozen=True)
class Outcome:
    """Errors of a reconstruction."""

    summary: Summary
    scale: float  # true metres per unit of the reconstruction, from the positions
    offsets_i: np.ndarray  # m, position errors, after a similarity to the truth
    angles_i: np.ndarray  # rad, rotation errors, likewise
    errors_ihw: np.ndarray  # m, errors of points in the camera frame, at that scale
    sigmas_ihw: np.ndarray  # m

    @property
    def inside(self) -> float:
        """Fraction of points with an error below 2 sigma."""
        measured = np.isfinite(self.errors_ihw)
        return float((self.errors_ihw < 2 * self.sigmas_ihw)[measured].mean())


def outcome(found: Reconstruction, summary: Summary | None, truth: Reconstruction) -> Outcome:
    assert summary is not None
    T_i44 = np.array(list(found.poses.values()))
    T_true_i44 = np.array([truth.poses[name] for name in found.poses])
    scale, T = similarity(T_i44[:, :3, 3], T_true_i44[:, :3, 3])
    offsets_i3 = transform(T, scale * T_i44[:, :3, 3]) - T_true_i44[:, :3, 3]
    R_i33 = T_true_i44[:, :3, :3].transpose(0, 2, 1) @ T[:3, :3] @ T_i44[:, :3, :3]
    errors, sigmas = [], []
    for name in found.poses:
        errors.append(np.linalg.norm(scale * local(found, name) - local(truth, name), axis=-1))
        sigmas.append(scale * found.read_frame(name).sigma_hw)
    return Outcome(
        summary,
        scale,
        np.linalg.norm(offsets_i3, axis=1),
        np.array([rotation_angle(R) for R in R_i33]),
        np.array(errors),
        np.array(sigmas),
    )


def local(reconstruction: Reconstruction, name: str) -> np.ndarray:
    """Return the points of a frame, camera frame."""
    return transform(invert(reconstruction.poses[name]), reconstruction.read_frame(name).points_hw3)


def measure(frames: Sequence[Frame], folder: Path) -> Reconstruction:
    """Return the reconstruction from measured depth."""
    scene = Some(frames)
    return rgbd.reconstruct(scene, find_poses(scene), folder, RgbdConfig())


def from_photographs(
    frames: Sequence[Frame], folder: Path, predictor: Simulated, known: PosesConfig
) -> tuple[Reconstruction, Summary | None]:
    """Return the reconstruction from photographs, and its summary."""
    scene = Some(frames)
    poses, config = find_poses(scene, known), PhotographsConfig()
    return reconstruct(scene, poses, folder, predictor, config, known=known)


def rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


def error_of_single_pairs(frames: Sequence[Frame], truth: Reconstruction) -> float:
    """Return the median error (m) of the points of single pairs, each at its best scale."""
    predictor = Simulated(SimulatedConfig())
    camera = frames[0].known_camera()
    grid = canonical_camera(camera, truth.camera.width, truth.stride)
    poses = np.array([frame.known_pose() for frame in frames])
    pairs = overlapping_pairs(poses, [camera] * len(frames), PairsConfig())[::15]
    errors = []
    for i, j in pairs:
        ones, others = ([predictor.encode(frames[k], np.empty(0), camera)] for k in (i, j))
        predicted = predictor.decode(ones, others)[0].first
        points = reduce_to_cells(
            Pointmap(predicted.points_bhw3, predicted.confidence_bhw),
            ones[0].camera,
            grid,
            truth.stride,
        )[0][0].numpy()
        true = local(truth, frames[i].name)
        scale = np.nanmedian(np.linalg.norm(true, axis=-1) / np.linalg.norm(points, axis=-1))
        errors.append(np.linalg.norm(scale * points - true, axis=-1).ravel())
    return float(np.nanmedian(np.concatenate(errors)))


@pytest.fixture(scope="module")
def frames(kitchen: Path) -> list[Frame]:
    return list(open_scene(kitchen).frames("train"))[::EVERY]


@pytest.fixture(scope="module")
def truth(frames, tmp_path_factory) -> Reconstruction:
    return measure(frames, tmp_path_factory.mktemp("truth"))


@pytest.fixture(scope="module")
def posed(frames, truth, tmp_path_factory) -> Outcome:
    """The kitchen from half as many photographs, with poses and intrinsics."""
    folder = tmp_path_factory.mktemp("posed")
    predictor = Simulated(SimulatedConfig())
    return outcome(*from_photographs(frames[::2], folder, predictor, PosesConfig()), truth)


@pytest.fixture(scope="module")
def unposed(frames, truth, tmp_path_factory) -> Outcome:
    """The kitchen from photographs alone, and the distance of two of them."""
    positions = np.array([frame.known_pose()[:3, 3] for frame in frames])
    apart_m = np.linalg.norm(positions[:, None] - positions, axis=-1)
    one, other = np.unravel_index(apart_m.argmax(), apart_m.shape)
    length = f"{frames[one].name},{frames[other].name}={apart_m.max()}"
    photographs = [Photograph(f.name, None, None, f.image()) for f in frames]
    folder, config = tmp_path_factory.mktemp("unposed"), PosesConfig(scale_from=(length,))
    return outcome(*from_photographs(photographs, folder, TruthByName(frames), config), truth)


def test_fused_pairs_with_known_poses_are_more_accurate_than_single_pairs(frames, truth, posed):
    error_m = np.nanmedian(posed.errors_ihw)
    assert error_m < 0.02
    assert error_m < error_of_single_pairs(frames, truth) / 2.5


def test_sigma_covers_the_error_with_known_poses(posed):
    assert 0.85 < posed.inside < 0.98


def test_photographs_alone_give_poses_and_focal_length(frames, truth, unposed):
    assert len(unposed.offsets_i) > 0.95 * len(frames)
    assert rms(unposed.offsets_i) < 0.03
    assert np.degrees(rms(unposed.angles_i)) < 1
    assert unposed.summary.focal_px == pytest.approx([truth.camera.fx], rel=0.02)


def test_a_length_between_two_cameras_gives_the_scale(unposed):
    assert unposed.summary.metric
    assert unposed.scale == pytest.approx(1, abs=0.02)


def test_sigma_covers_the_error_with_estimated_poses(unposed):
    assert 0.85 < unposed.inside < 0.98


@pytest.fixture(scope="module")
def of_room(tmp_path_factory) -> Outcome:
    """The synthetic room with poses and intrinsics."""
    camera = room.CAMERA.resized(320, 240)
    frames = [
        Photograph(f"{i:02d}", camera, T, *room.render(T, camera))
        for i, T in enumerate(room.drive(10.0, 2.0, seed=5)[1])
    ]
    truth = measure(frames, tmp_path_factory.mktemp("room"))
    folder = tmp_path_factory.mktemp("posed_room")
    predictor = Simulated(SimulatedConfig())
    return outcome(*from_photographs(frames, folder, predictor, PosesConfig()), truth)


def test_pointmaps_and_sigmas_of_the_synthetic_room_are_as_accurate(of_room):
    assert np.nanmedian(of_room.errors_ihw) < 0.02
    assert 0.85 < of_room.inside < 0.98
