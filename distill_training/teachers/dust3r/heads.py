"""Heads: from the tokens of one image to a point and a confidence for each of its pixels.

Module names are those of the published checkpoints. A head says in `layers` which tokens it looks
at: 0 is the encoder's output, i that of decoder block i.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_OUT = 4  # channels: x, y, z before `_points`, and confidence before `_confidence`
_DPT_WIDTHS = (96, 192, 384, 768)  # channels of the four maps, fine to coarse
_DPT_FUSED = 256  # channels in which they are joined
_DPT_LAST = 128  # channels of the last layers
DPT_PATCH = 16  # px, the patch size to whose pixels the DPT head enlarges


def pointmap(out_b4hw: Tensor) -> tuple[Tensor, Tensor]:
    """Return points_bhw3 and conf_bhw (1 or more) of a head's output."""
    xyz_b3hw, last_bhw = out_b4hw[:, :3], out_b4hw[:, 3]
    # tiny, not 0: a pixel of length 0 has no direction
    length_b1hw = xyz_b3hw.norm(dim=1, keepdim=True).clamp(min=1e-8)
    points_b3hw = xyz_b3hw * (length_b1hw.expm1() / length_b1hw)
    return points_b3hw.permute(0, 2, 3, 1), 1 + last_bhw.exp()


class LinearHead(nn.Module):
    """Each token gives the pixels of its own patch."""

    def __init__(self, patch_size: int, channels: int, depth: int) -> None:
        """Make a head for a decoder of so many channels and blocks."""
        super().__init__()
        self.layers = (depth,)
        self._patch_size = patch_size
        self.proj = nn.Linear(channels, _OUT * patch_size**2)

    def forward(self, maps_bchw: Sequence[Tensor]) -> Tensor:
        """Return out_b4hw at full size of the maps of the tokens of `layers`."""
        patches_bhwc = self.proj(maps_bchw[0].permute(0, 2, 3, 1))
        return F.pixel_shuffle(patches_bhwc.permute(0, 3, 1, 2), self._patch_size)


class DptHead(nn.Module):
    """Tokens of four depths joined from coarse to fine (Ranftl et al., DPT, ICCV 2021)."""

    def __init__(self, encoder_channels: int, channels: int, depth: int) -> None:
        """Make a head for an encoder and a decoder of so many channels, and blocks."""
        super().__init__()
        self.layers = (0, depth // 2, depth * 3 // 4, depth)
        self.dpt = _Dpt((encoder_channels, channels, channels, channels))

    def forward(self, maps_bchw: Sequence[Tensor]) -> Tensor:
        """Return out_b4hw at full size of the maps of the tokens of `layers`."""
        return self.dpt(maps_bchw)


class _Dpt(nn.Module):
    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        a, b, c, d = _DPT_WIDTHS
        self.scratch = _Scratch()
        self.head = nn.Sequential(
            nn.Conv2d(_DPT_FUSED, _DPT_LAST, 3, padding=1),
            _Twice(),
            nn.Conv2d(_DPT_LAST, _DPT_LAST, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(_DPT_LAST, _OUT, 1),
        )
        self.act_postprocess = nn.ModuleList(
            [
                nn.Sequential(nn.Conv2d(channels[0], a, 1), nn.ConvTranspose2d(a, a, 4, 4)),
                nn.Sequential(nn.Conv2d(channels[1], b, 1), nn.ConvTranspose2d(b, b, 2, 2)),
                nn.Sequential(nn.Conv2d(channels[2], c, 1)),
                nn.Sequential(nn.Conv2d(channels[3], d, 1), nn.Conv2d(d, d, 3, 2, padding=1)),
            ]
        )
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, maps_bchw: Sequence[Tensor]) -> Tensor:
        maps = [resize(x) for resize, x in zip(self.act_postprocess, maps_bchw, strict=True)]
        return self.head(self.scratch(maps))


class _Scratch(nn.Module):
    """Joins four maps, each twice as fine as the next."""

    def __init__(self) -> None:
        super().__init__()
        narrow = [nn.Conv2d(w, _DPT_FUSED, 3, padding=1, bias=False) for w in _DPT_WIDTHS]
        # One module under two names: the checkpoints have both.
        for i, conv in enumerate(narrow):
            self.add_module(f"layer{i + 1}_rn", conv)
        self.layer_rn = nn.ModuleList(narrow)
        self.refinenet1 = _Refine()
        self.refinenet2 = _Refine()
        self.refinenet3 = _Refine()
        self.refinenet4 = _Refine()

    def forward(self, maps_bchw: Sequence[Tensor]) -> Tensor:
        one, two, three, four = (
            narrow(x) for narrow, x in zip(self.layer_rn, maps_bchw, strict=True)
        )
        rows, columns = three.shape[2:]
        # An odd side of the third map is rounded up in the fourth.
        path = self.refinenet4(four)[..., :rows, :columns]
        return self.refinenet1(self.refinenet2(self.refinenet3(path, three), two), one)


class _Refine(nn.Module):
    """Joins a finer map to a coarser one and doubles the size."""

    def __init__(self) -> None:
        super().__init__()
        self.out_conv = nn.Conv2d(_DPT_FUSED, _DPT_FUSED, 1)
        self.resConfUnit1 = _Residual()  # in the checkpoints where there is no finer map, too
        self.resConfUnit2 = _Residual()
        self._twice = _Twice()

    def forward(self, path_bchw: Tensor, finer_bchw: Tensor | None = None) -> Tensor:
        if finer_bchw is not None:
            path_bchw = path_bchw + self.resConfUnit1(finer_bchw)
        # The published order is the other; a 1x1 convolution before the interpolation gives the
        # same and costs a quarter.
        return self._twice(self.out_conv(self.resConfUnit2(path_bchw)))


class _Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(_DPT_FUSED, _DPT_FUSED, 3, padding=1)
        self.conv2 = nn.Conv2d(_DPT_FUSED, _DPT_FUSED, 3, padding=1)

    def forward(self, x_bchw: Tensor) -> Tensor:
        return x_bchw + self.conv2(self.conv1(x_bchw.relu()).relu())


class _Twice(nn.Module):
    """Doubles the size of a map."""

    def forward(self, x_bchw: Tensor) -> Tensor:
        return F.interpolate(x_bchw, scale_factor=2, mode="bilinear", align_corners=True)
