"""Recorded scenes: frames of one place, with poses and depth where they are known."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np

from mote_localization.camera import Camera
from mote_localization.errors import SceneError

Split = Literal["train", "test", "all"]


class Frame(ABC):
    """One photograph of a scene. What is costly is read when asked for and not kept."""

    name: str
    stamp_s: float  # recording time; frames of a folder without times count at 30 Hz
    camera: Camera
    T_map_cam: np.ndarray | None  # (4, 4); None where not known

    @abstractmethod
    def image(self) -> np.ndarray:
        """Return image_hw3, RGB uint8, the camera's size.

        Raises:
            SceneError: The image is missing, damaged, or of another size.
        """

    def depth(self) -> np.ndarray | None:
        """Return depth_hw, float32 metres along the optical axis, 0 = none.

        None where the scene has no depth.
        """
        return None


class Scene(ABC):
    """Frames of one place, split into those to learn from and those to test with."""

    name: str

    @abstractmethod
    def frames(self, split: Split) -> Iterator[Frame]:
        """Go through the frames of a split, in recording order."""

    @abstractmethod
    def count(self, split: Split) -> int:
        """Return how many frames a split has."""


def open_scene(path: Path | str) -> Scene:
    """Open a scene folder or a rosbag2 recording.

    Raises:
        SceneError: There is nothing at that path, or nothing that can be read as a scene.
    """
    path = Path(path)
    if not path.exists():
        raise SceneError(f"{path}: does not exist, expected a scene folder or a rosbag2 recording")
    if path.suffix in (".mcap", ".db3") or (path / "metadata.yaml").exists():
        from mote_localization.scenes.bag import BagScene

        return BagScene(path)
    from mote_localization.scenes.folder import FolderScene

    return FolderScene(path)
