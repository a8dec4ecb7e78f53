"""`mobilenet`: a MobileNet backbone whose features of several strides are merged."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from distill_training.common.typed_values import NonNegativeInt, PositiveInt
from distill_training.students.head import CoordinateHead, ImageNetInput, SceneNormalization
from distill_training.students.layers import TopDown, conv, pointwise_convs
from distill_training.students.mobilenet_backbone import Variant, feature_levels, mobilenet_features
from distill_training.students.pretrained import load_weights, read_weights
from distill_training.students.student import CellGrid, PretrainedConfig, Student

_PREFIX = "features."  # of the backbone's weights in torchvision's files


@dataclass(frozen=True)
class MobileNetConfig(PretrainedConfig):
    """Settings of a `mobilenet` student; `pretrained` takes torchvision's file of the variant."""

    variant: Variant = "v3-small"  # which MobileNet the backbone is
    deepest: Literal[16, 32] = 16  # px, stride of the backbone's last layer; 32 has most parameters
    width: PositiveInt = 128  # channels of the merged features
    blocks: NonNegativeInt = 3  # residual blocks after the merge


class MobileNet(Student):
    """Fully convolutional student with a MobileNet backbone, without its classifier."""

    def __init__(
        self, normalization: SceneNormalization, cells: CellGrid, config: MobileNetConfig
    ) -> None:
        """Create the network; its backbone is untrained or read from `config.pretrained`.

        Raises:
            CheckpointError: The file does not hold the weights of the variant.
            MoteError: `config.freeze` names more blocks than the backbone has.
        """
        super().__init__()
        levels = feature_levels(config.variant)
        strides = [s for s in levels if cells.stride <= s <= config.deepest]
        merged = [levels[s] for s in (cells.stride // 2, *strides)]
        self._merged_layers = {layer for layer, _ in merged}
        (_, finer), *coarser = merged
        self.input = ImageNetInput()
        self.features = nn.Sequential(
            *list(mobilenet_features(config.variant))[: max(self._merged_layers) + 1]
        )
        # The backbone has few channels at the cells' stride, so features of half the stride are
        # merged too.
        self.finer = conv(finer, config.width, stride=2)
        self.join = TopDown(
            (cells.stride, *strides),
            (config.width, *(channels for _, channels in coarser)),
            config.width,
            config.blocks,
        )
        self.mix = pointwise_convs(config.width)
        self.head = CoordinateHead(config.width, normalization)
        if config.pretrained:
            state = read_weights(config.pretrained)
            weights = {
                name.removeprefix(_PREFIX): value
                for name, value in state.items()
                if name.startswith(_PREFIX)
            }
            expected = f"torchvision's mobilenet_{config.variant.replace('-', '_')}"
            load_weights(self.features, weights, config.pretrained, expected)
            self._set_pretrained([self.features], list(self.features), config)

    def forward(self, image_bhw3: Tensor) -> tuple[Tensor, Tensor]:
        """Return points_bhw3 (m, map frame) and sigma_bhw (m) of image_bhw3 uint8."""
        merged, x = [], self.input(image_bhw3)
        for i, layer in enumerate(self.features):
            x = layer(x)
            if i in self._merged_layers:
                merged.append(x)
        finer, *coarser = merged
        return self.head(self.mix(self.join([self.finer(finer), *coarser])))
