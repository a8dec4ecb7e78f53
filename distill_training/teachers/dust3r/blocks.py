"""Transformer blocks with rotary position embedding in two dimensions.

Module names are those of the published checkpoints. Shapes: b images, n tokens of one image, m
tokens of the other image, c channels, h heads, d channels per head.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distill_training.common.transformer import LayerNorm, Mlp

_ROPE_BASE = 100.0


class Rope:
    """Rotary position embedding (RoPE) in two dimensions, for queries and keys.

    The first half of a head's channels encodes the row of the token, the second half the column.
    Each half is computed as in Su et al., "RoFormer", 2021, eq. 15.
    """

    def __init__(self, grid: tuple[int, int], head_channels: int, device: torch.device) -> None:
        half = head_channels // 2
        frequencies = _ROPE_BASE ** -(torch.arange(0, half, 2, device=device) / half)
        row_column_n2 = torch.cartesian_prod(
            *(torch.arange(side, device=device, dtype=torch.float32) for side in grid)
        )
        angles = row_column_n2[..., None] * frequencies
        self._cos, self._sin = angles.cos(), angles.sin()

    def __call__(self, x_bhnd: Tensor) -> Tensor:
        """Return the queries or keys (b, h, n, d) with their position encoded."""
        # d = (row or column) x (first or second element of a rotated pair) x frequency
        first, second = x_bhnd.unflatten(-1, (2, 2, -1)).unbind(-2)
        x, y = first * self._cos - second * self._sin, second * self._cos + first * self._sin
        return torch.stack((x, y), dim=-2).flatten(-3).to(x_bhnd.dtype)


class SelfAttention(nn.Module):
    """Multi-head self-attention among the tokens of one image."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self._heads = heads
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)

    def forward(self, x_bnc: Tensor, rope: Rope) -> Tensor:
        """Return the attention output (b, n, c)."""
        q, k, v = (_split_heads(x, self._heads) for x in self.qkv(x_bnc).chunk(3, dim=-1))
        return self.proj(_join_heads(F.scaled_dot_product_attention(rope(q), rope(k), v)))


class CrossAttention(nn.Module):
    """Multi-head cross-attention from the tokens of one image to those of the other image."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self._heads = heads
        self.projq = nn.Linear(channels, channels)
        self.projk = nn.Linear(channels, channels)
        self.projv = nn.Linear(channels, channels)
        self.proj = nn.Linear(channels, channels)

    def forward(self, x_bnc: Tensor, rope: Rope, y_bmc: Tensor, y_rope: Rope) -> Tensor:
        """Return the attention output (b, n, c): queries from x, keys and values from y."""
        q = rope(_split_heads(self.projq(x_bnc), self._heads))
        k = y_rope(_split_heads(self.projk(y_bmc), self._heads))
        v = _split_heads(self.projv(y_bmc), self._heads)
        return self.proj(_join_heads(F.scaled_dot_product_attention(q, k, v)))


class EncoderBlock(nn.Module):
    """Pre-norm transformer block: self-attention, then an MLP."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.norm1 = LayerNorm(channels)
        self.attn = SelfAttention(channels, heads)
        self.norm2 = LayerNorm(channels)
        self.mlp = Mlp(channels)

    def forward(self, x_bnc: Tensor, rope: Rope) -> Tensor:
        """Return the tokens (b, n, c) after the block."""
        x_bnc = x_bnc + self.attn(self.norm1(x_bnc), rope)
        return x_bnc + self.mlp(self.norm2(x_bnc))


class DecoderBlock(nn.Module):
    """Pre-norm transformer block: self-attention, cross-attention, then an MLP."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.norm1 = LayerNorm(channels)
        self.attn = SelfAttention(channels, heads)
        self.cross_attn = CrossAttention(channels, heads)
        self.norm2 = LayerNorm(channels)
        self.norm3 = LayerNorm(channels)
        self.mlp = Mlp(channels)
        self.norm_y = LayerNorm(channels)

    def forward(self, x_bnc: Tensor, rope: Rope, y_bmc: Tensor, y_rope: Rope) -> Tensor:
        """Return the tokens x (b, n, c) after the block; y are the inputs of the other image."""
        x_bnc = x_bnc + self.attn(self.norm1(x_bnc), rope)
        x_bnc = x_bnc + self.cross_attn(self.norm2(x_bnc), rope, self.norm_y(y_bmc), y_rope)
        return x_bnc + self.mlp(self.norm3(x_bnc))


def _split_heads(x_bnc: Tensor, heads: int) -> Tensor:
    """Return (b, h, n, d)."""
    return x_bnc.unflatten(-1, (heads, -1)).transpose(1, 2)


def _join_heads(x_bhnd: Tensor) -> Tensor:
    """Return (b, n, c)."""
    return x_bhnd.transpose(1, 2).flatten(2)
