"""The exceptions of Mote: one class per kind of fault, one base class."""

import re

_MAX_CHARS = 1000  # of an error's text; names from files may be of any length
_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]")  # all but the end of a line


class MoteError(Exception):
    """Base class of all errors that Mote raises on purpose; the text is written for users.

    Names from files may contain control characters, which a terminal would obey: they are escaped.
    A long text, which names from files make, is cut in its middle.
    """

    def __init__(self, message: object = "") -> None:
        """Create an error with its text."""
        shown = _CONTROL.sub(lambda found: ascii(found[0])[1:-1], _clipped(str(message)))
        super().__init__(_clipped(shown))


def _clipped(text: str) -> str:
    half = _MAX_CHARS // 2
    return text if len(text) <= _MAX_CHARS else f"{text[: half - 5]} ... {text[-half:]}"


class MapFileError(MoteError):
    """The map file is missing, damaged, not a map, or of a newer format."""


class CameraError(MoteError):
    """A camera model or its calibration file cannot be used."""


class ImageError(MoteError):
    """An image cannot be decoded or does not fit its camera."""


class ConfigError(MoteError):
    """Settings contradict each other."""


class SceneError(MoteError):
    """A recorded scene (frames, poses, depth) cannot be read or is not consistent."""


class BagError(SceneError):
    """A rosbag2 recording cannot be read or lacks the required topics or messages."""


class BackendError(MoteError):
    """An inference backend is unknown, not installed, or cannot run the map."""


class RosError(MoteError):
    """ROS 2 is not installed, or rejects an argument or a parameter."""


class ReplayError(MoteError):
    """A replay over ROS 2 has invalid options, fails, or ends too early."""


class ReconstructionError(MoteError):
    """A reconstruction folder is missing, damaged, or of a newer format."""


class NoPosesError(ReconstructionError):
    """Structure from motion accepted no part of the photographs."""


class CheckpointError(MoteError):
    """A network's weights are damaged, not Mote's, or from another training."""


def first_line(error: Exception, limit: int) -> str:
    """Return the first line of another library's error, its type's name where it has no text.

    Args:
        error: The error.
        limit: Largest number of characters.
    """
    return (str(error).strip() or type(error).__name__).splitlines()[0][:limit]
