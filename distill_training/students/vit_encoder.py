"""Transformer encoder over image patches, with the parameter names of published encoders.

Shapes: b images, n tokens, c channels, h heads, d channels a head.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distill_training.common.transformer import LayerNorm, Mlp


class Block(nn.Module):
    """Pre-norm transformer block: self-attention over the tokens of an image, then an MLP."""

    def __init__(self, channels: int, heads: int, tokens: int, scaled: bool = False) -> None:
        """Create the block.

        Args:
            channels: Channels of a token.
            heads: Attention heads.
            tokens: Tokens of an image; fixed, so that the exported graph has no shape operators.
            scaled: Whether the two branches end in a LayerScale, as DINOv2's do.
        """
        super().__init__()
        self.norm1 = LayerNorm(channels)
        self.attn = _Attention(channels, heads, tokens)
        self.ls1 = _LayerScale(channels) if scaled else nn.Identity()
        self.norm2 = LayerNorm(channels)
        self.mlp = Mlp(channels)
        self.ls2 = _LayerScale(channels) if scaled else nn.Identity()
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, x_bnc: Tensor) -> Tensor:
        """Return the tokens after the block."""
        x_bnc = x_bnc + self.ls1(self.attn(self.norm1(x_bnc)))
        return x_bnc + self.ls2(self.mlp(self.norm2(x_bnc)))


class _Attention(nn.Module):
    def __init__(self, channels: int, heads: int, tokens: int) -> None:
        super().__init__()
        self._shape_nhd = (tokens, heads, channels // heads)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)

    def forward(self, x_bnc: Tensor) -> Tensor:
        n, h, d = self._shape_nhd
        q, k, v = self.qkv(x_bnc).reshape(-1, n, 3, h, d).permute(2, 0, 3, 1, 4).unbind(0)
        # plain products: on a CPU, training is three times as fast as with the fused attention
        attended_bhnd = torch.softmax((q * d**-0.5) @ k.transpose(-1, -2), dim=-1) @ v
        return self.proj(attended_bhnd.transpose(1, 2).reshape(-1, n, h * d))


class _LayerScale(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(channels))

    def forward(self, x_bnc: Tensor) -> Tensor:
        return x_bnc * self.gamma


class Positions(nn.Module):
    """Flattens a grid of tokens after adding a learned position embedding.

    A state dict of another grid is loaded by interpolation.
    """

    def __init__(self, channels: int, grid: tuple[int, int]) -> None:
        super().__init__()
        self.values = nn.Parameter(torch.empty(1, channels, *grid))
        nn.init.trunc_normal_(self.values, std=0.02)

    def forward(self, tokens_bcrw: Tensor) -> Tensor:
        """Return the tokens (b, n, c), row by row."""
        _, channels, rows, columns = self.values.shape
        embedded_bcrw = tokens_bcrw + self.values
        return embedded_bcrw.reshape(-1, channels, rows * columns).transpose(1, 2)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *arguments: Any
    ) -> None:
        name, grid = f"{prefix}values", self.values.shape[2:]
        if name in state_dict and state_dict[name].shape[2:] != grid:
            resized = F.interpolate(
                state_dict[name].float(), size=tuple(grid), mode="bicubic", align_corners=False
            )
            state_dict = {**state_dict, name: resized}
        super()._load_from_state_dict(state_dict, prefix, *arguments)


class Prefix(nn.Module):
    """Adds learned tokens without a patch before the others, and removes them."""

    def __init__(self, values_1kc: Tensor) -> None:
        super().__init__()
        self.values = nn.Parameter(values_1kc.clone())

    def forward(self, x_bnc: Tensor) -> Tensor:
        """Return (b, k + n, c)."""
        values_bkc: Tensor = self.values
        if not torch.onnx.is_in_onnx_export():  # a map takes one image at a time
            values_bkc = values_bkc.expand(len(x_bnc), -1, -1)
        return torch.cat([values_bkc, x_bnc], dim=1)

    def remove(self, x_bnc: Tensor) -> Tensor:
        """Return the tokens of the patches only."""
        return x_bnc[:, self.values.shape[1] :]


class Patches(nn.Module):
    """A published patch embedding; the image is scaled to the published patch size."""

    rows: Tensor
    columns: Tensor

    def __init__(
        self, channels: int, kernel: int, patch: int, size: tuple[int, int], grid: tuple[int, int]
    ) -> None:
        """Create the embedding.

        Args:
            channels: Channels of a token.
            kernel: Side of the published patches, px.
            patch: Side of the patches of the student's image, px.
            size: Height and width of the image, px.
            grid: Rows and columns of patches; beyond the image its last pixels are repeated.
        """
        super().__init__()
        for name, axis in (("rows", 0), ("columns", 1)):
            pixels = torch.arange(grid[axis] * patch).clamp(max=size[axis] - 1)
            self.register_buffer(name, pixels, persistent=False)
        self._fits_grid = size == (grid[0] * patch, grid[1] * patch)
        self._scale = kernel / patch
        self.proj = nn.Conv2d(3, channels, kernel, kernel)

    def forward(self, image_bchw: Tensor) -> Tensor:
        """Return tokens (b, c, rows, columns)."""
        if not self._fits_grid:
            image_bchw = image_bchw.index_select(2, self.rows).index_select(3, self.columns)
        if self._scale != 1:
            image_bchw = F.interpolate(
                image_bchw, scale_factor=self._scale, mode="bilinear", align_corners=False
            )
        return self.proj(image_bchw)


class Encoder(nn.Module):
    """Transformer encoder: one token per patch of an image."""

    def __init__(
        self,
        patch_embed: nn.Module,
        grid: tuple[int, int],
        channels: int,
        heads: int,
        depth: int,
        scaled: bool = False,
        prefix_1kc: Tensor | None = None,
    ) -> None:
        """Create an untrained encoder.

        Args:
            patch_embed: Returns tokens (b, c, rows, columns) of an image or its features.
            grid: Rows and columns of the patches.
            channels: Channels of a token.
            heads: Attention heads.
            depth: Number of blocks.
            scaled: Whether blocks have a LayerScale.
            prefix_1kc: Tokens without a patch, for example class token and registers.
        """
        super().__init__()
        self.patch_embed = patch_embed
        self.positions = Positions(channels, grid)
        self.prefix = None if prefix_1kc is None else Prefix(prefix_1kc)
        tokens = grid[0] * grid[1] + (0 if prefix_1kc is None else prefix_1kc.shape[1])
        self.enc_blocks = nn.ModuleList(
            Block(channels, heads, tokens, scaled) for _ in range(depth)
        )
        self.enc_norm = LayerNorm(channels)

    def forward(self, image_bchw: Tensor) -> Tensor:
        """Return the tokens of the patches (b, n, c) float32, row by row."""
        # Tokens stay float32 between blocks: in half precision, rounding errors accumulate.
        tokens_bnc = self.positions(self.patch_embed(image_bchw).float())
        if self.prefix is not None:
            tokens_bnc = self.prefix(tokens_bnc)
        for block in self.enc_blocks:
            tokens_bnc = block(tokens_bnc)
        if self.prefix is not None:
            tokens_bnc = self.prefix.remove(tokens_bnc)
        return self.enc_norm(tokens_bnc)
