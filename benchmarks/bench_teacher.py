"""Measure the DUSt3R teacher with a simulated network, where the truth is known.

`python benchmarks/bench_teacher.py accuracy SCENE...` reconstructs scenes with depth, poses and
intrinsics from their images, with given and with estimated poses, and compares with the depth.
`python benchmarks/bench_teacher.py growth FOLDER` measures how time and memory grow with the number
of images. Both print Markdown.
"""

import itertools
import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np
import torch
import tyro
from scipy.optimize import minimize_scalar

import demo_room as room
from demo_room.record import write_scene
from distill_training.poses.image_pairs import choose_pairs
from distill_training.poses.poses_config import PosesConfig
from distill_training.poses.scene_poses import find_poses
from distill_training.reconstruction import Reconstruction
from distill_training.teachers import rgbd
from distill_training.teachers.pairwise import photographs
from distill_training.teachers.pairwise.pair_predictor import Encoded
from distill_training.teachers.pairwise.photo import take_photos
from distill_training.teachers.pairwise.predictions import Predictions
from distill_training.teachers.simulated import Simulated
from distill_training.teachers.teacher_config import (
    USUAL_CELLS,
    PhotographsConfig,
    RgbdConfig,
    SimulatedConfig,
)
from mote_localization.camera import Camera
from mote_localization.command_line import run_command
from mote_localization.geometry import invert, rotation_angle, transform
from mote_localization.scenes import Frame, Scene, Split
from mote_localization.scenes.folder import FolderScene
from mote_localization.similarity import similarity

_CAMERA = Camera(320, 240, 240.0, 240.0, 159.5, 119.5)  # of `growth`
_RATE_HZ = 5.0  # images per second of the drive, of `growth`
_LINEAR = 0.2  # largest relative difference of the time per image from that of the smallest run
_MAX_GROWTH_MB = 1.0  # largest growth of the peak memory per image


@dataclass(frozen=True)
class Accuracy:
    """Compare the teacher's points and poses with measured depth and given poses."""

    scenes: tyro.conf.Positional[tuple[Path, ...]]  # scenes with depth, poses and intrinsics
    seed: int = 0  # seed of the simulated errors

    def run(self) -> None:
        """Print a table for every scene; scenes that do not exist are skipped.

        Raises:
            MoteError: A scene lacks depth, poses or intrinsics.
        """
        for path in self.scenes:
            if not path.exists():
                print(f"{path}: skipped, not found\n")
                continue
            with tempfile.TemporaryDirectory() as folder:
                _compare(FolderScene(path), SimulatedConfig(seed=self.seed), Path(folder))


@dataclass(frozen=True)
class Growth:
    """Measure time and memory for growing numbers of images of the synthetic room."""

    folder: tyro.conf.Positional[Path]  # folder of the room's images, which are rendered once
    images: tuple[int, ...] = (100, 200, 400, 800)  # number of images in each run, ascending

    def run(self) -> None:
        """Print a table for given poses and one for estimated poses.

        Raises:
            MoteError: The folder cannot be used.
        """
        if not self.folder.exists():
            seconds = max(self.images) / _RATE_HZ
            write_scene(self.folder, room.drive(seconds, _RATE_HZ)[1], _CAMERA)
        for poses_known in (True, False):
            _grow(self.folder, self.images, poses_known)


class _PartialScene(Scene):
    """The first training frames of a scene, or all; poses and intrinsics can be hidden."""

    def __init__(self, scene: FolderScene, images: int | None = None) -> None:
        self.name, self.sequential = scene.name, scene.sequential
        self.truth = {f.name: f for f in itertools.islice(scene.frames("train"), images)}
        self._frames = list(self.truth.values())

    def without_poses(self, keep: Sequence[str] = (), camera: bool = False) -> "_PartialScene":
        """Return the scene with poses of the frames `keep` only, with or without intrinsics."""
        part = copy(self)
        part._frames = [
            replace(
                frame,
                camera=frame.camera if camera else None,
                T_map_cam=frame.T_map_cam if name in keep else None,
            )
            for name, frame in self.truth.items()
        ]
        return part

    def frames(self, split: Split) -> Iterator[Frame]:
        return iter(self._frames)

    def count(self, split: Split) -> int:
        return len(self.truth)


