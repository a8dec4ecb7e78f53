"""Reads and writes rosbag2 recordings (mcap or sqlite3) as scenes, without ROS."""

from __future__ import annotations

import shutil
import tempfile
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from rosbags.rosbag2 import Reader, StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from mote_localization.camera import Camera
from mote_localization.errors import BagError, CameraError, ImageError, MoteError
from mote_localization.geometry import check_pose, pose_from, quaternion_xyzw
from mote_localization.images import decode
from mote_localization.scenes.scene import Frame, Scene, Split
from mote_localization.stamps import nanoseconds, stamp_seconds

IMAGE_TOPIC = "/camera/image_raw"
INFO_TOPIC = "/camera/camera_info"
POSE_TOPIC = "/ground_truth/pose"
MAP_FRAME = "map"

_IMAGE = "sensor_msgs/msg/Image"
_INFO = "sensor_msgs/msg/CameraInfo"
_POSE = "geometry_msgs/msg/PoseStamped"


@cache
def _types() -> Any:
    """Return the standard message types; those used here have not changed since Foxy."""
    return get_typestore(Stores.ROS2_HUMBLE)


def _stamp_ns(message: Any) -> int:
    return nanoseconds(message.header.stamp)


class BagWriter:
    """Writes images, calibrations and true poses as a rosbag2 recording.

    Use as a context manager. The recording is written under a temporary name beside `path`. It is
    renamed to `path` if the block succeeds, and removed if the block fails. Topics: `IMAGE_TOPIC`
    (rgb8), `INFO_TOPIC` and `POSE_TOPIC` (ground truth).
    """

    def __init__(self, path: Path | str, storage: str = "mcap") -> None:
        """Check the path and the storage.

        Args:
            path: Folder to create.
            storage: "mcap" or "sqlite3".

        Raises:
            BagError: The folder exists, or the storage is unknown.
        """
        self.path = Path(path)
        try:
            self._plugin = StoragePlugin[storage.upper()]
        except KeyError:
            raise BagError(f"bag storage '{storage[:60]}': expected 'mcap' or 'sqlite3'") from None
        if self.path.exists():
            raise BagError(f"{self.path}: exists already; remove it or choose another path")

    def __enter__(self) -> BagWriter:
        """Open the recording under its temporary name."""
        with ExitStack() as stack, self._storage_errors():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            temporary = tempfile.mkdtemp(prefix=f".{self.path.name}.", dir=self.path.parent)
            stack.callback(shutil.rmtree, temporary, ignore_errors=True)
            # The storage file is named after its folder, so the folder has its final name.
            self._building = Path(temporary) / self.path.name
            # Version 8 is the newest that Humble can read.
            self._writer = Writer(self._building, version=8, storage_plugin=self._plugin)
            stack.callback(self._abort)
            self._writer.open()
            add = partial(self._writer.add_connection, typestore=_types())
            self._image = add(IMAGE_TOPIC, _IMAGE)
            self._info = add(INFO_TOPIC, _INFO)
            self._pose = add(POSE_TOPIC, _POSE)
            self._cleanup = stack.pop_all()
        return self

    def write(
        self,
        stamp_ns: int,
        image_hw3: np.ndarray,
        camera: Camera,
        T_map_cam: np.ndarray | None = None,
        frame_id: str = "camera",
    ) -> None:
        """Append one frame.

        Args:
            stamp_ns: Time of the image, nanoseconds.
            image_hw3: RGB uint8.
            camera: Calibration of the camera.
            T_map_cam: (4, 4) true pose; None: not known.
            frame_id: Frame of the camera (optical axes).

        Raises:
            ImageError: The image does not have the camera's size.
            BagError: The recording cannot be written.
        """
        if image_hw3.shape != (camera.height, camera.width, 3) or image_hw3.dtype != np.uint8:
            raise ImageError(
                f"{self.path}: found an image of shape {image_hw3.shape} {image_hw3.dtype}, "
                f"expected ({camera.height}, {camera.width}, 3) uint8, the size of its camera"
            )
        header = _header(stamp_ns, frame_id)
        image = _types().types[_IMAGE](
            header=header,
            height=camera.height,
            width=camera.width,
            encoding="rgb8",
            is_bigendian=0,
            step=3 * camera.width,
            data=np.ascontiguousarray(image_hw3).reshape(-1),
        )
        messages = [(self._info, _info_message(header, camera)), (self._image, image)]
        if T_map_cam is not None:
            messages.insert(0, (self._pose, _pose_message(stamp_ns, T_map_cam)))
        with self._storage_errors():
            for connection, message in messages:
                serialized = _types().serialize_cdr(message, connection.msgtype)
                self._writer.write(connection, stamp_ns, serialized)

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        """Rename the recording to its final name, or remove it if the block failed."""
        with self._cleanup:
            if kind is None:
                with self._storage_errors():
                    self._writer.close()
                    self._building.rename(self.path)

    def _abort(self) -> None:
        """Close the storage without finishing the recording."""
        if self._writer.storage is not None:
            with suppress(Exception):  # the disk may be full
                self._writer.abort()

    @contextmanager
    def _storage_errors(self) -> Iterator[None]:
        """Convert the exceptions of the storage into a `BagError`."""
        try:
            yield
        except MoteError:
            raise
        except Exception as error:  # sqlite3, mcap and the file system raise different classes
            raise BagError(
                f"{self.path}: the recording cannot be written ({str(error)[:160]})"
            ) from error


