"""A scene and its frames: what each reader of a recording provides."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator
from typing import Literal

import numpy as np

from mote_localization.camera import Camera
from mote_localization.errors import SceneError
from mote_localization.image_headers import Lens

Split = Literal["train", "test", "all"]

_SAMPLED_SIZES = 1000  # images whose size is read for `Scene.described`

NOMINAL_RATE_HZ = 30.0  # of frames without recorded times


class Frame(ABC):
    """One image of a scene. Image and depth are read on each call and not kept."""

    name: str
    stamp_s: float  # recording time; without recorded times, frames follow at 30 Hz
    camera: Camera | None  # None: intrinsics are not known
    T_map_cam: np.ndarray | None  # (4, 4); None: not known

    @abstractmethod
    def image(self) -> np.ndarray:
        """Return image_hw3, RGB uint8; it has the size of the camera if the camera is known.

        Raises:
            SceneError: The image is missing, damaged, or of another size.
        """

    def size(self) -> tuple[int, int]:
        """Return the image's width and height in px.

        Raises:
            SceneError: The size must be read from the image, and the image cannot be read.
        """
        if self.camera is not None:
            return self.camera.width, self.camera.height
        height, width = self.image().shape[:2]
        return width, height

    def _with_size_of_camera(
        self, image: np.ndarray, where: str, source: str, kind: type[SceneError] = SceneError
    ) -> np.ndarray:
        """Return an image if it has the camera's size; otherwise raise `kind`."""
        camera = self.camera
        if camera is not None and image.shape[:2] != (camera.height, camera.width):
            raise kind(
                f"{where}: found an image of {image.shape[1]}x{image.shape[0]} px, expected "
                f"{camera.width}x{camera.height} px as in {source}: replace the file, or correct "
                "the calibration"
            )
        return image

    def lens(self) -> Lens | None:
        """Return camera and focal length as the image's metadata states them; None: it has none."""
        return None

    def depth(self) -> np.ndarray | None:
        """Return depth_hw, float32 metres along the optical axis, 0 = no depth; None: no depths."""
        return None

    def has_depth(self) -> bool:
        """Return whether there is a depth image; it may be damaged."""
        return self.depth() is not None

    def known_camera(self) -> Camera:
        """Return the camera; raise `SceneError` if its intrinsics are not known."""
        if self.camera is None:
            raise SceneError(
                f"frame {self.name[:60]}: its camera's intrinsics are not known; write them for "
                "images of this size to camera-intrinsics.txt (scene folder) or camera.yaml "
                "(photographs, TUM RGB-D), give --camera FILE (video), or record "
                "sensor_msgs/CameraInfo with the images"
            )
        return self.camera

    def known_pose(self) -> np.ndarray:
        """Return T_map_cam (4, 4); raise `SceneError` if it is not known."""
        if self.T_map_cam is None:
            raise SceneError(
                f"frame {self.name[:60]}: has no pose; give every frame one (scene folder: "
                "data/NAME.pose.txt), remove frames without a pose from train.txt and test.txt, or "
                "let structure from motion find the poses (--poses sfm)"
            )
        return self.T_map_cam

    def known_depth(self) -> np.ndarray:
        """Return depth_hw as `depth`; raise `SceneError` if there is none or it is damaged."""
        depth_hw = self.depth()
        if depth_hw is None:
            raise SceneError(
                f"frame {self.name[:60]}: has no depth; give every frame a depth image (scene "
                "folder: data/NAME.depth.png), or use a teacher that needs no depth (--teacher sfm)"
            )
        return depth_hw


class Scene(ABC):
    """Frames of one place, split into training and test frames."""

    name: str
    sequential: bool = True  # recorded by a moving camera: neighbours overlap
    layout: str = ""  # name of its layout, see `open_scene`
    metric: bool = True  # its poses are in metres; False: in units of unknown length
    has_times: bool = True  # its stamps were recorded; False: they follow at `NOMINAL_RATE_HZ`

    @abstractmethod
    def frames(self, split: Split) -> Iterator[Frame]:
        """Iterate over the frames of a split, in recording order."""

    @abstractmethod
    def count(self, split: Split) -> int:
        """Return the number of frames of a split."""

    def described(self) -> dict[str, str]:
        """Return what the scene holds, as rows to print: name and value."""
        frames = list(self.frames("all"))
        sizes = list(map(_described_size, frames[:_SAMPLED_SIZES]))
        known = Counter(size for size in sizes if size is not None)
        images = [f"{len(frames)}"]
        if known:
            images.append(", ".join(size for size, _ in known.most_common(3)) + " px")
        if None in sizes:
            images.append(f"{sizes.count(None)} cannot be read")
        cameras = sum(frame.camera is not None for frame in frames)
        poses = sum(frame.T_map_cam is not None for frame in frames)
        depth = any(frame.has_depth() for frame in frames[:: max(1, len(frames) // 4)])
        return {
            "recording": self.layout,
            "images": ", ".join(images),
            "intrinsics": described_count(cameras, len(frames)),
            "poses": described_count(poses, len(frames))
            + ("" if self.metric or not poses else ", not in metres"),
            "depth": "yes" if depth else "none",
            "frames": f"{self.count('train')} for training, {self.count('test')} for tests",
        }


def _described_size(frame: Frame) -> str | None:
    """Return an image's width and height in px as text; None: the image cannot be read."""
    try:
        width, height = frame.size()
    except SceneError:
        return None
    return f"{width}x{height}"


class SceneSelection(Scene):
    """Some frames of a scene; everything else is that of the whole scene."""

    def __init__(self, whole: Scene) -> None:
        """Take over what describes the whole scene."""
        self.whole = whole
        self.name, self.layout = whole.name, whole.layout
        self.sequential, self.metric = whole.sequential, whole.metric
        self.has_times = whole.has_times

    def described(self) -> dict[str, str]:
        """Return what the whole scene holds."""
        return self.whole.described()


def described_count(count: int, total: int) -> str:
    """Return how many of all frames have something, as text."""
    return "all" if count == total else f"{count} of {total}" if count else "none"
