"""Feature extractors of MobileNetV2 and V3, with the parameter names of torchvision.

Sandler et al., "MobileNetV2", 2018, table 2; Howard et al., "Searching for MobileNetV3", 2019,
tables 1 and 2.
"""

from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from distill_training.students.layers import MOMENTUM

Variant = Literal["v2", "v3-small", "v3-large"]


@dataclass(frozen=True)
class _Block:
    """Parameters of one inverted residual block, a row of the tables in the papers."""

    kernel: int
    expanded: int  # channels after the expansion
    outputs: int  # channels
    squeeze: bool  # whether it has a squeeze-and-excitation layer
    activation: type[nn.Module]
    stride: int


def _v2() -> list[_Block]:
    """Return the blocks of MobileNetV2: the first has 32 input channels and does not expand."""
    # output channels, number of blocks, stride of the first of them
    rows = ((16, 1, 1), (24, 2, 2), (32, 3, 2), (64, 4, 2), (96, 3, 1), (160, 3, 2), (320, 1, 1))
    blocks, expanded = [], 32
    for outputs, repeats, stride in rows:
        for i in range(repeats):
            step = stride if i == 0 else 1
            blocks.append(_Block(3, expanded, outputs, False, nn.ReLU6, step))
            expanded = 6 * outputs
    return blocks


_RE, _HS = nn.ReLU, nn.Hardswish
_BLOCKS: dict[Variant, list[_Block]] = {
    "v2": _v2(),
    "v3-small": [
        _Block(3, 16, 16, True, _RE, 2),
        _Block(3, 72, 24, False, _RE, 2),
        _Block(3, 88, 24, False, _RE, 1),
        _Block(5, 96, 40, True, _HS, 2),
        _Block(5, 240, 40, True, _HS, 1),
        _Block(5, 240, 40, True, _HS, 1),
        _Block(5, 120, 48, True, _HS, 1),
        _Block(5, 144, 48, True, _HS, 1),
        _Block(5, 288, 96, True, _HS, 2),
        _Block(5, 576, 96, True, _HS, 1),
        _Block(5, 576, 96, True, _HS, 1),
    ],
    "v3-large": [
        _Block(3, 16, 16, False, _RE, 1),
        _Block(3, 64, 24, False, _RE, 2),
        _Block(3, 72, 24, False, _RE, 1),
        _Block(5, 72, 40, True, _RE, 2),
        _Block(5, 120, 40, True, _RE, 1),
        _Block(5, 120, 40, True, _RE, 1),
        _Block(3, 240, 80, False, _HS, 2),
        _Block(3, 200, 80, False, _HS, 1),
        _Block(3, 184, 80, False, _HS, 1),
        _Block(3, 184, 80, False, _HS, 1),
        _Block(3, 480, 112, True, _HS, 1),
        _Block(3, 672, 112, True, _HS, 1),
        _Block(5, 672, 160, True, _HS, 2),
        _Block(5, 960, 160, True, _HS, 1),
        _Block(5, 960, 160, True, _HS, 1),
    ],
}


def mobilenet_features(variant: Variant) -> nn.Sequential:
    """Return torchvision's `features` of a MobileNet, untrained; the last is a 1x1 convolution."""
    blocks, v2, inputs = _BLOCKS[variant], variant == "v2", _first_channels(variant)
    last = 1280 if v2 else 6 * blocks[-1].outputs
    layers: list[nn.Module] = [_conv(3, inputs, nn.ReLU6 if v2 else _HS, 3, 2, v2=v2)]
    for block in blocks:
        layers.append(_Inverted(inputs, block, v2))
        inputs = block.outputs
    layers.append(_conv(inputs, last, nn.ReLU6 if v2 else _HS, 1, v2=v2))
    for module in (m for layer in layers for m in layer.modules()):
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out")
    return nn.Sequential(*layers)


def feature_levels(variant: Variant) -> dict[int, tuple[int, int]]:
    """Return, by stride in px, the index of the last layer at that stride and its channels."""
    stride = 2
    levels = {stride: (0, _first_channels(variant))}
    for i, block in enumerate(_BLOCKS[variant], start=1):
        stride *= block.stride
        levels[stride] = (i, block.outputs)
    return levels


def _first_channels(variant: Variant) -> int:
    """Return the channels of the first convolution."""
    return 32 if variant == "v2" else 16


def _conv(
    inputs: int,
    outputs: int,
    activation: type[nn.Module],
    kernel: int,
    stride: int = 1,
    groups: int = 1,
    v2: bool = False,
) -> nn.Sequential:
    kind = nn.Conv2d if groups == 1 else _Depthwise
    return nn.Sequential(
        kind(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs, eps=1e-5 if v2 else 1e-3, momentum=MOMENTUM),
        *(() if activation is nn.Identity else (activation(inplace=True),)),
    )


class _Depthwise(nn.Conv2d):
    """Depthwise convolution that always runs in float32 on a CPU.

    In bf16, its gradient takes two to eight times as long there.
    """

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu" or x.dtype == torch.float32:
            return super().forward(x)
        with torch.autocast("cpu", enabled=False):
            return super().forward(x.float()).to(x.dtype)


class _Inverted(nn.Module):
    """Inverted residual: expansion, depthwise convolution, projection, and a skip connection.

    The skip connection exists where input and output have the same shape.
    """

    def __init__(self, inputs: int, block: _Block, v2: bool) -> None:
        super().__init__()
        conv = partial(_conv, activation=block.activation, v2=v2)
        expanded = block.expanded
        layers: list[nn.Module] = []
        if expanded != inputs:
            layers.append(conv(inputs, expanded, kernel=1))
        layers.append(
            conv(expanded, expanded, kernel=block.kernel, stride=block.stride, groups=expanded)
        )
        if block.squeeze:
            layers.append(_Squeeze(expanded))
        projection = _conv(expanded, block.outputs, nn.Identity, kernel=1, v2=v2)
        layers += projection if v2 else [projection]
        self._name = "conv" if v2 else "block"  # in torchvision's files
        self.add_module(self._name, nn.Sequential(*layers))
        self._has_skip = block.stride == 1 and inputs == block.outputs

    def forward(self, x: Tensor) -> Tensor:
        y = self.get_submodule(self._name)(x)
        return x + y if self._has_skip else y


class _Squeeze(nn.Module):
    """Scales each channel by a factor computed from the whole image.

    Hu et al., "Squeeze-and-Excitation Networks", 2018.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        squeezed = max(8, int(channels / 4 + 4) // 8 * 8)  # a multiple of 8, about a quarter
        if squeezed < 0.9 * channels / 4:
            squeezed += 8
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc1 = nn.Conv2d(channels, squeezed, 1)
        self.fc2 = nn.Conv2d(squeezed, channels, 1)
        self.activation = nn.ReLU(inplace=True)
        self.scale_activation = nn.Hardsigmoid()

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale_activation(self.fc2(self.activation(self.fc1(self.avgpool(x)))))
