"""Writes the demo room as a scene folder and as a rosbag2 recording; `mote-distill room`."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np

import demo_room as room
from mote_localization.camera import Camera
from mote_localization.errors import SceneError
from mote_localization.progress import track
from mote_localization.scenes.bag import BagWriter

JPEG_QUALITY = 95
_TEST_DRIVE_S = 30.0  # about one and a half laps
# Added to the seed: the scene's drives are others than the bag's.
_TEST_SEED = 1_000_003
_MAPPING_SEED = 2_000_003
_MAPPING_S, _MAPPING_HZ = 16.0, 5.0  # of the drives that training views are taken from
_TEST_DRIVE_S = 12.0


@dataclass(frozen=True)
class Room:
    """Write the demo room: a scene folder to learn from, a recorded drive to be found on."""

    scene: Path | None = None  # scene folder to create: images, depth, poses; train and test split
    bag: Path | None = None  # rosbag2 folder (mcap) to create: a drive with ground truth
    drives: int = 12  # drives through the room that training views are taken from, 80 of each
    views: int = 0  # further training views, spread over the whole free floor
    test_views: int = 100  # test views in the scene, from a drive of their own
    seconds: float = 12.0  # s, length of the recorded drive
    rate: float = 30.0  # Hz, frame rate of the recorded drive
    seed: int = 0  # other seeds give other views and drives; the room stays the same
    workers: int = min(os.cpu_count() or 1, 8)  # processes that render, each of about 300 MB

    def run(self) -> None:
        """Write what was asked for.

        Raises:
            SceneError: nothing was asked for, a number makes no sense, or a folder exists already
                or cannot be written.
        """
        fewest = min(self.drives, self.views, self.test_views)
        if fewest < 0 or self.seconds <= 0 or self.rate <= 0 or self.workers < 1:
            raise SceneError(
                f"found {self.drives} drives, {self.views} views, {self.test_views} test views, "
                f"{self.seconds:g} s at {self.rate:g} Hz, {self.workers} workers; expected nothing "
                "below 0, and the last three above it"
            )
        if self.scene is not None and self.drives + self.views == 0:
            raise SceneError("a scene needs training views: give --drives, --views or both")
        if self.scene is None and self.bag is None:
            raise SceneError("nothing to write: give --scene FOLDER, --bag FOLDER or both")
        if self.scene is not None:
            train = room.training_views(self.views, self.seed)
            for index in range(self.drives):
                seed = self.seed + _MAPPING_SEED + index
                train += room.drive(_MAPPING_S, _MAPPING_HZ, seed)[1]
            _, test = room.drive(
                _TEST_DRIVE_S, self.test_views / _TEST_DRIVE_S, self.seed + _TEST_SEED
            )
            write_scene(self.scene, train, room.CAMERA, test, self.workers)
        if self.bag is not None:
            stamps_s, poses = room.drive(self.seconds, self.rate, self.seed)
            write_bag(self.bag, stamps_s, poses, room.CAMERA, self.workers)


def write_scene(
    folder: Path | str,
    poses: Sequence[np.ndarray],
    camera: Camera = room.CAMERA,
    test_poses: Sequence[np.ndarray] = (),
    workers: int = 1,
) -> None:
    """Writes images, depth (mm), poses and the split; the folder appears when it is complete.

    Args:
        folder: the scene folder to create.
        poses: camera poses (T_map_cam) of the training frames.
        camera: pinhole camera of all frames.
        test_poses: camera poses of the test frames.
        workers: processes that render.

    Raises:
        SceneError: the folder exists already or cannot be written.
    """
    count, total = len(poses), len(poses) + len(test_poses)
    names = [f"frame-{index:06d}" for index in range(total)]
    with _new_folder(Path(folder)) as building:
        (building / "data").mkdir()
        np.savetxt(building / "camera-intrinsics.txt", camera.K_33, fmt="%.17g")
        for split, part in (("train", names[:count]), ("test", names[count:])):
            (building / f"{split}.txt").write_text("".join(f"{name}\n" for name in part))
        parts = [f"{name} train -" for name in names[:count]]
        parts += [f"{name} test {count}-{total - 1}" for name in names[count:]]
        (building / "split.txt").write_text("# frame part block\n" + "\n".join(parts) + "\n")
        jobs = zip(names, [*poses, *test_poses], strict=True)
        write = partial(_write_frame, building / "data", camera)
        for _ in track(_mapped(write, jobs, workers), f"rendering {folder}", total):
            pass


def write_bag(
    path: Path | str,
    stamps_s: Sequence[float],
    poses: Sequence[np.ndarray],
    camera: Camera = room.CAMERA,
    workers: int = 1,
) -> None:
    """Writes a drive as a rosbag2 recording (mcap): images, camera_info and ground-truth poses.

    Args:
        path: the recording's folder to create.
        stamps_s: time of each frame (s).
        poses: camera pose (T_map_cam) of each frame.
        camera: pinhole camera of all frames.
        workers: processes that render.

    Raises:
        BagError: the folder exists already or cannot be written.
    """
    with BagWriter(path) as bag:
        images = _mapped(partial(_photograph, camera), poses, workers)
        frames = zip(stamps_s, images, poses, strict=True)
        for stamp_s, image_hw3, T_map_cam in track(frames, f"rendering {path}", len(poses)):
            bag.write(round(stamp_s * 1e9), image_hw3, camera, T_map_cam)


def _photograph(camera: Camera, T_map_cam: np.ndarray) -> np.ndarray:
    return room.render(T_map_cam, camera)[0]


def _write_frame(data: Path, camera: Camera, job: tuple[str, np.ndarray]) -> None:
    """Renders one frame into its three files."""
    name, T_map_cam = job
    image_hw3, depth_hw = room.render(T_map_cam, camera)
    millimetres_hw = np.round(1000.0 * depth_hw).astype(np.uint16)
    quality = (cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY)
    for suffix, pixels, options in (
        (".color.jpg", image_hw3[..., ::-1], quality),
        (".depth.png", millimetres_hw, ()),
    ):
        # imencode and write_bytes: imwrite reports a full disk by False at most.
        encoded = cv2.imencode(suffix[-4:], pixels, options)[1]
        (data / f"{name}{suffix}").write_bytes(encoded.tobytes())
    np.savetxt(data / f"{name}.pose.txt", T_map_cam, fmt="%.17g")


def _mapped(function: Callable, jobs: Iterable, workers: int) -> Iterator:
    """Results of the function in the order of the jobs, by as many processes as asked for."""
    if workers <= 1:
        yield from map(function, jobs)
        return
    # Spawned, not forked: OpenCV's threads do not survive a fork.
    with get_context("spawn").Pool(workers, cv2.setNumThreads, (1,)) as pool:
        yield from pool.imap(function, jobs, chunksize=4)


@contextmanager
def _new_folder(folder: Path) -> Iterator[Path]:
    """A temporary neighbour that takes the folder's name when the block succeeds."""
    if folder.exists():
        raise SceneError(f"{folder} exists already; give another folder, or remove it")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        building = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        try:
            yield building
            building.chmod(0o755)
            building.rename(folder)
        except BaseException:
            shutil.rmtree(building, ignore_errors=True)
            raise
    except OSError as error:
        raise SceneError(f"{folder} cannot be written: {error}; is the disk full?") from error
