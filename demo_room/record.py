"""`mote-distill room`: writes the demo room as a scene folder and as a rosbag2 recording."""

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
import tyro
import yaml

from demo_room.days import RECORDED, Day
from demo_room.room_camera import CAMERA, render
from demo_room.views import drive, training_views
from mote_localization.camera import Camera
from mote_localization.errors import SceneError
from mote_localization.geometry import quaternion_xyzw
from mote_localization.progress import track
from mote_localization.scenes.bags import BagWriter

JPEG_QUALITY = 95
_ANCHORS = 12  # about; training frames whose poses are anchors
# Added to the seed, so that the scene's drives differ from the recorded one.
_TEST_SEED = 1_000_003
_TRAINING_SEED = 2_000_003
_TRAINING_S, _TRAINING_HZ = 16.0, 5.0  # length and frame rate of a drive for training views
_TEST_S = 12.0  # length of the drive for test views

Render = Callable[[np.ndarray, Camera], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Room:
    """Write the synthetic demo room: a scene folder to make a map from, a drive to localize."""

    scene: Path | None = None  # scene folder to create: images, depth, poses; train and test split
    bag: Path | None = None  # rosbag2 folder (mcap) to create: a drive with ground truth poses
    drives: int = 12  # drives through the room for training views, 80 views each
    views: int = 0  # further training views, spread evenly over the free floor
    test_views: int = 100  # test views in the scene, from a separate drive
    # training views of the scene without depth and poses; anchors.yaml has poses of some of them
    photographs: tyro.conf.FlagCreatePairsOff[bool] = False
    seconds: float = 12.0  # s, length of the recorded drive
    rate: float = 30.0  # Hz, frame rate of the recorded drive
    seed: int = 0  # seed of views and drives; the room is always the same
    workers: int = min(os.cpu_count() or 1, 8)  # processes that render; each needs about 300 MB

    def run(self) -> None:
        """Write the scene folder and the recording."""
        fewest = min(self.drives, self.views, self.test_views)
        if fewest < 0 or self.seconds <= 0 or self.rate <= 0 or self.workers < 1:
            raise SceneError(
                f"found {self.drives} drives, {self.views} views, {self.test_views} test views, "
                f"{self.seconds:g} s at {self.rate:g} Hz, {self.workers} workers; expected the "
                "first three to be 0 or more, the others above 0"
            )
        if self.scene is not None and self.drives + self.views == 0:
            raise SceneError(
                "found no training views for the scene; give --drives, --views or both"
            )
        if self.scene is None and self.bag is None:
            raise SceneError(
                "found neither --scene nor --bag; give --scene FOLDER, --bag FOLDER or both"
            )
        if self.scene is not None:
            train = training_views(self.views, self.seed)
            for index in range(self.drives):
                seed = self.seed + _TRAINING_SEED + index
                train += drive(_TRAINING_S, _TRAINING_HZ, seed)[1]
            _, test = drive(_TEST_S, self.test_views / _TEST_S, self.seed + _TEST_SEED)
            write_scene(self.scene, train, CAMERA, test, self.workers, self.photographs)
        if self.bag is not None:
            stamps_s, poses = drive(self.seconds, self.rate, self.seed)
            write_bag(self.bag, stamps_s, poses, CAMERA, self.workers)


def write_scene(
    folder: Path | str,
    poses: Sequence[np.ndarray],
    camera: Camera = CAMERA,
    test_poses: Sequence[np.ndarray] = (),
    workers: int = 1,
    photographs: bool = False,
) -> None:
    """Write images, depth (mm), poses and the split; the folder appears when it is complete.

    Args:
        folder: The scene folder to create.
        poses: Camera poses (T_map_cam) of the training frames.
        camera: Pinhole camera of all frames.
        test_poses: Camera poses of the test frames.
        workers: Processes that render.
        photographs: Write no depth and poses of training frames, but the poses of some of them as
            anchors.

    Raises:
        SceneError: The folder exists already or cannot be written.
    """
    with new_folder(Path(folder)) as building:
        names = write_frames(
            building, poses, [test_poses], camera, workers, render, photographs, folder
        )
        if photographs:
            chosen = list(zip(names, poses, strict=False))[:: max(1, len(poses) // _ANCHORS)]
            anchors = [{"frame": name, "target": _numbers(T)} for name, T in chosen]
            (building / "anchors.yaml").write_text(yaml.safe_dump({"anchors": anchors}))


def write_frames(
    folder: Path,
    poses: Sequence[np.ndarray],
    test_drives: Sequence[Sequence[np.ndarray]],
    camera: Camera,
    workers: int,
    draw: Render,
    photographs: bool = False,
    shown: Path | str = "",
) -> list[str]:
    """Write the frames of a scene and their split into a folder; return their names.

    Args:
        folder: An existing folder.
        poses: Camera poses (T_map_cam) of the training frames.
        test_drives: Camera poses of the test frames, a block of the split each.
        camera: Pinhole camera of all frames.
        workers: Processes that render.
        draw: Returns image and depth of a pose and a camera.
        photographs: Write no depth and poses of training frames.
        shown: Name of the folder beside the progress bar.
    """
    count, total = len(poses), len(poses) + sum(map(len, test_drives))
    names = [f"frame-{index:06d}" for index in range(total)]
    (folder / "data").mkdir()
    np.savetxt(folder / "camera-intrinsics.txt", camera.K_33, fmt="%.17g")
    for split, part in (("train", names[:count]), ("test", names[count:])):
        (folder / f"{split}.txt").write_text("".join(f"{name}\n" for name in part))
    lines, start = [f"{name} train -" for name in names[:count]], count
    for drive_poses in test_drives:
        end = start + len(drive_poses)
        lines += [f"{name} test {start}-{end - 1}" for name in names[start:end]]
        start = end
    (folder / "split.txt").write_text("# frame part block\n" + "\n".join(lines) + "\n")
    alone = [photographs] * count + [False] * (total - count)
    every = [*poses, *(T_map_cam for drive_poses in test_drives for T_map_cam in drive_poses)]
    jobs = zip(names, every, alone, strict=True)
    write = partial(_write_frame, folder / "data", camera, draw)
    for _ in track(map_in_order(write, jobs, workers), f"rendering {shown}", total):
        pass
    return names


def write_bag(
    path: Path | str,
    stamps_s: Sequence[float],
    poses: Sequence[np.ndarray],
    camera: Camera = CAMERA,
    workers: int = 1,
    day: Day = RECORDED,
    draw: Render | None = None,
) -> None:
    """Write a drive as a rosbag2 recording (mcap): images, camera_info and ground truth poses.

    Args:
        path: The recording's folder to create.
        stamps_s: Time of each frame, s.
        poses: Camera pose (T_map_cam) of each frame.
        camera: Pinhole camera of all frames.
        workers: Processes that render.
        day: State of the room, and colours and noise of the camera.
        draw: Returns image and depth of a pose and a camera; by default, of the demo room.

    Raises:
        BagError: The folder exists already or cannot be written.
    """
    with BagWriter(path) as bag:
        draw = draw or partial(render, day=day)
        images = map_in_order(partial(_render_image, draw, camera), poses, workers)
        frames = zip(stamps_s, images, poses, strict=True)
        for stamp_s, image_hw3, T_map_cam in track(frames, f"rendering {path}", len(poses)):
            bag.write(round(stamp_s * 1e9), image_hw3, camera, T_map_cam)


def _render_image(draw: Render, camera: Camera, T_map_cam: np.ndarray) -> np.ndarray:
    return draw(T_map_cam, camera)[0]


def _numbers(T: np.ndarray) -> list[float]:
    """Return position and quaternion of a pose: x y z qx qy qz qw."""
    return [round(float(v), 6) for v in (*T[:3, 3], *quaternion_xyzw(T[:3, :3]))]


def _write_frame(
    data: Path, camera: Camera, draw: Render, job: tuple[str, np.ndarray, bool]
) -> None:
    """Render one frame and write its three files; of a photograph, the image alone."""
    name, T_map_cam, photograph = job
    image_hw3, depth_hw = draw(T_map_cam, camera)
    millimetres_hw = np.round(1000.0 * depth_hw).astype(np.uint16)
    quality = (cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY)
    for suffix, pixels, options in (
        (".color.jpg", image_hw3[..., ::-1], quality),
        (".depth.png", millimetres_hw, ()),
    ):
        if photograph and suffix == ".depth.png":
            continue
        # cv2.imwrite raises no error when the disk is full; write_bytes does
        encoded = cv2.imencode(suffix[-4:], pixels, options)[1]
        (data / f"{name}{suffix}").write_bytes(encoded.tobytes())
    if not photograph:
        np.savetxt(data / f"{name}.pose.txt", T_map_cam, fmt="%.17g")


def map_in_order(function: Callable, jobs: Iterable, workers: int, chunk: int = 4) -> Iterator:
    """Yield the function's result for each job, in the jobs' order, from several processes."""
    if workers <= 1:
        yield from map(function, jobs)
        return
    # spawn: OpenCV's threads do not survive a fork
    with get_context("spawn").Pool(workers, cv2.setNumThreads, (1,)) as pool:
        yield from pool.imap(function, jobs, chunksize=chunk)


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `folder`; rename it to `folder` when the block succeeds."""
    if os.path.lexists(folder):
        raise SceneError(f"{folder}: exists already; give another folder, or remove it")
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
        raise SceneError(
            f"{folder}: cannot be written ({error.strerror or error}); check the free disk space"
        ) from error
