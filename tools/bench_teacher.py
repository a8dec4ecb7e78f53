"""Measure the DUSt3R teacher with a simulated network, where the truth is known.

`python tools/bench_teacher.py accuracy SCENE...` reconstructs scenes with depth, poses and
intrinsics from their images, with poses and without, and compares with the depth.
`python tools/bench_teacher.py growth FOLDER` shows how time and memory grow with the images.
Both print Markdown.
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
from distill_training.reconstruction import Reconstruction
from distill_training.teachers import rgbd
from distill_training.teachers.pairwise import photographs
from distill_training.teachers.pairwise.pair_predictor import Encoded
from distill_training.teachers.pairwise.predictions import Predictions
from distill_training.teachers.simulated import Simulated
from distill_training.teachers.teacher_config import (
    USUAL_CELLS,
    PhotographsConfig,
    RgbdConfig,
    SimulatedConfig,
)
from mote_localization.camera import Camera, canonical_camera
from mote_localization.command_line import run_command
from mote_localization.geometry import invert, rotation_angle, similarity, transform
from mote_localization.scenes import Frame, Scene, Split
from mote_localization.scenes.folder import FolderScene

_CAMERA = Camera(320, 240, 240.0, 240.0, 159.5, 119.5)  # of the images whose number grows
_RATE_HZ = 5.0  # of the drive they are taken from
_LINEAR = 0.2  # by which the time an image may differ from that of the smallest run
_MOST_MB = 1.0  # by which the peak may grow an image


@dataclass(frozen=True)
class Accuracy:
    """Compare what the teacher says with measured depth and poses."""

    scenes: tyro.conf.Positional[tuple[Path, ...]]  # with depth, poses and intrinsics
    seed: int = 0  # of the simulated errors

    def run(self) -> None:
        """Print a table for every scene; one that cannot be used is skipped, and says why.

        Raises:
            MoteError: A scene lacks something.
        """
        for path in self.scenes:
            if not path.exists():
                print(f"{path}: skipped, it is not there\n")
                continue
            with tempfile.TemporaryDirectory() as folder:
                _compare(FolderScene(path), SimulatedConfig(seed=self.seed), Path(folder))


@dataclass(frozen=True)
class Growth:
    """Measure time and memory for more and more images of the synthetic room."""

    folder: tyro.conf.Positional[Path]  # where the room's images are; rendered where they are not
    images: tuple[int, ...] = (100, 200, 400, 800)  # in each run, the smallest number first

    def run(self) -> None:
        """Print a table for given poses and one for estimated poses.

        Raises:
            MoteError: The folder cannot be used.
        """
        if not self.folder.exists():
            most = max(self.images)
            write_scene(self.folder, room.drive(most / _RATE_HZ, _RATE_HZ)[1], _CAMERA)
        for poses_known in (True, False):
            _grow(self.folder, self.images, poses_known)


class _Part(Scene):
    """The first training frames of a scene, or all; they tell less than is known of them."""

    def __init__(self, scene: FolderScene, images: int | None = None) -> None:
        self.name, self.sequential = scene.name, scene.sequential
        self.truth = {f.name: f for f in itertools.islice(scene.frames("train"), images)}
        self._told = list(self.truth.values())

    def blind(self, posed: Sequence[str] = (), lens: bool = False) -> "_Part":
        """Return the same without poses but for those of some frames, perhaps with intrinsics."""
        part = copy(self)
        part._told = [
            replace(
                frame,
                camera=frame.camera if lens else None,
                T_map_cam=frame.T_map_cam if name in posed else None,
            )
            for name, frame in self.truth.items()
        ]
        return part

    def frames(self, split: Split) -> Iterator[Frame]:
        return iter(self._told)

    def count(self, split: Split) -> int:
        return len(self.truth)


class _Knowing(Simulated):
    """A simulated network that knows the truth of frames which do not tell it themselves."""

    def __init__(self, truth: Mapping[str, Frame], config: SimulatedConfig) -> None:
        super().__init__(config)
        self._truth = truth

    def encode(self, frame: Frame, image_hw3: np.ndarray, live: Camera) -> Encoded:
        return super().encode(self._truth[frame.name], image_hw3, live)


def _compare(scene: FolderScene, config: SimulatedConfig, folder: Path) -> None:
    """Print what the teacher says of a scene with poses, and without, knowing this and that."""
    measured = rgbd.reconstruct(scene, folder / "measured", RgbdConfig())
    part = _Part(scene)
    predictor = _Knowing(part.truth, config)
    single_m = _single_pairs(part, predictor, measured, folder / "pairs")
    ends, metres = _farthest(measured)
    length = f"{','.join(ends)}={metres}"
    runs: dict[str, tuple[_Part, tuple[str, ...]]] = {
        "poses, intrinsics given": (part, ()),
        "poses estimated": (part.blind(lens=True), ()),
        "both estimated": (part.blind(), ()),
        f"and {metres:.2f} m between two cameras known": (part.blind(), (length,)),
        "and two poses known": (part.blind(ends), ()),
    }
    columns = {}
    for number, (name, (some, lengths)) in enumerate(runs.items()):
        start_s, start_cpu_s = time.perf_counter(), time.process_time()
        made, summary = photographs.reconstruct(
            some, folder / str(number), predictor, PhotographsConfig(scale_from=lengths)
        )
        seconds = time.perf_counter() - start_s, time.process_time() - start_cpu_s
        assert summary is not None
        columns[name] = {
            "images used": f"{len(made.poses)} of {summary.images}",
            "pairs refused": f"{summary.pairs_refused} of {summary.pairs}",
            **_errors(made, measured, some is not part, single_m),
            "focal length off by": f"{made.camera.fx / measured.camera.fx - 1:+.2%}",
            "overlapping pointmaps apart, median": f"{summary.agreement_cm:.2f}"
            + (" cm" if summary.metric else " % of a unit"),
            "seconds, of a processor": f"{seconds[0]:.0f}, {seconds[1]:.0f}",
        }
    print(f"| {scene.name} | " + " | ".join(columns) + " |")
    print("|---" * (1 + len(columns)) + "|")
    for row in next(iter(columns.values())):
        print(f"| {row} | " + " | ".join(column[row] for column in columns.values()) + " |")
    print("")


def _errors(
    made: Reconstruction, measured: Reconstruction, estimated: bool, single_m: float
) -> dict[str, str]:
    """Compare pointmaps with measured ones, in the map's frame, and poses with given ones."""
    T_made, T_true = (np.array([r.poses[name] for name in made.poses]) for r in (made, measured))
    scale, T = 1.0, np.eye(4)
    if estimated:
        scale, T = similarity(T_made[:, :3, 3], T_true[:, :3, 3])
    off_m = transform(T, scale * T_made[:, :3, 3]) - T_true[:, :3, 3]
    turned = T[:3, :3] @ T_made[:, :3, :3]
    turns = np.swapaxes(turned, 1, 2) @ T_true[:, :3, :3]
    turns_deg = np.degrees([rotation_angle(R) for R in turns])
    in_map: list[np.ndarray] = []
    in_camera: list[np.ndarray] = []
    shares: list[float] = []
    for name, T_cam_made, T_cam_true in zip(
        made.poses, map(invert, T_made), map(invert, T_true), strict=True
    ):
        one, truth_hw3 = made.read_frame(name), measured.read_frame(name).points_hw3
        points_hw3, sigma_hw = scale * one.points_hw3, scale * one.sigma_hw
        T_cam_made[:3, 3] *= scale
        for errors, apart_hw3 in (
            (in_map, transform(T, points_hw3) - truth_hw3),
            (in_camera, transform(T_cam_made, points_hw3) - transform(T_cam_true, truth_hw3)),
        ):
            error_hw = np.linalg.norm(apart_hw3, axis=-1)
            known_hw = np.isfinite(error_hw)
            errors.append(np.stack([error_hw[known_hw], sigma_hw[known_hw]]))
        shares.append(float(np.isfinite(one.points_hw3).all(axis=-1).mean()))
    (map_m, map_sigma_m), (cam_m, cam_sigma_m) = (
        np.concatenate(errors, axis=1) for errors in (in_map, in_camera)
    )
    median_m = float(np.median(map_m))
    return {
        "cells with a point": f"{np.mean(shares):.0%}",
        "fused pointmap off by, median": f"{100 * median_m:.2f} cm",
        "fused, seen from the own camera": f"{100 * np.median(cam_m):.2f} cm",
        "single pair at its best scale": f"{100 * single_m:.2f} cm",
        "times better": f"{single_m / median_m:.1f}",
        "true errors inside 2 sigma": f"{(map_m < 2 * map_sigma_m).mean():.1%}",
        "inside, seen from the own camera": f"{(cam_m < 2 * cam_sigma_m).mean():.1%}",
        "positions off by, RMSE": f"{100 * np.sqrt((off_m**2).sum(axis=1).mean()):.2f} cm",
        "rotations off by, RMS, median, most": (
            f"{np.sqrt((turns_deg**2).mean()):.2f}°, {np.median(turns_deg):.2f}°, "
            f"{turns_deg.max():.2f}°"
        ),
        "scale off by": f"{1 / scale - 1:+.2%}" if estimated and made.metric else "",
    }


