"""Students: networks that give a 3-D point and its expected error for every cell of one image.

Every student takes image_bhw3 uint8 RGB and gives points_bhw3 (m, map frame) and sigma_bhw (m).
"""

from torch import nn

from distill_training.students.cnn import Cnn, CnnConfig
from distill_training.students.head import SceneFrame
from mote_localization.errors import MoteError

STRIDE = 8  # px of the image per cell side, of every student
_FAMILIES = {"cnn": (Cnn, CnnConfig)}


def create_student(family: str, frame: SceneFrame, **settings: int) -> nn.Module:
    """Make an untrained student.

    Args:
        family: One of the families above.
        frame: Where the place lies in the map frame and how large it is.
        settings: Fields of the family's configuration.

    Raises:
        MoteError: The family or a setting is unknown.
    """
    if family not in _FAMILIES:
        raise MoteError(f"found student '{family}', expected one of {', '.join(_FAMILIES)}")
    network, config = _FAMILIES[family]
    try:
        return network(frame, config(**settings))
    except TypeError as error:
        raise MoteError(
            f"student {family}: {error}; expected settings {config.__annotations__}"
        ) from error
