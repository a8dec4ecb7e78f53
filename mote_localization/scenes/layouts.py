"""The layouts of recordings that can be opened, in the order in which a path is tried."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from mote_localization.scenes.photos import PhotoScene, find_photos
from mote_localization.scenes.recording_options import RecordingOptions
from mote_localization.scenes.scene import Scene


class Layout(NamedTuple):
    """One layout. Readers are imported when they are used: some import large libraries."""

    name: str  # for messages and tables
    found_at: Callable[[Path], bool]  # whether a path has this layout; reads names of files only
    open: Callable[[Path, RecordingOptions], Scene]
    options: frozenset[str] = frozenset()  # flags of `RecordingOptions` that it uses


def _open_bag(path: Path, options: RecordingOptions) -> Scene:
    from mote_localization.scenes.bag import BagScene

    return BagScene(path, options.image_topic, options.info_topic, options.pose_topic)


def _open_folder(path: Path, _: RecordingOptions) -> Scene:
    from mote_localization.scenes.folder import FolderScene

    return FolderScene(path)


def _open_photos(path: Path, _: RecordingOptions) -> Scene:
    return PhotoScene(path)


_TOPICS = frozenset({"--image-topic", "--info-topic", "--pose-topic"})

LAYOUTS = (
    Layout(
        "rosbag2 recording",
        lambda path: path.suffix in (".mcap", ".db3") or (path / "metadata.yaml").exists(),
        _open_bag,
        _TOPICS,
    ),
    Layout(
        "scene folder (train.txt, test.txt, data/)",
        lambda path: (path / "train.txt").exists() or (path / "data").exists(),
        _open_folder,
    ),
    Layout("folder of photographs (jpg, png)", lambda path: bool(find_photos(path)), _open_photos),
)