def _header(stamp_ns: int, frame_id: str) -> Any:
    types = _types().types
    stamp = types["builtin_interfaces/msg/Time"](*divmod(int(stamp_ns), 1_000_000_000))
    return types["std_msgs/msg/Header"](stamp=stamp, frame_id=frame_id)


def _pose_message(stamp_ns: int, T_map_cam: np.ndarray) -> Any:
    types = _types().types
    point = types["geometry_msgs/msg/Point"](*T_map_cam[:3, 3].tolist())
    q = types["geometry_msgs/msg/Quaternion"](*quaternion_xyzw(T_map_cam[:3, :3]).tolist())
    pose = types["geometry_msgs/msg/Pose"](position=point, orientation=q)
    return types[_POSE](header=_header(stamp_ns, MAP_FRAME), pose=pose)


def _info_message(header: Any, camera: Camera) -> Any:
    types = _types().types
    K_33 = camera.K_33
    return types[_INFO](
        header=header,
        height=camera.height,
        width=camera.width,
        distortion_model=camera.distortion_model,
        d=np.array(camera.distortion or (0.0,) * 5),
        k=K_33.reshape(-1),
        r=np.eye(3).reshape(-1),
        p=np.c_[K_33, np.zeros(3)].reshape(-1),
        binning_x=0,
        binning_y=0,
        roi=types["sensor_msgs/msg/RegionOfInterest"](0, 0, 0, 0, False),
    )


@contextmanager
def open_bag(path: Path) -> Iterator[Reader]:
    """Open a recording; exceptions of rosbags become a `BagError`.

    Args:
        path: Folder of the recording, or one .mcap or .db3 file.

    Raises:
        BagError: The recording is missing, incomplete or damaged.
    """
    if not path.exists():
        raise BagError(f"{path}: no such recording; check the path")
    if path.is_dir() and not (path / "metadata.yaml").exists():
        raise BagError(
            f"{path}: found no metadata.yaml, expected a complete rosbag2 recording; if the "
            "recorder was killed, run `ros2 bag reindex` on this folder"
        )
    try:
        with Reader(path) as reader:
            yield reader
    except MoteError:
        raise
    except Exception as error:  # of struct, zstd, apsw, yaml and assert: no common base
        detail = str(error) or type(error).__name__
        raise BagError(f"{path}: damaged or no rosbag2 recording ({detail[:160]})") from error


def join_names(names: Iterable[str], max_length: int = 120) -> str:
    """Return sorted names as text for an error message, cut to a maximum length."""
    text = ", ".join(sorted(set(names)))
    return text if len(text) <= max_length else f"{text[:max_length]}..."


@dataclass(frozen=True)
class BagFrame(Frame):
    """A frame with its image in memory, as recorded."""

    name: str
    stamp_s: float
    camera: Camera
    T_map_cam: np.ndarray | None
    message: Any  # sensor_msgs/Image; its data is a view of the recording's bytes
    where: str  # for error messages

    def image(self) -> np.ndarray:
        """Return image_hw3 RGB uint8; see `Frame.image`."""
        try:
            image_hw3 = decode(self.message)
        except ImageError as error:
            raise BagError(f"{self.where}: {error}") from error
        return self._with_size_of_camera(image_hw3, self.where, "its CameraInfo", BagError)


