"""Recorded scenes: frames of one place, with their cameras, poses and depth if known."""

from itertools import islice
from pathlib import Path

from mote_localization.errors import SceneError
from mote_localization.scenes.layouts import LAYOUTS, layout_of
from mote_localization.scenes.recording_options import RecordingOptions
from mote_localization.scenes.scene import Frame, Scene, Split

_LISTED = 3  # files of a folder that an error names

__all__ = ["Frame", "RecordingOptions", "Scene", "Split", "open_scene"]


def open_scene(path: Path | str, options: RecordingOptions | None = None) -> Scene:
    """Open a recording of any layout in `LAYOUTS`.

    Args:
        path: File or folder.
        options: Which topics and frames are used; each layout uses some of them.

    Raises:
        SceneError: The path does not exist, cannot be read as a scene, or an option does not belong
            to its layout.
    """
    path, options = Path(path), options or RecordingOptions()
    layout = layout_of(path)
    if layout is None:
        expected = ", ".join(layout.name.split(" (")[0] for layout in LAYOUTS)
        raise SceneError(
            f"{path}: {_found(path)}, expected one of: {expected}; see docs/recordings.md"
        )
    unused = [flag for flag in options.given() if flag not in layout.options]
    if unused:
        raise SceneError(
            f"{path}: found {', '.join(unused)} with a {layout.name}, expected "
            f"{', '.join(sorted(layout.options)) or 'none of the options of recordings'}"
        )
    scene = layout.open(path, options)
    scene.layout = layout.name
    return scene


def _found(path: Path) -> str:
    """Return what is at a path without a layout, as text."""
    if not path.exists():
        return "does not exist"
    if path.is_file():
        return "is a file of another kind"
    if not path.is_dir():
        return "is a device or a pipe"
    names = sorted(entry.name for entry in islice(path.iterdir(), _LISTED + 1))
    more = ", ..." if len(names) > _LISTED else ""
    listed = ", ".join(name[:30] for name in names[:_LISTED])
    return f"holds {listed}{more}" if names else "is empty"
