"""`vit`: a convolutional stem, a transformer over patches, and upsampling to the cells."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from distill_training.common.transformer import LayerNorm
from distill_training.common.typed_values import NonNegativeInt, PositiveInt
from distill_training.students.head import CoordinateHead, ImageInput, SceneNormalization
from distill_training.students.layers import Stem, TopDown, pointwise_convs
from distill_training.students.student import CellGrid, PretrainedConfig, Student
from distill_training.students.vit_encoder import Block, Encoder
from distill_training.students.vit_published import load_encoder
from mote_localization.errors import MoteError


@dataclass(frozen=True)
class VitConfig(PretrainedConfig):
    """Settings of a `vit` student; `pretrained` takes DUSt3R's encoder or DINOv2."""

    patch: Literal[8, 16, 32] = 16  # px, side of the patch of a token
    encoder_blocks: NonNegativeInt = 4  # with a pretrained file, its first blocks
    decoder_blocks: NonNegativeInt = 2  # never pretrained
    width: PositiveInt = 192  # channels of a token; a pretrained encoder has its own
    heads: PositiveInt = 3  # attention heads; a pretrained encoder has its own
    stem: PositiveInt = 32  # channels of the stem at stride 2; stride 4 has twice as many
    fine: PositiveInt = 96  # channels from stride 8 on and of the merged features
    fine_blocks: NonNegativeInt = 2  # residual blocks after the merge

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.width % self.heads:
            raise MoteError(
                f"found width = {self.width} and heads = {self.heads}, expected a width that is a "
                "multiple of heads"
            )


class Vit(Student):
    """Student with a transformer: every cell depends on the whole image. It has one image size."""

    rate = 0.33

    def __init__(
        self, normalization: SceneNormalization, cells: CellGrid, config: VitConfig
    ) -> None:
        """Create the network; its encoder is untrained or read from `config.pretrained`.

        Raises:
            CheckpointError: The file contains no usable encoder.
            MoteError: A patch is smaller than a cell, or `config.freeze` names more blocks than
                the encoder has.
        """
        super().__init__()
        if config.patch < cells.stride:
            raise MoteError(
                f"found patch = {config.patch} px, expected the stride, {cells.stride} px, or more"
            )
        self._size = (cells.height, cells.width)
        self._grid = (-(-cells.height // config.patch), -(-cells.width // config.patch))
        self._from_image = config.pretrained is not None
        self.stem = Stem(config.stem, config.fine, cells.stride)
        if config.pretrained:
            published = load_encoder(
                config.pretrained, config.encoder_blocks, config.patch, self._size, self._grid
            )
            self.input, self.encoder = published.input, published.encoder
            self.licence = published.licence
            channels = self.encoder.enc_norm.weight.shape[0]
        else:
            channels, ratio = config.width, config.patch // 8
            # one token for ratio x ratio cells of stride 8, incomplete ones at the edges too
            embed = nn.Conv2d(config.fine, channels, 2 * ratio - 1, ratio, ratio - 1)
            self.input = ImageInput()
            self.encoder = Encoder(embed, self._grid, channels, config.heads, config.encoder_blocks)
        self.decoder_embed = nn.Linear(channels, config.width)
        patches = self._grid[0] * self._grid[1]
        self.dec_blocks = nn.ModuleList(
            Block(config.width, config.heads, patches) for _ in range(config.decoder_blocks)
        )
        self.dec_norm = LayerNorm(config.width)
        # channels of the merged stem features by stride, from the cells' stride on
        merged = {cells.stride: config.fine}
        if cells.stride == 4:
            merged = {4: 2 * config.stem, 8: config.fine}
        self._merged = len(merged)
        self.join = TopDown(
            (*merged, config.patch),
            (*merged.values(), config.width),
            config.fine,
            config.fine_blocks,
        )
        self.mix = pointwise_convs(config.fine)
        self.head = CoordinateHead(config.fine, normalization)
        # no weight decay for norms, biases, position embeddings and prefix tokens
        self._undecayed = {p for p in self.parameters() if p.ndim == 1}
        self._undecayed.add(self.encoder.positions.values)
        if self.encoder.prefix is not None:
            self._undecayed.add(self.encoder.prefix.values)
        if config.pretrained:
            self._set_pretrained(published.backbone, published.blocks, config)

    def forward(self, image_bhw3: Tensor) -> tuple[Tensor, Tensor]:
        """Return points_bhw3 (m, map frame) and sigma_bhw (m) of image_bhw3 uint8.

        Raises:
            ValueError: The images do not have the student's size.
        """
        if not torch.jit.is_tracing() and image_bhw3.shape[1:3] != self._size:
            raise ValueError(f"found images {tuple(image_bhw3.shape)}, expected {self._size}")
        image_bchw = self.input(image_bhw3)
        features = self.stem(image_bchw)
        tokens_bnc = self.encoder(image_bchw if self._from_image else features[1])
        tokens_bnc = self.decoder_embed(tokens_bnc).float()
        for block in self.dec_blocks:
            tokens_bnc = block(tokens_bnc)
        tokens_bcn = self.dec_norm(tokens_bnc).transpose(1, 2)
        patches_bcrw = tokens_bcn.reshape(-1, tokens_bcn.shape[1], *self._grid)
        return self.head(self.mix(self.join([*features[-self._merged :], patches_bcrw])))
