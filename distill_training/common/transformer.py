"""Layers that every transformer here shares; parameter names are those of published networks.

Shapes: b images, n tokens, c channels.
"""

from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

_MLP_RATIO = 4  # hidden channels of the MLP over channels of a token


# Layer normalization of tokens with the epsilon of the published networks.
LayerNorm = partial(nn.LayerNorm, eps=1e-6)


class Mlp(nn.Module):
    """MLP with one hidden layer and GELU, applied to each token."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, _MLP_RATIO * channels)
        self.fc2 = nn.Linear(_MLP_RATIO * channels, channels)

    def forward(self, x_bnc: Tensor) -> Tensor:
        """Return the transformed tokens (b, n, c)."""
        return self.fc2(F.gelu(self.fc1(x_bnc)))
