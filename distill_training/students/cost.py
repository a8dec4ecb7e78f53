"""The cost of a student: parameters, multiply-adds and file size."""

import copy
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mote_localization.camera import Camera


@dataclass(frozen=True)
class StudentFigures:
    """The cost of a student."""

    parameters: int
    trained: int  # number of parameters that are not frozen
    macs: int  # multiply-adds per image of convolutions, linear layers and attention
    file_bytes: int  # weights in float16; the graph and small tensors add at most 150 kB

    def __str__(self) -> str:
        """Return the figures as one line."""
        return (
            f"{self.parameters / 1e6:.2f} M parameters, {self.macs / 1e9:.2f} GMAC an image, "
            f"{self.file_bytes / 1e6:.1f} MB"
        )


def describe(network: nn.Module, camera: Camera) -> StudentFigures:
    """Return the cost of a student on images of a canonical camera, without changing it."""
    parameters = list(network.parameters())
    counted = copy.deepcopy(network).cpu().eval()
    image_bhw3 = torch.zeros(1, camera.height, camera.width, 3, dtype=torch.uint8)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        counted(image_bhw3)
    count = sum(p.numel() for p in parameters)
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    # The export merges a norm into the preceding convolution: half of its values vanish.
    stored = count - sum(norm.num_features for norm in norms)
    return StudentFigures(
        parameters=count,
        trained=sum(p.numel() for p in parameters if p.requires_grad),
        macs=counter.get_total_flops() // 2,
        file_bytes=2 * stored,
    )
