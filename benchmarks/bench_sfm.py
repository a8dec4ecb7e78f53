"""Structure from motion on difficult inputs: is a wrong model ever accepted?

Usage: `python benchmarks/bench_sfm.py --scenes redkitchen lounge --room build/room --cases 100`.
Prints Markdown. Each case takes 24 to 50 consecutive frames of a scene and makes them worse. Parts
that are accepted are compared with the given poses after fitting a similarity: a part is wrong if
the median distance of its cameras is above 2 % of the extent of the part's cameras and points, for
the kitchen against poses of structure from motion over all sequences.

    dropped      a third of the frames is missing
    rooms        frames of two rooms, one after the other
    pan          the camera rotates in one place
    blur         a third of the frames is blurred
    focal        the given focal length is wrong by 10 %
    look-alike   the same picture hangs on two opposite walls of the demo room
    walk         frames of a walk without loops
"""

import logging
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import tyro

from distill_training.poses.poses_config import SfmConfig
from distill_training.poses.sfm.sfm_images import take_images
from distill_training.poses.sfm.sfm_model import Model
from distill_training.poses.sfm.structure_from_motion import structure_from_motion
from mote_localization.camera import Camera
from mote_localization.command_line import one_line_errors
from mote_localization.errors import ReconstructionError
from mote_localization.geometry import transform
from mote_localization.scenes import Frame, Scene, Split, open_scene
from mote_localization.similarity import similarity

_WRONG = 0.02  # of the extent: median distance of the cameras of a wrong part
_WINDOW = (24, 36)  # frames of a case
_LOOK_ALIKE = 50  # frames of a case with look-alike views: most of a drive through the room
_MOVED_M = 0.01  # m; cameras that move less do not determine a scene
_WALLS = (0.02, 5.98)  # m, x of the two walls of the demo room with the same picture
_PICTURE_M = ((1.2, 3.2), (0.7, 2.2))  # y and z of that picture


@dataclass(frozen=True)
class Shot(Frame):
    """A frame in memory, and its true pose, which structure from motion does not see."""

    name: str
    camera: Camera | None
    image_hw3: np.ndarray
    T_true: np.ndarray
    room: str
    stamp_s: float = 0.0
    T_map_cam: None = None

    def image(self) -> np.ndarray:
        """Return image_hw3; see `Frame.image`."""
        return self.image_hw3


@dataclass(frozen=True)
class Shots(Scene):
    """A scene of such frames."""

    shots: Sequence[Shot]
    name: str = "case"

    def frames(self, split: Split) -> Iterator[Shot]:
        """Iterate over the frames."""
        return iter(self.shots)

    def count(self, split: Split) -> int:
        """Return the number of frames."""
        return len(self.shots)


@dataclass(frozen=True)
class Outcome:
    """What structure from motion did with a case."""

    kind: str
    source: str
    images: int
    accepted: int  # images in accepted parts
    wrong: int  # images in accepted parts that are wrong
    worst: float  # largest error of a part, fraction of its extent
    seconds: float
    reason: str  # why nothing was accepted; else empty


