"""What a student is: its image and cells, its settings, what of it is trained and how fast."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from types import UnionType
from typing import Any, ClassVar, Literal, get_args, get_origin

from torch import nn

from distill_training.students.head import CoordinateHead
from mote_localization.errors import MoteError

STRIDES = (4, 8, 16)
_FREEZE = re.compile(r"all-but-last-(\d{1,4})")


@dataclass(frozen=True)
class CellGrid:
    """What images come in and how finely points are wanted; the reconstruction says both."""

    stride: int = 8  # px of the image per cell side
    width: int = 320  # px of the map's camera
    height: int = 240  # px

    def __post_init__(self) -> None:
        """Refuse what no student gives."""
        if self.stride not in STRIDES:
            raise MoteError(
                f"found a stride of {self.stride} px, students give a point every "
                f"{', '.join(map(str, STRIDES))} px; reconstruct with --stride 8"
            )


@dataclass(frozen=True)
class StudentConfig:
    """Settings of a family; its fields are plain values, checked against their types."""

    def __post_init__(self) -> None:
        """Refuse values that are not of a field's type, widths of nothing among them."""
        for field in fields(self):
            value, kind = getattr(self, field.name), field.type
            if not _fits(value, kind, least=0 if field.name.endswith("blocks") else 1):
                choices = get_args(kind) if get_origin(kind) is Literal else (_name(kind),)
                raise MoteError(
                    f"found {field.name} = {value!r}, expected {' or '.join(map(str, choices))}"
                )


@dataclass(frozen=True)
class PretrainedConfig(StudentConfig):
    """Settings of a family whose trunk may come from a file."""

    pretrained: Path | None = None  # file of published weights that the trunk starts from
    # none, all, or all-but-last-N: the pretrained trunk's blocks that stay as they are in the file
    freeze: str = "none"
    backbone_rate: float = (
        0.1  # learning rate of a pretrained trunk, as a share of the other layers'
    )

    def __post_init__(self) -> None:
        """Refuse what makes no sense; text, as configuration files hold, becomes a path."""
        given: object = self.pretrained
        if isinstance(given, str):
            object.__setattr__(self, "pretrained", Path(given))
        super().__post_init__()
        if not (self.freeze in ("none", "all") or _FREEZE.fullmatch(self.freeze)):
            raise MoteError(f"found freeze = {self.freeze!r}, expected none, all or all-but-last-N")
        if self.freeze != "none" and not self.pretrained:
            raise MoteError(
                f"found freeze = {self.freeze!r} without a pretrained file, expected one: frozen, "
                "untrained layers would stay random"
            )


class Student(nn.Module):
    """A network that gives points_bhw3 (m, map frame) and sigma_bhw (m) of image_bhw3 uint8."""

    head: CoordinateHead
    licence: str = ""  # that its pretrained weights put on maps; empty: none
    rate: ClassVar[float] = 1.0  # learning rate that suits the family, as a share of the trainer's

    def __init__(self) -> None:
        """Make one of which everything is trained."""
        super().__init__()
        self._backbone_rate = 1.0
        self._trunk: set[nn.Parameter] = set()
        self._undecayed: set[nn.Parameter] = set()
        self._frozen: list[nn.Module] = []

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the trained parameters as an optimizer takes them.

        Each group has a `rate`, the share of the trainer's learning rate at which it is trained;
        weight decay is switched off where it does harm.
        """
        groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
        for parameter in self.parameters():
            if parameter.requires_grad:
                rate = self.rate * (self._backbone_rate if parameter in self._trunk else 1)
                groups.setdefault((rate, parameter in self._undecayed), []).append(parameter)
        return [
            {"params": parameters, "rate": rate, **({"weight_decay": 0.0} if undecayed else {})}
            for (rate, undecayed), parameters in groups.items()
        ]

    def train(self, mode: bool = True) -> "Student":
        """Enter training mode; what is frozen stays in evaluation mode, statistics too."""
        super().train(mode)
        for module in self._frozen:
            module.eval()
        return self

    def _start_from_file(
        self, trunk: Iterable[nn.Module], blocks: Sequence[nn.Module], config: PretrainedConfig
    ) -> None:
        """Train a loaded trunk slowly, or not at all.

        Args:
            trunk: All that came from the file.
            blocks: Its parts in the order that the image passes them.
            config: How fast, and which of the blocks stay as they are.

        Raises:
            MoteError: More blocks are to be trained than there are.
        """
        self._trunk = {parameter for module in trunk for parameter in module.parameters()}
        self._backbone_rate = config.backbone_rate
        few = _FREEZE.fullmatch(config.freeze)
        trained = int(few[1]) if few else {"none": len(blocks), "all": 0}[config.freeze]
        if trained > len(blocks):
            raise MoteError(
                f"found freeze = {config.freeze!r}, expected at most the {len(blocks)} blocks of "
                "the trunk"
            )
        # what follows the last block, a norm say, is only frozen with all of them
        modules = trunk if config.freeze == "all" else blocks[: len(blocks) - trained]
        self._frozen = list(modules)
        for module in self._frozen:
            module.requires_grad_(False)


def _fits(value: object, kind: Any, least: int) -> bool:
    """Return whether a value is of a field's type; whole numbers are `least` or more."""
    if get_origin(kind) is Literal:
        return value in get_args(kind)
    if isinstance(kind, UnionType):
        return any(_fits(value, one, least) for one in get_args(kind))
    if kind is int:
        return type(value) is int and value >= least
    if kind is float:
        return type(value) in (int, float) and 0 <= value < float("inf")  # type: ignore[operator]
    return isinstance(value, kind)


def _name(kind: Any) -> str:
    return "a whole number above 0" if kind is int else getattr(kind, "__name__", str(kind))
