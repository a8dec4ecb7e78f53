"""The DUSt3R network: predicts the pointmaps of two images in the camera frame of the first."""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
from torch import Tensor, nn

from distill_training.common.transformer import LayerNorm
from distill_training.teachers.dust3r.blocks import DecoderBlock, EncoderBlock, Rope
from distill_training.teachers.dust3r.heads import DPT_PATCH, DptHead, LinearHead, pointmap

Grid = tuple[int, int]  # rows and columns of the tokens of an image


class DUSt3R(nn.Module):
    """A ViT encoder, two decoders with cross-attention to each other, and a head for each.

    Parameters have the names and shapes of the published checkpoints. On a GPU, the blocks compute
    in half precision, tokens and heads are float32. On a CPU everything is float32.
    """

    def __init__(
        self,
        head_type: Literal["dpt", "linear"] = "dpt",
        img_size: tuple[int, int] = (512, 512),
        patch_size: int = 16,
        enc_embed_dim: int = 1024,
        enc_depth: int = 24,
        enc_num_heads: int = 16,
        dec_embed_dim: int = 768,
        dec_depth: int = 12,
        dec_num_heads: int = 12,
    ) -> None:
        """Create the untrained network, by default with the sizes of ViT-L 512 dpt.

        Raises:
            ValueError: The sizes are not compatible.
        """
        super().__init__()
        for channels, heads in ((enc_embed_dim, enc_num_heads), (dec_embed_dim, dec_num_heads)):
            if channels % (4 * heads):  # for rows and columns, pairs of channels
                raise ValueError(
                    f"{channels} channels in {heads} heads, expected a multiple of 4 per head"
                )
        if head_type not in ("dpt", "linear"):
            raise ValueError(f"head '{head_type}', expected dpt or linear")
        if head_type == "dpt" and (patch_size != DPT_PATCH or dec_depth % 4):
            raise ValueError(
                f"patch size {patch_size} and {dec_depth} decoder blocks with a dpt head, expected "
                f"{DPT_PATCH} and a multiple of 4"
            )
        self.head_type, self.img_size, self.patch_size = head_type, tuple(img_size), patch_size
        self._enc_head_channels = enc_embed_dim // enc_num_heads
        self._dec_head_channels = dec_embed_dim // dec_num_heads
        # Used in the pre-training only.
        self.mask_token = nn.Parameter(torch.zeros(1, 1, dec_embed_dim))
        self.patch_embed = _PatchEmbed(patch_size, enc_embed_dim)
        self.enc_blocks = _blocks(EncoderBlock, enc_embed_dim, enc_num_heads, enc_depth)
        self.enc_norm = LayerNorm(enc_embed_dim)
        self.decoder_embed = nn.Linear(enc_embed_dim, dec_embed_dim)
        self.dec_blocks = _blocks(DecoderBlock, dec_embed_dim, dec_num_heads, dec_depth)
        self.dec_norm = LayerNorm(dec_embed_dim)
        self.dec_blocks2 = _blocks(DecoderBlock, dec_embed_dim, dec_num_heads, dec_depth)

        def head() -> DptHead | LinearHead:
            if head_type == "dpt":
                return DptHead(enc_embed_dim, dec_embed_dim, dec_depth)
            return LinearHead(patch_size, dec_embed_dim, dec_depth)

        self.downstream_head1 = head()
        self.downstream_head2 = head()

    def forward(
        self, view1_b3hw: Tensor, view2_b3hw: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Predict the pointmaps of a batch of image pairs (b, 3, h, w), values in [-1, 1].

        Returns:
            points1_bhw3, conf1_bhw, points2_bhw3, conf2_bhw. Points of both views are in the camera
            frame of the first view, in an unknown unit per pair. Confidences are above 1.
        """
        return self.decode(*self.encode(view1_b3hw), *self.encode(view2_b3hw))

    def encode(self, image_b3hw: Tensor) -> tuple[Tensor, Grid]:
        """Return the tokens (b, n, c) float32 of images in [-1, 1], row by row, and their grid.

        Raises:
            ValueError: Height or width is no multiple of the patch size.
        """
        height, width = image_b3hw.shape[2:]
        if height % self.patch_size or width % self.patch_size:
            raise ValueError(
                f"image of {width}x{height} px, expected multiples of {self.patch_size}"
            )
        grid = (height // self.patch_size, width // self.patch_size)
        rope = Rope(grid, self._enc_head_channels, image_b3hw.device)
        with half_precision(image_b3hw.device):
            # Tokens stay float32 between blocks: in half precision, rounding errors accumulate.
            tokens_bnc = self.patch_embed(image_b3hw).float()
            for block in self.enc_blocks:
                tokens_bnc = block(tokens_bnc, rope)
            return self.enc_norm(tokens_bnc).float(), grid

    def decode(
        self, tokens1_bnc: Tensor, grid1: Grid, tokens2_bmc: Tensor, grid2: Grid
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Predict pairs from outputs of `encode`; returns what `forward` returns."""
        device = tokens1_bnc.device
        rope1, rope2 = (Rope(g, self._dec_head_channels, device) for g in (grid1, grid2))
        layers = self.downstream_head1.layers
        kept1, kept2 = [tokens1_bnc], [tokens2_bmc]
        with half_precision(device):
            one, two = (self.decoder_embed(t).float() for t in (tokens1_bnc, tokens2_bmc))
            pairs = zip(self.dec_blocks, self.dec_blocks2, strict=True)
            for i, (block1, block2) in enumerate(pairs, start=1):
                one, two = block1(one, rope1, two, rope2), block2(two, rope2, one, rope1)
                if i == len(self.dec_blocks):
                    one, two = self.dec_norm(one), self.dec_norm(two)
                if i in layers:
                    kept1.append(one)
                    kept2.append(two)
        return (
            *_pointmap(self.downstream_head1, kept1, grid1),
            *_pointmap(self.downstream_head2, kept2, grid2),
        )


def with_second_decoder(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters; if `dec_blocks2` is missing, it gets those of `dec_blocks`."""
    if any(name.startswith("dec_blocks2.") for name in state):
        return dict(state)
    second = {
        name.replace("dec_blocks.", "dec_blocks2.", 1): value
        for name, value in state.items()
        if name.startswith("dec_blocks.")
    }
    return {**state, **second}


class _PatchEmbed(nn.Module):
    def __init__(self, patch_size: int, channels: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, channels, patch_size, patch_size)

    def forward(self, image_b3hw: Tensor) -> Tensor:
        return self.proj(image_b3hw).flatten(2).transpose(1, 2)


def _blocks(kind: type[nn.Module], channels: int, heads: int, depth: int) -> nn.ModuleList:
    return nn.ModuleList(kind(channels, heads) for _ in range(depth))


def _pointmap(
    head: DptHead | LinearHead, kept_bnc: list[Tensor], grid: Grid
) -> tuple[Tensor, Tensor]:
    """Return points_bhw3 and conf_bhw from the tokens of the encoder and of `head.layers`."""
    with torch.autocast(kept_bnc[0].device.type, enabled=False):
        # Only the dpt head takes the tokens of the encoder. The maps have channels-last layout.
        maps = [t.float().transpose(1, 2).unflatten(2, grid) for t in kept_bnc]
        return pointmap(head(maps[-len(head.layers) :]))


def half_precision(device: torch.device) -> AbstractContextManager:
    """Return the autocast context of the blocks: bf16, on older GPUs fp16, on a CPU none."""
    if device.type != "cuda":
        return nullcontext()
    return torch.autocast("cuda", torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.half)
