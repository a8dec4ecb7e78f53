"""`mobilenet`: a MobileNet whose features of several strides are joined at the cells'."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from distill_training.students.head import CoordinateHead, ImageNetInput, SceneNormalization
from distill_training.students.layers import TopDown, conv, mix
from distill_training.students.mobilenet_backbone import Variant, feature_levels, mobilenet_features
from distill_training.students.pretrained import load_weights, read_weights
from distill_training.students.student import CellGrid, PretrainedConfig, Student

_START = "features."  # of the trunk's names in torchvision's files


@dataclass(frozen=True)
class MobileNetConfig(PretrainedConfig):
    """Sizes of the network; `pretrained` takes torchvision's file of the variant."""

    variant: Variant = "v3-small"  # the trunk
    deepest: Literal[16, 32] = 16  # stride in px at which the trunk ends; 32 has most parameters
    width: int = 128  # channels where features are joined
    blocks: int = 3  # residual blocks after that


class MobileNet(Student):
    """Fully convolutional student on a MobileNet without the last layers, which tell objects."""

    def __init__(self, frame: SceneNormalization, cells: CellGrid, config: MobileNetConfig) -> None:
        """Make the network, its trunk untrained or from a file.

        Raises:
            CheckpointError: The file is not of the variant.
            MoteError: More blocks are to be trained than there are.
        """
        super().__init__()
        levels = feature_levels(config.variant)
        strides = [s for s in levels if cells.stride <= s <= config.deepest]
        taken = [levels[s] for s in (cells.stride // 2, *strides)]
        self._taken = {layer for layer, _ in taken}
        (_, finer), *joined = taken
        self.input = ImageNetInput()
        self.features = nn.Sequential(
            *list(mobilenet_features(config.variant))[: max(self._taken) + 1]
        )
        # The trunk is thin where the cells are: what lies one level finer is told directly.
        self.finer = conv(finer, config.width, stride=2)
        self.join = TopDown(
            (cells.stride, *strides),
            (config.width, *(channels for _, channels in joined)),
            config.width,
            config.blocks,
        )
        self.mix = mix(config.width)
        self.head = CoordinateHead(config.width, frame)
        if config.pretrained:
            state = read_weights(config.pretrained)
            load_weights(
                self.features,
                {name[len(_START) :]: v for name, v in state.items() if name.startswith(_START)},
                config.pretrained,
                f"torchvision's mobilenet_{config.variant.replace('-', '_')}",
            )
            self._start_from_file([self.features], list(self.features), config)

    def forward(self, image_bhw3: Tensor) -> tuple[Tensor, Tensor]:
        """Return points_bhw3 (m, map frame) and sigma_bhw (m) of image_bhw3 uint8."""
        taken, x = [], self.input(image_bhw3)
        for i, layer in enumerate(self.features):
            x = layer(x)
            if i in self._taken:
                taken.append(x)
        finer, *joined = taken
        return self.head(self.mix(self.join([self.finer(finer), *joined])))
