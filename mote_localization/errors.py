"""What can be wrong with the input: one exception class a fault, one base for all."""


class MoteError(Exception):
    """Base of every error that Mote raises on purpose; its text is written for the user."""


class MapFileError(MoteError):
    """The map file is missing, damaged, foreign, or of a newer format."""


class CameraError(MoteError):
    """A camera model or its calibration file cannot be used."""


class ImageError(MoteError):
    """An image cannot be decoded or does not fit its camera."""


class SceneError(MoteError):
    """A recorded scene (frames, poses, depth) cannot be read or makes no sense."""


class BagError(SceneError):
    """A rosbag2 recording cannot be read or holds nothing to work on."""


class BackendError(MoteError):
    """An inference backend is unknown, not installed, or refuses the map."""


class RosError(MoteError):
    """ROS 2 is not installed, or refuses an argument or a parameter."""


class ReplayError(MoteError):
    """A replay over ROS 2 was asked for what makes no sense, failed, or ended before its time."""


class ReconstructionError(MoteError):
    """A reconstruction folder is missing, damaged, or of a newer format."""


class CheckpointError(MoteError):
    """A network's weights are damaged, foreign, or of another training."""
