"""Recorded scenes: frames of one place, with their cameras, poses and depth if known."""

from pathlib import Path

from mote_localization.errors import SceneError
from mote_localization.scenes.scene import LAYOUTS, Frame, Scene, Split

__all__ = ["Frame", "Scene", "Split", "open_scene"]


def open_scene(path: Path | str) -> Scene:
    """Open a recording, a scene folder, or a folder of photographs.

    Raises:
        SceneError: The path does not exist, or cannot be read as a scene.
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
