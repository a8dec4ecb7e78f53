"""The layouts of recordings that can be opened, in the order in which a path is tried."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from mote_localization.camera import Camera, read_camera_info
from mote_localization.scenes.division import DividedScene
from mote_localization.scenes.photos import PhotoScene, find_photos
from mote_localization.scenes.recording_options import RecordingOptions
from mote_localization.scenes.scene import Scene

VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm")


class Layout(NamedTuple):
    """One layout. Readers are imported when they are used: some import large libraries."""

    name: str  # for messages and tables
    found_at: Callable[[Path], bool]  # whether a path has this layout; reads names of files only
    open: Callable[[Path, RecordingOptions], Scene]
    options: frozenset[str] = frozenset()  # flags of `RecordingOptions` that it uses


def _open_bag(path: Path, options: RecordingOptions) -> Scene:
    from mote_localization.scenes.bag import BagScene

    recording = BagScene(path, options.image_topic, options.info_topic, options.pose_topic)
    return DividedScene(recording, options)


def _open_video(path: Path, options: RecordingOptions) -> Scene:
    from mote_localization.scenes.video import VideoScene

    recording = VideoScene(path, _calibration(options))
    return DividedScene(recording, options, always_choose=True)


def _open_folder(path: Path, _: RecordingOptions) -> Scene:
    from mote_localization.scenes.folder import FolderScene

    return FolderScene(path)


def _open_photos(path: Path, options: RecordingOptions) -> Scene:
    return PhotoScene(path, _calibration(options))


def _calibration(options: RecordingOptions) -> Camera | None:
    return read_camera_info(options.camera) if options.camera else None


_DIVISION = frozenset({"--test-from", "--test-to", "--test-every", "--max-frames"})
_TOPICS = frozenset({"--image-topic", "--info-topic", "--pose-topic"})

LAYOUTS = (
    Layout(
        "rosbag2 recording",
        lambda path: path.suffix in (".mcap", ".db3") or (path / "metadata.yaml").exists(),
        _open_bag,
        _DIVISION | _TOPICS,
    ),
    Layout(
        "video (mp4, mov)",
        lambda path: path.suffix.lower() in VIDEO_SUFFIXES and path.is_file(),
        _open_video,
        _DIVISION | {"--camera"},
    ),
    Layout(
        "scene folder (train.txt, test.txt, data/)",
        lambda path: (path / "train.txt").exists() or (path / "data").exists(),
        _open_folder,
    ),
    Layout(
        "folder of photographs (jpg, png)",
        lambda path: bool(find_photos(path)),
        _open_photos,
        frozenset({"--camera"}),
    ),
)