def _single_pairs(
    scene: _Part, predictor: Simulated, measured: Reconstruction, folder: Path
) -> float:
    """Return the median error (m) of pairs alone, of the image in whose frame they are.

    Each is scaled to where its median error is least, which takes the truth to know.
    """
    frames = list(scene.frames("train"))
    live = [frame.known_camera() for frame in frames]
    cells = USUAL_CELLS
    grids = [canonical_camera(camera, cells.width, cells.stride) for camera in live]
    names = [frame.name for frame in frames]
    predictions = Predictions(folder, predictor, names, live, grids, cells.stride)
    predictions.encode(frames)
    pairs = choose_pairs(
        PhotographsConfig().pairs,
        predictions.descriptors(range(len(frames))),
        live,
        [frame.known_pose() for frame in frames],
        scene.sequential,
    )
    predictions.decode(pairs)
    errors_m = [
        _best_scaled(
            one.own_hw3,
            transform(
                invert(frames[one.i].known_pose()), measured.read_frame(names[one.i]).points_hw3
            ),
        )
        for pair in pairs
        for one in predictions.read(*pair)
    ]
    return float(np.median(np.concatenate(errors_m)))


def _best_scaled(said_hw3: np.ndarray, truth_hw3: np.ndarray) -> np.ndarray:
    """Return the errors (n,) of a pointmap scaled to where their median is least."""
    known_hw = np.isfinite(said_hw3).all(axis=-1) & np.isfinite(truth_hw3).all(axis=-1)
    said, truth = said_hw3[known_hw].astype(float), truth_hw3[known_hw].astype(float)
    if not len(said):
        return np.empty(0)

    def errors(log_scale: float) -> np.ndarray:
        return np.linalg.norm(np.exp(log_scale) * said - truth, axis=-1)

    start = float(np.median(np.log(truth[:, 2] / said[:, 2].clip(1e-6))))
    best = minimize_scalar(
        lambda log_scale: np.median(errors(log_scale)),
        bounds=(start - 0.3, start + 0.3),
        method="bounded",
    )
    return errors(best.x)


