"""The exceptions of Mote: one class per kind of fault, one base class."""


class MoteError(Exception):
    """Base class of all errors that Mote raises on purpose; the text is written for users."""


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