class BagScene(Scene):
    """A rosbag2 recording; all its frames are test frames.

    Frames are streamed in recorded order; each keeps only its own image in memory. CameraInfo and
    ground truth are read once on opening, because they may be recorded after their image.
    """

    def __init__(
        self,
        path: Path | str,
        image_topic: str | None = None,
        info_topic: str | None = None,
        pose_topic: str | None = None,
    ) -> None:
        """Open a recording and read its calibrations and ground truth.

        Args:
            path: Folder of the recording, or one .mcap or .db3 file.
            image_topic: sensor_msgs/Image; None: `IMAGE_TOPIC`, or the only topic of this type.
            info_topic: sensor_msgs/CameraInfo; None: `camera_info` beside the image topic, or the
                only topic of this type.
            pose_topic: geometry_msgs/PoseStamped, true camera poses; None: `POSE_TOPIC`, or the
                only topic of this type; without one, frames have no pose.

        Raises:
            BagError: The recording is missing or damaged, has no images or no usable calibration,
                or several topics are possible.
        """
        self.path = Path(path)
        self.name = self.path.stem if self.path.is_file() else self.path.resolve().name
        with open_bag(self.path) as reader:
            topics = [(c.topic, c.msgtype, c.msgcount) for c in reader.connections]
            self.image_topic = self._choose_image(topics, image_topic)
            beside = f"{self.image_topic.rsplit('/', 1)[0]}/camera_info"
            chosen = self._choose(topics, _INFO, info_topic, "info_topic", beside)
            if chosen is None:
                raise BagError(
                    f"{self.path}: no {_INFO} topic beside {self.image_topic[:60]}; record the "
                    "camera's calibration with its images"
                )
            self.info_topic = chosen
            self.pose_topic = self._choose(topics, _POSE, pose_topic, "pose_topic", POSE_TOPIC)
            self._count = sum(n for topic, _, n in topics if topic == self.image_topic)
            self._infos: list[tuple[int, Camera]] = []
            self._poses: dict[int, np.ndarray] = {}
            for topic, message in self._messages(reader, self.info_topic, self.pose_topic):
                if topic == self.info_topic:
                    camera = self._camera_from_message(message)
                    if not self._infos or camera != self._infos[-1][1]:
                        self._infos.append((_stamp_ns(message), camera))
                else:
                    self._poses[_stamp_ns(message)] = self._pose_from_message(message)
        if not self._infos:
            raise BagError(
                f"{self.path}: no message on {self.info_topic[:60]}, expected a calibration"
            )
        self._infos.sort(key=lambda info: info[0])
        self._info_stamps = [stamp for stamp, _ in self._infos]

    def frames(self, split: Split) -> Iterator[BagFrame]:
        """Yield the frames in recorded order; a recording has no train frames.

        Raises:
            BagError: The recording is damaged.
        """
        if split == "train":
            return
        with open_bag(self.path) as reader:
            for index, (_, message) in enumerate(self._messages(reader, self.image_topic)):
                stamp_ns = _stamp_ns(message)
                name = f"{index:06d}"
                yield BagFrame(
                    name=name,
                    stamp_s=stamp_seconds(stamp_ns),
                    camera=self._camera_at(stamp_ns),
                    T_map_cam=self._poses.get(stamp_ns),
                    message=message,
                    where=f"{self.path}: {self.image_topic[:60]}, image {name}",
                )

    def count(self, split: Split) -> int:
        """Return the number of frames of a split, without reading them."""
        return 0 if split == "train" else self._count

    def _messages(self, reader: Reader, *topics: str | None) -> Iterator[tuple[str, Any]]:
        """Yield (topic, message) of the chosen topics in recorded order."""
        kinds = (_IMAGE, _INFO, _POSE)
        connections = [c for c in reader.connections if c.topic in topics and c.msgtype in kinds]
        if connections:
            for connection, _, raw in reader.messages(connections):
                yield connection.topic, _types().deserialize_cdr(raw, connection.msgtype)

    def _choose_image(self, topics: list[tuple[str, str, int]], requested: str | None) -> str:
        found = self._choose(topics, _IMAGE, requested, "image_topic", IMAGE_TOPIC)
        if found is None:
            compressed = [t for t, kind, _ in topics if kind == "sensor_msgs/msg/CompressedImage"]
            hint = (
                f"{compressed[0][:60]} is compressed: republish it with "
                "`ros2 run image_transport republish compressed raw`"
                if compressed
                else f"it has {join_names(t for t, _, _ in topics) or 'no topics'}"
            )
            raise BagError(f"{self.path}: no images ({_IMAGE}); {hint}")
        if not any(n for topic, _, n in topics if topic == found):
            raise BagError(f"{self.path}: no images, {found[:60]} is empty")
        return found

    def _choose(
        self,
        topics: list[tuple[str, str, int]],
        kind: str,
        requested: str | None,
        option: str,
        default: str,
    ) -> str | None:
        """Return the requested, the default or the only topic of a type; None: no topic."""
        found = sorted({topic for topic, msgtype, _ in topics if msgtype == kind})
        if requested is not None:
            if requested not in found:
                raise BagError(
                    f"{self.path}: no topic {requested[:60]} of type {kind}, "
                    f"found {join_names(found) or 'none'}"
                )
            return requested
        if default in found:
            return default
        if len(found) > 1:
            raise BagError(
                f"{self.path}: several topics of type {kind} ({join_names(found)}); "
                f"choose one by {option}"
            )
        return found[0] if found else None

    def _camera_from_message(self, message: Any) -> Camera:
        try:
            return Camera.from_K(
                message.width, message.height, message.k, message.distortion_model, message.d
            )
        except CameraError as error:
            raise BagError(f"{self.path}: {self.info_topic[:60]}: {error}") from error

    def _pose_from_message(self, message: Any) -> np.ndarray:
        stamp_s = stamp_seconds(_stamp_ns(message))
        where = f"{self.path}: {str(self.pose_topic)[:60]} at {stamp_s:.6f} s"
        p, q = message.pose.position, message.pose.orientation
        q_xyzw = np.array([q.x, q.y, q.z, q.w])
        if not abs(np.linalg.norm(q_xyzw) - 1) < 1e-2:  # also for NaN
            raise BagError(
                f"{where}: quaternion {q_xyzw.tolist()} is not a rotation, expected unit length"
            )
        return check_pose(pose_from(np.array([p.x, p.y, p.z]), q_xyzw), where)

    def _camera_at(self, stamp_ns: int) -> Camera:
        """Return the calibration of this stamp, the newest one before it, or the first."""
        return self._infos[max(0, bisect_right(self._info_stamps, stamp_ns) - 1)][1]
