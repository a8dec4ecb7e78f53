"""`vit`: a convolutional stem, a transformer among patches, and a way back up to the cells."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from distill_training.students.head import CoordinateHead, ImageInput, SceneNormalization
from distill_training.students.layers import Stem, TopDown, mix
from distill_training.students.student import CellGrid, PretrainedConfig, Student
from distill_training.students.vit_encoder import Block, Encoder, norm
from distill_training.students.vit_published import load_encoder
from mote_localization.errors import MoteError


@dataclass(frozen=True)
class VitConfig(PretrainedConfig):
    """Sizes of the network; `pretrained` takes DUSt3R's encoder or DINOv2."""

    patch: Literal[8, 16, 32] = 16  # px of the image per side of what a token stands for
    encoder_blocks: int = 4  # with a pretrained file, its first ones
    decoder_blocks: int = 2  # always trained
    width: int = 192  # channels of a token; the encoder's are the file's, if there is one
    heads: int = 3  # of the attention, likewise
    stem: int = 32  # channels of the convolutional stem at stride 2; twice as many at stride 4
    fine: int = 96  # channels from stride 8 on and where tokens and stem are joined
    fine_blocks: int = 2  # residual blocks after that

    def __post_init__(self) -> None:
        """Refuse what cannot be built."""
        super().__post_init__()
        if self.width % self.heads:
            raise MoteError(
                f"found width = {self.width} and heads = {self.heads}, expected a multiple of it"
            )


class Vit(Student):
    """Student whose every cell has seen the whole image, for images of one size."""

    rate = 0.33

    def __init__(self, frame: SceneNormalization, cells: CellGrid, config: VitConfig) -> None:
        """Make the network, its encoder untrained or from a file.

        Raises:
            CheckpointError: The file holds no usable encoder.
            MoteError: A patch is smaller than a cell, or more blocks are to be trained than there
                are.
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
            # one token for `ratio` cells of stride 8 a side, begun ones too
            embed = nn.Conv2d(config.fine, channels, 2 * ratio - 1, ratio, ratio - 1)
            self.input = ImageInput()
            self.encoder = Encoder(embed, self._grid, channels, config.heads, config.encoder_blocks)
        self.decoder_embed = nn.Linear(channels, config.width)
        patches = self._grid[0] * self._grid[1]
        self.dec_blocks = nn.ModuleList(
            Block(config.width, config.heads, patches) for _ in range(config.decoder_blocks)
        )
        self.dec_norm = norm(config.width)
        # channels of the stem by stride, from the cells' on
        joined = {cells.stride: config.fine}
        if cells.stride == 4:
            joined = {4: 2 * config.stem, 8: config.fine}
        self._joined = len(joined)
        self.join = TopDown(
            (*joined, config.patch),
            (*joined.values(), config.width),
            config.fine,
            config.fine_blocks,
        )
        self.mix = mix(config.fine)
        self.head = CoordinateHead(config.fine, frame)
        # neither norms and biases nor what is added to the tokens are pulled to nothing
        self._undecayed = {p for p in self.parameters() if p.ndim == 1}
        self._undecayed.add(self.encoder.positions.values)
        if self.encoder.prefix is not None:
            self._undecayed.add(self.encoder.prefix.values)
        if config.pretrained:
            self._start_from_file(published.trunk, published.blocks, config)

    def forward(self, image_bhw3: Tensor) -> tuple[Tensor, Tensor]:
        """Return points_bhw3 (m, map frame) and sigma_bhw (m) of image_bhw3 uint8.

        Raises:
            ValueError: The images are not of the student's size.
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
        seen_bcrw = tokens_bcn.reshape(-1, tokens_bcn.shape[1], *self._grid)
        return self.head(self.mix(self.join([*features[-self._joined :], seen_bcrw])))
