"""Students: networks that give a 3-D point and its expected error for every cell of one image.

Every student takes image_bhw3 uint8 RGB and gives points_bhw3 (m, map frame) and sigma_bhw (m).
"""

from dataclasses import fields
from typing import Any

from distill_training.students.cnn import Cnn, CnnConfig
from distill_training.students.cost import StudentFigures, describe
from distill_training.students.head import SceneNormalization
from distill_training.students.mobilenet import MobileNet, MobileNetConfig
from distill_training.students.student import CellGrid, Student
from distill_training.students.vit import Vit, VitConfig
from mote_localization.errors import MoteError

__all__ = [
    "FAMILIES",
    "CellGrid",
    "CnnConfig",
    "MobileNetConfig",
    "SceneNormalization",
    "Student",
    "StudentFigures",
    "VitConfig",
    "create_student",
    "describe",
]

FAMILIES: dict[str, tuple[Any, Any]] = {
    "cnn": (Cnn, CnnConfig),
    "mobilenet": (MobileNet, MobileNetConfig),
    "vit": (Vit, VitConfig),
}


def create_student(
    family: str, frame: SceneNormalization, cells: CellGrid | None = None, /, **settings: Any
) -> Student:
    """Make an untrained student.

    Args:
        family: One of the families above.
        frame: Where the place lies in the map frame and how large it is.
        cells: The images and how finely they are answered; by default 320x240 px, stride 8.
        settings: Fields of the family's configuration.

    Raises:
        MoteError: The family or a setting is unknown, or settings do not go together.
        CheckpointError: A pretrained file cannot be used.
    """
    if family not in FAMILIES:
        raise MoteError(f"found student '{family}', expected one of {', '.join(FAMILIES)}")
    network, config = FAMILIES[family]
    known = [field.name for field in fields(config)]
    unknown = sorted(settings.keys() - set(known))
    if unknown:
        raise MoteError(
            f"student {family}: found setting '{unknown[0]}', expected {', '.join(known)}"
        )
    return network(frame, cells or CellGrid(), config(**settings))
