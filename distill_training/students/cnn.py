"""`cnn`: a residual network from scratch, with a look from farther away joined in."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from distill_training.students.head import CoordinateHead, ImageInput, SceneFrame

_MOMENTUM = 0.01  # of batch statistics: averaged over about 100 steps, batches are small


@dataclass(frozen=True)
class CnnConfig:
    """Sizes of the network."""

    stem: int = 32  # channels at stride 2; twice as many at stride 4
    fine: int = 96  # channels at stride 8
    coarse: int = 128  # channels at stride 16, where context is cheap
    coarse_blocks: int = 2  # residual blocks at stride 16
    fine_blocks: int = 2  # residual blocks at stride 8, after the context is joined in


class Cnn(nn.Module):
    """Stride-8 fully convolutional student."""

    def __init__(self, frame: SceneFrame, config: CnnConfig) -> None:
        """Make the untrained network."""
        super().__init__()
        stem, fine, coarse = config.stem, config.fine, config.coarse
        self.input = ImageInput()
        self.stem = nn.Sequential(
            _conv(3, stem, stride=2),
            _conv(stem, 2 * stem, stride=2),
            _Residual(2 * stem),
            _conv(2 * stem, fine, stride=2),
            _Residual(fine),
        )
        self.context = nn.Sequential(
            _conv(fine, coarse, stride=2),
            *(_Residual(coarse) for _ in range(config.coarse_blocks)),
            _conv(coarse, fine, kernel=1),
            nn.Upsample(scale_factor=2, mode="nearest"),
        )
        self.fine = nn.Sequential(*(_Residual(fine) for _ in range(config.fine_blocks)))
        self.mix = nn.Sequential(_conv(fine, fine, kernel=1), _conv(fine, fine, kernel=1))
        self.head = CoordinateHead(fine, frame)

    def forward(self, image_bhw3: Tensor) -> tuple[Tensor, Tensor]:
        """Return points_bhw3 (m, map frame) and sigma_bhw (m) of image_bhw3 uint8."""
        near = self.stem(self.input(image_bhw3))
        far = self.context(near)[..., : near.shape[2], : near.shape[3]]
        return self.head(self.mix(self.fine(near + far)))


def _conv(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(outputs, momentum=_MOMENTUM),
        nn.ReLU(inplace=True),
    )


class _Residual(nn.Module):
    """Two 3x3 convolutions around which the input passes."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            _conv(channels, channels),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels, momentum=_MOMENTUM),
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.body(x))