@dataclass(frozen=True)
class Bench:
    """Run structure from motion on difficult inputs."""

    scenes: tuple[Path, ...]  # scene folders with poses
    room: Path | None = None  # scene folder of the demo room, for look-alike views
    kitchen_truth: Path | None = None  # scene folder with better poses for the scene `redkitchen`
    cases: int = 100
    first: int = 0  # number of the first case, to go on after a part of them
    kinds: tuple[str, ...] = ()  # of inputs, see above; default: all
    seed: int = 0

    def run(self) -> None:
        """Run all cases and print the tables."""
        logging.disable(logging.WARNING)
        sources = {path.name: _shots(path, self.kitchen_truth) for path in self.scenes}
        kinds: dict[str, Callable[[np.random.Generator], tuple[str, list[Shot]]]] = {
            "dropped": lambda rng: _dropped(*_window(sources, rng), rng),
            "rooms": lambda rng: _rooms(sources, rng),
            "blur": lambda rng: _blurred(*_window(sources, rng), rng),
            "focal": lambda rng: _wrong_focal(*_window(sources, rng), rng),
            "walk": lambda rng: _window(sources, rng),
        }
        if self.room:
            kinds["pan"] = _pan
            depths = _depths(self.room)
            kinds["look-alike"] = lambda rng: _look_alike(_shots(self.room, None), depths, rng)
        kinds = {kind: make for kind, make in kinds.items() if kind in (self.kinds or kinds)}
        outcomes = []
        print("| case | kind | source | images | accepted | wrong | worst part | s | refused |")
        print("|---|---|---|---|---|---|---|---|---|")
        for number in range(self.first, self.cases):
            kind = list(kinds)[number % len(kinds)]
            source, shots = kinds[kind](np.random.default_rng((self.seed, number)))
            one = _outcome(kind, source, shots)
            outcomes.append(one)
            print(
                f"| {number} | {one.kind} | {one.source} | {one.images} | {one.accepted} | "
                f"{one.wrong} | {one.worst:.2%} | {one.seconds:.0f} | {one.reason} |",
                flush=True,
            )
        print("\n| kind | cases | accepted images | cases with a wrong part | refused |")
        print("|---|---|---|---|---|")
        for kind, count in Counter(one.kind for one in outcomes).items():
            some = [one for one in outcomes if one.kind == kind]
            accepted = sum(one.accepted for one in some) / sum(one.images for one in some)
            wrong, refused = sum(one.wrong > 0 for one in some), sum(bool(o.reason) for o in some)
            print(f"| {kind} | {count} | {accepted:.0%} | {wrong} | {refused} |")


def _outcome(kind: str, source: str, shots: list[Shot]) -> Outcome:
    start_s = time.perf_counter()
    images, _ = take_images(Shots(shots), "auto", SfmConfig().max_px)
    parts, reason = [], ""
    with tempfile.TemporaryDirectory() as folder:
        try:
            parts = structure_from_motion(images, Path(folder), SfmConfig(), True).parts
        except ReconstructionError as error:
            reason = str(error)[:70]
    errors = [_error(part, shots) for part in parts]
    wrong = {i for part, e in zip(parts, errors, strict=True) if e > _WRONG for i in part.images}
    return Outcome(
        kind,
        source,
        len(shots),
        len({i for part in parts for i in part.images}),
        len(wrong),
        max(errors, default=0.0),
        time.perf_counter() - start_s,
        reason,
    )


def _error(part: Model, shots: list[Shot]) -> float:
    """Return the median distance of a part's cameras from the truth, over the part's extent.

    Infinite for a part with images of two rooms, or of a camera that only rotates.
    """
    taken = [shots[i] for i in part.images]
    expected = np.array([shot.T_true[:3, 3] for shot in taken])
    if len({shot.room for shot in taken}) > 1 or np.ptp(expected, axis=0).max() < _MOVED_M:
        return float("inf")
    found = part.T_model_cam_n44[:, :3, 3]
    scale, T = similarity(found, expected)
    errors = np.linalg.norm(transform(T, scale * found) - expected, axis=1)
    seen = np.concatenate([expected, transform(T, scale * part.points_m3)])
    low, high = np.percentile(seen, (5, 95), axis=0)
    return float(np.median(errors) / np.linalg.norm(high - low))


def _shots(path: Path, kitchen_truth: Path | None) -> list[Shot]:
    truth = {}
    if kitchen_truth and path.name == "redkitchen":
        truth = {f.name: f.known_pose() for f in open_scene(kitchen_truth).frames("train")}
    return [
        Shot(f.name, f.known_camera(), f.image(), truth.get(f.name, f.known_pose()), path.name)
        for f in open_scene(path).frames("train")
    ]


def _depths(path: Path) -> dict[str, np.ndarray]:
    return {frame.name: frame.known_depth() for frame in open_scene(path).frames("train")}


def _window(sources: dict[str, list[Shot]], rng: np.random.Generator) -> tuple[str, list[Shot]]:
    """Return consecutive frames of one scene."""
    name = list(sources)[rng.integers(len(sources))]
    shots, length = sources[name], int(rng.integers(*_WINDOW))
    start = int(rng.integers(0, max(1, len(shots) - length)))
    return name, shots[start : start + length]


