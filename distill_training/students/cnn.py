"""`cnn`: a residual network from scratch, with a look from farther away joined in."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from distill_training.students.head import CoordinateHead, ImageInput, SceneNormalization
from distill_training.students.layers import Residual, Stem, TopDown, conv, mix
from distill_training.students.student import CellGrid, Student, StudentConfig


@dataclass(frozen=True)
class CnnConfig(StudentConfig):
    """Sizes of the network, in channels and blocks; what is not given follows from `size`."""

    size: Literal["s", "m", "l"] = "m"  # about 0.5, 1.4 and 8 M parameters
    stem: int | None = None  # channels at stride 2; twice as many at stride 4
    fine: int | None = None  # channels at stride 8
    coarse: int | None = None  # channels at twice the stride of the fine ones: context is cheap
    coarse_blocks: int | None = None  # residual blocks of the coarse channels
    fine_blocks: int | None = None  # residual blocks after the context is joined in


# stem, fine, coarse, coarse_blocks, fine_blocks
_SIZES = {"s": (24, 64, 80, 1, 2), "m": (32, 96, 128, 2, 2), "l": (48, 192, 288, 3, 3)}


class Cnn(Student):
    """Fully convolutional student; of stride 8 down to that, then a detour to stride 16."""

    def __init__(self, frame: SceneNormalization, cells: CellGrid, config: CnnConfig) -> None:
        """Make the untrained network."""
        super().__init__()
        given = (
            config.stem,
            config.fine,
            config.coarse,
            config.coarse_blocks,
            config.fine_blocks,
        )
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
        self.mix = mix(last)
        self.head = CoordinateHead(last, frame)

    def forward(self, image_bhw3: Tensor) -> tuple[Tensor, Tensor]:
        """Return points_bhw3 (m, map frame) and sigma_bhw (m) of image_bhw3 uint8."""
        first, *_, near = self.stem(self.input(image_bhw3))
        far = self.context(near)[..., : near.shape[2], : near.shape[3]]
        features = self.fine(near + far)
        if self.dense is not None:
            features = self.dense((first, features))
        return self.head(self.mix(features))
