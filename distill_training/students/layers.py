"""Convolutional layers of the student families."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MOMENTUM = 0.01  # of batch normalization: averages about 100 steps, because batches are small


def conv(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    """Return a convolution with batch normalization and ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(outputs, momentum=MOMENTUM),
        nn.ReLU(inplace=True),
    )


def pointwise_convs(channels: int) -> nn.Sequential:
    """Return two 1x1 convolutions, the last layers before the head of every student."""
    return nn.Sequential(conv(channels, channels, kernel=1), conv(channels, channels, kernel=1))


class Residual(nn.Module):
    """Residual block of two 3x3 convolutions."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            conv(channels, channels),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels, momentum=MOMENTUM),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return features of the same shape as the input."""
        return torch.relu(x + self.body(x))


class Stem(nn.Sequential):
    """Convolutions from the image to features at strides 4, 8 and, for stride-16 students, 16."""

    def __init__(self, first: int, fine: int, stride: int) -> None:
        """Create the layers.

        Args:
            first: Channels at stride 2; stride 4 has twice as many.
            fine: Channels from stride 8 on.
            stride: Stride of the student, px.
        """
        super().__init__(
            conv(3, first, stride=2),
            conv(first, 2 * first, stride=2),
            Residual(2 * first),
            conv(2 * first, fine, stride=2),
            Residual(fine),
            *((conv(fine, fine, stride=2), Residual(fine)) if stride == 16 else ()),
        )

    def forward(self, image_bchw: Tensor) -> list[Tensor]:
        """Return the features (b, c, h, w) at each stride, finest first."""
        features, x = [], image_bchw
        for layer in self:
            x = layer(x)
            if isinstance(layer, Residual):  # the last layer at its stride
                features.append(x)
        return features


class TopDown(nn.Module):
    """Feature pyramid: merges features of several strides at the finest one.

    Lin et al., "Feature Pyramid Networks for Object Detection", 2017.
    """

    def __init__(
        self, strides: Sequence[int], channels: Sequence[int], width: int, blocks: int
    ) -> None:
        """Create the layers.

        Args:
            strides: Strides of the features, px, finest first.
            channels: Channels of the features, in the same order.
            width: Channels of the output.
            blocks: Residual blocks after the features are merged.
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
        """Return features (b, width, h, w) at the finest stride."""
        *finer, merged = (lateral(x) for lateral, x in zip(self.laterals, features, strict=True))
        for features_bchw, factor in zip(reversed(finer), reversed(self._factors), strict=True):
            if factor > 1:
                merged = F.interpolate(merged, scale_factor=factor, mode="nearest")
            height, width = features_bchw.shape[2:]
            merged = features_bchw + merged[..., :height, :width]
        return self.blocks(torch.relu(merged))
