"""`cnn`: a residual network, trained from scratch, with a branch of larger context."""

from dataclasses import astuple, dataclass
from typing import Literal

from torch import Tensor, nn

from distill_training.common.typed_values import NonNegativeInt, PositiveInt
from distill_training.students.head import CoordinateHead, ImageInput, SceneNormalization
from distill_training.students.layers import Residual, Stem, TopDown, conv, pointwise_convs
from distill_training.students.student import CellGrid, Student, StudentConfig


@dataclass(frozen=True)
class CnnConfig(StudentConfig):
    """Settings of a `cnn` student; the default of the others follows from `size`."""

    size: Literal["s", "m", "l"] = "m"  # about 0.5, 1.4 and 8 M parameters
    stem: PositiveInt | None = None  # channels at stride 2; stride 4 has twice as many
    fine: PositiveInt | None = None  # channels at stride 8
    coarse: PositiveInt | None = None  # channels of the context branch, at twice the fine stride
    coarse_blocks: NonNegativeInt | None = None  # residual blocks of the context branch
    fine_blocks: NonNegativeInt | None = None  # residual blocks after the context is added


# stem, fine, coarse, coarse_blocks, fine_blocks
_SIZES = {"s": (24, 64, 80, 1, 2), "m": (32, 96, 128, 2, 2), "l": (48, 192, 288, 3, 3)}


class Cnn(Student):
    """Fully convolutional student; a branch at twice the stride adds context to each cell."""

    def __init__(
        self, normalization: SceneNormalization, cells: CellGrid, config: CnnConfig
    ) -> None:
        super().__init__()
        _, *given = astuple(config)  # the fields after `size`, in the order of `_SIZES`
        stem, fine, coarse, coarse_blocks, fine_blocks = (
            preset if value is None else value
            for value, preset in zip(given, _SIZES[config.size], strict=True)
        )
        self.input = ImageInput()
        self.stem = Stem(stem, fine, cells.stride)
        self.context = nn.Sequential(
            conv(fine, coarse, stride=2),
            *(Residual(coarse) for _ in range(coarse_blocks)),
            conv(coarse, fine, kernel=1),
            nn.Upsample(scale_factor=2, mode="nearest"),
        )
        self.fine = nn.Sequential(*(Residual(fine) for _ in range(fine_blocks)))
        self.dense = TopDown((4, 8), (2 * stem, fine), 2 * stem, 1) if cells.stride == 4 else None
        last = fine if self.dense is None else 2 * stem
        self.mix = pointwise_convs(last)
        self.head = CoordinateHead(last, normalization)

    def forward(self, image_bhw3: Tensor) -> tuple[Tensor, Tensor]:
        """Return points_bhw3 (m, map frame) and sigma_bhw (m) of image_bhw3 uint8."""
        stride_4, *_, fine = self.stem(self.input(image_bhw3))
        context = self.context(fine)[..., : fine.shape[2], : fine.shape[3]]
        features = self.fine(fine + context)
        if self.dense is not None:
            features = self.dense((stride_4, features))
        return self.head(self.mix(features))
