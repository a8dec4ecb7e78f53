"""Students: networks that predict a 3-D point and its expected error for each cell of an image.

A student takes image_bhw3 uint8 RGB and returns points_bhw3 (m, map frame) and sigma_bhw (m).
"""

from dataclasses import fields
from typing import Any

from distill_training.students.cnn import Cnn, CnnConfig
from distill_training.students.cost import describe
from distill_training.students.head import SceneNormalization
from distill_training.students.mobilenet import MobileNet, MobileNetConfig
from distill_training.students.student import CellGrid, Student
from distill_training.students.vit import Vit, VitConfig
from mote_localization.errors import MoteError

__all__ = [
    "FAMILIES",
    "CellGrid",
    "SceneNormalization",
    "Student",
    "create_student",
    "describe",
    "find_family",
]

# Name -> classes of the network and of its settings.
FAMILIES: dict[str, tuple[Any, Any]] = {
    "cnn": (Cnn, CnnConfig),
    "mobilenet": (MobileNet, MobileNetConfig),
    "vit": (Vit, VitConfig),
}


def find_family(family: str) -> tuple[Any, Any]:
    """Return the classes of a family's network and settings.

    Raises:
        MoteError: There is no such family.
    """
    if family not in FAMILIES:
        raise MoteError(f"found student '{family[:40]}', expected one of {', '.join(FAMILIES)}")
    return FAMILIES[family]


def create_student(
    family: str,
    normalization: SceneNormalization,
    cells: CellGrid | None = None,
    /,
    **settings: Any,
) -> Student:
    """Create an untrained student.

    Args:
        family: A name of `FAMILIES`.
        normalization: Mean and spread of the points of the place.
        cells: Size of the images and the cells; by default 320x240 px with stride 8.
        settings: Fields of the family's settings.

    Raises:
        MoteError: The family or a setting is unknown, or settings do not go together.
        CheckpointError: A pretrained file cannot be used.
    """
    network, config = find_family(family)
    known = [field.name for field in fields(config)]
    unknown = sorted(settings.keys() - set(known))
    if unknown:
        raise MoteError(
            f"student {family}: found setting '{unknown[0][:40]}', expected {', '.join(known)}"
        )
    return network(normalization, cells or CellGrid(), config(**settings))
