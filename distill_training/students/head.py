"""What all students share: how an image enters and how coordinates leave."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

# The logarithm of sigma is kept where exp() stays between 1 mm and 20 m.
LOG_SIGMA_RANGE = (-6.9, 3.0)
# Mean and standard deviation of the colours in [0, 1] of the ImageNet images.
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclass(frozen=True)
class SceneNormalization:
    """Where the place lies: points are learned relative to its mean, in units of its spread."""

    mean: tuple[float, float, float]  # m, map frame
    spread: float  # m, standard deviation of the points per axis


class ImageInput(nn.Module):
    """Turns image_bhw3 uint8 RGB into float (B, 3, H, W) of about unit range."""

    def __init__(self, scale: float = 64, offset: float = 2) -> None:
        """Make one that gives image / scale - offset."""
        super().__init__()
        self._scale, self._offset = scale, offset

    def forward(self, image_bhw3: Tensor) -> Tensor:
        """Return the normalized image; the cast is first: TensorRT takes uint8 into a cast only."""
        return image_bhw3.float().permute(0, 3, 1, 2) / self._scale - self._offset


class ImageNetInput(nn.Module):
    """Likewise, by mean and deviation of each colour, as networks trained on ImageNet expect."""

    scale: Tensor
    offset: Tensor

    def __init__(self) -> None:
        """Make one."""
        super().__init__()
        mean, deviation = (torch.tensor(rgb).view(3, 1, 1) for rgb in _IMAGENET)
        self.register_buffer("scale", 255 * deviation, persistent=False)
        self.register_buffer("offset", mean / deviation, persistent=False)

    def forward(self, image_bhw3: Tensor) -> Tensor:
        """Return the normalized image."""
        return image_bhw3.float().permute(0, 3, 1, 2) / self.scale - self.offset


class CoordinateHead(nn.Module):
    """Turns features of the last layer into points in the map frame and their expected error."""

    def __init__(self, channels: int, frame: SceneNormalization) -> None:
        """Make a head for features of so many channels."""
        super().__init__()
        self.out = nn.Conv2d(channels, 4, 1)
        nn.init.normal_(self.out.weight, std=0.01)
        self.out.bias = nn.Parameter(torch.zeros(4))
        self.register_buffer("mean", torch.tensor(frame.mean))
        self.register_buffer("spread", torch.tensor(frame.spread))

    def scale_sigma(self, scale: float) -> None:
        """Multiply the expected errors from now on."""
        with torch.no_grad():
            self.out.bias[3] += math.log(scale)  # type: ignore[index]

    def forward(self, features_bchw: Tensor) -> tuple[Tensor, Tensor]:
        """Return points_bhw3 (m, map frame) and sigma_bhw (m), always computed in float32.

        Half precision steps by centimetres at a few metres.
        """
        with torch.autocast(features_bchw.device.type, enabled=False):
            out_bhw4 = self.out(features_bchw.float()).permute(0, 2, 3, 1)
            points_bhw3 = out_bhw4[..., :3] * self.spread + self.mean
            sigma_bhw = out_bhw4[..., 3].clamp(*LOG_SIGMA_RANGE).exp()
        return points_bhw3, sigma_bhw
