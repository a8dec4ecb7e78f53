"""Recorded scenes: frames of one place, with cameras, poses and depth where they are known."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np

from mote_localization.camera import Camera
from mote_localization.errors import SceneError

Split = Literal["train", "test", "all"]

NOMINAL_RATE_HZ = 30.0  # of frames whose times are not known
LAYOUTS = (
    "a rosbag2 recording, a scene folder in the layout of 12Scenes (train.txt and data/), or a "
    "folder of photographs (jpg, png)"
)


class Frame(ABC):
    """One photograph of a scene. What is costly is read when asked for and not kept."""

    name: str
    stamp_s: float  # recording time; frames of a folder without times count at 30 Hz
    camera: Camera | None  # None where its intrinsics are not known
    T_map_cam: np.ndarray | None  # (4, 4); None where not known

    @abstractmethod
    def image(self) -> np.ndarray:
        """Return image_hw3, RGB uint8, of the camera's size where the camera is known.

        Raises:
            SceneError: The image is missing, damaged, or of another size.
        """

    def size(self) -> tuple[int, int]:
        """Return the image's width and height in px.

        Raises:
            SceneError: The image must be read for it, and cannot be.
        """
        if self.camera is not None:
            return self.camera.width, self.camera.height
        height, width = self.image().shape[:2]
        return width, height

    def depth(self) -> np.ndarray | None:
        """Return depth_hw, float32 metres along the optical axis, 0 = none.

        None where the scene has no depth.
        """
        return None

    def known_camera(self) -> Camera:
        """Return the camera, for what cannot do without.

        Raises:
            SceneError: Its intrinsics are not known.
        """
        if self.camera is None:
            raise SceneError(
                f"frame {self.name}: its camera's intrinsics are not known; write them to "
                "camera-intrinsics.txt, beside photographs to camera.yaml, for images of this size"
            )
        return self.camera

    def known_pose(self) -> np.ndarray:
        """Return T_map_cam (4, 4), for what cannot do without.

        Raises:
            SceneError: It is not known.
        """
        if self.T_map_cam is None:
            raise SceneError(
                f"frame {self.name}: has no pose; give every frame one (data/NAME.pose.txt), or "
                "take frames without one out of train.txt and test.txt"
            )
        return self.T_map_cam

    def known_depth(self) -> np.ndarray:
        """Return depth_hw as `depth` does, for what cannot do without.

        Raises:
            SceneError: There is none, or its file is damaged.
        """
        depth_hw = self.depth()
        if depth_hw is None:
            raise SceneError(
                f"frame {self.name}: has no depth; give every frame a depth image "
                "(data/NAME.depth.png), or use a teacher that needs none"
            )
        return depth_hw


class Scene(ABC):
    """Frames of one place, split into those to learn from and those to test with."""

    name: str
    sequential: bool = True  # recorded in motion: neighbours overlap

    @abstractmethod
    def frames(self, split: Split) -> Iterator[Frame]:
        """Go through the frames of a split, in recording order."""

    @abstractmethod
    def count(self, split: Split) -> int:
        """Return how many frames a split has."""


def open_scene(path: Path | str) -> Scene:
    """Open a recording, a scene folder, or a folder of photographs.

    Raises:
        SceneError: There is nothing at that path, or nothing that can be read as a scene.
    """
    path = Path(path)
    if not path.exists():
        raise SceneError(f"{path}: does not exist, expected {LAYOUTS}")
    if path.suffix in (".mcap", ".db3") or (path / "metadata.yaml").exists():
        from mote_localization.scenes.bag import BagScene

        return BagScene(path)
    if (path / "train.txt").exists() or (path / "data").exists():
        from mote_localization.scenes.folder import FolderScene

        return FolderScene(path)
    from mote_localization.scenes.photos import PhotoScene

    return PhotoScene(path)
