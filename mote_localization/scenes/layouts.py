"""The layouts of recordings that can be opened, in the order in which a path is tried."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from mote_localization.calibration_files import read_calibration
from mote_localization.camera import Camera
from mote_localization.errors import SceneError
from mote_localization.scenes.datasets.colmap_model import ColmapScene, find_model
from mote_localization.scenes.datasets.scannet import ScanNetScene
from mote_localization.scenes.datasets.seven_scenes import SevenScenesScene
from mote_localization.scenes.datasets.transforms_json import (
    ONE_FILE,
    SPLIT_FILES,
    TransformsScene,
)
from mote_localization.scenes.datasets.tum_rgbd import TumRgbdScene
from mote_localization.scenes.datasets.twelve_scenes import TwelveScenesScene
from mote_localization.scenes.division import DividedScene
from mote_localization.scenes.folder import FolderScene
from mote_localization.scenes.frame_files import FileScene
from mote_localization.scenes.photos import PhotoScene, find_images
from mote_localization.scenes.recording_options import RecordingOptions
from mote_localization.scenes.scene import Scene

_VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm")


_Open = Callable[[Path, RecordingOptions], Scene]


class Layout(NamedTuple):
    """One layout. Readers that import large libraries are imported when they are used."""

    name: str  # for messages and tables
    found_at: Callable[[Path], bool]  # whether a path has this layout; reads names of files only
    open: _Open
    options: frozenset[str] = frozenset()  # flags of `RecordingOptions` that it uses


def _open_bag(path: Path, options: RecordingOptions) -> Scene:
    from mote_localization.scenes.bags import BagScene

    recording = BagScene(path, options, _calibration(options))
    return DividedScene(recording, options)


def _is_bag(path: Path) -> bool:
    """Return whether a path is a recording, or one that its reader explains (ROS 1, compressed)."""
    if path.is_dir():
        return (path / "metadata.yaml").exists() or any(map(_is_bag_file, path.iterdir()))
    return _is_bag_file(path)


def _is_bag_file(path: Path) -> bool:
    return path.name.endswith((".mcap", ".db3", ".bag", ".mcap.zstd", ".db3.zstd"))


def _open_video(path: Path, options: RecordingOptions) -> Scene:
    from mote_localization.scenes.video import VideoScene

    recording = VideoScene(path, _calibration(options))
    return DividedScene(recording, options, always_choose=True)


def _open_photos(path: Path, options: RecordingOptions) -> Scene:
    return PhotoScene(path, _calibration(options))


def _calibration(options: RecordingOptions) -> Camera | None:
    return read_calibration(options.camera) if options.camera else None


def _by_path(scene: Callable[[Path], Scene]) -> _Open:
    """Return a function that opens a scene without options."""
    return lambda path, _: scene(path)


def _by_path_and_unit(scene: Callable[[Path], FileScene]) -> _Open:
    """Return a function that opens a scene whose poses may be in a unit that an option states."""

    def opened(path: Path, options: RecordingOptions) -> Scene:
        found = scene(path)
        return found if options.unit_m is None else found.with_unit(options.unit_m)

    return opened


def _holds(*names: str) -> Callable[[Path], bool]:
    """Return a function: whether a folder holds one of these files."""
    return lambda path: any((path / name).exists() for name in names)


_DIVISION = frozenset({"--test-from", "--test-to", "--test-every", "--max-frames"})
_TOPICS = frozenset(
    {"--image-topic", "--info-topic", "--depth-topic", "--pose-topic"}
    | {"--fixed-frame", "--camera-frame"}
)

LAYOUTS = (
    Layout(
        "rosbag2 recording",
        _is_bag,
        _open_bag,
        _DIVISION | _TOPICS | {"--camera"},
    ),
    Layout(
        "video (mp4, mov)",
        lambda path: path.suffix.lower() in _VIDEO_SUFFIXES and path.is_file(),
        _open_video,
        _DIVISION | {"--camera"},
    ),
    Layout(
        "scene folder (train.txt, test.txt, data/)",
        _holds("train.txt", "test.txt"),
        _by_path(FolderScene),
    ),
    Layout("TUM RGB-D (rgb.txt)", _holds("rgb.txt"), _by_path(TumRgbdScene)),
    Layout("7-Scenes (TrainSplit.txt)", _holds("TrainSplit.txt"), _by_path(SevenScenesScene)),
    Layout(
        "12Scenes (info.txt, data/)",
        lambda path: (path / "info.txt").exists() and (path / "data").exists(),
        _by_path(TwelveScenesScene),
    ),
    Layout(
        "transforms.json",
        _holds(ONE_FILE, *SPLIT_FILES),
        _by_path_and_unit(TransformsScene),
        frozenset({"--unit-m"}),
    ),
    Layout(
        "COLMAP model (sparse/0)",
        lambda path: find_model(path) is not None,
        _by_path_and_unit(ColmapScene),
        frozenset({"--unit-m"}),
    ),
    Layout(
        "ScanNet (color/, pose/)",
        lambda path: (path / "color").exists() and (path / "pose").exists(),
        _by_path(ScanNetScene),
    ),
    Layout(
        "folder of photographs (jpg, png, heic, webp, tiff)",
        lambda path: bool(find_images(path)),
        _open_photos,
        frozenset({"--camera"}),
    ),
)


def layout_of(path: Path) -> Layout | None:
    """Return the layout of a path; None: it has none of `LAYOUTS`.

    Raises:
        SceneError: The path cannot be read.
    """
    try:
        return next((layout for layout in LAYOUTS if layout.found_at(path)), None)
    except OSError as error:
        raise SceneError(f"{path}: cannot be read ({error.strerror})") from error