class _SimulatedFromTruth(Simulated):
    """A simulated network that reads depth and poses from the true frames, by name."""

    def __init__(self, truth: Mapping[str, Frame], config: SimulatedConfig) -> None:
        super().__init__(config)
        self._truth = truth

    def encode(self, frame: Frame, image_hw3: np.ndarray, live: Camera) -> Encoded:
        return super().encode(self._truth[frame.name], image_hw3, live)


def _compare(scene: FolderScene, config: SimulatedConfig, folder: Path) -> None:
    """Print a table of the teacher's errors for several sets of given poses and intrinsics."""
    measured = rgbd.reconstruct(scene, find_poses(scene), folder / "measured", RgbdConfig())
    part = _PartialScene(scene)
    predictor = _SimulatedFromTruth(part.truth, config)
    single_m = _single_pairs(part, predictor, measured, folder / "pairs")
    ends, metres = _farthest(measured)
    length = f"{','.join(ends)}={metres}"
    runs: dict[str, tuple[_PartialScene, tuple[str, ...]]] = {
        "poses, intrinsics given": (part, ()),
        "poses estimated": (part.without_poses(camera=True), ()),
        "both estimated": (part.without_poses(), ()),
        f"and {metres:.2f} m between two cameras known": (part.without_poses(), (length,)),
        "and two poses known": (part.without_poses(ends), ()),
    }
    columns = {}
    for number, (name, (some, lengths)) in enumerate(runs.items()):
        start_s, start_cpu_s = time.perf_counter(), time.process_time()
        known = PosesConfig(scale_from=lengths)
        poses = find_poses(some, known)
        made, summary = photographs.reconstruct(
            some, poses, folder / str(number), predictor, PhotographsConfig(), known=known
        )
        seconds = time.perf_counter() - start_s, time.process_time() - start_cpu_s
        assert summary is not None
        columns[name] = {
            "images used": f"{len(made.poses)} of {summary.images}",
            "pairs rejected": f"{summary.pairs_rejected} of {summary.pairs}",
            **_errors(made, measured, some is not part, single_m),
            "focal length error": f"{made.camera.fx / measured.camera.fx - 1:+.2%}",
            "distance of overlapping pointmaps, median": f"{summary.agreement_cm:.2f}"
            + (" cm" if summary.metric else " % of a unit"),
            "seconds, CPU seconds": f"{seconds[0]:.0f}, {seconds[1]:.0f}",
        }
    print(f"| {scene.name} | " + " | ".join(columns) + " |")
    print("|---" * (1 + len(columns)) + "|")
    for row in next(iter(columns.values())):
        print(f"| {row} | " + " | ".join(column[row] for column in columns.values()) + " |")
    print("")


