"""Heads: a point and a confidence for each pixel, from the tokens of one image.

Module names are those of the published checkpoints. `layers` of a head lists the tokens that it
takes: 0 = output of the encoder, i = output of decoder block i.
"""

from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_OUT = 4  # channels: x, y, z and confidence before `pointmap`
_DPT_WIDTHS = (96, 192, 384, 768)  # channels of the four feature maps, fine to coarse
_DPT_FUSED = 256  # channels of the fused feature maps
_DPT_LAST = 128  # channels of the last layers
_Upsample2x = partial(nn.Upsample, scale_factor=2, mode="bilinear", align_corners=True)
DPT_PATCH = 16  # px, the patch size for which the DPT head upsamples to full resolution


def pointmap(out_b4hw: Tensor) -> tuple[Tensor, Tensor]:
    """Return points_bhw3 and conf_bhw (1 or more) from the output of a head."""
    xyz_b3hw, last_bhw = out_b4hw[:, :3], out_b4hw[:, 3]
    # avoids a division by 0
    length_b1hw = xyz_b3hw.norm(dim=1, keepdim=True).clamp(min=1e-8)
    points_b3hw = xyz_b3hw * (length_b1hw.expm1() / length_b1hw)
    return points_b3hw.permute(0, 2, 3, 1), 1 + last_bhw.exp()


class LinearHead(nn.Module):
    """Linear head: each token gives the pixels of its own patch."""

    def __init__(self, patch_size: int, channels: int, depth: int) -> None:
        super().__init__()
        self.layers = (depth,)
        self._patch_size = patch_size
        self.proj = nn.Linear(channels, _OUT * patch_size**2)

    def forward(self, maps_bchw: Sequence[Tensor]) -> Tensor:
        """Return out_b4hw at full resolution from the feature maps of `layers`."""
        patches_bhwc = self.proj(maps_bchw[0].permute(0, 2, 3, 1))
        return F.pixel_shuffle(patches_bhwc.permute(0, 3, 1, 2), self._patch_size)


class DptHead(nn.Module):
    """DPT head: fuses tokens of four layers from coarse to fine (Ranftl et al., DPT, ICCV 2021)."""

    def __init__(self, encoder_channels: int, channels: int, depth: int) -> None:
        super().__init__()
        self.layers = (0, depth // 2, depth * 3 // 4, depth)
        self.dpt = _Dpt((encoder_channels, channels, channels, channels))

    def forward(self, maps_bchw: Sequence[Tensor]) -> Tensor:
        """Return out_b4hw at full resolution from the feature maps of `layers`."""
        return self.dpt(maps_bchw)


class _Dpt(nn.Module):
    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        a, b, c, d = _DPT_WIDTHS
        self.scratch = _Scratch()
        self.head = nn.Sequential(
            nn.Conv2d(_DPT_FUSED, _DPT_LAST, 3, padding=1),
            _Upsample2x(),
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
    """Fuses four feature maps, each with twice the resolution of the next."""

    def __init__(self) -> None:
        super().__init__()
        projections = [nn.Conv2d(w, _DPT_FUSED, 3, padding=1, bias=False) for w in _DPT_WIDTHS]
        # The checkpoints have each module under two names.
        for i, conv in enumerate(projections):
            self.add_module(f"layer{i + 1}_rn", conv)
        self.layer_rn = nn.ModuleList(projections)
        self.refinenet1 = _Fusion()
        self.refinenet2 = _Fusion()
        self.refinenet3 = _Fusion()
        self.refinenet4 = _Fusion()

    def forward(self, maps_bchw: Sequence[Tensor]) -> Tensor:
        one, two, three, four = (
            project(x) for project, x in zip(self.layer_rn, maps_bchw, strict=True)
        )
        rows, columns = three.shape[2:]
        # If a side of the third map is odd, the fourth map upsampled is one row or column larger.
        path = self.refinenet4(four)[..., :rows, :columns]
        return self.refinenet1(self.refinenet2(self.refinenet3(path, three), two), one)


class _Fusion(nn.Module):
    """Fuses a finer feature map into a coarser one and doubles the resolution."""

    def __init__(self) -> None:
        super().__init__()
        self.out_conv = nn.Conv2d(_DPT_FUSED, _DPT_FUSED, 1)
        self.resConfUnit1 = _Residual()  # in the checkpoints even where there is no finer map
        self.resConfUnit2 = _Residual()
        self._upsample = _Upsample2x()

    def forward(self, path_bchw: Tensor, finer_bchw: Tensor | None = None) -> Tensor:
        if finer_bchw is not None:
            path_bchw = path_bchw + self.resConfUnit1(finer_bchw)
        # The published network interpolates first. A 1x1 convolution commutes with interpolation,
        # and costs a quarter at half the resolution.
        return self._upsample(self.out_conv(self.resConfUnit2(path_bchw)))


class _Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(_DPT_FUSED, _DPT_FUSED, 3, padding=1)
        self.conv2 = nn.Conv2d(_DPT_FUSED, _DPT_FUSED, 3, padding=1)

    def forward(self, x_bchw: Tensor) -> Tensor:
        return x_bchw + self.conv2(self.conv1(x_bchw.relu()).relu())