def _farthest(measured: Reconstruction) -> tuple[tuple[str, str], float]:
    """Return the two cameras that are farthest apart, and their distance, m."""
    names = list(measured.poses)
    at_n3 = np.array([T[:3, 3] for T in measured.poses.values()])
    distance_nn = np.linalg.norm(at_n3[:, None] - at_n3, axis=-1)
    i, j = np.unravel_index(distance_nn.argmax(), distance_nn.shape)
    return (names[i], names[j]), float(distance_nn[i, j])


@dataclass(frozen=True)
class _Cost:
    """What a run took, after its imports."""

    pairs: int
    used: int
    seconds: float
    cpu_seconds: float
    peak_mb: float


def _grow(path: Path, counts: Sequence[int], poses_known: bool) -> None:
    """Print time and memory of runs with so many images, each in a process of its own."""
    said = "given" if poses_known else "estimated"
    print(
        f"| images, poses {said} | used | pairs | seconds | of a processor | the same, an image "
        "| beside the first run | peak | growth an image |\n" + "|---" * 9 + "|"
    )
    least: _Cost | None = None
    within = True
    for count in counts:
        with get_context("spawn").Pool(1) as pool:
            cost = pool.apply(_cost, (path, count, poses_known))
        an_image = cost.cpu_seconds / count
        least = least or cost
        slower = an_image / (least.cpu_seconds / counts[0])
        growth_mb = (cost.peak_mb - least.peak_mb) / max(count - counts[0], 1)
        within &= abs(slower - 1) <= _LINEAR and growth_mb < _MOST_MB
        print(
            f"| {count} | {cost.used} | {cost.pairs} | {cost.seconds:.1f} | {cost.cpu_seconds:.1f} "
            f"| {1000 * an_image:.0f} ms | {slower:.2f} | {cost.peak_mb:.0f} MB "
            + (f"| {growth_mb:.2f} MB |" if count > counts[0] else "| |")
        )
    bounds = f"less than {_MOST_MB:g} MB an image, time linear within {_LINEAR:.0%}"
    print(f"\n{bounds}: {'yes' if within else 'no'}\n")


def _cost(path: Path, count: int, poses_known: bool) -> _Cost:
    """Reconstruct the first images of a scene."""
    _on_one_core()
    part = _Part(FolderScene(path), count)
    start_s, start_cpu_s = time.perf_counter(), time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        made, summary = photographs.reconstruct(
            part if poses_known else part.blind(),
            Path(folder),
            _Knowing(part.truth, SimulatedConfig()),
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
    """Return the most memory that this process has had.

    Not that of getrusage, which counts what the process was forked from.
    """
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
        "Measures the DUSt3R teacher with a simulated network.",
    )
