"""Base classes of the students: image and cells, settings, and groups of trained parameters."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

from torch import nn

from distill_training.common.typed_values import NonNegativeFloat, convert_value, shown
from distill_training.students.head import CoordinateHead
from mote_localization.errors import MoteError

STRIDES = (4, 8, 16)  # px
_FREEZE = re.compile(r"all-but-last-(\d{1,4})")


@dataclass(frozen=True)
class CellGrid:
    """Size of the images and of the cells; both are those of the reconstruction."""

    stride: int = 8  # px, side of a cell
    width: int = 320  # px, of the canonical camera
    height: int = 240  # px, of the canonical camera

    def __post_init__(self) -> None:
        if self.stride not in STRIDES:
            raise MoteError(
                f"found a stride of {self.stride} px, expected one of "
                f"{', '.join(map(str, STRIDES))}; reconstruct with --stride 8"
            )


@dataclass(frozen=True)
class StudentConfig:
    """Base class of a family's settings; its fields are plain values."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            converted = convert_value(field.name, value, field.type)
            if converted != value:  # 1 stays 1: the identity of a training contains the values
                object.__setattr__(self, field.name, converted)


@dataclass(frozen=True)
class PretrainedConfig(StudentConfig):
    """Base class of the settings of a family whose backbone can be read from a file."""

    pretrained: Path | None = None  # file of published weights of the backbone
    # none, all, or all-but-last-N: blocks of the pretrained backbone that are not trained
    freeze: str = "none"
    backbone_rate: NonNegativeFloat = 0.1  # learning rate, relative to the other layers'

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.freeze in ("none", "all") or _FREEZE.fullmatch(self.freeze)):
            raise MoteError(
                f"found freeze = {shown(self.freeze)}, expected none, all or all-but-last-N"
            )
        if self.freeze != "none" and not self.pretrained:
            raise MoteError(
                f"found freeze = {self.freeze!r} without a pretrained file; give one with "
                "pretrained=FILE, otherwise the frozen layers stay random"
            )


class Student(nn.Module):
    """A network that predicts points_bhw3 (m, map frame) and sigma_bhw (m) of image_bhw3 uint8."""

    head: CoordinateHead
    licence: str = ""  # licence that the pretrained weights put on maps; empty: none
    rate: ClassVar[float] = 1.0  # learning rate of the family, relative to the trainer's

    def __init__(self) -> None:
        super().__init__()
        self._backbone_rate = 1.0
        self._backbone: set[nn.Parameter] = set()
        self._undecayed: set[nn.Parameter] = set()
        self._frozen: list[nn.Module] = []

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the trained parameters as groups for an optimizer.

        Each group has a `rate`: its learning rate is the trainer's times the rate. Groups of
        parameters without weight decay have `weight_decay` 0.
        """
        groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
        for parameter in self.parameters():
            if parameter.requires_grad:
                rate = self.rate * (self._backbone_rate if parameter in self._backbone else 1)
                groups.setdefault((rate, parameter in self._undecayed), []).append(parameter)
        return [
            {"params": parameters, "rate": rate, **({"weight_decay": 0.0} if undecayed else {})}
            for (rate, undecayed), parameters in groups.items()
        ]

    def train(self, mode: bool = True) -> "Student":
        """Set training mode; frozen modules stay in evaluation mode with their batch statistics."""
        super().train(mode)
        for module in self._frozen:
            module.eval()
        return self

    def _set_pretrained(
        self, backbone: Iterable[nn.Module], blocks: Sequence[nn.Module], config: PretrainedConfig
    ) -> None:
        """Set the learning rate of a pretrained backbone, and freeze blocks of it.

        The backbone is all modules whose weights came from the file; its blocks are in the order
        from the image on. Raise MoteError where `freeze` names more blocks than there are.
        """
        self._backbone = {parameter for module in backbone for parameter in module.parameters()}
        self._backbone_rate = config.backbone_rate
        last = _FREEZE.fullmatch(config.freeze)
        trained = int(last[1]) if last else {"none": len(blocks), "all": 0}[config.freeze]
        if trained > len(blocks):
            raise MoteError(
                f"found freeze = {config.freeze!r}, expected at most the {len(blocks)} blocks of "
                "the backbone"
            )
        # Layers after the last block, for example a norm, are only frozen with `all`.
        modules = backbone if config.freeze == "all" else blocks[: len(blocks) - trained]
        self._frozen = list(modules)
        for module in self._frozen:
            module.requires_grad_(False)