def _errors(
    made: Reconstruction, measured: Reconstruction, estimated: bool, single_m: float
) -> dict[str, str]:
    """Return rows of the table: errors of pointmaps and poses against measured ones.

    Estimated poses are aligned by a similarity first. `single_m` is the error of single pairs, m.
    """
    T_made, T_true = (np.array([r.poses[name] for name in made.poses]) for r in (made, measured))
    scale, T = 1.0, np.eye(4)
    if estimated:
        scale, T = similarity(T_made[:, :3, 3], T_true[:, :3, 3])
    position_m3 = transform(T, scale * T_made[:, :3, 3]) - T_true[:, :3, 3]
    R_errors = np.swapaxes(T[:3, :3] @ T_made[:, :3, :3], 1, 2) @ T_true[:, :3, :3]
    rotation_deg = np.degrees([rotation_angle(R) for R in R_errors])
    in_map: list[np.ndarray] = []
    in_camera: list[np.ndarray] = []
    with_point: list[float] = []
    for name, T_cam_made, T_cam_true in zip(
        made.poses, map(invert, T_made), map(invert, T_true), strict=True
    ):
        one, truth_hw3 = made.read_frame(name), measured.read_frame(name).points_hw3
        points_hw3, sigma_hw = scale * one.points_hw3, scale * one.sigma_hw
        T_cam_made[:3, 3] *= scale
        for errors, error_hw3 in (
            (in_map, transform(T, points_hw3) - truth_hw3),
            (in_camera, transform(T_cam_made, points_hw3) - transform(T_cam_true, truth_hw3)),
        ):
            error_hw = np.linalg.norm(error_hw3, axis=-1)
            known_hw = np.isfinite(error_hw)
            errors.append(np.stack([error_hw[known_hw], sigma_hw[known_hw]]))
        with_point.append(float(np.isfinite(one.points_hw3).all(axis=-1).mean()))
    (map_m, map_sigma_m), (cam_m, cam_sigma_m) = (
        np.concatenate(errors, axis=1) for errors in (in_map, in_camera)
    )
    median_m = float(np.median(map_m))
    return {
        "cells with a point": f"{np.mean(with_point):.0%}",
        "fused pointmap, median error": f"{100 * median_m:.2f} cm",
        "the same, in the frame of its camera": f"{100 * np.median(cam_m):.2f} cm",
        "single pair at its best scale": f"{100 * single_m:.2f} cm",
        "times better": f"{single_m / median_m:.1f}",
        "true errors inside 2 sigma": f"{(map_m < 2 * map_sigma_m).mean():.1%}",
        "inside, in the frame of its camera": f"{(cam_m < 2 * cam_sigma_m).mean():.1%}",
        "positions, RMSE": f"{100 * np.sqrt((position_m3**2).sum(axis=1).mean()):.2f} cm",
        "rotation error: RMS, median, largest": (
            f"{np.sqrt((rotation_deg**2).mean()):.2f}°, {np.median(rotation_deg):.2f}°, "
            f"{rotation_deg.max():.2f}°"
        ),
        "scale error": f"{1 / scale - 1:+.2%}" if estimated and made.metric else "",
    }


def _single_pairs(
    scene: _PartialScene, predictor: Simulated, measured: Reconstruction, folder: Path
) -> float:
    """Return the median error (m) of single pairs, for the image whose camera frame they use.

    Each pair is scaled to its least median error, for which the truth is needed.
    """
    photos = take_photos(scene, predictor, "given", USUAL_CELLS)[0]
    predictions = Predictions(folder, predictor, photos, USUAL_CELLS.stride)
    predictions.encode()
    pairs = choose_pairs(
        PhotographsConfig().pairs,
        predictions.descriptors(range(len(photos))),
        [photo.live for photo in photos],
        [photo.frame.known_pose() for photo in photos],
        scene.sequential,
    )
    predictions.decode(pairs)
    errors_m = [
        _errors_at_best_scale(
            one.own_hw3,
            transform(
                invert(photos[one.i].frame.known_pose()),
                measured.read_frame(photos[one.i].frame.name).points_hw3,
            ),
        )
        for pair in pairs
        for one in predictions.read(*pair)
    ]
    return float(np.median(np.concatenate(errors_m)))