def _dropped(name: str, shots: list[Shot], rng: np.random.Generator) -> tuple[str, list[Shot]]:
    return name, [shot for shot in shots if rng.random() > 1 / 3]


def _rooms(sources: dict[str, list[Shot]], rng: np.random.Generator) -> tuple[str, list[Shot]]:
    names = list(sources)[:2]
    halves = [_window({name: sources[name]}, rng)[1][:20] for name in names]
    return " and ".join(names), [*halves[0], *halves[1]]


def _blurred(name: str, shots: list[Shot], rng: np.random.Generator) -> tuple[str, list[Shot]]:
    def blurred(shot: Shot) -> Shot:
        if rng.random() > 1 / 3:
            return shot
        sigma = rng.uniform(1, 6)
        return replace(shot, image_hw3=cv2.GaussianBlur(shot.image_hw3, (0, 0), sigma))

    return name, [blurred(shot) for shot in shots]


def _wrong_focal(name: str, shots: list[Shot], rng: np.random.Generator) -> tuple[str, list[Shot]]:
    factor = 1.1 if rng.random() < 0.5 else 1 / 1.1
    camera = shots[0].camera
    assert camera is not None
    wrong = replace(camera, fx=factor * camera.fx, fy=factor * camera.fy)
    return f"{name} x{factor:.2f}", [replace(shot, camera=wrong) for shot in shots]


def _pan(rng: np.random.Generator) -> tuple[str, list[Shot]]:
    from demo_room.room_camera import CAMERA, render
    from demo_room.views import pose

    position, start = np.array([*rng.uniform(2.2, 3.8, 2), 1.2]), rng.uniform(0, 6)
    shots = []
    for k in range(24):
        T = pose(position, start + 0.05 * k, 0.05 * np.sin(k), 0.0)
        shots.append(Shot(f"pan{k}", CAMERA, render(T, CAMERA)[0], T, "room"))
    return "room", shots


def _look_alike(
    shots: list[Shot], depths: dict[str, np.ndarray], rng: np.random.Generator
) -> tuple[str, list[Shot]]:
    """Return frames of the demo room with the same picture on two opposite walls."""
    picture = cv2.resize(rng.integers(0, 255, (24, 32, 3), np.uint8), (640, 480))
    picture = cv2.addWeighted(
        picture, 0.6, cv2.resize(rng.integers(0, 255, (120, 160, 3), np.uint8), (640, 480)), 0.4, 0
    )
    start = int(rng.integers(0, max(1, len(shots) - _LOOK_ALIKE)))
    return "room", [
        replace(shot, image_hw3=_with_picture(shot, depths[shot.name], picture))
        for shot in shots[start : start + _LOOK_ALIKE]
    ]


def _with_picture(shot: Shot, depth_hw: np.ndarray, picture_hw3: np.ndarray) -> np.ndarray:
    """Return an image with the picture on two walls, where nothing hides them."""
    assert shot.camera is not None
    rays_hw3 = shot.camera.cell_rays(1)
    points_hw3 = transform(shot.T_true, rays_hw3 * depth_hw[..., None])
    image_hw3 = shot.image_hw3.copy()
    for wall, mirrored in zip(_WALLS, (False, True), strict=True):
        u, v = (
            (points_hw3[..., axis] - low) / (high - low)
            for axis, (low, high) in zip((1, 2), _PICTURE_M, strict=True)
        )
        on_wall = (np.abs(points_hw3[..., 0] - wall) < 0.05) & (u > 0) & (u < 1) & (v > 0) & (v < 1)
        u = 1 - u if mirrored else u  # the same when each is seen from inside the room
        rows = ((1 - v[on_wall]) * (picture_hw3.shape[0] - 1)).astype(int)
        columns = (u[on_wall] * (picture_hw3.shape[1] - 1)).astype(int)
        image_hw3[on_wall] = picture_hw3[rows, columns]
    return image_hw3


if __name__ == "__main__":
    with one_line_errors():
        tyro.cli(Bench).run()
