"""Convolutional layers that the families share."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MOMENTUM = 0.01  # of batch statistics: averaged over about 100 steps, batches are small


def conv(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    """Return a convolution with batch normalization and ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(outputs, momentum=MOMENTUM),
        nn.ReLU(inplace=True),
    )


def mix(channels: int) -> nn.Sequential:
    """Return two convolutions within each cell, which end every student."""
    return nn.Sequential(conv(channels, channels, kernel=1), conv(channels, channels, kernel=1))


class Residual(nn.Module):
    """Two 3x3 convolutions around which the input passes."""

    def __init__(self, channels: int) -> None:
        """Make one for so many channels."""
        super().__init__()
        self.body = nn.Sequential(
            conv(channels, channels),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels, momentum=MOMENTUM),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return features of the input's shape."""
        return torch.relu(x + self.body(x))


class Stem(nn.Sequential):
    """Convolutions from the image to strides 4, 8 and, for students of stride 16, that."""

    def __init__(self, first: int, fine: int, stride: int) -> None:
        """Make one of `first` channels at stride 2, twice as many at 4, `fine` from 8 on."""
        super().__init__(
            conv(3, first, stride=2),
            conv(first, 2 * first, stride=2),
            Residual(2 * first),
            conv(2 * first, fine, stride=2),
            Residual(fine),
            *((conv(fine, fine, stride=2), Residual(fine)) if stride == 16 else ()),
        )

    def forward(self, image_bchw: Tensor) -> list[Tensor]:
        """Return the features (b, c, h, w) at each stride, the finest first."""
        features, x = [], image_bchw
        for layer in self:
            x = layer(x)
            if isinstance(layer, Residual):  # ends a stride
                features.append(x)
        return features


class TopDown(nn.Module):
    """Joins features of several strides at the finest (Lin et al., "Feature pyramids", 2017)."""

    def __init__(
        self, strides: Sequence[int], channels: Sequence[int], width: int, blocks: int
    ) -> None:
        """Make one.

        Args:
            strides: Of the features, the finest first.
            channels: Likewise.
            width: Channels of what comes out.
            blocks: Residual blocks after all is joined.
        """
        super().__init__()
        self.laterals = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(inputs, width, 1, bias=False), nn.BatchNorm2d(width, momentum=MOMENTUM)
            )
            for inputs in channels
        )
        self._factors = [b // a for a, b in zip(strides, strides[1:], strict=False)]
        self.blocks = nn.Sequential(*(Residual(width) for _ in range(blocks)))

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Return (b, width, h, w) of the shape of the first, finest features."""
        *finer, joined = (lateral(x) for lateral, x in zip(self.laterals, features, strict=True))
        for near, factor in zip(reversed(finer), reversed(self._factors), strict=True):
            if factor > 1:
                joined = F.interpolate(joined, scale_factor=factor, mode="nearest")
            joined = near + joined[..., : near.shape[2], : near.shape[3]]
        return self.blocks(torch.relu(joined))