def _errors_at_best_scale(points_hw3: np.ndarray, truth_hw3: np.ndarray) -> np.ndarray:
    """Return the errors (n,) of a pointmap at the scale where their median is least."""
    known_hw = np.isfinite(points_hw3).all(axis=-1) & np.isfinite(truth_hw3).all(axis=-1)
    points, truth = points_hw3[known_hw].astype(float), truth_hw3[known_hw].astype(float)
    if not len(points):
        return np.empty(0)

    def errors(log_scale: float) -> np.ndarray:
        return np.linalg.norm(np.exp(log_scale) * points - truth, axis=-1)

    start = float(np.median(np.log(truth[:, 2] / points[:, 2].clip(1e-6))))
    best = minimize_scalar(
        lambda log_scale: np.median(errors(log_scale)),
        bounds=(start - 0.3, start + 0.3),
        method="bounded",
    )
    return errors(best.x)


def _farthest(measured: Reconstruction) -> tuple[tuple[str, str], float]:
    """Return the names of the two cameras farthest apart, and their distance, m."""
    names = list(measured.poses)
    at_n3 = np.array([T[:3, 3] for T in measured.poses.values()])
    distance_nn = np.linalg.norm(at_n3[:, None] - at_n3, axis=-1)
    i, j = np.unravel_index(distance_nn.argmax(), distance_nn.shape)
    return (names[i], names[j]), float(distance_nn[i, j])


@dataclass(frozen=True)
class _Cost:
    """Time and memory of a run."""

    pairs: int
    used: int
    seconds: float
    cpu_seconds: float
    peak_mb: float


def _grow(path: Path, counts: Sequence[int], poses_known: bool) -> None:
    """Print time and memory of runs with growing numbers of images, each in a new process."""
    poses = "given" if poses_known else "estimated"
    print(
        f"| images, poses {poses} | used | pairs | seconds | CPU seconds | CPU time per image "
        "| relative to the first run | peak | growth per image |\n" + "|---" * 9 + "|"
    )
    first: _Cost | None = None
    within = True
    for count in counts:
        with get_context("spawn").Pool(1) as pool:
            cost = pool.apply(_cost, (path, count, poses_known))
        per_image_s = cost.cpu_seconds / count
        first = first or cost
        ratio = per_image_s / (first.cpu_seconds / counts[0])
        growth_mb = (cost.peak_mb - first.peak_mb) / max(count - counts[0], 1)
        within &= abs(ratio - 1) <= _LINEAR and growth_mb < _MAX_GROWTH_MB
        print(
            f"| {count} | {cost.used} | {cost.pairs} | {cost.seconds:.1f} | {cost.cpu_seconds:.1f} "
            f"| {1000 * per_image_s:.0f} ms | {ratio:.2f} | {cost.peak_mb:.0f} MB "
            + (f"| {growth_mb:.2f} MB |" if count > counts[0] else "| |")
        )
    bounds = f"less than {_MAX_GROWTH_MB:g} MB per image, time linear within {_LINEAR:.0%}"
    print(f"\n{bounds}: {'yes' if within else 'no'}\n")


def _cost(path: Path, count: int, poses_known: bool) -> _Cost:
    """Reconstruct the first images of a scene, and measure time and memory after the imports."""
    _on_one_core()
    part = _PartialScene(FolderScene(path), count)
    start_s, start_cpu_s = time.perf_counter(), time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        images = part if poses_known else part.without_poses()
        made, summary = photographs.reconstruct(
            images,
            find_poses(images, PosesConfig()),
            Path(folder),
            _SimulatedFromTruth(part.truth, SimulatedConfig()),
            PhotographsConfig(),
        )
    assert summary is not None
    return _Cost(
        summary.pairs,
        len(made.poses),
        time.perf_counter() - start_s,
        time.process_time() - start_cpu_s,
        _peak_mb(),
    )


def _peak_mb() -> float:
    """Return the peak resident memory of this process, MB."""
    # not from getrusage, which includes the memory of the parent process before the fork
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024 / 1e6


def _on_one_core() -> None:
    torch.set_num_threads(1)
    cv2.setNumThreads(1)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    _on_one_core()
    run_command(
        {"accuracy": Accuracy, "growth": Growth},
        "bench_teacher",
        "Measure the DUSt3R teacher with a simulated network.",
    )
