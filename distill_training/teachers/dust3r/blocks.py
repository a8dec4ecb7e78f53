"""Transformer blocks whose attention knows where in the image a token lies.

Module names are those of the published checkpoints. Shapes: b images, n tokens (m of the other
image), c channels, h heads, d channels a head.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_ROPE_BASE = 100.0
_MLP_RATIO = 4


class LayerNorm(nn.LayerNorm):
    """Layer normalization with the epsilon of the published networks."""

    def __init__(self, channels: int) -> None:
        """Make one for so many channels."""
        super().__init__(channels, eps=1e-6)


class Rope:
    """Turns queries and keys by where their tokens lie: rotary embedding in two dimensions.

    The first half of a head's channels turns by the row, the second by the column (Su et al.,
    "RoFormer", 2021, eq. 15, for each).
    """

    def __init__(self, grid: tuple[int, int], head_channels: int, device: torch.device) -> None:
        """Tabulate the angles of a grid (rows, columns) of tokens."""
        half = head_channels // 2
        frequencies = _ROPE_BASE ** -(torch.arange(0, half, 2, device=device) / half)
        row_column_n2 = torch.cartesian_prod(
            *(torch.arange(side, device=device, dtype=torch.float32) for side in grid)
        )
        angles = row_column_n2[..., None] * frequencies
        self._cos, self._sin = angles.cos(), angles.sin()

    def __call__(self, x_bhnd: Tensor) -> Tensor:
        """Return the queries or keys (b, h, n, d), turned."""
        # (…, d) is (row or column, first or second of a turned pair, frequency)
        one, other = x_bhnd.unflatten(-1, (2, 2, -1)).unbind(-2)
        turned = (one * self._cos - other * self._sin, other * self._cos + one * self._sin)
        return torch.stack(turned, dim=-2).flatten(-3).to(x_bhnd.dtype)


class SelfAttention(nn.Module):
    """Attention among the tokens of one image."""

    def __init__(self, channels: int, heads: int) -> None:
        """Make one of so many heads."""
        super().__init__()
        self._heads = heads
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)

    def forward(self, x_bnc: Tensor, rope: Rope) -> Tensor:
        """Return what each token learns, (b, n, c)."""
        q, k, v = (_split(x, self._heads) for x in self.qkv(x_bnc).chunk(3, dim=-1))
        return self.proj(_join(F.scaled_dot_product_attention(rope(q), rope(k), v)))


class CrossAttention(nn.Module):
    """Attention of the tokens of one image to those of the other."""

    def __init__(self, channels: int, heads: int) -> None:
        """Make one of so many heads."""
        super().__init__()
        self._heads = heads
        self.projq = nn.Linear(channels, channels)
        self.projk = nn.Linear(channels, channels)
        self.projv = nn.Linear(channels, channels)
        self.proj = nn.Linear(channels, channels)

    def forward(self, x_bnc: Tensor, rope: Rope, y_bmc: Tensor, y_rope: Rope) -> Tensor:
        """Return what each token of x learns from y, (b, n, c)."""
        q = rope(_split(self.projq(x_bnc), self._heads))
        k = y_rope(_split(self.projk(y_bmc), self._heads))
        v = _split(self.projv(y_bmc), self._heads)
        return self.proj(_join(F.scaled_dot_product_attention(q, k, v)))


class Mlp(nn.Module):
    """What each token makes of what it knows."""

    def __init__(self, channels: int) -> None:
        """Make one for so many channels."""
        super().__init__()
        self.fc1 = nn.Linear(channels, _MLP_RATIO * channels)
        self.fc2 = nn.Linear(_MLP_RATIO * channels, channels)

    def forward(self, x_bnc: Tensor) -> Tensor:
        """Return (b, n, c)."""
        return self.fc2(F.gelu(self.fc1(x_bnc)))


class EncoderBlock(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, channels: int, heads: int) -> None:
        """Make one of so many channels and heads."""
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
    """Pre-norm transformer block that also looks at the other image."""

    def __init__(self, channels: int, heads: int) -> None:
        """Make one of so many channels and heads."""
        super().__init__()
        self.norm1 = LayerNorm(channels)
        self.attn = SelfAttention(channels, heads)
        self.cross_attn = CrossAttention(channels, heads)
        self.norm2 = LayerNorm(channels)
        self.norm3 = LayerNorm(channels)
        self.mlp = Mlp(channels)
        self.norm_y = LayerNorm(channels)

    def forward(self, x_bnc: Tensor, rope: Rope, y_bmc: Tensor, y_rope: Rope) -> Tensor:
        """Return the tokens x (b, n, c) after the block; y are the other image's before it."""
        x_bnc = x_bnc + self.attn(self.norm1(x_bnc), rope)
        x_bnc = x_bnc + self.cross_attn(self.norm2(x_bnc), rope, self.norm_y(y_bmc), y_rope)
        return x_bnc + self.mlp(self.norm3(x_bnc))


def _split(x_bnc: Tensor, heads: int) -> Tensor:
    return x_bnc.unflatten(-1, (heads, -1)).transpose(1, 2)


def _join(x_bhnd: Tensor) -> Tensor:
    return x_bhnd.transpose(1, 2).flatten(2)
