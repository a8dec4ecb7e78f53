"""Writes rosbag2 recordings (mcap or sqlite3), without ROS."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rosbags.rosbag2 import StoragePlugin, Writer

from mote_localization.camera import Camera
from mote_localization.errors import BagError, ImageError, MoteError
from mote_localization.geometry import quaternion_xyzw
from mote_localization.scenes.bags.bag_messages import (
    IMAGE,
    IMAGE_TOPIC,
    INFO,
    INFO_TOPIC,
    MAP_FRAME,
    POSE,
    POSE_TOPIC,
    message_types,
)


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
            add = partial(self._writer.add_connection, typestore=message_types())
            self._image = add(IMAGE_TOPIC, IMAGE)
            self._info = add(INFO_TOPIC, INFO)
            self._pose = add(POSE_TOPIC, POSE)
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
        image = message_types().types[IMAGE](
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
                serialized = message_types().serialize_cdr(message, connection.msgtype)
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
    types = message_types().types
    stamp = types["builtin_interfaces/msg/Time"](*divmod(int(stamp_ns), 1_000_000_000))
    return types["std_msgs/msg/Header"](stamp=stamp, frame_id=frame_id)


def _pose_message(stamp_ns: int, T_map_cam: np.ndarray) -> Any:
    types = message_types().types
    point = types["geometry_msgs/msg/Point"](*T_map_cam[:3, 3].tolist())
    q = types["geometry_msgs/msg/Quaternion"](*quaternion_xyzw(T_map_cam[:3, :3]).tolist())
    pose = types["geometry_msgs/msg/Pose"](position=point, orientation=q)
    return types[POSE](header=_header(stamp_ns, MAP_FRAME), pose=pose)


def _info_message(header: Any, camera: Camera) -> Any:
    types = message_types().types
    K_33 = camera.K_33
    return types[INFO](
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
