"""What a transformer among patches is made of, with the names of published encoders.

Shapes: b images, n tokens, c channels, h heads, d channels a head.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_MLP_RATIO = 4


class Block(nn.Module):
    """Pre-norm transformer block: attention among one image's tokens, then an MLP for each."""

    def __init__(self, channels: int, heads: int, tokens: int, scaled: bool = False) -> None:
        """Make one.

        Args:
            channels: Of a token.
            heads: Of the attention.
            tokens: Of an image; known beforehand, so that the exported graph asks for no shapes.
            scaled: Whether what is added has a factor per channel (DINOv2's LayerScale).
        """
        super().__init__()
        self.norm1 = norm(channels)
        self.attn = _Attention(channels, heads, tokens)
        self.ls1 = _Scale(channels) if scaled else nn.Identity()
        self.norm2 = norm(channels)
        self.mlp = _Mlp(channels)
        self.ls2 = _Scale(channels) if scaled else nn.Identity()
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
        # plain products: on a CPU three times as fast to train as the fused attention
        seen_bhnd = torch.softmax((q * d**-0.5) @ k.transpose(-1, -2), dim=-1) @ v
        return self.proj(seen_bhnd.transpose(1, 2).reshape(-1, n, h * d))


class _Mlp(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, _MLP_RATIO * channels)
        self.fc2 = nn.Linear(_MLP_RATIO * channels, channels)

    def forward(self, x_bnc: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x_bnc)))


class _Scale(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(channels))

    def forward(self, x_bnc: Tensor) -> Tensor:
        return x_bnc * self.gamma


def norm(channels: int) -> nn.LayerNorm:
    """Return a layer normalization with the epsilon of the published encoders."""
    return nn.LayerNorm(channels, eps=1e-6)


class Positions(nn.Module):
    """Makes a row of tokens of a grid, with a learned value added at each place.

    Takes the values of another grid, interpolated.
    """

    def __init__(self, channels: int, grid: tuple[int, int]) -> None:
        """Make untrained ones for a grid of (rows, columns)."""
        super().__init__()
        self.values = nn.Parameter(torch.empty(1, channels, *grid))
        nn.init.trunc_normal_(self.values, std=0.02)

    def forward(self, tokens_bcrw: Tensor) -> Tensor:
        """Return the tokens (b, n, c), row by row."""
        _, channels, rows, columns = self.values.shape
        placed_bcrw = tokens_bcrw + self.values
        return placed_bcrw.reshape(-1, channels, rows * columns).transpose(1, 2)

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
    """Puts tokens that stand for no patch before the others, and takes them away again."""

    def __init__(self, values_1kc: Tensor) -> None:
        """Make one that starts from published values."""
        super().__init__()
        self.values = nn.Parameter(values_1kc.clone())

    def forward(self, x_bnc: Tensor) -> Tensor:
        """Return (b, k + n, c)."""
        values_bkc: Tensor = self.values
        if not torch.onnx.is_in_onnx_export():  # a map sees one image at a time
            values_bkc = values_bkc.expand(len(x_bnc), -1, -1)
        return torch.cat([values_bkc, x_bnc], dim=1)

    def remove(self, x_bnc: Tensor) -> Tensor:
        """Return the tokens of the patches alone."""
        return x_bnc[:, self.values.shape[1] :]


class Patches(nn.Module):
    """A published patch embedding; the image is scaled so that a token stands where wanted."""

    rows: Tensor
    columns: Tensor

    def __init__(
        self, channels: int, kernel: int, patch: int, size: tuple[int, int], grid: tuple[int, int]
    ) -> None:
        """Make one.

        Args:
            channels: Of a token.
            kernel: Side of the published patches, px.
            patch: Side of the patches of the student's image that they are to show, px.
            size: Height and width of the image, px.
            grid: Rows and columns of patches; beyond the image its last pixels go on.
        """
        super().__init__()
        for name, side, seen in (("rows", 0, size[0]), ("columns", 1, size[1])):
            pixels = torch.arange(grid[side] * patch).clamp(max=seen - 1)
            self.register_buffer(name, pixels, persistent=False)
        self._whole = size == (grid[0] * patch, grid[1] * patch)
        self._scale = kernel / patch
        self.proj = nn.Conv2d(3, channels, kernel, kernel)

    def forward(self, image_bchw: Tensor) -> Tensor:
        """Return tokens (b, c, rows, columns)."""
        if not self._whole:
            image_bchw = image_bchw.index_select(2, self.rows).index_select(3, self.columns)
        if self._scale != 1:
            image_bchw = F.interpolate(
                image_bchw, scale_factor=self._scale, mode="bilinear", align_corners=False
            )
        return self.proj(image_bchw)


class Encoder(nn.Module):
    """Looks at an image by its patches."""

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
        """Make an untrained one.

        Args:
            patch_embed: Makes tokens (b, c, rows, columns) of an image or its features.
            grid: Rows and columns of the patches.
            channels: Of a token.
            heads: Of the attention.
            depth: Number of blocks.
            scaled: Whether blocks have a LayerScale.
            prefix_1kc: Tokens that stand for no patch.
        """
        super().__init__()
        self.patch_embed = patch_embed
        self.positions = Positions(channels, grid)
        self.prefix = None if prefix_1kc is None else Prefix(prefix_1kc)
        tokens = grid[0] * grid[1] + (0 if prefix_1kc is None else prefix_1kc.shape[1])
        self.enc_blocks = nn.ModuleList(
            Block(channels, heads, tokens, scaled) for _ in range(depth)
        )
        self.enc_norm = norm(channels)

    def forward(self, image_bchw: Tensor) -> Tensor:
        """Return the tokens of the patches (b, n, c) float32, row by row."""
        # Tokens stay float32 between blocks: half precision would add up its rounding.
        tokens_bnc = self.positions(self.patch_embed(image_bchw).float())
        if self.prefix is not None:
            tokens_bnc = self.prefix(tokens_bnc)
        for block in self.enc_blocks:
            tokens_bnc = block(tokens_bnc)
        if self.prefix is not None:
            tokens_bnc = self.prefix.remove(tokens_bnc)
        return self.enc_norm(tokens_bnc)
